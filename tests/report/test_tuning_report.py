"""What a search prints, writes and draws: every choice, what is left to do, and no path of the machine."""

import io
import json

import pytest
from rich.console import Console

from bench.analysis.tuning import Search, outcomes
from bench.report.charts import sweeps
from bench.report.charts.canvas import FACET, MANY
from bench.report.charts.sheet import _named, looks
from bench.report.render import markdown, terminal
from bench.report.sections import tuning
from methods import BUILTIN
from tests.factories.trials import GRID, search

METHODS = tuple(name for name in BUILTIN if name in _named())

WIDE = GRID | {"learning_rates": [1e-4, 1e-3, 1e-2, 1e-1]}


def varied(label, task, rates, seed):
    """Full is best at the smallest rate, LoRA inside; the largest rate diverges."""
    if rates[0] == 1e-1:
        return "nan"
    best = 1e-4 if label == "full" else 1e-3
    return 0.9 if rates == (best, 1e-3) else 0.6 + rates[1]


@pytest.fixture
def made(tmp_path):
    return search(tmp_path, varied, tasks=("sst2", "rte"), grid=WIDE)


def printed(made):
    console = Console(width=118, highlight=False, record=True, file=io.StringIO())
    terminal.render(tuning.document(made, outcomes(made), []), console)
    return " ".join(console.export_text().split())


def test_the_screen_says_what_was_chosen_at_how_many_trials_and_what_to_do(made):
    text = printed(made)
    assert "4 rates x 2 head rates, 1 seed" in text
    assert "sst2 · SYNTHETIC data · 8 trials of 60 steps for each method · 256 selection rows of train" in text
    assert "full 0.0001 0.001 90.0 49.1 6 2 lora(rank=8) 0.001 0.001 90.0 49.1 6 2" in text
    assert "full: best at the smallest learning rate: widen the grid" in text
    assert "lora(rank=8): best" not in text
    assert "it is no result" in text


def test_the_page_holds_the_same_choice_for_every_task_and_no_path(made, tmp_path):
    found = outcomes(made)
    page = markdown.render(tuning.document(made, found, sweeps.draw_search(made, found)))
    assert (
        page.count(
            "| full | 0.0001 | 0.001 | 90.0 | 49.1 | 8 | 6 | 2 | best at the smallest learning rate: widen the grid |"
        )
        == 2
    )
    assert page.count("| lora(rank=8) | 0.001 | 0.001 | 90.0 | 49.1 | 8 | 6 | 2 | - |") == 2
    assert "| trials | 1 | 2 | 4 | 8 |" in page
    assert "(plots/expected-maximum.png)" in page
    assert str(tmp_path) not in page


def test_programs_get_the_exact_figures(made):
    found = outcomes(made)
    rows = json.loads(tuning.as_json(made, found, None, []))["outcomes"]
    assert [(row["method"], row["task"]) for row in rows] == [(row.method, row.task) for row in found]
    first = rows[0]
    assert (first["learning_rate"], first["head_learning_rate"], first["score"]) == (1e-4, 1e-3, 0.9)
    assert (first["trials"], first["scored"], first["diverged"]) == (8, 6, 2)
    assert first["expected_maximum"] == list(found[0].curve)
    assert first["edges"] == ["smallest learning_rate"]


def test_the_figure_is_drawn_twice_with_the_same_bytes_and_removed_where_nothing_is_chosen(made):
    found = outcomes(made)
    paths = sweeps.draw_search(made, found)
    assert [path.name for path in paths] == ["expected-maximum.png", "expected-maximum.svg"]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in sweeps.draw_search(made, found)] == first
    assert "without replacement" in paths[1].read_text()
    lost = search(made.folder, lambda *place: "nan")
    assert sweeps.draw_search(lost, outcomes(lost)) == []
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("count", [MANY, MANY + 1, 20])
def test_many_methods_are_drawn_in_groups_each_once_in_its_colour(tmp_path, monkeypatch, count):
    methods = ("full", *METHODS[1:count])
    many = search(tmp_path, lambda *place: 0.7, tasks=("sst2", "rte"), methods=methods)
    figures = []
    monkeypatch.setattr(sweeps.canvas, "save", lambda figure, *place: figures.append(figure) or [])
    sweeps.draw_search(many, outcomes(many))
    (figure,) = figures
    colours = {look.colour for look in looks(methods, "full").values()}
    panels = [[line.get_color() for line in axes.lines] for axes in figure.axes]
    assert all(len(lines) == count for lines in panels)
    coloured = [[colour for colour in lines if colour in colours] for lines in panels]
    assert sorted(colour for lines in coloured for colour in lines) == sorted(2 * list(colours))
    assert max(map(len, coloured)) <= (MANY if count == MANY else FACET)


@pytest.mark.parametrize(
    ("score", "sentence"),
    [
        ("nan", "every trial diverged: add smaller rates to the grid"),
        ("oom", "6 records failed, so nothing is chosen: mend it, then --fresh"),
    ],
)
def test_a_row_without_a_choice_says_why(tmp_path, score, sentence):
    lost = search(tmp_path, lambda label, *place: score if label == "full" else 0.7)
    assert f"full - - - - 0 {'6' if score == 'nan' else '0'} " in printed(lost)
    assert f"full: {sentence}" in printed(lost)
    assert sentence in markdown.render(tuning.document(lost, outcomes(lost), []))


def test_an_interrupted_search_says_what_is_missing(tmp_path):
    whole = search(tmp_path, lambda *place: 0.7)
    assert "12 records" not in printed(whole)
    begun = Search(tmp_path, whole.suite, whole.records[:5])
    assert "3 records missing: the same command resumes" in printed(begun)
    assert "6 records missing" in printed(Search(tmp_path, whole.suite, ()))


def test_hostile_names_break_neither_screen_nor_page_nor_figure(tmp_path):
    label = "peft(path='<b>|a\x1b[31m_x_')"
    odd = search(tmp_path, lambda *place: 0.7, methods=("full", label))
    found = outcomes(odd)
    assert len(sweeps.draw_search(odd, found)) == 2
    page = markdown.render(tuning.document(odd, found, []))
    assert "<b>" not in page
    assert "\x1b" not in page + printed(odd)

"""Figures of published runs: nothing covers, nothing is cut off, one method looks the same everywhere."""

import functools
from pathlib import Path

import pytest
from matplotlib.transforms import Bbox

from bench.analysis.results import Results
from bench.analysis.tuning import change_in
from bench.report.charts import catalogue as plots
from bench.report.charts import scores
from bench.report.charts.canvas import SMALL, WIDTH, styled
from bench.report.charts.sheet import SHADES, Sheet, looks, shade
from bench.store.store import read_run
from tests.factories.figures import named, overlapping, shown_looks, tangles, texts, written

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
RUNS = (
    "against-peft", "embedding", "forgetting", "glue-real-minilm", "lm-small", "lora-init", "rank-sweep", "scaling",
    "score-over-cost", "update-directions", "why-latency", "why-latency-decoder",
)  # fmt: skip
"""Together they have every figure of the catalogue, and most methods, configurations and tasks."""


@functools.cache
def drawn(name):
    """Sheet and figures of a published run by their names, each drawn once a session."""
    run = read_run(PUBLISHED / name)
    trials = PUBLISHED / "tuning" / name
    sheet = Sheet(Results(run), change_in(trials, Results(run)) if trials.is_dir() else None)
    with styled():
        made = {plot.name: plot.make(sheet) for plot in plots.PLOTS}
    return sheet, {title: figure for title, figure in made.items() if figure is not None}


def test_boxes_overlap_where_they_share_more_than_their_edges():
    boxes = [Bbox([[0, 0], [10, 10]]), Bbox([[9, 9], [20, 20]]), Bbox([[5, 5], [8, 40]]), Bbox([[15, 30], [20, 40]])]
    assert overlapping(boxes) == [[0, 2]]


@pytest.mark.parametrize("name", RUNS)
def test_a_published_run_is_drawn_legibly(name):
    sheet, figures = drawn(name)
    for title, figure in figures.items():
        shown = written(figure)
        covered = [(shown[one][0], shown[other][0]) for one, other in overlapping([box for _, box, _ in shown])]
        assert not covered, (title, covered)
        cut = [text for text, box, _ in shown if min(box.min) < 0 or (box.max > figure.bbox.max).any()]
        assert not cut, (title, cut)
        assert min(size for *_, size in shown) >= SMALL, title
        for label, look in shown_looks(figure).items():
            wanted = {look.text: look for look in sheet.looks.values()}.get(label)
            assert wanted is None or look == (wanted.colour, wanted.marker), (title, label)
        on_scores = [axes for axes in figure.axes if "score" in axes.get_xlabel() + axes.get_ylabel()]
        badges = texts(figure)
        assert not on_scores or any(text.partition(" ")[0] == "scored" for text in badges), title
        for axes in on_scores:
            limits = axes.get_xlim() if "score" in axes.get_xlabel() else axes.get_ylim()
            assert limits[1] <= 100, title


SCORED = sorted(path.parent.name for path in PUBLISHED.glob("*/predictions.parquet"))


@pytest.mark.parametrize("name", SCORED)
def test_no_point_of_a_published_run_can_be_taken_for_another_method_s(name):
    sheet, figures = drawn(name)
    found = {title: figure for title, figure in figures.items() if title in scores.COSTS}
    costed = {r.method.label for r in sheet.results.cost_records if r.status == "ok"}  # the others may have no place
    assert found
    for title, figure in found.items():
        shown = [text for axes in figure.axes for text in named(axes)]
        every = {label: sheet.looks[label].text for label in sheet.results.scored}
        assert {every[label] for label in every if label in costed} <= {*shown} <= {*every.values()}, title
        for axes in figure.axes:
            assert list(tangles(figure, axes)) == [], title


def test_the_smallest_type_is_nine_pixels_where_a_figure_is_shown_as_large_as_it_is_drawn():
    assert SMALL / 72 * 96 >= 9
    assert WIDTH * 96 < 1280


def test_every_figure_of_the_catalogue_is_among_the_published_ones():
    later = {"traffic"}  # tested on records made for that
    assert {title for name in RUNS for title in drawn(name)[1]} | later == {plot.name for plot in plots.PLOTS}


def test_a_method_has_one_colour_and_marker_in_all_published_runs():
    seen = {}
    for name in RUNS:
        run = read_run(PUBLISHED / name)
        for label, look in looks(list(run.suite.methods), run.suite.baseline).items():
            seen.setdefault(label.partition("(")[0], set()).add((look.colour, look.marker))
    for method, pairs in seen.items():
        plain = looks([method], "")[method]
        assert pairs <= {(shade(plain.colour, share), plain.marker) for share in SHADES}, method

"""The first gradients and losses stand in table, page, figure and export, and an exact zero is never hidden."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.report.charts import catalogue as plots
from bench.report.charts.canvas import styled
from bench.report.charts.scores import gradient_norms
from bench.report.charts.sheet import Sheet, looks
from bench.report.sections import scores
from bench.store.store import Run
from tests.factories import reports
from tests.factories.figures import texts
from tests.factories.records import failed, glue_small, results, score, suite

NORMS = {
    # label: part -> norms by step, the same for each seed but for a factor
    "lora(rank=8)": {"A": [0.0, 0.002, 0.02], "B": [0.3, 0.2, 0.1]},
    "never": {"A": [0.0, 0.0, 0.0], "B": [0.0, 0.0, 0.0]},
    "bitfit": {"delta": [1.0, 2.0, 4.0]},
    "head": {},
}
LOSSES = {"lora(rank=8)": 0.7, "never": 0.7, "bitfit": 0.7 + 1e-7, "head": 0.69}


def run_of(folder, norms=NORMS, tasks=("sst2",), seeds=(0, 1), **changes):
    """A run whose gradients were noted, twice as large at seed 1; each seed starts from a loss of its own."""
    scored = [
        score(label, task, seed, source="hub", losses=[LOSSES[label] + seed / 10, 0.5],
              gradient_norms={part: [(1 + seed) * norm for norm in found] for part, found in parts.items()})
        for label, parts in norms.items() for task in tasks for seed in seeds
    ]  # fmt: skip
    asked = suite(methods=list(norms), baseline="lora(rank=8)", tasks=list(tasks), seeds=list(seeds),
                  data={"kind": "hub"})  # fmt: skip
    return replace(Run.of(folder, asked, tuple(scored)), **changes)


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path)


def table(run):
    return reports.parts(scores.gradients(Results(run)))


def drawn(run):
    with styled():
        return gradient_norms(Sheet(Results(run)))


def test_norms_are_means_over_seeds_with_the_smallest_and_the_largest(run):
    table = Results(run).gradient_table
    assert tuple(table.loc["lora(rank=8)", "sst2", "B", 1]) == pytest.approx((2, 0.45, 0.3, 0.6))
    assert list(table.index.unique("method")) == ["lora(rank=8)", "never", "bitfit"]
    assert list(table.loc["lora(rank=8)"].index.unique("part")) == ["A", "B"]
    first = ["bitfit", *(label for label in run.suite.methods if label != "bitfit")]
    reordered = replace(run, suite=run.suite.changed(methods=first))
    assert Results(reordered).gradient_table.index[0][0] == "bitfit"


def test_a_loss_is_held_against_the_baselines_of_the_same_seed(run):
    table = Results(run).start_table.xs("sst2", level="task")
    assert list(table["loss"]) == pytest.approx([0.75, 0.75, 0.75, 0.74], abs=1e-6)
    assert list(table["apart"]) == [0, 0, pytest.approx(1e-7), pytest.approx(0.01)]
    alone = [record for record in run.records if record.method.label == "head"]
    assert math.isnan(results(alone, baseline="lora(rank=8)").start_table.loc[("head", "sst2"), "apart"])


def test_cells_that_failed_and_data_that_differ_are_not_pooled(run):
    broken = [failed(r) if r.seed == 1 and r.method.label == "bitfit" else r for r in run.records]
    assert results(broken).gradient_table.loc[("bitfit", "sst2", "delta", 3), "n"] == 1
    task = run.records[0].task.model_copy(update={"content_sha256": "other"})
    other = [run.records[0].model_copy(update={"task": task}), *run.records[1:]]
    for table in ("gradient_table", "start_table"):
        with pytest.raises(BenchError, match="scores on different data"):
            getattr(results(other, baseline="lora(rank=8)"), table)


def test_the_reports_show_each_part_at_its_first_steps_and_name_the_zeros(run):
    text, page = reports.markdown(run), reports.page(run)
    assert "## Gradients of the first steps\n" in text
    assert "| method | task | part | step 1 | step 2 | step 3 | loss at step 0 | apart from lora(rank=8) |" in text
    assert "| lora(rank=8) | sst2 | A | 0 | 0.003 | 0.03 | 0.7500 | baseline |" in text
    assert "| never | sst2 | B | 0 | 0 | 0 | 0.7500 | 0 |" in text
    assert "| bitfit | sst2 | delta | 1.5 | 3 | 6 | 0.7500 | 1e-07 |" in text
    assert "| head | sst2 | - | - | - | - | 0.7400 | 0.01 |" in text
    assert "No gradient at any step: A and B of never. None at step 1 alone: A of lora(rank=8)." in text
    assert '<section id="gradients"' in page
    assert "No gradient at any step: A and B of never." in page


def test_long_series_are_shown_at_their_first_steps_and_their_last(tmp_path):
    _, head, rows = table(run_of(tmp_path, {"bitfit": {"delta": list(range(1, 21))}}))
    assert head[3:7] == ["step 1", "step 2", "step 5", "step 20"]
    assert rows[0][3:7] == ["1.5", "3", "7.5", "30"]


def test_a_gradient_that_is_zero_in_one_seed_alone_is_not_called_zero(tmp_path):
    part = run_of(tmp_path, {"bitfit": {"delta": [0.0, 1.0]}})
    first = part.records[0].model_copy(update={"gradient_norms": {"delta": (1e-9, 1.0)}})
    sentences, _, rows = table(replace(part, records=(first, *part.records[1:])))
    assert "None at step 1 alone" in " ".join(table(part)[0])
    assert "None at step 1" not in " ".join(sentences)
    assert rows[0][3] == "5e-10"


def test_each_part_has_its_panel_and_an_exact_zero_lies_on_the_line_that_says_zero(run):
    figure = drawn(run)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["part A", "part B", "part delta"]
    part_a = figure.axes[0]
    ticks = dict(zip([t.get_text() for t in part_a.get_yticklabels()], part_a.get_yticks(), strict=True))
    lines = {line.get_color(): line.get_ydata() for line in part_a.lines if len(line.get_xdata()) == 3}
    assert len(lines) == 2
    baseline = lines.pop(looks(["lora(rank=8)"], "")["lora(rank=8)"].colour)
    assert baseline[0] == ticks["0"] and list(baseline[1:]) == pytest.approx([0.003, 0.03])
    (never,) = lines.values()
    assert list(never) == [ticks["0"]] * 3
    assert ticks["0"] < min(value for name, value in ticks.items() if name != "0")
    assert ticks["0"] > part_a.get_ylim()[0]
    assert "no gradient at any step: never" in texts(figure)
    assert "exactly 0, in every seed" in " ".join(texts(figure)).replace("\n", " ")


def test_without_zeros_the_figure_has_no_place_for_them(tmp_path):
    figure = drawn(run_of(tmp_path, {"bitfit": {"delta": [1.0, 2.0]}}))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["1"]
    assert "exactly 0" not in " ".join(texts(figure))


def test_every_gradient_at_zero_is_still_a_figure(tmp_path):
    figure = drawn(run_of(tmp_path, {"never": NORMS["never"]}))
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert np.unique(line.get_ydata()).size == 1
    assert "0" in [t.get_text() for t in figure.axes[0].get_yticklabels()]


def test_several_tasks_have_panels_of_their_own(tmp_path):
    figure = drawn(run_of(tmp_path, {"lora(rank=8)": NORMS["lora(rank=8)"]}, tasks=("sst2", "mrpc")))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["part A, sst2", "part B, sst2", "part A, mrpc", "part B, mrpc"]


def test_the_export_has_a_row_for_each_part_and_step(run):
    table = Results(run).figures
    rows = table[table["kind"] == "gradient"].set_index(["method", "part", "training_steps"])
    assert rows.loc[("lora(rank=8)", "B", 1), "gradient_norm_mean"] == pytest.approx(0.45)
    assert rows.loc[("never", "A", 3), "gradient_norm_largest"] == 0
    assert rows.loc[("bitfit", "delta", 2), "loss_at_step_0"] == pytest.approx(0.75)
    assert len(rows) == 3 * 5


@pytest.mark.usefixtures("svg_alone")
def test_without_noted_gradients_there_is_neither_section_nor_figure_nor_row(tmp_path):
    plain = glue_small(tmp_path, labels=["full", "ia3"])
    assert table(plain) == ([], [], [])
    assert drawn(plain) is None
    assert "gradient-norms" not in {path.stem for path in plots.draw(plain)}
    assert scores.GRADIENTS not in reports.markdown(plain)
    assert "gradient" not in set(Results(plain).figures["kind"])

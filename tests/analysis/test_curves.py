"""Scores on the way stand against what was spent, and the cost to come near the baseline is no less than it was."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.curves import solved
from bench.analysis.results import Results
from bench.report.charts.canvas import styled
from bench.report.charts.curves import cost_to_reach, score_on_the_way, training_loss
from bench.report.charts.sheet import Sheet
from bench.report.sections import scores as sections
from bench.schema.record import CurvePoint
from bench.store.store import Run
from tests.factories import records, reports
from tests.factories.records import cost, glue_small, results, score, suite

FIXED, ROW, TOKEN, SQUARE = 5_000, 70, 400, 3
"""FLOPs of an invented method: once a pass, per row, per token, per squared length."""


def work(batch, length, fixed=FIXED):
    return fixed + batch * (ROW + TOKEN * length + SQUARE * length**2)


def counts(label, lengths=(8, 16, 32, 64), batch=16, batches=()):
    """Counts of a sweep over length, and of one over batch at length 32."""
    found = [records.count(label, batch, length, work(batch, length)) for length in lengths]
    return found + [records.count(label, rows, 32, work(rows, 32), vary="batch") for rows in batches]


def run_of(folder, readings, *, extra=(), seeds=None, flags=None, **curve):
    """A run whose cells were read on the way: ``readings[label][seed]`` are scores in points, the last is final."""
    scored = [
        score(label, "sst2", seed, source="hub", score=points[-1] / 100, curve=records.curve(*points, **curve),
              flags=(flags or {}).get(label, []))
        for label, found in readings.items() for seed, points in enumerate(found)
    ]  # fmt: skip
    seeds = list(range(max(map(len, readings.values()))))
    asked = suite(methods=list(readings), tasks=["sst2"], seeds=seeds, data={"kind": "hub"})
    return Run.of(folder, asked, (*extra, *scored))


READINGS = {
    "full": [[60, 70, 80, 80], [60, 72, 78, 80], [60, 74, 80, 80]],
    "ia3": [[50, 60, 70, 79.5], [50, 60, 79.3, 79], [50, 60, 70, 75]],
    "head": [[50, 52, 54, 55]] * 3,
}
"""full ends at 80, so 79.2 is near it: full comes there at the third reading, but for one seed; ia3 in two of three."""


def reached(run):
    return Results(run).reached


def test_the_flops_of_any_batches_are_those_of_counts_at_three_lengths_to_the_last_one():
    found = solved({(16, length): work(16, length) for length in (8, 16, 64)})
    assert (found.batch, found.checks) == (16, 0)
    lengths = [7, 9, 33, 120]
    point = CurvePoint(step=4, seconds=1, score=0, loss=0, rows=64, tokens=16 * sum(lengths),
                       token_squares=16 * sum(length**2 for length in lengths))  # fmt: skip
    assert found.flops(point, passes=4) == sum(work(16, length) for length in lengths)


def test_another_number_of_rows_needs_counts_at_another_batch():
    point = CurvePoint(step=1, seconds=1, score=0, loss=0, rows=3, tokens=3 * 10, token_squares=3 * 100)
    one = {(16, length): work(16, length) for length in (8, 16, 64)}
    assert math.isnan(solved(one).flops(point, passes=1))
    both = solved(one | {(4, 32): work(4, 32)})
    assert (both.fixed, both.per_row, both.batch) == (FIXED, ROW, None)
    assert both.flops(point, passes=1) == work(3, 10)


@given(*[st.integers(0, 10**12)] * 4, st.integers(1, 64))
def test_every_polynomial_is_solved_exactly_and_checked_by_what_is_left(fixed, row, token, square, batch):
    def flops(rows, length):
        return fixed + rows * (row + token * length + square * length**2)

    counted = {(batch, length): flops(batch, length) for length in (3, 16, 100, 128)}
    counted |= {(rows, 40): flops(rows, 40) for rows in (batch + 1, batch + 9)}
    found = solved(counted)
    assert (found.fixed, found.per_row, found.per_token, found.per_square) == (fixed, row, token, square)
    assert found.checks == 2
    assert all(isinstance(value, Fraction) for value in (found.fixed, found.per_row))


def test_two_lengths_or_a_fourth_off_the_polynomial_give_no_flops():
    assert solved({(16, 8): 10, (16, 16): 20}) is None
    assert solved({}) is None
    counted = {(16, length): work(16, length) for length in (8, 16, 32, 64)}
    assert solved(counted) is not None
    assert solved(counted | {(16, 16): counted[16, 16] + 1}) is None


def test_only_counts_of_the_scored_methods_on_their_own_backbone_are_used():
    scored = [score("ia3", "sst2", 0)]
    assert set(results([*scored, *counts("ia3"), *counts("bitfit")]).training_flops) == {"ia3"}
    other = [r.model_copy(update={"backbone": r.backbone.model_copy(update={"parameters": 7})}) for r in counts("ia3")]
    assert results([*scored, *other]).training_flops == {}
    eager = [r.model_copy(update={"shape": r.shape.model_copy(update={"attention": "eager"})}) for r in counts("ia3")]
    assert results([*scored, *eager]).training_flops == {}
    text = {"objective": "text", "loss": "full"}
    told = [r.model_copy(update={"shape": r.shape.model_copy(update=text)}) for r in counts("ia3")]
    assert results([*scored, *told]).training_flops == {}


def test_a_curve_is_the_mean_over_seeds_with_its_interval(tmp_path):
    run = run_of(tmp_path, READINGS, extra=counts("full"))
    table = Results(run).curve_table
    assert list(table.index.unique("method")) == ["full", "ia3", "head"]
    row = table.loc["full", "sst2", 30]
    assert (row["n"], row["seconds"], row["score"]) == (3, 3.0, 72)
    assert row["low"] < 72 < row["high"]
    assert row["flops"] == 30 * work(16, 24)
    assert math.isnan(table.loc["ia3", "sst2", 30]["flops"])  # no sweep counts it


def test_each_seed_reaches_the_score_at_its_first_reading_there(tmp_path):
    cells = reached(run_of(tmp_path, READINGS, extra=counts("ia3"))).cells.set_index(["method", "seed"])
    assert cells["target"].unique() == pytest.approx([79.2])
    assert list(cells.loc["full", "step"]) == [45, 60, 45]
    assert list(cells.loc["ia3", "step"].iloc[:2]) == [60, 45]
    assert math.isnan(cells.loc["ia3", "step"].iloc[2])
    assert cells.loc[("ia3", 1), "seconds"] == 4.5
    assert cells.loc[("ia3", 1), "flops"] == 45 * work(16, 24)


def test_a_seed_that_never_came_there_counts_as_longer_than_any_other(tmp_path):
    table = reached(run_of(tmp_path, READINGS, extra=[*counts("ia3"), cost("ia3")])).table.xs("sst2", level="task")
    assert list(table["reached"]) == [3, 2, 0]
    assert (table.loc["full", "step"], table.loc["ia3", "step"]) == (45, 60)
    assert math.isnan(table.loc["head", "step"])
    assert table.loc["ia3", "flops"] == 60 * work(16, 24)
    assert math.isnan(table.loc["full", "flops"])
    assert table.loc["ia3", "peak_bytes"] == 300_000_000
    half = {"full": READINGS["full"][:2], "ia3": [READINGS["ia3"][0], READINGS["ia3"][2]]}
    assert math.isnan(reached(run_of(tmp_path, half)).table.loc[("ia3", "sst2"), "step"])  # one of two: no median


def test_accumulated_parts_of_a_step_are_passes_of_their_own(tmp_path):
    run = run_of(tmp_path, {"full": READINGS["full"]}, extra=counts("full", batch=4), batch=16)
    parts = tuple(
        r.model_copy(update={"recipe": r.recipe | {"gradient_accumulation": 4}}) if r.kind == "score" else r
        for r in run.records
    )
    assert math.isnan(Results(run).curve_table.loc["full", "sst2", 60]["flops"])
    assert results(parts).curve_table.loc["full", "sst2", 60]["flops"] == 60 * 4 * work(4, 24)


def test_without_a_baseline_above_zero_or_with_flags_there_is_no_verdict(tmp_path):
    flags = {"full": ["did_not_learn"], "ia3": ["still_improving"]}
    table = reached(run_of(tmp_path, READINGS, flags=flags)).table
    assert table.loc[("ia3", "sst2"), "why"] == ("3 seeds", "still improving", "full did not learn")
    assert table.loc[("full", "sst2"), "why"] == ("3 seeds", "did not learn")
    below = run_of(tmp_path, {"full": [[-5.0, -1.0]], "ia3": [[1.0, 2.0]]})
    assert reached(below).table["target"].isna().all()
    assert reached(below).table["reached"].sum() == 0


def test_the_reports_say_who_came_there_and_where_flops_come_from(tmp_path):
    extra = [*counts("full"), *counts("ia3"), cost("full"), cost("ia3")]
    run = run_of(tmp_path, READINGS, extra=extra)
    text, page = reports.markdown(run), reports.page(run)
    assert "## Cost to reach 99 % of full's score" in text
    flops = f"{60 * work(16, 24) / 1e6:.1f} M"
    assert f"| ia3 | sst2 | 79.2 | 2 of 3 seeds | 60 | 6.0 s | {flops} | 300 MB | 3 seeds (5 needed) |" in text
    assert "| head | sst2 | 79.2 | 0 of 3 seeds | - | - | - | - | 3 seeds (5 needed) |" in text
    assert "1 a method or more, agree to the last FLOP. Not counted: head." in text
    assert '<section id="reach"' in page and "2 of 3 seeds" in page
    assert "No FLOPs: no sweep of this run" in " ".join(
        reports.parts(sections.reach(Results(run_of(tmp_path, READINGS))))[0]
    )


def test_where_no_step_ran_memory_is_the_predicted_peak_and_called_so(tmp_path):
    peak = {"forward": 1, "backward": 2, "optimizer": 1, "step": 200_000_000}
    counted = cost("ia3", peak_memory_bytes=None, peak_memory_source=None, predicted_peak_memory_bytes=peak)
    run = run_of(tmp_path, READINGS, extra=[counted])
    assert reached(run).table.loc[("ia3", "sst2"), "peak_bytes"] == 200_000_000
    text = reports.markdown(run)
    assert "| predicted peak memory | no verdict because |" in text and "| 200 MB | 3 seeds (5 needed) |" in text


def test_without_readings_there_is_neither_section_nor_figure(tmp_path):
    run = glue_small(tmp_path, labels=["full", "ia3"])
    assert sections.reach(Results(run)) is None
    assert Results(run).curve_table.empty and reached(run).table.empty
    for name in ("score-steps", "score-seconds", "score-flops"):
        assert score_on_the_way(Sheet(Results(run)), name) is None
    assert cost_to_reach(Sheet(Results(run))) is None


def drawn(run, name):
    with styled():
        return score_on_the_way(Sheet(Results(run)), name)


def test_curves_are_drawn_over_steps_and_seconds_and_over_flops_where_they_are_counted(tmp_path):
    run = run_of(tmp_path, READINGS, extra=counts("ia3"))
    steps = drawn(run, "score-steps").axes[0]
    lines = {line.get_color(): line for line in steps.lines if len(line.get_xdata()) == 4}
    assert len(lines) == 3
    assert list(lines["#000000"].get_xdata()) == [15, 30, 45, 60]
    assert list(lines["#000000"].get_ydata()) == pytest.approx([60, 72, 238 / 3, 80])
    assert list(drawn(run, "score-seconds").axes[0].lines[0].get_xdata()) == [1.5, 3.0, 4.5, 6.0]
    flops = drawn(run, "score-flops")
    assert len([line for line in flops.axes[0].lines if len(line.get_xdata()) == 4]) == 1
    assert "Not counted, so not shown: full, head." in " ".join(t.get_text().replace("\n", " ") for t in flops.texts)
    assert drawn(run_of(tmp_path, READINGS), "score-flops") is None


def test_the_figure_of_what_was_spent_marks_medians_and_single_seeds(tmp_path):
    run = run_of(tmp_path, READINGS, extra=[*counts("ia3"), cost("full"), cost("ia3"), cost("head")])
    with styled():
        figure = cost_to_reach(Sheet(Results(run)))
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "steps", "training time (s)", "training FLOPs (MFLOP)", "peak memory (MB)",
    ]  # fmt: skip
    marks = [line for line in figure.axes[0].lines if line.get_clip_on() and line.get_zorder() == 4]
    assert sorted(line.get_xdata()[0] for line in marks) == [45, 60]
    assert {"3/3", "2/3", "0/3"} <= {text.get_text() for text in figure.axes[-1].texts}
    nothing = {"full": READINGS["full"][:1], "head": READINGS["head"][:1]}
    far = run_of(tmp_path, nothing)
    low = replace(far, records=tuple(r for r in far.records if r.method.label == "head"))
    with styled():
        assert cost_to_reach(Sheet(Results(low))) is None


def test_the_loss_no_longer_says_that_no_curve_was_recorded(tmp_path):
    with styled():
        figure = training_loss(Sheet(Results(run_of(tmp_path, READINGS))))
    said = " ".join(text.get_text() for text in figure.texts)
    assert "Training loss over the steps" in said
    assert "no curve of scores" not in said and "taken once" not in said

"""Prints a run as plain columns that also stand when piped; writes no file and cuts no cell."""

from pathlib import Path

import pandas as pd
from rich.cells import cell_len
from rich.console import Console

from bench import analysis as compare
from bench.analysis.tuned import RateChange
from bench.report import format as fmt
from bench.report.render.columns import Column, say, table, width_of
from bench.report.sections import fronts, scaling, tuned, verdicts
from bench.report.sections import overview as facts
from bench.store.store import Run

SHOWN_FAILURES = 12


def render(run: Run, console: Console, *, top: int | None = None, change: RateChange | None = None) -> None:
    """Print what a run says so far.

    Args:
        run: The run, finished or not.
        console: Where to print; without a terminal the text is 118 wide and bare of colours.
        top: Number of methods to show, in the order of the suite; None: all.
        change: What a search for learning rates changed, where the reader gave one.
    """
    width = width_of(console)
    say(console, facts.header(run), width, style="bold")
    _preamble(run, console, width)
    shown = facts.labels(run)[:top]
    columns = _columns(run, shown)
    if columns:
        for line in table(shown, columns, width):
            say(console, line)
        hidden = len(facts.labels(run)) - len(shown)
        for note in _notes(run, shown, hidden):
            say(console, f"  {note}", width, style="dim", hanging=4)
    scaling.render(run, console, width)
    standing = {"front": fronts.line(run), "best": fronts.best(run)}
    if change is not None:
        standing["tuned"] = f"{tuned.TITLE}: {tuned.summary(change)}"
    if any(standing.values()):
        say(console, "")
    for name, sentence in standing.items():
        if sentence is not None:
            say(console, f"{name:<8}{sentence}", width, hanging=8)
    _verdict(run, console, width)
    _failures(run, console, width)
    written = (run.folder / "report.md").exists()  # report.html comes with it; published runs leave it to be made
    missing = f"not written yet: python -m bench report {_near(run.folder)}"
    say(console, f"report  {_near(run.folder / 'report.html') if written else missing}")


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _preamble(run: Run, console: Console, width: int) -> None:
    if (data := facts.data(run)) is not None:
        say(console, f"data    {data}", width, style="yellow" if facts.is_synthetic(run) else "", hanging=8)
    if (rates := facts.rates(run)) is not None:
        say(console, f"rates   {rates}", width, style="yellow" if facts.unequal_search(run) else "", hanging=8)
    for name, line in facts.progress(run).items():
        say(console, f"{name:<8}{line}", width, style="red" if "FAILED" in line else "", hanging=8)
    if (control := facts.control(run)) is not None:
        say(console, f"noise   {control}", width, style="yellow" if "NOT quiet" in control else "", hanging=8)
    for shape in compare.cost_shapes(run.records)[:1]:
        say(console, f"shape   {facts.shape_line(shape)}", width, hanging=8)
    say(console, "")


def _columns(run: Run, shown: list[str]) -> list[Column]:
    """Columns of figures, those of a part that was not asked for left out."""
    costs = compare.cost_table(run.records, facts.labels(run)).loc[shown]
    scores = compare.score_table(run.records, run.suite.baseline, facts.labels(run)).loc[shown]
    has_costs, has_scores = bool(compare.cost_records(run.records)), bool(facts.score_records(run))
    columns = []
    if has_costs or has_scores:
        trained = costs["trainable_method"].fillna(scores["trainable_method"].astype(float))
        stored = costs["delta_bytes"].fillna(scores["delta_bytes"].astype(float))
        columns.append(Column(("", "trained", "- head"), [fmt.count(value) for value in trained]))
        columns.append(Column(("", "stored", "per task"), [fmt.size(value) for value in stored]))
    if has_costs:
        columns += _cost_columns(costs, run.suite.baseline)
    if has_scores:
        columns += _score_columns(scores, run.suite.baseline, facts.is_synthetic(run))
    return columns


def _cost_columns(costs: pd.DataFrame, baseline: str) -> list[Column]:
    rows = [row for _, row in costs.iterrows()]
    over = _short(baseline)
    if costs[["step_ratio", "unmerged_batch_1_ratio", "peak_step_bytes"]].isna().all(axis=None):
        same = {True: "=", False: "differs"}
        return [
            Column(("", "backward", f"/{over}"), [fmt.ratio(r["flops_backward_ratio"]) for r in rows]),
            Column(("", "peak mem", "(predicted)"), [fmt.size(r["predicted_step_bytes"]) for r in rows]),
            Column(("", "saved for", "backward"), [fmt.size(r["saved_activations_bytes"]) for r in rows]),
            Column(("", "merged", "is base"), [same.get(r["merged_is_base"], fmt.MISSING) for r in rows]),
        ]
    gpu = "cuda_allocated" in set(costs["peak_memory_source"])
    timed = [fmt.ratio_plus_minus(r["backward_ratio"], r["backward_low"], r["backward_high"]) for r in rows]
    merged = [fmt.ratio(r["merged_batch_1_ratio"]) + (" =" if r["merged_is_base"] is True else "  ") for r in rows]
    return [
        Column(("backward / " + over, "counted", ""), [fmt.ratio(r["flops_backward_ratio"]) for r in rows]),
        Column(("backward / " + over, "timed", "95 %"), timed),
        Column(("", "step", f"/{over}"), [fmt.ratio(r["step_ratio"]) for r in rows]),
        Column(("", "peak GPU" if gpu else "peak mem", "memory" if gpu else "(counted)"),
               [fmt.size(r["peak_step_bytes"]) for r in rows]),
        Column(("latency b=1", "as is", ""), [fmt.ratio(r["unmerged_batch_1_ratio"]) for r in rows]),
        Column(("latency b=1", "merged", ""), merged),
    ]  # fmt: skip


def _short(baseline: str) -> str:
    return fmt.plain(baseline) if cell_len(baseline) <= 6 else "base"


def _score_columns(scores: pd.DataFrame, baseline: str, synthetic: bool) -> list[Column]:
    differences = []
    for label, row in scores.iterrows():
        marks = "".join(mark for flag, mark in facts.FLAG_MARKS.items() if flag in row["flags"])
        shown = "baseline" if label == baseline else fmt.difference(row["difference"], row["low"], row["high"])
        differences.append(f"{shown} {marks}".rstrip())
    title = "score (synthetic)" if synthetic else "score"
    return [
        Column((title, "mean", ""), [fmt.points(value) for value in scores["mean"]]),
        Column((title, f"- {_short(baseline)}", "95 %"), differences, left=True),
    ]


def _notes(run: Run, shown: list[str], hidden: int) -> list[str]:
    """Lines below the table that say what its signs mean."""
    costs = compare.cost_table(run.records, facts.labels(run)).loc[shown]
    scores = compare.score_table(run.records, run.suite.baseline, facts.labels(run)).loc[shown]
    notes = [f"{hidden} more in the report"] if hidden else []
    if (costs["merged_is_base"] == True).any():  # noqa: E712 - a column of None, True and False
        notes.append("= operations identical to the base model: no added latency, exactly")
    flags = {flag for found in scores["flags"] for flag in found}
    notes += [f"{mark} {facts.FLAG_MEANING[flag]}" for flag, mark in facts.FLAG_MARKS.items() if flag in flags]
    short = scores[(scores["n"] > 0) & (scores["dropped"] > 0)]
    notes += [f"{fmt.plain(label)}: compared on {row['n_pairs']} pairs, {row['dropped']} without a partner left out"
              for label, row in short.iterrows()]  # fmt: skip
    if compare.cost_records(run.records):
        notes.append("- not measured, or the method cannot do it; counted: exact on any machine; timed: this machine")
    if (floor := facts.floor(run)) is not None:
        notes.append(floor)
    return notes + facts.contamination(run)


def _verdict(run: Run, console: Console, width: int) -> None:
    judged, sentence = verdicts.lines(run), facts.no_verdict(run)
    if judged or sentence:
        say(console, "")
    for verdict, line in judged:
        say(console, f"{verdicts.MARKS[verdict]}  {line}", width, style=verdicts.STYLES[verdict], hanging=6)
    if sentence is not None:
        say(console, f"  ?     scores: {sentence}", width, style="yellow", hanging=8)


def _failures(run: Run, console: Console, width: int) -> None:
    failed = compare.failures(run.records)
    if failed.empty:
        return
    say(console, "")
    say(console, f"{fmt.plural(len(failed), 'record')} not ok", style="red")
    for _, row in failed.head(SHOWN_FAILURES).iterrows():
        cell = "cost" if row["kind"] == "cost" else row["task"]
        cell += f", seed {row['seed']}" if row["kind"] == "score" else ""
        reason = row["reason"] or "no reason was recorded"
        say(console, fmt.plain(f"{row['status']}: {row['method']}, {cell}: {reason}"), width)
    if len(failed) > SHOWN_FAILURES:
        say(console, f"{len(failed) - SHOWN_FAILURES} more in the report")

"""Answers a run's question in three sentences at most, each with how far it holds; judges nothing itself."""

import re
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.report.sections import scaling
from bench.report.sections.verdicts import Told
from bench.store.store import Run

MOST = 3
NO_VERDICT = "no verdict: "
HOW_OF = {
    "flops": "FLOPs", "trainable_parameters": "trained", "delta_bytes": "stored per task",
    "bytes": "saved activations", "peak_memory_bytes": "peak memory (counted)",
    "predicted_peak_memory_bytes": "predicted peak", "latency_seconds": "latency", "merged_equals_base": "latency",
    "switch_seconds": "switch", "score": "difference",
}  # fmt: skip
"""First part of a figure's dotted name -> the row that says how it is measured; other figures are times."""


@dataclass(frozen=True)
class Answer:
    """One sentence of the answer."""

    text: str
    kind: Literal["exact", "bound", "open"]
    """Exact on any machine, bound to this machine or data, or without a verdict."""
    tag: str
    """``exact, any machine``, ``this machine: ...`` or ``no verdict: ...``."""
    how: str
    """Anchor of the row that explains the figure."""


def anchor(figure: str) -> str:
    """``how-ratio-interval`` of ``ratio interval``."""
    return "how-" + re.sub(r"[^a-z0-9]+", "-", figure.lower()).strip("-")


def how_of(metric: str) -> str:
    """Anchor of the row that says how a figure is measured."""
    return anchor(HOW_OF.get(metric.partition(".")[0], "times"))


def answers(run: Run, told: list[Told]) -> list[Answer]:
    """The answer to the suite's question.

    One sentence a kind (exact, timed, score): its first claim, the decided before the open and a comparison before a
    figure that stands alone, with the next one about another method; a kind without a claim gets one from the tables.

    Args:
        run: Finished or not.
        told: Its claims in words, from `bench.report.sections.verdicts.tell`.
    """
    if not run.records:
        return [Answer("Nothing was measured here yet.", "open", "no verdict: no record", anchor("times"))]
    grown = [Answer(text, "exact", "exact, any machine", anchor("grows as")) for text in scaling.sentences(run)]
    own = [_claimed(run, told, "exact") or _exact(run), *grown]
    own += [_claimed(run, told, "timed") or _timed(run), _claimed(run, told, "score") or _scored(run)]
    found = [answer for answer in own if answer is not None]
    return found[:MOST] or [
        Answer("No record holds a figure.", "open", "no verdict: nothing succeeded", anchor("times"))
    ]


def _kind(told: Told) -> str:
    return {"exact, any machine": "exact", "this machine": "timed"}.get(told.reach, "score")


def _claimed(run: Run, told: list[Told], kind: str) -> Answer | None:
    asked = [claim for claim in told if _kind(claim) == kind]
    if not asked:
        return None
    ranked = sorted(asked, key=lambda claim: (bool(claim.why), not claim.figures.endswith((" x", "]"))))
    first = claimed(run, ranked[0])
    other = next((claim for claim in ranked if _goes_with(ranked[0], claim)), None)
    if other is None:
        return first
    second = claimed(run, other)
    tag = first.tag if first.kind != "open" else NO_VERDICT + ", ".join(dict.fromkeys([*_whys(first), *_whys(second)]))
    return Answer(f"{first.text.removesuffix('.')}; {second.text}", first.kind, tag, first.how)


def _whys(answer: Answer) -> list[str]:
    """The reasons of a tag, apart at commas but for those inside an interval."""
    return re.split(r", (?![^\[]*\])", answer.tag.removeprefix(NO_VERDICT))


def _goes_with(first: Told, other: Told) -> bool:
    """Whether a claim about one other method has come to as much as the first one."""
    about_one = len(first.methods) == len(other.methods) == 1
    return about_one and first.methods != other.methods and bool(first.why) == bool(other.why)


def claimed(run: Run, told: Told) -> Answer:
    """A claim as a sentence with its figures and what is paid."""
    fails = "Does not hold: " if told.verdict == "fail" else ""
    figures = f": {told.figures}" if told.figures else ""
    paid = f"; paid: {told.paid}" if told.paid else ""
    text = f"{fails}{told.says}{figures}{paid}."
    if told.why:
        return Answer(text, "open", f"no verdict: {told.why}", how_of(told.metric))
    if _kind(told) == "exact":
        return Answer(text, "exact", told.reach, how_of(told.metric))
    where = f"this machine: {facts.this_machine(run)}" if _kind(told) == "timed" else f"this data: {told.reach}"
    return Answer(text, "bound", where, how_of(told.metric))


def _ends(values: "pd.Series[float]", baseline: str) -> str:
    """``from 0.03 x (lst) to 0.60 x (p_tuning)`` over all methods but the baseline; empty without a figure."""
    known = values.drop(index=baseline, errors="ignore").dropna().sort_values(kind="stable")
    if known.empty:
        return ""
    ends = [f"{fmt.ratio(float(known.iloc[at]))} x ({fmt.plain(known.index[at])})" for at in (0, -1)]
    return ends[0] if len(known) == 1 else f"from {ends[0]} to {ends[1]}"


def _exact(run: Run) -> Answer | None:
    baseline = run.suite.baseline
    ends = _ends(compare.cost_table(run.records, facts.labels(run))["flops_backward_ratio"], baseline)
    text = f"Backward takes {ends} the FLOPs of {fmt.plain(baseline)}'s."
    return Answer(text, "exact", "exact, any machine", anchor("FLOPs")) if ends else None


def _timed(run: Run) -> Answer | None:
    baseline, control = run.suite.baseline, compare.controls(run.records)
    ends = _ends(compare.cost_table(run.records, facts.labels(run))["step_ratio"], baseline)
    if not ends:
        return None
    text = f"A training step takes {ends} the time of {fmt.plain(baseline)}'s."
    step = control[control["name"] == "step"]
    if step.empty or not step["quiet"].all():
        why = "is missing" if step.empty else "was not quiet"
        return Answer(text, "open", f"no verdict: the A/A control {why}", anchor("A/A control"))
    return Answer(text, "bound", f"this machine: {facts.this_machine(run)}", anchor("times"))


def _scored(run: Run) -> Answer | None:
    baseline = run.suite.baseline
    scores = compare.score_table(run.records, baseline, facts.labels(run)).dropna(subset=["mean"])
    if scores.empty:
        return None
    best = scores["mean"].idxmax()
    text = f"The highest mean score is {fmt.plain(best)}'s, {fmt.points(float(scores.loc[best, 'mean']))} points"
    if best != baseline and baseline in scores.index:
        row = scores.loc[best]
        text += f", {fmt.difference(row['difference'], row['low'], row['high'])} against {fmt.plain(baseline)}"
    others = scores.drop(index=baseline, errors="ignore")
    if (why := facts.no_verdict(run)) is not None or not others["verdict"].all():
        reason = why or "; ".join(dict.fromkeys(phrase for found in others["why"] for phrase in found))
        return Answer(f"{text}.", "open", f"no verdict: {reason or 'one pair alone'}", anchor("difference"))
    return Answer(f"{text}.", "bound", f"this data: {fmt.plural(len(facts.seeds(run)), 'seed')}", anchor("difference"))

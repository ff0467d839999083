"""The least of each cost among all methods, and among those whose score is shown to be as good as the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import pandas as pd

from bench.analysis import scores
from bench.analysis.costs import peak_column
from bench.schema.record import ScoreRecord, Shape
from bench.stats.intervals import Interval, PairedDifference, is_informative, paired_difference, tied

if TYPE_CHECKING:
    from bench.analysis.results import Results

MARGIN = 1.0
"""Points of 100 below the best that are as good as the best where no claim of the suite gives a margin."""

Need = Literal[
    "least memory", "least storage", "least training time", "least latency", "fewest trainable parameters", "best score"
]
Value = TypeVar("Value")


class Choice(NamedTuple):
    """The methods that meet a need best."""

    methods: tuple[str, ...]
    """Labels; several where their exact figures are equal or, of scores, where several are as good as the best."""
    value: float
    """In the unit of the recommendation."""
    interval: Interval | None = None
    """95 %; None for a counted figure, which is exact."""
    runner_up: tuple[str, float] | None = None
    """The next method and its value."""
    not_distinguished: tuple[str, ...] = ()
    """Methods whose interval overlaps that of the choice: which of them is lower is not known."""


@dataclass(frozen=True, kw_only=True)
class AsGood:
    """The methods whose score is shown not to be worse than the best by a margin.

    A method belongs to them where the 95 % interval of its difference to the highest mean, paired by task and seed,
    lies wholly above minus the margin. An interval that is wider, and so says less, never adds a method.
    """

    margin: float = MARGIN
    """Points of 100."""
    claim: str = ""
    """Name of the claim of the suite that the margin comes from; empty where it is `MARGIN`."""
    tasks: tuple[str, ...] = ()
    """Over which the scores are compared: those of the claim, or all."""
    means: Mapping[str, float] = field(default_factory=dict)
    """Points of 100 by label, best first, of the methods that finished every cell of these tasks."""
    differences: Mapping[str, tuple[float, Interval | None]] = field(default_factory=dict)
    """To the highest mean, points of 100 with their 95 % interval."""
    methods: tuple[str, ...] = ()
    """Labels, best first; empty where the scores carry no verdict."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a method took no part: cells that it lacks, training that is not done."""
    no_verdict: tuple[str, ...] = ()
    """Why the scores carry no verdict; empty where they do."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Which method to take for one need."""

    need: Need
    figure: str
    """Name of the figure in a cost record; ``score``."""
    unit: Literal["B", "s / s", "", "points"]
    """``s / s`` is a ratio: of training times to the baseline's, of latencies to the bare backbone's."""
    kind: Literal["counted", "timed", "scored"]
    shape: Shape | None = None
    """Batch and length that the figure is taken on; None where it does not depend on them."""
    least: Choice | None
    """Among all methods that hold the figure, whatever they score; for the best score the highest mean."""
    as_good: Choice | None
    """Among `AsGood.methods`; None where the scores took no part or none of those methods holds the figure."""
    score: AsGood
    """How the scores took part, or why they did not."""
    not_measured: tuple[str, ...] = ()
    """Methods without the figure."""
    doubts: tuple[str, ...] = ()
    """What weakens the figure itself, such as a noisy machine."""


def recommendations(results: "Results") -> list[Recommendation]:
    """One recommendation a need, in a fixed order, on the first of the run's shapes.

    Returns:
        Empty for a run without a cost and without a score.

    Raises:
        BenchError: Scores or costs of the run cannot stand in one table, or a claim of its suite is malformed.
    """
    score = as_good(results)
    shape = next(iter(results.shapes), None)
    if shape is None and not score.means:
        return []
    costs = results.cost_table()
    peak = "predicted_peak_memory_bytes.step" if peak_column(costs) != "peak_step_bytes" else "peak_memory_bytes.step"
    return [
        _counted("least memory", peak, "B", results.method_cost("peak_step_bytes"), score, shape),
        _counted("least storage", "delta_bytes", "B", results.method_cost("delta_bytes"), score),
        _training_time(results, costs, score, shape),
        _latency(results, costs, score, shape),
        _counted("fewest trainable parameters", "trainable_parameters.method", "",
                 results.method_cost("trainable_method"), score),
        _best_score(score),
    ]  # fmt: skip


def margin(results: "Results") -> tuple[float, str, tuple[str, ...]]:
    """Points that a score may lie below another and count as good, the claim that says so and the tasks it is about.

    The strictest claim of the suite that allows a score to lie below another; `MARGIN` over all tasks where none does.
    """
    allowed = [
        (-claim.difference.min, claim.name, claim.tasks or tuple(results.tasks))
        for claim in results.claim_tables
        if claim.difference is not None and claim.difference.min is not None and claim.difference.min < 0
    ]
    return min(allowed, key=lambda claim: claim[0], default=(MARGIN, "", tuple(results.tasks)))


def as_good(results: "Results") -> AsGood:
    """The methods whose score is shown not to be worse than the highest mean by the suite's margin.

    Raises:
        BenchError: The same task was read from different rows.
    """
    points, claim, tasks = margin(results)
    done = [r for r in results.score_records if r.status == "ok" and r.score is not None and r.task_name in tasks]
    scores.check_one_setting(done)
    by_cell = scores.cells(done)
    asked = {cell for found in by_cell.values() for cell in found}
    means = {label: sum(found.values()) / len(found) for label, found in by_cell.items() if len(found) == len(asked)}
    if not means:
        return AsGood(margin=points, claim=claim, tasks=tasks, no_verdict=("no method was scored",))
    means = dict(sorted(means.items(), key=lambda item: -item[1]))
    best = _highest(means)
    pairs = {
        label: min((paired_difference(by_cell[label], by_cell[top]) for top in best), key=_lower_end)
        for label in means
        if label not in best[:1]
    }
    differences = {label: (pair.mean or 0.0, pair.interval) for label, pair in pairs.items()}
    left_out = _incomplete(results, by_cell, len(asked)) | _untrained(done, means)
    no_verdict = _no_verdict(done, means, asked, best, left_out)
    shown = [label for label, (_, interval) in differences.items() if interval and interval[0] >= -points]
    methods = () if no_verdict else (*best, *(label for label in shown if label not in {*best, *left_out}))
    return AsGood(
        margin=points, claim=claim, tasks=tasks, means=means, differences=differences, methods=methods,
        left_out=left_out, no_verdict=no_verdict,
    )  # fmt: skip


def _incomplete(results: "Results", by_cell: scores.Cells, asked: int) -> dict[str, str]:
    held = {label: len(by_cell.get(label, ())) for label in results.labels}
    return {
        label: f"{n} of {asked} scores" if label in results.scored else scores.UNSCORED
        for label, n in held.items()
        if n < asked
    }


def _untrained(done: Sequence[ScoreRecord], means: Mapping[str, float]) -> dict[str, str]:
    found = {label: scores.training_doubts(r for r in done if r.method.label == label) for label in means}
    return {label: ", ".join(doubts) for label, doubts in found.items() if doubts}


def _no_verdict(
    done: Sequence[ScoreRecord],
    means: Mapping[str, float],
    asked: set[tuple[str, int]],
    best: Sequence[str],
    left_out: Mapping[str, str],
) -> tuple[str, ...]:
    general = scores.data_doubts([r for r in done if r.method.label in means], asked)
    # What full training would make of the best is not known, so nobody can be shown to be as good.
    return (*general, *(f"{label}, the highest mean, {left_out[label]}" for label in best if label in left_out))


def _highest(means: Mapping[str, float]) -> list[str]:
    """The methods that share the highest mean, in the order of ``means``."""
    return [label for label, mean in means.items() if tied(mean, max(means.values()))]


def _lower_end(pair: PairedDifference) -> float:
    return pair.interval[0] if pair.interval else -math.inf


def _counted(
    need: Need, figure: str, unit: Literal["B", ""], values: "pd.Series[float]", score: AsGood,
    shape: Shape | None = None,
) -> Recommendation:  # fmt: skip
    known = {str(label): float(value) for label, value in values.items() if pd.notna(value)}
    return Recommendation(
        need=need, figure=figure, unit=unit, kind="counted", shape=shape, least=_lowest(known),
        as_good=_lowest(_among(known, score)), score=score,
        not_measured=tuple(str(label) for label in values.index if label not in known),
    )  # fmt: skip


def _lowest(values: Mapping[str, float]) -> Choice | None:
    """The methods with the lowest exact value."""
    if not values:
        return None
    lowest = min(values.values())
    above = [(label, value) for label, value in values.items() if value > lowest]
    methods = tuple(label for label, value in values.items() if value == lowest)
    return Choice(methods, lowest, runner_up=min(above, key=lambda pair: pair[1], default=None))


Timed = Mapping[str, tuple[float, Interval]]
"""Ratio of times with its interval by label."""


def _fastest(timed: Timed) -> Choice | None:
    """The method with the lowest ratio; the others are slower, or it is said that this is not known."""
    if not timed:
        return None
    ranked = sorted(timed, key=lambda label: timed[label][0])
    value, interval = timed[ranked[0]]
    near = tuple(label for label in ranked[1:] if timed[label][1][0] <= interval[1])
    after = (ranked[1], timed[ranked[1]][0]) if len(ranked) > 1 else None
    return Choice((ranked[0],), value, interval, runner_up=after, not_distinguished=near)


def _timed(costs: pd.DataFrame, column: str) -> tuple[dict[str, tuple[float, Interval]], list[str]]:
    """The ratios of a column whose interval says something, and the labels of the others."""
    rows = costs[[f"{column}_{end}" for end in ("ratio", "low", "high")]].dropna()
    timed = {str(label): (float(v), (float(low), float(high))) for label, v, low, high in rows.itertuples()}
    vague = [label for label, (value, interval) in timed.items() if not is_informative(value, interval)]
    return {label: pair for label, pair in timed.items() if label not in vague}, vague


def _among(values: Mapping[str, Value], score: AsGood) -> dict[str, Value]:
    return {label: value for label, value in values.items() if label in score.methods}


def _training_time(results: "Results", costs: pd.DataFrame, score: AsGood, shape: Shape | None) -> Recommendation:
    timed, vague = _timed(costs, "step")
    return Recommendation(
        need="least training time", figure="step_seconds", unit="s / s", kind="timed", shape=shape,
        least=_fastest(timed), as_good=_fastest(_among(timed, score)), score=score,
        not_measured=tuple(str(label) for label in costs.index if label not in {*timed, *vague}),
        doubts=_timing_doubts(results, shape, "step", vague) if timed or vague else (),
    )  # fmt: skip


def _timing_doubts(results: "Results", shape: Shape | None, control: str, vague: Sequence[str]) -> tuple[str, ...]:
    controls = results.controls(shape)
    mine = controls[controls["name"] == control]
    noisy = "there is no A/A control" if mine.empty else "the A/A control was not quiet"
    return (
        *([] if len(mine) and mine["quiet"].all() else [noisy]),
        *([f"too few blocks of {', '.join(vague)}"] if vague else []),
    )


def _latency(results: "Results", costs: pd.DataFrame, score: AsGood, shape: Shape | None) -> Recommendation:
    exact = {str(label): 1.0 for label, same in costs["merged_is_base"].items() if same is True}
    batch = _smallest_batch(results)
    timed, vague = _timed(costs, f"unmerged_{batch}")
    noisy = _timing_doubts(results, shape, f"latency_{batch}", vague) if timed or vague else ()
    least = _least_latency(exact, timed, bool(noisy))
    good = _least_latency(_among(exact, score), _among(timed, score), bool(noisy))
    counted = least is not None and least.interval is None
    is_timed = any(choice is not None and choice.interval is not None for choice in (least, good))
    return Recommendation(
        need="least latency", figure="merged_equals_base" if counted else f"latency_seconds.unmerged.{batch}",
        unit="s / s", kind="counted" if counted else "timed", shape=shape, least=least, as_good=good, score=score,
        not_measured=tuple(str(label) for label in costs.index if label not in {*exact, *timed, *vague}),
        doubts=noisy if is_timed else (),
    )  # fmt: skip


def _least_latency(exact: Mapping[str, float], timed: Timed, noisy: bool) -> Choice | None:
    """The methods that merge into the bare backbone, operation by operation: its latency exactly, on any machine.

    Another method is lower only where its whole interval lies below 1 on a quiet machine.
    """
    faster = {} if noisy else {label: pair for label, pair in timed.items() if pair[1][1] < 1 and label not in exact}
    return _fastest(faster) or _lowest(exact) or _fastest(timed)


def _smallest_batch(results: "Results") -> str:
    """The smallest batch of inference that was measured, as columns and records name it."""
    found = (r.latency_seconds.base.by_batch for r in results.measured().values() if r.latency_seconds)
    return f"batch_{min((rows for by_batch in found for rows in by_batch), default=1)}"


def _best_score(score: AsGood) -> Recommendation:
    least = as_good_as_it = None
    if score.means:
        value, equal = max(score.means.values()), _highest(score.means)
        least = Choice(tuple(equal), value, runner_up=next((p for p in score.means.items() if p[0] not in equal), None))
        as_good_as_it = Choice(score.methods, value) if score.methods else None
    return Recommendation(
        need="best score", figure="score", unit="points", kind="scored", least=least, as_good=as_good_as_it,
        score=score, not_measured=tuple(label for label in score.left_out if label not in score.means),
    )  # fmt: skip

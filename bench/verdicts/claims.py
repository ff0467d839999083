"""Decides each claim of a suite: pass, fail, inconclusive or invalid; a run as users load it, with these verdicts."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from bench.analysis import scores
from bench.analysis.results import Results
from bench.schema import figures
from bench.schema.claims import (
    LOOKS,
    Bounds,
    ClaimedShape,
    ClaimTable,
    base_figure,
    judged_on,
    of_scores,
    of_time,
    text_of,
)
from bench.schema.figures import BASE
from bench.schema.record import Control, CostRecord, Shape, Timing
from bench.schema.resolved import ResolvedSuite
from bench.stats.intervals import (
    LEVEL,
    Interval,
    block_bootstrap_ratio,
    both_ways,
    holm,
    is_quiet,
    log_ratio_blocks,
    margin,
    mean_interval,
)
from bench.store.store import Run

Verdict = Literal["pass", "fail", "inconclusive", "invalid"]
STILL = "still improving"
"""Doubt of a score that more steps would raise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one method shows of a claim."""

    method: str
    value: float | bool | None
    """The compared figure; None where it could not be had."""
    interval: Interval | None = None
    """95 %; None for a counted figure, which is exact."""
    verdict: Verdict = "inconclusive"
    why: str = ""
    """Why there is no verdict."""
    control: Interval | None = None
    """Of the A/A control of a time."""
    widening: float = 1.0
    """Factor by which a time's interval was made wider to both sides before it was compared with the bounds."""
    inside_p: float | None = None
    """P-value of lying within the bounds; None where nothing is tested."""
    outside_p: float | None = None

    @property
    def widened(self) -> str:
        """By how much the interval was widened for the A/A control, in words; empty where it was not."""
        if self.control is None or self.widening == 1:
            return ""
        low, high = self.control
        return f"by {100 * (self.widening - 1):.0f} % for A/A noise [{low:.3f}, {high:.3f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim with its verdict."""

    claim: ClaimTable
    verdict: Verdict
    kind: Literal["exact", "timed", "score"]
    outcomes: tuple[Outcome, ...]
    prices: tuple[tuple[str, float], ...] = ()
    """Figure and its ratio, of the first method."""


def judge(results: Results) -> list[Judgement]:
    """Judge every claim of a run's suite whose methods the run has.

    Exact figures are compared as they are. Times and scores are tested both ways: the claim passes where its figure
    lies within the bounds beyond doubt, fails where it lies outside beyond doubt, else it is inconclusive; both after
    Holm's correction over all tests of the run. A ratio of times must stand when its interval is widened by what the
    A/A control shows; one that does not is invalid where the control was not quiet, for noise could decide it. An
    equivalence is invalid wherever the control was not quiet, and every claim about times where another process used
    the GPU.

    Raises:
        BenchError: The records cannot be compared.
    """
    claims = [claim for claim in results.claim_tables if _asked(results.suite, claim)]
    costs = [_costs(results, claim) for claim in claims]
    tested = [
        (claim, [_outcome(results, measured, claim, label) for label in claim.method])
        for claim, measured in zip(claims, costs, strict=True)
    ]
    decided = _decide(tested)
    return [
        Judgement(claim=claim, verdict=_together(outcomes), kind=_kind(claim), outcomes=tuple(outcomes),
                  prices=_prices(measured, claim, results.baseline))
        for claim, measured, outcomes in zip(claims, costs, decided, strict=True)
    ]  # fmt: skip


def _asked(suite: ResolvedSuite, claim: ClaimTable) -> bool:
    """Whether the run set out to measure what the claim is about."""
    labels = {*suite.methods, BASE}
    if not {*claim.method, claim.versus or BASE} <= labels:
        return False
    shapes = suite.cost
    if _kind(claim) == "score":
        tasks, scored = suite.tasks, suite.scored or suite.methods
        return bool(tasks) and {*claim.tasks} <= {*tasks} and claim.labels <= {*scored}
    return bool(shapes) if _kind(claim) == "exact" else any(shape.timed for shape in shapes)


def _costs(results: Results, claim: ClaimTable) -> dict[str, CostRecord]:
    """Costs by label on the shape that the claim is about; where none holds all of its methods, on the likeliest."""
    found: dict[ClaimedShape, dict[str, CostRecord]] = {}
    for shape in results.shapes:
        held = {r.method.label: r for r in results.cost_records if r.shape == shape}
        found.setdefault(_claimed(results.suite, shape, held), held)
    right = [shape for shape in found if shape.is_of(claim)]
    chosen = judged_on(claim, right) or max(right, key=lambda shape: len(claim.labels & {*shape.labels}), default=None)
    return found[chosen] if chosen is not None else {}


def _claimed(suite: ResolvedSuite, shape: Shape, held: dict[str, CostRecord]) -> ClaimedShape:
    """``shape`` with what was measured on it; a method that failed early says nothing of its rows of inference."""
    told, asked = (record.latency_length for record in held.values()), suite.asked_of(shape)
    lengths = (length for length in (*told, asked.latency_length) if length)
    return ClaimedShape(
        batch=shape.batch, length=shape.length, latency_length=next(lengths, None), labels=tuple(held),
        objective=shape.objective, loss=shape.loss, timed=asked.timed,
    )  # fmt: skip


def _kind(claim: ClaimTable) -> Literal["exact", "timed", "score"]:
    if of_scores(claim.metric):
        return "score"
    return "timed" if of_time(claim.metric) else "exact"


def _outcome(results: Results, costs: dict[str, CostRecord], claim: ClaimTable, label: str) -> Outcome:
    if of_scores(claim.metric):
        return _score(results, claim, label)
    record = costs.get(label)
    if record is None or record.status != "ok":
        return Outcome(method=label, value=None, why=f"{label} has no costs" + (f": {record.reason}" if record else ""))
    found = _figure(record, claim.metric)
    if found is None:
        return Outcome(method=label, value=None, why=f"{label} has no {claim.metric}")
    if isinstance(found, Timing):
        return _timed(results.suite, costs, claim, record, found)
    return _exact(costs, claim, record, found)


def _figure(record: CostRecord, metric: str) -> Any:
    """The figure of a dotted name; None where the record lacks it or has no single figure there."""
    value = figures.read(record, metric)
    return value if isinstance(value, Timing | int | float) else None


def _exact(costs: dict[str, CostRecord], claim: ClaimTable, record: CostRecord, found: Any) -> Outcome:
    label = record.method.label
    if claim.holds is not None:
        return Outcome(method=label, value=bool(found), verdict="pass" if bool(found) is claim.holds else "fail")
    if claim.versus is not None:
        below = _against(costs, claim, record)
        if not below:
            return Outcome(method=label, value=None, why=f"{claim.versus} has no {claim.metric} to compare with")
        found = found / below
    return Outcome(method=label, value=float(found), verdict="pass" if _inside(found, claim.bounds) else "fail")


def _inside(value: float, bounds: Bounds) -> bool:
    return (bounds.min is None or value >= bounds.min) and (bounds.max is None or value <= bounds.max)


def _timed(
    suite: ResolvedSuite, costs: dict[str, CostRecord], claim: ClaimTable, record: CostRecord, found: Timing
) -> Outcome:
    label, against = record.method.label, _against(costs, claim, record)
    if not isinstance(against, Timing):
        return Outcome(method=label, value=None, why=f"{claim.versus} has no {claim.metric} to compare with")
    control = record.aa_control.get(_control_name(claim.metric))
    if claim.versus != BASE and not _same_rounds(record, costs[claim.versus or ""], control, claim):
        why = f"{label} and {claim.versus} were not measured in the same rounds; measure both anew with --fresh"
        return Outcome(method=label, value=None, why=why)
    value, interval = block_bootstrap_ratio(found.samples, against.samples)
    if "foreign_process" in record.flags:
        why = "another process used the GPU while times were taken"
        return Outcome(method=label, value=value, interval=interval, verdict="invalid", why=why)
    noisy, equal = control is None or not is_quiet(control), claim.equivalent_within is not None
    if control is None or (noisy and equal):
        shown = "is missing" if control is None else "[{:.3f}, {:.3f}] is not quiet".format(*control.interval)
        why = _joined(f"A/A control {shown}", _cut_short(suite, record, len(found.samples)) if control else "")
        return Outcome(method=label, value=value, interval=interval, verdict="invalid", why=why)
    wider = 0.0 if equal else margin(control)
    logs = log_ratio_blocks(found.samples, against.samples)
    tested = _tested(label, value, interval, logs, claim.bounds, math.log, wider)
    is_open = min(tested.inside_p or 0.0, tested.outside_p or 0.0) >= LEVEL / LOOKS
    return dataclasses.replace(
        tested, control=control.interval, widening=math.exp(wider), verdict="invalid" if noisy else "inconclusive",
        why=_cut_short(suite, record, len(logs)) if is_open else "",
    )  # fmt: skip


def _same_rounds(record: CostRecord, other: CostRecord, control: Control | None, claim: ClaimTable) -> bool:
    """Whether samples of both are pairs: of one probe, and of one group of the methods that it held at a time."""
    return record.started == other.started and control == other.aa_control.get(_control_name(claim.metric))


def _cut_short(suite: ResolvedSuite, record: CostRecord, blocks: int) -> str:
    """That time for blocks was up, where it was: of a claim that is open, the probe would have gone on."""
    asked = suite.asked_of(record.shape)
    most = LOOKS * asked.blocks
    if blocks >= most:
        return ""
    return f"stopped after {blocks} of up to {most} blocks: the {asked.extra_seconds:g} s for extra blocks ran out"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _against(costs: dict[str, CostRecord], claim: ClaimTable, record: CostRecord) -> Any:
    """The figure that the claim compares with; samples of times were taken in the same rounds."""
    if claim.versus == BASE:
        return _figure(record, base_figure(claim.metric) or "")
    other = costs.get(claim.versus or "")
    return _figure(other, claim.metric) if other is not None and other.status == "ok" else None


def _control_name(metric: str) -> str:
    head, _, rest = metric.partition(".")
    _, _, on = rest.partition(".")  # the batch of a latency, context and batch of what is written
    return "_".join(filter(None, (head.removesuffix("_seconds"), *on.split("."))))


def _score(results: Results, claim: ClaimTable, label: str) -> Outcome:
    assert claim.versus is not None
    text = text_of(claim.metric)
    records = [r for r in results.score_records if not claim.tasks or r.task_name in claim.tasks]
    cells = scores.cells(records) if text is None else scores.forgotten(records, text)
    ours, theirs = cells.get(label, {}), cells.get(claim.versus, {})
    differences = [ours[key] - theirs[key] for key in ours if key in theirs]
    if not differences:
        what = "score" if text is None else f"reading of {text}"
        return Outcome(method=label, value=None, why=f"no {what} that {label} and {claim.versus} share")
    value, interval = mean_interval(differences)
    row = scores.score_table(results, claim.versus, claim.tasks).loc[label]
    why = ", ".join(row["why"])
    if text is not None and why:  # which way more steps would move it is not known
        return Outcome(method=label, value=value, interval=interval, why=why)
    if interval is None or set(row["why"]) - {STILL, f"{claim.versus} {STILL}"}:
        return Outcome(method=label, value=value, interval=interval, why=why or "one pair alone")
    tested = dataclasses.replace(_tested(label, value, interval, differences, claim.bounds, float), why=why)
    rises, falls = STILL in row["why"], f"{claim.versus} {STILL}" in row["why"]
    return _strengthened(tested, claim.bounds, rises=rises, falls=falls)


def _strengthened(tested: Outcome, bounds: Bounds, *, rises: bool, falls: bool) -> Outcome:
    """Leave a difference that more steps may raise or lower the verdict alone that this could only strengthen."""
    low, high = bounds.min is not None, bounds.max is not None
    no_pass, no_fail = (falls and low) or (rises and high), (rises and low) or (falls and high)
    inside, outside = tested.inside_p or 0.0, tested.outside_p or 0.0
    if (no_pass and inside < LEVEL) or (no_fail and outside < LEVEL):
        return dataclasses.replace(tested, inside_p=None, outside_p=None)  # open, whatever the interval holds
    return dataclasses.replace(tested, inside_p=1.0 if no_pass else inside, outside_p=1.0 if no_fail else outside)


def _tested(
    label: str,
    value: float,
    interval: Interval | None,
    units: Any,
    bounds: Bounds,
    scale: Callable[[float], float],
    wider: float = 0.0,
) -> Outcome:
    """Test both ways; each bound comes nearer by ``wider``, which is to make the interval so much wider."""
    low, high = (None if end is None else scale(end) for end in (bounds.min, bounds.max))
    inside, outside = both_ways(units, low, high, wider)
    return Outcome(method=label, value=value, interval=interval, inside_p=inside, outside_p=outside)


def _decide(tested: Sequence[tuple[ClaimTable, list[Outcome]]]) -> list[list[Outcome]]:
    """Turn p-values into verdicts, all corrected together."""
    flat = [outcome for _, outcomes in tested for outcome in outcomes if outcome.inside_p is not None]
    inside = dict(zip(map(id, flat), holm([o.inside_p or 0.0 for o in flat]), strict=True))
    outside = dict(zip(map(id, flat), holm([o.outside_p or 0.0 for o in flat]), strict=True))

    def decided(outcome: Outcome) -> Outcome:
        if id(outcome) not in inside:
            return outcome
        if inside[id(outcome)] < LEVEL:
            return dataclasses.replace(outcome, verdict="pass", why="")
        if outside[id(outcome)] < LEVEL:
            return dataclasses.replace(outcome, verdict="fail", why="")
        wider = f" after widening it {outcome.widened}" if outcome.widened else ""
        why = _joined(f"the interval contains the bound{wider}", outcome.why)
        return dataclasses.replace(outcome, why=why)

    return [[decided(outcome) for outcome in outcomes] for _, outcomes in tested]


def _together(outcomes: Sequence[Outcome]) -> Verdict:
    """A claim passes where every method passes; one that fails makes it fail."""
    found = {outcome.verdict for outcome in outcomes}
    order: tuple[Verdict, ...] = ("fail", "invalid", "inconclusive")
    return next((verdict for verdict in order if verdict in found), "pass")


def _prices(costs: dict[str, CostRecord], claim: ClaimTable, baseline: str) -> tuple[tuple[str, float], ...]:
    record = costs.get(claim.method[0])
    prices = []
    for metric in claim.price:
        found = _figure(record, metric) if record is not None else None
        if isinstance(found, Timing):
            prices.append((metric, found.ratio_to_baseline))
        elif isinstance(found, int | float) and (
            below := _figure(costs[baseline], metric) if baseline in costs else None
        ):
            prices.append((metric, found / below))
    return tuple(prices)


COLUMNS = ["claim", "says", "metric", "versus", "kind", "verdict", "method", "value", "low", "high", "why"]


class JudgedResults(Results):
    """Results with their claims judged."""

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The suite's claims in its order, each with its verdict."""
        return judge(self)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """One row per claim and method.

        ``claim says metric versus kind verdict method value low high why``: ``verdict`` is the claim's, ``low`` and
        ``high`` are the 95 % interval of ``value``, missing where it is counted and exact.
        """
        rows = [
            (
                judged.claim.name, judged.claim.says, judged.claim.metric, judged.claim.versus, judged.kind,
                judged.verdict, outcome.method, outcome.value, *(outcome.interval or (None, None)), outcome.why,
            )
            for judged in self.judgements
            for outcome in judged.outcomes
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=COLUMNS)


def load_results(run: Run | Path | str) -> JudgedResults:
    """Read a run folder into tables.

    Args:
        run: A run folder as string or path, or a run that was read already.

    Returns:
        ``costs`` (one row per method and shape), ``scores`` (per method and task) and ``claims`` (per claim and
        method) as pandas tables, scores in points of 100, everything else in SI base units; and what they are made of.

    Raises:
        BenchError: It is no run folder, or a file in it is damaged.
    """
    return JudgedResults(run)

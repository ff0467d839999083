"""Compares runs with the first of them, figure by figure: exact ones for equality, ratios and scores with intervals.

Absolute times of two runs are never compared: they were taken at other moments, often on other machines. What two runs
share is the ratio to a baseline that each measured in the same rounds.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bench.analysis.costs import MODES, PHASES, flat
from bench.analysis.scores import doubts
from bench.analysis.settings import Difference, differences, pair_shapes, place
from bench.errors import BenchError
from bench.schema.record import CostRecord, CountRecord, ScoreRecord, Timing
from bench.stats.intervals import Interval, paired_difference

if TYPE_CHECKING:
    from bench.analysis.results import Results

UNITS = {
    "trainable_parameters": "parameters", "delta_bytes": "bytes", "flops": "FLOP", "bytes": "bytes",
    "predicted_peak_memory_bytes": "bytes", "peak_memory_bytes": "bytes", "merged_equals_base": "1 or 0",
}  # fmt: skip
"""Exact figures of a record and their units."""
ALL_TASKS = "all tasks"
Counted = CostRecord | CountRecord
NUMBERS = ("first", "other", "difference", "ratio", "low", "high", "pairs")


class Change(NamedTuple):
    """One figure in two runs."""

    kind: str
    """``exact``, ``measured`` (a peak that CUDA reports), ``ratio`` (of times) or ``score``."""
    method: str
    place: str
    """Shape, point of a sweep, or task."""
    figure: str
    """Dotted name, as in the records."""
    unit: str
    first: float = math.nan
    other: float = math.nan
    difference: float = math.nan
    """``other - first``; of scores the paired mean."""
    ratio: float = math.nan
    """``other / first``."""
    low: float = math.nan
    high: float = math.nan
    """95 % interval of the ratio (kind ``ratio``) or of the difference (kind ``score``)."""
    pairs: float = math.nan
    """Of task and seed (kind ``score``)."""
    verdict: str = ""
    """``equal different`` of what is exact; ``equal higher lower``, ``not told apart`` or ``no verdict`` of the rest;
    ``only in first``, ``only in other`` where a run lacks it."""
    why: str = ""
    """There is no verdict, or what else must be known."""


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found."""

    names: tuple[str, ...]
    """One a run, the first run's first."""
    changes: pd.DataFrame
    """``run`` (name of the other one), the fields of `Change`, and ``settings_differ``: the keys of ``settings``."""
    settings: pd.DataFrame
    """``run`` and the fields of `bench.analysis.settings.Difference`."""


def compare_runs(runs: Sequence["Results"]) -> Comparison:
    """Compare every later run with the first.

    Raises:
        BenchError: Fewer than two runs, a folder given twice or without a record, or nothing that two runs share.
    """
    _check(runs)
    names = _names(runs)
    changes, settings = [], []
    for name, other in zip(names[1:], runs[1:], strict=True):
        found = [*_counted(runs[0], other), *_timed(runs[0], other), *_scored(runs[0], other)]
        if not any(change.first == change.first and change.other == change.other for change in found):
            raise BenchError(
                f"{other.folder}: shares no figure with {runs[0].folder}: no method has the same shape, point of a "
                "sweep, or task and seed on the same rows in both; compare runs of one suite"
            )
        differing = differences(runs[0], other)
        settings.append(_table(Difference, differing, name))
        keys = "; ".join(f"{each.about}: {each.key}" for each in differing)
        changes.append(_table(Change, found, name).assign(settings_differ=keys))
    whole = pd.concat(changes, ignore_index=True)
    return Comparison(names, whole.astype(dict.fromkeys(NUMBERS, float)), pd.concat(settings, ignore_index=True))


def _table(fields: type[Change] | type[Difference], rows: Sequence[tuple[Any, ...]], name: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(fields._fields))
    table.insert(0, "run", name)
    return table


def _check(runs: Sequence["Results"]) -> None:
    if len(runs) < 2:
        raise BenchError("compare takes two run folders or more, the one that the others are compared with first")
    seen = set()
    for run in runs:
        if (folder := run.folder.resolve()) in seen:
            raise BenchError(f"{run.folder}: given twice; a run does not differ from itself, give another folder")
        seen.add(folder)
        if not any(record.status == "ok" for record in run.run.records):
            raise BenchError(f"{run.folder}: holds no record that is ok; finish the run first: {run.run.command}")


def _names(runs: Sequence["Results"]) -> tuple[str, ...]:
    short = [run.folder.resolve().name for run in runs]
    return tuple(short) if len(set(short)) == len(short) else tuple(str(run.folder) for run in runs)


def _counted(first: "Results", other: "Results") -> Iterator[Change]:
    """Figures that are equal or not, whatever the machine."""
    for where, mine, yours in _costs(first, other):
        if (mine.status, yours.status) != ("ok", "ok"):
            if mine.status != yours.status:
                reason = yours.reason if yours.status != "ok" else mine.reason
                why = f"{mine.status} against {yours.status}: {reason or 'no reason was recorded'}"
                yield Change("exact", mine.method.label, where, "status", "", verdict="different", why=why)
            continue
        ours, theirs = _figures(mine), _figures(yours)
        sources = {getattr(record, "peak_memory_source", None) for record in (mine, yours)}
        for figure in {**ours, **theirs}:
            part = figure.partition(".")[0]
            if part == "peak_memory_bytes" and len(sources - {None}) > 1:
                continue  # what the tracker counts and what CUDA allocates are two figures
            measured = part == "peak_memory_bytes" and "cuda_allocated" in sources
            yield _pair(measured, mine.method.label, where, figure, ours.get(figure), theirs.get(figure))


def _costs(first: "Results", other: "Results") -> Iterator[tuple[str, Counted, Counted]]:
    """The same method on the same shape, or at the same point of the same sweep, in both runs."""
    pairs = pair_shapes(first.shapes, other.shapes)
    theirs = {(record.shape, record.method.label): record for record in other.cost_records}
    for record in first.cost_records:
        partner = theirs.get((pairs[record.shape], record.method.label)) if record.shape in pairs else None
        if partner is not None:
            yield place(record.shape), record, partner
    points = {_point(record): record for record in other.count_records}
    for counted in first.count_records:
        if (found := points.get(_point(counted))) is not None:
            yield f"{counted.sweep} at {counted.value}", counted, found


def _point(record: CountRecord) -> tuple[object, ...]:
    return record.sweep, record.vary, record.value, place(record.shape), record.method.label


def _figures(record: CostRecord | CountRecord) -> dict[str, int]:
    values: dict[str, Any] = {}
    for name in UNITS:
        value = getattr(record, name, None)
        if value is not None:
            values[name] = value if isinstance(value, int) else value.model_dump()
    return {name: int(value) for name, value in flat(values).items()}


def _pair(measured: bool, method: str, where: str, figure: str, mine: int | None, yours: int | None) -> Change:
    kind, unit = "measured" if measured else "exact", UNITS[figure.partition(".")[0]]
    if mine is None or yours is None:
        side = "first" if yours is None else "other"
        lone = Change(kind, method, where, figure, unit, verdict=f"only in {side}")
        return lone._replace(first=float(mine)) if mine is not None else lone._replace(other=float(yours or 0))
    verdict = "equal" if mine == yours else "no verdict" if measured else "different"
    why = "measured once: no interval" if verdict == "no verdict" else ""
    ratio = yours / mine if mine else math.nan
    return Change(
        kind, method, where, figure, unit, mine, yours, yours - mine, ratio, verdict=verdict, why=why
    )  # fmt: skip


def _timed(first: "Results", other: "Results") -> Iterator[Change]:
    """Ratios of times to what each run measured beside them; the baseline's own, 1 by definition, are left out."""
    quiet = [_quiet(run) for run in (first, other)]
    for where, mine, yours in _costs(first, other):
        if not (isinstance(mine, CostRecord) and isinstance(yours, CostRecord)):
            continue
        ours, theirs = _timings(mine), _timings(yours)
        for figure in ours:
            if figure in theirs:
                doubt = "; ".join(dict.fromkeys(filter(None, (_doubt(found, figure) for found in quiet))))
                unit = "x base model" if figure.startswith("latency") else f"x {mine.baseline}"
                yield _ratio(mine.method.label, where, figure, unit, (ours[figure], theirs[figure]), doubt)


def _timings(record: CostRecord) -> dict[str, Timing]:
    found: dict[str, Timing | None] = {}
    if record.method.label != record.baseline:
        found |= {f"{phase}_seconds": getattr(record, f"{phase}_seconds") for phase in PHASES}
        found = {f"{name} / {record.baseline}": timing for name, timing in found.items()}
    for mode in MODES if record.latency_seconds else ():
        latency = getattr(record.latency_seconds, mode)
        batches = latency.by_batch.items() if latency is not None else ()
        found |= {f"latency_seconds.{mode}.batch_{rows}": timing for rows, timing in batches}
    return {name: timing for name, timing in found.items() if timing is not None}


def _quiet(results: "Results") -> dict[str, bool]:
    """Whether every A/A control of that name was quiet."""
    table = results.controls()
    return {str(name): bool(group.all()) for name, group in table.groupby("name")["quiet"]}


def _doubt(quiet: Mapping[str, bool], figure: str) -> str:
    """Why a time carries no verdict; empty where it may."""
    name, _, place = figure.partition("_seconds")
    of_batch = f"{name}_{place.rpartition('.')[2]}"
    control = of_batch if of_batch in quiet else name
    if control not in quiet:
        return f"no A/A control of {name}"
    return "" if quiet[control] else f"A/A control of {control} not quiet"


def _ratio(method: str, where: str, figure: str, unit: str, timings: tuple[Timing, Timing], doubt: str) -> Change:
    mine, yours = timings
    ratio, (low, high) = ratio_of_ratios(
        (mine.ratio_to_baseline, mine.ratio_interval), (yours.ratio_to_baseline, yours.ratio_interval)
    )
    found = "lower" if high < 1 else "higher" if low > 1 else "not told apart"
    verdict = "no verdict" if doubt else found
    change = yours.ratio_to_baseline - mine.ratio_to_baseline
    return Change(
        "ratio", method, where, figure, unit, mine.ratio_to_baseline, yours.ratio_to_baseline, change, ratio, low, high,
        verdict=verdict, why=doubt,
    )  # fmt: skip


def ratio_of_ratios(first: tuple[float, Interval], other: tuple[float, Interval]) -> tuple[float, Interval]:
    """``other / first`` of two ratios that were measured apart, with an interval as sure as theirs.

    On the log scale, each side of the interval is the root of the squared distances of the two limits from their
    ratios (MOVER: Zou and Donner, Statistics in Medicine 27, 2008). It needs no samples and no symmetry. What a whole
    run shares, such as a warm machine, is in neither interval and so not in this one.
    """
    (center, (low, high)), (value, (bottom, top)) = first, other
    middle = math.log(value / center)
    down = math.hypot(math.log(value / bottom), math.log(high / center))
    up = math.hypot(math.log(top / value), math.log(center / low))
    return math.exp(middle), (math.exp(middle - down), math.exp(middle + up))


Scores = Mapping[tuple[str, int], ScoreRecord]


def _scored(first: "Results", other: "Results") -> Iterator[Change]:
    """Scores in points of 100, paired by task and seed; a task that was read from other rows is left out."""
    mine, yours = _by_label(first), _by_label(other)
    for label in mine:
        if label not in yours:
            continue
        ours, theirs = mine[label], yours[label]
        unlike = {task for task, seed in ours.keys() & theirs.keys() if _unlike(ours[task, seed], theirs[task, seed])}
        tasks = [task for task in dict.fromkeys(task for task, _ in ours) if task not in unlike]
        for task in tasks:
            one = [{cell: r for cell, r in side.items() if cell[0] == task} for side in (ours, theirs)]
            yield from _difference(label, task, one[0], one[1])
        if len(tasks) > 1:
            some = [{cell: r for cell, r in side.items() if cell[0] not in unlike} for side in (ours, theirs)]
            yield from _difference(label, ALL_TASKS, some[0], some[1])


def _by_label(results: "Results") -> dict[str, dict[tuple[str, int], ScoreRecord]]:
    found: dict[str, dict[tuple[str, int], ScoreRecord]] = defaultdict(dict)
    for record in results.score_records:
        if record.status == "ok" and record.score is not None:
            found[record.method.label][record.task_name, record.seed] = record
    return found


def _unlike(mine: ScoreRecord, yours: ScoreRecord) -> bool:
    return bool(mine.task and yours.task and mine.task.content_sha256 != yours.task.content_sha256)


def _difference(label: str, task: str, mine: Scores, yours: Scores) -> Iterator[Change]:
    pairs = [cell for cell in mine if cell in yours]
    if not pairs:
        return
    ours, theirs = [{cell: 100 * (r.score or 0.0) for cell, r in side.items()} for side in (mine, yours)]
    found = paired_difference(theirs, ours)
    low, high = found.interval or (math.nan, math.nan)
    why = doubts([record for cell in pairs for record in (mine[cell], yours[cell])], pairs)
    verdict = "no verdict" if why else "lower" if high < 0 else "higher" if low > 0 else "not told apart"
    if all(ours[cell] == theirs[cell] for cell in pairs):
        verdict = "equal"
    why += [f"{found.dropped} cells only in one run"] if found.dropped else []
    before, after = [sum(side[cell] for cell in pairs) / len(pairs) for side in (ours, theirs)]
    yield Change(
        "score", label, task, "score", "points of 100", before, after, after - before, math.nan, low, high, len(pairs),
        verdict, "; ".join(why),
    )  # fmt: skip

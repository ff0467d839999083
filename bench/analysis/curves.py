"""Lifts scores on the way: against steps, seconds and FLOPs, and what each method spends to come near the baseline.

Scores are in points of 100. A figure that no record has is NaN, never 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.once import Once
from bench.analysis.ranking import method_cost
from bench.analysis.records import in_order, score_records
from bench.analysis.scores import check_one_content, doubts, training_doubts
from bench.analysis.work import Work, training_flops
from bench.schema.record import CurvePoint, Record, ScoreRecord
from bench.stats.intervals import mean_interval
from bench.store.store import Run

NEAR = 0.99
"""Share of the baseline's mean final score that counts as reached."""
SPENT = ("step", "seconds", "flops")
"""What a method spends on the way to a score; peak memory, which does not grow on the way, comes from the probe."""
_MEANS = ("seconds", "flops", "loss")
_CURVE = ("method", "task", "step", "n", *_MEANS, "score", "low", "high")
_REACHED = ("method", "task", "seed", "target", "final", *SPENT)


def curve_table(records: Iterable[Record], order: Sequence[str] = ()) -> pd.DataFrame:
    """Scores on the way, mean over seeds.

    Args:
        records: Any records; scores with a curve are read, and counts, which give FLOPs.
        order: Labels in the order of the suite.

    Returns:
        One row per (method, task, step): ``n`` seeds, mean ``seconds flops loss`` so far, mean ``score`` with ``low
        high`` (95 %, over seeds). ``flops`` is NaN where no sweep gives a method's work.

    Raises:
        BenchError: The same task was read from different rows.
    """
    if isinstance(records, tuple):  # those of a run, whose figures all show this table
        return _KNOWN.get(records, lambda: _curve_table(records, order), tuple(order)).copy()
    return _curve_table(tuple(records), order)


_KNOWN: Once[tuple[Record, ...], pd.DataFrame] = Once()


def _curve_table(records: tuple[Record, ...], order: Sequence[str]) -> pd.DataFrame:
    work = training_flops(records)
    found: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for record in _with_curve(records):
        for point in record.curve:
            place = (record.method.label, record.task_name, point.step)
            found[place].append(_spent(record, point, work) | {"loss": point.loss, "score": 100 * point.score})
    labels = in_order((label for label, _, _ in found), order)
    rows = []
    for place in sorted(found, key=lambda place: (labels.index(place[0]), place[1:])):
        seeds = found[place]
        mean, interval = mean_interval([seed["score"] for seed in seeds])
        means = [float(np.mean([seed[name] for seed in seeds])) for name in _MEANS]
        rows.append((*place, len(seeds), *means, mean, *(interval or (np.nan, np.nan))))
    return pd.DataFrame(rows, columns=list(_CURVE)).set_index(["method", "task", "step"])


def _with_curve(records: tuple[Record, ...]) -> list[ScoreRecord]:
    found = [record for record in score_records(records) if record.status == "ok" and record.curve]
    check_one_content(found)
    return found


def _spent(record: ScoreRecord, point: CurvePoint, work: Mapping[str, Work]) -> dict[str, float]:
    """Steps, training seconds and FLOPs of forward and backward up to a point."""
    passes = point.step * int(record.recipe.get("gradient_accumulation") or 1)
    known = work.get(record.method.label)
    flops = known.flops(point, passes) if known else float("nan")
    return {"step": float(point.step), "seconds": point.seconds, "flops": flops}


class Reached(NamedTuple):
    """What each method spent until its score first came near the baseline's."""

    cells: pd.DataFrame
    """One row per (method, task, seed) with a curve: ``target`` (`NEAR` times the baseline's mean final score of the
    task, points), ``final`` score, and ``step seconds flops`` at the first point of the curve that reaches the target;
    NaN where none does."""
    table: pd.DataFrame
    """One row per (method, task): ``target``, ``reached`` of ``seeds``, the medians ``step seconds flops`` over all
    seeds, NaN where half of them or more never came there, ``peak_bytes`` of a training step from the method's probe,
    and ``why`` it carries no verdict."""


def reached(run: Run, order: Sequence[str]) -> Reached:
    """Look up, for each method, task and seed, the first point of the curve near the baseline's final score.

    A curve is read at a few points alone: each figure is the most that was needed, up to one share of the steps less.

    Args:
        run: Its scores with a curve are read, and counts and costs where it has them.
        order: Labels in the order of the suite.

    Raises:
        BenchError: Scores or costs cannot stand in one table.
    """
    return _REACHES.get(run, lambda: _reached(run, order), tuple(order))


_REACHES: Once[Run, Reached] = Once()


def _reached(run: Run, order: Sequence[str]) -> Reached:
    baseline, records = run.suite.baseline, _with_curve(run.records)
    by_task: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in score_records(run.records):
        if record.status == "ok" and record.method.label == baseline:
            by_task[record.task_name].append(record)
    targets = {task: _target(found) for task, found in by_task.items()}
    work = training_flops(run.records)
    cells = pd.DataFrame([_cell(r, targets.get(r.task_name, np.nan), work) for r in records], columns=list(_REACHED))
    peaks = method_cost(run, list(order), "peak_step_bytes")
    rows: list[dict[str, Any]] = []
    labels = in_order(cells["method"], order)
    groups = {place: group for place, group in cells.groupby(["method", "task"], sort=False)}
    for label, task in sorted(groups, key=lambda place: labels.index(place[0])):
        group = groups[label, task]
        mine = [r for r in records if (r.method.label, r.task_name) == (label, task)]
        row = {"method": label, "task": task, "target": group["target"].iloc[0], "seeds": len(group)}
        row |= {"reached": int(group["step"].notna().sum())}
        row |= {name: _median(group, name) for name in SPENT}
        rows.append(row | {"peak_bytes": peaks.get(label, np.nan), "why": _why(label, task, mine, by_task, baseline)})
    names = ["method", "task", "target", "seeds", "reached", *SPENT, "peak_bytes", "why"]
    return Reached(cells, pd.DataFrame(rows, columns=names).set_index(["method", "task"]))


def _target(baseline: Sequence[ScoreRecord]) -> float:
    """Points to reach; NaN where the baseline's mean is not above 0, as a correlation's may be."""
    mean = 100 * float(np.mean([record.score or 0.0 for record in baseline]))
    return NEAR * mean if mean > 0 else float("nan")


def _cell(record: ScoreRecord, target: float, work: Mapping[str, Work]) -> dict[str, Any]:
    row = {"method": record.method.label, "task": record.task_name, "seed": record.seed, "target": target}
    row |= {"final": 100 * (record.score or 0.0)} | dict.fromkeys(SPENT, float("nan"))
    first = next((point for point in record.curve if 100 * point.score >= target), None)
    return row | (_spent(record, first, work) if first is not None else {})


def _median(cells: pd.DataFrame, name: str) -> float:
    """Median over seeds; one that never came there took longer than any other."""
    spent = cells[name].to_numpy(dtype=float)
    if np.isnan(spent[cells["step"].notna()]).any():
        return float("nan")  # it was reached, and this figure of it is not known
    median = float(np.median(np.where(np.isnan(spent), np.inf, spent)))
    return median if np.isfinite(median) else float("nan")


def _why(
    label: str, task: str, mine: Sequence[ScoreRecord], by_task: Mapping[str, Sequence[ScoreRecord]], baseline: str
) -> tuple[str, ...]:
    why = doubts(mine, [(task, record.seed) for record in mine])
    if label != baseline:
        why += [f"{baseline} {doubt}" for doubt in training_doubts(by_task.get(task, ()))]
    return tuple(why)

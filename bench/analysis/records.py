"""Picks the records that readers compare: the newest of each cell, of each method in a probe, of each swept value."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord

if TYPE_CHECKING:
    from bench.analysis.results import Results


def latest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep the newest record of each cell, of each method in a probe and at each value of a sweep.

    Returns:
        The records in their order, and how many older ones were left out.
    """
    newest: dict[tuple[object, ...], Record] = {}
    total = 0
    for record in records:
        total += 1
        if isinstance(record, ScoreRecord):
            place: tuple[object, ...] = (record.method.label, record.task_name, record.seed)
        elif isinstance(record, CostRecord):
            place = (record.method.label, record.shape)
        else:
            place = (record.method.label, record.sweep, record.value, "point")
        if place not in newest or record.ended >= newest[place].ended:
            newest[place] = record
    return list(newest.values()), total - len(newest)


def in_order(labels: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each label once: those of ``order`` first, also where no record has them, then the rest as they come."""
    return list(dict.fromkeys([*order, *labels]))


def _point(record: CostRecord | CountRecord) -> str | None:
    return f"{record.sweep} at {record.value}" if isinstance(record, CountRecord) else None


def failures(results: "Results") -> pd.DataFrame:
    """Records that are not ok: ``kind status method task seed reason``; a sweep's ``task`` is its point."""
    rows = [
        (r.kind, r.status, r.method.label, r.task_name, r.seed, r.reason)
        if isinstance(r, ScoreRecord)
        else (r.kind, r.status, r.method.label, _point(r), None, r.reason)
        for r in results.records
        if r.status != "ok"
    ]
    return pd.DataFrame(rows, columns=["kind", "status", "method", "task", "seed", "reason"], dtype=object)

"""Picks the records that readers compare: the newest of each cell, of each method in a probe, of each swept value."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord, Stored

if TYPE_CHECKING:
    from bench.analysis.results import Results
Kept = TypeVar("Kept", bound=Stored)
Place = TypeVar("Place", bound=Hashable)


def newest(records: Iterable[Kept], place: Callable[[Kept], Place]) -> dict[Place, Kept]:
    """The newest record of each place, in the order in which places come first."""
    held: dict[Place, Kept] = {}
    for record in records:
        at = place(record)
        if at not in held or record.ended >= held[at].ended:
            held[at] = record
    return held


def latest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep the newest record of each cell, of each method in a probe and at each value of a sweep.

    Returns:
        The records in their order, and how many older ones were left out.
    """
    every = list(records)
    held = list(newest(every, _place).values())
    return held, len(every) - len(held)


def _place(record: Record) -> Hashable:
    if isinstance(record, ScoreRecord):
        return record.method.label, record.task_name, record.seed
    if isinstance(record, CostRecord):
        return record.method.label, record.shape
    return record.method.label, record.sweep, record.value, "point"


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

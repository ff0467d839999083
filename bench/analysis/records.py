"""Picks the records that readers compare: the newest of each cell, by kind; lifts no figure out of them."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from bench.analysis.once import Once
from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord


def latest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep the newest record of each cell, of each method in a probe and at each value of a sweep.

    Returns:
        The records in their order, and how many older ones were left out.
    """
    found = _sorted(records)
    return list(found.newest), found.older


def cost_records(records: Iterable[Record]) -> list[CostRecord]:
    """The newest cost records, failures included."""
    return list(_sorted(records).costs)


def count_records(records: Iterable[Record]) -> list[CountRecord]:
    """The newest count records, failures included."""
    return list(_sorted(records).counts)


def score_records(records: Iterable[Record]) -> list[ScoreRecord]:
    """The newest score records, failures included."""
    return list(_sorted(records).scores)


class _Sorted(NamedTuple):
    newest: tuple[Record, ...]
    older: int
    """How many were left out."""
    costs: tuple[CostRecord, ...]
    counts: tuple[CountRecord, ...]
    scores: tuple[ScoreRecord, ...]


_KNOWN: Once[tuple[Record, ...], _Sorted] = Once()


def _sorted(records: Iterable[Record]) -> _Sorted:
    """Sort ``records``; those of a run, a tuple, once for all tables."""
    return _KNOWN.get(records, lambda: _sort(records)) if isinstance(records, tuple) else _sort(records)


def _sort(records: Iterable[Record]) -> _Sorted:
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
    kept = tuple(newest.values())
    return _Sorted(
        kept,
        total - len(kept),
        tuple(record for record in kept if isinstance(record, CostRecord)),
        tuple(record for record in kept if isinstance(record, CountRecord)),
        tuple(record for record in kept if isinstance(record, ScoreRecord)),
    )


def in_order(labels: Iterable[str], order: Sequence[str]) -> list[str]:
    """Each label once: those of ``order`` first, also where no record has them, then the rest as they come."""
    return list(dict.fromkeys([*order, *labels]))


def _point(record: CostRecord | CountRecord) -> str | None:
    return f"{record.sweep} at {record.value}" if isinstance(record, CountRecord) else None


def failures(records: Iterable[Record]) -> pd.DataFrame:
    """Records that are not ok: ``kind status method task seed reason``; a sweep's ``task`` is its point."""
    rows = [
        (r.kind, r.status, r.method.label, r.task_name, r.seed, r.reason)
        if isinstance(r, ScoreRecord)
        else (r.kind, r.status, r.method.label, _point(r), None, r.reason)
        for r in latest(records)[0]
        if r.status != "ok"
    ]
    return pd.DataFrame(rows, columns=["kind", "status", "method", "task", "seed", "reason"], dtype=object)

"""Picks the records that readers compare: the newest of each cell, by kind; lifts no figure out of them."""

from collections.abc import Iterable, Sequence

import pandas as pd

from bench.record import CostRecord, CountRecord, Record, ScoreRecord


def latest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep the newest record of each cell, of each method in a probe and at each value of a sweep.

    Returns:
        The records in their order, and how many older ones were left out.
    """
    newest: dict[tuple[object, ...], Record] = {}
    total = 0
    for record in records:
        total += 1
        place: tuple[object, ...] = (record.task_name, record.seed) if isinstance(record, ScoreRecord) else ()
        if isinstance(record, CostRecord):
            place = (record.shape,)
        elif isinstance(record, CountRecord):
            place = (record.sweep, record.value)
        place = (*place, record.method.label)
        if place not in newest or record.ended >= newest[place].ended:
            newest[place] = record
    return list(newest.values()), total - len(newest)


def cost_records(records: Iterable[Record]) -> list[CostRecord]:
    """The newest cost records, failures included."""
    return [record for record in latest(records)[0] if isinstance(record, CostRecord)]


def count_records(records: Iterable[Record]) -> list[CountRecord]:
    """The newest count records, failures included."""
    return [record for record in latest(records)[0] if isinstance(record, CountRecord)]


def score_records(records: Iterable[Record]) -> list[ScoreRecord]:
    """The newest score records, failures included."""
    return [record for record in latest(records)[0] if isinstance(record, ScoreRecord)]


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

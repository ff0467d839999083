"""Lifts latencies of every length and batch into one long table; draws and judges nothing."""

from collections.abc import Iterable, Sequence

import pandas as pd

from bench.analysis.costs import MODES, check_one_environment, cost_shapes
from bench.analysis.records import cost_records, in_order
from bench.schema.record import CostRecord, Record

COLUMNS = ("method", "mode", "length", "batch", "ratio", "low", "high", "control_low", "control_high")


def latency_table(records: Iterable[Record], order: Sequence[str] = ()) -> pd.DataFrame:
    """Latency against the bare backbone with the same head, at every length and batch that was measured.

    Args:
        records: Any records; read are costs without fault that say how long a row of inference was, on the first of
            `cost_shapes` and on those that differ from it in batch and length alone. Where two of these took rows of
            one length, the first stands.
        order: Labels in the order of the suite.

    Returns:
        One row per method, mode (``unmerged``, ``merged``), length (tokens a row) and batch (rows): the ratio of times
        with its 95 % interval, and the interval of the A/A control that was taken in the same rounds (NaN where none
        was). Lengths and batches rise within a method.

    Raises:
        BenchError: The costs come from more than one environment.
    """
    rows = []
    for record in _comparable(records):
        for mode in MODES:
            latency = getattr(record.latency_seconds, mode)
            for size, timing in latency.by_batch.items() if latency is not None else ():
                control = record.aa_control.get(f"latency_batch_{size}")
                noise = control.interval if control is not None else (float("nan"), float("nan"))
                rows.append((record.method.label, mode, record.latency_length, size, timing.ratio_to_baseline,
                             *timing.ratio_interval, *noise))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    labels = in_order(table["method"], order)
    table["method"] = pd.Categorical(table["method"], labels)
    return table.sort_values(["method", "mode", "length", "batch"], ignore_index=True).astype({"method": object})


def _comparable(records: Iterable[Record]) -> list[CostRecord]:
    """One record a method and length, all of one machine and one form of the step."""
    costs = [r for r in cost_records(records) if r.status == "ok" and r.latency_seconds and r.latency_length]
    shapes = cost_shapes(costs)
    same = [
        s for s in shapes if s.model_copy(update={"batch": shapes[0].batch, "length": shapes[0].length}) == shapes[0]
    ]
    found: dict[tuple[str, int | None], CostRecord] = {}
    for record in sorted((r for r in costs if r.shape in same), key=lambda r: same.index(r.shape)):
        found.setdefault((record.method.label, record.latency_length), record)
    check_one_environment(list(found.values()))
    return list(found.values())

"""Lifts cost records into tables with ratios to the baseline; knows nothing of scores.

All figures keep SI base units. A figure that a record lacks is NaN, never 0.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.once import Once
from bench.analysis.records import cost_records, in_order
from bench.errors import BenchError
from bench.schema.claims import BASE as BASE
from bench.schema.claims import MODES as MODES
from bench.schema.record import CostRecord, Inference, Record, Shape, Timing
from bench.stats.noise import QUIET as QUIET

PHASES = ("forward", "backward", "optimizer", "step")
BATCHES = ("batch_1", "batch_8", "batch_32")
"""Batch sizes of inference, as columns name them, that a table has columns for also where none was measured."""
INFERENCE = tuple(Inference.model_fields)
"""What is counted of one inference."""
MERGE_TYPES = ("float32", "bfloat16")
LEAVES = ("seconds", "p95", "ratio", "low", "high", "blocks", "samples")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def check_one_environment(records: Sequence[CostRecord]) -> None:
    """Refuse to pool costs of different machines or versions; name the first field that differs."""
    for record in records[1:]:
        first = records[0]
        if record.environment.get("fingerprint") == first.environment.get("fingerprint"):
            continue
        ours, theirs = _flat(first.environment), _flat(record.environment)
        free = ("commit", "dirty", "load_average", "fingerprint", "platform")
        differing = [key for key in ours | theirs if key not in free and ours.get(key) != theirs.get(key)]
        field = differing[0] if differing else "fingerprint"
        raise BenchError(
            f"cost records of different environments cannot stand in one table: {field} is {ours.get(field)!r} for "
            f"{first.method.label!r} but {theirs.get(field)!r} for {record.method.label!r}; "
            "measure all of them on one machine, into a folder of their own (--out) or again (--fresh)"
        )


def cost_shapes(records: Iterable[Record]) -> list[Shape]:
    """The shapes that were probed, first those that hold most methods, then those with most tokens."""
    held = Counter(record.shape for record in cost_records(records))
    return sorted(held, key=lambda shape: (-held[shape], -shape.batch * shape.length))


def _timing(prefix: str, timing: Timing | None) -> dict[str, float]:
    if timing is None:
        return {}
    low, high = timing.ratio_interval
    figures = (timing.median, timing.p95, timing.ratio_to_baseline, low, high)
    counts = (len(timing.samples), sum(map(len, timing.samples)))
    return {f"{prefix}_{leaf}": value for leaf, value in zip(LEAVES, (*figures, *counts), strict=True)}


def _ledger_row(record: CostRecord, baseline: CostRecord | None) -> dict[str, Any]:
    row: dict[str, Any] = {"delta_bytes": record.delta_bytes, "peak_memory_source": record.peak_memory_source}
    if record.trainable_parameters:
        row["trainable_method"] = record.trainable_parameters.method
        row["trainable_head"] = record.trainable_parameters.head
    if record.bytes:
        row |= {f"{name}_bytes": value for name, value in record.bytes.model_dump().items()}
    if record.peak_memory_bytes:
        row |= {f"peak_{name}_bytes": value for name, value in record.peak_memory_bytes.model_dump().items()}
    if record.predicted_peak_memory_bytes:
        row["predicted_step_bytes"] = record.predicted_peak_memory_bytes.step
    if record.flops:
        row |= {"flops_forward": record.flops.forward, "flops_backward": record.flops.backward}
        row["flops_backward_weight_gradient"] = record.flops.backward_weight_gradient
        row["flops_backward_input_gradient"] = record.flops.backward_input_gradient
        row["flops_backward_backbone"] = record.flops.backbone.backward
        if baseline and baseline.flops and baseline.flops.backward:
            row["flops_backward_ratio"] = record.flops.backward / baseline.flops.backward
    return row


def _inference_row(record: CostRecord) -> dict[str, Any]:
    if record.inference is None:
        return {}
    counted = {mode: getattr(record.inference, mode) for mode in (BASE, *MODES)}
    return {"latency_length": record.latency_length} | {
        f"inference_{mode}_{name}": getattr(found, name)
        for mode, found in counted.items() if found is not None for name in INFERENCE
    }  # fmt: skip


def _time_row(record: CostRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"switch_seconds": record.switch_seconds}
    for phase in PHASES:
        row |= _timing(phase, getattr(record, f"{phase}_seconds"))
    if record.latency_seconds:
        for mode in MODES:
            latency = getattr(record.latency_seconds, mode)
            for rows, timing in latency.by_batch.items() if latency else ():
                row |= _timing(f"{mode}_batch_{rows}", timing)
    if record.merged_equals_base:
        row["merged_is_base"] = record.merged_equals_base.all
    if record.merge_error:
        row |= {f"merge_error_{dtype}": record.merge_error.get(dtype) for dtype in MERGE_TYPES}
    return row


def _cost_columns(batches: Iterable[str]) -> list[str]:
    timed = [*PHASES, *(f"{mode}_{batch}" for mode in MODES for batch in batches)]
    return [
        *("status", "trainable_method", "trainable_head", "delta_bytes"),
        *("flops_forward", "flops_backward", "flops_backward_ratio"),
        *("flops_backward_weight_gradient", "flops_backward_input_gradient", "flops_backward_backbone"),
        *("weights_bytes", "gradients_bytes", "optimizer_state_bytes", "saved_activations_bytes"),
        *(f"peak_{phase}_bytes" for phase in PHASES),
        *("predicted_step_bytes", "peak_memory_source"),
        "latency_length",
        *(f"inference_{mode}_{name}" for mode in (BASE, *MODES) for name in INFERENCE),
        *(f"{name}_{leaf}" for name in timed for leaf in LEAVES),
        *("merged_is_base", *(f"merge_error_{dtype}" for dtype in MERGE_TYPES), "switch_seconds"),
    ]


def cost_table(records: Iterable[Record], order: Sequence[str] = (), shape: Shape | None = None) -> pd.DataFrame:
    """Costs of each method on one shape.

    Args:
        records: Any records; only costs are read.
        order: Labels in the order of the suite; a label without a record gets an empty row.
        shape: One of `cost_shapes`; None: the first of them.

    Returns:
        One row per method label. ``*_ratio``, ``*_low``, ``*_high`` refer to the baseline (95 % interval), except for
        ``merged_*`` and ``unmerged_*``, which refer to the bare backbone. ``flops_backward_ratio`` is exact.

    Raises:
        BenchError: The costs come from more than one environment.
    """
    if isinstance(records, tuple):  # those of a run, whose every page and figure reads this table
        key = (tuple(order), shape)
        return _KNOWN.get(records, lambda: _cost_table(records, order, shape), key).copy()
    return _cost_table(records, order, shape)


_KNOWN: Once[tuple[Record, ...], pd.DataFrame] = Once(kept=8)


def _cost_table(records: Iterable[Record], order: Sequence[str], shape: Shape | None) -> pd.DataFrame:
    costs = cost_records(records)
    shape = shape or next(iter(cost_shapes(costs)), None)
    costs = [record for record in costs if record.shape == shape]
    done = [record for record in costs if record.status == "ok"]
    check_one_environment(done)
    by_label = {record.method.label: record for record in done}
    rows: dict[str, dict[str, Any]] = {}
    for record in costs:
        rows[record.method.label] = {"status": record.status}
        if record.status == "ok":
            baseline = by_label.get(record.baseline)
            rows[record.method.label] |= _ledger_row(record, baseline) | _inference_row(record)
            rows[record.method.label] |= _time_row(record)
    labels = in_order(rows, order)
    table = pd.DataFrame([rows.get(label, {}) for label in labels], index=pd.Index(labels, name="method"))
    table = table.reindex(columns=_cost_columns(_batches(done)))
    kept = {"status", "peak_memory_source", "merged_is_base"}
    return table.astype({column: float if column not in kept else object for column in table.columns})


def peak_column(table: pd.DataFrame) -> str:
    """Column of a table of `cost_table` that tells the peak of a training step: the predicted one where none ran."""
    return "predicted_step_bytes" if table["peak_step_bytes"].isna().all() else "peak_step_bytes"


def _batches(records: Iterable[CostRecord]) -> list[str]:
    """`BATCHES` and the others that ``records`` were measured at, rising."""
    measured = {batch for r in records if r.latency_seconds for batch in r.latency_seconds.base.by_batch}
    return [f"batch_{rows}" for rows in sorted(measured | {int(b.removeprefix("batch_")) for b in BATCHES})]


def measured_batches(table: pd.DataFrame) -> list[str]:
    """Batch sizes, ``batch_1`` and so on, at which a table of `cost_table` holds a latency."""
    columns = (re.fullmatch(rf"{MODES[0]}_(batch_\d+)_ratio", str(column)) for column in table.columns)
    return [
        b
        for b in (match[1] for match in columns if match)
        if table[[f"{mode}_{b}_ratio" for mode in MODES]].notna().any(axis=None)
    ]


def controls(records: Iterable[Record]) -> pd.DataFrame:
    """The A/A controls: the baseline against itself.

    Returns:
        One row per control and probe group: ``name ratio low high quiet``; quiet when the interval lies within `QUIET`.
    """
    found = dict.fromkeys(
        (name, control.ratio, *control.interval)
        for record in cost_records(records)
        for name, control in record.aa_control.items()
    )
    table = pd.DataFrame(list(found), columns=["name", "ratio", "low", "high"])
    return table.assign(quiet=(table["low"] >= QUIET[0]) & (table["high"] <= QUIET[1]))

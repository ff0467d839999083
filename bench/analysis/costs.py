"""Builds tables of costs: every method on one shape with ratios to the baseline, and latencies of all lengths.

All figures keep SI base units. A figure that a record lacks is NaN, never 0.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import BenchError
from bench.schema import figures
from bench.schema.figures import BASE as BASE
from bench.schema.figures import MERGE_TYPES as MERGE_TYPES
from bench.schema.figures import MODES as MODES
from bench.schema.figures import PHASES as PHASES
from bench.schema.record import CostRecord, CountRecord, Inference, Shape, Timing
from bench.stats.intervals import QUIET as QUIET

if TYPE_CHECKING:
    from bench.analysis.results import Results

BATCHES = ("batch_1", "batch_8", "batch_32")
"""Batch sizes of inference, as columns name them, that a table has columns for also where none was measured."""
_STEP_TIMES = {f.name: f.path for f in figures.of_group("timed") if figures.BATCH not in f.path}
"""Path of each time of a training step by the first part of its columns' names."""
INFERENCE = tuple(Inference.model_fields)
"""What is counted of one inference."""


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted name."""
    by_name: dict[str, Any] = {}
    for key, inner in value.items():
        by_name |= flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {prefix + key: inner}
    return by_name


def check_one_environment(records: Sequence[CostRecord]) -> None:
    """Refuse to pool costs of different machines or versions; name the first field that differs."""
    for record in records[1:]:
        first = records[0]
        if record.environment.get("fingerprint") == first.environment.get("fingerprint"):
            continue
        ours, theirs = flat(first.environment), flat(record.environment)
        free = ("commit", "dirty", "load_average", "fingerprint", "node", "platform")
        differing = [key for key in ours | theirs if key not in free and ours.get(key) != theirs.get(key)]
        field = differing[0] if differing else "fingerprint"
        raise BenchError(
            f"cost records of different environments cannot stand in one table: {field} is {ours.get(field)!r} for "
            f"{first.method.label!r} but {theirs.get(field)!r} for {record.method.label!r}; "
            "measure all of them on one machine, into a folder of their own (--out) or again (--fresh)"
        )


def cost_shapes(records: Iterable[CostRecord]) -> list[Shape]:
    """The shapes that were probed, first those that hold most methods, then those with most tokens."""
    held = Counter(record.shape for record in records)
    return sorted(held, key=lambda shape: (-held[shape], -shape.batch * shape.length))


def _timing(prefix: str, timing: Timing | None) -> dict[str, float]:
    if timing is None:
        return {}
    low, high = timing.ratio_interval
    values = (timing.median, timing.p95, timing.ratio_to_baseline, low, high)
    counts = (len(timing.samples), sum(map(len, timing.samples)))
    return {f"{prefix}_{leaf}": value for leaf, value in zip(figures.OF_A_TIME, (*values, *counts), strict=True)}


def counted_row(record: CostRecord | CountRecord) -> dict[str, Any]:
    """What a cost table shows of the counts and the memory of a record, by column; a figure that it lacks is None."""
    shown = (*figures.of_group("counted"), *figures.of_group("memory"))
    return {column: figures.read(record, path) for figure in shown for column, path in figure.columns.items()}


def _row(record: CostRecord, baseline: CostRecord | None) -> dict[str, Any]:
    row = counted_row(record) | {"peak_memory_source": record.peak_memory_source}
    if record.flops and baseline and baseline.flops and baseline.flops.backward:
        row["flops_backward_ratio"] = record.flops.backward / baseline.flops.backward
    row["latency_length"] = record.latency_length if record.inference else None
    for figure in (f for group in ("inference", "energy", "merge") for f in figures.of_group(group)):
        row |= {column: figures.read(record, path) for column, path in figure.columns.items()}
    for prefix, timing in _timings(record).items():
        row |= _timing(prefix, timing)
    return row | _throughput(record)


THROUGHPUT = ("step_tokens_per_second", "step_target_tokens_per_second")
"""Columns that the median time of a step and its shape give."""


def _throughput(record: CostRecord) -> dict[str, float]:
    """Tokens of a step, and those with a next-token target where the shape says how many, over its median time."""
    if record.step_seconds is None or not record.step_seconds.median:
        return {}
    rows = record.shape.batch / record.step_seconds.median
    tokens = (record.shape.length, record.shape.target_tokens)
    return {name: rows * held for name, held in zip(THROUGHPUT, tokens, strict=True) if held is not None}


def _timings(record: CostRecord) -> dict[str, Timing | None]:
    """The times of a cost table by the first part of their columns' names."""
    timed: dict[str, Timing | None] = {name: figures.read(record, path) for name, path in _STEP_TIMES.items()}
    for mode in MODES:
        latency = getattr(record.latency_seconds, mode, None)
        timed |= {f"{mode}_batch_{rows}": timing for rows, timing in (latency.by_batch if latency else {}).items()}
    return timed


def _cost_columns(batches: Iterable[str]) -> list[str]:
    def of(group: figures.Group) -> list[str]:
        return [column for figure in figures.of_group(group) for column in figure.columns]

    counted, timed = of("counted"), [*_STEP_TIMES, *(f"{mode}_{batch}" for mode in MODES for batch in batches)]
    counted.insert(counted.index("flops_backward") + 1, "flops_backward_ratio")
    times = [f"{name}_{leaf}" for name in timed for leaf in figures.OF_A_TIME]
    beside = ["peak_memory_source", "latency_length"]
    timed_and_more = [*times, *THROUGHPUT, *of("energy"), *of("merge")]
    return ["status", *counted, *of("memory"), *beside, *of("inference"), *timed_and_more]


def cost_table(results: "Results", shape: Shape | None = None) -> pd.DataFrame:
    """Costs of each method on one shape.

    Args:
        results: Of a run.
        shape: One of its shapes; None: the first of them.

    Returns:
        One row per method label; a label without a record has an empty row. ``*_ratio``, ``*_low``, ``*_high`` refer
        to the baseline (95 % interval), except for ``merged_*`` and ``unmerged_*``, which refer to the bare backbone.
        ``flops_backward_ratio`` is exact.

    Raises:
        BenchError: The costs come from more than one environment.
    """
    shape = shape or next(iter(results.shapes), None)
    costs = [record for record in results.cost_records if record.shape == shape]
    done = [record for record in costs if record.status == "ok"]
    check_one_environment(done)
    by_label = {record.method.label: record for record in done}
    rows: dict[str, dict[str, Any]] = {}
    for record in costs:
        rows[record.method.label] = {"status": record.status}
        if record.status == "ok":
            rows[record.method.label] |= _row(record, by_label.get(record.baseline))
    index = pd.Index(results.labels, name="method")
    table = pd.DataFrame([rows.get(label, {}) for label in results.labels], index=index)
    table = table.reindex(columns=_cost_columns(_batches(done)))
    kept = {"status", "peak_memory_source", "merged_is_base"}
    typed = table.astype({column: float if column not in kept else object for column in table.columns})
    return typed.copy()  # in one piece, not a column each


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


def controls(records: Iterable[CostRecord]) -> pd.DataFrame:
    """The A/A controls: the baseline against itself.

    Returns:
        One row per control and probe group: ``name ratio low high quiet``; quiet when the interval lies within `QUIET`.
    """
    found = dict.fromkeys(
        (name, control.ratio, *control.interval) for record in records for name, control in record.aa_control.items()
    )
    table = pd.DataFrame(list(found), columns=["name", "ratio", "low", "high"])
    return table.assign(quiet=(table["low"] >= QUIET[0]) & (table["high"] <= QUIET[1]))


LATENCY = ("method", "mode", "length", "batch", "ratio", "low", "high", "control_low", "control_high")


def latency_table(results: "Results") -> pd.DataFrame:
    """Latency against the bare backbone with the same head, at every length and batch that was measured.

    Read are costs without fault that say how long a row of inference was, on the first of the run's shapes and on
    those that differ from it in batch and length alone. Where two of these took rows of one length, the first stands.

    Returns:
        One row per method, mode (``unmerged``, ``merged``), length (tokens a row) and batch (rows): the ratio of times
        with its 95 % interval, and the interval of the A/A control that was taken in the same rounds (NaN where none
        was). Lengths and batches rise within a method.

    Raises:
        BenchError: The costs come from more than one environment.
    """
    rows = []
    for record in _comparable(results.cost_records):
        for mode in MODES:
            latency = getattr(record.latency_seconds, mode)
            for size, timing in latency.by_batch.items() if latency is not None else ():
                control = record.aa_control.get(f"latency_batch_{size}")
                noise = control.interval if control is not None else (float("nan"), float("nan"))
                rows.append((record.method.label, mode, record.latency_length, size, timing.ratio_to_baseline,
                             *timing.ratio_interval, *noise))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(LATENCY))
    table["method"] = pd.Categorical(table["method"], results.labels)
    return table.sort_values(["method", "mode", "length", "batch"], ignore_index=True).astype({"method": object})


def _comparable(records: Iterable[CostRecord]) -> list[CostRecord]:
    """One record a method and length, all of one machine and one form of the step."""
    costs = [r for r in records if r.status == "ok" and r.latency_seconds and r.latency_length]
    shapes = cost_shapes(costs)
    same = [
        s for s in shapes if s.model_copy(update={"batch": shapes[0].batch, "length": shapes[0].length}) == shapes[0]
    ]
    found: dict[tuple[str, int | None], CostRecord] = {}
    for record in sorted((r for r in costs if r.shape in same), key=lambda r: same.index(r.shape)):
        found.setdefault((record.method.label, record.latency_length), record)
    check_one_environment(list(found.values()))
    return list(found.values())


WRITTEN = (
    "method", "mode", "context", "batch",
    *(f"{phase}_{leaf}" for phase in figures.GENERATION
      for leaf in ("seconds", "ratio", "low", "high", "control_low", "control_high")),
    "blocks", "tokens_per_second", *(f"{phase}_{leaf}" for phase in figures.GENERATION for leaf in INFERENCE),
    "cache_bytes", "cache_bytes_per_token",
)  # fmt: skip


def generation_table(results: "Results", shape: Shape | None = None) -> pd.DataFrame:
    """What writing text takes on one shape.

    Args:
        results: Of a run.
        shape: One of its shapes; None: the first of them.

    Returns:
        One row per method, mode (``base``, ``unmerged``, ``merged``), context (tokens read before) and batch (rows; NaN
        where no time was taken). Times are medians, of ``prefill`` for all rows, of ``decode`` for one token of each;
        ratios refer to the bare backbone, with their 95 % intervals and those of the A/A control of the same
        ``blocks``; ``tokens_per_second`` is batch over the decode time. Counts and the cache are of one row.
    """
    shape = shape or next(iter(results.shapes), None)
    rows = []
    for record in results.cost_records:
        if record.shape == shape and record.status == "ok" and record.decode is not None:
            rows += list(_written(record))
    table = pd.DataFrame(rows, columns=list(WRITTEN))
    table["method"] = pd.Categorical(table["method"], results.labels)
    table["mode"] = pd.Categorical(table["mode"], [BASE, *MODES])
    ordered = table.sort_values(["method", "mode", "context", "batch"], ignore_index=True)
    return ordered.astype({name: object if name in ("method", "mode") else float for name in WRITTEN})


def _written(record: CostRecord) -> Iterable[dict[str, Any]]:
    for mode in (BASE, *MODES):
        for key in getattr(record.decode, mode) or ():
            row = {"method": record.method.label, "mode": mode, "context": int(key.removeprefix("context_"))}
            for phase in figures.GENERATION:
                row |= {f"{phase}_{leaf}": figures.read(record, f"{phase}.{mode}.{key}.{leaf}") for leaf in INFERENCE}
            size = getattr(record.kv_cache, mode)[key]
            row |= {"cache_bytes": size.bytes, "cache_bytes_per_token": size.bytes_per_token}
            timed = figures.read(record, f"decode_seconds.{mode}.{key}")
            for rows in timed.by_batch if timed is not None else (None,):
                yield row | {"batch": rows} | (_writing_times(record, mode, key, rows) if rows is not None else {})


def _writing_times(record: CostRecord, mode: str, key: str, rows: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for phase in figures.GENERATION:
        timing = figures.read(record, f"{phase}_seconds.{mode}.{key}.batch_{rows}")
        told = {"seconds": timing.median, "ratio": timing.ratio_to_baseline,
                **dict(zip(("low", "high"), timing.ratio_interval, strict=True))}  # fmt: skip
        if (control := record.aa_control.get(f"{phase}_{key}_batch_{rows}")) is not None:
            told |= dict(zip(("control_low", "control_high"), control.interval, strict=True))
        found |= {f"{phase}_{leaf}": value for leaf, value in told.items()}
    found["blocks"] = len(timing.samples)
    return found | ({"tokens_per_second": rows / found["decode_seconds"]} if found["decode_seconds"] else {})

"""Lifts records into tables that people and checks read; measures nothing, formats nothing, decides no verdict.

All figures keep SI base units; scores are in points of 100. A figure that a record lacks is NaN, never 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.record import CostRecord, CountRecord, Record, ScoreRecord, Shape, Timing
from bench.stats import Interval, mean_interval, paired_difference

MIN_SEEDS = 5
"""Fewer seeds carry no verdict about scores."""
QUIET = (0.97, 1.03)
"""The A/A control's interval must lie within these ratios, or times carry no conclusion."""
PHASES = ("forward", "backward", "optimizer", "step")
MODES = ("unmerged", "merged")
BATCHES = ("batch_1", "batch_32")
MERGE_TYPES = ("float32", "bfloat16")
LEAVES = ("seconds", "p95", "ratio", "low", "high", "blocks", "samples")


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


def _ordered(labels: Iterable[str], order: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*order, *labels]))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat


def _check_one_environment(records: Sequence[CostRecord]) -> None:
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


def _check_one_content(records: Sequence[ScoreRecord]) -> None:
    """Refuse to compare scores that were taken on different rows of the same task."""
    seen: dict[str, ScoreRecord] = {}
    for record in records:
        first = seen.setdefault(record.task_name, record)
        if record.task is None or first.task is None or record.task.content_sha256 == first.task.content_sha256:
            continue
        raise BenchError(
            f"scores on different data cannot be compared: task {record.task_name!r} has the rows "
            f"{first.task.content_sha256[:12]} ({first.task.source}) for {first.method.label!r} but "
            f"{record.task.content_sha256[:12]} ({record.task.source}) for {record.method.label!r}; "
            "run both on the same data into a new folder (--out) or again (--fresh)"
        )


def cost_shapes(records: Iterable[Record]) -> list[Shape]:
    """The shapes that were probed, the one with most tokens first."""
    shapes = dict.fromkeys(record.shape for record in cost_records(records))
    return sorted(shapes, key=lambda shape: -shape.batch * shape.length)


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


def _time_row(record: CostRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"switch_seconds": record.switch_seconds}
    for phase in PHASES:
        row |= _timing(phase, getattr(record, f"{phase}_seconds"))
    if record.latency_seconds:
        for mode in MODES:
            latency = getattr(record.latency_seconds, mode)
            for batch in BATCHES:
                row |= _timing(f"{mode}_{batch}", getattr(latency, batch) if latency else None)
    if record.merged_equals_base:
        row["merged_is_base"] = record.merged_equals_base.all
    if record.merge_error:
        row |= {f"merge_error_{dtype}": record.merge_error.get(dtype) for dtype in MERGE_TYPES}
    return row


def _cost_columns() -> list[str]:
    timed = [*PHASES, *(f"{mode}_{batch}" for mode in MODES for batch in BATCHES)]
    return [
        *("status", "trainable_method", "trainable_head", "delta_bytes"),
        *("flops_forward", "flops_backward", "flops_backward_ratio"),
        *("flops_backward_weight_gradient", "flops_backward_input_gradient", "flops_backward_backbone"),
        *("weights_bytes", "gradients_bytes", "optimizer_state_bytes", "saved_activations_bytes"),
        *(f"peak_{phase}_bytes" for phase in PHASES),
        *("predicted_step_bytes", "peak_memory_source"),
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
    costs = cost_records(records)
    shape = shape or next(iter(cost_shapes(costs)), None)
    costs = [record for record in costs if record.shape == shape]
    done = [record for record in costs if record.status == "ok"]
    _check_one_environment(done)
    by_label = {record.method.label: record for record in done}
    rows: dict[str, dict[str, Any]] = {}
    for record in costs:
        rows[record.method.label] = {"status": record.status}
        if record.status == "ok":
            baseline = by_label.get(record.baseline)
            rows[record.method.label] |= _ledger_row(record, baseline) | _time_row(record)
    labels = _ordered(rows, order)
    table = pd.DataFrame([rows.get(label, {}) for label in labels], index=pd.Index(labels, name="method"))
    table = table.reindex(columns=_cost_columns())
    kept = {"status", "peak_memory_source", "merged_is_base"}
    return table.astype({column: float if column not in kept else object for column in table.columns})


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


def cells(records: Iterable[Record]) -> dict[str, dict[tuple[str, int], float]]:
    """Main score in points of 100 by method label and (task, seed); ok records only."""
    scores: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for record in score_records(records):
        if record.status == "ok" and record.score is not None:
            scores[record.method.label][record.task_name, record.seed] = 100 * record.score
    return dict(scores)


def _mean_over_seeds(scores: Mapping[tuple[str, int], float]) -> Interval | None:
    """Student t interval over seeds of the mean over tasks; seeds that lack a task are left out."""
    tasks = {task for task, _ in scores}
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (_, seed), value in scores.items():
        by_seed[seed].append(value)
    whole = [sum(found) / len(found) for found in by_seed.values() if len(found) == len(tasks)]
    return mean_interval(whole)[1] if whole else None


def _obstacles(records: Sequence[ScoreRecord], pairs: Iterable[tuple[str, int]]) -> list[str]:
    """Why a comparison of these records carries no verdict, as short phrases."""
    seeds = len({seed for _, seed in pairs})
    found = [f"{seeds} seed{'s' * (seeds != 1)}"] if seeds < MIN_SEEDS else []
    if any("synthetic" in r.flags or (r.task and r.task.source == "synthetic") for r in records):
        found.append("synthetic data")
    if any("random_weights" in r.flags or (r.backbone and r.backbone.weights == "random") for r in records):
        found.append("random weights")
    return found


def _flags(records: Iterable[ScoreRecord]) -> tuple[str, ...]:
    return tuple(sorted({flag for record in records for flag in record.flags}))


def score_table(records: Iterable[Record], baseline: str, order: Sequence[str] = ()) -> pd.DataFrame:
    """Scores of each method over all tasks and seeds, and the paired difference to the baseline.

    Args:
        records: Any records; only scores are read.
        baseline: Label that the others are compared with.
        order: Labels in the order of the suite; a label without a record gets an empty row.

    Returns:
        One row per method label: ``n`` ok cells, ``failed`` cells, ``mean`` with ``mean_low mean_high`` (95 %, over
        seeds), ``difference low high`` (points, 95 %, paired by task and seed), ``n_pairs``, ``dropped`` (cells that
        only one side has), ``flags``, ``verdict`` (whether one is allowed) and ``why`` not; ``trainable_method`` and
        ``delta_bytes`` as the cells counted them.

    Raises:
        BenchError: The same task was read from different rows.
    """
    scores = score_records(records)
    _check_one_content([record for record in scores if record.status == "ok"])
    by_cell = cells(scores)
    grouped: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in scores:
        grouped[record.method.label].append(record)
    labels = _ordered(grouped, order)
    rows = [_score_row(label, baseline, grouped, by_cell) for label in labels]
    return pd.DataFrame(rows, index=pd.Index(labels, name="method"))


def _score_row(
    label: str,
    baseline: str,
    grouped: Mapping[str, list[ScoreRecord]],
    by_cell: Mapping[str, dict[tuple[str, int], float]],
) -> dict[str, Any]:
    mine, theirs = by_cell.get(label, {}), by_cell.get(baseline, {})
    done = [record for record in grouped.get(label, []) if record.status == "ok"]
    row: dict[str, Any] = {"n": len(done), "failed": len(grouped.get(label, [])) - len(done)}
    row["mean"] = sum(mine.values()) / len(mine) if mine else float("nan")
    row["mean_low"], row["mean_high"] = _mean_over_seeds(mine) or (float("nan"), float("nan"))
    pair = paired_difference(mine, theirs) if label != baseline else None
    row["difference"] = pair.mean if pair and pair.mean is not None else float("nan")
    row["low"], row["high"] = (pair.interval if pair else None) or (float("nan"), float("nan"))
    row["n_pairs"], row["dropped"] = (pair.n_pairs, pair.dropped) if pair else (0, 0)
    row["flags"] = _flags(done)
    why = _obstacles(done, mine.keys() & theirs.keys())
    why += [name.replace("_", " ") for name in ("did_not_learn", "still_improving") if name in row["flags"]]
    other = [] if label == baseline else _flags(r for r in grouped.get(baseline, []) if r.status == "ok")
    why += [f"{baseline} {n.replace('_', ' ')}" for n in ("did_not_learn", "still_improving") if n in other]
    row["why"] = tuple(why)
    row["verdict"] = bool(pair and pair.interval) and not why
    counted = next((record for record in done if record.trainable_parameters), None)
    used = counted.trainable_parameters if counted else None
    row["trainable_method"] = used.method if used else float("nan")
    row["delta_bytes"] = next((r.delta_bytes for r in done if r.delta_bytes is not None), float("nan"))
    return row


def per_task(records: Iterable[Record], baseline: str, order: Sequence[str] = ()) -> pd.DataFrame:
    """Scores of each method on each task.

    Returns:
        One row per (method, task) with ok cells: ``n mean low high`` (95 %, over seeds), the paired ``difference
        difference_low difference_high``, ``floor`` (bag of words, points) and ``flags``.
    """
    grouped: dict[tuple[str, str], list[ScoreRecord]] = defaultdict(list)
    for record in score_records(records):
        if record.status == "ok" and record.score is not None:
            grouped[record.method.label, record.task_name].append(record)
    by_seed = {key: {r.seed: 100 * (r.score or 0.0) for r in found} for key, found in grouped.items()}
    rows = []
    labels = _ordered([label for label, _ in grouped], order)
    for label, task in sorted(grouped, key=lambda key: labels.index(key[0])):
        mine = by_seed[label, task]
        mean, interval = mean_interval(list(mine.values()))
        low, high = interval or (None, None)
        pair = paired_difference(mine, by_seed.get((baseline, task), {})) if label != baseline else None
        pair_low, pair_high = (pair.interval if pair else None) or (None, None)
        found = grouped[label, task]
        floor = next((100 * r.task.floor for r in found if r.task), None)
        difference = pair.mean if pair else None
        rows.append((label, task, len(mine), mean, low, high, difference, pair_low, pair_high, floor, _flags(found)))
    names = "method task n mean low high difference difference_low difference_high floor flags".split()
    table = pd.DataFrame(rows, columns=names)
    return table.astype({name: float for name in names[3:10]}).set_index(["method", "task"])


def floors(records: Iterable[Record]) -> dict[str, float]:
    """Bag-of-words score of each task, in points of 100."""
    return {r.task_name: 100 * r.task.floor for r in score_records(records) if r.status == "ok" and r.task}


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

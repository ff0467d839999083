"""What numbers a record may hold: counts, amounts, ratios and intervals, and the range of every metric."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

METRICS = {
    "accuracy": (0.0, 1.0), "f1": (0.0, 1.0), "macro_f1": (0.0, 1.0), "matthews_correlation": (-1.0, 1.0),
    "pearson": (-1.0, 1.0), "spearman": (-1.0, 1.0), "rmse": (0.0, math.inf), "r2": (-math.inf, 1.0),
    "exact_match": (0.0, 1.0), "answer_nats": (0.0, math.inf),
}  # fmt: skip
"""Least and largest value of each; scores are stored as the metric gives them, tables show points of 100."""
UNKNOWN_RANGE = (-1.0, 1.0)
"""Of a metric of the user's own."""
ROUNDING = 1e-6
"""By which a figure with a largest value may lie above it."""

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1 + ROUNDING, allow_inf_nan=False)]
Angle = Annotated[float, Field(ge=0, le=90 + ROUNDING, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=-1 - ROUNDING, le=1 + ROUNDING, allow_inf_nan=False)]
"""What every metric stays within; a record is also held against the ranges of its own."""
Cosine = Score


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"the interval ends at {interval[1]:g}, before it begins at {interval[0]:g}")
    return interval


Interval = Annotated[tuple[Ratio, Ratio], AfterValidator(_in_order)]


def check_metrics(metrics: Mapping[str, float], score: float | None) -> None:
    """Every metric is within its range, and the score within that of one of them.

    Raises:
        ValueError: It is not; a sentence for a reader of the file.
    """
    ranges = {name: METRICS[name] for name in metrics if name in METRICS}
    for name, (low, high) in ranges.items():
        if not low - ROUNDING <= metrics[name] <= high + ROUNDING:
            raise ValueError(f"metrics.{name} = {metrics[name]:g} is outside {low:g} to {high:g}")
    known = len(ranges) == len(metrics) > 0
    low = min(low for low, _ in ranges.values()) if known else UNKNOWN_RANGE[0]
    if score is not None and score < low - ROUNDING:
        raise ValueError(f"score = {score:g} is below {low:g}, the least of {' and '.join(ranges)}")


RATES = ("learning_rate", "head_learning_rate")
"""What a search chooses."""
MOST_RATE = 1e3
"""The largest learning rate; a mistyped exponent lies beyond it, and no optimizer here learns at it."""
MOST_STEPS = 10**7
"""Optimizer steps of a cell: each leaves a loss in its record."""
MOST_THREADS = 1024
"""Torch threads of a process, beyond those of any machine; torch ends without a word where the system gives none."""


MOST_ROWS = 10**7
"""Rows or tokens of a step or a task; a mistyped exponent lies beyond it, and no step of so many ends."""
MOST_BLOCKS = 100_000
"""Timing blocks of a shape, and rounds of a block."""
MOST_SECONDS = 1e7
"""Any limit of time, four months; a wait of more overflows the system's own clock."""
MOST_NEAREST = 100
"""Words that are noted beside one vector; a record holds two lists of them for each."""
MOST_SEEDS = 1000
"""Seeds of a suite."""
MOST_DEVICES = 1024
"""Devices that share a step."""


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Rates and steps of a resolved recipe can be trained with.

    Raises:
        ValueError: One cannot; a sentence for a reader of the file.
    """
    for name in RATES:
        rate = recipe.get(name, MOST_RATE)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= MOST_RATE:
            raise ValueError(f"{name} = {rate!r} is no learning rate; it must be above 0, {MOST_RATE:g} at most")
    steps = recipe.get("steps", 1)
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps = {steps!r}: must be whole, from 1 to {MOST_STEPS:,}")
    batch, parts = recipe.get("batch_size"), recipe.get("gradient_accumulation") or 1
    if isinstance(batch, int) and parts > batch:
        raise ValueError(f"gradient_accumulation = {parts} is above batch_size = {batch}: a part has no row; lower it")
    devices = recipe.get("devices", 1)
    if isinstance(batch, int) and batch % devices:
        raise ValueError(
            f"batch_size = {batch} is that of all devices, and {devices} of them cannot have the same rows of it; make "
            f"it a multiple of {devices}"
        )
    for name in ("curve_points", "gradient_norms"):
        if (asked := recipe.get(name) or 0) > steps:
            raise ValueError(f"{name} = {asked} is above steps = {steps}; lower it or raise steps")


def check_phases(peaks: Any) -> Any:
    """The peak of a step is at least that of every phase.

    Raises:
        ValueError: It is not; a sentence for a reader of the file.
    """
    if peaks.step < max(peaks.forward, peaks.backward, peaks.optimizer):
        raise ValueError(f"step = {peaks.step} is below the largest of forward, backward and optimizer")
    return peaks


def check_sums(flops: Any) -> Any:
    """FLOPs of backward are those of its four parts.

    Raises:
        ValueError: They are not; a sentence for a reader of the file.
    """
    parts = ("weight_gradient", "input_gradient", "attention", "recompute")
    if flops.backward != sum(getattr(flops, f"backward_{part}") for part in parts):
        raise ValueError(f"backward = {flops.backward} is not the sum of its parts: {', '.join(parts)}")
    return flops


def check_moved(traffic: Any) -> Any:
    """Bytes of a step are those of its phases, and bytes of forward and backward those of their owners.

    Raises:
        ValueError: They are not; a sentence for a reader of the file.
    """
    if traffic.step != traffic.forward + traffic.backward + traffic.optimizer:
        raise ValueError(f"step = {traffic.step} is not the sum of forward, backward and optimizer")
    for phase in ("forward", "backward"):
        owners = (traffic.backbone, traffic.method, traffic.head)
        if getattr(traffic, phase) != sum(getattr(owner, phase) for owner in owners):
            raise ValueError(f"{phase} = {getattr(traffic, phase)} is not the sum of backbone, method and head")
    return traffic


def check_peaks(record: Any) -> Any:
    """A peak holds at least the weights, which lie in memory all the time.

    Raises:
        ValueError: It does not; a sentence for a reader of the file.
    """
    for name in ("predicted_peak_memory_bytes", "peak_memory_bytes"):
        peak = getattr(record, name, None)
        if record.bytes and peak and peak.step < record.bytes.weights:
            raise ValueError(f"{name}.step = {peak.step} is below bytes.weights = {record.bytes.weights}")
    return record

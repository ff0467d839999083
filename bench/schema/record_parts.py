"""Parts of a record about times and inference: samples, latencies, what a merge comes to, counted chains; no torch."""

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timing(_Part):
    """One timed quantity over interleaved blocks; readers recompute every statistic from ``samples``."""

    median: float
    """Seconds."""
    p95: float
    """Seconds."""
    samples: tuple[tuple[float, ...], ...]
    """Wall seconds, ``[block][i]``; sample i of block b was taken in the same round as the baseline's."""
    cpu_median: float
    """Median process CPU seconds."""
    ratio_to_baseline: float
    """Exp of the median over blocks of the median paired log ratio to the baseline."""
    ratio_interval: tuple[float, float]
    """95 % interval of that ratio, from a bootstrap over blocks."""


class Control(_Part):
    """The A/A control: the baseline measured twice in the same rounds; ratio 1 is expected."""

    ratio: float
    """Second against first, the same statistic as every ratio."""
    interval: tuple[float, float]
    """95 % interval of that ratio."""


class Latency(_Part):
    """Inference time at each batch size that a suite may ask for."""

    batch_1: Timing | None = None
    """One row."""
    batch_8: Timing | None = None
    """None also in records from before it could be asked for."""
    batch_32: Timing | None = None
    """Thirty-two rows."""


class Latencies(_Part):
    """Inference as trained (``unmerged``) and merged, against the bare backbone with the same head."""

    base: Latency
    """The bare backbone with the same head."""
    unmerged: Latency
    """The method as trained."""
    merged: Latency | None
    """None where the method cannot be merged."""


class MergedEqualsBase(_Part):
    """Whether the merged module is the base again, exactly."""

    modules: bool
    """Classes and names of all modules are the base's."""
    parameters: bool
    """Names and shapes of all parameters are."""
    op_trace: bool
    """The trace of operations with their shapes is."""
    flops: bool
    """The FLOPs are."""

    @property
    def all(self) -> bool:
        """Every comparison holds."""
        return self.modules and self.parameters and self.op_trace and self.flops


class PathCounts(_Part):
    """Operations of a computation that compute, and how they hang together; counted, exact.

    Views and other aliases, bare allocations and questions for a value are left out (``bench.count.path``).
    """

    operations: int
    """How many operations compute."""
    depth: int
    """Length of the longest chain of operations that each need the one before: the critical path."""


class Inference(PathCounts):
    """One inference of one row, the task head included."""

    flops: int
    """FLOPs of the inference."""


class Inferences(_Part):
    """Inference as trained (``unmerged``) and merged, beside the bare backbone with the same head."""

    base: Inference
    """The bare backbone with the same head."""
    unmerged: Inference
    """The method as trained."""
    merged: Inference | None
    """None where the method cannot be merged."""

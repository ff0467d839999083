"""Roofline: least time of counted work on a device, from its peak rates alone (Williams et al., CACM 52(4), 2009)."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import NamedTuple

from bench.errors import BenchError


class Load(NamedTuple):
    """What one operation does."""

    dtype: str
    """Type that it multiplies in, such as ``bfloat16``; empty where it multiplies no matrices."""
    flops: int
    bytes: int
    """That it reads and writes."""


Work = Mapping[Load, int]
"""How many operations of a step are alike."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """Peak rates of a device; of products without the sparse form, summed in float32."""

    half: float
    """FLOPs a second of products in bfloat16 and float16."""
    single: float
    """FLOPs a second of products in every other type: float32 without TF32, which torch leaves off."""
    bandwidth: float
    """Bytes a second between the device and its memory."""

    def seconds(self, work: Work) -> float:
        """Time of operations that run one after another, each as long as its slower half.

        Kernels of a training step wait for each other; what one multiplies and what it moves overlap within it.
        Launches, latency and the time that no kernel runs are left out.
        """
        return sum(times * self._of(load) for load, times in work.items())

    @property
    def note(self) -> str:
        """What an estimate with these rates says, and what it leaves out."""
        same = self.half == self.single
        products = f"{self.half / 1e12:,.4g} TFLOP/s" + (
            "" if same else f" in bfloat16, {self.single / 1e12:,.4g} in float32"
        )
        return (
            f"time of a step and tokens/s: an estimate, not measured, from {products} and {self.bandwidth / 1e9:,.4g} "
            "GB/s: every operation takes the longer of its FLOPs and its bytes at those rates, one after another; "
            "launches and idle time are left out, so that a real step takes longer"
        )

    def _of(self, load: Load) -> float:
        rate = self.half if load.dtype in ("bfloat16", "float16") else self.single
        return max(load.flops / rate, load.bytes / self.bandwidth)


DEVICES: Mapping[str, Rates] = {
    "a100-80gb": Rates(312e12, 19.5e12, 2.039e12),
    "h100": Rates(989.4e12, 66.9e12, 3.35e12),
    "h200": Rates(989.4e12, 66.9e12, 4.8e12),
    "l4": Rates(121e12, 30.3e12, 300e9),
    "l40s": Rates(362.05e12, 91.6e12, 864e9),
    "rtx-3090": Rates(71e12, 35.6e12, 936.2e9),
    "rtx-4090": Rates(165.2e12, 82.6e12, 1008e9),
}
"""As NVIDIA's datasheets of A100 (SXM), H100 and H200 (SXM), L4 and L40S and its white papers of GA102 and Ada print
them: dense, without TF32, at boost clock."""


def rates(text: str) -> Rates:
    """A device by name, or ``FLOP/s,bytes/s`` such as ``362e12,864e9``: one rate for products in every type.

    Raises:
        BenchError: It is neither.
    """
    if (known := DEVICES.get(text.lower())) is not None:
        return known
    try:
        rate, bandwidth = map(float, text.split(","))
        if not (0 < rate < float("inf") and 0 < bandwidth < float("inf")):
            raise ValueError
    except ValueError:
        near = difflib.get_close_matches(text.lower(), DEVICES, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise BenchError(
            f"--roofline {text}: give FLOP/s and bytes/s, such as 362e12,864e9, or one of {', '.join(DEVICES)}{guess}"
        ) from None
    return Rates(rate, rate, bandwidth)

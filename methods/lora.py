"""LoRA (Hu et al., ICLR 2022), rsLoRA and LoRA+, which change its scale and its rates; other relatives are not here."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.method import Method
from methods.low_rank import LoRAConfig, attach, low_rank, merge, unmerge

RATIO = "lora_plus_ratio"
"""Attribute of a backbone under LoRA+ that keeps the ratio of its rates for the optimizer."""


class LoRA(Method):
    """``y = x W^T + (alpha / r) dropout(x) A^T B^T``, A ``[r, in]``, B ``[out, r]``.

    A starts Kaiming-uniform (a = sqrt 5), B zero, as in the authors' code: the first forward is the backbone's.

    Paper: Hu et al., ICLR 2022, arXiv:2106.09685.
    Trains: ``r (in + out)`` parameters a target, ``out`` being the slice where query, key and value are one fused map
    (bert-base, query and value, r = 8: 294,912).
    Backward: rank-r weight gradients only, from x and ``x A^T``, but input gradients of every frozen map above the
    lowest target: about half of full, not nothing.
    Merging: ``W + (alpha / r) B A`` is the backbone's own structure again, and unmerging subtracts it.
    Use: where inference must not cost more than the backbone's; at an equal budget the choice of targets matters more
    than the rank (the paper's tables 5 and 6).
    """

    Config = LoRAConfig
    size = "rank"

    def apply(self, backbone: nn.Module, config: LoRAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        return attach(backbone, config, config.alpha / config.rank, "lora")

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        return merge(module)

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        return unmerge(merged, delta)


class RsLoRA(Method):
    """``y = x W^T + (alpha / sqrt r) dropout(x) A^T B^T``: LoRA with a scale that keeps the update's size as r grows.

    Paper: Kalajdzievski, 2023, arXiv:2312.03732.
    Trains: ``r (in + out)`` parameters a target, as LoRA (bert-base, query and value, r = 8: 294,912).
    Backward: as LoRA.
    Merging: as LoRA, with its own scale.
    Use: at ranks of 32 and more; at r = 8 it is LoRA with alpha times sqrt 8, so compare the two at rates of their own.
    """

    Config = LoRAConfig
    size = "rank"

    def apply(self, backbone: nn.Module, config: LoRAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        return attach(backbone, config, config.alpha / math.sqrt(config.rank), "rslora")

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        return merge(module)

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        return unmerge(merged, delta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAPlusConfig(LoRAConfig):
    """LoRA's fields and the ratio of the two rates."""

    ratio: float = 16
    """Learning rate of B over that of A; the method's own rate is A's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio <= 0:
            raise ValueError(f"ratio = {self.ratio} would stop B; it takes more than 0")


class LoRAPlus(Method):
    """``y = x W^T + (alpha / r) dropout(x) A^T B^T`` as LoRA, with ``lr_B = ratio lr_A``.

    Paper: Hayou, Ghosh, Yu, ICML 2024, arXiv:2402.12354.
    Trains: ``r (in + out)`` parameters a target, as LoRA (bert-base, query and value, r = 8: 294,912).
    Backward: as LoRA; the optimizer alone differs.
    Merging: as LoRA.
    Use: on wide backbones; search the rate anew, since it is A's and lies below LoRA's where the ratio is large.
    """

    Config = LoRAPlusConfig
    size = "rank"

    def apply(self, backbone: nn.Module, config: LoRAPlusConfig) -> nn.Module:
        """Wrap each target with its low-rank branch.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        setattr(backbone, RATIO, config.ratio)
        return attach(backbone, config, config.alpha / config.rank, "lora_plus")

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group of all A at ``lr``, one of all B at ``ratio * lr``; both are matrices and decay alike."""
        layers = [layer for _, layer in low_rank(module)]
        return [
            {"params": [a for layer in layers for a in layer.A.values()], "lr": lr},
            {"params": [b for layer in layers for b in layer.B.values()], "lr": lr * getattr(module, RATIO)},
        ]

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        return merge(module)

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        return unmerge(merged, delta)

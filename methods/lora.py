"""LoRA (Hu et al., ICLR 2022), rsLoRA and LoRA+, which change its scale and its rates; other relatives are not here."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.method import LARGEST_SIZE
from methods.low_rank import LoRAConfig, LowRank, LowRankMethod, attach, has_values, low_rank

DRAWN = {"gaussian": "A", "zero_a": "B", "zero": "", "random": "AB"}
"""Start -> which of the two matrices is Gaussian; the other one is zero."""
SHRINK = 10
"""Divisor of the orthogonal start, as in ``peft``."""


@torch.no_grad()
def start(layer: LowRank, init: str) -> None:
    """Fill A and B of every slice of ``layer`` as ``init`` says, in place; "kaiming" is what ``LowRank`` has made.

    A Gaussian matrix has mean 0 and standard deviation ``1 / rank``, which is ``peft``'s ``"gaussian"`` for A; B takes
    the same, so that "gaussian", "zero_a", "zero" and "random" are the four cases of two matrices, drawn or zero.
    """
    if init == "kaiming":
        return
    if init == "orthogonal":
        for role in layer.rows:
            _orthogonal(layer.A[role], layer.B[role])
        return
    for name, matrices, rank_axis in (("A", layer.A, 0), ("B", layer.B, 1)):
        for matrix in matrices.values():
            if name in DRAWN[init]:
                nn.init.normal_(matrix, std=1 / matrix.shape[rank_axis])
            else:
                nn.init.zeros_(matrix)


def _orthogonal(a: Tensor, b: Tensor) -> None:
    """Fill A ``[r, in]`` and B ``[out, r]`` so that ``B A = 0`` though neither is: ``peft``'s ``"orthogonal"``.

    The rows of a random orthogonal ``[r, r]`` are dealt out in turn to ``Q_a`` and ``Q_b``, ``[r / 2, r]`` each, so
    that ``Q_b Q_a^T = 0``. With Z standard normal, ``A = Q_a^T Z_a / 10`` and ``B = Z_b Q_b / 10``. Counting has no
    values.
    """
    if not has_values(a):
        return
    (rank, width), out = a.shape, b.shape[0]

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, device=a.device, dtype=torch.float32)

    basis, _ = torch.linalg.qr(normal(rank, rank))
    # drawn in peft's order and shapes: one seed gives its very matrices
    a.copy_((normal(width, rank // 2) @ basis[0::2]).t() / SHRINK)
    b.copy_(normal(rank // 2, out).t() @ basis[1::2] / SHRINK)


RATIO = "lora_plus_ratio"
"""Attribute of a backbone under LoRA+ that keeps the ratio of its rates for the optimizer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAInitConfig(LoRAConfig):
    """LoRA's fields and how its two matrices start."""

    init: Literal["kaiming", "gaussian", "zero_a", "zero", "random", "orthogonal"] = "kaiming"
    """Start of A and B. kaiming: A Kaiming-uniform (a = sqrt 5), B zero, the authors' code. gaussian: A Gaussian, B
    zero, the paper. zero_a: A zero, B Gaussian. zero: both zero, which never trains. random: both Gaussian, which moves
    the start. orthogonal: both random with B A = 0, at an even rank. Gaussian: standard deviation 1 / rank."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init = 'orthogonal' halves the rank, rank = {self.rank} is odd; it takes an even one")


class LoRA(LowRankMethod):
    """``y = x W^T + (alpha / r) dropout(x) A^T B^T``, A ``[r, in]``, B ``[out, r]``.

    A starts Kaiming-uniform (a = sqrt 5), B zero, as in the authors' code: the first forward is the backbone's. The
    gradients are ``dB = s G^T (x A^T)`` and ``dA = s (G B)^T x`` with ``s = alpha / r`` and G the gradient of y: with B
    zero, B moves first, and where both are zero neither ever moves. Other starts (``init``) keep the first forward,
    "orthogonal" to rounding, except "random": it adds noise of standard deviation ``alpha r^-2.5`` to each weight (0.09
    at the defaults; MiniLM's own queries and values have 0.04 to 0.10).

    Paper: Hu et al., ICLR 2022, arXiv:2106.09685.
    Trains: ``r (in + out)`` parameters a target, ``out`` being the slice where query, key and value are one fused map
    (bert-base, query and value, r = 8: 294,912). Targets of attention stand in cross-attention too (t5-base: 884,736).
    Backward: rank-r weight gradients only, from x and ``x A^T``, but input gradients of every frozen map above the
    lowest target: about half of full, not nothing.
    Merging: ``W + (alpha / r) B A`` is the backbone's own structure again, and unmerging subtracts it.
    Use: where inference must not cost more than the backbone's; at an equal budget the choice of targets matters more
    than the rank (the paper's tables 5 and 6).
    """

    Config = LoRAInitConfig
    identity_at_init = True  # with every init but "random", which is there to show what moving the start does

    def apply(self, backbone: nn.Module, config: LoRAInitConfig) -> nn.Module:
        """Wrap each target with its low-rank branch.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        attach(backbone, config, config.alpha / config.rank, "lora")
        for _, layer in low_rank(backbone):
            start(layer, config.init)
        return backbone

    def zero_gradients(self, module: nn.Module) -> Sequence[str]:
        """All of them where both matrices start at zero: a start that is there to show that it never trains."""
        held = [p for _, layer in low_rank(module) for p in (*layer.A.values(), *layer.B.values())]
        return (
            ()
            if any(p.any() for p in held)
            else tuple({name for name, p in module.named_parameters() if p.requires_grad})
        )

    def sizes(self, backbone: nn.Module, config: LoRAInitConfig) -> Sequence[int]:
        """Every rank; even ones alone for the orthogonal start."""
        step = 2 if config.init == "orthogonal" else 1
        return range(step, LARGEST_SIZE + 1, step)


class RsLoRA(LowRankMethod):
    """``y = x W^T + (alpha / sqrt r) dropout(x) A^T B^T``: LoRA with a scale that keeps the update's size as r grows.

    Paper: Kalajdzievski, 2023, arXiv:2312.03732.
    Trains: ``r (in + out)`` parameters a target, as LoRA (bert-base, query and value, r = 8: 294,912).
    Backward: as LoRA.
    Merging: as LoRA, with its own scale.
    Use: at ranks of 32 and more; at r = 8 it is LoRA with alpha times sqrt 8, so compare the two at rates of their own.
    """

    stabilised = True

    def apply(self, backbone: nn.Module, config: LoRAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        return attach(backbone, config, config.alpha / math.sqrt(config.rank), "rslora")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAPlusConfig(LoRAConfig):
    """LoRA's fields and the ratio of the two rates."""

    ratio: float = 16
    """Learning rate of B over that of A; the method's own rate is A's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio <= 0:
            raise ValueError(f"ratio = {self.ratio} would stop B; it takes more than 0")


class LoRAPlus(LowRankMethod):
    """``y = x W^T + (alpha / r) dropout(x) A^T B^T`` as LoRA, with ``lr_B = ratio lr_A``.

    Paper: Hayou, Ghosh, Yu, ICML 2024, arXiv:2402.12354.
    Trains: ``r (in + out)`` parameters a target, as LoRA (bert-base, query and value, r = 8: 294,912).
    Backward: as LoRA; the optimizer alone differs.
    Merging: as LoRA.
    Use: on wide backbones; search the rate anew, since it is A's and lies below LoRA's where the ratio is large.
    """

    Config = LoRAPlusConfig

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

"""The starts that A and B of LoRA may be given; the update, its scale and the frozen weights are not changed here."""

import torch
from torch import Tensor, nn

from methods.low_rank import LowRank, has_values

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

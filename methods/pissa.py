"""PiSSA: LoRA that starts from the principal part of each weight (Meng et al., NeurIPS 2024)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.method import at_least, copy_delta
from methods.low_rank import LoRAConfig, LowRank, LowRankMethod, attach, has_values, low_rank
from methods.sliced import fold, oriented


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiSSAConfig(LoRAConfig):
    """LoRA's fields, without dropout, and the precision of the start."""

    niter: int = 16
    """Subspace iterations of the fast singular value decomposition; 0 takes the exact one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, niter=0)
        if self.dropout:
            raise ValueError(f"dropout = {self.dropout} would drop principal parts of the weights; pissa takes 0")


class PiSSA(LowRankMethod):
    """``y = x W_res^T + s x A^T B^T``, ``s = alpha / r``, where at the start ``s B A`` is the rank-r part of W.

    With ``W = U S V^T``: ``A = sqrt(S_r / s) V_r^T``, ``B = U_r sqrt(S_r / s)`` and ``W_res = W - s B A``, which stays
    frozen: the first forward is the backbone's to rounding. A and B take no weight decay, which would pull W to W_res.

    Paper: Meng, Wang, Zhang, NeurIPS 2024, arXiv:2404.02948.
    Trains: ``r (in + out)`` parameters a target, as LoRA (bert-base, query and value, r = 8: 294,912). Stored are the
    factors of the start too, from which W_res comes again: twice LoRA's (2,359,296 bytes).
    Backward: as LoRA.
    Merging: ``W_res + s B A``; unmerging subtracts ``s B A`` and adds that of the start.
    Use: where LoRA starts slowly; the decomposition is paid once, and a task costs twice LoRA's storage.
    """

    Config = PiSSAConfig

    def apply(self, backbone: nn.Module, config: PiSSAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch and move the principal part of its weight there.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        attach(backbone, config, config.alpha / config.rank, "pissa")
        for _, layer in low_rank(backbone):
            for role in layer.rows:
                _principal(layer, role, config.niter)
            _subtract_start(layer)
        return backbone

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group without weight decay."""
        return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": lr, "weight_decay": 0.0}]

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the trained product of ``delta`` and add that of the start; the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        # B_t A_t - B_0 A_0 is one product of rank 2 r
        update = {}
        for name, tensor in delta.items():
            path, matrix, role = name.rsplit(".", 2)
            if matrix in {"A", "B"}:
                start = delta.get(f"{path}.start.{matrix}_{role}")
                if start is None:
                    raise BenchError(f"delta lacks the start of {name!r}, which pissa stores beside it")
                update[name] = torch.cat([tensor, start]) if matrix == "A" else torch.cat([tensor, -start], dim=1)
        return super().unmerge(merged, update)

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's LORA of rank 2 r on the weights as they were: what was trained less the start."""
        import methods.to_peft as to_peft

        layers, updates = dict(low_rank(module)), {}
        for path, layer in layers.items():
            a = {role: torch.cat([layer.A[role], layer.start.get_buffer(f"A_{role}")]) for role in layer.rows}
            b = {role: torch.cat([layer.B[role], -layer.start.get_buffer(f"B_{role}")], dim=1) for role in layer.rows}
            updates[path] = to_peft.joined(layer.rows, a, b, layer.base)
        return to_peft.lora(backbone, updates, next(iter(layers.values())).scale)

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """Every A and B, as trained and as they were at the start."""
        return {name: tensor.detach().clone() for name, tensor in _stored(module).items()}

    def load_delta(self, backbone: nn.Module, config: Any, delta: Mapping[str, Tensor]) -> nn.Module:
        """Put ``delta`` onto a fresh, frozen backbone; nothing is decomposed again.

        Raises:
            BenchError: The keys or shapes of ``delta`` are not exactly those that the method stores.
        """
        attach(backbone, config, config.alpha / config.rank, "pissa")
        for _, layer in low_rank(backbone):
            _keep_start(layer)
        copy_delta(_stored(backbone), _stored(backbone).keys(), delta)
        for _, layer in low_rank(backbone):
            _subtract_start(layer)
        return backbone


@torch.no_grad()
def _principal(layer: LowRank, role: str, niter: int) -> None:
    """Fill A and B of ``role`` with the rank-r part of its slice, decomposed in float32; counting has no values."""
    a, b = layer.A[role], layer.B[role]
    weight = oriented(layer.base)[layer.rows[role]]
    if not has_values(weight):
        return
    rank = a.shape[0]
    if niter:
        u, s, v = torch.svd_lowrank(weight.float(), rank, niter=niter)
        vh = v.t()
    else:
        u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
    root = (s[:rank] / layer.scale).sqrt()
    a.copy_(root[:, None] * vh[:rank])
    b.copy_(u[:, :rank] * root)


def _keep_start(layer: LowRank) -> None:
    """Copy A and B into buffers of ``layer``."""
    layer.start = nn.Module()
    for matrix, held in (("A", layer.A), ("B", layer.B)):
        for role, tensor in held.items():
            layer.start.register_buffer(f"{matrix}_{role}", tensor.detach().clone())


def _subtract_start(layer: LowRank) -> None:
    """Turn the weight W into ``W_res``, in place; keeps A and B as the start where none is kept."""
    if not hasattr(layer, "start"):
        _keep_start(layer)
    for role, rows in layer.rows.items():
        fold(layer.base, rows, layer.start.get_buffer(f"A_{role}"), layer.start.get_buffer(f"B_{role}"), -layer.scale)


def _stored(module: nn.Module) -> dict[str, Tensor]:
    layers = dict(low_rank(module))
    starts = {f"{path}.start.{n}": t for path, layer in layers.items() for n, t in layer.start.named_buffers()}
    return {name: p for name, p in module.named_parameters() if p.requires_grad} | starts

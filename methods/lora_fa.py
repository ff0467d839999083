"""LoRA-FA: LoRA whose A stays frozen at random (Zhang et al., 2023); without the paper's own optimizer."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.method import copy_delta
from methods.low_rank import LoRAConfig, LowRankMethod, attach, has_values, low_rank
from methods.sliced import oriented

SEED = "lora_fa_seed"
"""Buffer of the backbone: the number from which every A is drawn, which the delta keeps instead of them."""


class LoRAFA(LowRankMethod):
    """``y = x W^T + (alpha / r) dropout(x) A^T B^T`` with A ``[r, in]`` frozen at random and B ``[out, r]`` trained.

    A is uniform within ``1 / sqrt(in)``, drawn on the CPU from a stored seed and its own name; B starts zero.

    Paper: Zhang et al., 2023, arXiv:2308.03303.
    Trains: ``r out`` parameters a target (bert-base, query and value, r = 8: 147,456).
    Backward: of each branch's input only ``x A^T [B, T, r]`` is saved, never x; input gradients as LoRA.
    Merging: as LoRA. A is drawn anew from the seed to unmerge.
    Use: where LoRA's saved inputs do not fit; the update's row space is fixed by chance.
    """

    def apply(self, backbone: nn.Module, config: LoRAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch and draw a seed for all A.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        seed = torch.randint(2**62, ())
        attach(backbone, config, config.alpha / config.rank, "lora_fa")
        weight = next(layer.weight for _, layer in low_rank(backbone))
        backbone.register_buffer(SEED, seed.to(weight.device))
        _draw(backbone)
        return backbone

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        merged = super().merge(module)
        delattr(merged, SEED)
        return merged

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        if SEED not in delta:
            raise BenchError(f"delta lacks {SEED!r}, from which lora_fa draws its frozen matrices")
        full = {name: tensor for name, tensor in delta.items() if name != SEED}
        modules = dict(merged.named_modules())
        for name, b in list(full.items()):
            path, _, role = name.rsplit(".", 2)
            if path in modules:
                weight = oriented(modules[path])
                full[f"{path}.A.{role}"] = _random(int(delta[SEED]), f"{path}.{role}", b.shape[1], weight)
        return super().unmerge(merged, full)

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """Every B, and the seed of all A."""
        return {**super().delta(module), SEED: module.get_buffer(SEED).clone()}

    def load_delta(self, backbone: nn.Module, config: Any, delta: Mapping[str, Tensor]) -> nn.Module:
        """Put ``delta`` onto a fresh, frozen backbone.

        Raises:
            BenchError: The keys or shapes of ``delta`` are not exactly those that the method stores.
        """
        module = self.apply(backbone, config)
        held = {**dict(module.named_parameters()), SEED: module.get_buffer(SEED)}
        copy_delta(held, self.delta(module).keys(), delta)
        _draw(module)
        return module


def _draw(module: nn.Module) -> None:
    """Freeze every A of ``module``, and fill it from the seed where there are values."""
    seed = module.get_buffer(SEED)
    for path, layer in low_rank(module):
        for role, a in layer.A.items():
            a.requires_grad_(False)
            if has_values(a):
                a.copy_(_random(int(seed), f"{path}.{role}", a.shape[0], oriented(layer.base)))


def _random(seed: int, name: str, rank: int, weight: Tensor) -> Tensor:
    """The frozen ``A [rank, in]`` called ``name`` for ``weight [out, in]``: the same on every device, in any order."""
    digest = hashlib.sha256(f"{seed}.{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    uniform = torch.rand(rank, weight.shape[1], generator=generator, dtype=torch.float32, device="cpu")
    return ((2 * uniform - 1) / math.sqrt(weight.shape[1])).to(weight)

"""BitFit: trains bias vectors that the backbone has, and adds none to one that has not (Ben Zaken et al., ACL 2022)."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from torch import nn

from bench.anatomy import anatomy
from bench.errors import BenchError
from bench.method import Method, MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitFitConfig(MethodConfig):
    """Which biases train."""

    biases: Literal["all", "query+ffn"] = "all"
    """``all``: every bias vector of the backbone, norms included. ``query+ffn``: the query's and the FFN's first (4 d
    wide) one, the subset of section 4.3."""


class BitFit(Method):
    """``y = W x + b`` with W frozen and b trained.

    Paper: Ben Zaken, Ravfogel, Goldberg, ACL 2022, arXiv:2106.10199.
    Trains: ``L (7 d + f) + d`` parameters (bert-base without its pooler: 102,144), of which ``query+ffn`` keeps ``L (d
    + f)`` (46,080).
    Backward: a bias gradient is the upstream gradient summed over batch and tokens: no linear input is saved, no weight
    gradient computed, but the input gradient crosses the whole backbone down to the embedding norm.
    Merging: the trained module is already in the backbone's own structure and is returned as it is.
    Use: where a task must be small and the architecture must stay as it is; not on a backbone without biases, such as
    T5 or Llama, which it refuses.
    """

    Config = BitFitConfig
    takes_float32 = True
    # softmax over keys is invariant to the shift q^T b_k. Rotary positions (qwen2, whose name ends alike) break this:
    # there the key bias has a gradient. GPT-2 fuses the key's bias with query and value: only a third of it is zero.
    zero_gradient = (
        "attention.self.key.bias",
        "attention.attn.k.bias",
        "attention.k_lin.bias",
        "self_attn.k_proj.bias",
        "encoder_attn.k_proj.bias",
    )

    def apply(self, backbone: nn.Module, config: BitFitConfig) -> nn.Module:
        """Unfreeze the chosen biases.

        Raises:
            BenchError: The family has no biases, or not those of ``query+ffn`` as tensors of their own.
        """
        chosen = list(_all(backbone) if config.biases == "all" else _query_and_ffn(backbone))
        if not chosen:
            raise BenchError(
                f"bitfit: family {backbone.config.model_type!r} has no bias vectors to train; use ia3 or lora instead"
            )
        for bias in chosen:
            bias.requires_grad_(True)
        return backbone

    def merge(self, module: nn.Module) -> nn.Module:
        """Return ``module`` itself: the biases are where they belong."""
        return module


def _all(backbone: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in backbone.named_parameters():
        if name.rpartition(".")[2] == "bias":
            yield parameter


def _query_and_ffn(backbone: nn.Module) -> Iterator[nn.Parameter]:
    parts = anatomy(backbone)
    for _, projection in parts.projections(("query", "ffn_in")):
        bias = backbone.get_submodule(projection.path).bias
        if bias is None:
            raise BenchError(
                f"bitfit: family {parts.family!r} has no bias at {projection.role}, so biases = 'query+ffn' "
                "matches nothing there; use biases = 'all', ia3 or lora"
            )
        if projection.fused:
            raise BenchError(
                f"bitfit: family {parts.family!r} keeps the bias of {projection.role} fused with others in one tensor, "
                "so biases = 'query+ffn' cannot train it alone; use biases = 'all'"
            )
        yield bias

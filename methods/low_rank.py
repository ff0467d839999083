"""Low-rank branches beside frozen linear maps, which LoRA and its relatives share."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.anatomy import Projection
from bench.errors import BenchError
from bench.method import Method, MethodConfig, at_least, clone
from methods.sliced import Factored, fold, oriented, places, set_module, slices, without_mark

SCALE = "lora_scale"
"""Attribute of a merged backbone that keeps the scale of the update, which the stored tensors alone do not tell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig(MethodConfig):
    """Size, strength and place of the low-rank update."""

    rank: int = 8
    """Inner width r of the update, at most the smaller side of each target."""
    alpha: float = 16
    """Numerator of the scale: alpha / rank, in rslora alpha / sqrt(rank)."""
    dropout: float = 0
    """Probability with which an element of the update's input is dropped in training; 0 <= dropout < 1."""
    targets: tuple[str, ...] = ("query", "value")
    """Roles of the adapted linear maps: query, key, value, output, ffn_in, ffn_gate, ffn_out."""

    def __post_init__(self) -> None:
        at_least(self, rank=1, dropout=0)
        if self.dropout >= 1:
            raise ValueError(f"dropout = {self.dropout} drops everything; it takes less than 1")
        if self.alpha <= 0:
            raise ValueError(f"alpha = {self.alpha} leaves nothing to train; it takes more than 0")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets = {list(self.targets)} names a role twice; name each once")


class LowRank(Factored):
    """A frozen linear map with one low-rank branch, A and B, for each of its adapted slices.

    A starts Kaiming-uniform (a = sqrt 5), B zero.
    """

    def __init__(
        self, base: nn.Module, projections: list[Projection], config: LoRAConfig, scale: float, name: str
    ) -> None:
        super().__init__(base, projections, config.dropout, scale)
        weight = oriented(base)
        out_features, in_features = weight.shape
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for projection in projections:
            width = projection.width(out_features)
            if config.rank > min(in_features, width):
                raise BenchError(
                    f"{name}: rank = {config.rank} exceeds the {width} x {in_features} map {projection.path!r} "
                    f"({projection.role}); it takes at most {min(in_features, width)}"
                )
            self.A[projection.role] = nn.Parameter(weight.new_empty(config.rank, in_features))
            self.B[projection.role] = nn.Parameter(weight.new_zeros(width, config.rank))
            nn.init.kaiming_uniform_(self.A[projection.role], a=math.sqrt(5))

    def inner(self, role: str) -> Tensor:
        """A ``[r, in]``."""
        return self.A[role]

    def outer(self, role: str) -> Tensor:
        """B ``[out, r]``."""
        return self.B[role]


def attach(backbone: nn.Module, config: LoRAConfig, scale: float, name: str) -> nn.Module:
    """Put a ``LowRank`` in place of each target of ``backbone``; ``name`` is the method's, for its refusals.

    Raises:
        BenchError: A target matches nothing, or the rank exceeds a side of one.
    """
    for path, projections in places(backbone, config.targets).items():
        set_module(backbone, path, LowRank(backbone.get_submodule(path), projections, config, scale, name))
    return backbone


def low_rank(module: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Yield the path and the layer of every ``LowRank`` in ``module``; it may be replaced meanwhile."""
    yield from [(path, layer) for path, layer in module.named_modules() if isinstance(layer, LowRank)]


def factors(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every A and every B of ``module`` that trains, apart; no key for a matrix that does not."""
    layers = [layer for _, layer in low_rank(module)]
    held = {
        "A": [a for layer in layers for a in layer.A.values()],
        "B": [b for layer in layers for b in layer.B.values()],
    }
    return {name: trained for name, found in held.items() if (trained := [p for p in found if p.requires_grad])}


class LowRankMethod(Method):
    """What the methods whose update is ``scale B A`` share; each says how its branches start and train."""

    Config: ClassVar[type[MethodConfig]] = LoRAConfig
    takes_float32 = True
    size = "rank"
    stabilised: ClassVar[bool] = False
    """Whether the scale is alpha / sqrt(rank)."""

    def parts(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """A and B, where they train."""
        return factors(module)

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        merged = clone(module)
        for path, layer in low_rank(merged):
            for role, rows in layer.rows.items():
                fold(layer.base, rows, layer.A[role], layer.B[role], layer.scale)
            set_module(merged, path, layer.base)
            setattr(merged, SCALE, layer.scale)
        return merged

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's LORA, with the updates of a fused map's slices as one of the whole map."""
        import methods.to_peft as to_peft

        layers = dict(low_rank(module))
        updates = {path: to_peft.joined(layer.rows, layer.A, layer.B, layer.base) for path, layer in layers.items()}
        first = next(iter(layers.values()))
        return to_peft.lora(backbone, updates, first.scale, dropout=first.dropout, stabilised=self.stabilised)

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        plain, scale = without_mark(merged, SCALE, "LoRA's scale")
        projections = slices(plain)
        for name in delta:
            path, matrix, role = name.rsplit(".", 2)
            if (path, role) not in projections or f"{path}.B.{role}" not in delta:
                raise BenchError(f"delta has {name!r}, which is no LoRA update of this backbone")
            if matrix == "A":
                base = plain.get_submodule(path)
                rows = projections[path, role].rows(oriented(base).shape[0])
                fold(base, rows, delta[name], delta[f"{path}.B.{role}"], -scale)
        return plain


def has_values(tensor: Tensor) -> bool:
    """Whether ``tensor`` has values, which counting's meta and fake tensors have not."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))

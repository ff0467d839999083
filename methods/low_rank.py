"""Low-rank branches beside frozen linear maps, which LoRA and its relatives share; it names and starts no method."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.anatomy import Projection, anatomy
from bench.errors import BenchError
from bench.method import MethodConfig, at_least, clone
from methods.linear import oriented, set_module

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


class LowRank(nn.Module):
    """A frozen linear map with one low-rank branch for each of its adapted slices.

    A starts Kaiming-uniform (a = sqrt 5), B zero.
    """

    def __init__(
        self, base: nn.Module, projections: list[Projection], config: LoRAConfig, scale: float, name: str
    ) -> None:
        super().__init__()
        weight = oriented(base)
        out_features, in_features = weight.shape
        self.base = base
        self.scale = scale
        self.dropout = config.dropout
        self.parts = projections[0].parts
        self.roles = {projection.part: projection.role for projection in projections}
        self.rows = {projection.role: projection.rows(out_features) for projection in projections}
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for projection in projections:
            width = out_features // projection.parts
            if config.rank > min(in_features, width):
                raise BenchError(
                    f"{name}: rank = {config.rank} exceeds the {width} x {in_features} map {projection.path!r} "
                    f"({projection.role}); it takes at most {min(in_features, width)}"
                )
            self.A[projection.role] = nn.Parameter(weight.new_empty(config.rank, in_features))
            self.B[projection.role] = nn.Parameter(weight.new_zeros(width, config.rank))
            nn.init.kaiming_uniform_(self.A[projection.role], a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, whose type T5 asks for before it calls the map."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        return self.add(self.base(x), F.dropout(x, self.dropout, self.training))

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the branches' images of ``x [..., in]`` to ``y [..., out]``; returns a new tensor."""
        wide = y.reshape(-1, y.shape[-1])
        flat = x.reshape(-1, x.shape[-1])
        if self.parts == 1:
            role = self.roles[0]
            return self._add(wide, flat @ self.A[role].t(), role).view(y.shape)
        # the slices read x once, through their matrices A stacked
        narrow = flat @ torch.cat([self.A[role] for role in self.roles.values()]).t()
        slices = list(wide.chunk(self.parts, dim=-1))
        for (part, role), inner in zip(self.roles.items(), narrow.chunk(len(self.roles), dim=-1), strict=True):
            slices[part] = self._add(slices[part], inner, role)
        return torch.cat(slices, dim=-1).view(y.shape)

    def _add(self, y: Tensor, narrow: Tensor, role: str) -> Tensor:
        # product, scale and sum in one kernel: a separate scale and sum would each pass over [B T, out] again
        return torch.addmm(y, narrow, self.B[role].t(), alpha=self.scale)


def places(backbone: nn.Module, targets: tuple[str, ...]) -> dict[str, list[Projection]]:
    """Path of each linear map -> its adapted slices.

    Raises:
        BenchError: A target matches nothing.
    """
    at: dict[str, list[Projection]] = {}
    for _, projection in anatomy(backbone).projections(targets):
        at.setdefault(projection.path, []).append(projection)
    return at


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


def merge(module: nn.Module) -> nn.Module:
    """Fold each update into its weight, in at least float32, then cast to the weight's type; returns a new module."""
    merged = clone(module)
    for path, layer in low_rank(merged):
        for role, rows in layer.rows.items():
            fold(layer.base, rows, layer.A[role], layer.B[role], layer.scale)
        set_module(merged, path, layer.base)
        setattr(merged, SCALE, layer.scale)
    return merged


def unmerge(merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
    """Subtract the updates of ``delta``; returns a new module, the backbone of before, to rounding.

    Raises:
        BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
    """
    scale = getattr(merged, SCALE, None)
    if scale is None:
        raise BenchError("unmerge takes a module that merge returned; this one does not carry LoRA's scale")
    plain = clone(merged)
    delattr(plain, SCALE)
    parts = anatomy(plain)
    projections = {(p.path, p.role): p for _, p in parts.projections(parts.roles())}
    for name in delta:
        path, matrix, role = name.rsplit(".", 2)
        if (path, role) not in projections or f"{path}.B.{role}" not in delta:
            raise BenchError(f"delta has {name!r}, which is no LoRA update of this backbone")
        if matrix == "A":
            base = plain.get_submodule(path)
            rows = projections[path, role].rows(oriented(base).shape[0])
            fold(base, rows, delta[name], delta[f"{path}.B.{role}"], -scale)
    return plain


@torch.no_grad()
def fold(base: nn.Module, rows: slice, a: Tensor, b: Tensor, scale: float) -> None:
    """Add ``scale * b @ a`` to the output rows ``rows`` of ``base``, in place, in at least float32."""
    weight = oriented(base)[rows]
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(weight.to(wide) + scale * (b.to(wide) @ a.to(wide)))


def has_values(tensor: Tensor) -> bool:
    """Whether ``tensor`` has values, which counting's meta and fake tensors have not."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))

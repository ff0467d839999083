"""VeRA: learned scales around frozen random matrices that layers share (Kopiczko et al., ICLR 2024)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.anatomy import Projection
from bench.errors import BenchError
from bench.method import Method, MethodConfig, at_least, clone
from methods.sliced import Sliced, oriented, places, set_module, slices, without_mark

SEED = "vera_projection_seed"
"""Attribute of a merged backbone that keeps the seed of A and B, which the stored tensors alone do not tell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VeRAConfig(MethodConfig):
    """Size, start and place of the update."""

    rank: int = 256
    """Inner width r of the update; it may exceed the sides of the targets, since it costs few parameters."""
    d_initial: float = 0.1
    """Value of every element of d before training."""
    dropout: float = 0
    """Probability with which an element of the update's input is dropped in training; 0 <= dropout < 1."""
    targets: tuple[str, ...] = ("query", "value")
    """Roles of the adapted linear maps: query, key, value, output, ffn_in, ffn_gate, ffn_out."""
    projection_seed: int = 0
    """Seed of the frozen A and B, which are drawn again from it and never stored."""

    def __post_init__(self) -> None:
        at_least(self, rank=1, dropout=0, projection_seed=0)
        if self.dropout >= 1:
            raise ValueError(f"dropout = {self.dropout} drops everything; it takes less than 1")
        if self.d_initial == 0:
            raise ValueError("d_initial = 0 trains nothing, since b starts at zero too; it takes another number")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets = {list(self.targets)} names a role twice; name each once")


class VeRA(Method):
    """``y = x W^T + ((dropout(x) A^T) * d) B^T * b``, A ``[r, in]`` and B ``[out, r]`` frozen, d ``[r]``, b ``[out]``.

    One pair A, B serves all targets of one shape, drawn Kaiming-uniform from ``projection_seed`` on the CPU, so that
    every machine draws the same. d starts at 0.1, b at zero: the first forward is the backbone's. Neither takes weight
    decay.

    Paper: Kopiczko, Blankevoort, Asano, ICLR 2024, arXiv:2310.11454.
    Trains: ``r + out`` parameters a target (bert-base, query and value, r = 256: 24,576), which is all that is stored.
    The frozen pair of each shape, ``r (in + out)``, takes memory once.
    Backward: input gradients of every frozen map above the lowest target and of B and A, no gradient of a matrix; keeps
    ``x A^T`` and, for b, the update before its scale ``[B T, out]``, which LoRA does not keep.
    Merging: ``W + diag(b) B diag(d) A`` is the backbone's own structure again, and unmerging subtracts it.
    Use: where many tasks must be stored small; its rank of hundreds costs more time than LoRA's.
    """

    Config = VeRAConfig
    takes_float32 = True
    size = "rank"

    def apply(self, backbone: nn.Module, config: VeRAConfig) -> nn.Module:
        """Wrap each target with its scales and the pair of its shape.

        Raises:
            BenchError: A target matches nothing.
        """
        pairs: dict[tuple[int, int], Pair] = {}
        for path, projections in places(backbone, config.targets).items():
            base = backbone.get_submodule(path)
            own = {projection.role: _shape(oriented(base), projection) for projection in projections}
            for shape in own.values():
                if shape not in pairs:
                    pairs[shape] = Pair(*draw(shape, config.rank, config.projection_seed, oriented(base)))
            held = {role: pairs[shape] for role, shape in own.items()}
            set_module(backbone, path, Scaled(base, projections, held, config))
        return backbone

    def parts(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """The scales d and b."""
        layers = [layer for layer in module.modules() if isinstance(layer, Scaled)]
        return {name: [p for layer in layers for p in getattr(layer, name).values()] for name in "db"}

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        merged = clone(module)
        for path, layer in [(path, m) for path, m in merged.named_modules() if isinstance(m, Scaled)]:
            for role, rows in layer.rows.items():
                _fold(layer.base, rows, layer.pairs[role].A, layer.d[role], layer.pairs[role].B, layer.b[role])
            set_module(merged, path, layer.base)
            setattr(merged, SEED, layer.seed)
        return merged

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        plain, seed = without_mark(merged, SEED, "VeRA's seed")
        projections = slices(plain)
        for name in delta:
            path, vector, role = name.rsplit(".", 2)
            if (path, role) not in projections or any(f"{path}.{other}.{role}" not in delta for other in "db"):
                raise BenchError(f"delta has {name!r}, which is no VeRA update of this backbone")
            if vector == "d":
                base, projection = plain.get_submodule(path), projections[path, role]
                weight = oriented(base)
                a, b = draw(_shape(weight, projection), len(delta[name]), seed, weight)
                _fold(base, projection.rows(weight.shape[0]), a, delta[name], b, -delta[f"{path}.b.{role}"])
        return plain

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's VERA, with the frozen pair in the file; slices of a fused map stand side by side in its rank.

        Raises:
            BenchError: The targets have pairs that are not parts of one.
        """
        import methods.to_peft as to_peft

        layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Scaled)}
        maps = {path: _whole(layer) for path, layer in layers.items()}
        first = next(iter(layers.values()))
        return to_peft.vera(backbone, maps, first.seed, first.dropout)


def _whole(layer: "Scaled") -> Any:
    """The scales of a layer's slices as those of the whole map."""
    import methods.to_peft as to_peft

    pairs = {role: layer.pairs[role] for role in layer.rows}
    a, b_matrices = ({role: getattr(pair, name) for role, pair in pairs.items()} for name in "AB")
    frozen = to_peft.joined(layer.rows, a, b_matrices, layer.base)
    b = frozen.outer.new_zeros(len(frozen.outer))
    for role, rows in layer.rows.items():
        b[rows] = layer.b[role].detach()
    return to_peft.VeraScales(frozen.inner, frozen.outer, torch.cat([layer.d[role].detach() for role in layer.rows]), b)


class Pair(nn.Module):
    """The frozen A and B of one shape; a module that layers share, so that copies and moves keep it one."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        # parameters, not buffers: what stores or casts frozen matrices then treats these alike
        self.A = nn.Parameter(a, requires_grad=False)
        self.B = nn.Parameter(b, requires_grad=False)


class Scaled(Sliced):
    """A frozen linear map with scales around the pair of its shape for each of its adapted slices."""

    def __init__(
        self, base: nn.Module, projections: list[Projection], pairs: Mapping[str, Pair], config: VeRAConfig
    ) -> None:
        super().__init__(base, projections, config.dropout)
        weight = oriented(base)
        self.pairs = nn.ModuleDict(pairs)
        self.seed = config.projection_seed
        self.b, self.d = nn.ParameterDict(), nn.ParameterDict()
        for projection in projections:
            self.d[projection.role] = nn.Parameter(weight.new_full((config.rank,), config.d_initial))
            self.b[projection.role] = nn.Parameter(weight.new_zeros(projection.width(weight.shape[0])))

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the branches' images of ``x [..., in]`` to ``y [..., out]``; returns a new tensor."""
        pairs = list(self.pairs.values())
        narrow = {pair: F.linear(x, pair.A) for pair in dict.fromkeys(pairs)}  # slices of one shape read x once
        return self._add_to_slices(y, [narrow[pair] for pair in pairs])

    def _add(self, y: Tensor, narrow: Tensor, role: str) -> Tensor:
        # scales in the type of the states: under autocast a float32 vector would widen all of [B, T, out]
        update = F.linear(narrow * self.d[role].to(narrow.dtype), self.pairs[role].B)
        return torch.addcmul(y, update, self.b[role].to(update.dtype))


def draw(shape: tuple[int, int], rank: int, seed: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """A ``[rank, in]`` and B ``[out, rank]`` for ``shape`` = (out, in), of the type and on the device of ``like``."""
    out_features, in_features = shape
    if like.is_meta:
        return like.new_empty(rank, in_features), like.new_empty(out_features, rank)
    stream = torch.Generator().manual_seed(seed)
    a = nn.init.kaiming_uniform_(torch.empty(rank, in_features, device="cpu"), generator=stream)
    b = nn.init.kaiming_uniform_(torch.empty(out_features, rank, device="cpu"), generator=stream)
    return a.to(like.device, like.dtype), b.to(like.device, like.dtype)


def _shape(weight: Tensor, projection: Projection) -> tuple[int, int]:
    return projection.width(weight.shape[0]), weight.shape[1]


@torch.no_grad()
def _fold(base: nn.Module, rows: slice | Tensor, a: Tensor, d: Tensor, b_matrix: Tensor, b: Tensor) -> None:
    """Add ``diag(b) b_matrix diag(d) a`` to the output rows ``rows`` of ``base``, in place."""
    weight = oriented(base)
    wide = torch.promote_types(weight.dtype, torch.float32)
    update = (b_matrix.to(wide) * d.to(wide)) @ a.to(wide)
    weight[rows] = (weight[rows].to(wide) + b.to(wide)[:, None] * update).to(weight.dtype)

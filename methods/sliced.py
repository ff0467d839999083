"""Branches beside the slices of frozen linear maps: where they stand, how they are added and merged."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.anatomy import Projection, anatomy
from bench.anatomy import oriented as oriented
from bench.errors import BenchError
from bench.method import clone


def set_module(backbone: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` in place of the one that is at the dotted ``path``, in the training mode of the old one."""
    module.train(backbone.get_submodule(path).training)
    backbone.set_submodule(path, module)


def alike(x: Tensor, other: Tensor) -> Tensor:
    """``x`` in the type of ``other``, as peft casts around its layers; as it is where autocast chooses the types."""
    if x.dtype == other.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(other.dtype)


class Sliced(nn.Module):
    """A frozen linear map with a branch beside each of its adapted slices.

    A fused map, such as GPT-2's, holds several projections as slices of its output, or strewn over it head by head as
    GPT-NeoX's; a plain one is one slice.

    Args:
        base: The map.
        projections: Its adapted slices, at least one.
        dropout: Probability with which an element of the branches' input is dropped in training.
    """

    def __init__(self, base: nn.Module, projections: list[Projection], dropout: float) -> None:
        super().__init__()
        self.base = base
        self.dropout = dropout
        self.projections = {projection.role: projection for projection in projections}

    @property
    def rows(self) -> dict[str, slice | Tensor]:
        """Adapted role -> what picks its rows of the weight."""
        outputs = oriented(self.base).shape[0]
        return {role: projection.rows(outputs) for role, projection in self.projections.items()}

    @property
    def weight(self) -> Tensor:
        """The frozen weight, whose type T5 asks for before it calls the map."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        return self.add(self.base(x), F.dropout(x, self.dropout, self.training))

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the branches' images of ``x [..., in]`` to ``y [..., out]``; returns a new tensor."""
        raise NotImplementedError

    def _add(self, y: Tensor, narrow: Tensor, role: str) -> Tensor:
        """Add to one slice ``y`` what its branch makes of its inner state ``narrow [..., r]``."""
        raise NotImplementedError

    def _add_to_slices(self, y: Tensor, narrow: Sequence[Tensor]) -> Tensor:
        """``y [..., out]`` with each adapted slice changed by its own inner state, in the order of ``projections``."""

        def branch(role: str, own: Tensor) -> Change:
            return lambda part: self._add(part, own, role)

        changes = {role: branch(role, own) for role, own in zip(self.projections, narrow, strict=True)}
        return changed(y, list(self.projections.values()), changes)


class Factored(Sliced):
    """One low-rank branch beside each adapted slice: ``scale * outer(role) @ inner(role)`` is added to its rows."""

    def __init__(self, base: nn.Module, projections: list[Projection], dropout: float, scale: float) -> None:
        super().__init__(base, projections, dropout)
        self.scale = scale

    def inner(self, role: str) -> Tensor:
        """Matrix ``[r, in]`` that reads the input."""
        raise NotImplementedError

    def outer(self, role: str) -> Tensor:
        """Matrix ``[out, r]`` that writes the update."""
        raise NotImplementedError

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """Add the branches' images of ``x [..., in]`` to ``y [..., out]``; returns a new tensor."""
        wide = y.reshape(-1, y.shape[-1])
        maps = [self.inner(role) for role in self.projections]
        flat = alike(x.reshape(-1, x.shape[-1]), maps[0])
        if len(maps) == 1:
            narrow: Sequence[Tensor] = [flat @ maps[0].t()]
        else:  # the slices read x once, through their matrices stacked
            narrow = (flat @ torch.cat(maps).t()).chunk(len(maps), dim=-1)
        return self._add_to_slices(wide, narrow).view(y.shape)

    def _add(self, y: Tensor, narrow: Tensor, role: str) -> Tensor:
        # product, scale and sum in one kernel: a separate scale and sum would each pass over [B T, out] again
        outer = self.outer(role)
        return alike(torch.addmm(alike(y, outer), alike(narrow, outer), outer.t(), alpha=self.scale), y)


Change = Callable[[Tensor], Tensor]
"""Gives a role's own part ``[..., width]`` of a tensor in a new form."""


def changed(y: Tensor, projections: Sequence[Projection], changes: Mapping[str, Change]) -> Tensor:
    """``y [..., out]`` of a map that holds ``projections``, with the part of each role in ``changes`` changed."""
    first = projections[0]
    if not first.fused:
        return changes[first.role](y)
    apart = y if first.groups == 1 else y.unflatten(-1, (first.groups, -1))
    unit = apart.shape[-1] // sum(first.sizes)
    parts = list(apart.split([unit * size for size in first.sizes], dim=-1))
    for projection in projections:
        if projection.role in changes:
            part, change = parts[projection.part], changes[projection.role]
            parts[projection.part] = (
                change(part) if first.groups == 1 else change(part.flatten(-2)).unflatten(-1, part.shape[-2:])
            )
    joined = torch.cat(parts, dim=-1)
    return joined if first.groups == 1 else joined.flatten(-2)


def spread(vectors: Mapping[str, Tensor], projections: Sequence[Projection], base: nn.Module) -> Tensor:
    """Factor of every output ``[out]`` of ``base``: each role's own vector, one where a part has none."""
    if not projections[0].fused:
        return vectors[projections[0].role]
    one = base.weight.new_ones(oriented(base).shape[0])
    return changed(one, projections, {role: lambda part, own=own: own for role, own in vectors.items()})


def part_of(weight: Tensor, projection: Projection) -> Tensor:
    """Rows ``[width, ...]`` of a map's ``weight [out, ...]`` that are the role's; within a step, on any device.

    It takes them without indices, which would have to follow the weight to its device.
    """
    if projection.groups == 1:
        return weight[projection.rows(weight.shape[0])]
    apart = weight.unflatten(0, (projection.groups, -1))
    rows = dataclasses.replace(projection, groups=1).rows(apart.shape[1])
    return apart[:, rows].flatten(0, 1)


def places(backbone: nn.Module, targets: tuple[str, ...]) -> dict[str, list[Projection]]:
    """Path of each linear map -> its adapted slices.

    Raises:
        BenchError: A target matches nothing.
    """
    at: dict[str, list[Projection]] = {}
    for _, projection in anatomy(backbone).projections(targets):
        at.setdefault(projection.path, []).append(projection)
    return at


def slices(backbone: nn.Module) -> dict[tuple[str, str], Projection]:
    """Path and role of every slice of ``backbone`` that a method may adapt -> where it is."""
    parts = anatomy(backbone)
    return {(projection.path, projection.role): projection for _, projection in parts.projections(parts.roles())}


@torch.no_grad()
def fold(base: nn.Module, rows: slice | Tensor, inner: Tensor, outer: Tensor, scale: float) -> None:
    """Add ``scale * outer @ inner`` to the output rows ``rows`` of ``base``, in place, in at least float32."""
    weight = oriented(base)
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight[rows] = (weight[rows].to(wide) + scale * (outer.to(wide) @ inner.to(wide))).to(weight.dtype)


def without_mark(merged: nn.Module, mark: str, says: str) -> tuple[nn.Module, Any]:
    """A copy of a ``merged`` module without the attribute ``mark`` that ``merge`` left on it, and the mark's value.

    Raises:
        BenchError: ``merged`` has none: it does not come from that ``merge``.
    """
    value = getattr(merged, mark, None)
    if value is None:
        raise BenchError(f"unmerge takes a module that merge returned; this one does not carry {says}")
    plain = clone(merged)
    delattr(plain, mark)
    return plain, value

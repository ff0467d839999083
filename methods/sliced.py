"""Branches beside the slices of frozen linear maps: where they stand, how they are added and merged."""

from collections.abc import Sequence
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


class Sliced(nn.Module):
    """A frozen linear map with a branch beside each of its adapted slices.

    A fused map, such as GPT-2's, holds several projections as slices of its output; a plain one is one slice.

    Args:
        base: The map.
        projections: Its adapted slices, at least one.
        dropout: Probability with which an element of the branches' input is dropped in training.
    """

    def __init__(self, base: nn.Module, projections: list[Projection], dropout: float) -> None:
        super().__init__()
        outputs = oriented(base).shape[0]
        self.base = base
        self.dropout = dropout
        self.parts = projections[0].parts
        self.roles = {projection.part: projection.role for projection in projections}
        self.rows = {projection.role: projection.rows(outputs) for projection in projections}

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
        """``y [..., out]`` with each adapted slice changed by its own inner state, in the order of ``roles``."""
        if self.parts == 1:
            return self._add(y, narrow[0], self.roles[0])
        slices = list(y.chunk(self.parts, dim=-1))
        for (part, role), own in zip(self.roles.items(), narrow, strict=True):
            slices[part] = self._add(slices[part], own, role)
        return torch.cat(slices, dim=-1)


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
        flat = x.reshape(-1, x.shape[-1])
        maps = [self.inner(role) for role in self.roles.values()]
        if len(maps) == 1:
            narrow: Sequence[Tensor] = [flat @ maps[0].t()]
        else:  # the slices read x once, through their matrices stacked
            narrow = (flat @ torch.cat(maps).t()).chunk(len(maps), dim=-1)
        return self._add_to_slices(wide, narrow).view(y.shape)

    def _add(self, y: Tensor, narrow: Tensor, role: str) -> Tensor:
        # product, scale and sum in one kernel: a separate scale and sum would each pass over [B T, out] again
        return torch.addmm(y, narrow, self.outer(role).t(), alpha=self.scale)


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
def fold(base: nn.Module, rows: slice, inner: Tensor, outer: Tensor, scale: float) -> None:
    """Add ``scale * outer @ inner`` to the output rows ``rows`` of ``base``, in place, in at least float32."""
    weight = oriented(base)[rows]
    wide = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(weight.to(wide) + scale * (outer.to(wide) @ inner.to(wide)))


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

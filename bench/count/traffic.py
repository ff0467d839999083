"""Memory traffic: bytes that one operation reads and writes, whatever caches lie between it and memory."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from bench.count.operations import ALLOCATIONS, tensors

_ATEN = torch.ops.aten
_Named = Mapping[str, Any]


def traffic(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Bytes that a dispatched operation moves: each element that it reads once, and each that it writes once.

    An element counts once however often an operation addresses it: what is expanded counts at its own size, a tensor
    that is given twice counts once, a lookup counts the rows that it looks up, and no more than the table has. Where
    views of one storage overlap in part, the sum of the views counts, up to the size of the storage. What lies within a
    fused kernel moves nothing; what is written in place is read too, unless the operation replaces it.

    Returns:
        0 for an operation that does not compute (`CriticalPath`).
    """
    if isinstance(func, HigherOrderOperator):
        return _bytes(tensors((args, kwargs))) + _bytes(tensors(out))
    packet, form = func._overloadpacket, _form(func)
    if packet in ALLOCATIONS or form.view:
        return 0
    named: _Named = {**dict(zip(form.names, args, strict=False)), **kwargs}
    given = {tensor.untyped_storage()._cdata for value in named.values() for tensor in _listed(value)}
    fresh = [tensor for tensor in _listed(out) if tensor.untyped_storage()._cdata not in given]
    if not fresh and not form.written:
        return 0
    if (partial := _PARTIAL.get(packet)) is not None and (partial.inside or fresh):
        held, elements = named[partial.argument], partial.elements(named, out)
        part: int = min(_addressed(held), elements * held.element_size())
        others = [value for name, value in named.items() if name != partial.argument and name not in form.unread]
        return part * partial.times + _bytes(_all(others)) + _bytes(fresh)
    read = _bytes(_all(value for name, value in named.items() if name not in form.unread))
    return read + _bytes(_all(named.get(name) for name in form.written)) + _bytes(fresh)


class _Form(NamedTuple):
    """What the schema of an operation says of its arguments."""

    names: tuple[str, ...]
    written: tuple[str, ...]
    """Arguments that it writes into."""
    unread: frozenset[str]
    view: bool
    """Whether it changes nothing but how a tensor is looked at."""


@functools.cache
def _form(func: Any) -> _Form:
    declared = func._schema.arguments
    written = [a.name for a in declared if a.alias_info is not None and a.alias_info.is_write]
    packet = func._overloadpacket
    unread = {a.name for a in declared if a.is_out} | _UNREAD.get(packet, frozenset())
    if packet in _FUSED:  # its gradients are written where it scales them back alone, which nothing here asks for
        written.remove("grads")
    return _Form(
        tuple(a.name for a in declared), tuple(written), frozenset(unread), torch.Tag.inplace_view in func.tags
    )


_SELF = frozenset({"self"})
_FUSED = frozenset({_ATEN._fused_adamw_, _ATEN._fused_adam_})
_FILLED = (
    "copy_ zero_ fill_ normal_ uniform_ bernoulli_ exponential_ random_ log_normal_ cauchy_ geometric_ "
    "_foreach_copy_ _foreach_zero_"
).split()
"""They replace what they are given."""
_SHAPED = "zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full".split()
"""They take from a tensor its shape alone."""
_UNREAD: dict[Any, frozenset[str]] = {
    **{getattr(_ATEN, name): _SELF for name in (*_FILLED, *_SHAPED)},
    _ATEN.native_layer_norm_backward: frozenset({"bias"}),
    _ATEN.nll_loss_backward: _SELF,
    _ATEN.nll_loss2d_backward: _SELF,
}
"""Operation -> arguments that it is given and never reads."""


class _Partial(NamedTuple):
    """An operation that addresses some of the elements of one argument."""

    argument: str
    elements: Callable[[_Named, Any], int]
    """How many, from the arguments by name and the output."""
    times: int = 1
    """How often each of them is moved: read or written, or read and written."""
    inside: bool = False
    """Whether it writes into that argument."""


def _as_out(named: _Named, out: Any) -> int:
    first: Tensor = out if isinstance(out, Tensor) else out[0]
    return first.numel()


def _bag(named: _Named, out: Any) -> int:
    return int(named["indices"].numel() * named["weight"].shape[1])


def _targets(named: _Named, out: Any) -> int:
    return int(named["target"].numel())


def _indexed(named: _Named, out: Any) -> int:
    """Elements of ``x[i, :, j]``, where a mask may choose any."""
    held, indices = named["self"], named["indices"]
    found = [index for index in indices if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in found):
        return int(held.numel())
    whole = [size for d, size in enumerate(held.shape) if d >= len(indices) or indices[d] is None]
    chosen = torch.broadcast_shapes(*(index.shape for index in found))  # type: ignore[no-untyped-call]
    return int(math.prod(chosen) * math.prod(whole))


def _scattered(named: _Named, out: Any) -> int:
    return int(named["index"].numel())


def _along(named: _Named, out: Any) -> int:
    """Elements of the places along one dimension that ``index`` names."""
    held = named["self"]
    return int(named["index"].numel() * held.numel() // max(1, held.shape[named["dim"]] if held.ndim else 1))


_PARTIAL: dict[Any, _Partial] = {
    _ATEN.embedding: _Partial("weight", _as_out),
    _ATEN._embedding_bag: _Partial("weight", _bag),
    _ATEN._embedding_bag_forward_only: _Partial("weight", _bag),
    _ATEN.index_select: _Partial("self", _as_out),
    _ATEN.gather: _Partial("self", _as_out),
    _ATEN.take: _Partial("self", _as_out),
    _ATEN.index: _Partial("self", _as_out),
    _ATEN._unsafe_index: _Partial("self", _as_out),
    _ATEN.nll_loss_forward: _Partial("self", _targets),
    _ATEN.nll_loss2d_forward: _Partial("self", _targets),
    _ATEN.index_put_: _Partial("self", _indexed, inside=True),
    _ATEN._index_put_impl_: _Partial("self", _indexed, inside=True),
    _ATEN.index_add_: _Partial("self", _along, 2, inside=True),
    _ATEN.index_copy_: _Partial("self", _along, inside=True),
    _ATEN.index_fill_: _Partial("self", _along, inside=True),
    _ATEN.scatter_: _Partial("self", _scattered, inside=True),
    _ATEN.scatter_add_: _Partial("self", _scattered, 2, inside=True),
}
"""Lookups, and writes of rows or of single elements into a tensor that was there."""


def _listed(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return (value,)
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _listed(part)]
    return ()


def _all(values: Iterable[Any]) -> Iterator[Tensor]:
    return (tensor for value in values for tensor in _listed(value))


def _bytes(held: Iterable[Tensor]) -> int:
    """Bytes of the elements that ``held`` address, each once."""
    views: dict[int, dict[tuple[Any, ...], int]] = {}
    limits: dict[int, int] = {}
    for tensor in held:
        storage = tensor.untyped_storage()
        limits[storage._cdata] = storage.nbytes()
        view = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        views.setdefault(storage._cdata, {})[view] = _addressed(tensor)
    return sum(min(sum(of.values()), limits[storage]) for storage, of in views.items())


def _addressed(tensor: Tensor) -> int:
    """Bytes of the elements that a tensor addresses: an expanded dimension has one, overlapping rows share theirs."""
    elements = tensor.numel()
    if elements and not tensor.is_contiguous():
        sizes = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
        reach = 1 + sum((size - 1) * stride for size, stride in sizes)
        elements = min(math.prod(size for size, _ in sizes), reach)
    return elements * tensor.element_size()

"""Counts the operations of a computation and the longest chain of them; knows neither models nor training steps."""

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from bench.count.fake import asked_device
from bench.count.operations import product, tensors

_ATEN = torch.ops.aten
ALLOCATIONS = frozenset(
    {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_permuted, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}
)
"""Operations that make a tensor and put nothing into it."""

_Storages = set[StorageWeakRef]


class CriticalPath(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is dispatched while it is active, on real and on fake tensors alike.

    An operation **computes** where it fills a tensor of its own or writes into one that it was given. So views and
    other aliases, whose outputs lie in the storage of an input, do not; nor do bare allocations, and questions that no
    tensor answers (``item``). Copies, casts, joins and constants such as ``arange`` do: each moves memory and is a
    kernel of its own. A fused kernel is one operation, as it is one launch.

    The **depth** of a storage is the length of the longest chain of computing operations that its content needs. What
    was there before has depth 0: parameters, buffers, inputs. Views share it; a write raises it for the whole storage,
    so two writes into two parts of one buffer count as one after the other.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        """Operations that compute."""
        self.flops = 0
        self.depth = 0
        """Longest chain of operations that each need the one before: what remains with any number of processors."""
        # Kept weakly: no memory is held, and yet no storage gets the address of one that this knows.
        self._depths: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := asked_device(func, args)) is not None:
            return device
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = _storages((args, kwargs))
        filled = _storages(out) - given | _written(func, args, kwargs)
        if filled and func._overloadpacket not in ALLOCATIONS:
            self._add(func, args, kwargs, out, given, filled)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any, given: _Storages, filled: _Storages) -> None:
        found = product(func, args, kwargs, out)
        reached = 1 + max((self._depths.get(storage, 0) for storage in given), default=0)
        self.operations += 1
        self.flops += found.flops if found else 0
        self.depth = max(self.depth, reached)
        self._depths.update(dict.fromkeys(filled, reached))


def _storages(tree: Any) -> _Storages:
    """Storages of every tensor in nested arguments or outputs."""
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors(tree)}  # type: ignore[no-untyped-call]


def _written(func: Any, args: Any, kwargs: Any) -> _Storages:
    """Storages of the arguments that an operation writes into, by its schema."""
    if not func._schema.is_mutable:
        return set()
    declared = func._schema.arguments
    given = {argument.name: value for argument, value in zip(declared, args, strict=False)} | kwargs
    return _storages([given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write])

"""Whether a method leaves alone what it must: the frozen weights of a backbone, and the set of what trains."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.errors import BenchError

A_HOOK = "a hook"


class Frozen:
    """The frozen weights of a backbone as they are now.

    Where a method put a copy in place of the backbone, the copy is watched; what it took out is nobody's.

    Args:
        own: Parameters of the bare backbone by name.
        body: What ``apply`` made of it.
    """

    def __init__(self, own: Mapping[str, Tensor], body: nn.Module) -> None:
        self._body = body
        self.weights = {name: p for name, p in weights_in(body, own).items() if not p.requires_grad}
        """By their names in the backbone."""
        self._marks = {name: mark(p) for name, p in self.weights.items()}

    def changed(self) -> list[str]:
        """Names of those that hold other values now, or gave way to another tensor.

        Without values the storage is all that is seen; `Writes` sees the rest.
        """
        held = {id(p) for p in self._body.parameters()}
        return [name for name, p in self.weights.items() if id(p) not in held or mark(p) != self._marks[name]]

    def check(self, wrote: Mapping[str, str] = {}) -> None:
        """Hold them against what they were.

        Args:
            wrote: Who wrote into which of them, such as ``after_step()``, where that was seen.

        Raises:
            BenchError: One has changed; it names the first.
        """
        changed = [*dict.fromkeys((*wrote, *self.changed()))]
        if changed:
            more = f" (and {len(changed) - 1} more of {len(self.weights)})" if len(changed) > 1 else ""
            by = f": {wrote[changed[0]]} of the method" if changed[0] in wrote else ": the method"
            raise BenchError(
                f"frozen weight {changed[0]!r}{more} of the backbone changed during training{by} writes what it "
                "neither counts nor stores; let apply() set requires_grad on all that changes"
            )


def weights_in(body: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of ``body`` that are the backbone's or copies of them, by their names in the backbone."""
    held: dict[str, Tensor] = dict(body.named_parameters())
    ids = {id(p) for p in held.values()}
    found = {name: p for name, p in own.items() if id(p) in ids}
    for name, p in held.items():
        parts = name.split(".")
        of_own = next((end for at in range(len(parts)) if (end := ".".join(parts[at:])) in own), None)
        if of_own is not None and of_own not in found and own[of_own].shape == p.shape:
            found[of_own] = p
    return found


Mark = tuple[Any, ...]


def mark(parameter: Tensor) -> Mark:
    """What tells whether a tensor was written: its shape and a checksum of its bytes; its storage without values."""
    if parameter.is_meta or type(parameter.data) is not Tensor:
        return tuple(parameter.shape), parameter.untyped_storage()._cdata
    whole = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return tuple(parameter.shape), parameter.dtype, zlib.crc32(whole.numpy().data)


class Writes(TorchDispatchMode):
    """Sees what operations write into weights, on tensors with and without data alike.

    Args:
        weights: By name.
    """

    supports_higher_order_operators = True

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = {p.untyped_storage()._cdata: name for name, p in weights.items()}
        self._written: dict[Any, tuple[tuple[int, str], ...]] = {}
        self.by = ""
        """Who is at work."""
        self.seen: dict[str, str] = {}
        """Name of a weight -> who was the first to write into it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self._written:
            self._written[func] = tuple(_written(func))
        for place, name in self._written[func]:
            value = args[place] if place < len(args) else (kwargs or {}).get(name)
            for tensor in tree_leaves(value):
                if isinstance(tensor, Tensor) and (weight := self._names.get(_storage(tensor))) is not None:
                    self.seen.setdefault(weight, self.by)
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return 0


def _written(func: Any) -> Iterable[tuple[int, str]]:
    """Places and names of the arguments that an operation writes into."""
    schema = getattr(func, "_schema", None)
    for place, argument in enumerate(schema.arguments if schema else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield place, argument.name


def check_unchanged(model: nn.Module, trained: Iterable[Tensor], since: str = A_HOOK) -> None:
    """End where other parameters require a gradient than those that the optimizer holds since the start.

    Args:
        model: What trains, with its head.
        trained: What the optimizer was given.
        since: The hook that ran last, such as ``after_step()``.

    Raises:
        BenchError: It names the first of them.
    """
    held = {id(p) for p in trained}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (id(parameter) in held):
            now = "is set to train" if parameter.requires_grad else "is frozen"
            raise BenchError(
                f"parameter {name.removeprefix('body.')!r} {now} since {since} ran during training, which the "
                "optimizer cannot follow; let apply() set requires_grad, and no hook after it change that"
            )


Hook = Callable[[], object]
"""One part of a training step."""


def watched(model: nn.Module, frozen: Frozen, trained: Iterable[Tensor], parts: Iterable[tuple[str, Hook]]) -> None:
    """Run the ``parts`` of training steps in turn and hold what each does to weights that it must leave alone.

    Args:
        model: What trains, with its head.
        frozen: Weights of the backbone.
        trained: What the optimizer was given.
        parts: Who is at work, such as ``after_step()``, and the work.

    Raises:
        BenchError: One wrote into a frozen weight, froze what trains or set to train what was frozen.
    """
    held = tuple(trained)
    with Writes(frozen.weights) as writes:
        for writes.by, work in parts:
            work()
            check_unchanged(model, held, writes.by)
    frozen.check(writes.seen)

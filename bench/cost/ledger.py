"""The exact part of a cost: FLOPs by kind, owner and layer, and saved bytes; it measures no time and no peak."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cost.formulas import product, tensors
from bench.cost.places import Origin, Owner, Place, Places
from bench.record import Flops, Owners


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Counts of one training step."""

    flops: Flops
    saved_activations: int
    """Bytes that autograd keeps for backward, one storage once, parameters and buffers left out.

    Input ids, mask and labels count where autograd keeps them.
    """
    saved_by_owner: dict[Owner, int]
    """The same bytes by the module whose forward kept them first."""
    loss: float


def count_step(
    model: nn.Module,
    origin: Origin,
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Ledger:
    """Count one forward and one backward; works alike on real and on fake tensors.

    The kind of a backward product follows from its operands: one that reads a parameter is an input gradient
    (dX = G W), one that reads none a weight gradient (dW = G^T X), batched products and fused attention are attention.
    A weight-gradient product has no parameter among its operands, so its owner is that of the forward operation that
    made its autograd node, by sequence number. A fused recurrent backward holds both gradients in equal parts.
    Gradients stay on the parameters.

    Args:
        model: Model with ``body`` and ``head``.
        origin: The backbone as it was before the method was applied.
        forward: Runs the model and returns the scalar loss.
        backward: Runs backward of that loss.
    """
    places = Places(origin, model.body, model.head)  # type: ignore[arg-type]
    counter = _Counter(places)
    with places.following():
        with _saved(model, places) as saved, counter:
            loss = forward()
        kept = dict(saved)
        saved.clear()
        counter.backward = True
        with counter:
            backward(loss)
    by_owner: dict[Owner, int] = collections.defaultdict(int)
    for storage, owner in kept.values():
        by_owner[owner] += storage.nbytes()
    value = loss.item() if loss.device.type != "meta" and not _fake(loss) else float("nan")
    return Ledger(counter.flops(origin.depth), sum(by_owner.values()), dict(by_owner), value)


def forward_flops(run: Callable[[], Any]) -> tuple[int, list[tuple[str, tuple[tuple[int, ...], ...]]]]:
    """FLOPs and operation trace of an inference: name of every dispatched operation with the shapes of its tensors."""
    with torch.no_grad(), _Trace() as trace:
        run()
    return trace.flops, trace.operations


def _fake(tensor: Tensor) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(tensor, FakeTensor)


_Saved = dict[int, tuple[torch.UntypedStorage, Owner]]


@contextlib.contextmanager
def _saved(model: nn.Module, places: Places) -> Iterator[_Saved]:
    """Collect what autograd keeps, by storage; the storage is held so that its address is not used again."""
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    kept: _Saved = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = (storage, places.now().owner)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up products by phase, kind and place."""

    def __init__(self, places: Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.backward = False
        self._places = places
        self._nodes: dict[int, Place] = {}
        self._next = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        self._tally: dict[tuple[str, Place], int] = collections.defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.backward:
            self._note_nodes(args, kwargs)
        out = func(*args, **kwargs)
        found = product(func, args, kwargs, out)
        if found is not None:
            parameter = self._places.parameter(tensors((args, kwargs)))
            if not self.backward:
                self._tally["forward", self._places.now(parameter)] += found.flops
            else:
                place = self._node_place() or self._places.now(parameter)
                self._add_backward(found.flops, found.kind, place, parameter is not None)
        return out

    def _note_nodes(self, args: Any, kwargs: Any) -> None:
        # Autograd numbers a node just before it dispatches the operation: the numbers given since the last dispatch
        # belong to the operation that is dispatched now.
        upper = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        if upper > self._next:
            place = self._places.now(self._places.parameter(tensors((args, kwargs))))
            for number in range(self._next, upper):
                self._nodes[number] = place
            self._next = upper

    def _node_place(self) -> Place | None:
        node = torch._C._current_autograd_node()
        return None if node is None else self._nodes.get(node._sequence_nr())

    def _add_backward(self, flops: int, kind: str, place: Place, reads_parameter: bool) -> None:
        if kind == "recurrent":
            self._tally["input_gradient", place] += flops // 2
            self._tally["weight_gradient", place] += flops - flops // 2
        elif reads_parameter:
            self._tally["input_gradient", place] += flops
        else:
            self._tally["attention" if kind == "attention" else "weight_gradient", place] += flops

    def flops(self, depth: int) -> Flops:
        """The account of everything counted so far."""
        labels = ["embeddings", *(f"layer_{i}" for i in range(1, depth + 1)), "head"]
        labels += sorted({place.layer for _, place in self._tally} - set(labels))
        return Flops(
            **self._sum(lambda place: True).model_dump(),
            backbone=self._sum(lambda place: place.owner == "backbone"),
            method=self._sum(lambda place: place.owner == "method"),
            head=self._sum(lambda place: place.owner == "head"),
            by_layer={label: self._sum(lambda place, label=label: place.layer == label) for label in labels},  # type: ignore[misc]
        )

    def _sum(self, belongs: Callable[[Place], bool]) -> Owners:
        parts: dict[str, int] = collections.defaultdict(int)
        for (part, place), flops in self._tally.items():
            if belongs(place):
                parts[part] += flops
        return Owners(
            forward=parts["forward"],
            backward=parts["weight_gradient"] + parts["input_gradient"] + parts["attention"],
            backward_weight_gradient=parts["weight_gradient"],
            backward_input_gradient=parts["input_gradient"],
            backward_attention=parts["attention"],
        )


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every dispatched operation and adds up its FLOPs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.operations: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        found = product(func, args, kwargs, out)
        self.flops += found.flops if found else 0
        self.operations.append((str(func), tuple(tuple(t.shape) for t in tensors((args, kwargs, out)))))
        return out

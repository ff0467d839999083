"""The exact part of a cost: FLOPs by kind, owner and layer, memory traffic, backward's path, saved bytes."""

import collections
import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.count.attribution import Origin, Owner, Place, Places
from bench.count.chunked import Taken, inside, taken
from bench.count.collectives import gradient_bytes
from bench.count.fake import Mode, asked_device
from bench.count.memory import Course, follow_step, make_state
from bench.count.operations import CriticalPath, Link, Product, factors, product, tensors, uncounted
from bench.count.packed import unpacks
from bench.count.roofline import Load, Work
from bench.count.traffic import traffic
from bench.schema.record import Flops, MovedBytes, Owners, PathCounts, SavedTensor, Traffic
from bench.training.loop import Reached


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepFigures:
    """Counted figures of one training step under the names of a record's fields; a new one is a field here."""

    flops: Flops
    backward_path: PathCounts
    """Of backward alone: what forward left has depth 0."""
    traffic_bytes: Traffic | None
    """None where what a step moves is not what was dispatched."""
    all_reduce_bytes: int
    """Of the gradients of all that trains, which data-parallel devices all-reduce."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger(StepFigures):
    """Counts of one training step."""

    saved_activations: int
    """Bytes that autograd keeps for backward, one storage once, parameters and buffers left out.

    Input ids, mask and labels count where autograd keeps them.
    """
    saved_by_owner: dict[Owner, int]
    """The same bytes by the module whose forward kept them first."""
    kept: tuple[SavedTensor, ...]
    """All of these tensors, as forward kept them one after another."""
    uncounted: tuple[str, ...]
    """Operations of the step that may hold products and have no formula: the FLOPs leave them out."""
    loads: tuple[tuple[Any, Load], ...]
    """Of all operations that compute, the optimizer's among them, in turn."""
    chain: tuple[Link, ...] = ()
    """Of backward's path, the operations in turn."""

    @property
    def work(self) -> Work:
        """How many operations are alike."""
        return dict(collections.Counter(load for _, load in self.loads))

    @property
    def saved(self) -> tuple[SavedTensor, ...]:
        """What is kept, the largest first."""
        return tuple(sorted(self.kept, key=lambda tensor: -tensor.bytes))


def count_step(
    model: nn.Module,
    origin: Origin,
    forward: Callable[[], Tensor],
    backward: Callable[[Tensor], object] = Tensor.backward,
    optimize: Callable[[], object] = lambda: None,
) -> Ledger:
    """Count one forward, one backward and one update; works alike on real and on fake tensors.

    A backward product belongs to the forward product that made its autograd node, by sequence number: that gives its
    owner and layer. Its kind is that of the factor whose gradient it computes: a parameter's is a weight gradient
    (dW = G^T X), another's an input gradient (dX = G W), unless both factors are activations: attention. A fused
    recurrent backward holds weight and input gradient in equal parts. Forward products inside backward, which
    checkpointing makes, are recompute. Gradients stay on the parameters. FLOPs are those of forward and backward.

    Args:
        model: Model with ``body`` and ``head``.
        origin: The backbone as it was before the method was applied.
        forward: Runs the model and returns the scalar loss.
        backward: Runs backward of that loss.
        optimize: Updates what trains. It runs twice: the first makes the optimizer's state, the second is counted.

    Raises:
        BenchError: The loss does not reach a trainable parameter: what was counted is no step of the method.
    """
    counting = _Phases(model, origin)
    counting.backward(backward, counting.forward(forward))
    optimize()
    counting.optimize(optimize)
    return counting.ledger()


def count_and_follow(step: Any) -> tuple[Ledger, Course]:
    """``count_step`` and ``follow_step`` of one and the same ``TrainingStep``, which is taken once.

    Optimizer and method have their state from an update by zero gradients. Not for the chunked cross-entropy: what it
    counts by, operations run one after another, takes scratch that the device's form stands for already.

    Raises:
        BenchError: As ``count_step``.
    """
    make_state(step)
    counted = _Counted(step)
    course = follow_step(counted, begun=True)
    return counted.counting.ledger(), course


class _Phases:
    """The phases of one step, each counted while it runs; no tensor is held."""

    def __init__(self, model: nn.Module, origin: Origin) -> None:
        self._model, self._depth = model, origin.depth
        self._places = Places(origin, model.body, model.head)  # type: ignore[arg-type]
        self._counter = _Counter(self._places)
        self._path = CriticalPath()
        self._kept: list[SavedTensor] = []

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        with self._places.following(), _saved(self._model, self._places) as (self._kept, keep), self._counter:
            self._counter.keep = keep
            return run()

    def backward(self, run: Callable[[Tensor], object], loss: Tensor) -> None:
        self._counter.phase = "backward"
        with self._places.following(), self._counter, self._path:
            run(loss)
        Reached(self._model).see().check()

    def optimize(self, run: Callable[[], object]) -> None:
        self._counter.phase = "optimizer"
        with self._counter:
            run()

    def ledger(self) -> Ledger:
        """What all phases came to."""
        by_owner: dict[Owner, int] = collections.defaultdict(int)
        for tensor in self._kept:
            by_owner[tensor.owner] += tensor.bytes
        path, counter = self._path, self._counter
        return Ledger(
            flops=counter.flops(self._depth),
            backward_path=PathCounts(operations=path.operations, depth=path.depth),
            traffic_bytes=counter.traffic(),
            all_reduce_bytes=gradient_bytes(self._model),
            saved_activations=sum(by_owner.values()),
            saved_by_owner=dict(by_owner),
            kept=tuple(self._kept),
            uncounted=tuple(sorted(counter.uncounted)),
            loads=tuple(counter.loads),
            chain=tuple(path.chain),
        )


class _Counted:
    """A step whose phases are counted where they are followed."""

    def __init__(self, step: Any) -> None:
        self._step = step
        self.model, self.optimizer, self.batch = step.model, step.optimizer, step.batch
        self.zero, self.kept = step.zero, step.kept
        self.counting = _Phases(step.model, step.origin)

    def forward(self) -> Tensor:
        return self.counting.forward(self._step.forward)

    def backward(self, loss: Tensor) -> None:
        self.counting.backward(self._step.backward, loss)

    def optimize(self) -> None:
        self.counting.optimize(self._step.optimize)


def forward_flops(run: Callable[[], Any]) -> tuple[int, list[tuple[str, tuple[tuple[int, ...], ...]]]]:
    """FLOPs and operation trace of an inference: name of every dispatched operation with the shapes of its tensors."""
    with torch.no_grad(), _Trace() as trace:
        run()
    return trace.flops, trace.operations


@contextlib.contextmanager
def _saved(model: nn.Module, places: Places) -> Iterator[tuple[list[SavedTensor], Callable[[Tensor], Tensor]]]:
    """Collect what autograd keeps, each storage once.

    Beside the collection comes the function that adds to it, for what an operation keeps by other means.
    """
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    seen: dict[int, weakref.ref[Any]] = {}  # an address may be used again, whose reference is dead then
    kept: list[SavedTensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        known = seen.get(storage._cdata)
        if storage._cdata not in own and (known is None or known() is None):
            seen[storage._cdata] = weakref.ref(storage)
            kept.append(SavedTensor(
                module=places.running(), owner=places.now().owner, shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."), bytes=storage.nbytes(),
            ))  # fmt: skip
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept, pack


class _Factor:
    """One factor of a matrix product, which is not held."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape = tensor.shape
        self._storage = weakref.ref(tensor.untyped_storage())

    def among(self, storages: Collection[int]) -> bool:
        """Whether its storage, where there still is one, is among these addresses."""
        storage = self._storage()
        return storage is not None and storage._cdata in storages


@dataclasses.dataclass(frozen=True)
class _Node:
    """What backward must know of the forward operation that made an autograd node."""

    place: Place
    factors: tuple[_Factor, _Factor] | None = None
    """The two factors of a matrix product between activations."""
    learned: int | None = None
    """How many factors of a matrix product are parameters; None for another operation."""


_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.cat.default}
"""Operations that make of parameters a tensor that counts as one."""


class _Counter(Mode):
    """Adds up products by phase, kind and place, and what every operation moves by phase and place."""

    supports_higher_order_operators = True

    def __init__(self, places: Places) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Literal["forward", "backward", "optimizer"] = "forward"
        self.keep: Callable[[Tensor], object] = lambda tensor: None
        self.uncounted: set[str] = set()
        self.loads: list[tuple[Any, Load]] = []
        self._places = places
        self._nodes: dict[int, _Node] = {}
        self._next = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        self._tally: dict[tuple[str, Place], int] = collections.defaultdict(int)
        self._moved: dict[tuple[str, str], int] = collections.defaultdict(int)
        self._updated = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := asked_device(func, args)) is not None:
            return device
        kwargs = kwargs or {}
        # Backward itself records no gradient: where one is recorded, a checkpointed forward runs again.
        forward = self.phase == "forward" or (self.phase == "backward" and torch.is_grad_enabled())
        if forward:
            self._note_nodes(func, args, kwargs)
        if (ahead := taken(func, args)) is not None:
            return self._take(ahead, args)
        out = func(*args, **kwargs)
        if func in _COPIES:
            self._places.follow_copy(list(tensors(args)), out)
        elif unpacks(func):
            self._places.follow_copy(args[:1], out)
        found = product(func, args, kwargs, out)
        if found is None and self.phase == "backward" and not forward:
            found = _outer(func, out)
        moved = traffic(func, args, kwargs, out)
        if moved:
            self.loads.append((func, Load(_type(args), found.flops, moved) if found else Load("", 0, moved)))
        if self.phase == "optimizer":
            self._updated += moved  # of no owner: one operation may move tensors of all
            return out
        if found is None and (name := uncounted(func)) is not None:
            self.uncounted.add(name)
        if found or moved:
            self._add(found, moved, list(tensors((args, kwargs))), forward)
        return out

    def _add(self, found: Product | None, moved: int, operands: list[Tensor], forward: bool) -> None:
        parameter = self._places.parameter(operands)
        if forward:
            place = self._places.now(parameter)
            if found:
                self._tally["recompute" if self.phase == "backward" else "forward", place] += found.flops
        else:
            current = torch._C._current_autograd_node()
            node = None if current is None else self._nodes.get(current._sequence_nr())
            if node is None:
                node = _Node(self._places.now(parameter or self._accumulated(current)))
            place = node.place
            if found:
                self._add_backward(found, node, operands, parameter is not None)
        self._moved[self.phase, place.owner] += moved

    def _accumulated(self, node: Any) -> Place | None:
        """Place of the parameter whose gradient ``node`` adds up; None for another node."""
        variable = getattr(node, "variable", None)
        return None if variable is None else self._places.parameter([variable])

    def _take(self, ahead: Taken, args: Any) -> Any:
        """Run a loss that takes its gradients in forward and keeps them for backward; add it by what it computes."""
        place = self._places.now(self._places.parameter(tensors(args)))
        for part, flops in ahead._asdict().items():
            self._tally[part, place] += flops
        with _Moves() as moves:
            out = inside(*args)
        self.loads += moves.loads
        self._moved[self.phase, place.owner] += sum(load.bytes for _, load in moves.loads)
        for gradient in out[1:]:
            if gradient.numel():
                self.keep(gradient)
        return out

    def _note_nodes(self, func: Any, args: Any, kwargs: Any) -> None:
        # Autograd numbers a node just before it dispatches the operation: the numbers given since the last dispatch
        # belong to the operation that is dispatched now.
        upper = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
        if upper == self._next:
            return
        place, pair = self._places.now(self._places.parameter(tensors((args, kwargs)))), factors(func, args)
        node = _Node(place)
        if pair is not None:
            learned = sum(map(self._places.is_parameter, pair))
            node = _Node(place, None if learned else (_Factor(pair[0]), _Factor(pair[1])), learned)
        for number in range(self._next, upper):
            self._nodes[number] = node
        self._next = upper

    def _add_backward(self, found: Product, node: _Node, operands: list[Tensor], reads_parameter: bool) -> None:
        if found.kind == "both":
            self._tally["input_gradient", node.place] += found.flops // 2
            self._tally["weight_gradient", node.place] += found.flops - found.flops // 2
        elif found.kind in ("input", "weight"):
            self._tally[f"{found.kind}_gradient", node.place] += found.flops
        else:
            self._tally[_kind(found, node, operands, reads_parameter), node.place] += found.flops

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
            backbone_by_layer={
                label: self._sum(lambda place, label=label: place == ("backbone", label))  # type: ignore[misc]
                for label in labels[: depth + 1]
            },
        )

    def traffic(self) -> Traffic:
        """The account of everything moved so far."""
        moved = {owner: self._moves(owner) for owner in ("backbone", "method", "head")}
        forward, backward = (sum(getattr(part, phase) for part in moved.values()) for phase in ("forward", "backward"))
        step = forward + backward + self._updated
        return Traffic(forward=forward, backward=backward, optimizer=self._updated, step=step, **moved)

    def _moves(self, owner: str) -> MovedBytes:
        return MovedBytes(**{phase: self._moved[phase, owner] for phase in MovedBytes.model_fields})

    def _sum(self, belongs: Callable[[Place], bool]) -> Owners:
        parts: dict[str, int] = collections.defaultdict(int)
        for (part, place), flops in self._tally.items():
            if belongs(place):
                parts[part] += flops
        return Owners(
            forward=parts["forward"],
            backward=sum(flops for part, flops in parts.items() if part != "forward"),
            backward_weight_gradient=parts["weight_gradient"],
            backward_input_gradient=parts["input_gradient"],
            backward_attention=parts["attention"],
            backward_recompute=parts["recompute"],
        )


def _type(factors: Any) -> str:
    """Type that a product is computed in: that of what it multiplies."""
    types = (tensor.dtype for tensor in tensors(factors) if tensor.dtype.is_floating_point or tensor.is_complex())
    return str(next(types, "")).removeprefix("torch.")


class _Moves(Mode):
    """Adds up what the operations of a whole one move and multiply."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.loads: list[tuple[Any, Load]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if moved := traffic(func, args, kwargs, out):
            found = product(func, args, kwargs, out)
            self.loads.append((func, Load(_type(args), found.flops, moved) if found else Load("", 0, moved)))
        return out


def _outer(func: Any, out: Any) -> Product | None:
    """The weight gradient of a matrix times a vector, which torch writes as an elementwise product."""
    if func is not torch.ops.aten.mul.Tensor or out.ndim != 2:
        return None
    node = torch._C._current_autograd_node()
    times_vector = node is not None and node.name() in ("MvBackward0", "AddmvBackward0")
    return Product(2 * out.numel(), "weight") if times_vector else None


def _kind(found: Product, node: _Node, operands: list[Tensor], reads_parameter: bool) -> str:
    """Kind of one backward product: by the factor of the forward product that it does not read."""
    if found.kind == "attention" and not node.learned and not reads_parameter:
        return "attention"
    if node.factors is None:
        return "input_gradient" if reads_parameter and node.learned != 2 else "weight_gradient"
    # Neither factor is a parameter, as where a weight is computed: the second stands in the weight's place.
    first, second = node.factors
    read = {tensor.untyped_storage()._cdata for tensor in operands}
    reads_first, reads_second = (factor.among(read) for factor in node.factors)
    if reads_first == reads_second:  # checkpointing made both factors anew: by the dimension that is summed over
        reads_second = operands[0].shape[-1] == second.shape[-1] != first.shape[-2]
    return "input_gradient" if reads_second else "weight_gradient"


class _Trace(Mode):
    """Writes down every dispatched operation and adds up its FLOPs."""

    supports_higher_order_operators = True

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

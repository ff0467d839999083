"""Peak memory of a training step by phase, from the CUDA allocator or by following storages."""

import contextlib
import dataclasses
import itertools
import math
import unittest.mock
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bench.count.chunked import followed, inside
from bench.count.fake import Mode, asked_device
from bench.count.operations import tensors
from bench.schema.record import Bytes, PeakMemory
from bench.training.loop import NonFiniteLoss

Source = Literal["cuda_allocated", "tracker"]
ROUNDING = 512
"""Bytes; the CUDA caching allocator hands out multiples of it, so the tracker predicts in the same unit."""


class Step(Protocol):
    """What is measured: one training step in phases, as ``bench.count.step.TrainingStep`` has it."""

    model: Any
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]

    def forward(self) -> Tensor: ...  # noqa: D102
    def backward(self, loss: Tensor) -> None: ...  # noqa: D102
    def optimize(self) -> None: ...  # noqa: D102
    def zero(self) -> None: ...  # noqa: D102
    def kept(self) -> Iterable[Tensor]: ...  # noqa: D102


class Event(NamedTuple):
    """One storage that was taken or given back."""

    func: Any
    """Operation that took it; None where it was given back."""
    size: int
    """Bytes of the storage, below 0 where it was given back."""
    like: Hashable
    """Who took it for a tensor of what shape and type, which tells storages of one size apart."""


def rounded(size: int, unit: int = ROUNDING) -> int:
    """Bytes that an allocator takes for ``size``, or gives back where that is below 0."""
    taken = -(-abs(size) // unit) * unit
    return taken if size > 0 else -taken


class Tracker(Mode):
    """Follows the storages of all tensors that operations return, on real, fake and meta tensors alike.

    Scratch space inside a kernel is invisible. Peaks equal those of torch's CPU allocator; sums of allocations do not.
    """

    supports_higher_order_operators = True

    def __init__(self, rounding: int = ROUNDING) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        """Bytes that live now."""
        self.peak = 0
        """Largest ``current`` since the last reset."""
        self.events: list[Event] = []
        """What was taken and given back, in order."""
        self._rounding = rounding
        self._live: dict[int, tuple[int, Hashable]] = {}

    def seed(self, held: Iterable[Tensor]) -> None:
        """Count tensors that lived before the tracker was switched on."""
        for tensor in held:
            self._see(tensor, None)

    def reset_peak(self) -> None:
        """Start a new phase."""
        self.peak = self.current

    def _see(self, tensor: Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        like = (func, tuple(tensor.shape), tensor.dtype)
        self._live[key] = (size, like)
        self.current += rounded(size, self._rounding)
        self.peak = max(self.peak, self.current)
        self.events.append(Event(func, size, like))
        weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key: int) -> None:
        size, like = self._live.pop(key, (0, None))
        self.current -= rounded(size, self._rounding)
        self.events.append(Event(None, -size, like))

    @contextlib.contextmanager
    def following_resizes(self) -> Iterator[None]:
        """FSDP2 gives the memory of whole weights back, and takes it again, without an operation."""
        resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            done = resize(storage, size)
            self._resize(storage)
            return done

        with unittest.mock.patch.object(torch.UntypedStorage, "resize_", resized):
            yield

    def _resize(self, storage: torch.UntypedStorage) -> None:
        before, like = self._live.get(storage._cdata, (0, None))
        if like is None:
            return
        size = storage.nbytes()
        self._live[storage._cdata] = (size, like)
        self.current += rounded(size, self._rounding) - rounded(before, self._rounding)
        self.peak = max(self.peak, self.current)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := asked_device(func, args)) is not None:
            return device
        if DTensor in types:  # what it does with its share comes by in turn
            return NotImplemented
        if followed(func):
            with self:  # its scratch is followed operation by operation
                out = inside(*args)
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            self._see(tensor, func)
        return out


def measure_step(step: Step) -> tuple[Bytes, PeakMemory, Source]:
    """Bytes held and peaks of one step once the optimizer has its state; where it has none, it takes a step first.

    ``saved_activations`` of the result is 0: the ledger counts it, in a pass of its own, since counting holds what
    it counts.

    Raises:
        NonFiniteLoss: The loss is NaN or infinite.
    """
    cuda = next(step.model.parameters()).device.type == "cuda"
    if not cuda:
        course = follow_step(step)
        return course.held, peak_memory(course.peaks), "tracker"
    _begin(step)
    peaks, gradients = _by_cuda(step)
    held = _held(step, gradients)
    step.zero()
    return held, peak_memory(peaks), "cuda_allocated"


@dataclasses.dataclass(frozen=True)
class Course:
    """What a step takes and gives back, by the tracker."""

    held: Bytes
    before: list[Event]
    """What lives before forward: weights, state and batch."""
    phases: list[list[Event]]
    """Of forward, backward and optimizer."""
    peaks: list[int]
    """Of each."""


def follow_step(step: Step, *, begun: bool = False) -> Course:
    """As ``measure_step`` by the tracker alone, with the whole course of it; ``begun`` steps have their state.

    Raises:
        NonFiniteLoss: The loss is NaN or infinite.
    """
    if not begun:
        _begin(step)
    tracker = Tracker()
    tracker.seed([*_weights(step.model), *_state(step), *step.batch.values()])
    peaks, ends = [], [0, len(tracker.events)]

    def end_phase() -> None:
        peaks.append(tracker.peak)
        ends.append(len(tracker.events))
        tracker.reset_peak()

    tracker.reset_peak()
    with tracker, tracker.following_resizes():
        gradients = _phases(step, end_phase)
    before, *phases = [tracker.events[first:last] for first, last in itertools.pairwise(ends)]
    held = _held(step, gradients)
    step.zero()
    return Course(held, before, phases, peaks)


def peak_memory(peaks: Sequence[int]) -> PeakMemory:
    """Peaks of forward, backward and optimizer, with the largest."""
    forward, backward, optimizer = peaks
    return PeakMemory(forward=forward, backward=backward, optimizer=optimizer, step=max(peaks))


def _begin(step: Step) -> None:
    step.zero()
    if not step.optimizer.state:
        make_state(step)


def _held(step: Step, gradients: int) -> Bytes:
    return Bytes(
        weights=nbytes(_weights(step.model)),
        gradients=gradients,
        optimizer_state=nbytes(_state(step)),
        saved_activations=0,
    )


def make_state(step: Step) -> None:
    """Update on zero gradients: what optimizer and method keep from step to step is there, and no activation was."""
    for parameter in step.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    step.optimize()
    step.zero()


def nbytes(held: Iterable[Tensor]) -> int:
    """Bytes of the storages of ``held``, a shared one once."""
    return sum({(s := t.untyped_storage())._cdata: s.nbytes() for t in held}.values())


def _here(held: Iterable[Tensor]) -> list[Tensor]:
    """``held``, of tensors that several devices share what this one has."""
    with torch.no_grad():
        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in held]


def _weights(model: nn.Module) -> list[Tensor]:
    return _here([*model.parameters(), *model.buffers()])


def _state(step: Step) -> list[Tensor]:
    return _here([*tensors([dict(state) for state in step.optimizer.state.values()]), *step.kept()])


def _gradients(model: nn.Module) -> int:
    return nbytes(_here(p.grad for p in model.parameters() if p.grad is not None))


def workspace_bytes(device: str, dtype: torch.dtype) -> int:
    """Bytes that cuBLAS takes from torch's allocator for products on ``device``, and keeps; 0 on the CPU.

    Told by a small product, there and back, in a process that has made none yet: forward and backward run in threads
    of their own, each with its workspace, whose size depends on the GPU and on torch.
    """
    before = torch.cuda.memory_allocated()
    rows, weight, bias = (
        torch.ones(*shape, device=device, dtype=dtype, requires_grad=True) for shape in ((64, 64), (64, 64), (64,))
    )
    torch.autograd.backward(nn.functional.linear(rows, weight, bias).sum())
    del rows, weight, bias
    return int(torch.cuda.memory_allocated() - before)


def _by_cuda(step: Step) -> tuple[list[int], int]:
    peaks: list[int] = []

    def end_phase() -> None:
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return peaks, _phases(step, end_phase)


def _phases(step: Step, end_phase: Callable[[], None]) -> int:
    loss = step.forward()
    end_phase()
    step.backward(loss)
    end_phase()
    gradients = _gradients(step.model)
    step.optimize()
    end_phase()
    if not math.isfinite(value := loss.item()):
        raise NonFiniteLoss(f"the loss of the measured step is {value}")
    return gradients

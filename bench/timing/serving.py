"""Many tasks on one backbone: a batch whose rows belong to several tasks, in one forward and task after task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.errors import BenchError, said
from bench.method import Method, copy_delta
from bench.models.head import generator
from bench.timing.inference import Deployed
from bench.timing.interleave import Arm, Round, between, clock
from bench.training.contract import merge

APART = 0.02
"""Standard deviation of what the deltas of two tasks differ by."""
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""By which states of a mixed batch may differ from those of one task after another, as a share of the largest."""


class Tasks:
    """Deltas of several tasks of one method, held in memory beside one backbone.

    Args:
        method: Whose deltas they are.
        body: A finalized module; it holds one of them at a time.
        count: How many tasks there are.

    Raises:
        BenchError: A delta is no set of tensors of the running module.
    """

    def __init__(self, method: Method, body: nn.Module, count: int) -> None:
        self.method, self.body, self.count = method, body, count
        own = method.unpack(body, method.delta(body))
        self._held = {**dict(body.named_parameters()), **dict(body.named_buffers())}
        if not own or any(name not in self._held or self._held[name].shape != t.shape for name, t in own.items()):
            raise BenchError("no tasks to serve: the delta is empty or not a set of tensors of the running module")
        stream = generator(0, "tasks")
        self.stacked = {name: torch.stack([_moved(t, stream) for _ in range(count)]) for name, t in own.items()}
        """Deltas of all tasks, each tensor ``[count, ...]``."""

    @property
    def nbytes(self) -> int:
        """Bytes that all deltas take beside the backbone."""
        return sum(t.numel() * t.element_size() for t in self.stacked.values())

    def mixed(self, ids: Tensor, tasks: Tensor) -> Tensor:
        """Last hidden states ``[B, T, d]`` of rows ``ids [B, T]``, each under the delta of its task ``[B]``.

        One forward for all: what is frozen reads the whole batch, and what a task has of its own its row alone. Rows
        are of one length, none of it padding.
        """
        deltas = {name: t.index_select(0, tasks) for name, t in self.stacked.items()}
        with sdpa_kernel(SDPBackend.MATH):  # vmap runs the fused kernels of a CPU row by row
            states: Tensor = vmap(self._row)(deltas, ids)
        return states

    def _row(self, delta: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        # without a mask: transformers asks a mask whether it masks anything, which has one answer for all rows
        states: Tensor = functional_call(self.body, dict(delta), kwargs={"input_ids": ids[None]}).last_hidden_state[0]
        return states

    def in_turns(self, ids: Tensor, tasks: Tensor, *, merged: bool = False) -> Tensor:
        """As ``mixed``, task after task: load its delta into the running module, or merge it, and run its rows."""
        states: Any = None
        for task in sorted({*tasks.tolist()}):
            own = {name: t[task] for name, t in self.stacked.items()}
            copy_delta(self._held, own.keys(), own)
            body = merge(self.method, self.body) if merged else self.body
            assert body is not None
            rows = (tasks == task).nonzero().flatten()
            found = body(input_ids=ids.index_select(0, rows)).last_hidden_state
            states = found.new_zeros((len(ids), *found.shape[1:])) if states is None else states
            states.index_copy_(0, rows, found)
        result: Tensor = states
        return result


def _moved(own: Tensor, stream: torch.Generator) -> Tensor:
    if not own.is_floating_point():
        return own.clone()
    return own + APART * torch.randn(own.shape, generator=stream).to(own)


def check(tasks: Tasks, ids: Tensor, each: Tensor) -> None:
    """Hold a mixed batch against one task after another.

    Raises:
        BenchError: They compute different things, or the module of the method does not run on rows of several tasks.
    """
    with torch.no_grad():
        expected = tasks.in_turns(ids, each)
        try:
            found = tasks.mixed(ids, each)
        except RuntimeError as error:
            reason = said(error)
            raise BenchError(f"a batch cannot mix tasks of this method: torch.func.vmap: {reason}") from error
    apart = float((found - expected).float().abs().max() / expected.float().abs().max())
    if not apart <= ROUNDING[expected.dtype]:
        raise BenchError(f"a batch of mixed tasks computes something else: states differ by {apart:.1e} of the largest")


Answers = dict[tuple[str, int], Callable[[], Tensor]]
"""What answers a batch of several tasks, by way (``bench.schema.figures.SERVED``) and number of tasks."""


def answers(deployed: Deployed, ids: Tensor, numbers: Sequence[int], free: int, warnings: list[str]) -> Answers:
    """Ways of answering ``ids [B, T]``, whose rows take ``numbers`` of tasks in turn, of one method.

    Args:
        deployed: The method; its module holds another task's delta afterwards.
        ids: The batch.
        numbers: How many tasks there are, each by itself.
        free: Bytes that deltas and what is gathered of them may take, a half of it.
        warnings: Takes what cannot be measured, with its reason.
    """
    found: Answers = {}
    try:
        one = Tasks(deployed.method, deployed.unmerged.body, 1)
    except BenchError as error:
        warnings.append(f"no times of serving: {error}")
        return found
    mixes = True
    for number in numbers:
        if (number + len(ids)) * one.nbytes > free / 2:
            warnings.append(f"no times of serving {number} tasks: their deltas take {number * one.nbytes:,} bytes")
            continue
        tasks = Tasks(deployed.method, deployed.unmerged.body, number)
        each = torch.arange(len(ids), device=ids.device) % number
        if mixes:
            try:
                check(tasks, ids, each)
                found["mixed", number] = functools.partial(tasks.mixed, ids, each)
            except BenchError as error:
                mixes = False
                warnings.append(f"no times of mixed tasks: {error}")
        found["in_turns", number] = functools.partial(tasks.in_turns, ids, each)
        if deployed.folded is not None:
            found["merged_in_turns", number] = functools.partial(tasks.in_turns, ids, each, merged=True)
    return found


def serving_arm(key: Any, run: Callable[[], Tensor], device: str) -> Arm:
    """One batch under ``inference_mode``, whose states must be finite; its phase is ``latency``."""

    def round_() -> Round:
        with torch.inference_mode():
            start = clock(device)
            states = run()
            end = clock(device)
        if not bool(states.isfinite().all()):
            raise ArithmeticError(f"the states of {key} are not finite")
        return {"latency": between(start, end)}

    return Arm(key, round_)

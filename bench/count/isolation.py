"""Runs a method's part in a fork of this process: whatever the method does to the process ends with it."""

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

from bench.errors import LONGEST_TRACEBACK, BenchError, said, traced

T = TypeVar("T")

SECONDS = 600.0
"""What a third party's method may take for one question while a suite is planned or figures are predicted."""


class Lost(Exception):
    """A fork that gave no answer: it ended by itself, was killed, ran too long, or raised what no `BenchError` is."""

    def __init__(self, status: Literal["crashed", "timeout", "failed"], reason: str, trace: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.trace = trace
        """Python's traceback of the fork, where it raised."""


def apart(work: Callable[[], T], *, seconds: float | None = None, threads: int = 1) -> T:
    """What ``work`` returns in a fork of this process. As `parts`, for a single answer."""
    return next(iter(list(parts(_answering(work), seconds=seconds, threads=threads))))


def _answering(work: Callable[[], T]) -> Callable[[Callable[[T], None]], None]:
    """``work`` as something that sends one answer."""

    def answer(send: Callable[[T], None]) -> None:
        send(work())

    return answer


def guarded(name: str, work: Callable[[], T], seconds: float = SECONDS) -> T:
    """What ``work`` says of method ``name``: found here for one that this project has, in a fork for a third party's.

    Raises:
        BenchError: As ``work`` raised it, or the method ended its process.
    """
    if "/" not in name:
        return work()
    try:
        return apart(work, seconds=seconds)
    except Lost as lost:
        raise BenchError(f"method {name!r}: {lost.reason}") from lost


def parts(
    work: Callable[[Callable[[T], None]], None], *, seconds: float | None = None, threads: int = 1
) -> Iterator[T]:
    """What ``work`` sends from a fork of this process, as it comes; all of it is plain data that can be pickled.

    A process in which CUDA runs cannot be forked: ``work`` then runs here, as `forkable` says.

    Args:
        work: Gets what sends an answer. SIGINT is ignored in its process, which ends where this one ends.
        seconds: It may take for each of its answers; no limit where None.
        threads: Torch threads of the fork; see `usable_threads`.

    Raises:
        BenchError: As ``work`` raised it.
        Lost: The fork ended without an answer, or ``work`` raised something else.
    """
    if not forkable():
        sent: list[T] = []
        work(sent.append)
        yield from sent
        return
    fork = _Fork(work, seconds, threads)
    try:
        yield from fork.heard()
    finally:
        fork.end()


def each_apart(
    works: Sequence[Callable[[], T]], *, at_once: int, seconds: float | None = None, threads: int = 1
) -> Iterator[T | Lost]:
    """What each of ``works`` returns in a fork of its own, in their order, or how that fork was lost.

    Args:
        works: As `apart` takes one.
        at_once: Forks that run side by side, while the answer of the first of them is awaited.
        seconds: Each may take; no limit where None.
        threads: Torch threads of each fork; see `usable_threads`.

    Raises:
        BenchError: As one of ``works`` raised it; those after it are given up.
    """
    if at_once < 2 or not forkable():
        for work in works:
            try:
                yield apart(work, seconds=seconds, threads=threads)
            except Lost as lost:
                yield lost
        return
    waiting, running = deque(works), deque[_Fork]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Fork(_answering(waiting.popleft()), seconds, threads))
            try:
                yield next(iter(list(running[0].heard())))
            except Lost as lost:
                yield lost
            running.popleft().end()
    finally:
        for fork in running:
            fork.end()


def forkable() -> bool:
    """Whether this process can be forked: CUDA cannot be used in a fork of a process that has used it."""
    import torch

    return hasattr(os, "fork") and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


def usable_threads(wanted: int) -> int:
    """Torch threads that a fork of this process can have: ``wanted``, or 1 where this process has threads of a library.

    OpenMP waits in a fork for ever for a team of threads that its parent had made.
    """
    import psutil

    return wanted if psutil.Process().num_threads() <= threading.active_count() else 1


def _answer(work: Callable[[Callable[[Any], None]], None], theirs: Connection, alive: Connection, threads: int) -> None:
    """In the fork: send what comes of ``work`` and end."""
    import torch

    try:
        own_group()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
        torch.set_num_threads(threads)
        _print_to_stderr()
        try:
            work(lambda value: theirs.send_bytes(pickle.dumps(("part", value))))
            outcome: tuple[str, Any] = ("end", None)
        except BenchError as error:
            outcome = ("refused", said(error, LONGEST_TRACEBACK))
        except BaseException as error:  # SystemExit too: what a method does to its process is a result
            from bench.training.blame import reason_of

            outcome = ("raised", (reason_of(error), traced(error)))
        theirs.send_bytes(pickle.dumps(outcome))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def own_group() -> None:
    """Put this process at the head of a group, so that what a method starts in it is ended with it.

    It stays in the session, by which some kernels share out their cores: figures are taken as before.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a terminal may stop what prints beside its foreground
    os.setpgid(0, 0)


def _print_to_stderr() -> None:
    """Whatever is printed from here on, by Python or below it: the parent's output may be JSON that a program reads."""
    with contextlib.suppress(OSError):  # a process may have closed its stderr
        os.dup2(2, 1)
    sys.stdout = sys.stderr


def _end_with_parent(alive: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os.killpg(0, signal.SIGKILL)


class _Fork:
    """A child of this process that sends what ``work`` finds; its time runs from here on."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None], seconds: float | None, threads: int) -> None:
        threads = usable_threads(threads)
        self._answers, theirs = Pipe(duplex=False)
        alive, self._lifeline = Pipe(duplex=False)
        self._seconds, self._deadline = seconds, _deadline(seconds)
        self._status: int | None = None
        """Of the child once it was waited for, when its number may be another's."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()  # what waits in a buffer would be written by both
        with warnings.catch_warnings():
            # Python's on threads: `usable_threads` looks after torch's
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            self._lifeline.close()
            self._answers.close()
            _answer(work, theirs, alive, threads)
        theirs.close()
        alive.close()

    def heard(self) -> Iterator[Any]:
        """What it sends, as it comes; raises as `parts` does."""
        while True:
            ended = None
            while not self._answers.poll(min(0.2, max(0.0, self._deadline - time.monotonic()))):
                if ended is not None:
                    raise Lost("crashed", ended)
                ended = self._ended()  # then what it sent last is read before it is given up
                if time.monotonic() > self._deadline:
                    raise Lost("timeout", f"ran longer than {self._seconds:g} s")
            try:
                kind, value = pickle.loads(self._answers.recv_bytes())
            except (EOFError, OSError):
                raise Lost("crashed", ended or self._ended(wait=True) or "") from None
            if kind == "end":
                return
            if kind == "refused":
                raise BenchError(value)
            if kind == "raised":
                raise Lost("failed", *value)
            yield value
            self._deadline = _deadline(self._seconds)

    def _ended(self, *, wait: bool = False) -> str | None:
        """How it ended; None while it runs."""
        if self._status is None:
            found, status = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
            if not found:
                return None
            self._status = os.waitstatus_to_exitcode(status)
        code = self._status
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its process ended without an answer ({cause})"

    def end(self) -> None:
        """Kill it where it still runs, and whatever the method has started in it."""
        with contextlib.suppress(OSError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            self._ended(wait=True)
        self._answers.close()
        self._lifeline.close()


def _deadline(seconds: float | None) -> float:
    return float("inf") if seconds is None else time.monotonic() + seconds


class ProcessState:
    """What methods share in one process, as it was when this was made: settings, and the functions of torch."""

    def __init__(self) -> None:
        self._settings = _settings()
        self._functions = _functions()

    def changes(self) -> list[str]:
        """What is otherwise now, each in a few words such as ``torch's default type float32 -> float64``."""
        now, functions = _settings(), _functions()
        found = [f"{name} {old} -> {now[name]}" for name, old in self._settings.items() if now[name] != old]
        replaced = [name for name, old in self._functions.items() if functions.get(name) is not old]
        # one that a class inherited until now; a module gains names whenever a part of it is imported
        added = [name for name in functions.keys() - self._functions.keys() if name.rpartition(".")[0] not in _MODULES]
        return found + [f"{name} replaced" for name in (*replaced, *sorted(added))]


def _settings() -> dict[str, Any]:
    import torch
    from torch import nn

    hooks = {name: table for name, table in vars(nn.modules.module).items() if name.startswith("_global_")}
    return {
        "torch's default type": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch's default device": str(torch.get_default_device()),
        "torch's threads": torch.get_num_threads(),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast on the CPU": torch.is_autocast_enabled("cpu"),
        "autocast on CUDA": torch.is_autocast_enabled("cuda"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "precision of float32 products": torch.get_float32_matmul_precision(),
        "oneDNN": torch._C._get_mkldnn_enabled(),
        "cuDNN": (torch._C._get_cudnn_enabled(), torch._C._get_cudnn_benchmark(), torch._C._get_cudnn_deterministic()),
        "fused attention": tuple(
            getattr(torch._C, f"_get_{kind}_sdp_enabled")() for kind in ("flash", "mem_efficient", "math")
        ),
        "modes of torch": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "hooks on every module": {name: len(table) for name, table in hooks.items() if isinstance(table, dict)},
    }  # fmt: skip


_MODULES = ("torch", "torch.nn.functional", "torch.nn.init", "torch.autograd", "torch.nn.attention")


def _functions() -> dict[str, Any]:
    """What runs under each public name of torch: its functions, those of tensors, modules and optimizers."""
    import torch
    from torch import nn

    places: dict[str, Any] = {name: sys.modules[name] for name in _MODULES}
    places |= {"torch.Tensor": torch.Tensor, "torch.nn.Parameter": nn.Parameter}
    for group in (nn, torch.optim):
        places |= {f"{group.__name__}.{name}": kind for name, kind in vars(group).items() if isinstance(kind, type)}
    wanted = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
    found = {f"{place}.{name}": value for place, held in places.items() for name, value in vars(held).items()}
    # the first optimizer of a class gives it a ``step`` of its own, where AdamW inherits Adam's until then
    found |= {f"{place}.step": held.step for place, held in places.items() if hasattr(held, "step")}
    return {name: _unwrapped(value) for name, value in found.items() if isinstance(value, wanted)}


def _unwrapped(function: Any) -> Any:
    """``function`` without what torch puts around it by itself and which leaves it as it is.

    torch.compile wraps the functions of optimizers, and the first optimizer of a class its ``step``, for the profiler.
    """
    from torch.optim import Optimizer

    for_profiler = [code for code in Optimizer.profile_hook_step.__code__.co_consts if isinstance(code, types.CodeType)]
    while True:
        if hasattr(function, "_torchdynamo_orig_callable"):
            function = function._torchdynamo_orig_callable
        elif getattr(function, "__code__", None) in for_profiler:
            function = function.__wrapped__
        else:
            return function

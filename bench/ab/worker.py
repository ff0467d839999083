"""Keeps one version of ``methods/`` in a process of its own, which works only when it is its turn."""

import importlib.util
import os
import signal
import sys
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import BenchError, said
from bench.schema.jobs import Probe

if TYPE_CHECKING:
    from bench.timing.interleave import Round


class Built(NamedTuple):
    """What a process says of a training step that it has built."""

    source_sha256: str
    """Hash of the method's file and of those of its own package that it imports."""
    loss: float
    repeats: int
    """Optimizer steps in one sample that the process chose for itself."""


class Arm:
    """The parent's end of a process that steps on command.

    Args:
        context: Fork server that has imported torch, transformers and the backbone's class.
        name: For messages, such as ``main (1a2b3c4)``.
        tree: Folder whose ``methods/`` the process uses in place of the installed ones.
        probe: Backbone, shape, and the methods with their configurations as the suite spells them.
        threads: Torch threads of the process.
    """

    def __init__(self, context: ForkServerContext, name: str, tree: Path, probe: Probe, threads: int) -> None:
        self.name = name
        self._patience = probe.timeout_seconds
        self._messages, theirs = context.Pipe()
        arguments = (str(tree), probe.model_dump_json(), threads, theirs)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *command: Any) -> None:
        """Send a command, such as ``build`` with a label, without waiting for its answer."""
        self._messages.send(command)

    def answer(self) -> Any:
        """What the process replies to the last command.

        Raises:
            BenchError: Its methods raised, its process died, or it did not answer in time.
        """
        try:
            if not self._messages.poll(self._patience):
                raise BenchError(
                    f"{self.name}: no answer within {self._patience:g} s; raise timeout_seconds of [[cost]]"
                )
            problem, value = self._messages.recv()
        except (EOFError, OSError):
            self._process.join()
            raise BenchError(f"{self.name}: its process ended (exit code {self._process.exitcode})") from None
        if problem:
            raise BenchError(f"{self.name}: {problem}")
        return value

    def told(self, *command: Any) -> Any:
        """Send a command and wait for its answer."""
        self.ask(*command)
        return self.answer()

    def turn(self) -> "Round":
        """Let the process take one training step; returns its readings."""
        readings: Round = self.told("turn")
        return readings

    def close(self) -> None:
        """End the process, and those that its methods have started."""
        self._messages.close()
        with suppress(OSError):
            if self._process.pid is not None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def _serve(tree: str, spec: str, threads: int, messages: Connection) -> None:
    """In the process: answer commands until the parent closes the pipe."""
    import torch

    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.setpgid(0, 0)  # the parent ends by it what a method starts here
    os.dup2(2, 1)  # whatever a method prints must not mix with the parent's JSON
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(threads)
    server: _Server | None = None
    while True:
        try:
            command, *arguments = messages.recv()
        except (EOFError, OSError):
            return
        try:
            server = server or _Server(tree, spec)
            messages.send((None, getattr(server, command)(*arguments)))
        except Exception as error:  # the failure of a version is an answer; the other versions go on
            named = "" if type(error).__name__ == "BenchError" else f"{type(error).__name__}: "  # it may be another's
            text = named + said(error)
            messages.send((text, None))


class _Server:
    """One probe over one version of the methods; what it imports of the harness is imported after ``_use``."""

    def __init__(self, tree: str, spec: str) -> None:
        _use(Path(tree))
        from bench.schema.jobs import Probe
        from bench.timing.models import Models

        self._probe = Probe.model_validate_json(spec)
        self._models = Models(self._probe)
        self._clock: Any = None
        self._quiet = ExitStack()

    def has(self, label: str) -> bool:
        from bench.registry import method_names

        return self._name(label) in method_names()

    def _name(self, label: str) -> str:
        return next(spec.name for spec in self._probe.methods if spec.label == label)

    def source(self, label: str) -> str:
        from bench.registry import load_method
        from bench.schema.jobs import method_sources

        return method_sources(load_method(self._name(label)).__module__)

    def build(self, label: str) -> tuple[str, float, int]:
        from bench.timing.interleave import quiet

        self.drop()
        self._clock = self._models.clock(label)
        self._clock.run()
        self._clock.run()
        self._quiet.enter_context(quiet())
        return self.source(label), self._clock.seen.loss, self._clock.seen.repeats

    def repeat(self, number: int) -> None:
        self._clock.seen.repeats = number

    def turn(self) -> "Round":
        readings: Round = self._clock.run()
        return readings

    def drop(self) -> None:
        self._clock = None
        self._quiet.close()


def _use(tree: Path) -> None:
    """Import ``methods`` from ``tree`` alone, and forget what the fork server has imported of another version."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("methods", "bench")]:
        del sys.modules[name]  # modules of the harness hold on to the methods that they imported
    folder = tree / "methods"
    found = importlib.util.spec_from_file_location(
        "methods", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert found is not None and found.loader is not None
    sys.modules["methods"] = package = importlib.util.module_from_spec(found)
    found.loader.exec_module(package)

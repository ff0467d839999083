"""Runs a command in this process and sees what it must not: a traceback, a hang, a file or a connection elsewhere."""

import contextlib
import functools
import io
import os
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import typer.main

COMMAND = Path(__file__).resolve().parents[2] / "bench" / "__main__.py"
LONGEST_LINE = 2_000
"""Characters of a sentence, before a command cuts it."""
CPU_SECONDS = 60.0
"""CPU time of one command, beyond which it hangs; the clock of the wall would count the neighbours."""
MEMORY = 16 * 2**30
"""Bytes of addresses of this process, so that a command that asks for too much fails and not the machine."""


class Hang(BaseException):
    """A command took longer than it may; no ``Exception``, so that nothing takes it for a failure of its own."""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    faults: list[str] = field(default_factory=list)
    """What it must not have done, a phrase each."""
    said: str = ""
    """What it wrote to stderr."""


class Watch:
    """Sees what Python is about to write, start or connect to, by its audit events."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] | None = None
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def over(self, allowed: Sequence[Path]) -> Iterator[list[str]]:
        """What is done beyond the folders ``allowed``, as it comes."""
        self.allowed, self.seen = tuple(f"{path.resolve()}{os.sep}" for path in allowed), []
        try:
            yield self.seen
        finally:
            self.seen = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        seen, self.seen = self.seen, None  # what this method does is not looked at
        try:
            seen.extend(self._judged(event, arguments))
        finally:
            self.seen = seen

    def _judged(self, event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self._beyond(path):
                yield f"writes {os.fsdecode(path)}"
        elif event in _PATHS:
            paths, folder = arguments[: _PATHS[event]], arguments[-1]
            for path in paths:
                if self._beyond(path, folder if event in _BELOW and isinstance(folder, int) else -1):
                    yield f"{event} {os.fsdecode(path)}"
        elif event == "subprocess.Popen":
            if Path(str(arguments[1][0] if arguments[1] else arguments[0])).name not in _STARTED:
                yield f"starts {str(arguments[1])[:80]}"
        elif event in ("os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo"):
            yield f"{event} {str(arguments)[:80]}"
        elif event == "pickle.find_class":
            yield f"unpickles {'.'.join(map(str, arguments))}"

    def _beyond(self, path: object, folder: int = -1) -> bool:
        """Whether a path, of a folder that is open where it is given by its number, is none of the allowed ones."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a number of an open file
        text = os.path.realpath(Path(f"/proc/self/fd/{folder}" if folder >= 0 else "", os.fsdecode(path)))
        return not text.startswith(("/dev/null", "/proc/", *self.allowed)) and f"{text}{os.sep}" not in self.allowed


_PATHS = {"os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2,
          "os.truncate": 1, "os.chmod": 1, "shutil.rmtree": 1, "shutil.move": 2}  # fmt: skip
"""Audit events that change a file system: how many of their first arguments are paths."""
_STARTED = ("git", "fc-list")
"""Programs that a command may start: for the commit of its checkout, and matplotlib for the names of fonts."""
_BELOW = ("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")
"""Those whose last argument is the number of the folder that the path begins at."""


@functools.cache
def watch() -> Watch:
    """The one watch of this process: an audit hook cannot be taken off."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return Watch()


_parser = functools.cache(typer.main.get_command)


def run() -> None:
    """``python -m bench`` with the words of ``sys.argv``."""
    runpy.run_path(str(COMMAND), run_name="__main__")


def bench(words: Sequence[object], allowed: Sequence[Path]) -> Ended:
    """Run ``python -m bench`` with ``words`` here.

    Args:
        words: Of the command line.
        allowed: Folders in which the command may change something.
    """
    out, err = io.StringIO(), io.StringIO()
    ended = Ended(0)
    with watch().over(allowed) as seen, _limited():
        try:
            with (
                mock.patch.object(sys, "argv", ["bench", *map(str, words)]),
                mock.patch.object(typer.main, "get_command", _parser),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                run()
        except SystemExit as stop:
            ended.code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except Hang:
            ended.faults.append(f"hang: more than {CPU_SECONDS:g} s")
        except BaseException as error:  # whatever it is: a user would see its traceback
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            ended.faults.append(f"traceback: {type(error).__name__}: {str(error)[:300]} ({where})")
    ended.said = err.getvalue()
    ended.faults += dict.fromkeys(seen)
    ended.faults += _told(ended.code, out.getvalue(), ended.said)
    return ended


def _told(code: int, out: str, err: str) -> Iterator[str]:
    """What is wrong with an exit code and with what was printed."""
    if code not in range(5):
        yield f"exit code {code}"
    if code == 2 and not (err.startswith("error: ") and err.count("\n") == 1) and "Usage: " not in err:
        yield f"exit code 2 without one sentence: {err[:200]!r}"
    if any(len(line) > 2 * LONGEST_LINE for line in err.splitlines()):
        yield "a line on stderr that no screen holds"
    if odd := {character for character in out + err if not (character.isprintable() or character in "\n\t")}:
        yield f"prints {sorted(odd)[:5]!r}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

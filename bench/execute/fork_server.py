"""The fork server, from which every job's process is forked: started, spared signals, and missed where it dies."""

import atexit
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType

import psutil

from bench.errors import BenchError, said


def warm_context(model_type: str, *, cells: bool = True) -> ForkServerContext:
    """Fork server that imports torch, transformers and the backbone's class once, for cells also datasets and evaluate.

    Args:
        model_type: Family of the backbone, e.g. ``bert``.
        cells: Whether cells will run; probes alone need neither datasets nor evaluate, which may then be absent.
    """
    os.environ["BENCH_WARM_MODEL_TYPE"] = model_type
    os.environ["BENCH_WARM_CELLS"] = "1" if cells else ""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execute.warm"])
    ensure_server()  # returns at once: the server imports while the caller plans
    return context


def outlive_the_run() -> None:
    """In the fork server, as it starts: where the run is killed, leave no socket and say nothing that nobody asked."""
    atexit.register(_leave_no_socket)
    shown = sys.excepthook

    def shown_to_the_run(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, EOFError | OSError) or _lives(int(os.environ[_PARENT])):
            shown(kind, error, trace)  # else a worker was about to read what it is to do

    sys.excepthook = shown_to_the_run


def _leave_no_socket() -> None:
    """Remove the folder of the server's socket where the process that made it was killed.

    One that ends by itself removes the folder, and may start another server in it.
    """
    address: str | None = getattr(forkserver._forkserver, "_forkserver_address", None)
    folder = Path(address or "").parent
    if folder.name.startswith("pymp-") and not _lives(int(os.environ[_PARENT])):
        shutil.rmtree(folder, ignore_errors=True)


_PARENT = "BENCH_WARM_PARENT"
"""Environment variable of a fork server: number of the process that started it."""


def _lives(number: int) -> bool:
    """Whether a process has its memory: one that is killed loses it before it closes the pipe that a server hears."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(number).cmdline())
    return False


def ensure_server() -> None:
    """Start the fork server where none runs. Ctrl-C is the parent's to answer, also while the server still imports.

    Raises:
        BenchError: No temporary folder can hold its socket.
    """
    os.environ[_PARENT] = str(os.getpid())
    _make_folder()
    resource_tracker.ensure_running()  # else the server starts it first, and it unblocks what is blocked here
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _make_folder() -> None:
    """Have `multiprocessing` make the folder of the server's socket, once a process, where the socket's path fits."""
    usual = tempfile.tempdir
    tempfile.tempdir = folder_for_sockets(len(SOCKET))
    try:
        util.get_temp_dir()
    except OSError as error:
        raise BenchError(
            f"{tempfile.tempdir}: no process can be started from there ({said(error)}); {_ADVICE}"
        ) from error
    finally:
        tempfile.tempdir = usual


SOCKET = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""Where `multiprocessing` puts the server's socket below the temporary folder."""
SOCKET_PATH = 103
"""Bytes that the path of a socket may have: 107 on Linux, 103 on macOS."""
_ADVICE = "free space there, or set TMPDIR to a folder that can be written and has a short path"


def folder_for_sockets(below: int) -> str:
    """The temporary folder; where its path is too long for sockets, one of the system's others.

    Batch systems and test runners give every job a temporary folder of its own, whose path is often a long one.

    Args:
        below: Bytes that the socket's path has below the folder, the first slash included.

    Raises:
        BenchError: There is none that can be written.
    """
    try:
        usual = tempfile.gettempdir()
    except OSError as error:
        raise BenchError(f"there is no temporary folder that can be written; {_ADVICE}") from error
    for folder in (usual, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(folder)) + below <= SOCKET_PATH and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise BenchError(f"{usual}: this temporary folder has too long a path for a socket; {_ADVICE}")


LOST = 255
"""Exit code that `multiprocessing` gives a process whose fork server is gone."""


def server_number() -> int | None:
    """Number of the fork server's process; `multiprocessing` has no other name for it."""
    number: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return number


def has_ended(server: int | None) -> bool:
    """Whether a fork server has ended, or does so within two seconds: its pipes are closed before it is gone.

    A process whose first thread has ended is a zombie already, yet no parent is told before its last one has; on a busy
    machine that takes its time.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        for _ in range(20):
            process = None if server is None else psutil.Process(server)
            if process is None or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1):
                return True
            time.sleep(0.1)
        return False
    return True


def let_server_end() -> None:
    """Give a fork server that was killed the time to be gone, so that the next start begins another."""
    has_ended(server_number())

"""``python -m bench`` without a start of its own: in the test's process, or in a fork of it that takes signals."""

import contextlib
import functools
import importlib.util
import io
import os
import runpy
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from multiprocessing import forkserver
from unittest import mock

import typer.main

from bench.__main__ import main
from bench.execute.fork_server import warm_context


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


PRINTED = {1: tempfile.TemporaryFile("w+"), 2: tempfile.TemporaryFile("w+")}
"""What workers print, on stdout and on stderr: their server has these files from its start on."""


@functools.cache
def workers():
    """The fork server of this process: the first one started stays, so it has what any test asks of it."""
    own = {number: os.dup(number) for number in PRINTED}
    try:
        for number, file in PRINTED.items():
            os.dup2(file.fileno(), number)
        return warm_context("bert")
    finally:
        for number, kept in own.items():
            os.dup2(kept, number)
            os.close(kept)


def printed(number):
    """All that workers of this process's server have printed so far, on stdout (1) or stderr (2)."""
    return os.pread(PRINTED[number].fileno(), 2**24, 0).decode()


def bench(*words, code=0):
    """Run ``python -m bench`` with ``words``; its exit code must be ``code``."""
    if words[0] in ("run", "tune", "ab"):
        workers()
    out, err, ended = io.StringIO(), io.StringIO(), 0
    given = mock.patch.object(sys, "argv", ["bench", *map(str, words)])
    built = mock.patch.object(typer.main, "get_command", _command)
    try:
        with given, built, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as exit_:
        ended = exit_.code or 0
    assert ended == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())


_command = functools.cache(typer.main.get_command)
"""What a command line is parsed with, made once and not at every call."""


class Started:
    """``python -m bench`` with ``words`` in a fork of this process, whose imports and fork server it uses.

    A start of torch and transformers of its own would take longer than what most tests ask of it.
    """

    def __init__(self, *words, heard, shown=os.devnull):
        """``heard`` is the file that its stderr goes to, ``shown`` that of its stdout."""
        workers()
        self._pid = os.fork()
        if not self._pid:
            _end_with(_alone, ["bench", *map(str, words)], shown, heard)

    def send_signal(self, number):
        """Signal it."""
        os.kill(self._pid, number)

    def wait(self):
        """Its exit code; that of a signal is negative."""
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)


def forked(act):
    """What ``act`` prints in a fork of this process, which takes with it whatever it has imported or changed.

    Commands that need workers take them from the fork server of this process, if ``workers`` has started it.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 1)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        if workers.cache_info().currsize:
            _use_server_of_parent()
        _keep_to_one_thread()
        _end_with(act)
    os.close(writing)
    try:
        with os.fdopen(reading) as printed:
            text = printed.read()
    except BaseException:  # a test that ran too long
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    assert not status, text
    return text


def _alone(argv, shown, heard):
    """In the fork: the command; signals reach it as they do from a shell, and the fork server is its parent's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, path in ((1, shown), (2, heard)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = argv
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    _use_server_of_parent()
    _keep_to_one_thread()
    main()


def _use_server_of_parent():
    """In a fork: the server runs, but is no child of this process, which would ask after it as one."""
    for server in (forkserver, forkserver._forkserver):
        server.ensure_running = lambda: None


def _keep_to_one_thread():
    """In a fork: OpenMP waits for ever for a team of threads that a test before this one has made in the parent."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
        torch.set_num_threads = lambda number: None


def _end_with(act, *values):
    """Do ``act`` and end the process with its exit code, past everything that the parent would do at its own end."""
    code = 1
    try:
        act(*values)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def module(python, option, name, *words):
    """Run a documented ``python -m NAME WORDS``, which must end well; returns what it printed."""
    assert (python, option) == ("python", "-m")
    path = importlib.util.find_spec(name).origin
    out = io.StringIO()
    with mock.patch.object(sys, "argv", [path, *words]), contextlib.redirect_stdout(out):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, out.getvalue()
    return out.getvalue()

"""``python -m bench`` within the test's own process: words and exit codes, nothing imported again; no signals."""

import contextlib
import functools
import importlib.util
import io
import runpy
import sys
from dataclasses import dataclass
from unittest import mock

from bench.__main__ import main
from bench.execute.workers import warm_context


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


@functools.cache
def workers():
    """The fork server of this process: the first one started stays, so it has what any test asks of it."""
    return warm_context("bert")


def bench(*words, code=0):
    """Run ``python -m bench`` with ``words``; its exit code must be ``code``."""
    if words[0] in ("run", "tune", "ab"):
        workers()
    out, err, ended = io.StringIO(), io.StringIO(), 0
    given = mock.patch.object(sys, "argv", ["bench", *map(str, words)])
    try:
        with given, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as exit_:
        ended = exit_.code or 0
    assert ended == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())


def module(python, option, name, *words):
    """Run a documented ``python -m NAME WORDS``."""
    assert (python, option) == ("python", "-m")
    path = importlib.util.find_spec(name).origin
    with mock.patch.object(sys, "argv", [path, *words]):
        runpy.run_path(path, run_name="__main__")

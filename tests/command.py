"""``python -m bench`` within the test's own process: words and exit codes, nothing imported again; no signals."""

import contextlib
import functools
import io
import sys
from dataclasses import dataclass

from bench.__main__ import main
from bench.executors.local import warm_context


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
    out, err, given = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["bench", *map(str, words)]
    ended = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as exit_:
        ended = exit_.code or 0
    finally:
        sys.argv = given
    assert ended == code, out.getvalue() + err.getvalue()
    return Done(out.getvalue(), err.getvalue())

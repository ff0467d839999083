"""``python -m bench`` within the test's own process: what a test of words and exit codes need not import again."""

import contextlib
import io
import sys
from dataclasses import dataclass

from bench.__main__ import main


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


def bench(*words, code=0):
    """Run ``python -m bench`` with ``words``; its exit code must be ``code``."""
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

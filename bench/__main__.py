"""``python -m bench``: runs the command line; a user's mistake becomes one sentence and exit code 2."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from bench.errors import BenchError, Interrupted, shortened

LONGEST_LINE = 2_000
"""Characters of a sentence that may quote what was given."""


def main() -> None:
    """Entry point of ``python -m bench`` and ``peft-ledger``."""
    try:
        _check_folder()
        with _signals_raised():
            from bench.cli.app import app

            app()
    except BenchError as error:
        _refuse(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _refuse(f"{str(error.filename)[:60]}...: no file has a name as long as this; give a shorter one")
    except Interrupted as stop:
        sys.stderr.write(f"interrupted{': ' if stop.kept else ''}{stop.kept}\n")
        sys.exit(128 + stop.number)


def _check_folder() -> None:
    """Libraries that are imported ask where this process works, and fail each in its own way where that is gone."""
    try:
        os.getcwd()  # noqa: PTH109  # pathlib is not imported yet
    except OSError as error:
        raise BenchError("the working directory is gone; change into one that is there") from error


def _refuse(sentence: object) -> NoReturn:
    from bench.report.format import plain  # a file's own words, quoted, move no cursor and break no line

    sys.stderr.write(f"error: {shortened(plain(sentence), LONGEST_LINE)}\n")
    sys.exit(2)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise ``Interrupted`` on Ctrl-C and SIGTERM: the command line's library would take a ``KeyboardInterrupt``.

    A second signal ends the process at once, as the system does. Compiled code, as in the midst of an import of numpy,
    may lose what a handler raises, or fail by it: whatever the command fails with after a signal is the signal's.
    """
    came: list[Interrupted] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        came.append(Interrupted(number))
        raise came[0]

    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    except Exception as error:
        if came:
            raise came[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()

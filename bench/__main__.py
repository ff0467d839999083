"""``python -m bench``: runs the command line; a user's mistake becomes one sentence and exit code 2."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from bench.errors import BenchError, Interrupted


def main() -> None:
    """Entry point of ``python -m bench`` and ``peft-ledger``."""
    try:
        with _signals_raised():
            from bench.cli.app import app

            app()
    except BenchError as error:
        from bench.report.format import plain  # a file's own words, quoted, move no cursor and break no line

        sys.stderr.write(f"error: {plain(error)}\n")
        sys.exit(2)
    except Interrupted as stop:
        sys.stderr.write(f"interrupted{': ' if stop.kept else ''}{stop.kept}\n")
        sys.exit(128 + stop.number)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise ``Interrupted`` on Ctrl-C and SIGTERM: the command line's library would take a ``KeyboardInterrupt``.

    A second signal ends the process at once, as the system does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()

"""``python -m bench``: runs the command line; a user's mistake becomes one sentence and exit code 2."""

import sys

from bench.errors import BenchError


def main() -> None:
    """Entry point of ``python -m bench`` and ``peft-ledger``."""
    from bench.cli.app import app

    try:
        app()
    except BenchError as error:
        from bench.report.format import plain  # a file's own words, quoted, move no cursor and break no line

        sys.stderr.write(f"error: {plain(error)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command resumes\n")
        sys.exit(130)


if __name__ == "__main__":
    main()

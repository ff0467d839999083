"""Build the reports of all published runs into a static folder, which any web server or a disk can show.

    python -m tools.site site

``index.html`` has a line for each run; ``NAME/report.html`` is the page that ``python -m bench report`` writes.
Searches for learning rates, the self-test of ``ab`` and METHODOLOGY.md are pages too. No page asks any host for
anything, and all links between them are relative.

Each run takes as long as ``bench report`` does on it, nearly all of it for drawing: a few seconds, more with many
methods and figures. Runs are built in parallel, so the whole takes about their sum over the number of cores.
"""

import argparse
import os
import sys
from pathlib import Path

from bench.errors import BenchError
from tools.site.build import build


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--published", type=Path, default=Path("results/published"), help="folder of the runs")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    given = parser.parse_args()
    try:
        pages = build(given.published, given.out, given.workers)
    except BenchError as error:
        sys.exit(f"{error}")
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(f"{given.out / 'index.html'}: {len(pages)} reports, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

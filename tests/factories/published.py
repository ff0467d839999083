"""Figures of the committed runs, which hold records alone: drawn when first asked for, away from the run folders."""

import functools
import tempfile
from pathlib import Path

from bench.report.charts import catalogue
from bench.store.store import read_run

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


@functools.cache
def _scratch():
    return tempfile.TemporaryDirectory(prefix="published-")  # goes with the process


@functools.cache
def drawn(name):
    """SVG files of the published run ``name``, in reading order."""
    paths = catalogue.draw(read_run(PUBLISHED / name), into=Path(_scratch().name) / name)
    return [path for path in paths if path.suffix == ".svg"]

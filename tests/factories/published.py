"""Figures of the committed runs, which hold records alone: drawn when first asked for, away from the run folders."""

import fcntl
from pathlib import Path
from unittest import mock

from matplotlib.figure import Figure

from bench.report.charts import catalogue
from bench.store.store import read_run

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


def drawn(home, name):
    """SVG files of the published run ``name``, in reading order, below ``home``, which processes may have in common."""
    folder, order = home / name, home / name / "order"
    folder.mkdir(parents=True, exist_ok=True)
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not order.exists():
            with svg_alone():
                paths = catalogue.draw(read_run(PUBLISHED / name), into=folder)
            order.write_text("".join(f"{path.name}\n" for path in paths if path.suffix == ".svg"))
    return [folder / line for line in order.read_text().splitlines()]


def svg_alone():
    """A figure's PNG, which takes twice as long as its SVG, is an empty file."""
    save = Figure.savefig

    def saved(self, path, **options):
        if Path(path).suffix == ".png":
            Path(path).touch()
        else:
            save(self, path, **options)

    return mock.patch.object(Figure, "savefig", saved)

"""Reads the predictions beside a run's records as single test rows; compares nothing.

Of a score that depends on sums over rows alone (accuracy, Matthews and Pearson correlation) it knows which sums.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.store.sidecars import predictions_sha256, read_predictions

Floats = NDArray[np.float64]


class Rows(NamedTuple):
    """Test rows of a cell, in the task's order."""

    label: Floats
    """``[rows]``: class ids, or scores of a regression."""
    prediction: Floats
    """``[rows]``."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """``[rows]``: whether the class was found."""
        return np.equal(self.label, self.prediction)


class Sums(NamedTuple):
    """A metric as a function of sums over rows, so that drawn rows need no second look at the predictions."""

    of_rows: Callable[[Rows], Floats]
    """``[rows, k]``: what is summed."""
    value: Callable[[Floats], Floats]
    """Metric from sums ``[..., k]``; ``[...]``."""
    classes: bool
    """Whether predictions are right or wrong."""


def _accuracy(sums: Floats) -> Floats:
    return np.asarray(sums[..., 1] / sums[..., 0])


def _matthews(sums: Floats) -> Floats:
    rows, both, labels, found = np.moveaxis(sums, -1, 0)
    spread = labels * (rows - labels) * found * (rows - found)
    return _defined(rows * both - labels * found, spread)


def _pearson(sums: Floats) -> Floats:
    rows, x, y, xy, xx, yy = np.moveaxis(sums, -1, 0)
    spread = (rows * xx - x * x).clip(min=0) * (rows * yy - y * y).clip(min=0)
    return _defined(rows * xy - x * y, spread)


def _defined(above: Floats, below: Floats) -> Floats:
    """``above / sqrt(below)``; 0 where one side is constant, as `bench.tasks.metrics` has it."""
    known = below > 0
    return np.where(known, above / np.sqrt(np.where(known, below, 1.0)), 0.0)


def _columns(*columns: Floats | NDArray[np.bool_]) -> Floats:
    return np.column_stack([np.ones(len(columns[0])), *columns]).astype(float)


METRICS = {
    "accuracy": Sums(lambda rows: _columns(rows.right), _accuracy, classes=True),
    "matthews_correlation": Sums(
        lambda rows: _columns((rows.label == 1) & (rows.prediction == 1), rows.label == 1, rows.prediction == 1),
        _matthews, classes=True,
    ),
    "pearson": Sums(
        lambda rows: _columns(rows.label, rows.prediction, rows.label * rows.prediction, rows.label**2,
                              rows.prediction**2),
        _pearson, classes=False,
    ),
}  # fmt: skip
"""Main metrics that are functions of sums over rows; Matthews correlation of two classes."""


def main_metric(record: ScoreRecord) -> str | None:
    """The metric that the cell's score is, of `METRICS`; None where it is another one."""
    return next(
        (name for name in METRICS if record.score is not None and record.metrics.get(name) == record.score), None
    )


def is_mean_of_rows(record: ScoreRecord) -> bool:
    """Whether the cell's score is a mean over test rows: of the metrics, accuracy alone is."""
    return main_metric(record) == "accuracy"


def read_rows(folder: Path, record: ScoreRecord) -> Rows | None:
    """Labels and predictions of each test row of a cell.

    Args:
        folder: The run folder.
        record: Of a task whose `main_metric` is known.

    Returns:
        None where the run folder has none of the cell.

    Raises:
        BenchError: The file is damaged or holds the predictions of another cell.
    """
    assert record.score is not None
    found = read_predictions(folder, record.id)
    if found is None:
        return None
    path, table = found
    mend = "restore or remove the file"
    if missing := [name for name in ("label", "prediction") if name not in table.column_names]:
        raise BenchError(f"{path}: not readable predictions (no column {missing[0]}); {mend}")
    if record.predictions_sha256 not in (None, predictions_sha256(table["prediction"].to_pylist())):
        raise BenchError(f"{path}: not the predictions of record {record.id[:12]} (another hash); {mend}")
    rows = Rows(*(table[name].to_numpy().astype(float) for name in ("label", "prediction")))
    name = main_metric(record)
    assert name is not None, "of another metric there is nothing to check the file by"
    points = 100 * score_of(name, rows) if len(rows.label) else None
    if points is None or abs(points - 100 * record.score) > 1e-6:
        scored = f"{points:.2f}" if points is not None else "nothing"
        raise BenchError(
            f"{path}: rows of record {record.id[:12]} score {scored}, the record says {100 * record.score:.2f}; {mend}"
        )
    return rows


def score_of(metric: str, rows: Rows) -> float:
    """The metric of all rows, 0 to 1 or -1 to 1."""
    sums = METRICS[metric]
    return float(sums.value(sums.of_rows(rows).sum(axis=0)))


def row_points(folder: Path, record: ScoreRecord) -> Floats | None:
    """Points of each test row of a cell, 0 or 100, whose mean is the cell's score.

    Args:
        folder: The run folder.
        record: Of a task whose metric `is_mean_of_rows`.

    Returns:
        ``[rows]``; None where the file is not there.

    Raises:
        BenchError: As `read_rows`.
    """
    rows = read_rows(folder, record)
    return None if rows is None else np.asarray(100.0 * rows.right)

"""Reads the predictions beside a run's records as points of single test rows; computes no metric, compares nothing."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.record import ScoreRecord

Floats = NDArray[np.float64]


def is_mean_of_rows(record: ScoreRecord) -> bool:
    """Whether the cell's score is a mean over test rows: of the metrics, accuracy alone is."""
    return record.score is not None and record.metrics.get("accuracy") == record.score


def row_points(folder: Path, record: ScoreRecord) -> Floats | None:
    """Points of each test row of a cell, 0 or 100, whose mean is the cell's score.

    Args:
        folder: The run folder.
        record: Of a task whose metric `is_mean_of_rows`.

    Returns:
        ``[rows]``; None where the file is not there.

    Raises:
        BenchError: The file is damaged or holds the predictions of another cell.
    """
    assert record.score is not None
    path = folder / "predictions" / f"{record.id}.parquet"
    if not path.exists():
        return None
    import pyarrow as pa  # here: it takes a while to load, and a published run has no such files
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["label", "prediction"])
        points: Floats = 100.0 * np.equal(table["label"].to_numpy(), table["prediction"].to_numpy())
    except (OSError, KeyError, pa.ArrowException) as error:
        raise BenchError(f"{path}: not readable predictions ({error}); restore or remove the file") from error
    if not points.size or abs(points.mean() - 100 * record.score) > 1e-6:
        found = f"{points.mean():.2f}" if points.size else "nothing"
        raise BenchError(
            f"{path}: its rows score {found}, the record says {100 * record.score:.2f}; restore or remove the file"
        )
    return points

"""Reads the predictions beside a run's records row by row, and compares methods with the baseline on the same rows.

A score that is a function of sums over rows (accuracy, Matthews and Pearson correlation) is taken anew from drawn rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.scores import check_one_setting, doubts, training_doubts
from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.stats.intervals import holm, mcnemar_p, twice_the_median
from bench.stats.resampling import RESAMPLES, Floats, drawn_sums
from bench.store.sidecars import predictions_sha256, read_predictions

if TYPE_CHECKING:
    from bench.analysis.results import Results


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


def _moments(x: Floats, y: Floats) -> Floats:
    """Sums of a correlation, of values about their mean: it is that of the values, whose squares would drown it."""
    return _columns(x, y, x * y, x**2, y**2)


METRICS = {
    "accuracy": Sums(lambda rows: _columns(rows.right), _accuracy, classes=True),
    "exact_match": Sums(lambda rows: _columns(rows.right), _accuracy, classes=True),
    "matthews_correlation": Sums(
        lambda rows: _columns((rows.label == 1) & (rows.prediction == 1), rows.label == 1, rows.prediction == 1),
        _matthews, classes=True,
    ),
    "pearson": Sums(
        lambda rows: _moments(rows.label - rows.label.mean(), rows.prediction - rows.prediction.mean()),
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
    """Whether the cell's score is a mean over test rows, as accuracy and exact match are."""
    return main_metric(record) in {"accuracy", "exact_match"}


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


PAIRED = (
    *("method", "task", "rows", "seeds", "difference", "low", "high"),
    *("only_baseline", "only_method", "p", "why"),
)


class PairedRows(NamedTuple):
    """Methods against the baseline, row by row."""

    table: pd.DataFrame
    """One row per (method, task): test ``rows``, ``seeds`` that both have, the ``difference`` in points with its
    interval ``low high`` (95 %, test rows drawn again, the trained models held fixed), rows that ``only_baseline`` or
    ``only_method`` gets right (mean over seeds), ``p`` of McNemar's exact test (twice the median over seeds, Holm over
    the table) and ``why`` it carries no verdict. NaN where the task has no classes."""
    left_out: Mapping[str, str]
    """Tasks without such a comparison, each with the reason."""


Cells = Mapping[tuple[str, int], tuple[ScoreRecord, Rows]]
"""By label and seed."""


def paired_rows(results: "Results") -> PairedRows:
    """Hold every method's predictions against the baseline's of the same seed.

    What it shows is true of the models that were trained. Other seeds would have made others: that luck is in no
    interval here, and a method whose seeds are too few carries no verdict here either.

    Args:
        results: Of a run, whose predictions are read where its folder has them.

    Raises:
        BenchError: Scores cannot stand in one table, or a predictions file is damaged.
    """
    baseline = results.baseline
    records = [record for record in results.score_records if record.status == "ok" and record.score is not None]
    check_one_setting(records)
    by_task: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in records:
        by_task[record.task_name].append(record)
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for task, found in by_task.items():
        metric = next((name for name in METRICS if all(r.metrics.get(name) == r.score for r in found)), None)
        if metric is None:
            left_out[task] = "its metric is no function of sums over rows"
            continue
        cells = dict(_cells(results.folder, found))
        if all(label != baseline for label, _ in cells):
            left_out[task] = f"the predictions of {baseline} are not in the run folder"
            continue
        rows += _task(task, metric, cells, baseline, results.labels)
    table = pd.DataFrame(rows, columns=list(PAIRED)).set_index(["method", "task"])
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p"] = holm(list(table.loc[tested, "p"]))
    return PairedRows(table, left_out)


def _cells(folder: Path, records: Sequence[ScoreRecord]) -> Iterator[tuple[tuple[str, int], tuple[ScoreRecord, Rows]]]:
    for record in records:
        if (rows := read_rows(folder, record)) is not None:
            yield (record.method.label, record.seed), (record, rows)


def _task(task: str, metric: str, cells: Cells, baseline: str, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    drawn = _drawn(metric, task, cells)
    for label in labels:
        seeds = sorted(seed for name, seed in cells if name == label and (baseline, seed) in cells)
        if label == baseline or not seeds:
            continue
        pairs = [(cells[label, seed][1], cells[baseline, seed][1]) for seed in seeds]
        whole, draws = (
            100 * np.mean([scores[label, seed] - scores[baseline, seed] for seed in seeds], axis=0) for scores in drawn
        )
        low, high = np.quantile(draws, [0.025, 0.975])
        row = {"method": label, "task": task, "rows": len(pairs[0][0].label), "seeds": len(seeds)}
        row |= {"difference": float(whole), "low": float(low), "high": float(high)}
        if METRICS[metric].classes:
            row |= _mcnemar(pairs)
        yield row | {"why": _why([cells[label, seed][0] for seed in seeds], baseline, cells, task)}


def _drawn(metric: str, task: str, cells: Cells) -> tuple[Mapping[tuple[str, int], Floats], ...]:
    """The metric of each cell on all rows, and on rows drawn again, the same rows for every cell."""
    sums, columns = METRICS[metric], []
    first = next(iter(cells.values()))[1]
    for (label, seed), (record, rows) in cells.items():
        if not np.array_equal(rows.label, first.label):
            raise BenchError(
                f"predictions of record {record.id[:12]}: labels of {task} are not those of the other cells "
                f"({label!r}, seed {seed}); restore or remove the file"
            )
        columns.append(sums.of_rows(rows))
    table = np.hstack(columns)
    shape = (-1, len(cells), columns[0].shape[1])
    both = (table.sum(axis=0).reshape(shape)[0], drawn_sums(table, resamples=RESAMPLES).reshape(shape))
    return tuple(
        {cell: values[..., at] for at, cell in enumerate(cells)} for values in (sums.value(found) for found in both)
    )


def _mcnemar(pairs: Sequence[tuple[Rows, Rows]]) -> dict[str, float]:
    mine = [int((ours.right & ~theirs.right).sum()) for ours, theirs in pairs]
    theirs = [int((theirs.right & ~ours.right).sum()) for ours, theirs in pairs]
    # One test a seed. They share the rows, so their counts cannot be added: McNemar asks for independent ones.
    p = twice_the_median([mcnemar_p(one, other) for one, other in zip(mine, theirs, strict=True)])
    return {"only_method": float(np.mean(mine)), "only_baseline": float(np.mean(theirs)), "p": p}


def _why(records: Sequence[ScoreRecord], baseline: str, cells: Cells, task: str) -> tuple[str, ...]:
    other = [record for (label, _), (record, _) in cells.items() if label == baseline]
    why = doubts(records, [(task, record.seed) for record in records])
    return (*why, *(f"{baseline} {doubt}" for doubt in training_doubts(other)))

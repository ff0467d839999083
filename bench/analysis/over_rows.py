"""Compares methods with the baseline on the same test rows: the luck of rows, beside that of seeds in the other tables.

What it finds is true of the models that were trained. Other seeds would have made others: that luck is in no interval
here, and a method whose seeds are too few carries no verdict here either.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.examples import METRICS, Floats, Rows, read_rows
from bench.analysis.once import Once
from bench.analysis.ranking import RESAMPLES
from bench.analysis.records import in_order, score_records
from bench.analysis.scores import check_one_content, doubts, training_doubts
from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.stats.intervals import holm, mcnemar_p, twice_the_median
from bench.stats.resampling import drawn_sums
from bench.store.store import Run

COLUMNS = (
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


def paired_rows(run: Run, order: Sequence[str]) -> PairedRows:
    """Hold every method's predictions against the baseline's of the same seed.

    Args:
        run: Its predictions are read where the folder has them.
        order: Labels in the order of the suite.

    Raises:
        BenchError: Scores cannot stand in one table, or a predictions file is damaged.
    """
    return _KNOWN.get(run, lambda: _paired_rows(run, order), key=tuple(order))


_KNOWN: Once[Run, PairedRows] = Once()


def _paired_rows(run: Run, order: Sequence[str]) -> PairedRows:
    records = [record for record in score_records(run.records) if record.status == "ok" and record.score is not None]
    check_one_content(records)
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
        cells = dict(_cells(run, found))
        if all(label != run.suite.baseline for label, _ in cells):
            left_out[task] = f"the predictions of {run.suite.baseline} are not in the run folder"
            continue
        rows += _task(task, metric, cells, run.suite.baseline, in_order([label for label, _ in cells], order))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).set_index(["method", "task"])
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p"] = holm(list(table.loc[tested, "p"]))
    return PairedRows(table, left_out)


def _cells(run: Run, records: Sequence[ScoreRecord]) -> Iterator[tuple[tuple[str, int], tuple[ScoreRecord, Rows]]]:
    for record in records:
        if (rows := read_rows(run.folder, record)) is not None:
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

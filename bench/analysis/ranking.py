"""Asks how sure each method's place is: on the front of cost and score, the best by score, by average rank."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.costs import peak_column
from bench.analysis.examples import is_mean_of_rows, row_points
from bench.analysis.scores import UNSCORED, Cells, cells, check_one_setting, doubts
from bench.schema.record import ScoreRecord
from bench.stats.intervals import mean_interval
from bench.stats.resampling import FEWEST_SEEDS, RESAMPLES, Floats, best_probability, drawn_means, front_probability

if TYPE_CHECKING:
    from bench.analysis.results import Results


class Fronts(NamedTuple):
    """Who is on the front and who ranks where, over the luck of tasks, seeds and test rows."""

    table: pd.DataFrame
    """One row per label: ``compared``; for each cost asked for the ``<cost>`` itself and ``<cost>_front``, the
    probability of being on the front of score against it; ``best``, the probability of having the highest mean score;
    ``rank rank_low rank_high`` (95 %, over task and seed) and ``why`` it carries no verdict. NaN where a method is not
    compared or its cost is not known."""
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """That every compared method finished on every task; empty where nothing can be compared."""
    whole_tasks: Mapping[str, str]
    """Tasks whose test rows could not be drawn again, each with the reason."""


def method_cost(results: "Results", cost: str) -> "pd.Series[float]":
    """Cost of each method: a column of `cost_table`.

    Trainable parameters and stored bytes come from cells where nothing was probed, the peak from predictions where no
    step ran.
    """
    table = results.cost_table()
    value = table[peak_column(table) if cost == "peak_step_bytes" else cost].astype(float)
    if cost in ("trainable_method", "delta_bytes"):
        done = [r for r in reversed(results.score_records) if r.status == "ok"]
        counted = {r.method.label: found for r in done if (found := _of_cell(r, cost)) is not None}
        value = value.fillna(pd.Series(counted, dtype=float))
    return value


def _of_cell(record: ScoreRecord, cost: str) -> float | None:
    if cost == "delta_bytes":
        return record.delta_bytes
    return record.trainable_parameters.method if record.trainable_parameters else None


def fronts(results: "Results", costs: Sequence[str]) -> Fronts:
    """Resample the scores of a run.

    A method is compared when it finished `FEWEST_SEEDS` seeds of every task. Flagged scores count like any other and
    carry their doubt in ``why``, as in `score_table`.

    Args:
        results: Predictions are read too, where the run folder has them.
        costs: Columns of `cost_table` to hold the score against.

    Raises:
        BenchError: Scores or costs cannot stand in one table, or a predictions file is damaged.
    """
    records = [record for record in results.score_records if record.status == "ok" and record.score is not None]
    check_one_setting(records)
    scores = cells(records)
    tasks = tuple(dict.fromkeys(record.task_name for record in records))
    compared, seeds = _common(scores, tasks)
    by_task = {task: _rows(results.folder, records, task, compared, seeds) for task in tasks} if compared else {}
    whole = {task: found for task, found in by_task.items() if isinstance(found, str)}
    arrays = [
        _scores(scores, task, compared, seeds) if isinstance(found, str) else found for task, found in by_task.items()
    ]
    labels = results.labels
    table = pd.DataFrame({"compared": [label in compared for label in labels]}, index=pd.Index(labels, name="method"))
    drawn = drawn_means(arrays, resamples=RESAMPLES) if compared else np.empty((0, 0))
    for cost in costs:
        table[cost] = results.method_cost(cost)
        table[f"{cost}_front"] = _on_front(table[cost], compared, drawn)
    table["best"] = pd.Series(best_probability(drawn) if compared else [], index=compared, dtype=float)
    table = table.join(_ranks(scores, tasks, compared, seeds))
    table["why"] = [
        _why(label, label in compared, records, tasks, seeds) if label in results.scored else (UNSCORED,)
        for label in labels
    ]
    return Fronts(table, tasks, seeds, whole)


def _common(scores: Cells, tasks: Sequence[str]) -> tuple[list[str], tuple[int, ...]]:
    """Methods that can be compared, and the seeds that all of them finished on every task."""
    whole = {
        label: {seed for _, seed in found if all((task, seed) in found for task in tasks)}
        for label, found in scores.items()
    }
    enough = {label: seeds for label, seeds in whole.items() if len(seeds) >= FEWEST_SEEDS}
    shared = tuple(sorted(set.intersection(*enough.values()))) if enough else ()
    return (list(enough), shared) if len(shared) >= FEWEST_SEEDS else ([], ())


def _rows(
    folder: Path, records: Sequence[ScoreRecord], task: str, labels: Sequence[str], seeds: Sequence[int]
) -> Floats | str:
    """Points of every test row, ``[methods, seeds, rows]``, or why they cannot be had."""
    found = {(r.method.label, r.seed): r for r in records if r.task_name == task}
    used = [found[label, seed] for label in labels for seed in seeds]
    if not all(map(is_mean_of_rows, used)):
        return "its metric is no mean over rows"
    points = [row_points(folder, record) for record in used]
    if any(rows is None for rows in points):
        return "its predictions are not in the run folder"
    return np.reshape(np.array(points, dtype=float), (len(labels), len(seeds), -1))


def _scores(scores: Cells, task: str, labels: Sequence[str], seeds: Sequence[int]) -> Floats:
    """The scores themselves, ``[methods, seeds, 1]``."""
    return np.array([[[scores[label][task, seed]] for seed in seeds] for label in labels])


def _on_front(costs: "pd.Series[float]", compared: Sequence[str], drawn: Floats) -> "pd.Series[float]":
    known = [position for position, label in enumerate(compared) if np.isfinite(costs[label])]
    labels = [compared[position] for position in known]
    if not known:
        return pd.Series(dtype=float)
    return pd.Series(front_probability(costs[labels].to_numpy(), drawn[:, known]), index=labels)


def _ranks(scores: Cells, tasks: Sequence[str], compared: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Average rank over (task, seed), 1 the best, ties share; the interval ends where no rank lies beyond."""
    names = ["rank", "rank_low", "rank_high"]
    if not compared:
        return pd.DataFrame(columns=names, dtype=float)
    places = [(task, seed) for task in tasks for seed in seeds]
    # By pandas: scipy.stats, whose rankdata gives the same, takes longer to load than a report to write.
    ranked = pd.DataFrame({label: [scores[label][place] for place in places] for label in compared})
    ranked = ranked.rank(axis=1, ascending=False)
    rows = {}
    for label in compared:
        mean, interval = mean_interval(ranked[label])
        low, high = interval or (float("nan"), float("nan"))
        rows[label] = (mean, max(low, 1.0), min(high, float(len(compared))))
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def _why(
    label: str, compared: bool, records: Sequence[ScoreRecord], tasks: Sequence[str], seeds: Sequence[int]
) -> tuple[str, ...]:
    if not compared:
        return ("not enough seeds",)
    mine = [record for record in records if record.method.label == label]
    return tuple(doubts(mine, [(task, seed) for task in tasks for seed in seeds]))

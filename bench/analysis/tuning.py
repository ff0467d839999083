"""Chooses learning rates from the trials of a search, and says what fewer trials would have found; runs nothing."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.errors import BenchError
from bench.schema.record import TrialRecord
from bench.schema.resolved import ResolvedSuite
from bench.schema.suite import RATES, TuningTable
from bench.store.store import read_records, read_suite
from bench.tasks.glue import task as task_spec

LOWEST = {"accuracy": 0.0, "f1": 0.0, "matthews_correlation": -1.0, "pearson": -1.0, "spearman": -1.0}
"""The worst value of each metric: what a diverged trial counts as."""


@dataclass(frozen=True)
class Search:
    """The folder of a search as readers see it."""

    folder: Path
    suite: ResolvedSuite
    """The resolved suite, with its ``tuning`` table."""
    records: tuple[TrialRecord, ...]

    @property
    def table(self) -> TuningTable:
        """The grid."""
        return TuningTable.model_validate_json(json.dumps(self.suite.tuning))


def read_search(folder: Path) -> Search:
    """Read the folder of a search.

    Raises:
        BenchError: It holds no search, or a file in it is damaged.
    """
    suite = read_suite(folder)
    records = read_records(folder / "records.jsonl")
    trials = tuple(record for record in records if isinstance(record, TrialRecord))
    if suite.tuning is None or len(trials) < len(records):
        raise BenchError(f"{folder}: holds no search for learning rates; make one with: python -m bench tune")
    return Search(folder, suite, trials)


@dataclass(frozen=True)
class Point:
    """One trial: a learning rate and a head rate on one task, over all seeds of the search."""

    learning_rate: float
    head_learning_rate: float
    score: float
    """Mean over seeds of the main metric on the selection rows."""
    diverged: int
    """Seeds that ended in NaN or infinity; each counts as the metric's worst value."""


@dataclass(frozen=True)
class Outcome:
    """What the search found for one method on one task."""

    method: str
    """Label."""
    task: str
    steps: int
    """Optimizer steps of each trial; 0 before the first."""
    points: tuple[Point, ...]
    """Trials whose every seed came to a score or diverged, smaller rates first."""
    failed: int
    """Records of any other end: they say nothing about their rates."""
    missing: int
    """Records still to come."""

    @property
    def diverged(self) -> int:
        """Trials of which a seed diverged."""
        return sum(point.diverged > 0 for point in self.points)

    @property
    def best(self) -> Point | None:
        """The best trial, of equal ones that with the smaller learning rate, then with the smaller head rate.

        None while trials are missing or failed, since then some methods would have had more of them than others, and
        where every trial diverged.
        """
        if self.missing or self.failed or all(point.diverged for point in self.points):
            return None
        return min(self.points, key=lambda p: (-p.score, p.learning_rate, p.head_learning_rate))

    @property
    def edges(self) -> tuple[str, ...]:
        """Ends of the grid beyond which a better rate may lie: ``smallest learning_rate`` ...

        An end counts where every best trial lies at it: a tie inside the grid, or a rate without effect, speaks
        against a better one outside. Of two values each is an end, so that of fewer than three nothing is said.
        """
        best = self.best
        if best is None:
            return ()
        found = []
        for field in RATES:
            values = sorted({getattr(point, field) for point in self.points})
            reached = {getattr(point, field) for point in self.points if point.score == best.score}
            ends = (("smallest", values[0]), ("largest", values[-1])) if len(values) > 2 else ()
            found += [f"{word} {field}" for word, end in ends if reached == {end}]
        return tuple(found)

    @property
    def curve(self) -> tuple[float, ...]:
        """``expected_maximum`` over the trials; empty where there is no best one."""
        return expected_maximum([point.score for point in self.points]) if self.best else ()


def expected_maximum(scores: Sequence[float]) -> tuple[float, ...]:
    """The best score to expect of 1, 2, ... all trials.

    The exact expectation of the maximum of n of the ``scores``, drawn without replacement: with scores sorted upwards
    the i-th is the largest of n in C(i - 1, n - 1) of C(m, n) draws. Dodge et al. (EMNLP 2019, arXiv:1909.03004,
    section 3) draw with replacement, as if the grid went on for ever; a grid ends, and all m trials reach its best.
    """
    rising, m = sorted(scores), len(scores)
    return tuple(
        math.fsum(math.comb(i, n - 1) / math.comb(m, n) * score for i, score in enumerate(rising))
        for n in range(1, m + 1)
    )


def outcomes(search: Search) -> list[Outcome]:
    """The search of each method on each task, in the order of the suite; the newest record of each trial counts."""
    newest: dict[tuple[object, ...], TrialRecord] = {}
    for record in search.records:
        place = (record.task_name, record.method.label, *(record.recipe[rate] for rate in RATES), record.seed)
        if place not in newest or record.ended >= newest[place].ended:
            newest[place] = record
    asked, table = search.suite, search.table
    return [_outcome(label, task, table, newest) for task in asked.tasks for label in asked.methods]


def _outcome(label: str, task: str, table: TuningTable, newest: dict[tuple[object, ...], TrialRecord]) -> Outcome:
    points, failed, missing, steps = [], 0, 0, 0
    worst = LOWEST[task_spec(task).main_metric]
    for rates in table.grid:
        found = [newest.get((task, label, *rates, seed)) for seed in table.seeds]
        held = [record for record in found if record is not None]
        scores = list(_scores(held, worst))
        missing += len(found) - len(held)
        failed += len(held) - len(scores)
        steps = max((steps, *(record.recipe["steps"] for record in held)))
        if len(scores) == len(found):
            points.append(Point(*rates, fmean(scores), sum(record.status == "nan" for record in held)))
    return Outcome(label, task, steps, tuple(points), failed, missing)


def _scores(records: Iterable[TrialRecord], worst: float) -> Iterable[float]:
    for record in records:
        if record.status == "nan":
            yield worst
        elif record.score is not None:
            yield record.score

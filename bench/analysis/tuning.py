"""Chooses learning rates from the trials of a search, says what fewer would have found, and what a search changed."""

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.results import Results, latest, newest
from bench.analysis.scores import check_one_setting
from bench.errors import BenchError
from bench.schema.ranges import METRICS, RATES
from bench.schema.record import ScoreRecord, Stored, TrialRecord
from bench.schema.resolved import ResolvedSuite
from bench.schema.suite import DEFAULTS, TuningTable
from bench.stats.intervals import Interval, rank_agreement
from bench.stats.resampling import FEWEST_SEEDS, RESAMPLES, Floats, times_drawn
from bench.store.store import read_records, read_suite
from bench.tasks.catalogue import shipped


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
    held = newest(search.records, lambda r: (r.task_name, r.method.label, *(r.recipe[rate] for rate in RATES), r.seed))
    asked, table = search.suite, search.table
    return [_outcome(label, task, table, held) for task in asked.tasks for label in asked.methods]


def _worst(task: str, trials: Iterable[TrialRecord]) -> float:
    """The least value of the main metric of ``task``: what a diverged trial counts as; -1 of a metric of one's own."""
    named = next((trial.task.main_metric for trial in trials if trial.task_name == task and trial.task), None)
    if named is None and task in shipped():  # records from before do not name it
        named = shipped()[task].main_metric
    return METRICS.get(named or "", (-1.0, 1.0))[0]


def _outcome(label: str, task: str, table: TuningTable, trials: Mapping[tuple[Hashable, ...], TrialRecord]) -> Outcome:
    points, failed, missing, steps = [], 0, 0, 0
    worst = _worst(task, trials.values())
    for rates in table.grid:
        found = [trials.get((task, label, *rates, seed)) for seed in table.seeds]
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


# What a search changed.

Rates = tuple[float, float]
"""Learning rate of the method, then of the head."""
WANTED = "give the folder of a search (bench tune), or of a run of the same suite whose rates were not searched for"
Points = dict[int, float]
"""Score in points of 100 by seed."""


class Tried(NamedTuple):
    """What one method scored on one task."""

    default: Points
    """At the rates that every method starts from."""
    searched: Mapping[Rates, Points]
    """At the rates among which the best are taken: the whole grid of a search, or the one pair that it gave."""


class RateChange(NamedTuple):
    """How much the search for learning rates changed the ranking of the methods."""

    table: pd.DataFrame
    """One row per method, in the suite's order: mean points ``default`` and ``tuned``, their difference ``gain``,
    ``default_rank tuned_rank`` (1 the best, ties share), the chosen ``rates`` by task, how many were ``searched``."""
    tau: float
    """Kendall's tau-b between the two rankings: 1 the same order; NaN where one side has all methods equal."""
    tau_interval: Interval | None
    """95 %, seeds drawn again and the rates chosen anew in each draw; None below `FEWEST_SEEDS` seeds."""
    swapped: int
    """Pairs of methods that stand in another order."""
    swapped_interval: Interval | None
    pairs: int
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """That every compared method has on every task."""
    rows: str
    """What the scores are of: ``selection`` or ``test`` rows."""
    default: Rates | None
    """None where every method had default rates of its own."""
    left_out: Mapping[str, str]
    """Methods that are not compared, each with the reason."""


def default_rates(suite: ResolvedSuite) -> Rates:
    """Rates of a resolved suite's recipe, which hold for methods that set none of their own."""
    return _rates_of(suite.recipe)


def _rates_of(recipe: Mapping[str, Any]) -> Rates:
    learning, head = (float(recipe.get(name, DEFAULTS[name])) for name in ("learning_rate", "head_learning_rate"))
    return learning, head


def change_in(folder: Path, results: Results) -> RateChange:
    """`rate_change` with the records of ``folder``.

    Raises:
        BenchError: As `rate_change`, and where the folder holds no record.
    """
    if not (records := tuple(read_records(folder / "records.jsonl"))):
        raise BenchError(f"{folder / 'records.jsonl'}: holds no record; {WANTED}")
    return rate_change(results, records)


def rate_change(results: Results, other: Sequence[Stored]) -> RateChange:
    """Compare the rankings of a run's methods at default and at searched rates.

    Args:
        results: The suite names the default rates; the scores are the searched ones where ``other`` holds no trial.
        other: Trials of the search; or the scores of another run of the same suite at default rates.

    Raises:
        BenchError: Neither is there, or fewer than two methods can be compared.
    """
    order, default = results.labels, default_rates(results.suite)
    if trials := [record for record in other if isinstance(record, TrialRecord)]:
        return change(from_trials(trials, default), order, "selection", default)
    scored = [record for record in latest(r for r in other if not isinstance(r, TrialRecord))[0]
              if isinstance(record, ScoreRecord)]  # fmt: skip
    if not scored:
        raise BenchError(f"the records to rank by hold neither trials nor scores; {WANTED}")
    return change(from_scores(scored, results.score_records), order, "test", None)


def from_trials(trials: Iterable[TrialRecord], default: Rates) -> dict[str, dict[str, Tried]]:
    """What each method scored by label and task, of a search that holds the ``default`` rates in its grid.

    Of trials of the same cell the newest counts. One that diverged counts as its metric's worst value, as in the search
    itself; rates at which a seed failed in another way are no choice.
    """
    held = newest(trials, lambda trial: (trial.method.label, trial.task_name, _rates_of(trial.recipe), trial.seed))
    check_one_setting([trial for trial in held.values() if trial.status == "ok"])
    failed = {place[:3] for place, trial in held.items() if trial.status not in ("ok", "nan")}
    grid: dict[tuple[str, str], dict[Rates, Points]] = defaultdict(lambda: defaultdict(dict))
    for (label, task, rates, seed), trial in held.items():
        found = grid[label, task]  # also where all of it failed
        if (label, task, rates) not in failed:
            found[rates][seed] = 100 * _worst(task, [trial]) if trial.score is None else 100 * trial.score
    tried: dict[str, dict[str, Tried]] = defaultdict(dict)
    for (label, task), searched in grid.items():
        tried[label][task] = Tried(searched.get(default, {}), dict(searched))
    return dict(tried)


def from_scores(default: Iterable[ScoreRecord], tuned: Iterable[ScoreRecord]) -> dict[str, dict[str, Tried]]:
    """What each method scored by label and task in a run at default rates and in one at searched rates.

    Args:
        default: Those whose rates came from a search are passed over.
        tuned: Those whose rates did not are passed over.

    Raises:
        BenchError: The two runs read a task from different rows.
    """
    sides = [
        [r for r in side if r.status == "ok" and r.score is not None and (r.tuning is not None) == searched]
        for side, searched in ((default, False), (tuned, True))
    ]
    check_one_setting([record for side in sides for record in side])
    points: list[dict[tuple[str, str], Points]] = [defaultdict(dict), defaultdict(dict)]
    rates: dict[tuple[str, str], Rates] = {}
    for found, side in zip(points, sides, strict=True):
        for record in side:
            place = (record.method.label, record.task_name)
            found[place][record.seed] = 100 * (record.score or 0.0)
            learning, head = (
                float(record.recipe.get(name, np.nan)) for name in ("learning_rate", "head_learning_rate")
            )
            rates[place] = (learning, head)
    tried: dict[str, dict[str, Tried]] = defaultdict(dict)
    for label, task in {**points[0], **points[1]}:
        searched = points[1].get((label, task), {})
        choice = {rates[label, task]: searched} if searched else {}
        tried[label][task] = Tried(points[0].get((label, task), {}), choice)
    return dict(tried)


def change(
    tried: Mapping[str, Mapping[str, Tried]], order: Sequence[str], rows: str, default: Rates | None
) -> RateChange:
    """Rank the methods twice and say how far the rankings agree.

    Args:
        tried: By label and task.
        order: Labels in the order of the suite.
        rows: What the scores are of, for readers.
        default: The rates of `Tried.default` where all methods share them.

    Raises:
        BenchError: Fewer than two methods have both sides on every task with seeds in common.
    """
    tasks = tuple(dict.fromkeys(task for found in tried.values() for task in found))
    left_out = {label: why for label, found in tried.items() if (why := _lacking(found, tasks))}
    labels = [label for label in dict.fromkeys([*order, *tried]) if label in tried and label not in left_out]
    shared = [_seeds(tried[label][task]) for label in labels for task in tasks]
    seeds = tuple(sorted(set.intersection(*shared))) if shared else ()
    if len(labels) < 2 or not seeds:
        reasons = "; ".join(f"{label}: {why}" for label, why in left_out.items()) or "no seed is common to all"
        raise BenchError(f"two rankings need two methods with scores at default and at searched rates ({reasons})")
    arrays = [[_arrays(tried[label][task], seeds) for task in tasks] for label in labels]
    before, after = _sides(arrays, np.full(len(seeds), 1 / len(seeds)))
    table = pd.DataFrame({"default": before, "tuned": after}, index=pd.Index(labels, name="method"))
    table["gain"] = table["tuned"] - table["default"]
    for side in ("default", "tuned"):
        table[f"{side}_rank"] = table[side].rank(ascending=False)
    table["rates"] = [{task: _best(tried[label][task], seeds) for task in tasks} for label in labels]
    table["searched"] = [max(len(tried[label][task].searched) for task in tasks) for label in labels]
    found = rank_agreement(before, after)
    taus, swaps = _drawn(arrays, len(seeds))
    return RateChange(
        table, found.tau, taus, found.swapped, swaps, found.pairs, tasks, seeds, rows, default, left_out
    )  # fmt: skip


def _lacking(found: Mapping[str, Tried], tasks: Sequence[str]) -> str:
    """Why a method is not compared; empty where it is."""
    for task in tasks:
        if task not in found:
            return f"nothing on {task}"
        if not found[task].default:
            return f"no score of {task} at the default rates"
        if not found[task].searched:
            return f"no score of {task} at searched rates"
    return ""


def _seeds(tried: Tried) -> set[int]:
    return set(tried.default).intersection(*tried.searched.values())


def _arrays(tried: Tried, seeds: Sequence[int]) -> tuple[Floats, Floats]:
    """``[seeds]`` at the default rates, ``[choices, seeds]`` at the searched ones."""
    choices = [[points[seed] for seed in seeds] for points in tried.searched.values()]
    return np.array([tried.default[seed] for seed in seeds]), np.array(choices)


def _best(tried: Tried, seeds: Sequence[int]) -> Rates:
    """The rates with the highest mean; of equals the first, which the grid has smallest first."""
    return max(sorted(tried.searched), key=lambda rates: sum(tried.searched[rates][seed] for seed in seeds))


def _sides(arrays: Sequence[Sequence[tuple[Floats, Floats]]], weights: Floats) -> tuple[Floats, Floats]:
    """Mean over tasks at the default rates and at each task's best ones, ``[methods]`` each, seeds weighted."""
    default = np.array([np.mean([before @ weights for before, _ in tasks]) for tasks in arrays])
    return default, np.array([np.mean([(choices @ weights).max() for _, choices in tasks]) for tasks in arrays])


def _drawn(
    arrays: Sequence[Sequence[tuple[Floats, Floats]]], seeds: int
) -> tuple[Interval, Interval] | tuple[None, None]:
    """Intervals of tau and of the pairs that swap, over seeds drawn again."""
    if seeds < FEWEST_SEEDS:
        return None, None
    rng = np.random.default_rng(0)
    found = [rank_agreement(*_sides(arrays, times_drawn(rng, seeds) / seeds)) for _ in range(RESAMPLES)]
    taus = [each.tau for each in found if each.tau == each.tau] or [float("nan")]  # NaN: one side all equal
    low, high = np.quantile(taus, [0.025, 0.975])
    fewest, most = np.quantile([each.swapped for each in found], [0.025, 0.975])
    return (float(low), float(high)), (float(fewest), float(most))

"""Builds tables of scores: means, paired differences to the baseline, and the reasons for doubt.

Scores are in points of 100. A figure that no record has is NaN, never 0.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import BenchError
from bench.schema.ranges import METRICS, UNKNOWN_RANGE
from bench.schema.record import Scored, ScoreRecord
from bench.stats.intervals import Interval, mean_interval, paired_difference

if TYPE_CHECKING:
    from bench.analysis.results import Results

MIN_SEEDS = 5
"""Fewer seeds carry no verdict about scores."""

UNSCORED = "not scored, as the suite asks"
"""Why a method without a score has none, where its suite scores others."""

Cells = Mapping[str, Mapping[tuple[str, int], float]]
"""Points of 100 by method label and (task, seed)."""


def check_one_setting(records: Sequence[Scored]) -> None:
    """Refuse to pool scores of different rows of a task, or of cells that ran on different numbers of threads."""
    seen: dict[str, Scored] = {}
    for record in records:
        ours, theirs = (one.environment.get("threads") for one in (records[0], record))
        if None not in (ours, theirs) and ours != theirs:
            raise BenchError(
                f"scores of different numbers of torch threads cannot be pooled: {ours} for "
                f"{records[0].method.label!r} but {theirs} for {record.method.label!r}; run both with the same "
                "recipe.threads into a new folder (--out) or again (--fresh)"
            )
        first = seen.setdefault(record.task_name, record)
        if record.task is None or first.task is None or record.task.content_sha256 == first.task.content_sha256:
            continue
        raise BenchError(
            f"scores on different data cannot be compared: task {record.task_name!r} has the rows "
            f"{first.task.content_sha256[:12]} ({first.task.source}) for {first.method.label!r} but "
            f"{record.task.content_sha256[:12]} ({record.task.source}) for {record.method.label!r}; "
            "run both on the same data into a new folder (--out) or again (--fresh)"
        )


def cells(records: Iterable[ScoreRecord]) -> dict[str, dict[tuple[str, int], float]]:
    """Main score in points of 100 by method label and (task, seed); ok records only."""
    scores: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for record in records:
        if record.status == "ok" and record.score is not None:
            scores[record.method.label][record.task_name, record.seed] = 100 * record.score
    return dict(scores)


def forgotten(records: Iterable[ScoreRecord], text: str) -> dict[str, dict[tuple[str, int], float]]:
    """Bits per byte of ``text`` after training, less those before, by method label and (task, seed); ok records."""
    found: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for record in records:
        if record.status == "ok" and (read := record.retention.get(text)) is not None:
            found[record.method.label][record.task_name, record.seed] = read.after - read.before
    return dict(found)


def _mean_over_seeds(scores: Mapping[tuple[str, int], float]) -> Interval | None:
    """Student t interval over seeds of the mean over tasks; seeds that lack a task are left out."""
    tasks = {task for task, _ in scores}
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (_, seed), value in scores.items():
        by_seed[seed].append(value)
    whole = [sum(found) / len(found) for found in by_seed.values() if len(found) == len(tasks)]
    return mean_interval(whole)[1] if whole else None


def doubts(records: Sequence[ScoreRecord], pairs: Iterable[tuple[str, int]]) -> list[str]:
    """Why a comparison of these records over ``pairs`` of task and seed carries no verdict, as short phrases."""
    return data_doubts(records, pairs) + training_doubts(records)


def data_doubts(records: Sequence[ScoreRecord], pairs: Iterable[tuple[str, int]]) -> list[str]:
    """The `doubts` that every method of a run shares: too few seeds, synthetic data, random weights."""
    seeds = len({seed for _, seed in pairs})
    found = [f"{seeds} seed{'s' * (seeds != 1)}"] if seeds < MIN_SEEDS else []
    if any("synthetic" in r.flags or (r.task and r.task.source == "synthetic") for r in records):
        found.append("synthetic data")
    if any("random_weights" in r.flags or (r.backbone and r.backbone.weights == "random") for r in records):
        found.append("random weights")
    return found


def training_doubts(records: Iterable[ScoreRecord]) -> list[str]:
    """What the training of these records leaves to doubt: ``did not learn``, ``still improving``."""
    flags = _flags(records)
    return [name.replace("_", " ") for name in ("did_not_learn", "still_improving") if name in flags]


def training_doubts_of(results: "Results") -> dict[str, list[str]]:
    """As `training_doubts`, of the scores of each method that has any."""
    grouped: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in results.score_records:
        if record.status == "ok":
            grouped[record.method.label].append(record)
    return {label: found for label, mine in grouped.items() if (found := training_doubts(mine))}


def _flags(records: Iterable[ScoreRecord]) -> tuple[str, ...]:
    return tuple(sorted({flag for record in records for flag in record.flags}))


def score_table(results: "Results", baseline: str | None = None, tasks: Sequence[str] = ()) -> pd.DataFrame:
    """Scores of each method over all tasks and seeds, and the paired difference to the baseline.

    Args:
        results: Of a run.
        baseline: Label that the others are compared with; None: that of the suite.
        tasks: Those to compare on; all where empty.

    Returns:
        One row per method label: ``n`` ok cells, ``failed`` cells, ``mean`` with ``mean_low mean_high`` (95 %, over
        seeds), ``difference low high`` (points, 95 %, paired by task and seed), ``n_pairs``, ``dropped`` (cells that
        only one side has), ``flags``, ``verdict`` (whether one is allowed) and ``why`` not; ``trainable_method`` and
        ``delta_bytes`` as the cells counted them.

    Raises:
        BenchError: The same task was read from different rows.
    """
    baseline = results.baseline if baseline is None else baseline
    scores = [record for record in results.score_records if not tasks or record.task_name in tasks]
    check_one_setting([record for record in scores if record.status == "ok"])
    by_cell = cells(scores)
    grouped: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in scores:
        grouped[record.method.label].append(record)
    rows = [_score_row(label, baseline, grouped, by_cell) for label in results.labels]
    for label, row in zip(results.labels, rows, strict=True):
        if label not in results.scored:
            row |= {"dropped": 0, "why": (UNSCORED,)}
    return pd.DataFrame(rows, index=pd.Index(results.labels, name="method"))


def _score_row(
    label: str,
    baseline: str,
    grouped: Mapping[str, list[ScoreRecord]],
    by_cell: Mapping[str, dict[tuple[str, int], float]],
) -> dict[str, Any]:
    mine, theirs = by_cell.get(label, {}), by_cell.get(baseline, {})
    done = [record for record in grouped.get(label, []) if record.status == "ok"]
    row: dict[str, Any] = {"n": len(done), "failed": len(grouped.get(label, [])) - len(done)}
    row["mean"] = sum(mine.values()) / len(mine) if mine else float("nan")
    row["mean_low"], row["mean_high"] = _mean_over_seeds(mine) or (float("nan"), float("nan"))
    pair = paired_difference(mine, theirs) if label != baseline else None
    row["difference"] = pair.mean if pair and pair.mean is not None else float("nan")
    row["low"], row["high"] = (pair.interval if pair else None) or (float("nan"), float("nan"))
    row["n_pairs"], row["dropped"] = (pair.n_pairs, pair.dropped) if pair else (0, 0)
    row["flags"] = _flags(done)
    why = doubts(done, mine.keys() & theirs.keys())
    other = [] if label == baseline else [r for r in grouped.get(baseline, []) if r.status == "ok"]
    why += [f"{baseline} {doubt}" for doubt in training_doubts(other)]
    row["why"] = tuple(why)
    row["verdict"] = bool(pair and pair.interval) and not why
    counted = next((record for record in done if record.trainable_parameters), None)
    used = counted.trainable_parameters if counted else None
    row["trainable_method"] = used.method if used else float("nan")
    row["delta_bytes"] = next((r.delta_bytes for r in done if r.delta_bytes is not None), float("nan"))
    return row


def per_task(results: "Results") -> pd.DataFrame:
    """Scores of each method on each task.

    Returns:
        One row per (method, task) with ok cells: ``n mean low high`` (95 %, over seeds), the paired ``difference
        difference_low difference_high``, ``floor`` (bag of words, points) and ``flags``.
    """
    baseline = results.baseline
    grouped: dict[tuple[str, str], list[ScoreRecord]] = defaultdict(list)
    for record in results.score_records:
        if record.status == "ok" and record.score is not None:
            grouped[record.method.label, record.task_name].append(record)
    by_seed = {key: {r.seed: 100 * (r.score or 0.0) for r in found} for key, found in grouped.items()}
    rows = []
    for label, task in sorted(grouped, key=lambda key: results.labels.index(key[0])):
        mine = by_seed[label, task]
        mean, interval = mean_interval(list(mine.values()))
        low, high = interval or (None, None)
        pair = paired_difference(mine, by_seed.get((baseline, task), {})) if label != baseline else None
        pair_low, pair_high = (pair.interval if pair else None) or (None, None)
        found = grouped[label, task]
        floor = next((100 * r.task.floor for r in found if r.task), None)
        difference = pair.mean if pair else None
        rows.append((label, task, len(mine), mean, low, high, difference, pair_low, pair_high, floor, _flags(found)))
    names = "method task n mean low high difference difference_low difference_high floor flags".split()
    table = pd.DataFrame(rows, columns=names)
    return table.astype({name: float for name in names[3:10]}).set_index(["method", "task"])


def retention_table(results: "Results") -> pd.DataFrame:
    """What each method has kept of each plain text, in bits per byte; lower is better.

    Returns:
        One row per (method, task, text): ``n`` cells, ``before`` and ``after`` training (means over seeds), and their
        difference ``forgotten`` with ``low high`` (95 % Student t over seeds); above 0 something was forgotten;
        ``backbone_kept``, whether every weight of the backbone kept its bits in all of these cells; None where that
        was not looked at.
    """
    grouped: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    left: dict[str, list[bool | None]] = defaultdict(list)
    for record in results.score_records:
        left[record.method.label].append(record.backbone_kept)
        for text, bits in record.retention.items() if record.status == "ok" else ():
            grouped[record.method.label, record.task_name, text].append((bits.before, bits.after))
    rows = []
    for key in sorted(grouped, key=lambda key: results.labels.index(key[0])):
        before, after = zip(*grouped[key], strict=True)
        forgotten, interval = mean_interval([new - old for old, new in grouped[key]])
        low, high = interval or (None, None)
        means = (sum(before) / len(before), sum(after) / len(after), forgotten)
        whole = [kept for kept in left[key[0]] if kept is not None]
        rows.append((*key, len(before), *means, low, high, all(whole) if whole else None))
    names = "method task text n before after forgotten low high backbone_kept".split()
    table = pd.DataFrame(rows, columns=names)
    return table.astype({name: float for name in names[4:9]}).set_index(names[:3])


def retention_curve(results: "Results") -> pd.DataFrame:
    """Score and bits per byte on the way through training, means over seeds.

    Returns:
        One row per (method, task, step): ``score`` in points, ``bits`` per byte, the mean over the texts that are read.
        The last step has those after training, the only one where texts are not read on the way.
    """
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for record in results.score_records:
        if record.status != "ok" or record.score is None or not record.retention:
            continue
        last = sum(bits.after for bits in record.retention.values()) / len(record.retention)
        read = [
            (point.step, 100 * point.score, sum(point.retention.values()) / len(point.retention))
            for point in record.curve
            if point.retention
        ]
        for step, score, bits in [*read, (int(record.recipe["steps"]), 100 * record.score, last)]:
            found[record.method.label, record.task_name, step].append((score, bits))
    rows = []
    for key in sorted(found, key=lambda key: (results.labels.index(key[0]), key[1:])):
        scores, bits_of = zip(*found[key], strict=True)
        rows.append((*key, sum(scores) / len(scores), sum(bits_of) / len(bits_of)))
    return pd.DataFrame(rows, columns=["method", "task", "step", "score", "bits"]).set_index(["method", "task", "step"])


def least_scores(results: "Results") -> dict[str, float]:
    """Least possible score of each task, in points of 100: 0 of an accuracy, -100 of a correlation."""
    tasks = {record.task_name: record.task for record in results.score_records if record.status == "ok"}
    metrics = {name: (task and task.main_metric) or "" for name, task in tasks.items()}
    return {name: 100 * METRICS.get(metric, UNKNOWN_RANGE)[0] for name, metric in metrics.items()}


def floors(results: "Results") -> dict[str, float]:
    """Bag-of-words score of each task, in points of 100."""
    return {r.task_name: 100 * r.task.floor for r in results.score_records if r.status == "ok" and r.task}

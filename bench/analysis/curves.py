"""Builds tables of what training did: scores on the way, their cost, first gradients, directions added, prompts.

Scores are in points of 100. A figure that no record has is NaN, never 0. FLOPs of training on rows of any lengths are
solved from counts at a few lengths, exactly:
a training step multiplies matrices once per token, per pair of tokens (attention), per row (the head) and per pass
(what depends on no row, such as a prompt encoder), so a pass over B rows of T tokens takes

    fixed + a B + b B T + c B T^2

FLOPs, prompts and prefixes included. Counts at three lengths and one batch give b, c and ``fixed + a B``; every further
length must agree to the last FLOP. Only counts at another batch tell ``fixed`` and ``a`` apart.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.scores import check_one_setting, doubts, training_doubts
from bench.errors import BenchError
from bench.schema.record import CountRecord, CurvePoint, ScoreRecord
from bench.stats.intervals import mean_interval
from bench.stats.subspaces import Vectors, angles, overlap
from bench.store.sidecars import directions_sha256
from bench.store.sidecars import read_directions as stored_directions

if TYPE_CHECKING:
    from bench.analysis.results import Results

NEAR = 0.99
"""Share of the baseline's mean final score that counts as reached."""
SPENT = ("step", "seconds", "flops")
"""What a method spends on the way to a score; peak memory, which does not grow on the way, comes from the probe."""
_MEANS = ("seconds", "flops", "loss")
_CURVE = ("method", "task", "step", "n", *_MEANS, "score", "low", "high")
_REACHED = ("method", "task", "seed", "target", "final", *SPENT)


LENGTHS = 3
"""Counted lengths that give the polynomial; those beyond check it."""


@dataclass(frozen=True)
class Work:
    """FLOPs of forward and backward of one method as sums over passes, rows, tokens and squared lengths."""

    fixed: Fraction
    """Per pass; 0 where ``batch`` holds it within ``per_row``."""
    per_row: Fraction
    per_token: Fraction
    per_square: Fraction
    batch: int | None
    """Rows of a pass for which it holds; None: any."""
    checks: int
    """Counts beyond those that it was solved from, all of which it meets exactly."""

    def flops(self, point: CurvePoint, passes: int) -> float:
        """FLOPs up to ``point``; NaN where the passes had another number of rows than what was counted.

        Args:
            point: Sums over all batches so far.
            passes: Batches so far.
        """
        if self.batch is not None and point.rows != passes * self.batch:
            return float("nan")
        return float(
            passes * self.fixed + point.rows * self.per_row + point.tokens * self.per_token
            + point.token_squares * self.per_square
        )  # fmt: skip


def training_flops(results: "Results") -> dict[str, Work]:
    """The work of each method whose counts of sweeps give it; the others are left out.

    Counts are taken at the methods' own configuration, on a backbone with as many parameters as the scored one, without
    checkpointing, with fused attention and under a head of classes, which is how cells train.
    """
    asked = {(r.method.label, r.backbone.parameters) for r in results.score_records if r.backbone}
    points: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
    for record in results.count_records:
        if _usable(record) and (record.method.label, record.backbone.parameters) in asked:  # type: ignore[union-attr]
            assert record.flops is not None
            place = (record.shape.batch, record.shape.length)
            points[record.method.label][place] = record.flops.forward + record.flops.backward
    found = {label: solved(counted) for label, counted in points.items()}
    return {label: work for label, work in found.items() if work is not None}


def _usable(record: CountRecord) -> bool:
    counted = record.status == "ok" and record.flops is not None and record.backbone is not None
    shape = record.shape
    plain = record.vary in ("length", "batch") and not shape.checkpointing and shape.attention == "sdpa"
    return counted and plain and shape.objective != "text"  # cells train classes and scores


def solved(counted: Mapping[tuple[int, int], int]) -> Work | None:
    """The polynomial through counted FLOPs.

    Args:
        counted: FLOPs of forward and backward by (rows, tokens a row).

    Returns:
        None with fewer than three lengths at every batch, or where a further length does not lie on it.
    """
    by_batch: dict[int, dict[int, int]] = defaultdict(dict)
    for (batch, length), flops in counted.items():
        by_batch[batch][length] = flops
    batch, lengths = max(by_batch.items(), key=lambda item: len(item[1]), default=(0, {}))
    if len(lengths) < LENGTHS:
        return None
    together, b, c = _quadratic(lengths, batch)
    rest = [length for length in lengths if together + batch * (b * length + c * length**2) != lengths[length]]
    if rest:
        return None
    checks = len(lengths) - LENGTHS
    other = {place: flops for place, flops in counted.items() if place[0] != batch}
    # What depends on no length, at each other batch: fixed + a B.
    alone = {
        place: flops - place[0] * (b * place[1] + c * place[1] ** 2) for place, flops in other.items()
    }  # fmt: skip
    slopes = {(value - together) / (place[0] - batch) for place, value in alone.items()}
    if len(slopes) != 1:
        return Work(Fraction(0), together / batch, b, c, batch, checks)
    (a,) = slopes
    return Work(together - a * batch, a, b, c, None, checks + len(alone) - 1)


def _quadratic(lengths: Mapping[int, int], batch: int) -> tuple[Fraction, Fraction, Fraction]:
    """``(e, b, c)`` with ``e + B (b T + c T^2)`` through the smallest, a middle and the largest length."""
    rising: Sequence[int] = sorted(lengths)
    x = [rising[0], rising[len(rising) // 2], rising[-1]]
    y = [Fraction(lengths[length]) for length in x]
    first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    c = (second - first) / (x[2] - x[0])
    b = first - c * (x[0] + x[1])
    e = y[0] - b * x[0] - c * x[0] ** 2
    return e, b / batch, c / batch


def curve_table(results: "Results") -> pd.DataFrame:
    """Scores on the way, mean over seeds.

    Returns:
        One row per (method, task, step): ``n`` seeds, mean ``seconds flops loss`` so far, mean ``score`` with ``low
        high`` (95 %, over seeds). ``flops`` is NaN where no sweep gives a method's work.

    Raises:
        BenchError: The same task was read from different rows.
    """
    work = results.training_flops
    found: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for record in _with_curve(results):
        for point in record.curve:
            place = (record.method.label, record.task_name, point.step)
            found[place].append(_spent(record, point, work) | {"loss": point.loss, "score": 100 * point.score})
    rows = []
    for place in sorted(found, key=lambda place: (results.labels.index(place[0]), place[1:])):
        seeds = found[place]
        mean, interval = mean_interval([seed["score"] for seed in seeds])
        means = [float(np.mean([seed[name] for seed in seeds])) for name in _MEANS]
        rows.append((*place, len(seeds), *means, mean, *(interval or (np.nan, np.nan))))
    return pd.DataFrame(rows, columns=list(_CURVE)).set_index(["method", "task", "step"])


def _with_curve(results: "Results") -> list[ScoreRecord]:
    found = [record for record in results.score_records if record.status == "ok" and record.curve]
    check_one_setting(found)
    return found


def _spent(record: ScoreRecord, point: CurvePoint, work: Mapping[str, Work]) -> dict[str, float]:
    """Steps, training seconds and FLOPs of forward and backward up to a point."""
    passes = point.step * int(record.recipe.get("gradient_accumulation") or 1)
    known = work.get(record.method.label)
    flops = known.flops(point, passes) if known else float("nan")
    return {"step": float(point.step), "seconds": point.seconds, "flops": flops}


class Reached(NamedTuple):
    """What each method spent until its score first came near the baseline's."""

    cells: pd.DataFrame
    """One row per (method, task, seed) with a curve: ``target`` (`NEAR` times the baseline's mean final score of the
    task, points), ``final`` score, and ``step seconds flops`` at the first point of the curve that reaches the target;
    NaN where none does."""
    table: pd.DataFrame
    """One row per (method, task): ``target``, ``reached`` of ``seeds``, the medians ``step seconds flops`` over all
    seeds, NaN where half of them or more never came there, ``peak_bytes`` of a training step from the method's probe,
    and ``why`` it carries no verdict."""


def reached(results: "Results") -> Reached:
    """Look up, for each method, task and seed, the first point of the curve near the baseline's final score.

    A curve is read at a few points alone: each figure is the most that was needed, up to one share of the steps less.

    Raises:
        BenchError: Scores or costs cannot stand in one table.
    """
    baseline, records = results.baseline, _with_curve(results)
    by_task: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in results.score_records:
        if record.status == "ok" and record.method.label == baseline:
            by_task[record.task_name].append(record)
    targets = {task: _target(found) for task, found in by_task.items()}
    work = results.training_flops
    cells = pd.DataFrame([_cell(r, targets.get(r.task_name, np.nan), work) for r in records], columns=list(_REACHED))
    peaks = results.method_cost("peak_step_bytes")
    rows: list[dict[str, Any]] = []
    groups = {place: group for place, group in cells.groupby(["method", "task"], sort=False)}
    for label, task in sorted(groups, key=lambda place: results.labels.index(place[0])):
        group = groups[label, task]
        mine = [r for r in records if (r.method.label, r.task_name) == (label, task)]
        row = {"method": label, "task": task, "target": group["target"].iloc[0], "seeds": len(group)}
        row |= {"reached": int(group["step"].notna().sum())}
        row |= {name: _median(group, name) for name in SPENT}
        rows.append(row | {"peak_bytes": peaks.get(label, np.nan), "why": _why(label, task, mine, by_task, baseline)})
    names = ["method", "task", "target", "seeds", "reached", *SPENT, "peak_bytes", "why"]
    return Reached(cells, pd.DataFrame(rows, columns=names).set_index(["method", "task"]))


def _target(baseline: Sequence[ScoreRecord]) -> float:
    """Points to reach; NaN where the baseline's mean is not above 0, as a correlation's may be."""
    mean = 100 * float(np.mean([record.score or 0.0 for record in baseline]))
    return NEAR * mean if mean > 0 else float("nan")


def _cell(record: ScoreRecord, target: float, work: Mapping[str, Work]) -> dict[str, Any]:
    row = {"method": record.method.label, "task": record.task_name, "seed": record.seed, "target": target}
    row |= {"final": 100 * (record.score or 0.0)} | dict.fromkeys(SPENT, float("nan"))
    first = next((point for point in record.curve if 100 * point.score >= target), None)
    return row | (_spent(record, first, work) if first is not None else {})


def _median(cells: pd.DataFrame, name: str) -> float:
    """Median over seeds; one that never came there took longer than any other."""
    spent = cells[name].to_numpy(dtype=float)
    if np.isnan(spent[cells["step"].notna()]).any():
        return float("nan")  # it was reached, and this figure of it is not known
    median = float(np.median(np.where(np.isnan(spent), np.inf, spent)))
    return median if np.isfinite(median) else float("nan")


def _why(
    label: str, task: str, mine: Sequence[ScoreRecord], by_task: Mapping[str, Sequence[ScoreRecord]], baseline: str
) -> tuple[str, ...]:
    why = doubts(mine, [(task, record.seed) for record in mine])
    if label != baseline:
        why += [f"{baseline} {doubt}" for doubt in training_doubts(by_task.get(task, ()))]
    return tuple(why)


_NORMS = ("method", "task", "part", "step", "n", "mean", "low", "high")
_STARTS = ("method", "task", "n", "loss", "apart")


def gradient_table(results: "Results") -> pd.DataFrame:
    """Gradient norms of the first steps, over seeds.

    Returns:
        One row per (method, task, part, step): ``n`` seeds, the ``mean`` norm, and the smallest and the largest of a
        seed, ``low high``. A mean of 0 is 0 in every seed.

    Raises:
        BenchError: The same task was read from different rows.
    """
    norms: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    done = [record for record in results.score_records if record.status == "ok" and record.gradient_norms]
    check_one_setting(done)
    for record in done:
        for part, found in record.gradient_norms.items():
            for step, norm in enumerate(found, start=1):
                norms[record.method.label, record.task_name, part, step].append(norm)
    places = {label: at for at, label in enumerate(results.labels)}
    firsts = {place[:3]: at for at, place in reversed(list(enumerate(norms)))}
    rows = [
        (*place, len(seeds), float(np.mean(seeds)), min(seeds), max(seeds))
        for place, seeds in sorted(
            norms.items(), key=lambda item: (places[item[0][0]], item[0][1], firsts[item[0][:3]], item[0][3])
        )
    ]
    return pd.DataFrame(rows, columns=list(_NORMS)).set_index(["method", "task", "part", "step"])


def start_table(results: "Results") -> pd.DataFrame:
    """Losses at step 0: of the first batch, before any update.

    Returns:
        One row per (method, task): ``n`` seeds, mean ``loss``, and ``apart``, the largest distance of a seed's loss
        from the baseline's of the same seed; NaN without a common seed. 0 is the same loss bit for bit.

    Raises:
        BenchError: The same task was read from different rows.
    """
    done = [record for record in results.score_records if record.status == "ok" and record.losses]
    check_one_setting(done)
    losses: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in done:
        losses[record.method.label, record.task_name][record.seed] = record.losses[0]
    rows = []
    for place in sorted(losses, key=lambda place: (results.labels.index(place[0]), place[1])):
        mine, theirs = losses[place], losses.get((results.baseline, place[1]), {})
        apart = [abs(mine[seed] - theirs[seed]) for seed in mine if seed in theirs]
        rows.append((*place, len(mine), float(np.mean(list(mine.values()))), max(apart, default=float("nan"))))
    return pd.DataFrame(rows, columns=list(_STARTS)).set_index(["method", "task"])


OF_RECORD = ("relative_norm", "stable_rank", "leading_share", "with_weight", "angle_to_weight")
"""Figures that a record holds."""
OF_FILES = ("with_baseline", "angle_to_baseline", "with_seed")
"""Figures that two cells' vectors give."""


def direction_table(results: "Results") -> pd.DataFrame:
    """How the updates of a run lie.

    Args:
        results: The run folder holds the vectors of each cell; without them what needs two cells is NaN.

    Returns:
        One row per (method, task, seed, map): the figures of the record; ``by_chance``, the overlap of two random
        subspaces; overlap with the baseline's update of the same seed and the smallest angle to it (degrees); overlap
        with the same method's update of the next seed. NaN where there is no such cell.

    Raises:
        BenchError: The same task was read from different rows, or a file of vectors is damaged.
    """
    done = [r for r in results.score_records if r.status == "ok" and r.directions]
    check_one_setting(done)
    vectors = {(r.method.label, r.task_name, r.seed): read_directions(results.folder, r) or {} for r in done}
    rows = []
    for record in done:
        place = (record.method.label, record.task_name, record.seed)
        full = vectors.get((results.baseline, *place[1:]), {})
        next_seed = _next(record.seed, place[:2], vectors)
        again = vectors[*place[:2], next_seed] if next_seed is not None else {}
        for name, found in record.directions.items():
            mine = vectors[place].get(name)
            rows.append({
                **dict(zip(("method", "task", "seed", "map"), (*place, name), strict=True)),
                **found.model_dump(), "by_chance": found.leading / found.outputs,
                "with_baseline": _overlap(mine, full.get(name)), "angle_to_baseline": _angle(mine, full.get(name)),
                "with_seed": _overlap(mine, again.get(name)),
            })  # fmt: skip
    names = ["method", "task", "seed", "map", "leading", "outputs", "by_chance", *OF_RECORD, *OF_FILES]
    table = pd.DataFrame(rows, columns=names)
    places = {label: at for at, label in enumerate(results.labels)}
    return table.sort_values("method", key=lambda labels: labels.map(places), kind="stable", ignore_index=True)


_VECTORS = ("method", "task", "seed", "place", "start_norm", "norm", "moved", "start_nearest", "nearest", "start_word",
            "word", "words", "kept", "of_words", "word_low", "word_norm", "word_high", "word_distance", "word_nearest",
            "random_nearest")  # fmt: skip


def vector_table(results: "Results") -> pd.DataFrame:
    """What prompts learned among the word embeddings.

    Returns:
        One row per (method, task, seed, vector): L2 norms before and after training and the distance ``moved``; cosines
        to the nearest word before and after, ``start_nearest nearest``, these words and all the noted ``words``;
        ``kept``, whether the nearest word is the same; and of the vocabulary: its size ``of_words``, quantiles 0.05,
        0.5 and 0.95 of its norms, and the yardsticks of `bench.schema.record.InputVectors`.

    Raises:
        BenchError: The same task was read from different rows.
    """
    done = [r for r in results.score_records if r.status == "ok" and r.input_vectors is not None]
    check_one_setting(done)
    rows = []
    for record in done:
        found = record.input_vectors
        assert found is not None
        low, _, middle, _, high = found.word_norms
        of_words = (found.words, low, middle, high, found.word_distance, found.word_nearest, found.random_nearest)
        for at, vector in enumerate(found.vectors):
            before, after = vector.start_nearest[0], vector.nearest[0]
            rows.append((
                record.method.label, record.task_name, record.seed, at, vector.start_norm, vector.norm, vector.moved,
                before.cosine, after.cosine, before.token, after.token, tuple(near.token for near in vector.nearest),
                before.token == after.token, *of_words,
            ))  # fmt: skip
    table = pd.DataFrame(rows, columns=list(_VECTORS))
    places = {label: at for at, label in enumerate(results.labels)}
    return table.sort_values("method", key=lambda labels: labels.map(places), kind="stable", ignore_index=True)


def _next(seed: int, place: tuple[str, str], vectors: Mapping[tuple[str, str, int], object]) -> int | None:
    """The seed after ``seed`` among those of the same method and task, round and round; None where it is alone."""
    seeds = sorted(other for *own, other in vectors if tuple(own) == place)
    return seeds[(seeds.index(seed) + 1) % len(seeds)] if len(seeds) > 1 else None


def _overlap(mine: Vectors | None, other: Vectors | None) -> float:
    return float("nan") if mine is None or other is None else overlap(*_as_many(mine, other))


def _angle(mine: Vectors | None, other: Vectors | None) -> float:
    return float("nan") if mine is None or other is None else float(angles(*_as_many(mine, other))[0])


def _as_many(first: Vectors, second: Vectors) -> tuple[Vectors, Vectors]:
    """As many leading vectors of each: an update of low rank has few."""
    number = min(first.shape[1], second.shape[1])
    return first[:, :number], second[:, :number]


def read_directions(folder: Path, record: ScoreRecord) -> dict[str, Vectors] | None:
    """The vectors ``[out, leading]`` of a cell by map; None where the run folder has none of it.

    Raises:
        BenchError: The file is damaged or another cell's.
    """
    found = stored_directions(folder, record.id)
    if found is None:
        return None
    path, vectors = found
    if directions_sha256(vectors) != record.directions_sha256:
        raise BenchError(
            f"{path}: not the vectors of record {record.id[:12]} (another hash); restore or remove the file"
        )
    return vectors

"""Builds tables of what training did inside: gradients of the first steps, losses at the start, added directions."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.analysis.records import in_order
from bench.analysis.scores import check_one_content
from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.stats.subspaces import Vectors, angles, overlap
from bench.store.sidecars import directions_sha256
from bench.store.sidecars import read_directions as stored_directions

if TYPE_CHECKING:
    from bench.analysis.results import Results

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
    check_one_content(done)
    for record in done:
        for part, found in record.gradient_norms.items():
            for step, norm in enumerate(found, start=1):
                norms[record.method.label, record.task_name, part, step].append(norm)
    places = {label: at for at, label in enumerate(in_order((label for label, *_ in norms), results.labels))}
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
    check_one_content(done)
    losses: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in done:
        losses[record.method.label, record.task_name][record.seed] = record.losses[0]
    labels = in_order((label for label, _ in losses), results.labels)
    rows = []
    for place in sorted(losses, key=lambda place: (labels.index(place[0]), place[1])):
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
    check_one_content(done)
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
    places = {label: at for at, label in enumerate(in_order(table["method"], results.labels))}
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

"""Lifts the gradients of the first steps and the losses that trainings start from; knows nothing of scores."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bench.analysis.records import in_order, score_records
from bench.analysis.scores import check_one_content
from bench.schema.record import Record

_NORMS = ("method", "task", "part", "step", "n", "mean", "low", "high")
_STARTS = ("method", "task", "n", "loss", "apart")


def gradient_table(records: Iterable[Record], order: Sequence[str] = ()) -> pd.DataFrame:
    """Gradient norms of the first steps, over seeds.

    Args:
        records: Any records; scores with gradient norms are read.
        order: Labels in the order of the suite.

    Returns:
        One row per (method, task, part, step): ``n`` seeds, the ``mean`` norm, and the smallest and the largest of a
        seed, ``low high``. A mean of 0 is 0 in every seed.

    Raises:
        BenchError: The same task was read from different rows.
    """
    norms: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
    done = [record for record in score_records(records) if record.status == "ok" and record.gradient_norms]
    check_one_content(done)
    for record in done:
        for part, found in record.gradient_norms.items():
            for step, norm in enumerate(found, start=1):
                norms[record.method.label, record.task_name, part, step].append(norm)
    places = {label: at for at, label in enumerate(in_order((label for label, *_ in norms), order))}
    firsts = {place[:3]: at for at, place in reversed(list(enumerate(norms)))}
    rows = [
        (*place, len(seeds), float(np.mean(seeds)), min(seeds), max(seeds))
        for place, seeds in sorted(
            norms.items(), key=lambda item: (places[item[0][0]], item[0][1], firsts[item[0][:3]], item[0][3])
        )
    ]
    return pd.DataFrame(rows, columns=list(_NORMS)).set_index(["method", "task", "part", "step"])


def start_table(records: Iterable[Record], baseline: str, order: Sequence[str] = ()) -> pd.DataFrame:
    """Losses at step 0: of the first batch, before any update.

    Args:
        records: Any records; losses are read.
        baseline: Label whose losses the others are held against.
        order: Labels in the order of the suite.

    Returns:
        One row per (method, task): ``n`` seeds, mean ``loss``, and ``apart``, the largest distance of a seed's loss
        from the baseline's of the same seed; NaN without a common seed. 0 is the same loss bit for bit.

    Raises:
        BenchError: The same task was read from different rows.
    """
    done = [record for record in score_records(records) if record.status == "ok" and record.losses]
    check_one_content(done)
    losses: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in done:
        losses[record.method.label, record.task_name][record.seed] = record.losses[0]
    labels = in_order((label for label, _ in losses), order)
    rows = []
    for place in sorted(losses, key=lambda place: (labels.index(place[0]), place[1])):
        mine, theirs = losses[place], losses.get((baseline, place[1]), {})
        apart = [abs(mine[seed] - theirs[seed]) for seed in mine if seed in theirs]
        rows.append((*place, len(mine), float(np.mean(list(mine.values()))), max(apart, default=float("nan"))))
    return pd.DataFrame(rows, columns=list(_STARTS)).set_index(["method", "task"])

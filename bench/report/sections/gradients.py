"""Writes how the first gradients of each part went and what loss training started from; computes no figure."""

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run

TITLE = "Gradients of the first steps"
SHOWN = (1, 2, 5)
"""Steps of the table, beside the last one noted."""


def table(run: Run) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows; all empty where no record has gradient norms."""
    norms = compare.gradient_table(run.records, facts.labels(run))
    if norms.empty:
        return [], [], []
    baseline = fmt.plain(run.suite.baseline)
    starts = compare.start_table(run.records, run.suite.baseline, facts.labels(run))
    last = int(norms.index.get_level_values("step").max())
    steps = [step for step in SHOWN if step < last] + [last]
    sentences = [
        "Norm (L2) of the gradient of all parameters of a part together, before clipping; mean over n = "
        f"{fmt.plural(int(norms['n'].max()), 'seed')}. 0 is exactly 0, in every seed; the task head is left out.",
        "Loss at step 0: of the first batch, before any update and with the model's dropout; beside it the largest "
        f"distance of a seed's from that of {baseline}: 0 is the same loss bit for bit.",
        *_zeros(norms),
    ]
    head = ["method", "task", "part", *(f"step {step}" for step in steps), "loss at step 0", f"apart from {baseline}"]
    return sentences, head, [row for place in starts.index for row in _rows(place, norms, starts, steps, run)]


def _rows(
    place: tuple[str, str], norms: pd.DataFrame, starts: pd.DataFrame, steps: list[int], run: Run
) -> list[list[str]]:
    label, task = place
    start = starts.loc[place]
    apart = "baseline" if label == run.suite.baseline else fmt.three(start["apart"])
    ends = [fmt.loss(start["loss"]), apart]
    mine = norms["mean"].xs(place, level=["method", "task"]) if place in norms.index.droplevel([2, 3]) else None
    if mine is None:
        return [[label, task, fmt.MISSING, *[fmt.MISSING] * len(steps), *ends]]
    parts = mine.index.unique("part")
    return [[label, task, part, *(fmt.three(mine.get((part, step))) for step in steps), *ends] for part in parts]


def _zeros(norms: pd.DataFrame) -> list[str]:
    """Which parts get no gradient at all, and which none at the first step alone."""
    never: dict[str, list[str]] = {}
    late: dict[str, list[str]] = {}
    for (label, part), found in norms.groupby(["method", "part"], sort=False):
        largest = found["high"].groupby("step").max()
        if not largest.any():
            never.setdefault(label, []).append(part)
        elif largest.iloc[0] == 0:
            late.setdefault(label, []).append(part)
    said = []
    if never:
        said.append(f"No gradient at any step: {_named(never)}.")
    if late:
        said.append(f"None at step 1 alone: {_named(late)}.")
    return said


def _named(found: dict[str, list[str]]) -> str:
    return "; ".join(f"{' and '.join(parts)} of {fmt.plain(label)}" for label, parts in found.items())

"""Draws scores by task and the loss on the way there; computes only means over seeds and a running mean."""

from typing import TYPE_CHECKING

import numpy as np

from bench.report import format as fmt
from bench.report.charts.canvas import (
    FAINT,
    INK,
    MEANING,
    ROW,
    Floats,
    Sheet,
    in_key,
    interval,
    key,
    line_handles,
    mark,
    mark_size,
    new_figure,
    room_for,
    rows,
)
from bench.report.charts.curve_sheet import ACROSS, NAMED, below_key, beside_curves, name_ends
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH = 10
"""The running mean spans one part in so many of the steps."""
FEWEST, MOST, POINTS = 10, 400, 1000
"""Points of a curve that are drawn at least and at most, and of all curves: more would only make the file large."""


def score_task(tables: Tables) -> "Figure | None":
    """The score of each method on each task, with its interval over seeds."""
    table = tables.per_task
    tasks = [task for task in tables.tasks if task in table.index.get_level_values("task")]
    if not tasks:
        return None
    names = [label for label in tables.labels if label in table.index.get_level_values("method")]
    caption = (
        f"Main metric x 100 of each task, n = {fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed). "
        f"{MEANING} over seeds (Student t), cut at 100. Solid line: mean of {tables.name}. Dashed line: bag of words "
        "on the same rows, which needs no language model."
    )
    across = min(ACROSS, len(tasks))
    sheet = Sheet(
        ROW * len(names), room_for(tables.looks, names), widths=(1.0,) * across, panels=len(tasks), above=0.3, gap=0.3
    )
    figure, panels = new_figure(tables.words("Score per task", caption, "scored"), sheet)
    for at, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        y = rows(axes, tables.looks, names, named=at % across == 0)
        part = table.xs(task, level="task")
        for height, name in zip(y, names, strict=True):
            if name in part.index:
                row, look = part.loc[name], tables.looks[name]
                interval(axes, height, row["low"], row["high"], look)
                mark(axes, row["mean"], height, look)
        if tables.baseline in part.index:
            axes.axvline(part.loc[tables.baseline, "mean"], color=FAINT, linewidth=0.8, zorder=1)
        axes.axvline(part["floor"].max(), color=FAINT, linewidth=1, linestyle="--", zorder=1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, min(right, 101))
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("score (points of 100)")
    return figure


def training_loss(tables: Tables) -> "Figure | None":
    """The loss of each method over the steps, mean over seeds."""
    curves = _curves(tables)
    if not curves:
        return None
    once = not any(record.curve for record in tables.score_records)
    caption = (
        f"Training loss of each step, mean over n = {fmt.plural(tables.seeds, 'seed')} (fewer where cells failed) and "
        f"over the {SMOOTH} % of the steps before it; no interval. It is the loss of the rows that were trained on, "
        f"not a score{': scores are taken once, after the last step' if once else ''}."
    )
    shown = [label for label in tables.labels if any(label in found for found in curves.values())]
    points = int(np.clip(POINTS / sum(map(len, curves.values())), FEWEST, MOST))
    beside = len(curves) <= NAMED
    sheet = beside_curves(tables, shown, len(curves)) if beside else below_key(tables, shown, len(curves))
    title = f"Training loss over the steps{' (no curve of scores was recorded)' if once else ''}"
    figure, panels = new_figure(tables.words(title, caption, "scored"), sheet)
    for axes, (task, found) in zip(panels, curves.items(), strict=True):
        _lines(axes, tables, found, points)
        if beside:
            name_ends(axes, tables, {label: losses[-1] for label, losses in found.items()})
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("step")
    for axes in panels[:: len(sheet.widths)]:
        axes.set_ylabel("training loss")
    if not beside:
        key(figure, line_handles(tables.looks, shown), sheet, in_key(tables.looks, shown))
    return figure


def _curves(tables: Tables) -> dict[str, dict[str, Floats]]:
    """By task and label the mean over seeds of the loss, smoothed; a curve of one step is none."""
    found: dict[str, dict[str, list[Floats]]] = {}
    for record in tables.score_records:
        if len(record.losses) > 1:
            seeds = found.setdefault(record.task_name, {}).setdefault(record.method.label, [])
            seeds.append(np.array(record.losses))
    return {
        task: {label: _smooth(_mean(found[task][label])) for label in tables.labels if label in found[task]}
        for task in tables.tasks
        if task in found
    }


def _mean(seeds: list[Floats]) -> Floats:
    steps = min(map(len, seeds))
    return np.asarray(np.mean([losses[:steps] for losses in seeds], axis=0))


def _smooth(losses: Floats) -> Floats:
    """The mean of each value and those before it."""
    span = max(1, len(losses) // SMOOTH)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - span)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def _lines(axes: "Axes", tables: Tables, curves: dict[str, Floats], points: int) -> None:
    last = max(map(len, curves.values()))
    for label, losses in curves.items():
        look = tables.looks[label]
        steps = np.unique(np.linspace(0, len(losses) - 1, min(len(losses), points)).astype(int))
        axes.plot(
            steps + 1, losses[steps], color=look.colour, linewidth=1.3, zorder=3 + (label == tables.baseline),
            marker=look.marker, markersize=mark_size(look, 6), markevery=[len(steps) - 1],
            markeredgecolor="white", markeredgewidth=0.5, clip_on=False,
        )  # fmt: skip
    axes.set_xlim(1, last)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))

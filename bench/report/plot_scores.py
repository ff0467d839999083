"""Draws scores by task and the loss on the way there; computes only means over seeds and a running mean."""

from typing import TYPE_CHECKING

import numpy as np

from bench.report import format as fmt
from bench.report.canvas import (
    FAINT,
    INK,
    MEANING,
    ROW,
    WIDTH,
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
from bench.report.plot_tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""
SMOOTH = 10
"""The running mean spans one part in so many of the steps."""
NAMED = 2
"""Panels up to which each names its own curves."""
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
    """The loss of each method over the steps, mean over seeds; the records hold no score before the last step."""
    curves = _curves(tables)
    if not curves:
        return None
    caption = (
        f"Training loss of each step, mean over n = {fmt.plural(tables.seeds, 'seed')} (fewer where cells failed) and "
        f"over the {SMOOTH} % of the steps before it; no interval. It is the loss of the rows that were trained on, "
        "not a score: scores are taken once, after the last step."
    )
    shown = [label for label in tables.labels if any(label in found for found in curves.values())]
    points = int(np.clip(POINTS / sum(map(len, curves.values())), FEWEST, MOST))
    beside = len(curves) <= NAMED
    sheet = _beside(tables, shown, len(curves)) if beside else _below_key(tables, shown, len(curves))
    title = "Training loss over the steps (no curve of scores was recorded)"
    figure, panels = new_figure(tables.words(title, caption, "scored"), sheet)
    for axes, (task, found) in zip(panels, curves.items(), strict=True):
        _lines(axes, tables, found, points)
        if beside:
            _name_ends(axes, tables, found)
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("step")
    for axes in panels[:: len(sheet.widths)]:
        axes.set_ylabel("training loss")
    if not beside:
        key(figure, line_handles(tables.looks, shown), sheet, in_key(tables.looks, shown))
    return figure


def _beside(tables: Tables, shown: list[str], panels: int) -> Sheet:
    """Few panels, with room for names right of each."""
    room = max(room_for(tables.looks, shown) - 0.1, 1.0)
    height = max(3.2, 0.2 * len(shown))
    return Sheet(height, left=0.6, right=room, widths=(1.0,) * panels, above=0.3, gap=room + 0.4)


def _below_key(tables: Tables, shown: list[str], panels: int) -> Sheet:
    """Many panels, with one key above all."""
    deep = -(-len(shown) // in_key(tables.looks, shown))
    return Sheet(2.0, left=0.6, widths=(1.0,) * ACROSS, panels=panels, above=0.3, gap=0.45, keys=deep)


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


def _name_ends(axes: "Axes", tables: Tables, curves: dict[str, Floats]) -> None:
    """Write each method's name right of its curve's end, moved apart where ends are close."""
    from matplotlib.collections import LineCollection

    bottom, top = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    order = sorted(curves, key=lambda label: curves[label][-1])
    wanted = [(curves[label][-1] - bottom) / (top - bottom) for label in order]
    places = _apart(wanted, 0.155 / inches)
    inch = 1 / (WIDTH * axes.get_position().width)
    leaders = [((1 + 0.06 * inch, at), (1 + 0.19 * inch, place)) for at, place in zip(wanted, places, strict=True)]
    axes.add_collection(
        LineCollection(leaders, colors="#bbbbbb", linewidths=0.6, transform=axes.transAxes, clip_on=False)
    )
    for label, place in zip(order, places, strict=True):
        text = tables.looks[label].text
        axes.text(1 + 0.22 * inch, place, text, transform=axes.transAxes, va="center", fontsize=8, color=INK)


def _apart(wanted: list[float], least: float) -> list[float]:
    """Rising places near the rising ``wanted`` ones, each at least ``least`` above the one before.

    Crowded ones form a block around the mean of where they would stand (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # (mean of place - rank within the run of blocks, count)
    for rank, place in enumerate(wanted):
        start, count = place - rank * least, 1
        while blocks and blocks[-1][0] > start:
            before, many = blocks.pop()
            start, count = (start * count + before * many) / (count + many), count + many
        blocks.append((start, count))
    flat = [start for start, count in blocks for _ in range(count)]
    return [start + rank * least for rank, start in enumerate(flat)]

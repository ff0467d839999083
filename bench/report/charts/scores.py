"""Scores by task, and against a cost with the Pareto front and a name at each point."""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import (
    ACROSS,
    FAINT,
    INK,
    MEANING,
    Floats,
    Layout,
    depth,
    interval,
    mark,
    new_figure,
    room_for,
    rows,
)
from bench.report.charts.labels import boxes, place
from bench.report.charts.sheet import Sheet
from bench.report.sections import overview as facts
from bench.stats.intervals import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = 100.0
"""Points that no score exceeds."""


class Cost(NamedTuple):
    """What scores are held against."""

    column: str
    """Of `bench.analysis.cost_table`."""
    name: str
    axis: str
    """What stands below the axis, its unit with it."""
    note: str
    """What the caption says of it."""
    badges: tuple[str, ...]
    unit: float = 1.0
    log: bool = False
    letter: str = ""
    """Unit beside the numbers of a logarithmic axis."""


COSTS = {
    "score-parameters": Cost(
        "trainable_method", "trainable parameters", "trainable params (excl. head), log scale{zero}",
        "Parameters: those that get a gradient, without the head's.", ("scored", "counted"), log=True,
    ),
    "score-memory": Cost(
        "peak_step_bytes", "peak memory", "peak memory of one training step (MB)",
        "Memory: largest allocation within one training step.", ("scored",), unit=1e6,
    ),
    "score-time": Cost(
        "step_seconds", "time of a training step", "time of one training step (ms)",
        "Time: median over the step's interleaved blocks.", ("scored", "timed"), unit=1e-3,
    ),
    "score-stored": Cost(
        "delta_bytes", "bytes stored per task", "bytes stored per task (excl. head), log scale{zero}",
        "Stored: what inference needs beside the backbone and the head.", ("scored", "counted"), log=True, letter="B",
    ),
}  # fmt: skip
"""By figure."""


def score_against(sheet: Sheet, name: str) -> "Figure | None":
    """Draw the mean score of each method against the cost of the figure ``name``.

    Returns:
        None where no method has both.
    """
    cost = _as_measured(sheet, COSTS[name])
    scores = sheet.results.score_table
    table = pd.DataFrame(
        {"cost": sheet.results.method_cost(cost.column) / cost.unit, "mean": scores["mean"], "low": scores["mean_low"],
         "high": scores["mean_high"]}
    ).dropna(subset=["cost", "mean"])  # fmt: skip
    if table.empty:
        return None
    table = table.loc[[label for label in sheet.labels if label in table.index]]
    shape = "" if cost.log else None  # what is trained and stored does not depend on it
    words = sheet.words(f"Score against {cost.name}", _caption(sheet, cost), *cost.badges, shape=shape)
    figure, (axes,) = new_figure(words, Layout(4.6, left=0.62))
    x = table["cost"].to_numpy()
    if cost.log:
        x, zero = _log_with_zero(axes, x, cost.letter)
        axes.set_xlabel(cost.axis.format(zero="; 0 left of the break" if zero else ""))
    else:
        axes.set_xlabel(cost.axis)
        axes.set_xlim(0, x.max() * 1.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("mean score (points of 100)")
    _points(axes, sheet, table, x)
    return figure


def _as_measured(sheet: Sheet, cost: Cost) -> Cost:
    """Memory says whether a GPU measured it."""
    if cost.column != "peak_step_bytes":
        return cost
    name = facts.memory_name(sheet.costs)
    badge = "measured" if sheet.peak_source == "cuda_allocated" else "counted"
    return cost._replace(name=name, axis=f"{name} of one training step (MB)", badges=("scored", badge))


def _caption(sheet: Sheet, cost: Cost) -> str:
    return (
        f"Score: mean of the main metric x 100 over {', '.join(map(fmt.plain, sheet.tasks))}; "
        f"n = {fmt.plural(sheet.seeds, 'seed')}. {MEANING} over seeds (Student t), none below 2 seeds, cut at 100. "
        f"{cost.note} Line: Pareto front of the means; a method on it has none that is both cheaper and better. "
        "Ringed: the baseline."
    )


def _points(axes: "Axes", sheet: Sheet, table: pd.DataFrame, x: Floats) -> None:
    front = pareto_front(np.column_stack([x, table["mean"]]))
    corners = sorted(zip(x[front], table["mean"][front], strict=True))
    axes.step(*zip(*corners, strict=True), where="post", color="#c4c4c4", linewidth=1.6, zorder=1)
    bars = []
    for label, at, row in zip(table.index, x, table.itertuples(), strict=True):
        look = sheet.looks[label]
        if not np.isnan(row.low):
            bars.append(((at, row.low), (at, row.high)))
            axes.vlines(at, row.low, row.high, color=look.colour, alpha=0.45, linewidth=1.2, zorder=2)
        mark(axes, at, row.mean, look, 7.5, ring=True, clip_on=False)
    axes.margins(y=0.08)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, min(top, BEST))
    for (left, below), (right, above) in itertools.pairwise(corners):
        bars += [((left, below), (right, below)), ((right, below), (right, above))]
    points = list(zip(x, table["mean"], strict=True))
    place(axes, points, [sheet.looks[label] for label in table.index], boxes(axes, bars))


def _log_with_zero(axes: "Axes", x: Floats, letter: str) -> tuple[Floats, bool]:
    """Set a log axis; zeros move left of a visible break, where a tick says 0.

    Returns:
        ``x`` with zeros replaced by the place that stands for them, and whether there are any.
    """
    positive = x[x > 0]
    if not positive.size:
        axes.set_xticks([0], ["0"])
        return x, False
    axes.set_xscale("log")
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()) + 0.15)
    right = positive.max() * 10**0.45
    ticks = [tick for power in np.arange(low, high + 1) if (tick := 10.0**power) <= right]
    names = [_tick(tick, letter) for tick in ticks]
    axes.minorticks_off()
    axes.set_xlim(10 ** (low - 0.15), right)
    zero = positive.size < x.size
    if zero:
        nothing, gap = 10 ** (low - 1), 10 ** (low - 0.5)
        ticks, names = [nothing, *ticks], ["0", *names]
        axes.set_xlim(10 ** (low - 1.6), right)
        axes.axvspan(10 ** (low - 0.55), 10 ** (low - 0.45), color="white", zorder=3)
        axes.plot(gap, 0, marker=[(-1, -2), (1, 2)], transform=axes.get_xaxis_transform(), color="#666666",
                  markersize=9, clip_on=False, zorder=7)  # fmt: skip
        x = np.where(x > 0, x, nothing)
    axes.set_xticks(ticks, names)
    return x, zero


def _tick(value: float, letter: str) -> str:
    return (fmt.size(value) if letter else fmt.count(value)).replace(".0", "")


def score_task(sheet: Sheet) -> "Figure | None":
    """The score of each method on each task, with its interval over seeds."""
    table = sheet.results.task_table
    tasks = [task for task in sheet.tasks if task in table.index.get_level_values("task")]
    if not tasks:
        return None
    names = [label for label in sheet.labels if label in table.index.get_level_values("method")]
    caption = (
        f"Main metric x 100 of each task, n = {fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed). "
        f"{MEANING} over seeds (Student t), cut at 100. Solid line: mean of {sheet.name}. Dashed line: bag-of-words "
        "baseline on the same rows, which needs no language model."
    )
    across = min(ACROSS, len(tasks))
    layout = Layout(
        depth(sheet.looks, names), room_for(sheet.looks, names), widths=(1.0,) * across, panels=len(tasks), above=0.3,
        gap=0.3,
    )  # fmt: skip
    figure, panels = new_figure(sheet.words("Score per task", caption, "scored"), layout)
    for at, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        y = rows(axes, sheet.looks, names, named=at % across == 0)
        part = table.xs(task, level="task")
        for height, name in zip(y, names, strict=True):
            if name in part.index:
                row, look = part.loc[name], sheet.looks[name]
                interval(axes, height, row["low"], row["high"], look)
                mark(axes, row["mean"], height, look, clip_on=False)
        if sheet.baseline in part.index:
            axes.axvline(part.loc[sheet.baseline, "mean"], color=FAINT, linewidth=0.8, zorder=1)
        axes.axvline(part["floor"].max(), color=FAINT, linewidth=1, linestyle="--", zorder=1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, min(right, BEST))
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("score (points of 100)")
    return figure

"""Draws score against a cost, with the Pareto front and a label at each point; computes neither."""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import MEANING, Floats, Sheet, mark, new_figure
from bench.report.charts.labels import Box, place
from bench.report.charts.tables import Tables
from bench.report.sections import overview as facts
from bench.stats.intervals import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Cost(NamedTuple):
    """What scores are held against."""

    column: str
    """Of `bench.analysis.cost_table`."""
    name: str
    axis: str
    """What stands below the axis, its unit with it."""
    note: str
    """What the caption says of it."""
    tags: tuple[str, ...]
    unit: float = 1.0
    log: bool = False
    letter: str = ""
    """Unit beside the numbers of a logarithmic axis."""


COSTS = {
    "score-parameters": Cost(
        "trainable_method", "trainable parameters", "trainable parameters, head left out (log scale{zero})",
        "Parameters: that need a gradient, head left out.", ("scored", "counted"), log=True,
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
        "delta_bytes", "bytes stored per task", "bytes stored per task, head left out (log scale{zero})",
        "Stored: what inference needs beside the backbone and the head.", ("scored", "counted"), log=True, letter="B",
    ),
}  # fmt: skip
"""By figure."""


def score_against(tables: Tables, name: str) -> "Figure | None":
    """Draw the mean score of each method against the cost of the figure ``name``.

    Returns:
        None where no method has both.
    """
    cost = _as_measured(tables, COSTS[name])
    value = tables.cost(cost.column)
    scores = tables.scores
    table = pd.DataFrame(
        {"cost": value / cost.unit, "mean": scores["mean"], "low": scores["mean_low"], "high": scores["mean_high"]}
    ).dropna(subset=["cost", "mean"])
    if table.empty:
        return None
    table = table.loc[[label for label in tables.labels if label in table.index]]
    shape = "" if cost.log else None  # what is trained and stored does not depend on it
    words = tables.words(f"Score against {cost.name}", _caption(tables, cost), *cost.tags, shape=shape)
    figure, (axes,) = new_figure(words, Sheet(4.6, left=0.62))
    x = table["cost"].to_numpy()
    if cost.log:
        x, zero = _log_with_zero(axes, x, cost.letter)
        axes.set_xlabel(cost.axis.format(zero="; 0 left of the break" if zero else ""))
    else:
        axes.set_xlabel(cost.axis)
        axes.set_xlim(0, x.max() * 1.12)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylabel("mean score (points of 100)")
    _points(axes, tables, table, x)
    return figure


def _as_measured(tables: Tables, cost: Cost) -> Cost:
    """Memory says whether a GPU measured it."""
    if cost.column != "peak_step_bytes":
        return cost
    name = facts.memory_name(tables.costs)
    tag = "measured" if tables.peak_source == "cuda_allocated" else "counted"
    return cost._replace(name=name, axis=f"{name} of one training step (MB)", tags=("scored", tag))


def _caption(tables: Tables, cost: Cost) -> str:
    return (
        f"Score: mean of the main metric x 100 over {', '.join(map(fmt.plain, tables.tasks))}; "
        f"n = {fmt.plural(tables.seeds, 'seed')}. {MEANING} over seeds (Student t), none below 2 seeds, cut at 100. "
        f"{cost.note} Line: Pareto front of the means; a method on it has none that is both cheaper and better."
    )


def _points(axes: "Axes", tables: Tables, table: pd.DataFrame, x: Floats) -> None:
    front = pareto_front(np.column_stack([x, table["mean"]]))
    corners = sorted(zip(x[front], table["mean"][front], strict=True))
    axes.step(*zip(*corners, strict=True), where="post", color="#c4c4c4", linewidth=1.6, zorder=1)
    for label, at, row in zip(table.index, x, table.itertuples(), strict=True):
        look = tables.looks[label]
        if not np.isnan(row.low):
            axes.vlines(at, row.low, row.high, color=look.colour, alpha=0.45, linewidth=1.2, zorder=2)
        mark(axes, at, row.mean, look, 7.5)
    axes.margins(y=0.08)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, min(top, 101))
    points = list(zip(x, table["mean"], strict=True))
    place(axes, points, [tables.looks[label].text for label in table.index], _lines(axes, x, table, corners))


def _lines(axes: "Axes", x: Floats, table: pd.DataFrame, corners: list[tuple[float, float]]) -> list[Box]:
    """Boxes of the error bars and of the Pareto front in pixels: no label may cover them."""
    bars = [
        ((at, low), (at, high))
        for at, low, high in zip(x, table["low"], table["high"], strict=True)
        if not np.isnan(low)
    ]
    for (left, below), (right, above) in itertools.pairwise(corners):
        bars += [((left, below), (right, below)), ((right, below), (right, above))]
    boxes = []
    for ends in bars:
        (left, bottom), (right, top) = axes.transData.transform(ends)
        boxes.append(Box(left - 2, bottom - 2, right + 2, top + 2))
    return boxes


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

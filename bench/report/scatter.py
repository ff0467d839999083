"""Draws score against a cost, with the Pareto front and a label at each point; computes neither."""

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench import compare
from bench.report import facts
from bench.report import format as fmt
from bench.report.canvas import MEANING, Floats, freeze, new_figure, run_looks, titled, where
from bench.report.labels import Box, place
from bench.stats import pareto_front
from bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _score_caption(run: Run) -> str:
    return (
        f"Score: mean of the main metric x 100 over {', '.join(map(fmt.plain, facts.tasks(run)))}; "
        f"n = {fmt.plural(len(facts.seeds(run)), 'seed')}. {MEANING} over seeds (Student t), none below 2 seeds."
    )


def score_against(run: Run, cost: str) -> "Figure | None":
    """Draw the mean score of each method against ``cost``, a column of `bench.compare.cost_table`.

    Returns:
        None where no method has both figures.
    """
    scores = compare.score_table(run.records, run.suite["baseline"], facts.labels(run))
    costs = compare.cost_table(run.records, facts.labels(run))
    value = compare.method_cost(run, facts.labels(run), cost)
    table = pd.DataFrame(
        {"cost": value, "mean": scores["mean"], "low": scores["mean_low"], "high": scores["mean_high"]}
    )
    table = table.dropna(subset=["cost", "mean"])
    if table.empty:
        return None
    memory = cost == "peak_step_bytes"
    source = next((s for s in costs["peak_memory_source"] if isinstance(s, str)), None)
    name = facts.peak_name(source) if memory else "trainable parameters"
    extra = f" Memory: largest allocation within one training step, {where(run)}." if memory else " Head left out."
    caption = f"{_score_caption(run)}{extra} Line: Pareto front of the means; no method is both cheaper and better."
    figure, (axes,) = new_figure(titled(run, f"score against {name}", scores=True), caption, 5.4)
    x = table["cost"].to_numpy() / (1e6 if memory else 1)
    if memory:
        axes.set_xlabel(f"{name} of one training step (MB)")
        axes.set_xlim(0, x.max() * 1.12)
    else:
        axes.set_xlabel("trainable parameters of the method, head left out (log scale; 0 left of the break)")
        x = _log_with_zero(axes, x)
    axes.set_ylabel("mean score (points of 100)")
    axes.margins(y=0.12)
    front = pareto_front(np.column_stack([x, table["mean"]]))
    corners = sorted(zip(x[front], table["mean"][front], strict=True))
    axes.step(*zip(*corners, strict=True), where="post", color="#bbbbbb", linewidth=1.4, zorder=1)
    style = run_looks(run)
    for label, at, row in zip(table.index, x, table.itertuples(), strict=True):
        look = style[label]
        if not np.isnan(row.low):
            axes.vlines(at, row.low, row.high, color=look.colour, alpha=0.4, linewidth=1.2, zorder=2)
        axes.plot(at, row.mean, look.marker, color=look.colour, markersize=11 if look.marker == "*" else 7,
                  markeredgecolor="white", markeredgewidth=0.6, zorder=4)  # fmt: skip
    freeze(figure)
    points = list(zip(x, table["mean"], strict=True))
    place(axes, points, [style[label].text for label in table.index], _lines(axes, x, table, corners))
    return figure


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


def _log_with_zero(axes: "Axes", x: Floats) -> Floats:
    """Set a log axis; zeros move left of a visible break, where a tick says 0.

    Returns:
        ``x`` with zeros replaced by the place that stands for them.
    """
    positive = x[x > 0]
    if not positive.size:
        axes.set_xticks([0], ["0"])
        return x
    axes.set_xscale("log")
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()) + 0.15)
    ticks = [10.0**power for power in np.arange(low, high + 1)]
    names = [fmt.count(tick).replace(".0", "") for tick in ticks]
    axes.minorticks_off()
    axes.set_xlim(10 ** (low - 0.15), 10**high)
    if positive.size < x.size:
        zero, gap = 10 ** (low - 1), 10 ** (low - 0.5)
        ticks, names = [zero, *ticks], ["0", *names]
        axes.set_xlim(10 ** (low - 1.6), 10**high)
        axes.axvspan(10 ** (low - 0.55), 10 ** (low - 0.45), color="white", zorder=3)
        axes.plot(gap, 0, marker=[(-1, -2), (1, 2)], transform=axes.get_xaxis_transform(), color="#666666",
                  markersize=9, clip_on=False, zorder=7)  # fmt: skip
        x = np.where(x > 0, x, zero)
    axes.set_xticks(ticks, names)
    return x

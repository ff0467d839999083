"""Draws the norm of each part's gradient over the first steps, exact zeros where they can be seen."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import INK, QUIET_INK, Floats, Sheet, in_key, key, line_handles, mark_size, new_figure
from bench.report.charts.curve_sheet import ACROSS
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = 24
"""Steps up to which every one has its mark."""
DECADES = 8
"""Powers of ten up to which every one has its number."""


def gradient_norms(tables: Tables) -> "Figure | None":
    """Draw the gradient norms of each method over the first steps, the mean over seeds, a panel a part and task.

    Returns:
        None where no record has any.
    """
    table = tables.gradients.reset_index()
    if table.empty:
        return None
    tasks = [task for task in tables.tasks if task in set(table["task"])]
    panels = [(task, part) for task in tasks for part in table.loc[table["task"] == task, "part"].unique()]
    shown = [label for label in tables.labels if label in set(table["method"])]
    across = min(ACROSS, len(panels))
    keys = -(-len(shown) // in_key(tables.looks, shown))
    sheet = Sheet(2.7, left=0.82, widths=(1.0,) * across, panels=len(panels), above=0.3, gap=0.62, keys=keys)
    words = tables.words("Gradients of the first steps", _caption(table), "scored", shape="")
    figure, drawn = new_figure(words, sheet)
    scale = _Scale(table["mean"].to_numpy(dtype=float))
    for axes, (task, part) in zip(drawn, panels, strict=True):
        found = table[(table["task"] == task) & (table["part"] == part)]
        _lines(axes, tables, found, scale)
        scale.dress(axes)
        _name_zeros(axes, tables, found, scale)
        axes.set_title(f"part {fmt.plain(part)}" + (f", {fmt.plain(task)}" if len(tasks) > 1 else ""), color=INK)
        axes.set_xlabel("optimizer step")
    for axes in drawn[::across]:
        axes.set_ylabel("gradient norm (log scale)")
    key(figure, line_handles(tables.looks, shown), sheet, in_key(tables.looks, shown))
    return figure


def _caption(table: pd.DataFrame) -> str:
    zero = " Below the break: exactly 0, in every seed." if (table["mean"] == 0).any() else ""
    return (
        "Norm (L2) of the gradient of all parameters of a part together, before clipping, at each of the first "
        f"{fmt.plural(int(table['step'].max()), 'optimizer step')}; mean over n = "
        f"{fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed), no interval.{zero} Rates warm up "
        "meanwhile where the recipe says so. The task head is left out."
    )


def _lines(axes: "Axes", tables: Tables, found: pd.DataFrame, scale: "_Scale") -> None:
    from matplotlib.ticker import MaxNLocator

    last = int(found["step"].max())
    for label in [label for label in tables.labels if label in set(found["method"])]:
        mine, look = found[found["method"] == label], tables.looks[label]
        axes.plot(
            mine["step"], scale.place(mine["mean"].to_numpy(dtype=float)), color=look.colour, linewidth=1.3,
            marker=look.marker, markersize=mark_size(look, 4), markeredgecolor="white", markeredgewidth=0.5,
            markevery=max(1, last // MARKS), zorder=3 + (label == tables.baseline), clip_on=False,
        )  # fmt: skip
    axes.set_xlim(1, max(last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _name_zeros(axes: "Axes", tables: Tables, found: pd.DataFrame, scale: "_Scale") -> None:
    """Write beside the line of a method that gets no gradient at all that it is meant so."""
    never = [label for label in tables.labels if label in set(found.loc[found["mean"] == 0, "method"])]
    never = [label for label in never if not found.loc[found["method"] == label, "mean"].any()]
    if never:
        names = ", ".join(tables.looks[label].text for label in never)
        axes.text(
            0.99, scale.above_zero, f"no gradient at any step: {names}", transform=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=7.5, style="italic", color=QUIET_INK, zorder=6,
        )  # fmt: skip


class _Scale:
    """A log axis for norms, with a place for exact zeros below a visible break."""

    def __init__(self, norms: Floats) -> None:
        positive = norms[norms > 0]
        self._zero = bool((norms == 0).any())
        smallest, largest = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
        self._low, self._high = np.floor(np.log10(smallest)), np.log10(largest) + 0.15
        self._step = 1 + int(self._high - self._low) // DECADES
        """Decades from one number of the axis to the next; zero lies as far below the lowest."""
        self.above_zero = 10.0 ** (self._low - 0.72 * self._step)
        """Just above the place of zero."""

    def place(self, norms: Floats) -> Floats:
        """``norms`` with zeros replaced by the place that stands for them."""
        return np.where(norms > 0, norms, 10.0 ** (self._low - self._step))

    def dress(self, axes: "Axes") -> None:
        """Set scale, limits and numbers; where there are zeros also their number and the break above them."""
        axes.set_yscale("log")
        powers = np.arange(self._low, self._high + 0.01, self._step)
        ticks, names = [10.0**power for power in powers], [f"{10.0**power:g}" for power in powers]
        bottom = self._low - 0.1 * self._step
        if self._zero:
            ticks, names = [float(self.place(np.zeros(1))[0]), *ticks], ["0", *names]
            bottom = self._low - 1.25 * self._step
            low, high = (10.0 ** (self._low - share * self._step) for share in (0.48, 0.42))
            axes.axhspan(low, high, color="white", zorder=4.5)
            axes.plot(0, 10.0 ** (self._low - 0.45 * self._step), marker=[(-2, -1), (2, 1)], markersize=9, zorder=7,
                      transform=axes.get_yaxis_transform(), color="#666666", clip_on=False)  # fmt: skip
        axes.set_yticks(ticks, names)
        axes.minorticks_off()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_ylim(10.0**bottom, 10.0**self._high)

"""What happens inside training: gradient norms of the first steps, and directions of what training added."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import (
    ACROSS,
    FAINT,
    INK,
    QUIET_INK,
    Floats,
    Layout,
    depth,
    key,
    key_rows,
    line,
    line_handle,
    mark,
    new_figure,
    room_for,
    rows,
)
from bench.report.charts.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = 24
"""Steps up to which every one has its mark."""
DECADES = 8
"""Powers of ten up to which every one has its number."""


def gradient_norms(sheet: Sheet) -> "Figure | None":
    """Draw the gradient norms of each method over the first steps, the mean over seeds, a panel a part and task.

    Returns:
        None where no record has any.
    """
    table = sheet.results.gradient_table.reset_index()
    if table.empty:
        return None
    tasks = [task for task in sheet.tasks if task in set(table["task"])]
    panels = [(task, part) for task in tasks for part in table.loc[table["task"] == task, "part"].unique()]
    shown = [label for label in sheet.labels if label in set(table["method"])]
    across = min(ACROSS, len(panels))
    keys = key_rows([sheet.looks[label].text for label in shown])
    layout = Layout(2.7, left=0.82, widths=(1.0,) * across, panels=len(panels), above=0.3, gap=0.62, keys=keys)
    words = sheet.words("Gradients of the first steps", _norms_caption(table), "scored", shape="")
    figure, drawn = new_figure(words, layout)
    scale = _Scale(table["mean"].to_numpy(dtype=float))
    for axes, (task, part) in zip(drawn, panels, strict=True):
        own = table[(table["task"] == task) & (table["part"] == part)]
        _norms(axes, sheet, own, scale)
        scale.dress(axes)
        _name_zeros(axes, sheet, own, scale)
        axes.set_title(f"part {fmt.plain(part)}" + (f", {fmt.plain(task)}" if len(tasks) > 1 else ""), color=INK)
        axes.set_xlabel("optimizer step")
    for axes in drawn[::across]:
        axes.set_ylabel("gradient norm (log scale)")
    key(figure, [line_handle(sheet.looks[label]) for label in shown], layout)
    return figure


def _norms_caption(table: pd.DataFrame) -> str:
    zero = " Below the break: exactly 0, in every seed." if (table["mean"] == 0).any() else ""
    return (
        "Norm (L2) of the gradient of all parameters of a part together, before clipping, at each of the first "
        f"{fmt.plural(int(table['step'].max()), 'optimizer step')}; mean over n = "
        f"{fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed), no interval.{zero} Rates warm up "
        "meanwhile where the recipe says so. The task head is left out."
    )


def _norms(axes: "Axes", sheet: Sheet, table: pd.DataFrame, scale: "_Scale") -> None:
    from matplotlib.ticker import MaxNLocator

    last = int(table["step"].max())
    for label in [label for label in sheet.labels if label in set(table["method"])]:
        mine = table[table["method"] == label]
        look = line(sheet.looks[label], 4) | {"markevery": max(1, last // MARKS), "clip_on": False}
        axes.plot(mine["step"], scale.place(mine["mean"].to_numpy(dtype=float)), **look)
    axes.set_xlim(1, max(last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _name_zeros(axes: "Axes", sheet: Sheet, table: pd.DataFrame, scale: "_Scale") -> None:
    """Write beside the line of a method that gets no gradient at all that it is meant so."""
    never = [label for label in sheet.labels if label in set(table.loc[table["mean"] == 0, "method"])]
    never = [label for label in never if not table.loc[table["method"] == label, "mean"].any()]
    if never:
        names = ", ".join(sheet.looks[label].text for label in never)
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


def directions(sheet: Sheet) -> "Figure | None":
    """Overlap of each method's updates with W_0, with the baseline's update and with another seed's.

    Returns:
        None where no record has directions.
    """
    table = sheet.results.direction_table
    if table.empty:
        return None
    titles = {
        "with_weight": "with W_0",
        "with_baseline": f"with {fmt.brief(sheet.baseline)}'s update",
        "with_seed": "with another seed's",
    }
    titles = {column: title for column, title in titles.items() if table[column].notna().any()}
    labels = [label for label in sheet.labels if label in set(table["method"])]
    layout = Layout(
        depth(sheet.looks, labels), left=room_for(sheet.looks, labels), widths=(1.0,) * len(titles), above=0.32
    )
    words = sheet.words("Directions of what training added to a weight", _directions_caption(table), "scored", shape="")
    figure, panels = new_figure(words, layout)
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        heights = rows(axes, sheet.looks, labels, named=axes is panels[0])
        for y, label in zip(heights, labels, strict=True):
            values = table.loc[table["method"] == label, column].dropna()
            if values.empty:
                continue
            look = sheet.looks[label]
            axes.plot(values, np.full(len(values), y), "o", color=look.colour, markersize=3, alpha=0.25)
            mark(axes, float(values.mean()), y, look)
        axes.axvline(float(table["by_chance"].mean()), color=FAINT, linestyle="--", linewidth=1)
        axes.set_xlim(-0.04, 1.04)
        axes.set_title(title, fontsize=8.5, color=INK)
        axes.set_xlabel("overlap (share)")
    return figure


def _directions_caption(table: pd.DataFrame) -> str:
    return (
        f"Share of the {int(table['leading'].max())} leading left singular directions of each update that lies in "
        f"those of the other matrix; an update of lower rank has fewer. A dot is one of {table['map'].nunique()} query "
        f"and value weights, {fmt.plural(table['seed'].nunique(), 'seed')} and "
        f"{fmt.plural(table['task'].nunique(), 'task')}, the mark their mean; dashed: two random subspaces "
        f"({table['by_chance'].mean():.3f})."
    )

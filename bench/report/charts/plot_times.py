"""Draws the times of a run: phases of a training step, and latency against the base; computes neither."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.charts.canvas import (
    INK,
    MEANING,
    QUIET_INK,
    ROW,
    Sheet,
    interval,
    key,
    mark,
    new_figure,
    room_for,
    rows,
)
from bench.report.charts.looks import Look
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASES = {"forward": "#BBBBBB", "backward": "#77AADD", "optimizer": "#EEDD88"}
"""Phases of a step and their colours, of Paul Tol's "light" scheme."""
CONTROL = "A/A control"
NARROW = 6
"""Characters of a baseline's name that the title of a panel of ratios has room for; the caption has it in full."""
BAND = "#ececec"
"""Of ratios that count as none: within 3 % of 1."""


def step_time(tables: Tables) -> "Figure | None":
    """Median time of each phase, stacked, and the ratio of each phase to the baseline's with its interval."""
    costs = tables.costs.dropna(subset=["backward_seconds"])
    if costs.empty:
        return None
    names, style = list(costs.index), tables.looks
    blocks = int(costs["backward_blocks"].max())
    caption = (
        "Left: median wall time of each phase of one training step, milliseconds. Right: the same phase / that of "
        f"{tables.name}, paired round by round. {MEANING} over n = {blocks} blocks. Shaded: within 3 %. Last row: the "
        "A/A control, the baseline against itself; where it leaves the band, differences of that size mean nothing."
    )
    extra = [CONTROL] if any(phase in tables.controls.index for phase in PHASES) else []
    sheet = Sheet(
        ROW * (len(names) + len(extra)),
        room_for(style, names, extra),
        widths=(2.4, 1, 1, 1),
        above=0.3,
        keys=1,
        gap=0.2,
    )
    words = tables.words("Where the time of one training step goes", caption, "timed")
    figure, (bars, *panels) = new_figure(words, sheet)
    _stacked(bars, tables, costs, extra)
    for axes, phase in zip(panels, PHASES, strict=True):
        y = rows(axes, style, names, extra, named=False)
        _band(axes)
        for at, (name, row) in zip(y, costs.iterrows(), strict=False):
            _point(axes, at, row, phase, style[str(name)])
        _control(axes, tables.controls, [phase], y[-1])
        axes.set_title(f"{phase} / {tables.name}" if len(tables.name) <= NARROW else phase)
        axes.set_xlabel("ratio")
        top = axes.get_xlim()[1]
        axes.set_xlim(-0.06 * top, top)
    from matplotlib.patches import Patch

    key(figure, [Patch(facecolor=colour, label=phase) for phase, colour in PHASES.items()], sheet)
    return figure


def _stacked(axes: "Axes", tables: Tables, costs: pd.DataFrame, extra: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    names = list(costs.index)
    y = rows(axes, tables.looks, names, extra)[: len(names)]
    left = np.zeros(len(names))
    for phase, colour in PHASES.items():
        width = 1e3 * costs[f"{phase}_seconds"].fillna(0).to_numpy()
        axes.barh(y, width, 0.66, left, color=colour, edgecolor="white", linewidth=0.5)
        left += width
    for at, end in zip(y, left, strict=True):
        axes.text(end, at, f" {fmt.seconds(end / 1e3)}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, left.max() * 1.24)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    axes.set_title("all three phases")
    axes.set_xlabel("time of one training step (ms)")


def latency(tables: Tables) -> "Figure | None":
    """Inference time against the bare backbone, as trained and merged, one panel a batch size."""
    columns = [f"{mode}_{batch}_ratio" for mode in compare.MODES for batch in compare.measured_batches(tables.costs)]
    if not columns:
        return None
    costs = tables.costs.dropna(subset=columns, how="all")
    if costs.empty:
        return None
    batches = compare.measured_batches(costs)
    names, style = list(costs.index), tables.looks
    caption = (
        f"Inference time / that of the bare backbone with the same head, paired by round. {MEANING} over the n blocks "
        "named above each panel; bars wider than the panel are cut. Shaded: within 3 % of the base. Last row: the A/A "
        "control, the base against itself; where it leaves the band, differences of that size mean nothing."
    )
    sheet = Sheet(
        0.36 * (len(names) + 1), room_for(style, names, [CONTROL]), widths=(1.0,) * len(batches), above=0.3, keys=1
    )
    words = tables.words(
        "Latency against the base model, as trained and merged", caption, "timed", shape=_inference(tables)
    )
    figure, panels = new_figure(words, sheet)
    for at, (axes, batch) in enumerate(zip(panels, batches, strict=True)):
        _latency_panel(axes, tables, costs, batch, named=at == 0)
    key(figure, _latency_key(), sheet)
    return figure


def _inference(tables: Tables) -> str:
    """What inference ran on: as the probe's step, but for rows and their length."""
    shape = tables.shape
    if shape is None:
        return ""
    parts = [f"rows of {tables.inference_length} tokens"] if tables.inference_length else []
    parts += [fmt.plain(shape.dtype), fmt.plain(shape.attention), fmt.plural(shape.threads, "thread")]
    return ", ".join([*parts, fmt.plain(shape.device)])


def _latency_panel(axes: "Axes", tables: Tables, costs: pd.DataFrame, batch: str, *, named: bool) -> None:
    y = rows(axes, tables.looks, list(costs.index), [CONTROL], named=named)
    _band(axes)
    for at, (name, row) in zip(y, costs.iterrows(), strict=False):
        look, merged = tables.looks[str(name)], not np.isnan(row[f"merged_{batch}_ratio"])
        _point(axes, at + 0.18 * merged, row, f"unmerged_{batch}", look)
        _point(axes, at - 0.18, row, f"merged_{batch}", look, hollow=True)
        if merged and row["merged_is_base"] is True:
            high = row[f"merged_{batch}_high"]
            axes.annotate("=", (high, at - 0.18), (4, -1), textcoords="offset points", va="center", fontsize=8,
                          color=look.colour, annotation_clip=True)  # fmt: skip
    _control(axes, tables.controls, [f"latency_{batch}", "latency"], y[-1])
    ratios = costs[[f"{mode}_{batch}_ratio" for mode in compare.MODES]].to_numpy()
    low, high = min(0.9, np.nanmin(ratios) - 0.05), max(1.1, np.nanmax(ratios) + 0.05)
    if np.ptp(axes.get_xlim()) > 3 * (high - low):  # a noisy machine: keep the points apart, let bars run out
        axes.set_xlim(low, high)
    blocks = int(np.nanmax(costs[[f"{mode}_{batch}_blocks" for mode in compare.MODES]].to_numpy()))
    axes.set_title(f"batch {batch.removeprefix('batch_')}, n = {blocks} blocks")
    axes.set_xlabel("latency / base (ratio)")


def _latency_key() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.path import Path

    equals = Path([(-1, 0.4), (1, 0.4), (-1, -0.4), (1, -0.4)], [Path.MOVETO, Path.LINETO] * 2)
    look: dict[str, Any] = {"color": QUIET_INK, "linewidth": 1, "markersize": 5.5}
    return [
        Line2D([], [], marker="o", label="as trained", **look),
        Line2D([], [], marker="o", markerfacecolor="white", label="merged", **look),
        Line2D([], [], linestyle="none", marker=equals, markersize=6, color=QUIET_INK,
               label="merged: operations identical to the base, exactly"),
        Patch(facecolor=BAND, label="within 3 % of the base"),
    ]  # fmt: skip


def _band(axes: "Axes") -> None:
    axes.axvspan(*compare.QUIET, color=BAND, zorder=0, linewidth=0)
    axes.axvline(1, color="#999999", linewidth=0.8, zorder=1)


def _point(axes: "Axes", y: float, row: pd.Series, name: str, look: Look, *, hollow: bool = False) -> None:
    """A ratio with its interval, in the method's look."""
    value, low, high = row[f"{name}_ratio"], row[f"{name}_low"], row[f"{name}_high"]
    if np.isnan(value):
        return
    interval(axes, y, low, high, look)
    inside: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": look.colour, "markeredgewidth": 1.1}
    mark(axes, value, y, look, 5 if hollow else 5.5, **(inside if hollow else {}))


def _control(axes: "Axes", controls: pd.DataFrame, keys: list[str], y: float) -> None:
    """The first of the named controls that was taken; a suite may have taken it more than once."""
    found = next((key for key in keys if key in controls.index), None)
    if found is None:
        return
    for _, row in controls.loc[[found]].iterrows():
        axes.hlines(y, row["low"], row["high"], color=QUIET_INK, linewidth=1.6)
        axes.plot(row["ratio"], y, "|", color=QUIET_INK, markersize=9)

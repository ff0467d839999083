"""Draws how each method's peak memory grows over the sweeps of a run, crossings marked; computes no figure."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.analysis import scaling
from bench.analysis.scaling import Crossover
from bench.report import format as fmt
from bench.report.charts.canvas import INK, Sheet, in_key, key, line_handles, new_figure
from bench.report.charts.tables import Tables
from bench.report.sections.scaling import still
from bench.schema.resolved import ResolvedSweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""
CAPTION = (
    "Peak memory of one training step, counted on tensors without data: exact on any machine, n = 1; both axes "
    "logarithmic. Rings: where one curve passes another, of those pairs that the suite asks about. Dotted: counted "
    "on the backbone named beside the line, for such a pair."
)


def peak_growth(tables: Tables) -> "Figure | None":
    """One panel a sweep, both axes logarithmic; None without counts."""
    run, swept = tables.run, scaling.swept(tables.run.suite, tables.run.records)
    guests = scaling.guests(run.suite)
    curves = {name: _peaks(tables, name) for name in swept if name not in guests}
    curves = {name: peaks for name, peaks in curves.items() if not peaks.dropna(how="all").empty}
    if not curves:
        return None
    shown = [label for label in tables.labels if any(label in peaks.index for peaks in curves.values())]
    across = min(ACROSS, len(curves))
    sheet = Sheet(
        1.75, left=0.68, widths=(1.0,) * across, panels=len(curves), above=0.42, gap=0.5, below=0.5,
        keys=-(-len(shown) // in_key(tables.looks, shown)),
    )  # fmt: skip
    figure, panels = new_figure(tables.words("Growth: peak memory as one quantity grows", CAPTION, "counted"), sheet)
    crossovers = scaling.crossovers(run.suite, run.records)
    for axes, (name, peaks) in zip(panels, curves.items(), strict=True):
        _panel(tables, axes, swept[name], name, peaks)
        for guest in (guest for guest, host in guests.items() if host == name):
            _guest(tables, axes, swept[guest], guest)
        for found in crossovers:
            if name in (found.asked.sweep, found.asked.than_sweep):
                _rings(axes, found)
    for axes in panels[::across]:
        axes.set_ylabel("peak memory (MB)")
    key(figure, line_handles(tables.looks, shown), sheet, in_key(tables.looks, shown))
    return figure


def _peaks(tables: Tables, name: str) -> pd.DataFrame:
    return scaling.sweep_table(tables.run.records, name, "peak_memory", tables.labels) / 1e6


def _panel(tables: Tables, axes: "Axes", asked: ResolvedSweep, name: str, peaks: pd.DataFrame) -> None:
    for label, row in peaks.iterrows():
        look = tables.looks[str(label)]
        axes.plot(row.index, row, color=look.colour, marker=look.marker, markersize=3.5, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ticks(axes, [int(value) for value in peaks.columns])
    axes.set_title(f"{fmt.plain(name)}\n{fmt.plain(still(asked))}", fontsize=8.5, color=INK)
    axes.set_xlabel(fmt.plain(asked.vary))


def _ticks(axes: "Axes", values: list[int]) -> None:
    """Plain numbers: of the counted values as many as stand apart, on the other axis 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    apart = (np.log(values[-1]) - np.log(values[0])) / 6
    kept: list[int] = []
    for value in values:
        if not kept or np.log(value) - np.log(kept[-1]) >= apart or value == values[-1]:
            kept.append(value)
    if len(kept) > 1 and np.log(kept[-1]) - np.log(kept[-2]) < apart:
        del kept[-2]
    axes.set_xticks(kept, [str(value) for value in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.1)


def _guest(tables: Tables, axes: "Axes", asked: ResolvedSweep, name: str) -> None:
    """A curve from another backbone, named at its first point."""
    for label, row in _peaks(tables, name).iterrows():
        colour = tables.looks[str(label)].colour
        axes.plot(row.index, row, color=colour, linestyle=":", linewidth=1.2)
        start, text = (row.index[0], row.iloc[0]), fmt.plain(asked.backbone)
        axes.annotate(text, start, (1, -2), textcoords="offset points", va="top", fontsize=6.5, color=colour)


def _rings(axes: "Axes", found: Crossover) -> None:
    if found.asked.figure != "peak_memory":
        return
    for crossing in found.crossings:
        share = (crossing.near - crossing.low) / (crossing.high - crossing.low)
        ends = found.curves["first"].loc[[crossing.low, crossing.high]].to_numpy() / 1e6
        height = ends[0] + share * (ends[1] - ends[0])
        axes.plot(crossing.near, height, "o", markersize=9, markerfacecolor="none", color="#222222", zorder=5)
        text = (
            str(crossing.high if crossing.rises else crossing.low)
            if crossing.exact
            else f"{crossing.low} to {crossing.high}"
        )
        axes.annotate(text, (crossing.near, height), (0, 7), textcoords="offset points", ha="center", fontsize=8)

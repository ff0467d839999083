"""Draws how each method's peak memory grows over the sweeps of a run, crossings marked; computes no figure."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench import scaling
from bench.report import facts
from bench.report import format as fmt
from bench.report.canvas import ACROSS, new_figure, run_looks, titled
from bench.report.scaling import still
from bench.scaling import Crossover
from bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BESIDE = 7
"""Methods in one row of the legend."""


def peak_growth(run: Run) -> "Figure | None":
    """One panel a sweep, both axes logarithmic; None without counts."""
    guests = scaling.guests(run.suite)
    curves = {name: _peaks(run, name) for name in scaling.swept(run.suite, run.records) if name not in guests}
    curves = {name: peaks for name, peaks in curves.items() if not peaks.dropna(how="all").empty}
    if not curves:
        return None
    caption = (
        "Peak memory of one training step, counted on tensors without data: exact on any machine, n = 1; both axes "
        "logarithmic. Rings: where one curve passes another, of those pairs that the suite asks about. Dotted: counted "
        "on the backbone named beside the line, for such a pair."
    )
    title = titled(run, "peak memory as one quantity grows", scores=False)
    shown = [label for label in facts.labels(run) if any(label in peaks.index for peaks in curves.values())]
    room = "\n" * -(-len(shown) // BESIDE)  # for the legend, below the title
    figure, panels = new_figure(title + room, caption, 2.7, len(curves))
    for axes, (name, peaks) in zip(panels, curves.items(), strict=True):
        _panel(run, axes, name, peaks)
        for guest in (guest for guest, host in guests.items() if host == name):
            _guest(run, axes, guest)
        for found in scaling.crossovers(run.suite, run.records):
            if name in (found.asked["sweep"], found.asked.get("than_sweep")):
                _rings(axes, found)
    for axes in panels[::ACROSS]:
        axes.set_ylabel("peak memory (MB)")
    _legend(run, figure, shown)
    return figure


def _peaks(run: Run, name: str) -> pd.DataFrame:
    return scaling.sweep_table(run.records, name, "peak_memory", facts.labels(run)) / 1e6


def _panel(run: Run, axes: "Axes", name: str, peaks: pd.DataFrame) -> None:
    style, asked = run_looks(run), scaling.swept(run.suite, run.records)[name]
    for label, row in peaks.iterrows():
        look = style[str(label)]
        axes.plot(row.index, row, color=look.colour, marker=look.marker, markersize=3.5, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ticks(axes, [int(value) for value in peaks.columns])
    axes.set_title(f"{fmt.plain(name)}\n{fmt.plain(still(asked))}", fontsize=8.5, fontweight="normal")
    axes.set_xlabel(fmt.plain(asked["vary"]))


def _ticks(axes: "Axes", values: list[int]) -> None:
    """Plain numbers: of the counted values as many as stand apart, on the other axis 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

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
    axes.yaxis.set_minor_formatter(NullFormatter())


def _guest(run: Run, axes: "Axes", name: str) -> None:
    """A curve from another backbone, named at its first point."""
    style, asked = run_looks(run), scaling.swept(run.suite, run.records)[name]
    for label, row in _peaks(run, name).iterrows():
        colour = style[str(label)].colour
        axes.plot(row.index, row, color=colour, linestyle=":", linewidth=1.2)
        start, text = (row.index[0], row.iloc[0]), fmt.plain(asked["backbone"])
        axes.annotate(text, start, (1, -2), textcoords="offset points", va="top", fontsize=6.5, color=colour)


def _rings(axes: "Axes", found: Crossover) -> None:
    if found.asked["figure"] != "peak_memory":
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


def _legend(run: Run, figure: "Figure", labels: list[str]) -> None:
    """In rows between title and panels: there are more methods than fit beside a title."""
    from matplotlib.lines import Line2D

    style = run_looks(run)
    keys = [
        Line2D([], [], color=style[label].colour, marker=style[label].marker, markersize=4, label=style[label].text)
        for label in labels
    ]
    below = 1 - 0.24 / figure.get_figheight()
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, below), ncols=BESIDE)

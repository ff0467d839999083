"""Draws how methods change places between default and searched learning rates; computes no ranking."""

from typing import TYPE_CHECKING

import pandas as pd

from bench.analysis.tuned import RateChange
from bench.report import format as fmt
from bench.report.charts.canvas import INK, QUIET_INK, Sheet, mark, new_figure, room_for, text_width
from bench.report.charts.curve_sheet import apart
from bench.report.charts.tables import Tables
from bench.report.sections import tuned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACE = 0.26
"""Inches of one place in a ranking."""


def rank_slope(tables: Tables, change: RateChange) -> "Figure":
    """A line a method from its place at default rates to its place at searched ones, with the mean scores."""
    ranked, names = change.table, list(change.table.index)
    side = room_for(tables.looks, names) + text_width("100.0", 8) + 0.1
    words = tables.words(tuned.TITLE, " ".join(tuned.sentences(change)), "scored", shape="")
    figure, (axes,) = new_figure(words, Sheet(PLACE * (len(names) + 1), left=side, right=side, above=0.3, below=0.1))
    for label, row in ranked.iterrows():
        look = tables.looks[str(label)]
        ends = [row["default_rank"], row["tuned_rank"]]
        axes.plot([0, 1], ends, color=look.colour, linewidth=1.4, zorder=3)
        for x, end in enumerate(ends):
            mark(axes, x, end, look, 6.5, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) + 0.5, 0.5)
    for x, column in enumerate(("default", "tuned")):
        _names(axes, tables, ranked, column, x)
    at = "" if change.default is None else f" ({tuned.pair(change.default)})"
    for x, text in enumerate((f"default rates{at}", "searched rates")):
        axes.text(x, 1.02, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.set_axis_off()
    return figure


def _names(axes: "Axes", tables: Tables, ranked: pd.DataFrame, column: str, x: int) -> None:
    """Rank, name and score beside each end; those that share a rank stand below each other."""
    rising = ranked.sort_values(f"{column}_rank", kind="stable")
    places = apart(list(rising[f"{column}_rank"]), 0.8)
    for place, (label, row) in zip(places, rising.iterrows(), strict=True):
        rank, score = tuned.rank(row[f"{column}_rank"]), fmt.points(row[column])
        name = tables.looks[str(label)].text
        text = f"{rank}  {name}  {score}" if x else f"{score}  {name}  {rank}"
        axes.annotate(
            text, (x, place), (10 if x else -10, 0), textcoords="offset points", va="center",
            ha="left" if x else "right", fontsize=8, color=QUIET_INK, annotation_clip=False,
        )  # fmt: skip

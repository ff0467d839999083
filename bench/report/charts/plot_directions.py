"""Draws how far the leading directions of each update lie in those of the weight and of other updates."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import FAINT, INK, ROW, Sheet, mark, new_figure, room_for, rows
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def directions(tables: Tables) -> "Figure | None":
    """Overlap of each method's updates with W_0, with the baseline's update and with another seed's.

    Returns:
        None where no record has directions.
    """
    found = tables.directions
    if found.empty:
        return None
    panels = {
        "with_weight": "with W_0",
        "with_baseline": f"with {fmt.brief(tables.baseline)}'s update",
        "with_seed": "with another seed's",
    }
    panels = {column: title for column, title in panels.items() if found[column].notna().any()}
    labels = [label for label in tables.labels if label in set(found["method"])]
    sheet = Sheet(ROW * len(labels) + 0.2, left=room_for(tables.looks, labels), widths=(1.0,) * len(panels), above=0.32)
    words = tables.words("Directions of what training added to a weight", _caption(found), "scored", shape="")
    figure, axes = new_figure(words, sheet)
    for at, (column, title) in zip(axes, panels.items(), strict=True):
        heights = rows(at, tables.looks, labels, named=at is axes[0])
        for y, label in zip(heights, labels, strict=True):
            values = found.loc[found["method"] == label, column].dropna()
            if values.empty:
                continue
            look = tables.looks[label]
            at.plot(values, np.full(len(values), y), "o", color=look.colour, markersize=3, alpha=0.25)
            mark(at, float(values.mean()), y, look)
        at.axvline(float(found["by_chance"].mean()), color=FAINT, linestyle="--", linewidth=1)
        at.set_xlim(-0.04, 1.04)
        at.set_title(title, fontsize=8.5, color=INK)
    return figure


def _caption(found: pd.DataFrame) -> str:
    return (
        f"Share of the {int(found['leading'].max())} leading left singular directions of each update that lies in "
        f"those of the other matrix; an update of lower rank has fewer. A dot is one of {found['map'].nunique()} query "
        f"and value weights, {fmt.plural(found['seed'].nunique(), 'seed')} and "
        f"{fmt.plural(found['task'].nunique(), 'task')}, the mark their mean; dashed: two random subspaces "
        f"({found['by_chance'].mean():.3f})."
    )

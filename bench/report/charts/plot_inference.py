"""Draws what is counted of one inference against the base model, as trained and merged; computes only ratios."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.charts.canvas import INK, QUIET_INK, Sheet, key, mark, new_figure, room_for, rows
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"operations": "operations", "depth": "critical path", "flops": "FLOPs"}
SIDES = {"unmerged": 0.16, "merged": -0.16}
"""Modes and how far above the middle of its row each stands."""


def inference(tables: Tables) -> "Figure | None":
    """Operations, critical path and FLOPs of one inference / the base model's; None where none was counted."""
    costs = tables.costs.dropna(subset=["inference_base_operations"])
    if costs.empty:
        return None
    names, style = list(costs.index), tables.looks
    base = {name: costs[f"inference_base_{name}"].iloc[0] for name in TITLES}
    caption = (
        f"One inference of one row / the bare backbone with the same head, which takes {base['operations']:.0f} "
        f"operations, {base['depth']:.0f} of them on the critical path, and {fmt.count(base['flops'])} FLOPs. The "
        "critical path is the longest chain of operations that each need the one before. n = 1, no interval."
    )
    sheet = Sheet(0.3 * len(names), room_for(style, names), right=0.3, widths=(1.0,) * len(TITLES), above=0.3, keys=1)
    shape = f"1 row of {tables.inference_length} tokens" if tables.inference_length else None
    words = tables.words("What one inference takes, as trained and merged", caption, "counted", shape=shape)
    figure, panels = new_figure(words, sheet)
    for at, (axes, (name, title)) in enumerate(zip(panels, TITLES.items(), strict=True)):
        y = rows(axes, style, names, named=at == 0)
        axes.axvline(1, color="#999999", linewidth=0.8, zorder=1)
        ratios = costs[[f"inference_{mode}_{name}" for mode in compare.MODES]].to_numpy() / base[name]
        for place, label, pair in zip(y, names, ratios, strict=True):
            for (mode, side), ratio in zip(SIDES.items(), pair, strict=True):
                if not np.isnan(ratio):
                    hollow = {"markerfacecolor": "white", "markeredgecolor": style[label].colour}
                    both = side if not np.isnan(pair).any() else 0.0
                    mark(axes, ratio, place + both, style[label], 5, **(hollow if mode == "merged" else {}))
        _say(axes, y, ratios)
        axes.set_title(title)
        axes.set_xlabel("ratio to the base")
    key(figure, _key(), sheet)
    return figure


def _say(axes: "Axes", y: Any, ratios: Any) -> None:
    """Write the ratio as trained right of its row, with room."""
    low, high = float(min(1.0, np.nanmin(ratios))), float(np.nanmax(ratios))
    room = max(high - low, 0.1)
    axes.set_xlim(low - 0.08 * room, high + 0.32 * room)
    for place, ratio in zip(y, ratios[:, 0], strict=True):
        axes.annotate(fmt.ratio(ratio), (1, place), (-2, 0), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", ha="right", va="center", fontsize=7, color=INK)  # fmt: skip


def _key() -> list[Any]:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": QUIET_INK, "linestyle": "none", "marker": "o", "markersize": 5.5}
    return [
        Line2D([], [], label="as trained (figure on the right)", **look),
        Line2D([], [], markerfacecolor="white", label="merged", **look),
    ]

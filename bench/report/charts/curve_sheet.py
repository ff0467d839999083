"""The sheet of figures whose panels hold curves, one panel a task, and the names at their ends; draws no curve."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.report.charts.canvas import INK, WIDTH, Sheet, in_key, room_for
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 3
"""Panels side by side."""
NAMED = 2
"""Panels up to which each names its own curves."""


def beside_curves(tables: Tables, shown: list[str], panels: int) -> Sheet:
    """Few panels, with room for names right of each."""
    room = max(room_for(tables.looks, shown) - 0.1, 1.0)
    height = max(3.2, 0.2 * len(shown))
    return Sheet(height, left=0.6, right=room, widths=(1.0,) * panels, above=0.3, gap=room + 0.4)


def below_key(tables: Tables, shown: list[str], panels: int) -> Sheet:
    """Many panels, with one key above all."""
    deep = -(-len(shown) // in_key(tables.looks, shown))
    return Sheet(2.0, left=0.6, widths=(1.0,) * ACROSS, panels=panels, above=0.3, gap=0.45, keys=deep)


def name_ends(axes: "Axes", tables: Tables, ends: Mapping[str, float]) -> None:
    """Write each method's name right of its curve's end, moved apart where ends are close."""
    from matplotlib.collections import LineCollection

    bottom, top = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    order = sorted(ends, key=lambda label: ends[label])
    wanted = [(ends[label] - bottom) / (top - bottom) for label in order]
    places = apart(wanted, 0.155 / inches)
    inch = 1 / (WIDTH * axes.get_position().width)
    leaders = [((1 + 0.06 * inch, at), (1 + 0.19 * inch, place)) for at, place in zip(wanted, places, strict=True)]
    axes.add_collection(
        LineCollection(leaders, colors="#bbbbbb", linewidths=0.6, transform=axes.transAxes, clip_on=False)
    )
    for label, place in zip(order, places, strict=True):
        text = tables.looks[label].text
        axes.text(1 + 0.22 * inch, place, text, transform=axes.transAxes, va="center", fontsize=8, color=INK)


def apart(wanted: list[float], least: float) -> list[float]:
    """Rising places near the rising ``wanted`` ones, each at least ``least`` above the one before.

    Crowded ones form a block around the mean of where they would stand (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # (mean of place - rank within the run of blocks, count)
    for rank, place in enumerate(wanted):
        start, count = place - rank * least, 1
        while blocks and blocks[-1][0] > start:
            before, many = blocks.pop()
            start, count = (start * count + before * many) / (count + many), count + many
        blocks.append((start, count))
    flat = [start for start, count in blocks for _ in range(count)]
    return [start + rank * least for rank, start in enumerate(flat)]

"""Draws the latency of a run at every length and batch, as trained and merged; computes no figure."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts.canvas import INK, QUIET_INK, ROW, Sheet, new_figure, room_for, rows
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONTROL = "A/A control"
DARKEST = 2.0
"""Ratio from which the colour grows no darker."""
MODES = {"unmerged": "as trained", "merged": "merged"}


def latency_map(tables: Tables) -> "Figure | None":
    """Latency / base of each method in one cell a length and batch; None below two lengths, which one panel shows."""
    found = tables.latencies
    if found["length"].nunique() < 2:
        return None
    names = list(dict.fromkeys(found["method"]))
    places = list(found[["length", "batch"]].drop_duplicates().sort_values(["length", "batch"]).itertuples(index=False))
    caption = (
        "Inference time / that of the bare backbone with the same head, median over blocks of paired ratios. Grey "
        "figures: the 95 % interval holds 1. -: not measured, or cannot be merged. Last row: the A/A control, the base "
        "against itself, by the end of its interval that lies further from 1; where that is far, small differences "
        f"mean nothing. Darkest from {DARKEST:g} on."
    )
    sheet = Sheet(ROW * (len(names) + 1), room_for(tables.looks, names, [CONTROL]), widths=(1.0, 1.0), above=0.3,
                  below=0.68, gap=0.15)  # fmt: skip
    words = tables.words("Latency at every length and batch", caption, "timed", shape=_shape(tables))
    figure, panels = new_figure(words, sheet)
    for at, (axes, (mode, title)) in enumerate(zip(panels, MODES.items(), strict=True)):
        rows(axes, tables.looks, names, [CONTROL], named=at == 0)
        ours = found[found["mode"] == mode].set_index(["method", "length", "batch"])
        _cells(axes, ours, names, places)
        _controls(axes, found, places)
        _columns(axes, places)
        axes.set_title(f"{title}, time / base", color=QUIET_INK, fontsize=8)
    return figure


def _shape(tables: Tables) -> str:
    shape = tables.shape
    if shape is None:
        return ""
    parts = (fmt.plain(shape.dtype), fmt.plain(shape.attention), fmt.plural(shape.threads, "thread"))
    return ", ".join([*parts, fmt.plain(shape.device)])


def _cells(axes: "Axes", found: pd.DataFrame, names: list[str], places: list[tuple[int, int]]) -> None:
    import matplotlib
    from matplotlib.colors import ListedColormap

    ratio = np.full((len(names) + 1, len(places)), np.nan)
    for i, name in enumerate(names):
        for j, place in enumerate(places):
            if (name, *place) not in found.index:
                axes.text(j, len(names) - i, fmt.MISSING, ha="center", va="center", fontsize=6.5, color=QUIET_INK)
                continue
            row = found.loc[(name, *place)]
            plain = row["low"] <= 1 <= row["high"]
            ratio[i, j] = np.nan if plain else row["ratio"]
            axes.text(j, len(names) - i, fmt.ratio(row["ratio"]), ha="center", va="center", fontsize=6.5,
                      color=QUIET_INK if plain else INK, alpha=0.75 if plain else 1.0)  # fmt: skip
    shades = matplotlib.colormaps["Oranges"](np.linspace(0.0, 0.7, 256))
    colours = ListedColormap(shades).with_extremes(under="white", bad="white")
    edges = (-0.5, len(places) - 0.5, -0.5, len(names) + 0.5)
    axes.imshow(ratio, aspect="auto", cmap=colours, vmin=1.0, vmax=DARKEST, extent=edges, interpolation="nearest")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_ylim(-0.5, len(names) + 0.5)


def _controls(axes: "Axes", found: pd.DataFrame, places: list[tuple[int, int]]) -> None:
    by_place = found.groupby(["length", "batch"]).agg({"control_low": "min", "control_high": "max"})  # of all groups
    for j, place in enumerate(places):
        low, high = by_place.loc[tuple(place)]
        if not np.isnan(low):
            far = max((low, high), key=lambda end: abs(np.log(end)))
            axes.text(j, 0, fmt.ratio(far), ha="center", va="center", fontsize=6.5, color=QUIET_INK)


def _columns(axes: "Axes", places: list[tuple[int, int]]) -> None:
    """Batches below their columns, the length below the middle of its own, a line between lengths."""
    axes.set_xticks(range(len(places)), [str(batch) for _, batch in places], fontsize=7)
    lengths = list(dict.fromkeys(length for length, _ in places))
    for length in lengths:
        own = [at for at, place in enumerate(places) if place[0] == length]
        middle = (own[0] + own[-1]) / 2
        axes.annotate(f"{length} tokens", (middle, -0.5), (0, -19), textcoords="offset points", ha="center", va="top",
                      fontsize=7.5, color=INK, annotation_clip=False)  # fmt: skip
        axes.axvline(own[-1] + 0.5, color="#999999", linewidth=0.7)
    axes.set_xlabel("batch (rows), by length", labelpad=20, fontsize=7.5)

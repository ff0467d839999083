"""Draws score and costs of a method against one of its fields, such as LoRA's rank; computes no figure."""

from typing import TYPE_CHECKING

import pandas as pd

from bench import analysis as compare
from bench.analysis.sizes import Series, series
from bench.report import format as fmt
from bench.report.charts.canvas import FAINT, INK, MEANING, Sheet, key, new_figure
from bench.report.charts.looks import Look
from bench.report.charts.tables import Tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ACROSS = 2
"""Panels side by side."""
APART = 1.3
"""Ratio of neighbouring numbers on the axis at least."""


def against_size(tables: Tables) -> "Figure | None":
    """One panel a figure that the run has, one curve a series; None where no method stands at three values."""
    found = series(tables.run.records)
    if not found:
        return None
    field = found[0].field
    shown = [one for one in found if one.field == field]
    panels = {title: panel for title, panel in _panels(tables).items() if not panel["value"].dropna().empty}
    tags = ["counted"] + ["timed"] * any("time" in title for title in panels) + ["scored"] * ("score" in panels)
    sheet = Sheet(1.7, left=0.7, widths=(1.0,) * ACROSS, panels=len(panels), above=0.3, gap=0.7, below=0.5, keys=1)
    caption = f"Dashed: {tables.name}. {MEANING} over seeds or blocks. The horizontal axis is logarithmic."
    figure, axes = new_figure(tables.words(f"Score and cost against {field.replace('_', ' ')}", caption, *tags), sheet)
    looks = {id(one): tables.looks[next(iter(one.labels.values()))] for one in shown}
    for at, (title, panel) in zip(axes, panels.items(), strict=True):
        for one in shown:
            _curve(at, one, panel, looks[id(one)])
        _dress(at, title, field, panel, tables.baseline, sorted({value for one in shown for value in one.labels}))
    key(figure, [_handle(one, looks[id(one)]) for one in shown], sheet)
    return figure


def _panels(tables: Tables) -> dict[str, pd.DataFrame]:
    """``value low high`` by label; ``low high`` are NaN where the figure is counted."""
    costs, scores, base = tables.costs, tables.scores, tables.baseline
    panels = {}
    if tables.score_records:
        panels["score"] = scores[["mean", "mean_low", "mean_high"]].set_axis(["value", "low", "high"], axis=1)
    for title, column in (
        (f"forward FLOPs / {fmt.brief(tables.baseline)}", "flops_forward"),
        (f"backward FLOPs / {fmt.brief(tables.baseline)}", "flops_backward"),
        (f"stored bytes / {fmt.brief(tables.baseline)}", "delta_bytes"),
        (f"peak memory / {fmt.brief(tables.baseline)}", compare.peak_column(costs)),
    ):
        ratio = costs[column] / costs[column].get(base, float("nan"))
        panels[title] = pd.DataFrame({"value": ratio, "low": float("nan"), "high": float("nan")})
    timed = costs[["step_ratio", "step_low", "step_high"]].set_axis(["value", "low", "high"], axis=1)
    panels[f"step time / {fmt.brief(tables.baseline)}"] = timed
    return panels


def _curve(axes: "Axes", one: Series, panel: pd.DataFrame, look: Look) -> None:
    rows = panel.reindex(list(one.labels.values()))
    values = list(one.labels)
    axes.plot(values, rows["value"], color=look.colour, marker=look.marker, markersize=4, linewidth=1.2)
    if rows["low"].notna().any():
        axes.vlines(values, rows["low"], rows["high"], color=look.colour, linewidth=0.9, alpha=0.7)


def _dress(axes: "Axes", title: str, field: str, panel: pd.DataFrame, baseline: str, values: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    if baseline in panel.index:
        axes.axhline(panel.loc[baseline, "value"], color=FAINT, linestyle="--", linewidth=1, zorder=1)
    axes.set_xscale("log", base=2)
    kept: list[int] = []
    for value in values:  # numbers that would run into each other are left out
        if not kept or value >= APART * kept[-1]:
            kept.append(value)
    axes.set_xticks(kept, [str(value) for value in kept], fontsize=7)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=8.5, color=INK)
    axes.set_xlabel(field.replace("_", " "))


def _handle(one: Series, look: Look) -> "Line2D":
    from matplotlib.lines import Line2D

    said = ", ".join(f"{field}={value!r}" for field, value in one.others)
    text = fmt.plain(f"{one.name}({said})" if said else one.name)
    return Line2D([], [], color=look.colour, marker=look.marker, markersize=4.5, linewidth=1.2, label=text)

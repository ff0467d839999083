"""Draws scores on the way against steps, seconds and FLOPs, and what each method spends to come near the baseline."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.charts.canvas import (
    FAINT,
    INK,
    QUIET_INK,
    ROW,
    Sheet,
    in_key,
    key,
    line_handles,
    mark,
    mark_size,
    new_figure,
    room_for,
    rows,
    scaled,
)
from bench.report.charts.curve_sheet import NAMED, below_key, beside_curves, name_ends
from bench.report.charts.tables import Tables
from bench.report.sections import curves
from bench.report.sections import overview as facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOM = 0.08
"""Share of the range of the means that stays free above and below them; wider bands are cut."""


class Spent(NamedTuple):
    """What scores stand against."""

    column: str
    """Of `bench.analysis.curve_table`."""
    title: str
    axis: str
    note: str
    """What the caption says of it."""
    tags: tuple[str, ...]
    units: tuple[tuple[float, str], ...] = ((1.0, ""),)


SPENT = {
    "score-steps": Spent("step", "Score over the steps", "optimizer step", "", ("scored",)),
    "score-seconds": Spent(
        "seconds", "Score over training time", "training time ({unit})",
        "Time: of the cells as they trained, readings left out; other cells ran beside them, so it is no clean timing.",
        ("scored", "timed"), ((3600.0, "h"), (60.0, "min"), (1.0, "s")),
    ),
    "score-flops": Spent(
        "flops", "Score over training FLOPs", "training FLOPs ({unit}FLOP)",
        "FLOPs: of forward and backward of all batches with their padding, from counts of the same model at other "
        "lengths.", ("scored", "counted"), ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")),
    ),
}  # fmt: skip
"""By figure."""


def score_on_the_way(tables: Tables, name: str) -> "Figure | None":
    """Draw the score of each method over what it spent, the mean over seeds with its interval, a panel a task.

    Returns:
        None where no score was read on the way, or this figure of it is not known.
    """
    spent = SPENT[name]
    table = tables.curves.reset_index()
    if table.empty or spent.column not in table:
        return None
    table = table.dropna(subset=[spent.column])
    tasks = [task for task in tables.tasks if task in set(table["task"])]
    if not tasks:
        return None
    shown = [label for label in tables.labels if label in set(table["method"])]
    size, unit = scaled(table[spent.column].to_numpy(dtype=float), spent.units)
    beside = len(tasks) <= NAMED
    sheet = beside_curves(tables, shown, len(tasks)) if beside else below_key(tables, shown, len(tasks))
    words = tables.words(spent.title, _caption(tables, spent, table), *spent.tags, shape="")
    figure, panels = new_figure(words, sheet)
    for axes, task in zip(panels, tasks, strict=True):
        part = table[table["task"] == task].assign(x=table[spent.column] / size)
        _curves(axes, tables, part)
        _near(axes, tables, task)
        if beside:
            name_ends(axes, tables, dict(part.groupby("method")["score"].last()))
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel(spent.axis.format(unit=unit))
    for axes in panels[:: len(sheet.widths)]:
        axes.set_ylabel("score (points of 100)")
    if not beside:
        key(figure, line_handles(tables.looks, shown), sheet, in_key(tables.looks, shown))
    return figure


def _caption(tables: Tables, spent: Spent, table: pd.DataFrame) -> str:
    share = f"{compare.NEAR:.0%}".replace("%", " %")
    lacking = [label for label in tables.curves.index.unique("method") if label not in set(table["method"])]
    left = f" Not counted, so not shown: {', '.join(map(fmt.plain, lacking))}." if lacking else ""
    return (
        f"Main metric x 100 on the test rows, read on the way; nothing is chosen by it. Mean over n = "
        f"{fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed); bands: 95 % interval over seeds "
        f"(Student t), cut at the panel's edge. Dashed: {share} of {tables.name}'s mean final score. {spent.note}{left}"
    ).strip()


def _curves(axes: "Axes", tables: Tables, part: pd.DataFrame) -> None:
    for label in [label for label in tables.labels if label in set(part["method"])]:
        found, look = part[part["method"] == label], tables.looks[label]
        axes.fill_between(found["x"], found["low"], found["high"], color=look.colour, alpha=0.1, linewidth=0, zorder=1)
        axes.plot(
            found["x"], found["score"], color=look.colour, linewidth=1.3, marker=look.marker,
            markersize=mark_size(look, 4.5), markeredgecolor="white", markeredgewidth=0.5,
            zorder=3 + (label == tables.baseline),
        )  # fmt: skip
    low, high = part["score"].min(), part["score"].max()
    room = ROOM * max(high - low, 1.0)
    axes.set_ylim(low - room, min(high + room, 101))
    axes.set_xlim(0, part["x"].max() * 1.02)
    axes.tick_params(axis="y", labelsize=8)


def _near(axes: "Axes", tables: Tables, task: str) -> None:
    """The score that counts as near the baseline's; a task without one has no line."""
    targets = tables.reached.table["target"].xs(task, level="task")
    low, high = axes.get_ylim()
    if len(targets) and low <= targets.iloc[0] <= high:
        axes.axhline(targets.iloc[0], color=FAINT, linewidth=1, linestyle="--", zorder=2)


def cost_to_reach(tables: Tables) -> "Figure | None":
    """Draw what each method spends until its score comes near the baseline's: a row of panels a task.

    Returns:
        None where no score was read on the way.
    """
    found = tables.reached
    tasks = [task for task in tables.tasks if task in found.table.index.get_level_values("task")]
    if not tasks or not found.table["reached"].any():
        return None
    names = [label for label in tables.labels if label in found.table.index.get_level_values("method")]
    shown = [column for column in _COLUMNS if found.table[column].notna().any()]
    sheet = Sheet(
        ROW * len(names), room_for(tables.looks, names), right=0.45, widths=(1.0,) * len(shown),
        panels=len(shown) * len(tasks), above=0.3, gap=0.3,
    )  # fmt: skip
    words = tables.words(curves.title(tables.run), _reach_caption(tables), "scored", "timed", shape="")
    figure, panels = new_figure(words, sheet)
    for deep, task in enumerate(tasks):
        cells = found.cells[found.cells["task"] == task]
        for at, column in enumerate(shown):
            axes = panels[deep * len(shown) + at]
            y = rows(axes, tables.looks, names, named=at == 0)
            _spent(axes, tables, column, cells, found.table.xs(task, level="task"), dict(zip(names, y, strict=True)))
            if at == 0:
                axes.set_title(fmt.plain(task), color=INK, loc="left")
        _seeds(panels[deep * len(shown) + len(shown) - 1], names, found.table.xs(task, level="task"))
    return figure


_COLUMNS = {"step": "steps", "seconds": "training time", "flops": "training FLOPs", "peak_bytes": "peak memory"}
_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "step": ((1.0, ""),), "seconds": SPENT["score-seconds"].units, "flops": SPENT["score-flops"].units,
    "peak_bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}  # fmt: skip


def _reach_caption(tables: Tables) -> str:
    share = f"{compare.NEAR:.0%}".replace("%", " %")
    return (
        f"Spent up to the first reading at {share} of {tables.name}'s mean final score or above; between readings "
        "nothing is known, so it is the most that was needed. Small dots: single seeds. Mark: median over all seeds, "
        "one that never came there counted as longer than any other; none where half of them or more did not. Right: "
        "seeds that came there. Time: of the cells as they trained. Memory: "
        f"{facts.memory_name(tables.costs)} of one training step of the probe, whether or not it came there."
    )


def _spent(
    axes: "Axes", tables: Tables, column: str, cells: pd.DataFrame, medians: pd.DataFrame, y: dict[str, float]
) -> None:
    known = [*medians[column].dropna(), *(cells[column].dropna() if column in cells else ())]
    size, unit = scaled(known, _UNITS[column])
    for label, height in y.items():
        look = tables.looks[label]
        if column in cells:
            seeds = cells.loc[cells["method"] == label, column].dropna() / size
            axes.plot(seeds, [height] * len(seeds), "o", color=look.colour, alpha=0.45, markersize=3, zorder=3)
        if label in medians.index and not np.isnan(medians.loc[label, column]):
            mark(axes, medians.loc[label, column] / size, height, look, 7)
    axes.set_xlim(0, max(known) / size * 1.08 if known else 1)
    letter = f"{unit}FLOP" if column == "flops" else unit
    axes.set_xlabel(_COLUMNS[column] + (f" ({letter})" if letter else ""))


def _seeds(axes: "Axes", names: list[str], medians: pd.DataFrame) -> None:
    """How many seeds came there, right of each row."""
    for at, label in enumerate(reversed(names)):
        if label in medians.index:
            row = medians.loc[label]
            text = f"{row['reached']}/{row['seeds']}"
            axes.text(1.02, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=QUIET_INK)

"""Curves over training: loss and scores on the way, and what each method spends to come near the baseline."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench.analysis.curves import NEAR
from bench.report import format as fmt
from bench.report.charts import canvas
from bench.report.charts.canvas import ACROSS, BYTES, FACET, FAINT, INK, MANY, QUIET_INK, WIDTH, Floats, Layout, Words
from bench.report.charts.labels import name_ends
from bench.report.charts.scores import BEST
from bench.report.charts.sheet import Sheet, groups
from bench.report.sections import overview as facts
from bench.report.sections.scores import reach_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 2
"""Panels up to which each names its own curves."""
ROOM = 0.08
"""Share of the range of the means that stays free above and below them; wider bands are cut."""
SMOOTH = 10
"""The running mean spans one part in so many of the steps."""
FEWEST, MOST, POINTS = 10, 400, 1000
"""Points of a curve that are drawn at least and at most, and of all curves: more would only make the file large."""


class Panel(NamedTuple):
    """One panel of curves."""

    axes: "Axes"
    task: str
    members: list[str]
    """Methods that it shows in their own look; all others are grey."""
    named: bool
    """Whether it has room for names at the ends of its curves; else there is a key."""


def _panels(sheet: Sheet, words: Words, shown: list[str], tasks: Sequence[str]) -> tuple["Figure", list[Panel]]:
    """A panel a task; where there are many methods, one a task and group of them, with the group's key beside it."""
    style = sheet.looks
    if len(shown) > MANY:
        return _facets(sheet, words, groups(style, shown, FACET), tasks)
    if len(tasks) <= NAMED:
        room = max(canvas.room_for(style, shown) - 0.1, 1.0)
        layout = Layout(
            max(3.2, 0.2 * len(shown)), left=0.6, right=room, widths=(1.0,) * len(tasks), above=0.3, gap=room + 0.4
        )
    else:
        texts = [style[label].text for label in shown]
        layout = Layout(
            2.0, left=0.6, widths=(1.0,) * ACROSS, panels=len(tasks), above=0.3, gap=0.45, keys=canvas.key_rows(texts)
        )
    figure, drawn = canvas.new_figure(words, layout)
    if layout.keys:
        canvas.key(figure, [canvas.line_handle(style[label]) for label in shown], layout)
    for axes, task in zip(drawn, tasks, strict=True):
        axes.set_title(fmt.plain(task), color=INK)
    named = not layout.keys
    return figure, [Panel(axes, task, shown, named) for axes, task in zip(drawn, tasks, strict=True)]


def _facets(
    sheet: Sheet, words: Words, parts: list[tuple[str, list[str]]], tasks: Sequence[str]
) -> tuple["Figure", list[Panel]]:
    """Rows of panels: one group of methods each, a panel a task; two groups side by side where there is one task."""
    style = sheet.looks
    alone = len(tasks) == 1
    room = max(canvas.room_for(style, members) for _, members in parts) + (-0.1 if alone else 0.1)
    per_part = -(-len(tasks) // ACROSS) * ACROSS if len(tasks) > ACROSS else len(tasks)
    across, gap = (2, room + 0.45) if alone else (min(ACROSS, len(tasks)), 0.45)
    height = max(1.5, 0.18 * max(len(members) for _, members in parts))
    layout = Layout(height, left=0.6, right=room, widths=(1.0,) * across, panels=per_part * len(parts), above=0.3,
                    gap=gap)  # fmt: skip
    figure, drawn = canvas.new_figure(words, layout)
    found = []
    for at, (title, members) in enumerate(parts):
        mine = drawn[at * per_part : (at + 1) * per_part]
        for axes, task in zip(mine, tasks, strict=False):
            axes.set_title(title if alone else f"{fmt.plain(task)}: {title}", color=INK)
            found.append(Panel(axes, task, members, alone))
        for axes in mine[len(tasks) :]:
            axes.set_axis_off()
        if alone:
            continue
        last = mine[min(across, len(tasks)) - 1]
        last.legend(
            handles=[canvas.line_handle(style[label]) for label in members], loc="upper left", borderaxespad=0,
            bbox_to_anchor=(1 + 0.1 / (WIDTH * last.get_position().width), 1.04), labelspacing=0.35, handlelength=1.8,
        )  # fmt: skip
    return figure, found


Ends = Mapping[str, Mapping[str, tuple[float, float]]]
"""By task and label the last point of a curve."""


def _finish(sheet: Sheet, panels: list[Panel], ends: Ends, below: str, beside: str) -> None:
    """Labels of the axes, and names at the ends of the curves where there is room for them."""
    lefts = {round(panel.axes.get_position().x0, 3) for panel in panels}
    for panel in panels:
        panel.axes.set_xlabel(below)
        panel.axes.tick_params(axis="y", labelsize=8)
        if round(panel.axes.get_position().x0, 3) == min(lefts):
            panel.axes.set_ylabel(beside)
        if panel.named:
            name_ends(panel.axes, sheet.looks, {k: end for k, end in ends[panel.task].items() if k in panel.members})


def training_loss(sheet: Sheet) -> "Figure | None":
    """The loss of each method over the steps, mean over seeds."""
    losses = _losses(sheet)
    if not losses:
        return None
    once = not any(record.curve for record in sheet.score_records)
    caption = (
        f"Training loss of each step, mean over n = {fmt.plural(sheet.seeds, 'seed')} (fewer where cells failed) and "
        f"over the {SMOOTH} % of the steps before it; no interval. It is the loss of the rows that were trained on, "
        f"not a score{': scores are taken once, after the last step' if once else ''}."
    )
    shown = [label for label in sheet.labels if any(label in by_label for by_label in losses.values())]
    title = f"Training loss over the steps{' (no curve of scores was recorded)' if once else ''}"
    figure, panels = _panels(sheet, sheet.words(title, caption, "scored"), shown, list(losses))
    points = int(np.clip(POINTS / sum(map(len, losses.values())), FEWEST, MOST))
    for axes, task, members, _ in panels:
        curves = {label: _thinned(values, points) for label, values in losses[task].items()}
        _behind(axes, [curve for label, curve in curves.items() if label not in members])
        for label in (label for label in members if label in curves):
            steps, values = curves[label]
            look = canvas.line(sheet.looks[label], 6) | {"markevery": [len(steps) - 1], "clip_on": False}
            axes.plot(steps, values, **look)
        axes.set_xlim(1, max(map(len, losses[task].values())))
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    ends = {
        task: {label: (len(values), values[-1]) for label, values in by_label.items()}
        for task, by_label in losses.items()
    }
    _finish(sheet, panels, ends, "step", "training loss")
    return figure


def _thinned(values: Floats, points: int) -> tuple[Floats, Floats]:
    """Steps and values of at most so many points of a curve."""
    at = np.unique(np.linspace(0, len(values) - 1, min(len(values), points)).astype(int))
    return at + 1.0, values[at]


def _behind(axes: "Axes", curves: Sequence[tuple[Floats, Floats]]) -> None:
    """Draw the curves of other groups in grey."""
    from matplotlib.collections import LineCollection

    lines = [np.column_stack(curve) for curve in curves]
    axes.add_collection(LineCollection(lines, colors="#dddddd", linewidths=0.8, zorder=1.5))


def _losses(sheet: Sheet) -> dict[str, dict[str, Floats]]:
    """By task and label the mean over seeds of the loss, smoothed; a curve of one step is none."""
    seeds: dict[str, dict[str, list[Floats]]] = {}
    for record in sheet.score_records:
        if len(record.losses) > 1:
            by_label = seeds.setdefault(record.task_name, {})
            by_label.setdefault(record.method.label, []).append(np.array(record.losses))
    return {
        task: {label: _smooth(_mean(seeds[task][label])) for label in sheet.labels if label in seeds[task]}
        for task in sheet.tasks
        if task in seeds
    }


def _mean(seeds: list[Floats]) -> Floats:
    steps = min(map(len, seeds))
    return np.asarray(np.mean([losses[:steps] for losses in seeds], axis=0))


def _smooth(losses: Floats) -> Floats:
    """The mean of each value and those before it."""
    span = max(1, len(losses) // SMOOTH)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - span)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


class Spent(NamedTuple):
    """What scores stand against."""

    column: str
    """Of `bench.analysis.curves.curve_table`."""
    title: str
    axis: str
    note: str
    """What the caption says of it."""
    badges: tuple[str, ...]
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


def score_on_the_way(sheet: Sheet, name: str) -> "Figure | None":
    """Draw the score of each method over what it spent, the mean over seeds with its interval, a panel a task.

    Returns:
        None where no score was read on the way, or this figure of it is not known.
    """
    spent = SPENT[name]
    table = sheet.results.curve_table.reset_index()
    if table.empty or spent.column not in table:
        return None
    table = table.dropna(subset=[spent.column])
    tasks = [task for task in sheet.tasks if task in set(table["task"])]
    if not tasks:
        return None
    shown = [label for label in sheet.labels if label in set(table["method"])]
    size, unit = canvas.scaled(table[spent.column].to_numpy(dtype=float), spent.units)
    words = sheet.words(spent.title, _spent_caption(sheet, spent, table), *spent.badges, shape="")
    figure, panels = _panels(sheet, words, shown, tasks)
    table = table.assign(x=table[spent.column] / size)
    for axes, task, members, _ in panels:
        _readings(axes, sheet, table[table["task"] == task], members, sheet.results.least_scores[task])
        _near(axes, sheet, task)
    last = {task: table[table["task"] == task].groupby("method")[["x", "score"]].last() for task in tasks}
    ends = {task: {str(row.Index): (row.x, row.score) for row in part.itertuples()} for task, part in last.items()}
    _finish(sheet, panels, ends, spent.axis.format(unit=unit), "score (points of 100)")
    return figure


def _share() -> str:
    return f"{NEAR:.0%}".replace("%", " %")


def _spent_caption(sheet: Sheet, spent: Spent, table: pd.DataFrame) -> str:
    lacking = [label for label in sheet.results.curve_table.index.unique("method") if label not in set(table["method"])]
    left = f" Not counted, so not shown: {', '.join(map(fmt.plain, lacking))}." if lacking else ""
    return (
        f"Main metric x 100 on the test rows, read on the way; nothing is chosen by it. Mean over n = "
        f"{fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed); bands: 95 % interval over seeds "
        f"(Student t), cut at the panel's edge. Dashed: {_share()} of {sheet.name}'s mean final score. "
        f"{spent.note}{left}"
    ).strip()


def _readings(axes: "Axes", sheet: Sheet, part: pd.DataFrame, members: list[str], least: float) -> None:
    curves = {label: part[part["method"] == label] for label in sheet.labels if label in set(part["method"])}
    others = [(read["x"].to_numpy(), read["score"].to_numpy()) for k, read in curves.items() if k not in members]
    _behind(axes, others)
    for label in (label for label in members if label in curves):
        read, look = curves[label], canvas.line(sheet.looks[label], 4.5)
        axes.plot(read["x"], read["score"], **look)
        axes.fill_between(read["x"], read["low"], read["high"], color=look["color"], alpha=0.06, linewidth=0, zorder=1)
    low, high = part["score"].min(), part["score"].max()
    room = ROOM * max(high - low, 1.0)
    axes.set_ylim(max(low - room, least), min(high + room, BEST))
    axes.set_xlim(0, part["x"].max() * 1.02)


def _near(axes: "Axes", sheet: Sheet, task: str) -> None:
    """The score that counts as near the baseline's; a task without one has no line."""
    targets = sheet.results.reached.table["target"].xs(task, level="task")
    low, high = axes.get_ylim()
    if len(targets) and low <= targets.iloc[0] <= high:
        axes.axhline(targets.iloc[0], color=FAINT, linewidth=1, linestyle="--", zorder=2)


def cost_to_reach(sheet: Sheet) -> "Figure | None":
    """Draw what each method spends until its score comes near the baseline's: a row of panels a task.

    Returns:
        None where no score was read on the way.
    """
    table, cells = sheet.results.reached.table, sheet.results.reached.cells
    tasks = [task for task in sheet.tasks if task in table.index.get_level_values("task")]
    if not tasks or not table["reached"].any():
        return None
    names = [label for label in sheet.labels if label in table.index.get_level_values("method")]
    shown = [column for column in _COLUMNS if table[column].notna().any()]
    layout = Layout(
        canvas.depth(sheet.looks, names), canvas.room_for(sheet.looks, names), right=0.45, widths=(1.0,) * len(shown),
        panels=len(shown) * len(tasks), above=0.3, gap=0.3,
    )  # fmt: skip
    words = sheet.words(reach_title(sheet.results), _reach_caption(sheet), "scored", "timed", shape="")
    figure, panels = canvas.new_figure(words, layout)
    for deep, task in enumerate(tasks):
        medians = table.xs(task, level="task")
        row = panels[deep * len(shown) : (deep + 1) * len(shown)]
        for axes, column in zip(row, shown, strict=True):
            y = canvas.rows(axes, sheet.looks, names, named=axes is row[0])
            at = dict(zip(names, y, strict=True))
            _reach(axes, sheet, column, cells[cells["task"] == task], medians, at)
        row[0].set_title(fmt.plain(task), color=INK, loc="left")
        _reached_by(row[-1], medians, at)
    return figure


_COLUMNS = {"step": "steps", "seconds": "training time", "flops": "training FLOPs", "peak_bytes": "peak memory"}
_UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "step": ((1.0, ""),), "seconds": SPENT["score-seconds"].units, "flops": SPENT["score-flops"].units,
    "peak_bytes": BYTES,
}  # fmt: skip


def _reach_caption(sheet: Sheet) -> str:
    return (
        f"Spent up to the first reading at {_share()} of {sheet.name}'s mean final score or above; between readings "
        "nothing is known, so it is the most that was needed. Small dots: single seeds. Mark: median over all seeds, "
        "one that never came there counted as longer than any other; none where half of them or more did not. Right: "
        "seeds that came there. Time: of the cells as they trained. Memory: "
        f"{facts.memory_name(sheet.costs)} of one training step of the probe, whether or not it came there."
    )


def _reach(
    axes: "Axes", sheet: Sheet, column: str, cells: pd.DataFrame, medians: pd.DataFrame, y: dict[str, float]
) -> None:
    known = [*medians[column].dropna(), *(cells[column].dropna() if column in cells else ())]
    size, unit = canvas.scaled(known, _UNITS[column])
    for label, height in y.items():
        look = sheet.looks[label]
        if column in cells:
            seeds = cells.loc[cells["method"] == label, column].dropna() / size
            axes.plot(seeds, [height] * len(seeds), "o", color=look.colour, alpha=0.45, markersize=3, zorder=3)
        if label in medians.index and not np.isnan(medians.loc[label, column]):
            canvas.mark(axes, medians.loc[label, column] / size, height, look, 7)
    axes.set_xlim(0, max(known) / size * 1.08 if known else 1)
    letter = f"{unit}FLOP" if column == "flops" else unit
    axes.set_xlabel(_COLUMNS[column] + (f" ({letter})" if letter else ""))


def _reached_by(axes: "Axes", medians: pd.DataFrame, y: dict[str, float]) -> None:
    """How many seeds came there, right of each row."""
    for label, height in y.items():
        if label in medians.index:
            text = f"{medians.loc[label, 'reached']}/{medians.loc[label, 'seeds']}"
            axes.text(1.02, height, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8,
                      color=QUIET_INK)  # fmt: skip

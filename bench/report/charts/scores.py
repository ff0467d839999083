"""Scores by task and against costs, and what happens inside training: gradients and directions."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bench.report import format as fmt
from bench.report.charts import canvas
from bench.report.charts.canvas import ACROSS, FACET, FAINT, INK, MEANING, QUIET_INK, Floats, Layout, Words
from bench.report.charts.labels import MARK, boxes, half_size, place
from bench.report.charts.sheet import Sheet, groups
from bench.report.sections import overview as facts
from bench.stats.intervals import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = 100.0
"""Points that no score exceeds."""
ROOM = 0.08
"""Share of the range of scores and their intervals that stays free above and below them."""
GREY = 2.0
"""Half the size, in points, of the marks of other panels' methods."""
Lines = list[tuple[tuple[float, float], tuple[float, float]]]
"""By their ends, in data coordinates."""


class Cost(NamedTuple):
    """What scores are held against."""

    column: str
    """Of `bench.analysis.costs.cost_table`."""
    name: str
    axis: str
    """What stands below the axis, its unit with it."""
    note: str
    """What the caption says of it."""
    badges: tuple[str, ...]
    unit: float = 1.0
    log: bool = False
    letter: str = ""
    """Unit beside the numbers of a logarithmic axis."""
    from_zero: bool = True
    """Whether a linear axis begins at 0."""
    less: str = "cheaper"
    """What a method with less of it is."""


COSTS = {
    "score-parameters": Cost(
        "trainable_method", "trainable parameters", "trainable params (excl. head), log scale{zero}",
        "Parameters: those that get a gradient, without the head's.", ("scored", "counted"), log=True,
    ),
    "score-memory": Cost(
        "peak_step_bytes", "peak memory", "peak memory of one training step (MB)",
        "Memory: largest allocation within one training step.", ("scored",), unit=1e6,
    ),
    "score-time": Cost(
        "step_seconds", "time of a training step", "time of one training step (ms)",
        "Time: median over the step's interleaved blocks.", ("scored", "timed"), unit=1e-3,
    ),
    "score-stored": Cost(
        "delta_bytes", "bytes stored per task", "bytes stored per task (excl. head), log scale{zero}",
        "Stored: what inference needs beside the backbone and the head.", ("scored", "counted"), log=True, letter="B",
    ),
}  # fmt: skip
"""By figure."""
RETENTION = Cost(
    "bits", "what is kept of plain texts", "bits per byte after training, mean over texts (lower: more is kept)",
    "Bits per byte: mean over the plain texts that are read and over seeds. Thin lines: the way over the steps, cut at "
    "the panel's edge.", ("scored",), from_zero=False, less="less forgetful",
)  # fmt: skip


def score_against(sheet: Sheet, name: str) -> "Figure | None":
    """Draw the mean score of each method against the cost of the figure ``name``.

    Names stand in one panel where they find room there, else in a panel a group of methods, else in a key.

    Returns:
        None where no method has both.
    """
    cost = _as_measured(sheet, COSTS[name])
    table = _beside_scores(sheet, sheet.results.method_cost(cost.column) / cost.unit)
    return None if table.empty else _drawn(sheet, cost, table)


def score_retention(sheet: Sheet) -> "Figure | None":
    """Draw the mean score of each method against the bits per byte that it needs after training, and the way there.

    Returns:
        None where no method has read a plain text.
    """
    way = sheet.results.retention_curve
    if way.empty:
        return None
    last = way.groupby(level=["method", "task"])["bits"].last().groupby(level="method").mean()
    table = _beside_scores(sheet, last)
    if table.empty:
        return None
    figure = _drawn(sheet, RETENTION, table)
    for axes in figure.axes:
        for label in table.index:
            path = way.xs(label, level="method").groupby(level="step").mean()
            colour = sheet.looks[label].colour
            axes.plot(path["bits"], path["score"], color=colour, alpha=0.3, linewidth=0.8, zorder=1.2)
    return figure


def _beside_scores(sheet: Sheet, cost: "pd.Series[float]") -> pd.DataFrame:
    """``cost mean low high`` of each method that has both."""
    scores = sheet.results.score_table
    table = pd.DataFrame(
        {"cost": cost, "mean": scores["mean"], "low": scores["mean_low"], "high": scores["mean_high"]}
    ).dropna(subset=["cost", "mean"])
    return table.loc[[label for label in sheet.labels if label in table.index]]


def _drawn(sheet: Sheet, cost: Cost, table: pd.DataFrame) -> "Figure":
    """With names where they have room."""
    labels = list(table.index)
    parts = groups(sheet.looks, labels, FACET)
    figure, clean = _scatter(sheet, cost, table, [("", labels)])
    if not clean and len(parts) > 1:
        figure, clean = _scatter(sheet, cost, table, parts)
    return figure if clean else _with_key(sheet, cost, table, parts)


Parts = Sequence[tuple[str, list[str]]]
"""Groups of methods, each with its title."""


def _scatter(sheet: Sheet, cost: Cost, table: pd.DataFrame, parts: Parts) -> tuple["Figure", bool]:
    """A panel a group, which names its own methods; whether every name found a place of its own."""
    if len(parts) == 1:
        layout = Layout(4.6, left=0.62)
    else:
        layout = Layout(2.6, left=0.62, widths=(1.0, 1.0), panels=len(parts), above=0.3, gap=0.45)
    figure, panels = canvas.new_figure(_words(sheet, cost, len(parts) > 1), layout)
    clean = True
    for at, (axes, (title, members)) in enumerate(zip(panels, parts, strict=True)):
        x = _dressed(axes, cost, table, _least(sheet), beside=at % len(layout.widths) == 0)
        axes.set_title(title, color=INK)
        covered = _marks(axes, sheet, table, x, members)
        points = dict(zip(table.index, zip(x, table["mean"], strict=True), strict=True))
        rest = [
            (*point, half_size(sheet.looks[label]) if label == sheet.baseline else GREY)
            for label, point in points.items()
            if label not in members
        ]
        named = [points[label] for label in members]
        clean &= place(axes, named, [sheet.looks[label] for label in members], boxes(axes, covered), rest)
    return figure, clean


def _with_key(sheet: Sheet, cost: Cost, table: pd.DataFrame, parts: Parts) -> "Figure":
    """All methods in one panel, and right of it their marks and names, by group."""
    from matplotlib.lines import Line2D

    titles = [title for title, _ in parts]
    room = canvas.room_for(sheet.looks, list(table.index), titles) + 0.1
    layout = Layout(max(4.6, 0.19 * (len(table) + len(parts))), left=0.62, right=room)
    figure, (axes,) = canvas.new_figure(_words(sheet, cost), layout)
    _marks(axes, sheet, table, _dressed(axes, cost, table, _least(sheet), beside=True), list(table.index))
    handles, above = list[Line2D](), ""
    for title, members in parts:
        if title not in (above, sheet.looks[members[0]].text):
            handles.append(Line2D([], [], linestyle="none", label=title))
        handles += [canvas.line_handle(sheet.looks[label]) for label in members]
        above = title
    told = axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.01), borderaxespad=0, handlelength=1.2
    )
    for of_key, handle, text in zip(handles, told.legend_handles, told.get_texts(), strict=True):
        if handle is not None:
            handle.set(linestyle="none", markersize=MARK)
        if of_key.get_marker() == "None":
            text.set(color=QUIET_INK, style="italic")
    return figure


def _words(sheet: Sheet, cost: Cost, in_groups: bool = False) -> Words:
    shape = "" if cost.log or not cost.from_zero else None  # what is trained, stored and kept does not depend on it
    grey = " Grey: the methods of the other panels." * in_groups
    return sheet.words(f"Score against {cost.name}", _caption(sheet, cost) + grey, *cost.badges, shape=shape)


def _least(sheet: Sheet) -> float:
    """Points that no mean over the tasks falls below."""
    found = sheet.results.least_scores
    return sum(found.values()) / len(found)


def _dressed(axes: "Axes", cost: Cost, table: pd.DataFrame, least: float, *, beside: bool) -> Floats:
    """Set scales, limits and labels, the same in every panel; returns where the costs stand."""
    x = table["cost"].to_numpy()
    if cost.log:
        x, zero = _log_with_zero(axes, x, cost.letter)
        axes.set_xlabel(cost.axis.format(zero="; 0 left of the break" if zero else ""))
    else:
        axes.set_xlabel(cost.axis)
        span = x.max() - x.min() or 1.0
        axes.set_xlim(*((0, x.max() * 1.12) if cost.from_zero else (x.min() - ROOM * span, x.max() + 0.3 * span)))
    low, high = float(table[["low", "mean"]].min().min()), float(table[["high", "mean"]].max().max())
    room = ROOM * (high - low) or 1.0
    axes.set_ylim(max(low - room, least), min(high + room, BEST))
    axes.tick_params(axis="y", labelsize=8)
    if beside:
        axes.set_ylabel("mean score (points of 100)")
    return np.asarray(x)


def _as_measured(sheet: Sheet, cost: Cost) -> Cost:
    """Memory says whether a GPU measured it."""
    if cost.column != "peak_step_bytes":
        return cost
    name = facts.memory_name(sheet.costs)
    badge = "measured" if sheet.peak_source == "cuda_allocated" else "counted"
    return cost._replace(name=name, axis=f"{name} of one training step (MB)", badges=("scored", badge))


def _caption(sheet: Sheet, cost: Cost) -> str:
    return (
        f"Score: mean of the main metric x 100 over {', '.join(map(fmt.plain, sheet.tasks))}; "
        f"n = {fmt.plural(sheet.seeds, 'seed')}. {MEANING} over seeds (Student t), none below 2 seeds, cut at "
        f"{_least(sheet):g} and {BEST:g}. "
        f"{cost.note} Line: Pareto front of the means; a method on it has none that is both {cost.less} and better. "
        "Ringed: the baseline."
    )


def _marks(axes: "Axes", sheet: Sheet, table: pd.DataFrame, x: Floats, members: Sequence[str]) -> Lines:
    """Draw the front and the marks, those of others than ``members`` grey; returns the lines that names keep off."""
    front = pareto_front(np.column_stack([x, table["mean"]]))
    corners = sorted(zip(x[front], table["mean"][front], strict=True))
    axes.step(*zip(*corners, strict=True), where="post", color="#c4c4c4", linewidth=1.6, zorder=1)
    lines: Lines = []
    for (left, below), (right, above) in itertools.pairwise(corners):
        lines += [((left, below), (right, below)), ((right, below), (right, above))]
    for label, at, row in zip(table.index, x, table.itertuples(), strict=True):
        look = sheet.looks[label]
        if label not in members and not look.is_baseline:
            axes.plot(at, row.mean, "o", color="#bbbbbb", markersize=2 * GREY, zorder=1.5, clip_on=False)
            continue
        if not np.isnan(row.low):
            lines.append(((at, row.low), (at, row.high)))
            axes.vlines(at, row.low, row.high, color=look.colour, alpha=0.45, linewidth=1.2, zorder=2)
        canvas.mark(axes, at, row.mean, look, MARK, ring=True, clip_on=False)
    return lines


def _log_with_zero(axes: "Axes", x: Floats, letter: str) -> tuple[Floats, bool]:
    """Set a log axis; zeros move left of a visible break, where a tick says 0.

    Returns:
        ``x`` with zeros replaced by the place that stands for them, and whether there are any.
    """
    positive = x[x > 0]
    if not positive.size:
        axes.set_xticks([0], ["0"])
        return x, False
    axes.set_xscale("log")
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()) + 0.15)
    right = positive.max() * 10**0.45
    ticks = [tick for power in np.arange(low, high + 1) if (tick := 10.0**power) <= right]
    names = [_tick(tick, letter) for tick in ticks]
    axes.minorticks_off()
    axes.set_xlim(10 ** (low - 0.15), right)
    zero = positive.size < x.size
    if zero:
        nothing, gap = 10 ** (low - 1), 10 ** (low - 0.5)
        ticks, names = [nothing, *ticks], ["0", *names]
        axes.set_xlim(10 ** (low - 1.6), right)
        axes.axvspan(10 ** (low - 0.55), 10 ** (low - 0.45), color="white", zorder=3)
        axes.plot(gap, 0, marker=[(-1, -2), (1, 2)], transform=axes.get_xaxis_transform(), color="#666666",
                  markersize=9, clip_on=False, zorder=7)  # fmt: skip
        x = np.where(x > 0, x, nothing)
    axes.set_xticks(ticks, names)
    return x, zero


def _tick(value: float, letter: str) -> str:
    return (fmt.size(value) if letter else fmt.count(value)).replace(".0", "")


def score_task(sheet: Sheet) -> "Figure | None":
    """The score of each method on each task, with its interval over seeds."""
    table = sheet.results.task_table
    tasks = [task for task in sheet.tasks if task in table.index.get_level_values("task")]
    if not tasks:
        return None
    names = [label for label in sheet.labels if label in table.index.get_level_values("method")]
    caption = (
        f"Main metric x 100 of each task, n = {fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed). "
        f"{MEANING} over seeds (Student t), cut at the least possible score and at {BEST:g}. Solid line: mean of "
        f"{sheet.name}. Dashed line: bag-of-words baseline on the same rows, which needs no language model."
    )
    across = min(ACROSS, len(tasks))
    layout = Layout(
        canvas.depth(sheet.looks, names), canvas.room_for(sheet.looks, names), widths=(1.0,) * across,
        panels=len(tasks), above=0.3, gap=0.3,
    )  # fmt: skip
    figure, panels = canvas.new_figure(sheet.words("Score per task", caption, "scored"), layout)
    for at, (axes, task) in enumerate(zip(panels, tasks, strict=True)):
        y = canvas.rows(axes, sheet.looks, names, named=at % across == 0)
        part = table.xs(task, level="task")
        for height, name in zip(y, names, strict=True):
            if name in part.index:
                row, look = part.loc[name], sheet.looks[name]
                canvas.interval(axes, height, row["low"], row["high"], look)
                canvas.mark(axes, row["mean"], height, look, clip_on=False)
        if sheet.baseline in part.index:
            axes.axvline(part.loc[sheet.baseline, "mean"], color=FAINT, linewidth=0.8, zorder=1)
        axes.axvline(part["floor"].max(), color=FAINT, linewidth=1, linestyle="--", zorder=1)
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, sheet.results.least_scores[task]), min(right, BEST))
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("score (points of 100)")
    return figure


MARKS = 24
"""Steps up to which every one has its mark."""
DECADES = 8
"""Powers of ten up to which every one has its number."""


def gradient_norms(sheet: Sheet) -> "Figure | None":
    """Draw the gradient norms of each method over the first steps, the mean over seeds, a panel a part and task.

    Returns:
        None where no record has any.
    """
    table = sheet.results.gradient_table.reset_index()
    if table.empty:
        return None
    tasks = [task for task in sheet.tasks if task in set(table["task"])]
    panels = [(task, part) for task in tasks for part in table.loc[table["task"] == task, "part"].unique()]
    shown = [label for label in sheet.labels if label in set(table["method"])]
    across = min(ACROSS, len(panels))
    keys = canvas.key_rows([sheet.looks[label].text for label in shown])
    layout = Layout(2.7, left=0.82, widths=(1.0,) * across, panels=len(panels), above=0.3, gap=0.62, keys=keys)
    words = sheet.words("Gradients of the first steps", _norms_caption(table), "scored", shape="")
    figure, drawn = canvas.new_figure(words, layout)
    scale = _Scale(table["mean"].to_numpy(dtype=float))
    for axes, (task, part) in zip(drawn, panels, strict=True):
        own = table[(table["task"] == task) & (table["part"] == part)]
        _norms(axes, sheet, own, scale)
        scale.dress(axes)
        _name_zeros(axes, sheet, own, scale)
        axes.set_title(f"part {fmt.plain(part)}" + (f", {fmt.plain(task)}" if len(tasks) > 1 else ""), color=INK)
        axes.set_xlabel("optimizer step")
    for axes in drawn[::across]:
        axes.set_ylabel("gradient norm (log scale)")
    canvas.key(figure, [canvas.line_handle(sheet.looks[label]) for label in shown], layout)
    return figure


def _norms_caption(table: pd.DataFrame) -> str:
    zero = " Below the break: exactly 0, in every seed." if (table["mean"] == 0).any() else ""
    return (
        "Norm (L2) of the gradient of all parameters of a part together, before clipping, at each of the first "
        f"{fmt.plural(int(table['step'].max()), 'optimizer step')}; mean over n = "
        f"{fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed), no interval.{zero} Rates warm up "
        "meanwhile where the recipe says so. The task head is left out."
    )


def _norms(axes: "Axes", sheet: Sheet, table: pd.DataFrame, scale: "_Scale") -> None:
    from matplotlib.ticker import MaxNLocator

    last = int(table["step"].max())
    for label in [label for label in sheet.labels if label in set(table["method"])]:
        mine = table[table["method"] == label]
        look = canvas.line(sheet.looks[label], 4) | {"markevery": max(1, last // MARKS), "clip_on": False}
        axes.plot(mine["step"], scale.place(mine["mean"].to_numpy(dtype=float)), **look)
    axes.set_xlim(1, max(last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _name_zeros(axes: "Axes", sheet: Sheet, table: pd.DataFrame, scale: "_Scale") -> None:
    """Write beside the line of a method that gets no gradient at all that it is meant so."""
    never = [label for label in sheet.labels if label in set(table.loc[table["mean"] == 0, "method"])]
    never = [label for label in never if not table.loc[table["method"] == label, "mean"].any()]
    if never:
        names = ", ".join(sheet.looks[label].text for label in never)
        axes.text(
            0.99, scale.above_zero, f"no gradient at any step: {names}", transform=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=7.5, style="italic", color=QUIET_INK, zorder=6,
        )  # fmt: skip


class _Scale:
    """A log axis for norms, with a place for exact zeros below a visible break."""

    def __init__(self, norms: Floats) -> None:
        positive = norms[norms > 0]
        self._zero = bool((norms == 0).any())
        smallest, largest = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
        self._low, self._high = np.floor(np.log10(smallest)), np.log10(largest) + 0.15
        self._step = 1 + int(self._high - self._low) // DECADES
        """Decades from one number of the axis to the next; zero lies as far below the lowest."""
        self.above_zero = 10.0 ** (self._low - 0.72 * self._step)
        """Just above the place of zero."""

    def place(self, norms: Floats) -> Floats:
        """``norms`` with zeros replaced by the place that stands for them."""
        return np.where(norms > 0, norms, 10.0 ** (self._low - self._step))

    def dress(self, axes: "Axes") -> None:
        """Set scale, limits and numbers; where there are zeros also their number and the break above them."""
        axes.set_yscale("log")
        powers = np.arange(self._low, self._high + 0.01, self._step)
        ticks, names = [10.0**power for power in powers], [f"{10.0**power:g}" for power in powers]
        bottom = self._low - 0.1 * self._step
        if self._zero:
            ticks, names = [float(self.place(np.zeros(1))[0]), *ticks], ["0", *names]
            bottom = self._low - 1.25 * self._step
            low, high = (10.0 ** (self._low - share * self._step) for share in (0.48, 0.42))
            axes.axhspan(low, high, color="white", zorder=4.5)
            axes.plot(0, 10.0 ** (self._low - 0.45 * self._step), marker=[(-2, -1), (2, 1)], markersize=9, zorder=7,
                      transform=axes.get_yaxis_transform(), color="#666666", clip_on=False)  # fmt: skip
        axes.set_yticks(ticks, names)
        axes.minorticks_off()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_ylim(10.0**bottom, 10.0**self._high)


def directions(sheet: Sheet) -> "Figure | None":
    """Overlap of each method's updates with W_0, with the baseline's update and with another seed's.

    Returns:
        None where no record has directions.
    """
    table = sheet.results.direction_table
    if table.empty:
        return None
    titles = {
        "with_weight": "with W_0",
        "with_baseline": f"with {fmt.brief(sheet.baseline)}'s update",
        "with_seed": "with another seed's",
    }
    titles = {column: title for column, title in titles.items() if table[column].notna().any()}
    labels = [label for label in sheet.labels if label in set(table["method"])]
    layout = Layout(
        canvas.depth(sheet.looks, labels),
        left=canvas.room_for(sheet.looks, labels),
        widths=(1.0,) * len(titles),
        above=0.32,
    )
    words = sheet.words("Directions of what training added to a weight", _directions_caption(table), "scored", shape="")
    figure, panels = canvas.new_figure(words, layout)
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        heights = canvas.rows(axes, sheet.looks, labels, named=axes is panels[0])
        for y, label in zip(heights, labels, strict=True):
            values = table.loc[table["method"] == label, column].dropna()
            if values.empty:
                continue
            look = sheet.looks[label]
            axes.plot(values, np.full(len(values), y), "o", color=look.colour, markersize=3, alpha=0.25)
            canvas.mark(axes, float(values.mean()), y, look)
        axes.axvline(float(table["by_chance"].mean()), color=FAINT, linestyle="--", linewidth=1)
        axes.set_xlim(-0.04, 1.04)
        axes.set_title(title, fontsize=8.5, color=INK)
        axes.set_xlabel("overlap (share)")
    return figure


def _directions_caption(table: pd.DataFrame) -> str:
    return (
        f"Share of the {int(table['leading'].max())} leading left singular directions of each update that lies in "
        f"those of the other matrix; an update of lower rank has fewer. A dot is one of {table['map'].nunique()} query "
        f"and value weights, {fmt.plural(table['seed'].nunique(), 'seed')} and "
        f"{fmt.plural(table['task'].nunique(), 'task')}, the mark their mean; dashed: two random subspaces "
        f"({table['by_chance'].mean():.3f})."
    )


def nearest_words(sheet: Sheet) -> "Figure | None":
    """Norm of each learned vector and its cosine to the nearest word, before and after training.

    Returns:
        None where no record has such vectors.
    """
    table = sheet.results.vector_table
    if table.empty:
        return None
    labels = [label for label in sheet.labels if label in set(table["method"])]
    left = canvas.room_for(sheet.looks, labels)
    layout = Layout(canvas.depth(sheet.looks, labels), left=left, widths=(1.0, 1.0), above=0.32)
    words = sheet.words("What prompts learned among the word embeddings", _vectors_caption(table), "scored", shape="")
    figure, (norms, cosines) = canvas.new_figure(words, layout)
    same = table.iloc[0]
    norms.axvspan(same["word_low"], same["word_high"], color=FAINT, alpha=0.25, linewidth=0)
    norms.set_xscale("log")
    for name, line in (("random_nearest", ":"), ("word_nearest", "--")):
        cosines.axvline(same[name], color=FAINT, linestyle=line, linewidth=1)
    cosines.set_xlim(-0.04, 1.04)
    panels = (
        (norms, "start_norm", "norm", "norm of the vectors"),
        (cosines, "start_nearest", "nearest", "to a word"),
    )
    for axes, before, after, title in panels:
        for y, label in zip(canvas.rows(axes, sheet.looks, labels, named=axes is norms), labels, strict=True):
            mine, look = table[table["method"] == label], sheet.looks[label]
            axes.plot(mine[after], np.full(len(mine), y), "o", color=look.colour, markersize=3, alpha=0.25)
            canvas.mark(axes, float(mine[before].mean()), y, look, hollow=True)
            canvas.mark(axes, float(mine[after].mean()), y, look)
        axes.set_title(title, fontsize=8.5, color=INK)
    norms.set_xlabel("norm (L2, log scale)")
    cosines.set_xlabel("cosine")
    return figure


def _vectors_caption(table: pd.DataFrame) -> str:
    return (
        f"Hollow: mean at the start; filled: mean once trained; dots: each of n = {len(table)} trained vectors of "
        f"{fmt.plural(table['seed'].nunique(), 'seed')}. Left: the band holds nine in ten words of the vocabulary. "
        "Right: cosine to the nearest word; dotted: what a random direction has, dashed: what a word has to another."
    )

"""One quantity varied: growth of memory, a method's size, learning rates and their search."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.analysis.costs import peak_column
from bench.analysis.sweeps import Crossover, Series, Shares, guests, series, shares
from bench.analysis.tuning import Outcome, Search
from bench.report import format as fmt
from bench.report.charts import canvas
from bench.report.charts.canvas import ACROSS, FACET, FAINT, INK, MANY, MEANING, QUIET_INK, SMALL, Layout, Words
from bench.report.charts.labels import apart
from bench.report.charts.sheet import Sheet, groups, looks
from bench.report.sections import tuning
from bench.report.sections.sweeps import still
from bench.schema.resolved import ResolvedSweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLACE = 0.26
"""Inches of one place in a ranking."""
BESIDE, APART = 2, 1.3
"""Panels of sizes side by side, and the least ratio of neighbouring numbers on their axis."""
EXPECTED_MAXIMUM = "expected-maximum"
GROWTH = (
    "Peak memory of one training step, counted on tensors without data: exact on any machine, n = 1; both axes "
    "logarithmic. Rings: where one curve passes another, of those pairs that the suite asks about. Dotted: counted "
    "on the backbone named beside the line, for such a pair."
)


def peak_growth(sheet: Sheet) -> "Figure | None":
    """One panel a sweep, both axes logarithmic; None without counts."""
    swept, hosts = sheet.results.swept, guests(sheet.run.suite)
    curves = {name: _peaks(sheet, name) for name in swept if name not in hosts}
    curves = {name: peaks for name, peaks in curves.items() if not peaks.dropna(how="all").empty}
    if not curves:
        return None
    shown = [label for label in sheet.labels if any(label in peaks.index for peaks in curves.values())]
    across = min(ACROSS, len(curves))
    layout = Layout(
        1.75, left=0.68, widths=(1.0,) * across, panels=len(curves), above=0.42, gap=0.5, below=0.5,
        keys=canvas.key_rows([sheet.looks[label].text for label in shown]),
    )  # fmt: skip
    figure, panels = canvas.new_figure(
        sheet.words("Growth: peak memory as one quantity grows", GROWTH, "counted"), layout
    )
    for axes, (name, peaks) in zip(panels, curves.items(), strict=True):
        _growth(sheet, axes, swept[name], name, peaks)
        for guest in (guest for guest, host in hosts.items() if host == name):
            _guest(sheet, axes, swept[guest], guest)
        for crossover in sheet.results.crossovers:
            if name in (crossover.asked.sweep, crossover.asked.than_sweep):
                _rings(axes, crossover)
    for axes in panels[::across]:
        axes.set_ylabel("peak memory (MB)")
    canvas.key(figure, [canvas.line_handle(sheet.looks[label]) for label in shown], layout)
    return figure


def _peaks(sheet: Sheet, name: str) -> pd.DataFrame:
    return sheet.results.sweep_table(name, "peak_memory") / 1e6


def _growth(sheet: Sheet, axes: "Axes", asked: ResolvedSweep, name: str, peaks: pd.DataFrame) -> None:
    for label, row in peaks.iterrows():
        axes.plot(row.index, row, **canvas.line(sheet.looks[str(label)], 4))
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ticks(axes, [int(value) for value in peaks.columns])
    axes.set_title(f"{fmt.plain(name)}\n{fmt.plain(still(asked))}", fontsize=8.5, color=INK)
    axes.set_xlabel(fmt.plain(asked.vary))


def _ticks(axes: "Axes", values: list[int]) -> None:
    """Plain numbers: of the counted values as many as stand apart, on the other axis 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    least = (np.log(values[-1]) - np.log(values[0])) / 6
    kept: list[int] = []
    for value in values:
        if not kept or np.log(value) - np.log(kept[-1]) >= least or value == values[-1]:
            kept.append(value)
    if len(kept) > 1 and np.log(kept[-1]) - np.log(kept[-2]) < least:
        del kept[-2]
    axes.set_xticks(kept, [str(value) for value in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(y=0.1)


def _guest(sheet: Sheet, axes: "Axes", asked: ResolvedSweep, name: str) -> None:
    """A curve from another backbone, named at its first point."""
    for label, row in _peaks(sheet, name).iterrows():
        colour = sheet.looks[str(label)].colour
        axes.plot(row.index, row, color=colour, linestyle=":", linewidth=1.2)
        start, text = (row.index[0], row.iloc[0]), fmt.plain(asked.backbone)
        axes.annotate(text, start, (1, -2), textcoords="offset points", va="top", fontsize=SMALL, color=colour)


def _rings(axes: "Axes", crossover: Crossover) -> None:
    if crossover.asked.figure != "peak_memory":
        return
    for crossing in crossover.crossings:
        share = (crossing.near - crossing.low) / (crossing.high - crossing.low)
        ends = crossover.curves["first"].loc[[crossing.low, crossing.high]].to_numpy() / 1e6
        at = (crossing.near, ends[0] + share * (ends[1] - ends[0]))
        axes.plot(*at, "o", markersize=9, markerfacecolor="none", color=INK, zorder=5)
        first = crossing.high if crossing.rises else crossing.low
        text = str(first) if crossing.exact else f"{crossing.low} to {crossing.high}"
        axes.annotate(
            text, at, (-4, 8), textcoords="offset points", ha="right", fontsize=8, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8},
        )  # fmt: skip


def against_size(sheet: Sheet) -> "Figure | None":
    """One panel a figure that the run has, one curve a series; None where no method stands at three values."""
    every = series(sheet.results)
    if not every:
        return None
    field = every[0].field
    shown = [one for one in every if one.field == field]
    panels = {title: panel for title, panel in _size_panels(sheet).items() if not panel["value"].dropna().empty}
    badges = ["counted"] + ["timed"] * any("time" in title for title in panels) + ["scored"] * ("score" in panels)
    drawn = [sheet.looks[next(iter(one.labels.values()))] for one in shown]
    texts = [_spelled(one) for one in shown]
    layout = Layout(1.7, left=0.7, widths=(1.0,) * BESIDE, panels=len(panels), above=0.3, gap=0.7, below=0.5,
                    keys=canvas.key_rows(texts))  # fmt: skip
    caption = f"Dashed: {sheet.name}. {MEANING} over seeds or blocks. The horizontal axis is logarithmic."
    words = sheet.words(f"Score and cost against {field.replace('_', ' ')}", caption, *badges)
    figure, axes = canvas.new_figure(words, layout)
    values = sorted({value for one in shown for value in one.labels})
    for at, (title, panel) in zip(axes, panels.items(), strict=True):
        for one, look in zip(shown, drawn, strict=True):
            row = panel.reindex(list(one.labels.values()))
            at.plot(list(one.labels), row["value"], **canvas.line(look, 4.5))
            if row["low"].notna().any():
                at.vlines(list(one.labels), row["low"], row["high"], color=look.colour, linewidth=0.9, alpha=0.7)
        _dress(at, title, field, panel, sheet.baseline, values)
    canvas.key(figure, [canvas.line_handle(look, text) for look, text in zip(drawn, texts, strict=True)], layout)
    return figure


def _size_panels(sheet: Sheet) -> dict[str, pd.DataFrame]:
    """``value low high`` by label; ``low high`` are NaN where the figure is counted."""
    costs, base = sheet.costs, fmt.brief(sheet.baseline)
    panels = {}
    if sheet.score_records:
        means = sheet.results.score_table[["mean", "mean_low", "mean_high"]]
        panels["score"] = means.set_axis(["value", "low", "high"], axis=1)
    for title, column in (
        ("forward FLOPs", "flops_forward"),
        ("backward FLOPs", "flops_backward"),
        ("stored bytes", "delta_bytes"),
        ("peak memory", peak_column(costs)),
    ):
        ratio = costs[column] / costs[column].get(sheet.baseline, float("nan"))
        panels[f"{title} / {base}"] = pd.DataFrame({"value": ratio, "low": float("nan"), "high": float("nan")})
    timed = costs[["step_ratio", "step_low", "step_high"]]
    panels[f"step time / {base}"] = timed.set_axis(["value", "low", "high"], axis=1)
    return panels


def _dress(axes: "Axes", title: str, field: str, panel: pd.DataFrame, baseline: str, values: list[int]) -> None:
    from matplotlib.ticker import NullLocator

    if baseline in panel.index:
        axes.axhline(panel.loc[baseline, "value"], color=FAINT, linestyle="--", linewidth=1, zorder=1)
    axes.set_xscale("log", base=2)
    kept: list[int] = []
    for value in values:  # numbers that would run into each other are left out
        if not kept or value >= APART * kept[-1]:
            kept.append(value)
    axes.set_xticks(kept, [str(value) for value in kept], fontsize=SMALL)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=8.5, color=INK)
    axes.set_xlabel(field.replace("_", " "))


def _spelled(one: Series) -> str:
    said = ", ".join(f"{field}={value!r}" for field, value in one.others)
    return fmt.plain(f"{one.name}({said})" if said else one.name)


HELD = {"total": "in place of rows of the task", "domain": "beside all of them"}
"""What becomes of the rows of the task."""
BETWEEN = 1.8
"""Points between the curves of two methods."""
FIRST_SHARE = 0.01
"""Share of general text from which on the axis is logarithmic."""


def against_share(sheet: Sheet) -> "Figure | None":
    """What methods forget of each plain text, and score, over the share of general text that they train on.

    Returns:
        None where no method was trained with a share of general text and without one.
    """
    every = shares(sheet.results)
    panels = _share_panels(sheet) if every else {}
    if not panels:
        return None
    texts = [f"{sheet.looks[one.label].text}, {HELD[one.hold]}" for one in every]
    layout = Layout(2.2, left=0.7, widths=(1.0,) * BESIDE, panels=len(panels), above=0.3, gap=0.7, below=0.5,
                    keys=canvas.key_rows(texts))  # fmt: skip
    caption = (
        f"n = {fmt.plural(sheet.seeds, 'seed')}. {MEANING} over seeds (Student t), cut at the panel's edge. Forgotten: "
        "bits per byte of a plain text after training, less those before. The horizontal axis is logarithmic from "
        f"{100 * FIRST_SHARE:g} % on."
    )
    figure, axes = canvas.new_figure(sheet.words("What a share of general text keeps", caption, "scored"), layout)
    for at, (title, panel) in zip(axes, panels.items(), strict=True):
        for place, one in enumerate(every):
            _over_shares(at, sheet, one, panel, BETWEEN * (place - (len(every) - 1) / 2))
        _dress_shares(at, title, sorted({share for one in every for share in one.labels}))
    handles = [canvas.line_handle(sheet.looks[one.label], text) for one, text in zip(every, texts, strict=True)]
    for one, handle in zip(every, handles, strict=True):
        handle.set(linestyle=_line(one))
    canvas.key(figure, handles, layout)
    return figure


def _share_panels(sheet: Sheet) -> dict[str, pd.DataFrame]:
    """``value low high`` by label: bits per byte forgotten of each text, then the score; means over tasks."""
    kept = sheet.results.retention_table
    panels = {}
    for text in kept.index.unique("text"):
        of_text = kept.xs(text, level="text")[["forgotten", "low", "high"]]
        panels[f"{fmt.plain(text)}: bits per byte forgotten"] = of_text.groupby(level="method").mean()
    panels["score (points of 100)"] = sheet.results.score_table[["mean", "mean_low", "mean_high"]]
    return {title: panel.set_axis(["value", "low", "high"], axis=1) for title, panel in panels.items()}


def _line(one: Shares) -> str:
    return "-" if one.hold == "total" else "--"


def _over_shares(axes: "Axes", sheet: Sheet, one: Shares, panel: pd.DataFrame, aside: float) -> None:
    """Draw one curve, so many points to the side that its intervals stand beside those of the others."""
    from matplotlib.transforms import ScaledTranslation

    at = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    row, look = panel.reindex(list(one.labels.values())), sheet.looks[one.label]
    axes.plot(list(one.labels), row["value"], transform=at, **canvas.line(look, 4.5) | {"linestyle": _line(one)})
    axes.vlines(list(one.labels), row["low"], row["high"], color=look.colour, linewidth=0.9, alpha=0.35, transform=at)


def _dress_shares(axes: "Axes", title: str, values: list[float]) -> None:
    """Limits are those of the means: intervals of few seeds would press them into a line."""
    from matplotlib.ticker import NullLocator

    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    room = 0.15 * (np.nanmax(drawn) - np.nanmin(drawn)) or 1.0
    axes.set_ylim(np.nanmin(drawn) - room, np.nanmax(drawn) + room)
    axes.set_xscale("symlog", linthresh=FIRST_SHARE)
    axes.set_xlim(-0.3 * FIRST_SHARE, 1.4 * values[-1])
    axes.set_xticks(values, [f"{100 * value:g}" for value in values], fontsize=SMALL)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, fontsize=8.5, color=INK)
    axes.set_xlabel("share of general text (% of the rows)")


def rank_slope(sheet: Sheet) -> "Figure | None":
    """A line a method from its place at default rates to its place at searched ones; None where no search is given."""
    change = sheet.change
    if change is None:
        return None
    ranked, names = change.table, list(change.table.index)
    side = canvas.room_for(sheet.looks, names) + canvas.text_width("100.0", 8) + 0.1
    words = sheet.words(tuning.RANKING, " ".join(tuning.sentences(change)), "scored", shape="")
    figure, (axes,) = canvas.new_figure(
        words, Layout(PLACE * (len(names) + 1), left=side, right=side, above=0.3, below=0.1)
    )
    ends = {column: _ranking(axes, sheet, ranked, column, x) for x, column in enumerate(("default", "tuned"))}
    for label in names:
        look = sheet.looks[label]
        heights = [at[label] for at in ends.values()]
        axes.plot([0, 1], heights, **canvas.line(look, 0) | {"marker": ""})
        for x, height in enumerate(heights):
            canvas.mark(axes, x, height, look, 6.5, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) + 0.5, 0.5)
    default = "" if change.default is None else f" ({tuning.pair(change.default)})"
    for x, text in enumerate((f"default rates{default}", "searched rates")):
        axes.text(x, 1.02, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8.5, color=INK)
    axes.set_axis_off()
    return figure


def _ranking(axes: "Axes", sheet: Sheet, ranked: pd.DataFrame, column: str, x: int) -> dict[str, float]:
    """Rank, name and score beside each end; those that share a rank stand below each other, at the heights returned."""
    rising = ranked.sort_values(f"{column}_rank", kind="stable")
    heights = apart(list(rising[f"{column}_rank"]), 0.8)
    for height, (label, row) in zip(heights, rising.iterrows(), strict=True):
        rank, score, look = tuning.rank(row[f"{column}_rank"]), fmt.points(row[column]), sheet.looks[str(label)]
        text = f"{rank}  {look.text}  {score}" if x else f"{score}  {look.text}  {rank}"
        axes.annotate(
            text, (x, height), (10 if x else -10, 0), textcoords="offset points", va="center", fontsize=8,
            ha="left" if x else "right", color=INK if look.is_baseline else QUIET_INK, annotation_clip=False,
            fontweight="bold" if look.is_baseline else "normal",
        )  # fmt: skip
    return dict(zip(map(str, rising.index), heights, strict=True))


def draw_search(search: Search, outcomes: Sequence[Outcome]) -> list[Path]:
    """Write ``plots/expected-maximum.png`` and ``.svg``; none, and none left from before, where nothing was chosen.

    Raises:
        BenchError: The folder cannot be written.
    """
    with canvas.styled():
        return canvas.save(_expected_maximum(search, outcomes), search.folder / "plots", EXPECTED_MAXIMUM)


def _expected_maximum(search: Search, outcomes: Sequence[Outcome]) -> "Figure | None":
    from matplotlib.ticker import MaxNLocator

    drawn = [outcome for outcome in outcomes if outcome.curve]
    tasks = [task for task in search.suite.tasks if any(outcome.task == task for outcome in drawn)]
    if not tasks:
        return None
    style = looks(search.suite.methods, search.suite.baseline)
    shown = [label for label in style if any(outcome.method == label for outcome in drawn)]
    parts = groups(style, shown, FACET) if len(shown) > MANY else [("", shown)]
    places = [(task, title, members) for task in tasks for title, members in parts]
    across = min(ACROSS, len(places))
    layout = Layout(
        3.0 if across == 1 else 2.2, left=0.7, widths=(1.0,) * across, panels=len(places), above=0.3, gap=0.5,
        keys=canvas.key_rows([style[label].text for label in shown]),
    )  # fmt: skip
    figure, panels = canvas.new_figure(_search_words(search, len(parts) > 1), layout)
    for axes, (task, title, members) in zip(panels, places, strict=True):
        for outcome in (outcome for outcome in drawn if outcome.task == task):
            curve = [100 * score for score in outcome.curve]
            behind = {"color": "#dddddd", "linewidth": 0.8, "zorder": 1.5}
            look = canvas.line(style[outcome.method], 4.5) if outcome.method in members else behind
            axes.plot(range(1, len(curve) + 1), curve, **look)
        axes.set_title(": ".join(filter(None, (fmt.plain(task), title))), color=INK)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[::across]:
        axes.set_ylabel("best score to expect (points)")
    canvas.key(figure, [canvas.line_handle(style[label]) for label in shown], layout)
    return figure


def _search_words(search: Search, in_groups: bool) -> Words:
    grid, grey = search.table, " Grey: the methods of the other panels." * in_groups
    caption = (
        f"{tuning.EXPECTED} n = {fmt.plural(len(grid.seeds), 'seed')} a trial, {grid.selection_rows} selection rows "
        "cut from train; no interval. A trial that diverged counts as the metric's worst value. The later a curve "
        f"grows flat, the more trials its method needs.{grey}"
    )
    badge = "scored · SYNTHETIC data" if tuning.is_synthetic(search) else "scored"
    return Words("What a search for learning rates finds", caption, tuning.header(search), (badge,))

"""What a training step and inference take: phases of the step, latency, operations; all against a base."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.analysis.costs import MODES, QUIET, measured_batches
from bench.report import format as fmt
from bench.report.charts import canvas
from bench.report.charts.canvas import ACROSS, FAINT, INK, MEANING, QUIET_INK, SMALL, WIDTH, Layout
from bench.report.charts.sheet import Look, Sheet
from bench.schema.record import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASES = {"forward": "#BBBBBB", "backward": "#77AADD", "optimizer": "#EEDD88"}
"""Phases of a step and their colours, of Paul Tol's "light" scheme."""
CONTROL = "A/A control"
NARROW = 6
"""Characters of a baseline's name that the title of a panel of ratios has room for; the caption has it in full."""
BAND = "#ececec"
"""Of ratios that count as none: within 3 % of 1."""
DARKEST = 2.0
"""Ratio from which the colour grows no darker."""
COUNTED = {"operations": "operations", "depth": "critical path", "flops": "FLOPs"}
SIDES = {"unmerged": 0.18, "merged": -0.18}
"""Modes and how far above the middle of its row each stands."""


def step_time(sheet: Sheet) -> "Figure | None":
    """Median time of each phase, stacked, and the ratio of each phase to the baseline's with its interval."""
    from matplotlib.patches import Patch

    costs = sheet.costs.dropna(subset=["backward_seconds"])
    if costs.empty:
        return None
    names, style = list(costs.index), sheet.looks
    blocks = int(costs["backward_blocks"].max())
    caption = (
        "Left: median wall time of each phase of one training step, milliseconds. Right: the same phase / that of "
        f"{sheet.name}, paired round by round. {MEANING} over n = {blocks} blocks. Shaded: within 3 %. Last row: the "
        "A/A control, the baseline against itself; where it leaves the band, differences of that size mean nothing."
    )
    extra = [CONTROL] if any(phase in sheet.controls.index for phase in PHASES) else []
    layout = Layout(
        canvas.depth(style, names, len(extra)),
        canvas.room_for(style, names, extra),
        widths=(2.4, 1, 1, 1),
        above=0.3,
        keys=1,
    )
    words = sheet.words("Where the time of one training step goes", caption, "timed")
    figure, (bars, *panels) = canvas.new_figure(words, layout)
    _stacked(bars, sheet, costs, extra)
    for axes, phase in zip(panels, PHASES, strict=True):
        y = canvas.rows(axes, style, names, extra, named=False)
        _band(axes)
        for at, (name, row) in zip(y, costs.iterrows(), strict=False):
            _point(axes, at, row, phase, style[str(name)])
        _control(axes, sheet.controls, [phase], y[-1])
        axes.set_title(f"{phase} / {sheet.name}" if len(sheet.name) <= NARROW else phase)
        axes.set_xlabel("ratio")
        top = axes.get_xlim()[1]
        axes.set_xlim(-0.06 * top, 1.03 * top)
    canvas.key(figure, [Patch(facecolor=colour, label=phase) for phase, colour in PHASES.items()], layout)
    return figure


def _stacked(axes: "Axes", sheet: Sheet, costs: pd.DataFrame, extra: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    names = list(costs.index)
    y = canvas.rows(axes, sheet.looks, names, extra)[: len(names)]
    left = np.zeros(len(names))
    for phase, colour in PHASES.items():
        left = canvas.stack(axes, y, left, 1e3 * costs[f"{phase}_seconds"].fillna(0).to_numpy(), colour)
    for at, end in zip(y, left, strict=True):
        axes.text(end, at, f" {fmt.seconds(end / 1e3)}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, left.max() * 1.24)
    axes.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
    axes.set_title("all three phases")
    axes.set_xlabel("time of one training step (ms)")


def latency(sheet: Sheet) -> "Figure | None":
    """Inference time against the bare backbone, unmerged and merged, one panel a batch size."""
    batches = measured_batches(sheet.costs)
    if not batches:
        return None
    columns = [f"{mode}_{batch}_ratio" for mode in MODES for batch in batches]
    costs = sheet.costs.dropna(subset=columns, how="all")
    names, style = list(costs.index), sheet.looks
    caption = (
        f"Inference time / that of the bare backbone with the same head, paired by round. {MEANING} over the n blocks "
        "named above each panel; bars wider than the panel are cut. Shaded: within 3 % of the base. Last row: the A/A "
        "control, the base against itself; where it leaves the band, differences of that size mean nothing. = alone: "
        "the method runs the base's own operations, so what was timed is noise."
    )
    across = min(ACROSS, len(batches))
    layout = Layout(
        canvas.depth(style, names, 1, 0.36), canvas.room_for(style, names, [CONTROL]), widths=(1.0,) * across,
        panels=len(batches), above=0.3, keys=1,
    )  # fmt: skip
    words = sheet.words(
        "Latency against the base model, unmerged and merged", caption, "timed", shape=_inference_shape(sheet)
    )
    figure, panels = canvas.new_figure(words, layout)
    same = _as_base(costs)
    for at, (axes, batch) in enumerate(zip(panels, batches, strict=True)):
        _latency_panel(axes, sheet, costs, batch, same, named=at % across == 0)
    canvas.key(figure, _latency_key(), layout)
    return figure


def _inference_shape(sheet: Sheet, length: bool = True, shape: Shape | None = None) -> str:
    """What inference ran on: as the probe's step, but for rows and their length; the drawn shape where left out."""
    shape = shape or sheet.shape
    if shape is None:
        return ""
    parts = [f"rows of {sheet.inference_length} tokens"] if length and sheet.inference_length else []
    parts += [fmt.plain(shape.dtype), fmt.plain(shape.attention), fmt.plural(shape.threads, "thread")]
    return ", ".join([*parts, fmt.plain(shape.device)])


def _latency_panel(axes: "Axes", sheet: Sheet, costs: pd.DataFrame, batch: str, same: set[str], *, named: bool) -> None:
    y = canvas.rows(axes, sheet.looks, list(costs.index), [CONTROL], named=named)
    _band(axes)
    timed = costs.drop(index=list(same))
    signs = []
    for at, (name, row) in zip(y, costs.iterrows(), strict=False):
        look, merged = sheet.looks[str(name)], not np.isnan(row[f"merged_{batch}_ratio"])
        if name in same:
            axes.text(1, at, "=", ha="center", va="center", fontsize=9, color=look.colour, fontweight="bold")
            continue
        _point(axes, at + SIDES["unmerged"] * merged, row, f"unmerged_{batch}", look)
        _point(axes, at + SIDES["merged"], row, f"merged_{batch}", look, hollow=True)
        if merged and row["merged_is_base"] is True:
            signs.append((row[f"merged_{batch}_high"], at + SIDES["merged"], look.colour))
    _control(axes, sheet.controls, [f"latency_{batch}", "latency"], y[-1])
    ratios = timed[[f"{mode}_{batch}_ratio" for mode in MODES]].to_numpy()
    low, high = min(0.9, np.nanmin(ratios, initial=1) - 0.05), max(1.1, np.nanmax(ratios, initial=1) + 0.05)
    if np.ptp(axes.get_xlim()) > 3 * (high - low):  # a noisy machine: keep the points apart, let bars run out
        axes.set_xlim(low, high)
    right = axes.get_xlim()[1]
    inside = right - 0.12 / (WIDTH * axes.get_position().width) * np.ptp(axes.get_xlim())
    for high, at, colour in signs:  # a bar that is cut has its sign on itself, at the panel's edge
        cut = high > inside
        axes.annotate("=", (right if cut else high, at), (-4 if cut else 4, -1), textcoords="offset points",
                      ha="right" if cut else "left", va="center", fontsize=8, color=colour, zorder=5,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5} if cut else None)  # fmt: skip
    blocks = int(np.nanmax(costs[[f"{mode}_{batch}_blocks" for mode in MODES]].to_numpy()))
    axes.set_title(f"batch {batch.removeprefix('batch_')}, n = {blocks} blocks")
    axes.set_xlabel("latency / base (ratio)")


def _as_base(costs: pd.DataFrame) -> set[str]:
    """Methods that infer with the base's own operations also unmerged, so that one timing stands for both modes."""
    modes = [costs[[f"{mode}_{batch}_ratio" for batch in measured_batches(costs)]] for mode in MODES]
    unmerged, merged = (mode.to_numpy() for mode in modes)
    one = ((unmerged == merged) | (np.isnan(unmerged) & np.isnan(merged))).all(axis=1)
    is_base = np.array([same is True for same in costs["merged_is_base"]], dtype=bool)
    return {str(name) for name in costs.index[is_base & one]}


def _latency_key() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.path import Path

    equals = Path([(-1, 0.4), (1, 0.4), (-1, -0.4), (1, -0.4)], [Path.MOVETO, Path.LINETO] * 2)
    look: dict[str, Any] = {"color": QUIET_INK, "linewidth": 1, "markersize": 5.5}
    return [
        Line2D([], [], marker="o", label="unmerged", **look),
        Line2D([], [], marker="o", markerfacecolor="white", label="merged", **look),
        Line2D([], [], linestyle="none", marker=equals, markersize=6, color=QUIET_INK,
               label="operations identical to the base, exactly"),
        Patch(facecolor=BAND, label="within 3 % of the base"),
    ]  # fmt: skip


def _band(axes: "Axes") -> None:
    axes.axvspan(*QUIET, color=BAND, zorder=0, linewidth=0)
    axes.axvline(1, color=FAINT, linewidth=0.8, zorder=1)


def _point(axes: "Axes", y: float, row: "pd.Series[Any]", name: str, look: Look, *, hollow: bool = False) -> None:
    """A ratio with its interval, in the method's look."""
    value, low, high = row[f"{name}_ratio"], row[f"{name}_low"], row[f"{name}_high"]
    if np.isnan(value):
        return
    canvas.interval(axes, y, low, high, look)
    canvas.mark(axes, value, y, look, 5 if hollow else 5.5, hollow=hollow)


def _control(axes: "Axes", controls: pd.DataFrame, keys: list[str], y: float) -> None:
    """The first of the named controls that was taken; a suite may have taken it more than once."""
    taken = next((key for key in keys if key in controls.index), None)
    if taken is None:
        return
    for _, row in controls.loc[[taken]].iterrows():
        axes.hlines(y, row["low"], row["high"], color=QUIET_INK, linewidth=1.6)
        axes.plot(row["ratio"], y, "|", color=QUIET_INK, markersize=9)


def latency_map(sheet: Sheet) -> "Figure | None":
    """Latency / base of each method in one cell a length and batch; None below two lengths, which one panel shows."""
    timed = sheet.results.latency_table
    if timed["length"].nunique() < 2:
        return None
    names = list(dict.fromkeys(timed["method"]))
    columns = timed[["length", "batch"]].drop_duplicates().sort_values(["length", "batch"])
    at = [(int(length), int(batch)) for length, batch in columns.itertuples(index=False)]
    caption = (
        "Inference time / that of the bare backbone with the same head, median over blocks of paired ratios. Grey "
        "figures: the 95 % interval contains 1. =: the base's own operations. -: not measured, or cannot be merged. "
        "Last row: the A/A control, the base against itself, by the end of its interval that lies further from 1; "
        f"where that is far, small differences mean nothing. Darkest from {DARKEST:g} on."
    )
    layout = Layout(canvas.depth(sheet.looks, names, 1), canvas.room_for(sheet.looks, names, [CONTROL]),
                    widths=(1.0, 1.0), above=0.3, below=0.68, gap=0.15)  # fmt: skip
    words = sheet.words("Latency at every length and batch", caption, "timed", shape=_inference_shape(sheet, False))
    figure, panels = canvas.new_figure(words, layout)
    for axes, mode in zip(panels, MODES, strict=True):
        y = canvas.rows(axes, sheet.looks, names, [CONTROL], named=axes is panels[0])
        _map_cells(axes, sheet, timed[timed["mode"] == mode], names, at, y)
        _map_control(axes, timed, at)
        _map_columns(axes, at)
        axes.set_title(f"{mode}, time / base", color=QUIET_INK, fontsize=8)
    return figure


def _map_cells(axes: "Axes", sheet: Sheet, timed: pd.DataFrame, names: list[str], at: list[tuple[int, int]],
               y: Any) -> None:  # fmt: skip
    import matplotlib
    from matplotlib.colors import ListedColormap

    ours = timed.set_index(["method", "length", "batch"])
    ratio = np.full((len(y), len(at)), np.nan)
    ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    base = _as_base(sheet.costs)
    for i, name in enumerate(names):
        for j, where in enumerate(at):
            row = ours.loc[(name, *where)] if (name, *where) in ours.index else None
            if row is None or name in base:
                axes.text(j, y[i], fmt.MISSING if row is None else "=", color=QUIET_INK, **ink)
                continue
            plain = row["low"] <= 1 <= row["high"]
            ratio[i, j] = np.nan if plain else row["ratio"]
            axes.text(j, y[i], fmt.ratio(row["ratio"]), color="#757575" if plain else INK, **ink)
    shades = matplotlib.colormaps["Oranges"](np.linspace(0.0, 0.7, 256))
    canvas.cells(axes, y, ratio, ListedColormap(shades).with_extremes(under="white", bad="white"), (1.0, DARKEST))


def _map_control(axes: "Axes", timed: pd.DataFrame, at: list[tuple[int, int]]) -> None:
    by_place = timed.groupby(["length", "batch"]).agg({"control_low": "min", "control_high": "max"})  # of all groups
    for j, where in enumerate(at):
        low, high = by_place.loc[where]
        if not np.isnan(low):
            far = max((low, high), key=lambda end: abs(np.log(end)))
            axes.text(j, 0, fmt.ratio(far), ha="center", va="center", fontsize=SMALL, color=QUIET_INK)


def _map_columns(axes: "Axes", at: list[tuple[int, int]]) -> None:
    """Batches below their columns, the length below the middle of its own, a line between lengths."""
    axes.set_xticks(range(len(at)), [str(batch) for _, batch in at], fontsize=SMALL)
    bottom = axes.get_ylim()[0]
    for length in dict.fromkeys(length for length, _ in at):
        own = [j for j, where in enumerate(at) if where[0] == length]
        axes.annotate(f"{length} tokens", ((own[0] + own[-1]) / 2, bottom), (0, -19), textcoords="offset points",
                      ha="center", va="top", fontsize=7.5, color=INK, annotation_clip=False)  # fmt: skip
        axes.axvline(own[-1] + 0.5, color=FAINT, linewidth=0.7)
    axes.set_xlabel("batch (rows), by length", labelpad=20, fontsize=7.5)


def inference(sheet: Sheet) -> "Figure | None":
    """Operations, critical path and FLOPs of one inference / the base model's; None where none was counted."""
    costs = sheet.costs.dropna(subset=["inference_base_operations"])
    if costs.empty:
        return None
    names, style = list(costs.index), sheet.looks
    base = {name: costs[f"inference_base_{name}"].iloc[0] for name in COUNTED}
    caption = (
        f"One inference of one row / the bare backbone with the same head, which takes {base['operations']:.0f} "
        f"operations, {base['depth']:.0f} of them on the critical path, and {fmt.count(base['flops'])} FLOPs. The "
        "critical path is the longest chain of operations that each need the one before. n = 1, no interval."
    )
    layout = Layout(
        canvas.depth(style, names),
        canvas.room_for(style, names),
        right=0.3,
        widths=(1.0,) * len(COUNTED),
        above=0.3,
        keys=1,
    )
    shape = f"1 row of {sheet.inference_length} tokens" if sheet.inference_length else None
    words = sheet.words("What one inference takes, unmerged and merged", caption, "counted", shape=shape)
    figure, panels = canvas.new_figure(words, layout)
    for axes, (name, title) in zip(panels, COUNTED.items(), strict=True):
        y = canvas.rows(axes, style, names, named=axes is panels[0])
        axes.axvline(1, color=FAINT, linewidth=0.8, zorder=1)
        ratios = costs[[f"inference_{mode}_{name}" for mode in MODES]].to_numpy() / base[name]
        for height, label, pair in zip(y, names, ratios, strict=True):
            for (mode, side), ratio in zip(SIDES.items(), pair, strict=True):
                if not np.isnan(ratio):
                    both = 0.9 * side if not np.isnan(pair).any() else 0.0
                    canvas.mark(axes, ratio, height + both, style[label], 5, hollow=mode == "merged")
        _say_ratios(axes, y, ratios)
        axes.set_title(title)
        axes.set_xlabel("ratio to the base")
    canvas.key(figure, _inference_key(), layout)
    return figure


def _say_ratios(axes: "Axes", y: Any, ratios: Any) -> None:
    """Write the unmerged ratio right of its row, with room."""
    low, high = float(min(1.0, np.nanmin(ratios))), float(np.nanmax(ratios))
    room = max(high - low, 0.1)
    axes.set_xlim(low - 0.08 * room, high + 0.32 * room)
    for height, ratio in zip(y, ratios[:, 0], strict=True):
        axes.annotate(fmt.ratio(ratio), (1, height), (-2, 0), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", ha="right", va="center", fontsize=SMALL, color=INK)  # fmt: skip


def _inference_key() -> list[Any]:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"color": QUIET_INK, "linestyle": "none", "marker": "o", "markersize": 5.5}
    return [
        Line2D([], [], label="unmerged (figure on the right)", **look),
        Line2D([], [], markerfacecolor="white", label="merged", **look),
    ]


def decode(sheet: Sheet) -> "Figure | None":
    """Time per output token, one panel a batch: against context, a line a method; of one context, a row a method.

    None where none was timed.
    """
    tables = {s: sheet.results.generation_table(s).dropna(subset=["decode_seconds"]) for s in sheet.results.shapes}
    shape = next((shape for shape, table in tables.items() if not table.empty), None)  # others are counted alone
    if shape is None:
        return None
    timed = tables[shape]
    names = [name for name in sheet.labels if name in set(timed["method"])]
    draw = _decode_rows if timed["context"].nunique() == 1 else _decode_lines
    return draw(sheet, shape, timed, names)


def _decode_caption(timed: pd.DataFrame, modes: str) -> str:
    return (
        "Median wall time of one greedy decode step with a KV cache, one token for each row of the batch, "
        f"milliseconds, {modes}; n = {int(timed['blocks'].max())} blocks. Dashed: the bare backbone with the same LM "
        "head, which a merged method is again, operation by operation. Ratios to it with their 95 % intervals stand in "
        "the report's table."
    )


def _batches(timed: pd.DataFrame) -> list[int]:
    return [int(batch) for batch in sorted(timed["batch"].unique())]


def _decode_rows(sheet: Sheet, shape: Shape, timed: pd.DataFrame, names: list[str]) -> "Figure":
    """Of one context, which has no slope to show: a row a method."""
    batches, context = _batches(timed), int(timed["context"].iloc[0])
    caption = _decode_caption(timed, "unmerged and, hollow, merged")
    across = min(ACROSS, len(batches))
    layout = Layout(canvas.depth(sheet.looks, names), canvas.room_for(sheet.looks, names), widths=(1.0,) * across,
                    panels=len(batches), above=0.3)  # fmt: skip
    title = f"Time per output token behind {fmt.plural(context, 'token')}"
    words = sheet.words(title, caption, "timed", shape=_inference_shape(sheet, False, shape))
    figure, panels = canvas.new_figure(words, layout)
    for at, (axes, batch) in enumerate(zip(panels, batches, strict=True)):
        y = canvas.rows(axes, sheet.looks, names, named=at % across == 0)
        medians = 1e3 * timed[timed["batch"] == batch].groupby(["mode", "method"])["decode_seconds"].median()
        for height, name in zip(y, names, strict=True):
            for mode in MODES:
                if (mode, name) in medians.index:
                    canvas.mark(axes, medians[mode, name], height, sheet.looks[name], hollow=mode == "merged")
        axes.axvline(medians["base"].median(), color=INK, linestyle="--", linewidth=1.2, zorder=2.5)
        axes.set_xlim(0, 1.05 * medians.max())
        axes.set_xlabel("ms a token")
        axes.set_title(f"batch {batch}", fontsize=8.5, color=INK)
    return figure


def _decode_lines(sheet: Sheet, shape: Shape, timed: pd.DataFrame, names: list[str]) -> "Figure":
    from matplotlib.lines import Line2D

    batches = _batches(timed)
    keys = [canvas.line_handle(sheet.looks[name]) for name in names]
    keys.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.2, label="base model"))
    across = min(ACROSS, len(batches))
    layout = Layout(1.9, left=0.62, widths=(1.0,) * across, panels=len(batches), above=0.3, gap=0.5,
                    keys=canvas.key_rows([str(key.get_label()) for key in keys]))  # fmt: skip
    on = _inference_shape(sheet, False, shape)
    caption = _decode_caption(timed, "unmerged")
    words = sheet.words("Time per output token against context", caption, "timed", shape=on)
    figure, panels = canvas.new_figure(words, layout)
    for axes, batch in zip(panels, batches, strict=True):
        _decode_panel(axes, sheet, timed[timed["batch"] == batch], names)
        axes.set_title(f"batch {batch}", fontsize=8.5, color=INK)
    for axes in panels[::across]:
        axes.set_ylabel("ms a token")
    canvas.key(figure, keys, layout)
    return figure


def _decode_panel(axes: "Axes", sheet: Sheet, timed: pd.DataFrame, names: list[str]) -> None:
    def line(of_mode: pd.DataFrame) -> tuple[Any, Any]:
        seconds = of_mode.groupby("context")["decode_seconds"].median()  # the base stands in every group of methods
        return seconds.index.to_numpy(), 1e3 * seconds.to_numpy()

    for name in names:
        own = timed[(timed["method"] == name) & (timed["mode"] == "unmerged")]
        axes.plot(*line(own), **canvas.line(sheet.looks[name], 4.5))
    axes.plot(*line(timed[timed["mode"] == "base"]), color=INK, linestyle="--", linewidth=1.2, zorder=2.5)
    contexts = sorted(int(context) for context in timed["context"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(contexts, [str(context) for context in contexts], fontsize=SMALL)
    axes.minorticks_off()
    axes.set_xlim(contexts[0] / 1.3, contexts[-1] * 1.3)
    axes.set_ylim(0, None)
    axes.set_xlabel("context (tokens)")

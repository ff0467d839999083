"""Draws a run as PNG and SVG, one look for every method in every figure; computes no figure of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench import compare
from bench.report import facts
from bench.report import format as fmt
from bench.report.canvas import MEANING, Look, arms, new_figure, rows, run_looks, save, styled, titled, where
from bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """One figure that a run may have."""

    name: str
    """Stem of its files: ``plots/NAME.png`` and ``plots/NAME.svg``."""
    title: str
    """What it shows, as a heading."""
    alt: str
    """What a reader who cannot see it must know: one sentence, which also stands below it."""


PLOTS = (
    Plot("backward-depth", "Backward by depth", "Backward FLOPs of each method at each depth, against the baseline."),
    Plot(
        "backward-anatomy",
        "Anatomy of backward",
        "Backward FLOPs of each method, split into input gradients, weight gradients and attention.",
    ),
    Plot("memory", "Memory by part", "Memory of one training step of each method by part, with its peak."),
    Plot("step-time", "Time of a training step", "Time of forward, backward and optimizer of one training step."),
    Plot("latency", "Latency", "Inference time against the base model, as trained and merged."),
    Plot(
        "score-parameters",
        "Score against parameters",
        "Mean score against the trainable parameters of each method.",
    ),
    Plot("score-memory", "Score against memory", "Mean score against the peak memory of one training step."),
    Plot("score-time", "Score against time", "Mean score against the time of one training step."),
    Plot("score-stored", "Score against bytes stored", "Mean score against the bytes stored per task."),
    Plot("score-task", "Score per task", "Score of each method on each task."),
    Plot("training-loss", "Training loss", "Training loss of each method over the steps."),
    Plot("scaling", "Growth", "Peak memory of each method as length, batch, depth or width grows."),
)
"""Every figure, in reading order; a run has those that its records allow."""


def draw(run: Run) -> list[Path]:
    """Write every figure that the records allow into ``run.folder/"plots"``.

    Returns:
        Paths of the PNG and SVG files, in reading order; a figure without records is left out, and removed where an
        earlier call drew it.

    Raises:
        BenchError: The folder cannot be written.
    """
    folder = run.folder / "plots"
    with styled():
        makers = _makers()
        figures = ((plot.name, makers[plot.name]) for plot in PLOTS if plot.name in makers)
        return [path for name, make in figures for path in save(make(run), folder, name)]


def _makers() -> dict[str, Callable[[Run], "Figure | None"]]:
    from bench.report.growth import peak_growth
    from bench.report.scatter import score_against

    return {
        "score-parameters": lambda run: score_against(run, "trainable_method"),
        "score-memory": lambda run: score_against(run, "peak_step_bytes"),
        "step-time": _step_time,
        "latency": _latency,
        "score-task": _score_task,
        "backward-depth": _backward_depth,
        "scaling": peak_growth,
    }


def _step_time(run: Run) -> "Figure | None":
    from matplotlib.patches import Patch

    costs = compare.cost_table(run.records, facts.labels(run)).dropna(subset=["backward_seconds"])
    if costs.empty:
        return None
    style, names, baseline = run_looks(run), list(costs.index), fmt.plain(run.suite["baseline"])
    blocks = int(costs["backward_blocks"].max())
    caption = (
        f"Median time of each phase of one training step, {where(run)}. Right: backward time / {baseline}, paired by "
        f"round, with its 95 % interval over n = {blocks} blocks."
    )
    figure, (axes,) = new_figure(
        titled(run, "time of one training step", scores=False), caption, 1.3 + 0.32 * len(names)
    )
    y = rows(axes, style, names)
    colours = [style[name].colour for name in names]
    left = np.zeros(len(names))
    looks_of: dict[str, dict[str, Any]] = {"forward": {"alpha": 0.35}, "backward": {"alpha": 0.95}}
    looks_of["optimizer"] = {"hatch": "/////", "fill": False}
    for phase, look in looks_of.items():
        width = 1e3 * costs[f"{phase}_seconds"].fillna(0).to_numpy()
        axes.barh(y, width, 0.62, left, color=colours, edgecolor=colours, linewidth=0.6, **look)
        left += width
    for at, end, (_, row) in zip(y, left, costs.iterrows(), strict=True):
        text = fmt.ratio_interval(row["backward_ratio"], row["backward_low"], row["backward_high"], 2)
        axes.text(end, at, f"  {text}", va="center", fontsize=8, color="#222222")
    axes.set_xlim(0, left.max() * 1.28)
    axes.set_xlabel("time of one training step (ms)")
    keys = [Patch(color="#555555", label=phase, **look) for phase, look in looks_of.items()]
    figure.legend(handles=keys, loc="upper right", ncols=3, bbox_to_anchor=(0.99, 1.0))
    return figure


def _latency(run: Run) -> "Figure | None":
    costs = compare.cost_table(run.records, facts.labels(run))
    columns = [f"{mode}_{batch}_ratio" for mode in compare.MODES for batch in compare.BATCHES]
    costs = costs.dropna(subset=columns, how="all")
    if costs.empty:
        return None
    batches = [
        b for b in compare.BATCHES if costs[[f"{mode}_{b}_ratio" for mode in compare.MODES]].notna().any(axis=None)
    ]
    style, names = run_looks(run), list(costs.index)
    caption = (
        f"Inference time / that of the bare backbone with the same head, paired by round; {facts.this_machine(run)}. "
        f"{MEANING} over the n blocks named above each panel. Filled: as trained; hollow: merged; = : merged "
        "operations identical to the base, exactly. Shaded: within 3 % of the base. "
        "Last row: the A/A control, the base against itself. "
        "Bars wider than the panel are cut."
    )
    title = titled(run, "latency against the base model", scores=False)
    figure, panels = new_figure(title, caption, 1.5 + 0.34 * (len(names) + 1), len(batches))
    control = compare.controls(run.records).set_index("name")
    for axes, batch in zip(panels, batches, strict=True):
        y = rows(axes, style, names)
        axes.set_yticks([*y, -1], [*(style[name].text for name in names), "A/A control"])
        axes.set_ylim(-1.7, len(names) - 0.3)
        axes.axvspan(*compare.QUIET, color="#eeeeee", zorder=0)
        axes.axvline(1, color="#999999", linewidth=0.8, zorder=1)
        for at, (name, row) in zip(y, costs.iterrows(), strict=True):
            _latency_point(axes, at + 0.13, row, f"unmerged_{batch}", style[str(name)], hollow=False)
            _latency_point(axes, at - 0.17, row, f"merged_{batch}", style[str(name)], hollow=True)
        for key in (f"latency_{batch}", "latency"):
            if key in control.index:
                for _, row in control.loc[[key]].iterrows():
                    axes.hlines(-1, row["low"], row["high"], color="#666666")
                    axes.plot(row["ratio"], -1, "|", color="#666666", markersize=9)
                break
        ratios = costs[[f"{mode}_{batch}_ratio" for mode in compare.MODES]].to_numpy()
        low, high = min(0.9, np.nanmin(ratios) - 0.05), max(1.1, np.nanmax(ratios) + 0.05)
        if np.ptp(axes.get_xlim()) > 3 * (high - low):  # a noisy machine: keep the points apart, let bars run out
            axes.set_xlim(low, high)
        blocks = int(np.nanmax(costs[[f"{mode}_{batch}_blocks" for mode in compare.MODES]].to_numpy()))
        title = f"batch {batch.removeprefix('batch_')}, n = {blocks} blocks"
        axes.set_title(title, fontsize=9, fontweight="normal")
        axes.set_xlabel("latency / base (ratio)")
    return figure


def _latency_point(axes: "Axes", y: float, row: pd.Series, name: str, look: Look, *, hollow: bool) -> None:
    value, low, high = row[f"{name}_ratio"], row[f"{name}_low"], row[f"{name}_high"]
    if np.isnan(value):
        return
    axes.errorbar(
        value, y, xerr=arms(value, low, high), fmt="o", color=look.colour, markersize=5, capsize=2,
        markerfacecolor="white" if hollow else look.colour, elinewidth=1,
    )  # fmt: skip
    if hollow and row["merged_is_base"] is True:
        axes.annotate("=", (high, y), (4, -1), textcoords="offset points", va="center", fontsize=8, color=look.colour)


def _score_task(run: Run) -> "Figure | None":
    table = compare.per_task(run.records, run.suite["baseline"], facts.labels(run))
    if table.empty:
        return None
    tasks = list(dict.fromkeys([*facts.tasks(run), *table.index.get_level_values("task")]))
    tasks = [task for task in tasks if task in table.index.get_level_values("task")]
    style = run_looks(run)
    names = [label for label in facts.labels(run) if label in table.index.get_level_values("method")]
    baseline = run.suite["baseline"]
    caption = (
        f"Main metric x 100 of each task, n = {fmt.plural(int(table['n'].max()), 'seed')} (fewer where cells failed). "
        f"{MEANING} over seeds (Student t). Solid line: mean of {fmt.plain(baseline)}. "
        "Dashed line: bag of words on the same rows."
    )
    figure, panels = new_figure(titled(run, "score per task", scores=True), caption, 1.3 + 0.3 * len(names), len(tasks))
    for axes, task in zip(panels, tasks, strict=True):
        y = rows(axes, style, names)
        part = table.xs(task, level="task")
        for at, name in zip(y, names, strict=True):
            if name not in part.index:
                continue
            row, look = part.loc[name], style[name]
            axes.errorbar(
                row["mean"], at, xerr=arms(row["mean"], row["low"], row["high"]), fmt=look.marker, color=look.colour,
                markersize=9 if look.marker == "*" else 6, capsize=2, elinewidth=1,
            )  # fmt: skip
        if baseline in part.index:
            axes.axvline(part.loc[baseline, "mean"], color="#999999", linewidth=0.8, zorder=1)
        axes.axvline(part["floor"].max(), color="#999999", linewidth=1, linestyle="--", zorder=1)
        axes.set_title(fmt.plain(task), fontsize=9, fontweight="normal")
        axes.set_xlabel("score (points of 100)")
    return figure


def _backward_depth(run: Run) -> "Figure | None":
    from bench.report.depth import backward_by_depth

    shapes, baseline = compare.cost_shapes(run.records), run.suite["baseline"]
    costs = {
        r.method.label: r.flops
        for r in compare.cost_records(run.records)
        if r.status == "ok" and r.flops and r.shape == shapes[0]
    }
    if baseline not in costs:
        return None
    flops = {label: costs[label] for label in facts.labels(run) if label in costs}
    title = titled(run, "backward work by depth", scores=False)
    return backward_by_depth(flops, baseline, title, facts.shape_line(shapes[0]), run_looks(run))

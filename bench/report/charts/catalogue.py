"""Lists the figures that a run may have and draws those that its records allow, as PNG and SVG; computes none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.results import Results
from bench.analysis.tuned import RateChange
from bench.report.charts.canvas import save, styled
from bench.report.charts.tables import Tables
from bench.store.store import Run

if TYPE_CHECKING:
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
        "latency-map",
        "Latency at every length and batch",
        "Inference time against the base model at each length and batch, as trained and merged.",
    ),
    Plot(
        "inference",
        "What inference takes",
        "Operations, critical path and FLOPs of one inference against the base model, as trained and merged.",
    ),
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
    Plot(
        "gradient-norms",
        "Gradients of the first steps",
        "Norm of the gradient of each part of each method at the first steps.",
    ),
    Plot(
        "directions",
        "Directions of what training added",
        "Overlap of each update's leading directions with those of the weight, of the baseline's and another seed's.",
    ),
    Plot("score-steps", "Score over the steps", "Score of each method over the optimizer steps."),
    Plot("score-seconds", "Score over training time", "Score of each method over its training time."),
    Plot("score-flops", "Score over training FLOPs", "Score of each method over the FLOPs of its training."),
    Plot(
        "cost-to-reach",
        "Cost to reach the baseline's score",
        "Steps, time, FLOPs and memory of each method until its score comes near the baseline's.",
    ),
    Plot(
        "tuning-ranking",
        "Ranking at default and searched rates",
        "Place of each method among all at default and at searched learning rates.",
    ),
    Plot(
        "size",
        "Score and cost against size",
        "Score, FLOPs, stored bytes, memory and time of a method against its size, such as LoRA's rank.",
    ),
    Plot("scaling", "Growth", "Peak memory of each method as length, batch, depth or width grows."),
)
"""Every figure, in reading order; a run has those that its records allow."""


def draw(run: Run, change: RateChange | None = None, into: Path | None = None) -> list[Path]:
    """Write every figure that the records allow.

    Args:
        run: Finished or not.
        change: What a search for learning rates changed, where the reader gave one.
        into: Folder of the figures; ``plots`` in the run folder where left out.

    Returns:
        Paths of the PNG and SVG files, in reading order; a figure without records is left out, and removed where an
        earlier call drew it.

    Raises:
        BenchError: The folder cannot be written.
    """
    folder, tables, makers = into or run.folder / "plots", Tables(Results(run)), _makers(change)
    with styled():
        return [path for plot in PLOTS for path in save(makers[plot.name](tables), folder, plot.name)]


def _makers(change: RateChange | None) -> dict[str, Callable[[Tables], "Figure | None"]]:
    from functools import partial

    from bench.report.charts.growth import peak_growth
    from bench.report.charts.plot_curves import SPENT, cost_to_reach, score_on_the_way
    from bench.report.charts.plot_directions import directions
    from bench.report.charts.plot_gradients import gradient_norms
    from bench.report.charts.plot_inference import inference
    from bench.report.charts.plot_latency import latency_map
    from bench.report.charts.plot_scores import score_task, training_loss
    from bench.report.charts.plot_sizes import against_size
    from bench.report.charts.plot_times import latency, step_time
    from bench.report.charts.plot_tuned import rank_slope
    from bench.report.charts.scatter import COSTS, score_against

    return {
        "backward-depth": _backward_depth,
        "backward-anatomy": _backward_anatomy,
        "memory": _memory,
        "step-time": step_time,
        "latency": latency,
        "latency-map": latency_map,
        "inference": inference,
        **{name: partial(score_against, name=name) for name in COSTS},
        "score-task": score_task,
        "training-loss": training_loss,
        "gradient-norms": gradient_norms,
        "directions": directions,
        **{name: partial(score_on_the_way, name=name) for name in SPENT},
        "cost-to-reach": cost_to_reach,
        "tuning-ranking": lambda tables: None if change is None else rank_slope(tables, change),
        "size": against_size,
        "scaling": peak_growth,
    }


def _backward_depth(tables: Tables) -> "Figure | None":
    from bench.report.charts.depth import backward_by_depth

    flops = {label: record.flops for label, record in tables.cost_records.items() if record.flops}
    words = tables.words("Where backward works: FLOPs at each depth", "", "counted")
    return backward_by_depth(flops, tables.baseline, words.title, words.subtitle, tables.looks, words.tags)


def _backward_anatomy(tables: Tables) -> "Figure | None":
    from bench.report.charts.plot_anatomy import anatomy, caption

    flops = {label: record.flops for label, record in tables.cost_records.items() if record.flops}
    words = tables.words("Anatomy of backward: which gradients are computed", caption(tables.name), "counted")
    return anatomy(flops, tables.baseline, words, tables.looks)


def _memory(tables: Tables) -> "Figure | None":
    from bench.report.charts.breakdown import memory_breakdown

    held = [
        {"method": label, **record.model_dump(include={"bytes", "peak_memory_bytes", "peak_memory_source",
                                                       "predicted_peak_memory_bytes"})}
        for label, record in tables.cost_records.items()
        if record.bytes
    ]  # fmt: skip
    on_gpu = any(row["peak_memory_source"] == "cuda_allocated" for row in held)
    words = tables.words("What fills memory in one training step", "", *(["measured"] if on_gpu else ["counted"]))
    return memory_breakdown(held, words.title, words.subtitle, tables.looks, words.tags)

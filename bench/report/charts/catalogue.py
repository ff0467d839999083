"""Every figure that a run may have, in reading order, and how each is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.results import Results
from bench.analysis.tuning import RateChange
from bench.report.charts import curves, scores, step, sweeps, times
from bench.report.charts.canvas import COUNTED, Words, save, styled
from bench.report.charts.sheet import Sheet, looks
from bench.report.sections import overview as facts
from bench.report.sections.sweeps import PREDICTED_BASELINE, backbone_line, notes_on
from bench.schema.record import Prediction
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
    make: "Callable[[Sheet], Figure | None]"
    """Draws it; None where the records lack what it shows."""


PLOTS = (
    Plot("backward-depth", "Backward by depth",
         "Backward FLOPs of each method at each depth, against the baseline.", step.by_depth),
    Plot("backward-anatomy", "Anatomy of backward",
         "Backward FLOPs of each method, split into input gradients, weight gradients and attention.",
         step.by_kind),
    Plot("traffic", "Memory traffic",
         "Bytes that forward, backward and update of each method read and write.", step.by_phase),
    Plot("memory", "Memory by part", "Memory of one training step of each method by part, with its peak.",
         step.by_part),
    Plot("step-time", "Time of a training step", "Time of forward, backward and optimizer of one training step.",
         times.step_time),
    Plot("latency", "Latency", "Inference time against the base model, unmerged and merged.", times.latency),
    Plot("latency-map", "Latency at every length and batch",
         "Inference time against the base model at each length and batch, unmerged and merged.", times.latency_map),
    Plot("inference", "What inference takes",
         "Operations, critical path and FLOPs of one inference against the base model, unmerged and merged.",
         times.inference),
    Plot("decode", "Time per token",
         "Time per output token of each method against the tokens before it, at each batch.", times.decode),
    Plot("score-parameters", "Score against parameters",
         "Mean score against the trainable parameters of each method.",
         partial(scores.score_against, name="score-parameters")),
    Plot("score-memory", "Score against memory", "Mean score against the peak memory of one training step.",
         partial(scores.score_against, name="score-memory")),
    Plot("score-time", "Score against time", "Mean score against the time of one training step.",
         partial(scores.score_against, name="score-time")),
    Plot("score-stored", "Score against bytes stored", "Mean score against the bytes stored per task.",
         partial(scores.score_against, name="score-stored")),
    Plot("score-retention", "Score against what is kept of plain texts",
         "Mean score against bits per byte of plain texts after training, with the way there and the front.",
         scores.score_retention),
    Plot("retention-share", "What a share of general text keeps",
         "Bits per byte that each method forgets of plain texts, and its score, over the share of general text.",
         sweeps.against_share),
    Plot("score-task", "Score per task", "Score of each method on each task.", scores.score_task),
    Plot("training-loss", "Training loss", "Training loss of each method over the steps.", curves.training_loss),
    Plot("gradient-norms", "Gradients of the first steps",
         "Norm of the gradient of each part of each method at the first steps.", scores.gradient_norms),
    Plot("directions", "Directions of what training added",
         "Overlap of each update's leading directions with those of the weight, of the baseline's and another seed's.",
         scores.directions),
    Plot("nearest-words", "What prompts learned",
         "Norm of each learned vector and its cosine to the nearest word, before and after training.",
         scores.nearest_words),
    Plot("score-steps", "Score over the steps", "Score of each method over the optimizer steps.",
         partial(curves.score_on_the_way, name="score-steps")),
    Plot("score-seconds", "Score over training time", "Score of each method over its training time.",
         partial(curves.score_on_the_way, name="score-seconds")),
    Plot("score-flops", "Score over training FLOPs", "Score of each method over the FLOPs of its training.",
         partial(curves.score_on_the_way, name="score-flops")),
    Plot("cost-to-reach", "Cost to reach the baseline's score",
         "Steps, time, FLOPs and memory of each method until its score comes near the baseline's.",
         curves.cost_to_reach),
    Plot("tuning-ranking", "Ranking at default and searched rates",
         "Place of each method among all at default and at searched learning rates.", sweeps.rank_slope),
    Plot("size", "Score and cost against size",
         "Score, FLOPs, stored bytes, memory and time of a method against its size, such as LoRA's rank.",
         sweeps.against_size),
    Plot("scaling", "Growth", "Peak memory of each method as length, batch, depth or width grows.",
         sweeps.peak_growth),
)  # fmt: skip
"""Every figure, in reading order; a run has those that its records allow."""


def draw_predictions(rows: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write the figures that predictions allow into ``folder`` as PNG and SVG.

    Raises:
        BenchError: The folder cannot be written.
    """
    flops = {row.method: row.flops for row in rows if row.flops}
    baseline = PREDICTED_BASELINE if PREDICTED_BASELINE in flops else ""
    style, backbone, shape = looks(list(flops), baseline), backbone_line(rows), facts.shape_line(rows[0].shape)
    held = [row.model_dump() for row in rows if row.flops]
    notes = f"{shape}; {'; '.join(notes_on(rows))}."
    of_memory = Words(f"{backbone}: memory of one training step", "", notes, (COUNTED,))
    by_depth = Words(f"{backbone}: backward work by depth", "", shape, (COUNTED,))
    with styled():
        return [
            *save(step.memory_breakdown(held, of_memory, style), folder, "memory"),
            *save(step.backward_by_depth(flops, baseline, by_depth, style), folder, "backward-depth"),
        ]


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
    folder, sheet = into or run.folder / "plots", Sheet(Results(run), change)
    with styled():
        return [path for plot in PLOTS for path in save(plot.make(sheet), folder, plot.name)]

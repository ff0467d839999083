"""The frame that every figure shares: one look per method, title, caption, rows; draws no figure of its own."""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench import compare
from bench.errors import BenchError
from bench.report import facts
from bench.report import format as fmt
from bench.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
STYLE = Path(__file__).with_name("style.mplstyle")
PALETTE = (
    *("#332288", "#CC6677", "#117733", "#DDAA33", "#6699CC", "#882255"),
    *("#44AA99", "#999933", "#AA4499", "#661100", "#56B4E9", "#888888"),
)
"""Paul Tol's "muted" colours with three more, the palest darkened; markers help to tell them apart."""
MARKERS = "osD^vPX"
BASELINE_COLOUR = "#000000"
LONGEST = 30
"""Characters of a method label in a figure; the tables carry it in full."""
ACROSS = 3
"""Panels side by side."""
MEANING = "Error bars: 95 % interval"


@dataclass(frozen=True)
class Look:
    """How one method appears in every figure."""

    text: str
    colour: str
    marker: str


def looks(labels: Sequence[str], baseline: str) -> dict[str, Look]:
    """Colour, marker and text of each method by its place among ``labels``; the baseline is black."""
    found: dict[str, Look] = {}
    others = [label for label in labels if label != baseline]
    for label in labels:
        text = fmt.plain(label)
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        if label == baseline:
            found[label] = Look(text, BASELINE_COLOUR, "*")
        else:
            place = others.index(label)
            found[label] = Look(text, PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
    return found


def titled(run: Run, what: str, *, scores: bool) -> str:
    """Title of a figure of ``run``; one of scores says where the data is synthetic."""
    mark = " · SYNTHETIC data" if scores and facts.is_synthetic(run) else ""
    return f"{fmt.plain(run.suite['name'])}: {what}{mark}"


def run_looks(run: Run) -> dict[str, Look]:
    """Looks of the methods of a run, by their place in the suite."""
    return looks(facts.labels(run), run.suite["baseline"])


def new_figure(title: str, caption: str, height: float, panels: int = 1) -> tuple["Figure", list["Axes"]]:
    """An empty figure with its title above and its caption below.

    Args:
        title: Whose figure it is and what it shows.
        caption: What is measured, its unit, n and interval.
        height: Inches of one row of panels.
        panels: At most three stand side by side.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = textwrap.wrap(caption, 150)
    deep, wide = -(-panels // ACROSS), min(panels, ACROSS)
    below = 0.16 * len(lines) + 0.1
    total = height * deep + below
    figure = Figure(figsize=(9.0, total), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(rect=(0, below / total, 1, 1 - below / total))  # type: ignore[union-attr, call-arg]
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    note = "\n".join(lines)
    figure.text(0.012, 0.08 / total, note, fontsize=7.5, color="#555555", va="bottom", linespacing=1.3)
    grid = list(figure.subplots(deep, wide, sharey=True, squeeze=False).flat)
    for unused in grid[panels:]:
        unused.remove()
    return figure, grid[:panels]


def arms(value: float, low: float, high: float) -> Floats | None:
    """Lengths of an error bar as matplotlib takes them; None without an interval."""
    return None if np.isnan(low) else np.maximum(0, [[value - low], [high - value]])


def where(run: Run) -> str:
    """Device and shape of the probe, for captions."""
    shapes = compare.cost_shapes(run.records)
    return f"{facts.shape_line(shapes[0])}; {facts.this_machine(run)}" if shapes else ""


def rows(axes: "Axes", style: dict[str, Look], names: list[str]) -> Floats:
    """One row per method, the first on top; returns their heights."""
    y = np.arange(len(names))[::-1].astype(float)
    axes.set_yticks(y, [style[name].text for name in names])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return y


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The settings that every figure is made and saved under."""
    import matplotlib

    with matplotlib.rc_context(fname=STYLE):
        yield


def save(figure: "Figure | None", folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; without one, remove what an earlier call drew.

    Returns:
        The paths written.

    Raises:
        BenchError: The folder cannot be written.
    """
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    if figure is None:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    freeze(figure)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": "peft-ledger"})
    except OSError as error:
        raise BenchError(f"{folder}: cannot be written ({error.strerror}); free space or mend it") from error
    return paths


def freeze(figure: "Figure") -> None:
    """Lay the figure out once, so that later draws and both files have the same places."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")

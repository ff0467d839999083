"""The sheet that every figure stands on: title, tags, panels, caption, rows of methods, files; draws no figure."""

import contextlib
import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import unwritable
from bench.report.charts.looks import Look, Looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
STYLE = Path(__file__).with_name("style.mplstyle")
MEANING = "Error bars: 95 % interval"
INK, QUIET_INK, FAINT = "#222222", "#555555", "#999999"
ROW = 0.3
"""Inches of one row of methods."""
WIDTH = 9.0
"""Inches of every figure, so that all have one size of type where they stand below each other."""
_TITLE, _SUBTITLE, _KEY, _LINE = 0.34, 0.24, 0.25, 0.145
"""Inches of the title, of the line below it, of one row of the key, of one line of the caption."""
_TAGS = {
    "counted": ("#E7F1FA", "#77AADD"),
    "timed": ("#FCEBE2", "#EE8866"),
    "measured": ("#FCEBE2", "#EE8866"),
    "scored": ("#FFF5D6", "#DDAA33"),
}
"""First word of a tag -> fill and edge, of Paul Tol's light scheme."""


@dataclass(frozen=True)
class Words:
    """What a figure says of itself."""

    title: str
    caption: str
    """What is measured, its unit, n and interval."""
    subtitle: str = ""
    """Whose figures: suite, backbone, shape."""
    tags: tuple[str, ...] = ()
    """How sure: ``counted · exact on any machine``; the first word gives the colour."""


@dataclass(frozen=True)
class Sheet:
    """Sizes in inches."""

    height: float
    """Of one panel."""
    left: float = 0.75
    """Room for the names of the rows, or for a label and numbers."""
    right: float = 0.15
    widths: tuple[float, ...] = (1.0,)
    """Relative, of the panels that stand side by side."""
    panels: int = 0
    """In all; 0: one row of them."""
    gap: float = 0.22
    above: float = 0.1
    """Of each panel, for its title."""
    below: float = 0.46
    """Of each panel, for its numbers and label."""
    keys: int = 0
    """Rows of the key between title and panels."""


def new_figure(words: Words, sheet: Sheet) -> tuple["Figure", list["Axes"]]:
    """An empty figure with its title above and its caption below; all places are final."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = textwrap.wrap(words.caption, 150)
    count, across = sheet.panels or len(sheet.widths), len(sheet.widths)
    head = _TITLE + _SUBTITLE * bool(words.subtitle) + _KEY * sheet.keys
    foot = _LINE * len(lines) + 0.12
    step = sheet.above + sheet.height + sheet.below
    total = head + step * -(-count // across) + foot
    figure = Figure(figsize=(WIDTH, total))
    FigureCanvasAgg(figure)
    _write(figure, words, lines, total)
    room = WIDTH - sheet.left - sheet.right - sheet.gap * (across - 1)
    shares = np.array(sheet.widths) / sum(sheet.widths)
    axes = []
    for at in range(count):
        deep, column = divmod(at, across)
        left = sheet.left + room * shares[:column].sum() + sheet.gap * column
        bottom = total - head - step * deep - sheet.above - sheet.height
        box = (left / WIDTH, bottom / total, room * shares[column] / WIDTH, sheet.height / total)
        axes.append(figure.add_axes(box))
    return figure, axes


def _write(figure: "Figure", words: Words, lines: list[str], total: float) -> None:
    ink: dict[str, Any] = {"va": "center", "ha": "left"}
    figure.text(0.014, 1 - 0.2 / total, words.title, fontsize=11.5, fontweight="bold", color="#111111", **ink)
    line = textwrap.shorten(words.subtitle, 150, placeholder=" …")
    figure.text(0.014, 1 - 0.43 / total, line, fontsize=8, color=QUIET_INK, **ink)
    note = "\n".join(lines)
    figure.text(0.014, 0.09 / total, note, fontsize=7.5, color=QUIET_INK, va="bottom", linespacing=1.3)
    right = WIDTH - 0.16
    for tag in reversed(words.tags):
        fill, edge = _TAGS[tag.partition(" ")[0]]
        figure.text(
            right / WIDTH, 1 - 0.2 / total, tag, fontsize=7.5, ha="right", va="center", color=INK,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": edge, "linewidth": 0.8},
        )  # fmt: skip
        right -= text_width(tag, 7.5) + 0.22


@functools.cache
def text_width(text: str, size: float = 9) -> float:
    """Inches that a line of text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(width) / 72


def room_for(looks: Looks, names: Sequence[str], extra: Sequence[str] = ()) -> float:
    """Inches left of panels whose rows are methods."""
    texts = [*(looks[name].text for name in names), *extra]
    return 0.42 + max((text_width(text) for text in texts), default=0.0)


def key(figure: "Figure", handles: Sequence[Any], sheet: Sheet, columns: int = 0, *, subtitle: bool = True) -> None:
    """Write the key between title and panels, from the panels' left edge, or the sheet's where it has several rows."""
    head = _TITLE + _SUBTITLE * subtitle - 0.03
    wide = sum(text_width(str(handle.get_label()), 8) + 0.45 for handle in handles)
    left = max(0.1, min(sheet.left, WIDTH - 0.1 - wide)) if sheet.keys == 1 else 0.1
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left / WIDTH, 1 - head / figure.get_figheight()),
        ncols=columns or len(handles), columnspacing=1.3, handlelength=1.5, handletextpad=0.5, borderaxespad=0,
        borderpad=0.3,
    )  # fmt: skip


def rows(axes: "Axes", looks: Looks, names: Sequence[str], extra: Sequence[str] = (), *, named: bool = True) -> Floats:
    """One row per method, the first on top, each with its name and mark; then rows that are no method.

    Args:
        axes: Of one panel.
        looks: Of the methods.
        names: Labels of the methods.
        extra: Names of further rows, below.
        named: Whether names and marks stand left of this panel.

    Returns:
        Heights of all rows.
    """
    count = len(names) + len(extra)
    y = np.arange(count)[::-1].astype(float)
    texts = [*(looks[name].text for name in names), *extra]
    axes.set_yticks(y, texts if named else [""] * count)
    axes.set_ylim(-0.6, count - 0.4)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=14)
    if named:
        box = axes.get_position()
        beside = -0.11 / (WIDTH * box.width)
        for at, name in zip(y, names, strict=False):
            mark(axes, beside, at, looks[name], 6, transform=axes.get_yaxis_transform(), clip_on=False)
    return y


def mark(axes: "Axes", x: float, y: float, look: Look, size: float = 6.5, **options: Any) -> None:
    """Draw the mark of a method."""
    chosen: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5, "zorder": 4} | options
    axes.plot(x, y, look.marker, color=look.colour, markersize=mark_size(look, size), **chosen)


def mark_size(look: Look, size: float) -> float:
    """Points that make the marks look equally large."""
    return size * {"*": 1.5, "D": 0.85, "s": 0.92, "P": 1.1, "X": 1.1}.get(look.marker, 1.0)


def in_key(looks: Looks, names: Sequence[str]) -> int:
    """How many methods stand in one row of a key of curves."""
    widths = [text_width(looks[name].text, 8) + 0.45 for name in names]
    if sum(widths) < WIDTH - 0.2:
        return len(names)
    return max(1, min(len(names), int((WIDTH - 0.2) / max(widths))))


def line_handles(looks: Looks, names: Sequence[str]) -> list[Any]:
    """For a key of curves: each method's colour and mark."""
    from matplotlib.lines import Line2D

    chosen = [looks[name] for name in names]
    return [
        Line2D([], [], color=k.colour, marker=k.marker, markersize=4.5, linewidth=1.2, label=k.text) for k in chosen
    ]


def interval(axes: "Axes", y: float, low: float, high: float, look: Look) -> None:
    """Draw the interval of a row in the method's colour; nothing where there is none."""
    if not np.isnan(low):
        axes.plot([low, high], [y, y], "|-", color=look.colour, linewidth=1.2, markersize=6, zorder=3)


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": "peft-ledger"})
    except OSError as error:
        raise unwritable(folder, error) from error
    return paths


def scaled(
    values: Mapping[Any, float] | Sequence[float] | Floats, prefixes: Sequence[tuple[float, str]]
) -> tuple[float, str]:
    """The largest unit that the largest value reaches: ``(1e9, "G")``."""
    numbers = list(values.values()) if isinstance(values, Mapping) else list(values)
    top = max(numbers, default=0.0)
    return next(((size, name) for size, name in prefixes if top >= size), prefixes[-1])

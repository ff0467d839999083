"""What every figure is made of: title, badges, panels, key, caption, rows and marks of methods, files."""

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.path import Path as Outline

    from bench.report.charts.sheet import Look, Looks, Marker

Floats = NDArray[np.float64]
STYLE = Path(__file__).with_name("style.mplstyle")
MEANING = "Error bars: 95 % interval"
INK, QUIET_INK, FAINT, GRID = "#222222", "#555555", "#999999", "#e6e6e6"
ROW, SMALL = 0.3, 7.0
"""Inches of one row of methods, and the smallest type: 9 px where a figure is shown as large as it is drawn."""
MANY = 12
"""Methods up to which a figure shows them all together; more are drawn in groups."""
FACET = 8
"""Methods of a panel at most where they are drawn in groups."""
WIDTH = 9.0
"""Inches of every figure, so that all have one size of type where they stand below each other."""
ACROSS = 3
"""Panels side by side at most, where each is one of several alike."""
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_TITLE, _SUBTITLE, _KEY, _LINE, _BADGE = 0.34, 0.24, 0.2, 0.145, 7.5
"""Inches of the title, of the line below it, of a row of the key and of a line of the caption; points of a badge."""
_HANDLE = 0.5
"""Inches of a line or patch of the key, with the room around it."""
_GAP = 0.45
"""Rows between two groups of methods."""
_BADGES = {
    "counted": ("#E7F1FA", "#77AADD"),
    "timed": ("#FCEBE2", "#EE8866"),
    "measured": ("#FCEBE2", "#EE8866"),
    "scored": ("#FFF5D6", "#DDAA33"),
}
"""First word of a badge -> fill and edge, of Paul Tol's light scheme."""

WORN = "badge"
"""Label of the texts that are badges."""
COUNTED = "counted · exact on any machine"


@dataclass(frozen=True)
class Words:
    """What a figure says of itself."""

    title: str
    caption: str
    """What is measured, its unit, n and interval."""
    subtitle: str = ""
    """Whose figures: suite, backbone, shape."""
    badges: tuple[str, ...] = ()
    """How sure: ``counted · exact on any machine``; the first word gives the colour."""


@dataclass(frozen=True)
class Layout:
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


def new_figure(words: Words, layout: Layout) -> tuple["Figure", list["Axes"]]:
    """An empty figure with its title above and its caption below; all places are final."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = textwrap.wrap(words.caption, 150)
    count, across = layout.panels or len(layout.widths), len(layout.widths)
    head = _head(words) + (_KEY * layout.keys + 0.05) * bool(layout.keys)
    foot = _LINE * len(lines) + 0.12
    step = layout.above + layout.height + layout.below
    total = head + step * -(-count // across) + foot
    figure = Figure(figsize=(WIDTH, total))
    FigureCanvasAgg(figure)
    _write(figure, words, lines, total)
    room = WIDTH - layout.left - layout.right - layout.gap * (across - 1)
    shares = np.array(layout.widths) / sum(layout.widths)
    axes = []
    for at in range(count):
        deep, column = divmod(at, across)
        left = layout.left + room * shares[:column].sum() + layout.gap * column
        bottom = total - head - step * deep - layout.above - layout.height
        box = (left / WIDTH, bottom / total, room * shares[column] / WIDTH, layout.height / total)
        axes.append(figure.add_axes(box))
    return figure, axes


def _head(words: Words) -> float:
    """Inches of title, subtitle and badges, which stand right of the title where there is room and else below it."""
    return _TITLE + _SUBTITLE * (bool(words.subtitle) + (not _badges_fit(words)))


def _badges_fit(words: Words) -> bool:
    badges = sum(text_width(badge, _BADGE) + 0.22 for badge in words.badges)
    return text_width(words.title, 11.5, "bold") + badges + 0.3 < WIDTH


def _write(figure: "Figure", words: Words, lines: list[str], total: float) -> None:
    ink: dict[str, Any] = {"va": "center", "ha": "left"}
    figure.text(0.014, 1 - 0.2 / total, words.title, fontsize=11.5, fontweight="bold", color="#111111", **ink)
    below = 0.43 + _SUBTITLE * (not _badges_fit(words))
    line = textwrap.shorten(words.subtitle, 150, placeholder=" …")
    figure.text(0.014, 1 - below / total, line, fontsize=8, color=QUIET_INK, **ink)
    note = "\n".join(lines)
    figure.text(0.014, 0.09 / total, note, fontsize=7.5, color=QUIET_INK, va="bottom", linespacing=1.3)
    widths = [text_width(badge, _BADGE) + 0.22 for badge in words.badges]
    down, left = (0.2, WIDTH - 0.06 - sum(widths)) if _badges_fit(words) else (0.45, 0.2)
    for badge, width in zip(words.badges, widths, strict=True):
        fill, edge = _BADGES[badge.partition(" ")[0]]
        figure.text(
            left / WIDTH, 1 - down / total, badge, label=WORN, fontsize=_BADGE, ha="left", va="center", color=INK,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": edge, "linewidth": 0.8},
        )  # fmt: skip
        left += width


@functools.cache
def text_width(text: str, size: float = 9, weight: str = "normal") -> float:
    """Inches that a line of text takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def key(figure: "Figure", handles: Sequence[Any], layout: Layout) -> None:
    """Write the key between title and panels, from the panels' left edge, or the figure's where it has several rows."""
    texts = [str(handle.get_label()) for handle in handles]
    columns = _in_key(texts)
    wide = sum(text_width(text, 8) + _HANDLE for text in texts)
    left = max(0.1, min(layout.left, WIDTH - 0.1 - wide)) if layout.keys == 1 else 0.1
    top = figure.axes[0].get_position().y1 + (layout.above + _KEY * layout.keys + 0.05) / figure.get_figheight()
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left / WIDTH, top), ncols=columns, columnspacing=1.3,
        handlelength=1.8, handletextpad=0.5, borderaxespad=0, borderpad=0.3, labelspacing=0.4,
    )  # fmt: skip


def key_rows(texts: Sequence[str]) -> int:
    """Rows of a key with these texts."""
    return -(-len(texts) // _in_key(texts))


def _in_key(texts: Sequence[str]) -> int:
    """How many texts stand in one row of a key."""
    widths = [text_width(text, 8) + _HANDLE for text in texts]
    if sum(widths) < WIDTH - 0.2:
        return len(texts)
    return max(1, min(len(texts), int((WIDTH - 0.2) / max(widths))))


def line_handle(look: "Look", text: str = "") -> "Line2D":
    """For a key of curves: a method's colour, line and mark."""
    from matplotlib.lines import Line2D

    handle = Line2D([], [], label=text or look.text)
    handle.set(**line(look, 4.5))
    return handle


def room_for(style: "Looks", names: Sequence[str], extra: Sequence[str] = ()) -> float:
    """Inches left of panels whose rows are methods."""
    widths = [text_width(style[name].text, weight=_weight(style[name])) for name in names]
    return 0.45 + max([*widths, *map(text_width, extra)], default=0.0)


def _weight(look: "Look") -> str:
    return "bold" if look.is_baseline else "normal"


def places(style: "Looks", names: Sequence[str], extra: int = 0) -> Floats:
    """Heights of rows, the first on top and the last at 0: a gap between groups where there are many, and above extras.

    Args:
        style: Look of each method.
        names: Labels of the methods.
        extra: Rows below them that are no method.
    """
    parts = [style[name].group for name in names]
    starts = [at for at in range(1, len(parts)) if parts[at] != parts[at - 1]]
    if len(names) <= MANY or len(starts) > len(names) / 2:  # a suite that sets pairs side by side keeps its order
        starts = []
    starts += [len(names)] * bool(extra and names)
    down = np.arange(len(names) + extra) + _GAP * np.searchsorted(starts, np.arange(len(names) + extra), "right")
    return np.asarray(down[-1:].max(initial=0.0) - down)


def depth(style: "Looks", names: Sequence[str], extra: int = 0, row: float = ROW) -> float:
    """Inches of a panel with such rows."""
    return row * (float(places(style, names, extra).max(initial=0.0)) + 1.1)


def rows(
    axes: "Axes", style: "Looks", names: Sequence[str], extra: Sequence[str] = (), *, named: bool = True
) -> Floats:
    """One row per method, the first on top, each with its name and mark; then rows that are no method.

    The baseline's name is bold, its mark ringed; many rows stand on bands that lead the eye.

    Args:
        axes: Of one panel.
        style: Look of each method.
        names: Labels of the methods.
        extra: Names of further rows, below.
        named: Whether names and marks stand left of this panel.

    Returns:
        Heights of all rows.
    """
    y = places(style, names, len(extra))
    texts = [*(style[name].text for name in names), *extra]
    axes.set_yticks(y, texts if named else [""] * len(y))
    axes.set_ylim(-0.6, y.max(initial=0.0) + 0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, pad=16)
    for height in y[1 : len(names) : 2] if len(names) > MANY else ():
        axes.axhspan(height - 0.5, height + 0.5, color="#f6f6f6", linewidth=0, zorder=-1)
    if named:
        beside = -0.12 / (WIDTH * axes.get_position().width)
        for tick, at, name in zip(axes.get_yticklabels(), y, names, strict=False):
            tick.set_fontweight(_weight(style[name]))
            mark(axes, beside, at, style[name], 6, ring=True, transform=axes.get_yaxis_transform(), clip_on=False)
    return y


def mark(axes: "Axes", x: float, y: float, look: "Look", size: float = 6.5, *, hollow: bool = False, ring: bool = False,
         **options: Any) -> None:  # fmt: skip
    """Draw the mark of a method; hollow of a merged model, with a ring around the baseline's where asked."""
    chosen: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5, "fillstyle": look.fill, "zorder": 4}
    if hollow:
        chosen |= {
            "markerfacecolor": "white",
            "markeredgecolor": look.colour,
            "markeredgewidth": 1.1,
            "fillstyle": "full",
        }
    elif look.fill != "full":
        chosen |= {"markerfacecoloralt": "white", "markeredgecolor": look.colour, "markeredgewidth": 1.0}
    chosen |= {"linestyle": "none", "color": look.colour, "markersize": mark_size(look, size)} | options
    if look.fill != "full" and not hollow and not isinstance(look.marker, str):  # matplotlib fills these whole alone
        axes.plot(x, y, marker=look.marker, **(chosen | {"fillstyle": "full", "markerfacecolor": "white"}))
        axes.plot(x, y, marker=_half(look.marker, look.fill), **(chosen | {"fillstyle": "full"}))
    else:
        axes.plot(x, y, marker=look.marker, **chosen)
    if ring and look.is_baseline:
        axes.plot(x, y, "o", color=INK, fillstyle="none", markersize=1.7 * size, markeredgewidth=0.8, **options)


def _half(corners: Sequence[tuple[float, float]], side: str) -> "Outline":
    """The part of a shape that lies left or right of its middle, above or below it."""
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Bbox

    boxes = {"left": (-2, -2, 0, 2), "right": (0, -2, 2, 2), "bottom": (-2, -2, 2, 0), "top": (-2, 0, 2, 2)}
    return Outline(corners, closed=True).clip_to_bbox(Bbox.from_extents(*boxes[side]))


def mark_size(look: "Look", size: float) -> float:
    """Points that make the marks look equally large."""
    shares: dict[Marker, float] = {"*": 1.5, "D": 0.85, "d": 1.1, "s": 0.92, "P": 1.1, "X": 1.1}
    return size * shares.get(look.marker, 1.0 if isinstance(look.marker, str) else 1.2)


def line(look: "Look", size: float) -> dict[str, Any]:
    """How a method's curve is drawn, with marks of ``size`` points; the baseline's is the heavier one."""
    heavy = 1.5 if look.is_baseline else 1.0
    return {
        "color": look.colour, "linestyle": look.line, "linewidth": 1.3 * heavy, "marker": look.marker,
        "markersize": mark_size(look, size) * heavy**0.5, "fillstyle": look.fill,
        "markerfacecoloralt": "white", "markeredgecolor": "white" if look.fill == "full" else look.colour,
        "markeredgewidth": 0.5, "zorder": 3 + look.is_baseline,
    }  # fmt: skip


def interval(axes: "Axes", y: float, low: float, high: float, look: "Look") -> None:
    """Draw the interval of a row in the method's colour; nothing where there is none."""
    if not np.isnan(low):
        axes.plot([low, high], [y, y], "|-", color=look.colour, linewidth=1.2, markersize=6, zorder=3)


def stack(axes: "Axes", y: Floats, left: Floats, width: Floats, colour: str, **options: Any) -> Floats:
    """One part of stacked bars, one bar a row.

    Returns:
        Where the next part begins.
    """
    chosen: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.5} | options
    axes.barh(y, width, 0.66, left, **chosen)
    return left + width


def cells(axes: "Axes", y: Floats, values: Floats, shades: "Colormap", ends: tuple[float, float]) -> "AxesImage":
    """A heat map whose rows lie at heights ``y`` and columns at 0, 1, ...; ``ends`` are those of the colour scale.

    Returns:
        The cells of one row, for a colour bar.
    """
    right = values.shape[1] - 0.5
    for height, row in zip(y, values, strict=True):
        place = (-0.5, right, height - 0.5, height + 0.5)
        drawn = axes.imshow(
            row[None], aspect="auto", cmap=shades, vmin=ends[0], vmax=ends[1], extent=place, interpolation="nearest"
        )
        axes.vlines(np.arange(-0.5, right + 1), *place[2:], color="#dedede", linewidth=0.5, zorder=2.5)
        axes.hlines(place[2:], *place[:2], color="#dedede", linewidth=0.5, zorder=2.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, right)
    axes.set_ylim(y.min() - 0.5, y.max() + 0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawn


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """The settings that every figure is made and saved under."""
    import matplotlib

    with matplotlib.rc_context(fname=STYLE):
        yield


def save(figure: "Figure | None", folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG, which names its badges; without one, remove what an earlier call drew.

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
        badges = [text.get_text() for text in figure.texts if text.get_label() == WORN]
        figure.savefig(paths[1], metadata={"Date": None, "Creator": "peft-ledger", "Keywords": badges})
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

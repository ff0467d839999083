"""Places names beside points and at the ends of curves so that no name covers a mark, a bar, a line or another name."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.report.charts.canvas import INK, WIDTH, Floats
from bench.report.charts.sheet import Look, Looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DIRECTIONS = 16
_RADII = (9, 14, 20, 28, 38, 50, 64, 80, 100, 125, 155, 190, 230)
"""Distances tried from the point to the nearest edge of its text, in points."""
_TOUCHED = 400
"""Pixels that any overlap counts for beside its own: a thin line under text is as hard to read as a broad one."""
_BESIDE = 14
"""Up to this distance the eye needs no line from text to point."""
_TRIED = 60
"""Places whose lines are followed, those that cover least."""
_CROSSED = 60
"""What a line from a point to its text costs where it runs through another text, mark or such line."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float


class _Place(NamedTuple):
    offset: tuple[float, float]
    """Centre of the text from the point, in pixels."""
    box: Box
    radius: float
    """Points."""


def place(axes: "Axes", points: Sequence[tuple[float, float]], chosen: Sequence[Look], blocked: Sequence[Box]) -> None:
    """Write each method's name at the nearest free place, with a thin line where that is not beside its point.

    Args:
        axes: Limits, scales and layout must be final.
        points: Data coordinates.
        chosen: Look of the method at each point.
        blocked: Boxes that no text may cover, such as error bars.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixel = axes.figure.dpi / 72
    inside = Box(*axes.get_window_extent(renderer).extents)
    where = [tuple(map(float, axes.transData.transform(point))) for point in points]
    marks = [Box(x - 5 * pixel, y - 5 * pixel, x + 5 * pixel, y + 5 * pixel) for x, y in where]
    crowd = [sum(math.dist(one, other) < 80 * pixel for other in where) for one in where]
    written: list[Box] = []
    strokes: list[Box] = []
    for index in sorted(range(len(points)), key=lambda i: -crowd[i]):
        look = chosen[index]
        note = axes.annotate(
            look.text, points[index], (0, 0), textcoords="offset points", fontsize=8, color=INK, zorder=6,
            ha="center", va="center", annotation_clip=False, fontweight="bold" if look.is_baseline else "normal",
        )  # fmt: skip
        extent = note.get_window_extent(renderer)
        at, size = (where[index][0], where[index][1]), (float(extent.width), float(extent.height))
        others = [box for i, box in enumerate(marks) if i != index and math.dist(where[i], at) > 7 * pixel]
        best = _best(at, size, pixel, ([*blocked, *marks, *written, *strokes], [*written, *others, *strokes]), inside)
        note.set_position((best.offset[0] / pixel, best.offset[1] / pixel))
        written.append(best.box)
        if best.radius > _BESIDE:
            strokes += [_spot(at, best.offset, part) for part in np.linspace(0.15, 0.85, 9)]
            _leader(axes, points[index], best.offset, size, pixel, look.colour)


def _best(
    at: tuple[float, float], size: tuple[float, float], pixel: float, taken: tuple[list[Box], list[Box]], inside: Box
) -> _Place:
    """The place that covers least, near ones first; ``taken``: what text may not cover, what its line may not cross."""
    radius = np.repeat(np.array(_RADII, dtype=float), _DIRECTIONS)
    angle = np.tile(2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS, len(_RADII))
    dx = np.cos(angle) * (radius * pixel + size[0] / 2)
    dy = np.sin(angle) * (radius * pixel + size[1] / 2)
    boxes = _around(at[0] + dx, at[1] + dy, size[0] / 2 + 2 * pixel, size[1] / 2 + pixel)
    out = (boxes[:, :2] < inside[:2]).any(axis=1) | (boxes[:, 2:] > inside[2:]).any(axis=1)
    covered = _overlap(boxes, taken[0])
    cost = 1e6 * out + 0.8 * radius + (covered + _TOUCHED * (covered > 0)).sum(axis=1)
    near = np.argsort(cost, kind="stable")[:_TRIED]
    share = np.linspace(0.12, 0.88, 11)[:, None]
    spots = _around((at[0] + share * dx[near]).ravel(), (at[1] + share * dy[near]).ravel(), 2, 2)
    crossed = (_overlap(spots, taken[1]) > 0).reshape(len(share), len(near), -1).any(axis=0).sum(axis=1)
    cost[near] += _CROSSED * np.minimum(crossed, 5) * (radius[near] > _BESIDE)
    best = int(near[np.argmin(cost[near])])
    return _Place((float(dx[best]), float(dy[best])), Box(*map(float, boxes[best])), float(radius[best]))


def _around(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    """Boxes with these centres, one a row."""
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def _overlap(boxes: Floats, others: list[Box]) -> Floats:
    """Shared pixels of each of ``boxes`` (rows) with each of ``others`` (columns)."""
    mine, theirs = boxes[:, None, :], np.array(others, dtype=float).reshape(1, -1, 4)
    shared = np.minimum(mine[..., 2:], theirs[..., 2:]) - np.maximum(mine[..., :2], theirs[..., :2])
    return np.asarray(shared.clip(min=0).prod(axis=-1))


def _spot(at: tuple[float, float], offset: tuple[float, float], part: float) -> Box:
    """A small box on the line to a text, so that later texts and lines keep off it."""
    x, y = at[0] + part * offset[0], at[1] + part * offset[1]
    return Box(x - 2, y - 2, x + 2, y + 2)


def _leader(
    axes: "Axes", point: tuple[float, float], offset: tuple[float, float], size: tuple[float, float], pixel: float,
    colour: str,
) -> None:  # fmt: skip
    """Draw the thin line from the point to the nearest edge of its text."""
    halves = ((size[0] / 2, abs(offset[0])), (size[1] / 2, abs(offset[1])))
    reach = min(half / away if away else math.inf for half, away in halves)
    rest = (1 - min(reach, 0.9)) / pixel
    axes.annotate(
        "", point, (offset[0] * rest, offset[1] * rest), textcoords="offset points", zorder=2, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.7, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip


def boxes(axes: "Axes", lines: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> list[Box]:
    """Boxes in pixels of upright and level lines, each given by its ends in data coordinates."""
    found = []
    for ends in lines:
        corners = axes.transData.transform(ends)
        (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
        found.append(Box(left - 2, bottom - 2, right + 2, top + 2))
    return found


def name_ends(axes: "Axes", style: Looks, ends: Mapping[str, tuple[float, float]]) -> None:
    """Write each method's name right of its curve's end (data coordinates), moved apart where ends are close."""
    from matplotlib.collections import LineCollection

    bottom, top = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    order = sorted(ends, key=lambda label: ends[label][1])
    wanted = [(ends[label][1] - bottom) / (top - bottom) for label in order]
    at = apart(wanted, 0.155 / inches)
    inch = 1 / (WIDTH * axes.get_position().width)
    right = axes.get_xlim()[1]
    starts = [min(ends[label][0] / right, 1.0) + 0.06 * inch for label in order]
    leaders = [
        ((start, end), (1 + 0.06 * inch, end), (1 + 0.19 * inch, name))
        for start, end, name in zip(starts, wanted, at, strict=True)
    ]
    colours = [style[label].colour for label in order]
    axes.add_collection(
        LineCollection(leaders, colors=colours, linewidths=0.6, alpha=0.6, transform=axes.transAxes, clip_on=False),
        autolim=False,
    )
    ink: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "fontsize": 8, "color": INK}
    for label, height in zip(order, at, strict=True):
        weight = "bold" if style[label].is_baseline else "normal"
        axes.text(1 + 0.22 * inch, height, style[label].text, fontweight=weight, **ink)


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Rising places near the rising ``wanted`` ones, each at least ``least`` above the one before.

    Crowded ones form a block around the mean of where they would stand (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []  # (mean of place - rank within the run of blocks, count)
    for rank, place in enumerate(wanted):
        start, count = place - rank * least, 1
        while blocks and blocks[-1][0] > start:
            before, many = blocks.pop()
            start, count = (start * count + before * many) / (count + many), count + many
        blocks.append((start, count))
    flat = list(itertools.chain.from_iterable([start] * count for start, count in blocks))
    return [start + rank * least for rank, start in enumerate(flat)]

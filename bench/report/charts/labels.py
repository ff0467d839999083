"""Places text beside points so that no text covers a point, an error bar or another text; draws nothing else."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from bench.report.charts.canvas import Floats

_DIRECTIONS = 16
_RADII = (9, 14, 20, 28, 38, 50, 64)
"""Distances tried from the point to the nearest edge of its text, in points."""
_TOUCHED = 120
"""Pixels that any overlap counts for beside its own: a thin line under text is as hard to read as a broad one."""
_LEADER = (0.2, 0.35, 0.5, 0.65, 0.8)
"""Parts of the way from point to text that must cross no other text."""
_BESIDE = 14
"""Up to this distance the eye needs no line from text to point."""


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


def place(axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], blocked: Sequence[Box] = ()) -> None:
    """Annotate each point with its text at the nearest free place, with a thin line where that is not beside it.

    Args:
        axes: Limits, scales and layout must be final.
        points: Data coordinates.
        texts: One line each.
        blocked: Boxes that no text may cover, such as error bars.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixel = axes.figure.dpi / 72
    inside = Box(*axes.get_window_extent(renderer).extents)
    where = [tuple(map(float, axes.transData.transform(point))) for point in points]
    taken = [*blocked, *(Box(x - 5 * pixel, y - 5 * pixel, x + 5 * pixel, y + 5 * pixel) for x, y in where)]
    crowded = sorted(range(len(points)), key=lambda i: -sum(math.dist(where[i], other) < 80 * pixel for other in where))
    written: list[Box] = []
    for index in crowded:
        note = axes.annotate(
            texts[index], points[index], (0, 0), textcoords="offset points", fontsize=8, color="#222222", zorder=6,
            ha="center", va="center", annotation_clip=False,
        )  # fmt: skip
        extent = note.get_window_extent(renderer)
        at, size = (where[index][0], where[index][1]), (float(extent.width), float(extent.height))
        best = _best(at, size, pixel, taken, written, inside)
        note.set_position((best.offset[0] / pixel, best.offset[1] / pixel))
        written.append(best.box)
        taken.append(best.box)
        if best.radius > _BESIDE:
            taken += [_spot(at, best.offset, part) for part in (0.2, 0.4, 0.6, 0.8)]
            _leader(axes, points[index], best.offset, size, pixel)


def _best(
    at: tuple[float, float], size: tuple[float, float], pixel: float, taken: list[Box], written: list[Box], inside: Box
) -> _Place:
    """The place that covers least, near ones first."""
    radius = np.repeat(np.array(_RADII, dtype=float), _DIRECTIONS)
    angle = np.tile(2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS, len(_RADII))
    dx = np.cos(angle) * (radius * pixel + size[0] / 2)
    dy = np.sin(angle) * (radius * pixel + size[1] / 2)
    boxes = _around(at[0] + dx, at[1] + dy, size[0] / 2 + pixel, size[1] / 2 + pixel)
    out = (boxes[:, :2] < inside[:2]).any(axis=1) | (boxes[:, 2:] > inside[2:]).any(axis=1)
    covered = _overlap(boxes, taken)
    cost = 1e5 * out + 0.4 * radius + (covered + _TOUCHED * (covered > 0)).sum(axis=1)
    spots = [_overlap(_around(at[0] + part * dx, at[1] + part * dy, 3, 3), written) > 0 for part in _LEADER]
    cost += 30 * np.any(spots, axis=0).sum(axis=1) * (radius > _BESIDE)
    best = int(np.argmin(cost))
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
    """A small box on the line to a text, so that later texts keep off it."""
    x, y = at[0] + part * offset[0], at[1] + part * offset[1]
    return Box(x - 3, y - 3, x + 3, y + 3)


def _leader(
    axes: Axes, point: tuple[float, float], offset: tuple[float, float], size: tuple[float, float], pixel: float
) -> Annotation:
    """Draw the thin line from the point to the nearest edge of its text."""
    halves = ((size[0] / 2, abs(offset[0])), (size[1] / 2, abs(offset[1])))
    reach = min(half / away if away else math.inf for half, away in halves)
    rest = (1 - min(reach, 0.9)) / pixel
    return axes.annotate(
        "", point, (offset[0] * rest, offset[1] * rest), textcoords="offset points", zorder=2, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip

"""Places text beside points so that no text covers a point, an error bar or another text; draws nothing else."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_DIRECTIONS = 16
_RADII = (9, 14, 20, 28, 38, 50, 64)
"""Distances tried from the point to the nearest edge of its text, in points."""
_BESIDE = 14
"""Up to this distance the eye needs no line from text to point."""


def place(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], blocked: Sequence[Bbox] = ()
) -> None:
    """Annotate each point with its text at the nearest free place, with a thin line where that is not beside it.

    Args:
        axes: Limits, scales and layout must be final.
        points: Data coordinates.
        texts: One line each.
        blocked: Boxes in pixels that no text may cover, such as error bars.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixel = figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    where = [tuple(axes.transData.transform(point)) for point in points]
    taken = [*blocked, *(Bbox.from_bounds(x - 5 * pixel, y - 5 * pixel, 10 * pixel, 10 * pixel) for x, y in where)]
    crowded = sorted(range(len(points)), key=lambda i: -sum(math.dist(where[i], other) < 80 * pixel for other in where))
    for index in crowded:
        note = axes.annotate(
            texts[index], points[index], (0, 0), textcoords="offset points", fontsize=8, color="#222222", zorder=6,
            ha="center", va="center", annotation_clip=False,
        )  # fmt: skip
        box = note.get_window_extent(renderer)
        offset, placed, radius = _best(where[index], box.width, box.height, pixel, taken, inside)
        note.set_position((offset[0] / pixel, offset[1] / pixel))
        taken.append(placed)
        if radius > _BESIDE:
            taken += [_spot(where[index], offset, part) for part in (0.2, 0.4, 0.6, 0.8)]
            _leader(axes, note, points[index], offset, box, pixel)


def _best(
    at: tuple[float, float], width: float, height: float, pixel: float, taken: Sequence[Bbox], inside: Bbox
) -> tuple[tuple[float, float], Bbox, int]:
    """The offset (pixels) whose text covers least, near ones first, with the text's box and the radius (points)."""
    best: tuple[float, tuple[float, float], Bbox, int] | None = None
    for radius in _RADII:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            dx = math.cos(angle) * (radius * pixel + width / 2)
            dy = math.sin(angle) * (radius * pixel + height / 2)
            left, bottom = at[0] + dx - width / 2, at[1] + dy - height / 2
            box = Bbox.from_bounds(left - pixel, bottom - pixel, width + 2 * pixel, height + 2 * pixel)
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            cost = (0.0 if within else 1e5) + sum(_overlap(box, other) for other in taken) + 0.4 * radius
            if radius > _BESIDE:
                cost += 30 * sum(_crosses(at, (dx, dy), other) for other in taken if other.width > 12 * pixel)
            if best is None or cost < best[0]:
                best = cost, (dx, dy), box, radius
    assert best is not None
    return best[1], best[2], best[3]


def _spot(at: tuple[float, float], offset: tuple[float, float], part: float) -> Bbox:
    """A small box on the line to a text, so that later texts keep off it."""
    return Bbox.from_bounds(at[0] + part * offset[0] - 3, at[1] + part * offset[1] - 3, 6, 6)


def _crosses(at: tuple[float, float], offset: tuple[float, float], box: Bbox) -> bool:
    """Whether the line from a point to its text runs through a box."""
    steps = (0.2, 0.35, 0.5, 0.65, 0.8)
    return any(box.contains(at[0] + part * offset[0], at[1] + part * offset[1]) for part in steps)


def _overlap(first: Bbox, second: Bbox) -> float:
    """Shared pixels of two boxes."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return float(max(0.0, width) * max(0.0, height))


def _leader(
    axes: Axes, note: Annotation, point: tuple[float, float], offset: tuple[float, float], box: Bbox, pixel: float
) -> None:
    """Draw the thin line from the point to the nearest edge of its text."""
    halves = ((box.width / 2, abs(offset[0])), (box.height / 2, abs(offset[1])))
    reach = min(half / away if away else math.inf for half, away in halves)
    rest = (1 - min(reach, 0.9)) / pixel
    end = (offset[0] * rest, offset[1] * rest)
    axes.annotate(
        "", point, end, textcoords="offset points", zorder=2, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip

"""Places names beside points and at the ends of curves so that no name covers a mark, a bar, a line or another name."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.report.charts.canvas import INK, WIDTH, Floats, mark_size
from bench.report.charts.sheet import Look, Looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARK = 7.5
"""Points of a mark that has a name."""
_DIRECTIONS = 24
_GAPS = (6, 9, 16, 20, 26, 34, 44, 56, 70, 86, 104, 125)
"""Distances tried from the point to the nearest edge of its text, in points."""
_BESIDE = 10
"""Up to this distance the eye needs no line from text to point, where no other mark is as near."""
_SEEN = 15
"""Distance from which such a line is seen beside the mark that it starts under."""
_COVERS, _OUTSIDE = 1e4, 1e6
"""What a place costs that may not be: over a mark, a name or another name's line, or with its own line through another
mark; and outside of the panel."""
_TOUCHED, _CROSSED, _LINED = 300.0, 60.0, 6.0
"""What else it costs to cover a bar, to lead a line across another, and to need one; a point of distance costs 1."""
_ROUNDS, _TRIES, _HOPELESS = 8, 6, 6
"""How often all names are placed again while that helps, how often they start afresh in another order where some are in
the way of each other, and how many faults are too many to try."""


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class _Places:
    """Where one name may stand: one row of each array a place, in pixels."""

    offsets: Floats
    """Centre of the text from its point, ``[n, 2]``."""
    boxes: Floats
    """Of the text, ``[n, 4]``."""
    lines: Floats
    """From the point to the nearest edge of the text, ``[n, 4]``: two corners."""
    lined: NDArray[np.bool_]
    """Whether that line is drawn."""
    cost: Floats
    """Of the place by itself, whatever the other names do."""


def place(axes: "Axes", points: Sequence[tuple[float, float]], chosen: Sequence[Look], blocked: Sequence[Box],
          others: Sequence[tuple[float, float, float]] = ()) -> bool:  # fmt: skip
    """Write each method's name at the nearest free place, with a thin line where that is not beside its point.

    Args:
        axes: Limits, scales and layout must be final.
        points: Data coordinates.
        chosen: Look of the method at each point.
        blocked: Boxes that names should not cover, such as error bars.
        others: Points without a name, in data coordinates, each with half the size of its mark in points.

    Returns:
        Whether every name stands clear of all marks, of the other names and of their lines, and its line of marks.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixel = axes.figure.dpi / 72
    inside = np.array(axes.get_window_extent(renderer).extents)
    where = axes.transData.transform(np.reshape([*points, *(other[:2] for other in others)], (-1, 2)))
    halves = [*map(half_size, chosen), *(other[2] for other in others)]
    marks = _around(where, pixel * np.array(halves)[:, None])
    notes, found = [], []
    for index, look in enumerate(chosen):
        note = axes.annotate(
            look.text, points[index], (0, 0), textcoords="offset points", fontsize=8, color=INK, zorder=6,
            ha="center", va="center", annotation_clip=False, fontweight="bold" if look.is_baseline else "normal",
        )  # fmt: skip
        extent = note.get_window_extent(renderer)
        notes.append(note)
        found.append(_places(index, (extent.width, extent.height), where, marks, (np.array(blocked), inside), pixel))
    picked = _arranged(found)
    for index, (note, places, best) in enumerate(zip(notes, found, picked, strict=True)):
        note.set_position(tuple(places.offsets[best] / pixel))
        if places.lined[best]:
            end = (places.lines[best, 2:] - places.lines[best, :2]) / pixel
            _leader(axes, points[index], (float(end[0]), float(end[1])), chosen[index])
    return all(_cost(found, picked, index)[best] < _COVERS for index, best in enumerate(picked))


def half_size(look: Look) -> float:
    """Points from the middle of a mark, or of the ring around it, to its edge."""
    return 0.85 * MARK + 0.4 if look.is_baseline else mark_size(look, MARK) / 2 + 0.5


def _places(
    index: int, size: tuple[float, float], where: Floats, marks: Floats, taken: tuple[Floats, Floats], pixel: float
) -> _Places:
    """The places of one name; ``taken``: boxes that it should not cover, and the box that it may not leave."""
    at, half = where[index], np.array(size) / 2 + (2 * pixel, pixel)
    gaps = np.repeat(np.array(_GAPS, dtype=float), _DIRECTIONS) * pixel
    angle = np.tile(2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS, len(_GAPS))
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    edge = np.clip(3 * ray, -1, 1) * half  # the text's nearest edge turns from a side to its corner to above
    offsets = ray * gaps[:, None] + edge
    boxes = _around(at + offsets, half)
    ends = np.clip(at, boxes[:, :2], boxes[:, 2:])
    gap = np.hypot(*(ends - at).T)
    away = np.hypot(*(np.clip(where, boxes[:, None, :2], boxes[:, None, 2:]) - where).transpose(2, 0, 1))
    apart = np.hypot(*(where - at).T) > pixel  # of several marks at one point each is the others' own
    rival = np.where(apart, away, np.inf).min(axis=1)
    lined = (gap > _BESIDE * pixel) | (rival < 1.5 * gap)
    lines = np.concatenate([np.broadcast_to(at, ends.shape), ends], axis=1)
    out = (boxes[:, :2] < taken[1][:2]).any(axis=1) | (boxes[:, 2:] > taken[1][2:]).any(axis=1)
    through = _pierced(lines, marks[np.hypot(*(where - at).T) > 7 * pixel]).sum(axis=1) * lined
    cost = (
        _OUTSIDE * out + _COVERS * _covered(boxes, marks).sum(axis=1) + _COVERS * (lined & (gap < _SEEN * pixel))
        + _TOUCHED * _covered(boxes, taken[0]).any(axis=1) + _COVERS * through + _LINED * lined + gap / pixel
    )  # fmt: skip
    return _Places(offsets, boxes, lines, lined, cost)


def _arranged(found: Sequence[_Places]) -> list[int]:
    """The place of each name: by turns the cheapest beside all others, those in the way of each other tried anew."""
    luck = np.random.default_rng(0)
    best: list[int] = []
    least, order = math.inf, list(range(len(found)))
    for _ in range(_TRIES):
        picked = _settled(found, order)
        costs = [float(_cost(found, picked, index)[picked[index]]) for index in order]
        if sum(costs) < least:
            least, best = sum(costs), picked
        if least < _COVERS or least > _HOPELESS * _COVERS:
            break
        luck.shuffle(order)
    return best


def _settled(found: Sequence[_Places], order: Sequence[int]) -> list[int]:
    picked = [-1] * len(found)
    for _ in range(_ROUNDS):
        before = list(picked)
        for index in order:
            picked[index] = int(np.argmin(_cost(found, picked, index)))
        if picked == before:
            break
    return picked


def _cost(found: Sequence[_Places], picked: Sequence[int], index: int) -> Floats:
    """Of each place of one name beside the places picked for the others; -1: none yet."""
    mine = found[index]
    others = [(p, at) for i, (p, at) in enumerate(zip(found, picked, strict=True)) if i != index and at >= 0]
    boxes = np.reshape([p.boxes[at] for p, at in others], (-1, 4))
    lines = np.reshape([p.lines[at] for p, at in others if p.lined[at]], (-1, 4))
    over = _covered(mine.boxes, boxes) | (_pierced(mine.lines, boxes) & mine.lined[:, None])
    crossed = _cross(mine.lines, lines).sum(axis=1) * mine.lined
    under = _pierced(lines, mine.boxes).sum(axis=0)
    return np.asarray(mine.cost + _COVERS * (over.sum(axis=1) + under) + _CROSSED * crossed)


def _around(centres: Floats, half: Floats) -> Floats:
    """Boxes with these centres, one a row."""
    return np.concatenate([centres - half, centres + half], axis=1)


def _covered(boxes: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which of ``boxes`` (rows) share pixels with which of ``others`` (columns)."""
    mine, theirs = boxes[:, None, :], np.reshape(others, (1, -1, 4))
    shared = np.minimum(mine[..., 2:], theirs[..., 2:]) - np.maximum(mine[..., :2], theirs[..., :2])
    return np.asarray((shared > 0).all(axis=-1))


def _pierced(lines: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Which of ``lines`` (rows) run through which of ``boxes`` (columns)."""
    start, step = lines[:, None, :2], (lines[:, 2:] - lines[:, :2])[:, None, :]
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    ends = np.stack([(boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step])
    enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.asarray(np.maximum(enter, 0) < np.minimum(leave, 1))


def _cross(lines: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which of ``lines`` (rows) run across which of ``others`` (columns); lines from one point do not."""

    def side(of: Floats, ends: Floats) -> Floats:
        way = of[..., 2:] - of[..., :2]
        return np.asarray(way[..., 0] * (ends[..., 1] - of[..., 1]) - way[..., 1] * (ends[..., 0] - of[..., 0]))

    mine, theirs = lines[:, None, :], others[None, :, :]
    apart = side(mine, theirs[..., :2]) * side(mine, theirs[..., 2:]) < 0
    return np.asarray(apart & (side(theirs, mine[..., :2]) * side(theirs, mine[..., 2:]) < 0))


def _leader(axes: "Axes", point: tuple[float, float], end: tuple[float, float], look: Look) -> None:
    """Draw the thin line from a point to the nearest edge of its text, ``end`` points away."""
    note = axes.annotate(
        "", point, end, textcoords="offset points", zorder=2, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 0.8, "alpha": 0.8, "shrinkA": 0,
                    "shrinkB": 0},
    )  # fmt: skip
    note.set_label(look.text)


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

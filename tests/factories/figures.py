"""What stands in a drawn figure: its texts, where they stand, its cells, and the look that it gives each method."""

import itertools

import numpy as np
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox


def texts(figure):
    """Every text of a figure, its panels' with it."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


def cells_of(axes):
    """Values of a heat map, the first row on top; -1 where a cell has none."""
    return [image.get_array().filled(-1).ravel().tolist() for image in axes.images]


def written(figure):
    """Every text that is seen, with its box in pixels and its size in points."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    unseen = {id(label) for axes in figure.axes for label in _out_of_view(axes)}
    return [
        (text.get_text(), Text.get_window_extent(text, renderer), text.get_fontsize())
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in unseen
    ]


def overlapping(boxes):
    """Pairs of ``boxes``, by their places, that share more than a pixel at their edges."""
    corners = np.array([box.padded(-1).get_points() for box in boxes])  # [boxes, 2, x and y]
    low, high = corners.min(axis=1), corners.max(axis=1)
    shared = ((low[:, None] <= high) & (low <= high[:, None])).all(axis=2)
    return np.argwhere(np.triu(shared, 1)).tolist()


def _out_of_view(axes):
    """Labels of ticks that matplotlib keeps but does not draw."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not axes.axison or not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)


def shown_looks(figure):
    """Text of a method -> its colour and marker, of every row that has a name and a mark, and of every key."""
    found = {}
    for axes in figure.axes:
        names = {
            round(y, 6): label.get_text() for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        }
        for line in axes.lines:
            if line.get_transform() == axes.get_yaxis_transform() and line.get_marker() not in ("None", "", None):
                name = names.get(round(float(line.get_ydata()[0]), 6))
                found.setdefault(name, (line.get_color(), line.get_marker()))
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend in filter(None, legends):
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if hasattr(handle, "get_marker"):
                found.setdefault(text.get_text(), (handle.get_color(), handle.get_marker()))
    return found


def named(axes):
    """The names of points in a panel: text -> annotation."""
    return {text.get_text(): text for text in axes.texts if isinstance(text, Annotation) and text.get_text()}


def tangles(figure, axes):
    """What a reader could take for another method's in a panel of named points: a sentence for each.

    A name that covers a mark, another name or another name's line; a line that runs through another mark or is too
    short to be seen; a name without a line that is not beside its own mark, or is as near to another.
    """
    figure.draw_without_rendering()
    renderer, pixel = figure.canvas.get_renderer(), figure.dpi / 72
    names = {text: Text.get_window_extent(note, renderer) for text, note in named(axes).items()}
    own = {text: axes.transData.transform(note.xy) for text, note in named(axes).items()}
    lines = {
        note.get_label(): np.array([own[note.get_label()], note.get_transform().transform(note.get_position())])
        for note in axes.texts
        if isinstance(note, Annotation) and not note.get_text()
    }
    marks = [
        _mark(line) for line in axes.lines if len(line.get_xdata()) == 1 and line.get_transform() == axes.transData
    ]
    for (one, first), (other, second) in itertools.combinations(names.items(), 2):
        if first.overlaps(second):
            yield f"{one} covers {other}"
    for text, box in names.items():
        if any(box.overlaps(mark) for mark in marks):
            yield f"{text} covers a mark"
        yield from (f"{text} covers the line of {other}" for other, line in lines.items() if other != text
                    and _runs_through(line, box))  # fmt: skip
        gaps = [_gap(box, _middle(mark)) / pixel for mark in marks if _apart(own[text], mark) > pixel]
        gap = _gap(box, own[text]) / pixel
        if text not in lines and (gap > 12 or min(gaps, default=np.inf) < gap):
            yield f"{text} has no line and lies {gap:.0f} points from its mark"
    for text, line in lines.items():
        through = [mark for mark in marks if _apart(own[text], mark) > 7 * pixel and _runs_through(line, mark)]
        if through:
            yield f"the line of {text} runs through {len(through)} other marks"
        covered = max(_half(mark) for mark in marks if _apart(own[text], mark) <= pixel)
        if np.hypot(*(line[1] - line[0])) - covered < 5 * pixel:
            yield f"the line of {text} is too short to be seen"


def _mark(line):
    half = line.get_markersize() / 2 * line.axes.figure.dpi / 72
    x, y = line.axes.transData.transform(line.get_xydata())[0]
    return Bbox([[x - half, y - half], [x + half, y + half]])


def _middle(box):
    return (box.min + box.max) / 2


def _half(box):
    return box.width / 2


def _apart(point, mark):
    return np.hypot(*(_middle(mark) - point))


def _gap(box, point):
    return np.hypot(*(np.clip(point, box.min, box.max) - point))


def _runs_through(line, box):
    steps = line[0] + np.linspace(0, 1, 400)[:, None] * (line[1] - line[0])
    inner = box.padded(-1)
    return bool(((steps > inner.min) & (steps < inner.max)).all(axis=1).any())

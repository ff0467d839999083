"""What stands in a drawn figure: its texts, where they stand, its cells, and the look that it gives each method."""

from matplotlib.text import Text


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

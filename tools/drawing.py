"""Draw where each method sits in a layer, and how far its gradient flows back; figures come from a committed run.

python -m tools.drawing docs/images
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from tools.docs.figures import backward_ratios, span

NAME = "where-each-sits"
WIDTH, HEIGHT = 800, 1076
"""One unit is one pixel where the drawing is shown 800 pixels wide."""
FROZEN, EDGE, TRAINED, BACK, TEXT, QUIET = "#e9ebee", "#8b929c", "#1f6fb4", "#d1495b", "#20242b", "#5b626c"
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "svg.fonttype": "path", "svg.hashsalt": NAME,
    "path.simplify": False,
}  # fmt: skip
LEFT, RIGHT = 262, 478
"""Sides of the layer's column."""
MIDDLE = (LEFT + RIGHT) / 2


@dataclass(frozen=True)
class Column:
    """One small stack of the lower half."""

    title: str
    labels: tuple[str, ...]
    """Methods as the run spells them; their counts are shown below the stack."""
    ends: float
    """How far down the gradient runs, in units of the stack: `HEAD`, `TOP_LAYER` ... `EMBEDDINGS`."""
    trained: str
    """What is drawn as trained: ``all``, ``head``, or a place in every layer."""


HEAD_Y, LAYERS_Y, EMBEDDINGS_Y, BOX = 232, (188, 144, 100), 56, 30
"""Lower edges of the boxes of a small stack, top down, and their height."""
COLUMNS = (
    Column("full", ("full",), EMBEDDINGS_Y + 4, "all"),
    Column("BitFit", ("bitfit",), EMBEDDINGS_Y + 20, "bias"),
    Column("LoRA\n(IA)³", ("lora(rank=8)", "ia3"), LAYERS_Y[2] + 8, "inside"),
    Column("Prefix\nP-Tuning v2", ("prefix_tuning", "p_tuning_v2"), LAYERS_Y[2] + 8, "prefix"),
    Column("Prompt\nP-Tuning", ("prompt_tuning(length=10)", "p_tuning(length=10)"), EMBEDDINGS_Y + 15, "prompt"),
    Column("Houlsby\nadapter", ("houlsby_adapter",), LAYERS_Y[2] + 14, "two"),
    Column("Pfeiffer,\nparallel", ("pfeiffer_adapter", "parallel_adapter"), LAYERS_Y[2] + 24, "one"),
    Column("LST", ("lst(reduction=8)",), 0, "ladder"),
    Column("head", ("head",), HEAD_Y + 8, "head"),
)


class Canvas:
    """Boxes, arrows and words in pixels."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    def box(self, x: float, y: float, width: float, height: float, text: str = "", trained: bool = False,
            size: float = 8.5) -> None:  # fmt: skip
        """A rounded box with a centred text; filled where it trains."""
        face, edge, ink = (TRAINED, TRAINED, "white") if trained else (FROZEN, EDGE, TEXT)
        style = "round,pad=0,rounding_size=4"
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=face, edgecolor=edge, linewidth=0.9)
        )
        if text:
            self.words(x + width / 2, y + height / 2, text, ha="center", color=ink, size=size)

    def words(self, x: float, y: float, text: str, **options: object) -> None:
        """Text, by default from the left, centred on the line."""
        given = {"ha": "left", "va": "center", "color": TEXT, "linespacing": 1.25, "size": 8.5} | options
        self.axes.text(x, y, text, **given)

    def arrow(self, points: Sequence[tuple[float, float]], color: str = EDGE, width: float = 1.1) -> None:
        """A line along ``points`` with its head at the last one."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs[:-1] if len(xs) > 2 else xs, ys[:-1] if len(ys) > 2 else ys, color=color, linewidth=width,
                       solid_capstyle="round", solid_joinstyle="round")  # fmt: skip
        style = {"arrowstyle": "-|>", "color": color, "linewidth": width, "mutation_scale": 8 + 1.5 * width,
                 "shrinkA": 0, "shrinkB": 0}  # fmt: skip
        self.axes.annotate("", points[-1], points[-2], arrowprops=style)

    def leader(self, points: Sequence[tuple[float, float]]) -> None:
        """A thin line from a name to what it names, ending in a dot."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=TRAINED, linewidth=0.8)
        self.axes.plot(xs[-1:], ys[-1:], color=TRAINED, marker="o", markersize=2.6)

    def name(self, y: float, title: str, says: str, right: bool = False) -> None:
        """A method's name in bold over what it is, in the left or the right margin."""
        x = 634 if right else 14
        self.words(x, y, title, weight="bold", color=TRAINED, size=9)
        self.words(x, y - 8, says, va="top", size=8)


def layer(c: Canvas) -> None:
    """One layer of the backbone with everything that a method may add to it."""
    frame = Rectangle((LEFT - 14, 86), RIGHT - LEFT + 28, 496, facecolor="none", edgecolor=EDGE, linewidth=0.9)
    frame.set_linestyle((0, (4, 3)))
    c.axes.add_patch(frame)
    c.words(LEFT - 14, 593, "one of L layers", size=8, color=QUIET)
    c.box(LEFT, 24, RIGHT - LEFT, 32, "word embeddings")
    for x, text in ((LEFT, "$W_q$"), (LEFT + 75, "$W_k$"), (LEFT + 150, "$W_v$")):
        c.arrow([(MIDDLE, 56), (MIDDLE, 88), (x + 33, 88), (x + 33, 102)])
        c.box(x, 102, 66, 30)
        c.words(x + 40, 117, text, ha="center", size=10)
        c.arrow([(x + 33, 132), (x + 33, 214)])
    for x in (LEFT + 4, LEFT + 154):
        c.box(x, 108, 20, 18, "BA", trained=True, size=7)
    for x in (LEFT + 108, LEFT + 183):
        _scale(c, x, 154)
        c.box(x - 34, 176, 24, 17, "P", trained=True, size=7.5)
        c.arrow([(x - 10, 184.5), (x - 1, 184.5)], TRAINED)
    c.box(LEFT, 214, RIGHT - LEFT, 30, "attention")
    c.arrow([(MIDDLE, 244), (MIDDLE, 258)])
    c.box(LEFT, 258, RIGHT - LEFT, 24, "output map")
    c.arrow([(MIDDLE, 282), (MIDDLE, 296)])
    c.box(LEFT + 32, 296, RIGHT - LEFT - 64, 26, "adapter (Houlsby)", trained=True, size=8)
    c.arrow([(MIDDLE, 322), (MIDDLE, 336)])
    c.box(LEFT, 336, RIGHT - LEFT, 24, "add, normalise")
    c.arrow([(MIDDLE, 360), (MIDDLE, 388)])
    c.box(LEFT + 56, 388, RIGHT - LEFT - 112, 28, "FFN, in")
    c.arrow([(MIDDLE, 416), (MIDDLE, 450)])
    _scale(c, MIDDLE, 432)
    c.box(LEFT + 56, 450, RIGHT - LEFT - 112, 28, "FFN, out")
    c.arrow([(MIDDLE, 478), (MIDDLE, 504)])
    c.box(LEFT, 402, 46, 60, "parallel\nadapter", trained=True, size=7)
    c.arrow([(MIDDLE, 372), (LEFT + 23, 372), (LEFT + 23, 402)], TRAINED)
    c.arrow([(LEFT + 23, 462), (LEFT + 23, 490), (MIDDLE - 1, 490)], TRAINED)
    c.box(LEFT + 32, 504, RIGHT - LEFT - 64, 26, "adapter (Houlsby, Pfeiffer)", trained=True, size=7)
    c.arrow([(MIDDLE, 530), (MIDDLE, 544)])
    c.box(LEFT, 544, RIGHT - LEFT, 24, "add, normalise")
    c.arrow([(MIDDLE, 568), (MIDDLE, 676)])
    c.box(LEFT, 676, RIGHT - LEFT, 32, "task head", trained=True)


def _scale(c: Canvas, x: float, y: float) -> None:
    """A learned factor on the way."""
    c.axes.plot([x], [y], marker="o", markersize=9, color=TRAINED)
    c.words(x, y - 0.5, "×", ha="center", color="white", size=8.5)


def ladder(c: Canvas) -> None:
    """LST's side network beside the backbone: it reads the states and sends no gradient back to them."""
    c.box(546, 24, 58, 32, "down", trained=True, size=8)
    c.arrow([(RIGHT, 40), (545, 40)])
    c.arrow([(575, 56), (575, 104)], TRAINED)
    c.arrow([(MIDDLE, 76), (574, 76)])
    c.box(546, 104, 58, 64, "side\nblock", trained=True, size=8)
    c.arrow([(575, 168), (575, 622)], TRAINED)
    c.arrow([(MIDDLE, 606), (574, 606)])
    c.box(546, 622, 58, 46, "side\nblock", trained=True, size=8)
    c.arrow([(575, 668), (575, 692), (RIGHT + 1, 692)], TRAINED)
    c.words(520, 610, "reads only", ha="center", va="bottom", size=7.5, color=QUIET)
    c.words(532, 80, "reads only", ha="center", va="bottom", size=7, color=QUIET)


def names(c: Canvas) -> None:
    """The methods in the margins, each led to its place."""
    c.name(52, "Prompt Tuning, P-Tuning", "p learned vectors in front of\nthe words")
    c.box(214, 31, 30, 18, "P", trained=True, size=7.5)
    c.arrow([(244, 40), (LEFT - 1, 40)], TRAINED)
    c.name(117, "LoRA", "adds B A to a weight, here\nto query and value")
    c.leader([(58, 117), (LEFT + 6, 117)])
    c.name(176, "(IA)³", "learned factors on keys, values\nand inside the FFN")
    c.leader([(52, 176), (234, 176), (234, 154), (LEFT + 102, 154)])
    c.name(236, "Prefix-Tuning, P-Tuning v2", "p learned keys and values in\nfront of the layer's own")
    c.leader([(200, 236), (242, 236), (242, 184.5), (LEFT + 76, 184.5)])
    c.name(296, "BitFit", "trains the biases of all maps\nand norms; adds nothing")
    c.leader([(64, 296), (242, 296), (242, 270), (LEFT + 3, 270)])
    c.name(356, "Houlsby adapter", "two small networks in series")
    c.leader([(140, 356), (242, 356), (242, 309), (LEFT + 34, 309)])
    c.name(432, "Parallel adapter", "one beside the FFN")
    c.leader([(140, 432), (LEFT + 2, 432)])
    c.name(517, "Pfeiffer adapter", "the upper one alone")
    c.leader([(138, 517), (LEFT + 34, 517)])
    c.name(624, "full fine-tuning", "trains everything drawn in grey,\nadds nothing")
    c.name(692, "head", "is trained by every method;\nalone it is a method, too")
    c.leader([(54, 692), (LEFT + 2, 692)])
    c.name(
        645,
        "LST",
        "a narrow ladder beside\nthe backbone: reads the\nstate of each layer, sends\nno gradient back into it",
        right=True,
    )
    c.leader([(630, 645), (602, 645)])


def backward(c: Canvas) -> None:
    """Small stacks: what trains in each, and the way of its gradient from the head down."""
    step = (WIDTH - 24) / len(COLUMNS)
    ratios = backward_ratios()
    for index, column in enumerate(COLUMNS):
        x = 12 + index * step + 10
        width = 44.0
        _stack(c, x, width, column.trained)
        _gradient(c, x, width, column)
        c.words(x + width / 2, 266, column.title, ha="center", va="bottom", weight="bold", color=TRAINED, size=8)
        c.words(x + width / 2, 36, span(ratios[label] for label in column.labels), ha="center", size=9, weight="bold")
    c.words(12, 16, "backward FLOPs, full = 1: counted on MiniLM, 32 x 64 tokens, the same on any machine", size=8)


def _stack(c: Canvas, x: float, width: float, trained: str) -> None:
    everything = trained == "all"
    c.box(x, HEAD_Y, width, BOX - 8, "head", trained=True, size=7.5)
    for y, text in zip(LAYERS_Y, ("L", "2", "1"), strict=True):
        c.box(x, y, width, BOX, text if trained in ("all", "head", "ladder", "prompt") else "", everything, 7.5)
    c.box(x, EMBEDDINGS_Y, width, BOX - 4, "words", everything, 7)
    marks = {"bias": _strip, "inside": _inside, "prefix": _prefix, "two": _two, "one": _one}
    for y in LAYERS_Y:
        if trained in marks:
            marks[trained](c, x, y, width)
    if trained == "bias":
        c.axes.add_patch(Rectangle((x + 1, EMBEDDINGS_Y + 21), width - 2, 3, color=TRAINED))
    if trained == "prompt":
        c.box(x - 14, EMBEDDINGS_Y + 4, 13, BOX - 12, "P", True, 6.5)
    if trained == "ladder":
        for y in LAYERS_Y:
            c.box(x + width + 4, y, 12, BOX, "", True)
        c.axes.plot([x + width + 10] * 2, [EMBEDDINGS_Y + 13, HEAD_Y + 11], color=TRAINED, linewidth=1, zorder=0)


def _strip(c: Canvas, x: float, y: float, width: float) -> None:
    for low in (y + 3, y + 13, y + 24):
        c.axes.add_patch(Rectangle((x + 1, low), width - 2, 3, color=TRAINED))


def _inside(c: Canvas, x: float, y: float, width: float) -> None:
    for shift in (6, width - 18):
        c.box(x + shift, y + 6, 12, 12, "", True)


def _prefix(c: Canvas, x: float, y: float, width: float) -> None:
    c.box(x + 3, y + 6, 9, 14, "", True)


def _two(c: Canvas, x: float, y: float, width: float) -> None:
    for low in (y + 11, y + 22):
        c.box(x + 6, low, width - 12, 6, "", True)


def _one(c: Canvas, x: float, y: float, width: float) -> None:
    c.box(x + 6, y + 21, width - 12, 7, "", True)


def _gradient(c: Canvas, x: float, width: float, column: Column) -> None:
    if column.trained == "ladder":
        side = x + width + 23
        c.arrow([(side - 4, HEAD_Y + 16), (side, HEAD_Y + 16), (side, LAYERS_Y[2] + 4)], BACK, 2)
    elif column.trained == "head":
        c.arrow([(x + width + 7, HEAD_Y + 24), (x + width + 7, HEAD_Y)], BACK, 2)
    else:
        c.arrow([(x + width + 7, HEAD_Y + 24), (x + width + 7, column.ends)], BACK, 2)


def draw() -> Figure:
    """The drawing."""
    with matplotlib.rc_context(STYLE):
        figure = pyplot.figure(figsize=(WIDTH / 100, HEIGHT / 100), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        axes.axis("off")
        top = Canvas(_part(figure, 328, 722))
        layer(top)
        ladder(top)
        names(top)
        low = Canvas(_part(figure, 0, 300))
        backward(low)
        c = Canvas(axes)
        c.words(14, HEIGHT - 16, "Where each method sits", size=11, weight="bold")
        c.box(560, HEIGHT - 24, 16, 14)
        c.words(582, HEIGHT - 17, "frozen", size=8)
        c.box(640, HEIGHT - 24, 16, 14, trained=True)
        c.words(662, HEIGHT - 17, "trained", size=8)
        c.words(14, 318, "How far its gradient flows back", size=11, weight="bold")
        c.arrow([(560, 318), (590, 318)], BACK, 2)
        c.words(598, 318, "gradient", size=8)
        return figure


def _part(figure: Figure, low: float, height: float) -> Axes:
    axes = figure.add_axes((0, low / HEIGHT, 1, height / HEIGHT))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    return axes


def write(folder: Path) -> None:
    """Write the drawing as SVG and PNG into ``folder``."""
    figure = draw()
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{NAME}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{NAME}.png", dpi=160, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

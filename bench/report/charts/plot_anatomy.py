"""Draws the anatomy of backward: which gradients each method computes, and in whose modules; computes only shares."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.report import format as fmt
from bench.report.charts.canvas import (
    FAINT,
    INK,
    QUIET_INK,
    ROW,
    Floats,
    Sheet,
    Words,
    key,
    new_figure,
    room_for,
    rows,
    scaled,
    text_width,
)
from bench.report.charts.looks import Looks
from bench.schema.record import Flops, Owners

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Kind(NamedTuple):
    """One kind of work in backward."""

    field: str
    name: str
    colour: str


KINDS = (
    Kind("backward_input_gradient", "input gradients", "#77AADD"),
    Kind("backward_weight_gradient", "weight gradients", "#EE8866"),
    Kind("backward_attention", "attention", "#44BB99"),
    Kind("backward_recompute", "forward again", "#DDDDDD"),
)
"""Left to right; colours of Paul Tol's "light" scheme, made for areas that carry dark text."""
HATCH = "////"
SPOKEN = 0.055
"""Share of the axis from which a part carries its own figure."""


def anatomy(flops: Mapping[str, Flops], baseline: str, words: Words, style: Looks) -> "Figure | None":
    """Stacked bars: backward FLOPs by kind, hatched where they are spent in a method's own modules.

    Args:
        flops: By method label, in the order of the rows.
        baseline: Label of the method whose backward is 100 %.
        words: Title and caption.
        style: Look of each method.

    Returns:
        None where nothing was counted or the baseline was not.
    """
    if baseline not in flops or not flops[baseline].backward:
        return None
    names, whole = list(flops), flops[baseline].backward
    drawn = [kind for kind in KINDS if any(getattr(found, kind.field) for found in flops.values())]
    sheet = Sheet(ROW * len(names), room_for(style, names), 0.2, above=0.42, keys=1)
    figure, (axes,) = new_figure(words, sheet)
    y = rows(axes, style, names)
    longest = max(found.backward for found in flops.values()) / whole
    axes.set_xlim(0, 1.17 * longest)
    ends = np.zeros(len(names))
    for kind in drawn:
        for own in (False, True):
            width = np.array([_spent(found, kind, own) / whole for found in flops.values()])
            ends = _stack(axes, y, ends, width, kind, own)
    for at, end, found in zip(y, ends, flops.values(), strict=True):
        _say_whole(axes, end, at, found, whole)
    guide = flops[baseline].backward_input_gradient / whole
    _scales(axes, whole, fmt.brief(baseline), longest, guide)
    _guide(axes, guide, fmt.plain(baseline), len(names))
    key(figure, _handles(drawn, any(found.method.backward for found in flops.values())), sheet)
    return figure


def caption(baseline: str) -> str:
    """What the figure measures, for the words below it."""
    text = (
        "FLOPs of loss.backward() in one training step, by kind: input gradients (dX = dY W) pass the error on to the "
        "layers below, weight gradients (dW = dY' X) change weights, attention is softmax(QK')V backwards. Hatched: in "
        f"modules that the method adds; plain: in the backbone and the task head. Right: all of it / {baseline}. "
        "n = 1, counts have no interval."
    )
    for formula in ("dX = dY W", "dW = dY' X"):
        text = text.replace(formula, formula.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _say_whole(axes: "Axes", end: float, y: float, found: Flops, whole: int) -> None:
    """Write all of a method's backward beside its bar, and where none of it enters the backbone."""
    over: dict[str, Any] = {"va": "center", "textcoords": "offset points", "zorder": 5}
    over["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    text = f"{fmt.ratio(found.backward / whole)} x"
    axes.annotate(text, (end, y), (5, 0), fontsize=9, color=INK, **over)
    if not found.backbone.backward:
        beside = 5 + 72 * text_width(text) + 6
        axes.annotate("none of it in the backbone", (end, y), (beside, 0), fontsize=8, style="italic",
                      color=QUIET_INK, **over)  # fmt: skip


def _spent(found: Flops, kind: Kind, own: bool) -> int:
    parts: tuple[Owners, ...] = (found.method,) if own else (found.backbone, found.head)
    return sum(int(getattr(part, kind.field)) for part in parts)


def _stack(axes: "Axes", y: Floats, left: Floats, width: Floats, kind: Kind, own: bool) -> Floats:
    look: dict[str, Any] = {"hatch": HATCH} if own else {}
    some = width > 0
    if some.any():
        axes.barh(y[some], width[some], 0.66, left[some], color=kind.colour, edgecolor="white", linewidth=0.5, **look)
    if not own:
        top = axes.get_xlim()[1]
        for at, start, share in zip(y[some], left[some], width[some], strict=True):
            if share >= SPOKEN * top:
                text = f"{100 * share:.0f} %"
                axes.text(start + share / 2, at, text, ha="center", va="center", fontsize=8, color=INK)
    return left + width


def _scales(axes: "Axes", whole: int, name: str, longest: float, guide: float) -> None:
    """Below FLOPs, above shares of the baseline; none where the guide stands."""
    size, unit = scaled([whole], ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))
    step = next(s for s in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10, 20, 25, 50, 100, 200, 250) if whole / size / s <= 6)
    ticks = np.arange(0, 1.17 * longest * whole / size, step)
    axes.set_xticks(ticks * size / whole, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(f"backward FLOPs of one training step ({unit}FLOP)")
    axes.grid(visible=False)
    for share in np.arange(0, longest + 0.01, 0.25):
        axes.axvline(share, color="#e6e6e6", linewidth=0.7, zorder=0)
        if abs(share - guide) < 0.06 * longest:
            continue
        text = f"{100 * share:.0f} %" + (f" of {name}" if share == 1 else "")
        axes.text(share, 1.005, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7.5,
                  color=QUIET_INK)  # fmt: skip


def _guide(axes: "Axes", share: float, name: str, count: int) -> None:
    """A line where the baseline's input gradients end, to hold those of the other methods against."""
    if not share:
        return
    axes.vlines(share, -0.6, count - 0.4, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    axes.annotate(
        f"{100 * share:.0f} %: all input gradients of {name}", (share, 1), (0, 13), xycoords=axes.get_xaxis_transform(),
        textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=QUIET_INK,
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 0, "shrinkA": 0},
    )  # fmt: skip


def _handles(drawn: list[Kind], own: bool) -> list[Any]:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=kind.colour, label=kind.name) for kind in drawn]
    if own:
        handles.append(Patch(facecolor="#bbbbbb", edgecolor="white", hatch=HATCH, label="in the method's own modules"))
    return handles

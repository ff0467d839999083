"""Draws the heat map of backward FLOPs, methods x depth: where the gradient flows; computes only its ratios."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import format as fmt
from bench.report.charts.canvas import INK, QUIET_INK, ROW, WIDTH, Floats, Sheet, Words, new_figure, room_for, rows
from bench.report.charts.looks import Looks
from bench.schema.record import Flops, Owners

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

HEAD = "head"
"""Depth of the task head, above the backbone's layers."""
SPELLED, NUMBERED, EACH = 9, 14, 20
"""Depths up to which labels are spelled out, cells carry their figure, and every layer has its tick."""
UNDEFINED = "#e9e9e9"
BESIDE, BAR = 1.3, 0.13
"""Inches of the columns beside the depths and of the scale."""
DARKEST = 2.0
"""Ratio from which the colour grows no darker: a share of next to nothing, such as the task head's, has no bound."""
WHOLE = ("own\nmodules", "all of\nbackward")
"""Columns beside the depths: what a method computes in modules of its own, and everything."""


def backward_by_depth(
    flops: Mapping[str, Flops], baseline: str, title: str, where: str, style: Looks, tags: tuple[str, ...] = ()
) -> "Figure | None":
    """Backward FLOPs of the backbone at each depth, and of the head, relative to the baseline's there.

    Where a record does not keep the backbone's share, all owners of a depth are taken together.

    Args:
        flops: By method label, in the order of the rows.
        baseline: Label of the method that others are divided by.
        title: Of the figure.
        where: What was counted on.
        style: Look of each method.
        tags: Of the figure.

    Returns:
        None where the baseline is absent, or was not counted by layer.
    """
    if baseline not in flops or not flops[baseline].by_layer:
        return None
    split = all(found.backbone_by_layer for found in flops.values())
    whole = _at_depth(flops[baseline], split)
    ratio = _ratios(flops, whole, split)
    if np.isnan(ratio).all():
        return None
    words = Words(title, _caption(fmt.plain(baseline), split), where, tags)
    names, depth = list(flops), list(whole)
    left, right, gap = room_for(style, names), 0.5, 0.14
    widths = (WIDTH - left - right - 2 * gap - BESIDE - BAR, BESIDE, BAR)
    sheet = Sheet(ROW * len(names), left, right, widths, gap=gap, above=0.3, below=0.55)
    figure, (axes, totals, bar) = new_figure(words, sheet)
    rows(axes, style, names)
    beside = _of_whole(flops, baseline)
    most = max(1.0, float(np.nanmax(ratio)), float(beside.max()))
    top = min(DARKEST, most)
    image = _paint(axes, ratio, top, len(depth) <= NUMBERED)
    _name_depths(axes, depth)
    if split:
        _say_empty(axes, ratio, depth)
    rows(totals, style, names, named=False)
    _paint(totals, beside, top, True)
    totals.set_xticks(range(len(WHOLE)), WHOLE)
    for panel, text in (
        (axes, f"share of {fmt.brief(baseline)}, depth by depth"),
        (totals, f"of all of {fmt.brief(baseline)}"),
    ):
        panel.set_title(text, color=QUIET_INK, fontsize=8)
    figure.colorbar(image, cax=bar, extend="max" if most > top else "neither")
    bar.set_yticks(np.arange(0, top + 0.01, 0.25))
    bar.tick_params(length=2, labelsize=7)
    bar.spines["outline"].set_linewidth(0.4)
    return figure


def _caption(name: str, split: bool) -> str:
    what = "by the backbone's own operations at each depth, and by the task head" if split else "at each depth"
    owners = (
        "Right: what the method computes in modules of its own, and all of backward, / all of it in"
        if split
        else "All owners of a depth together. Right: what the method computes in modules of its own, and all, / all in"
    )
    return (
        f"FLOPs of loss.backward() spent {what}, / {name} there; n = 1, counts have no interval. White: none at all. "
        f"Grey: {name} has none there either. {owners} {name}."
    )


def _at_depth(found: Flops, split: bool) -> dict[str, Owners]:
    if not split:
        return found.by_layer
    return {**found.backbone_by_layer, HEAD: found.by_layer.get(HEAD, Owners())}


def _ratios(flops: Mapping[str, Flops], whole: Mapping[str, Owners], split: bool) -> Floats:
    ratio = np.full((len(flops), len(whole)), np.nan)
    for i, found in enumerate(flops.values()):
        own = _at_depth(found, split)
        for j, (depth, below) in enumerate(whole.items()):
            if below.backward and depth in own:
                ratio[i, j] = own[depth].backward / below.backward
    return ratio


def _of_whole(flops: Mapping[str, Flops], baseline: str) -> Floats:
    """Backward in a method's own modules and in all, / the baseline's whole backward."""
    whole = flops[baseline].backward
    return np.array([[found.method.backward / whole, found.backward / whole] for found in flops.values()])


def _paint(axes: "Axes", ratio: Floats, top: float, numbered: bool) -> "AxesImage":
    import matplotlib
    from matplotlib.colors import ListedColormap

    shades = matplotlib.colormaps["Blues"](np.linspace(0.1, 0.95, 256))
    colours = ListedColormap(shades).with_extremes(under="white", bad=UNDEFINED)
    height = len(ratio)
    edges = (-0.5, ratio.shape[1] - 0.5, -0.5, height - 0.5)
    image = axes.imshow(ratio, aspect="auto", cmap=colours, vmin=1e-9, vmax=top, extent=edges, interpolation="nearest")
    for i, j in np.argwhere(ratio > 0) if numbered else ():
        value = float(ratio[i, j])
        colour = "white" if value > 0.55 * top else INK
        text = fmt.ratio(value, 2 if value < 100 else 0)
        axes.text(j, height - 1 - i, text, ha="center", va="center", fontsize=8, color=colour)
    axes.grid(visible=False)
    left, right, bottom, top_edge = edges
    axes.vlines(np.arange(left + 1, right), bottom, top_edge, color="#d9d9d9", linewidth=0.5, zorder=2.5)
    axes.hlines(np.arange(bottom + 1, top_edge), left, right, color="#d9d9d9", linewidth=0.5, zorder=2.5)
    axes.tick_params(length=0)
    axes.set_ylim(-0.5, height - 0.5)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set(visible=True, color="#d9d9d9")
    return image


def _name_depths(axes: "Axes", depth: list[str]) -> None:
    every = 1 if len(depth) <= EACH else 4
    number = {at: int(name.removeprefix("layer_")) for at, name in enumerate(depth) if name.startswith("layer_")}
    shown = [at for at in range(len(depth)) if number.get(at, 0) % every == 0]
    if every > 1 and len(depth) - 2 in number:  # no room for the number beside the word at the end
        shown = [at for at in shown if at != len(depth) - 2]
    spelled = len(depth) <= SPELLED
    axes.set_xticks(shown, [_spelled(depth[at], spelled) for at in shown])
    axes.set_xlabel("depth: input on the left, task head on the right" + ("" if spelled else " (layers by number)"))


def _spelled(depth: str, whole: bool) -> str:
    return depth.replace("_", " ") if whole else depth.removeprefix("layer_").replace("embeddings", "emb.")


def _say_empty(axes: "Axes", ratio: Floats, depth: list[str]) -> None:
    """Write into each row whose backbone has no backward at all that it is meant so."""
    inside = [at for at, name in enumerate(depth) if name != HEAD and not np.isnan(ratio[:, at]).all()]
    if not inside:
        return
    ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "style": "italic", "color": QUIET_INK}
    for i, row in enumerate(ratio[:, inside]):
        if (row == 0).all():
            text = "empty: backward never enters the backbone"
            y = len(ratio) - 1 - i
            left, right = inside[0] - 0.48, inside[-1] + 0.48
            axes.fill_between((left, right), y - 0.45, y + 0.45, color="white", linewidth=0, zorder=2.6)
            axes.text((left + right) / 2, y, text, **ink)

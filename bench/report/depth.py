"""Draws the heat map of backward FLOPs, methods x depth: where the gradient flows; computes only its ratios."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.record import Flops, Owners
from bench.report import format as fmt
from bench.report.canvas import Floats, Look, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAD = "head"
"""Depth of the task head, above the backbone's layers."""
SPELLED, NUMBERED, EACH = 9, 14, 20
"""Depths up to which labels are spelled out, cells carry their figure, and every layer has its tick."""


def backward_by_depth(
    flops: Mapping[str, Flops], baseline: str, title: str, where: str, style: Mapping[str, Look]
) -> "Figure | None":
    """Backward FLOPs of the backbone at each depth, and of the head, relative to the baseline's there.

    Where a record does not keep the backbone's share, all owners of a depth are taken together.

    Args:
        flops: By method label, in the order of the rows.
        baseline: Label of the method that others are divided by.
        title: Of the figure.
        where: What was counted on, for the caption.
        style: Look of each method.

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
    name = fmt.plain(baseline)
    what = "by the backbone's own operations at each depth, and by the task head"
    what = what if split else "at each depth (all owners together)"
    caption = (
        f"FLOPs of loss.backward() spent {what}, / {name}; {where}. Exact on any machine, n = 1. "
        f"Empty: none at all. Grey: {name} has none there either.{_left_out(flops, baseline) if split else ''}"
    )
    figure, (axes,) = new_figure(title, caption, 1.3 + 0.32 * len(flops))
    _paint(axes, ratio, list(whole), f"backward FLOPs / {name}")
    axes.set_yticks(range(len(flops)), [style[label].text for label in flops])
    return figure


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


def _left_out(flops: Mapping[str, Flops], baseline: str) -> str:
    """What methods compute in modules of their own, by what it is of the baseline's whole backward."""
    whole = flops[baseline].backward
    own = {label: found.method.backward / whole for label, found in flops.items() if label != baseline}
    large = [f"{fmt.plain(label)} {fmt.ratio(value, 3)}" for label, value in own.items() if value >= 0.0005]
    name = fmt.plain(baseline)
    rest = "; the others below 0.001" if len(large) < len(own) else ""
    shares = f"{', '.join(large)} of {name}'s whole backward{rest}"
    return f" Left out: what methods compute in modules of their own ({shares if large else f'below 0.001 of {name}'})."


def _paint(axes: "Axes", ratio: Floats, depth: list[str], label: str) -> None:
    axes.set_facecolor("#dddddd")
    top = max(1.0, float(np.nanmax(ratio)))
    image = axes.imshow(ratio, aspect="auto", cmap="Blues", vmin=0, vmax=top)
    for i, j in np.argwhere(~np.isnan(ratio)):
        value = float(ratio[i, j])
        if value and len(depth) <= NUMBERED:
            colour = "white" if value > 0.55 * top else "#222222"
            axes.text(j, i, fmt.ratio(value), ha="center", va="center", fontsize=8, color=colour)
    every = 1 if len(depth) <= EACH else 4
    number = {at: int(name.removeprefix("layer_")) for at, name in enumerate(depth) if name.startswith("layer_")}
    shown = [at for at in range(len(depth)) if number.get(at, 0) % every == 0]
    if every > 1 and len(depth) - 2 in number:  # no room for the number beside the word at the end
        shown = [at for at in shown if at != len(depth) - 2]
    axes.set_xticks(shown, [_spelled(depth[at], len(depth) <= SPELLED) for at in shown])
    axes.set_xlabel("depth in the backbone" + ("" if len(depth) <= SPELLED else " (layers by number)"))
    axes.grid(visible=False)
    axes.set_xticks(np.arange(1, len(depth)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(ratio)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.set_axisbelow(False)
    axes.tick_params(which="both", length=0)
    axes.figure.colorbar(image, ax=axes, label=label, pad=0.01)


def _spelled(depth: str, whole: bool) -> str:
    return depth.replace("_", " ") if whole else depth.removeprefix("layer_").replace("embeddings", "emb.")

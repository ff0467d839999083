"""Draws predicted memory by method: what is held, by kind, and the peak beside it; computes no figure of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import format as fmt
from bench.report.canvas import Look, new_figure, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = {
    "weights": ("weights", "#BBBBBB"),
    "gradients": ("gradients", "#CC6677"),
    "optimizer_state": ("optimizer state", "#DDAA33"),
    "saved_activations": ("saved activations", "#6699CC"),
}
"""Key among a record's bytes -> name and colour, bottom first."""


def memory_breakdown(
    predicted: Sequence[Mapping[str, Any]], title: str, where: str, style: Mapping[str, Look]
) -> "Figure | None":
    """Stacked bars of the four parts by method, the predicted peak as a mark, the device's memory as a line.

    Args:
        predicted: Rows of a prediction, all counted.
        title: Of the figure.
        where: What was counted on, for the caption.
        style: Look of each method.

    Returns:
        None where nothing was counted.
    """
    if not predicted:
        return None
    names = [row["method"] for row in predicted]
    peaks = np.array([row["predicted_peak_memory_bytes"]["step"] for row in predicted], dtype=float)
    limit = predicted[0].get("device_memory_bytes")
    longest = max(peaks.max(), max(sum(row["bytes"].values()) for row in predicted))
    unit, name = next(((size, name) for size, name in ((1e9, "GB"), (1e6, "MB")) if longest >= size), (1e3, "kB"))
    beyond = limit is not None and limit > 3 * longest
    caption = (
        f"Counted on tensors without data; {where} Mark: predicted peak, the largest of forward, backward and "
        "optimizer step. It is no sum of the parts: they do not peak together, and temporaries come on top."
        + (f" The device's {fmt.size(limit)} lie beyond the right edge." if beyond else "")
    )
    figure, (axes,) = new_figure(title, caption, 1.5 + 0.32 * len(names))
    y = rows(axes, dict(style), names)
    left = np.zeros(len(names))
    for part, (label, colour) in PARTS.items():
        width = np.array([row["bytes"][part] for row in predicted]) / unit
        axes.barh(y, width, 0.62, left, color=colour, label=label, linewidth=0)
        left += width
    axes.plot(peaks / unit, y, "|", color="#000000", markersize=13, markeredgewidth=1.8, label="predicted peak")
    for at, end, peak in zip(y, np.maximum(left, peaks / unit), peaks, strict=True):
        axes.text(end + 0.012 * longest / unit, at, fmt.size(peak), va="center", fontsize=8, color="#222222", zorder=4,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # fmt: skip
    right = longest / unit * 1.13
    if limit is not None and not beyond:
        axes.axvline(limit / unit, color="#AA4499", linewidth=1.2, linestyle="--", label=f"device, {fmt.size(limit)}")
        right = max(right, limit / unit * 1.03)
    axes.set_xlim(0, right)
    axes.set_xlabel(f"memory of one training step ({name})")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: labels[at] not in [label for label, _ in PARTS.values()])
    axes.legend(
        [handles[at] for at in order], [labels[at] for at in order], loc="lower right", bbox_to_anchor=(1, 1), ncols=6,
        columnspacing=1.4, handlelength=1.4, borderaxespad=0.2,
    )  # fmt: skip
    return figure

"""What fills memory in one training step: its parts, stacked, with the peak beside them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report import format as fmt
from bench.report.charts.canvas import (
    BYTES,
    INK,
    Layout,
    Words,
    depth,
    key,
    new_figure,
    room_for,
    rows,
    scaled,
    stack,
)
from bench.report.charts.sheet import Looks, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = {
    "weights": ("weights", "#BBBBBB"),
    "gradients": ("gradients", "#EE8866"),
    "optimizer_state": ("optimizer state", "#EEDD88"),
    "saved_activations": ("saved activations", "#77AADD"),
}
"""Key among a record's bytes -> name and colour (Paul Tol's "light" scheme), left first."""
REST = "rest up to the peak"
PEAKS = {
    "cuda_allocated": "peak, measured on this GPU",
    "tracker": "peak, counted",
    None: "predicted peak",
}
"""Source of a peak -> its name."""
_FIELDS = {"bytes", "peak_memory_bytes", "peak_memory_source", "predicted_peak_memory_bytes"}


def by_part(sheet: Sheet) -> "Figure | None":
    """`memory_breakdown` of a run."""
    held = [
        {"method": label, **record.model_dump(include=_FIELDS)}
        for label, record in sheet.cost_records.items()
        if record.bytes
    ]
    on_gpu = any(row["peak_memory_source"] == "cuda_allocated" for row in held)
    words = sheet.words("What fills memory in one training step", "", "measured" if on_gpu else "counted")
    return memory_breakdown(held, words, sheet.looks)


def memory_breakdown(held: Sequence[Mapping[str, Any]], words: Words, style: Looks) -> "Figure | None":
    """Stacked bars of the parts by method, the peak as a mark, the device's memory as a line.

    Args:
        held: By method: ``method``, ``bytes`` and ``predicted_peak_memory_bytes`` as a cost record has them; where it
            ran also ``peak_memory_bytes`` and ``peak_memory_source``, and ``device_memory_bytes`` where one was named.
        words: Title, subtitle and badges; the caption is written here.
        style: Look of each method.

    Returns:
        None where nothing was counted.
    """
    if not held:
        return None
    names = [row["method"] for row in held]
    parts = {part: np.array([row["bytes"][part] for row in held], dtype=float) for part in PARTS}
    sums = np.sum(list(parts.values()), axis=0)
    peaks = np.array([_peak(row) for row in held])
    source = next((row["peak_memory_source"] for row in held if row.get("peak_memory_bytes")), None)
    longest = float(np.nanmax([*sums, *peaks]))
    size, unit = scaled([longest], BYTES[:3])
    limit = held[0].get("device_memory_bytes")
    beyond = limit is not None and limit > 3 * longest
    words = Words(words.title, _caption(source, limit if beyond else None), words.subtitle, words.badges)
    layout = Layout(depth(style, names), room_for(style, names), 0.2, keys=1)
    figure, (axes,) = new_figure(words, layout)
    y = rows(axes, style, names)
    left = np.zeros(len(names))
    for part, (label, colour) in PARTS.items():
        left = stack(axes, y, left, parts[part] / size, colour, label=label)
    rest = np.nan_to_num(peaks - sums).clip(min=0) / size
    stack(axes, y, left, rest, "white", edgecolor="#b5b5b5", hatch="////", label=REST)
    axes.plot(peaks / size, y, "|", color="#000000", markersize=14, markeredgewidth=1.8, label=PEAKS[source], zorder=4)
    for at, end, peak in zip(y, np.fmax(sums, peaks) / size, peaks, strict=True):
        axes.text(end + 0.012 * longest / size, at, fmt.size(peak), va="center", fontsize=8.5, color=INK, zorder=4,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # fmt: skip
    right = longest / size * 1.12
    if limit is not None and not beyond:
        axes.axvline(limit / size, color="#AA3377", linewidth=1.2, linestyle="--", label=f"device, {fmt.size(limit)}")
        right = max(right, limit / size * 1.03)
    axes.set_xlim(0, right)
    axes.set_xlabel(f"memory of one training step ({unit})")
    key(figure, _in_order(axes), layout)
    return figure


def _peak(row: Mapping[str, Any]) -> float:
    """The peak as measured, else as predicted, else NaN."""
    peak = row.get("peak_memory_bytes") or row.get("predicted_peak_memory_bytes")
    return float(peak["step"]) if peak else np.nan


def _caption(source: str | None, limit: float | None) -> str:
    parts = "Counted on tensors without data" if source is None else "Parts: bytes counted by storage"
    beyond = f" The device's {fmt.size(limit)} lie beyond the right edge." if limit else ""
    return (
        f"{parts}; n = 1, counts have no interval. Mark and number: {PEAKS[source]}, the largest of forward, backward "
        "and optimizer step. It is no sum of the parts: they do not peak together, and temporaries (hatched, where the "
        f"peak is above the parts) come on top.{beyond}"
    )


def _in_order(axes: "Axes") -> list[Any]:
    """What the key shows: parts first, then marks."""
    handles, _ = axes.get_legend_handles_labels()
    order = [*(label for label, _ in PARTS.values()), REST]
    return sorted(handles, key=lambda handle: order.index(text) if (text := handle.get_label()) in order else 99)

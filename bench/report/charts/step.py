"""What one training step takes: backward FLOPs by depth and by kind, bytes moved, and what fills memory."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.report import format as fmt
from bench.report.charts import canvas
from bench.report.charts.canvas import BYTES, FAINT, GRID, INK, QUIET_INK, WIDTH, Floats, Layout, Words
from bench.report.charts.sheet import Looks, Sheet
from bench.schema.record import Flops, Owners, Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

HEAD = "head"
"""Depth of the task head, above the backbone's layers."""
NUMBERED, EACH = 14, 20
"""Depths up to which cells carry their figure, and every layer has its tick."""
UNDEFINED = "#e9e9e9"
BESIDE, BAR = 1.3, 0.13
"""Inches of the columns beside the depths and of the scale."""
DARKEST = 2.0
"""Ratio from which the colour grows no darker: a share of next to nothing, such as the task head's, has no bound."""
WHOLE = ("own\nmodules", "all of\nbackward")
"""Columns beside the depths: what a method computes in modules of its own, and everything."""


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


def by_depth(sheet: Sheet) -> "Figure | None":
    """`backward_by_depth` of a run."""
    words = sheet.words("Where backward works: FLOPs at each depth", "", "counted")
    return backward_by_depth(_flops(sheet), sheet.baseline, words, sheet.looks)


def by_kind(sheet: Sheet) -> "Figure | None":
    """`anatomy` of a run."""
    words = sheet.words("Anatomy of backward: which gradients are computed", _kinds_caption(sheet.name), "counted")
    return anatomy(_flops(sheet), sheet.baseline, words, sheet.looks)


def _flops(sheet: Sheet) -> dict[str, Flops]:
    return {label: record.flops for label, record in sheet.cost_records.items() if record.flops}


def backward_by_depth(flops: Mapping[str, Flops], baseline: str, words: Words, style: Looks) -> "Figure | None":
    """Heat map of the backbone's backward FLOPs at each depth, and of the head's, relative to the baseline's there.

    Where a record does not keep the backbone's share, all owners of a depth are taken together.

    Args:
        flops: By method label, in the order of the rows.
        baseline: Label of the method that others are divided by.
        words: Title, subtitle and badges; the caption is written here.
        style: Look of each method.

    Returns:
        None where the baseline is absent, or was not counted by layer.
    """
    if baseline not in flops or not flops[baseline].by_layer:
        return None
    split = all(counted.backbone_by_layer for counted in flops.values())
    whole = _at_depth(flops[baseline], split)
    ratio = _ratios(flops, whole, split)
    if np.isnan(ratio).all():
        return None
    words = Words(words.title, _depth_caption(fmt.plain(baseline), split), words.subtitle, words.badges)
    names, depths = list(flops), list(whole)
    left, right, gap = canvas.room_for(style, names), 0.5, 0.14
    widths = (WIDTH - left - right - 2 * gap - BESIDE - BAR, BESIDE, BAR)
    layout = Layout(canvas.depth(style, names), left, right, widths, gap=gap, above=0.3, below=0.55)
    figure, (axes, totals, bar) = canvas.new_figure(words, layout)
    y = canvas.rows(axes, style, names)
    canvas.rows(totals, style, names, named=False)
    beside = _of_whole(flops, baseline)
    most = max(1.0, float(np.nanmax(ratio)), float(beside.max()))
    top = min(DARKEST, most)
    image = _paint(axes, y, ratio, top, len(depths) <= NUMBERED)
    _name_depths(axes, depths)
    if split:
        _say_empty(axes, y, ratio, depths)
    _paint(totals, y, beside, top, True)
    totals.set_xticks(range(len(WHOLE)), WHOLE)
    name = fmt.brief(baseline)
    axes.set_title(f"share of {name}, depth by depth", color=QUIET_INK, fontsize=8)
    totals.set_title(f"of all of {name}", color=QUIET_INK, fontsize=8)
    figure.colorbar(image, cax=bar, extend="max" if most > top else "neither")
    bar.set_yticks(np.arange(0, top + 0.01, 0.25))
    bar.tick_params(length=2, labelsize=7)
    bar.spines["outline"].set_linewidth(0.4)
    return figure


def _depth_caption(name: str, split: bool) -> str:
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


def _at_depth(counted: Flops, split: bool) -> dict[str, Owners]:
    if not split:
        return counted.by_layer
    return {**counted.backbone_by_layer, HEAD: counted.by_layer.get(HEAD, Owners())}


def _ratios(flops: Mapping[str, Flops], whole: dict[str, Owners], split: bool) -> Floats:
    ratio = np.full((len(flops), len(whole)), np.nan)
    for i, counted in enumerate(flops.values()):
        own = _at_depth(counted, split)
        for j, (layer, below) in enumerate(whole.items()):
            if below.backward and layer in own:
                ratio[i, j] = own[layer].backward / below.backward
    return ratio


def _of_whole(flops: Mapping[str, Flops], baseline: str) -> Floats:
    """Backward in a method's own modules and in all, / the baseline's whole backward."""
    whole = flops[baseline].backward
    return np.array([[counted.method.backward / whole, counted.backward / whole] for counted in flops.values()])


def _paint(axes: "Axes", y: Floats, ratio: Floats, top: float, numbered: bool) -> "AxesImage":
    import matplotlib
    from matplotlib.colors import ListedColormap

    shades = matplotlib.colormaps["Blues"](np.linspace(0.1, 0.95, 256))
    image = canvas.cells(
        axes, y, ratio, ListedColormap(shades).with_extremes(under="white", bad=UNDEFINED), (1e-9, top)
    )
    for i, j in np.argwhere(ratio > 0) if numbered else ():
        value = float(ratio[i, j])
        text = fmt.ratio(value, 2 if value < 100 else 0)
        colour = "white" if value > 0.55 * top else INK
        axes.text(j, y[i], text, ha="center", va="center", fontsize=8, color=colour)
    return image


def _name_depths(axes: "Axes", depths: list[str]) -> None:
    every = 1 if len(depths) <= EACH else 4
    number = {at: int(name.removeprefix("layer_")) for at, name in enumerate(depths) if name.startswith("layer_")}
    shown = [at for at in range(len(depths)) if number.get(at, 0) % every == 0]
    if every > 1 and len(depths) - 2 in number:  # no room for the number beside the word at the end
        shown = [at for at in shown if at != len(depths) - 2]
    spelled = canvas.text_width("embeddings", 8) < WIDTH * axes.get_position().width / len(depths)
    axes.set_xticks(shown, [_spelled(depths[at], spelled) for at in shown])
    axes.set_xlabel("depth: input on the left, task head on the right" + ("" if spelled else " (layers by number)"))


def _spelled(layer: str, whole: bool) -> str:
    return layer.replace("_", " ") if whole else layer.removeprefix("layer_").replace("embeddings", "emb.")


def _say_empty(axes: "Axes", y: Floats, ratio: Floats, depths: list[str]) -> None:
    """Write into each row whose backbone has no backward at all that it is meant so."""
    inside = [at for at, name in enumerate(depths) if name != HEAD and not np.isnan(ratio[:, at]).all()]
    if not inside:
        return
    ink: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "style": "italic", "color": QUIET_INK}
    for at, row in zip(y, ratio[:, inside], strict=True):
        if (row == 0).all():
            left, right = inside[0] - 0.48, inside[-1] + 0.48
            axes.fill_between((left, right), at - 0.45, at + 0.45, color="white", linewidth=0, zorder=2.6)
            axes.text((left + right) / 2, at, "empty: backward never enters the backbone", **ink)


def anatomy(flops: Mapping[str, Flops], baseline: str, words: Words, style: Looks) -> "Figure | None":
    """Stacked bars: backward FLOPs by kind, hatched where they are spent in a method's own modules.

    It takes what `backward_by_depth` does, the caption beside; None where nothing was counted or the baseline was not.
    """
    from matplotlib.patches import Patch

    if baseline not in flops or not flops[baseline].backward:
        return None
    names, whole = list(flops), flops[baseline].backward
    drawn = [kind for kind in KINDS if any(getattr(counted, kind.field) for counted in flops.values())]
    layout = Layout(canvas.depth(style, names), canvas.room_for(style, names), 0.2, above=0.42, keys=1)
    figure, (axes,) = canvas.new_figure(words, layout)
    y = canvas.rows(axes, style, names)
    longest = max(counted.backward for counted in flops.values()) / whole
    axes.set_xlim(0, 1.17 * longest)
    ends = np.zeros(len(names))
    for kind in drawn:
        for own in (False, True):
            width = np.array([_spent(counted, kind, own) / whole for counted in flops.values()])
            ends = _part(axes, y, ends, width, kind, own)
    for at, end, counted in zip(y, ends, flops.values(), strict=True):
        _say_whole(axes, end, at, counted, whole)
    guide = flops[baseline].backward_input_gradient / whole
    _scales(axes, whole, fmt.brief(baseline), longest, guide)
    _guide(axes, guide, fmt.plain(baseline))
    handles = [Patch(facecolor=kind.colour, label=kind.name) for kind in drawn]
    if any(counted.method.backward for counted in flops.values()):
        handles.append(Patch(facecolor="#bbbbbb", edgecolor="white", hatch=HATCH, label="in the method's own modules"))
    canvas.key(figure, handles, layout)
    return figure


def _kinds_caption(baseline: str) -> str:
    text = (
        "FLOPs of loss.backward() in one training step, by kind: input gradients (dX = dY W) pass the error on to the "
        "layers below, weight gradients (dW = dY' X) change weights, attention is softmax(QK')V backwards. Hatched: in "
        f"modules that the method adds; plain: in the backbone and the task head. Right: all of it / {baseline}. "
        "n = 1, counts have no interval."
    )
    for formula in ("dX = dY W", "dW = dY' X"):
        text = text.replace(formula, formula.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _say_whole(axes: "Axes", end: float, y: float, counted: Flops, whole: int) -> None:
    """Write all of a method's backward beside its bar, and where none of it enters the backbone."""
    over: dict[str, Any] = {"va": "center", "textcoords": "offset points", "zorder": 5}
    over["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    text = f"{fmt.ratio(counted.backward / whole)} x"
    axes.annotate(text, (end, y), (5, 0), fontsize=9, color=INK, **over)
    if not counted.backbone.backward:
        beside = 5 + 72 * canvas.text_width(text) + 6
        axes.annotate("none of it in the backbone", (end, y), (beside, 0), fontsize=8, style="italic",
                      color=QUIET_INK, **over)  # fmt: skip


def _spent(counted: Flops, kind: Kind, own: bool) -> int:
    parts: tuple[Owners, ...] = (counted.method,) if own else (counted.backbone, counted.head)
    return sum(int(getattr(part, kind.field)) for part in parts)


def _part(axes: "Axes", y: Floats, left: Floats, width: Floats, kind: Kind, own: bool) -> Floats:
    some = width > 0
    if some.any():
        canvas.stack(axes, y[some], left[some], width[some], kind.colour, **({"hatch": HATCH} if own else {}))
    if not own:
        top = axes.get_xlim()[1]
        for at, start, share in zip(y[some], left[some], width[some], strict=True):
            if share >= SPOKEN * top:
                text = f"{100 * share:.0f} %"
                axes.text(start + share / 2, at, text, ha="center", va="center", fontsize=8, color=INK)
    return left + width


def _scales(axes: "Axes", whole: int, name: str, longest: float, guide: float) -> None:
    """Below FLOPs, above shares of the baseline; none where the guide stands."""
    most = longest * whole
    size, unit = canvas.scaled([most], ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))
    ticks = np.arange(0, 1.17 * most / size, _round_step(most / size, 0.1))
    axes.set_xticks(ticks * size / whole, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel(f"backward FLOPs of one training step ({unit}FLOP)")
    axes.grid(visible=False)
    for share in np.arange(0, longest + 0.01, _round_step(longest, 0.25)):
        axes.axvline(share, color=GRID, linewidth=0.7, zorder=0)
        if abs(share - guide) < 0.06 * longest:
            continue
        text = f"{100 * share:,.0f} %" + (f" of {name}" if share == 1 else "")
        axes.text(share, 1.005, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7.5,
                  color=QUIET_INK)  # fmt: skip


def _round_step(end: float, least: float) -> float:
    """The smallest of ``least`` times 1, 2, 4, 10, 20 ... that takes six steps at most from 0 to ``end``."""
    steps = (least * factor * 10.0**power for power in itertools.count() for factor in (1, 2, 4))
    return next(step for step in steps if end / step <= 6)


def _guide(axes: "Axes", share: float, name: str) -> None:
    """A line where the baseline's input gradients end, to hold those of the other methods against."""
    if not share:
        return
    axes.axvline(share, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
    axes.annotate(
        f"{100 * share:.0f} %: all input gradients of {name}", (share, 1), (0, 13), xycoords=axes.get_xaxis_transform(),
        textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=QUIET_INK,
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 0, "shrinkA": 0},
    )  # fmt: skip


MOVED = {"forward": ("forward", "#77AADD"), "backward": ("backward", "#EE8866"), "optimizer": ("update", "#EEDD88")}
"""Phase among a record's bytes moved -> name and colour (Paul Tol's "light" scheme), left first."""


def by_phase(sheet: Sheet) -> "Figure | None":
    """`moved_by_phase` of a run."""
    moved = {label: record.traffic_bytes for label, record in sheet.cost_records.items() if record.traffic_bytes}
    words = sheet.words("Memory traffic: bytes that one training step moves", "", "counted")
    return moved_by_phase(moved, sheet.baseline, words, sheet.looks)


def moved_by_phase(moved: Mapping[str, Traffic], baseline: str, words: Words, style: Looks) -> "Figure | None":
    """Stacked bars: bytes read and written by forward, backward and update, all of it / the baseline's beside.

    It takes what `anatomy` does, traffic in place of FLOPs; None where nothing was counted or the baseline was not.
    """
    if baseline not in moved:
        return None
    names, whole = list(moved), moved[baseline].step
    longest = max(one.step for one in moved.values())
    size, unit = canvas.scaled([longest], BYTES)
    words = Words(words.title, _moved_caption(fmt.plain(baseline)), words.subtitle, words.badges)
    layout = Layout(canvas.depth(style, names), canvas.room_for(style, names), 0.2, keys=1)
    figure, (axes,) = canvas.new_figure(words, layout)
    y = canvas.rows(axes, style, names)
    left = np.zeros(len(names))
    for phase, (label, colour) in MOVED.items():
        part = np.array([getattr(one, phase) for one in moved.values()], dtype=float) / size
        left = canvas.stack(axes, y, left, part, colour, label=label)
    for at, end, one in zip(y, left, moved.values(), strict=True):
        text = f"{fmt.size(one.step)}, {fmt.ratio(one.step / whole)} x"
        axes.text(end + 0.012 * longest / size, at, text, va="center", fontsize=8.5, color=INK, zorder=4)
    axes.set_xlim(0, longest / size * 1.25)
    axes.set_xlabel(f"bytes moved by one training step ({unit})")
    canvas.key(figure, axes.get_legend_handles_labels()[0], layout)
    return figure


def _moved_caption(baseline: str) -> str:
    return (
        "Bytes that the operations of forward, backward and update read and write, each element once an operation, "
        f"whatever a cache spares; n = 1, counts have no interval. Right: all of it, and / {baseline}. On "
        "a device with much speed for its bandwidth a step takes as long as this says, rather than its FLOPs."
    )


PARTS = {
    "weights": ("weights", "#BBBBBB"), "gradients": ("gradients", "#EE8866"),
    "optimizer_state": ("optimizer state", "#EEDD88"), "saved_activations": ("saved activations", "#77AADD"),
}  # fmt: skip
"""Key among a record's bytes -> name and colour (Paul Tol's "light" scheme), left first."""
REST = "rest up to the peak"
PEAKS = {"cuda_allocated": "peak, measured on this GPU", "tracker": "peak, counted", None: "predicted peak"}
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
            ran also ``peak_memory_bytes`` and ``peak_memory_source``, and ``device_memory_bytes`` with
            ``reserve_bytes`` where one was named.
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
    peak = [row.get("peak_memory_bytes") or row.get("predicted_peak_memory_bytes") for row in held]
    peaks = np.array([float(of["step"]) if of else np.nan for of in peak])
    source = next((row["peak_memory_source"] for row in held if row.get("peak_memory_bytes")), None)
    longest = float(np.nanmax([*sums, *peaks]))
    size, unit = canvas.scaled([longest], BYTES[:3])
    reserve = held[0].get("reserve_bytes") or 0
    limit = held[0].get("device_memory_bytes")
    limit = limit if limit is None else limit - reserve
    beyond = limit is not None and limit > 3 * longest
    words = Words(words.title, _memory_caption(source, limit if beyond else None), words.subtitle, words.badges)
    layout = Layout(canvas.depth(style, names), canvas.room_for(style, names), 0.2, keys=1)
    figure, (axes,) = canvas.new_figure(words, layout)
    y = canvas.rows(axes, style, names)
    left = np.zeros(len(names))
    for part, (label, colour) in PARTS.items():
        left = canvas.stack(axes, y, left, parts[part] / size, colour, label=label)
    rest = np.nan_to_num(peaks - sums).clip(min=0) / size
    canvas.stack(axes, y, left, rest, "white", edgecolor="#b5b5b5", hatch="////", label=REST)
    axes.plot(peaks / size, y, "|", color="#000000", markersize=14, markeredgewidth=1.8, label=PEAKS[source], zorder=4)
    for at, end, peak in zip(y, np.fmax(sums, peaks) / size, peaks, strict=True):
        axes.text(end + 0.012 * longest / size, at, fmt.size(peak), va="center", fontsize=8.5, color=INK, zorder=4,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # fmt: skip
    right = longest / size * 1.12
    if limit is not None and not beyond:
        name = f"device{' less its reserve' if reserve else ''}, {fmt.size(limit)}"
        axes.axvline(limit / size, color="#AA3377", linewidth=1.2, linestyle="--", label=name)
        right = max(right, limit / size * 1.03)
    axes.set_xlim(0, right)
    axes.set_xlabel(f"memory of one training step ({unit})")
    marks, _ = axes.get_legend_handles_labels()
    order = [*(label for label, _ in PARTS.values()), REST]
    canvas.key(
        figure,
        sorted(marks, key=lambda mark: order.index(mark.get_label()) if mark.get_label() in order else 99),
        layout,
    )
    return figure


def _memory_caption(source: str | None, limit: float | None) -> str:
    parts = "Counted on tensors without data" if source is None else "Parts: bytes counted by storage"
    beyond = f" The device's {fmt.size(limit)} lie beyond the right edge." if limit else ""
    return (
        f"{parts}; n = 1, counts have no interval. Mark and number: {PEAKS[source]}, the largest of forward, backward "
        "and optimizer step. It is no sum of the parts: they do not peak together, and temporaries (hatched, where the "
        f"peak is above the parts) come on top.{beyond}"
    )

"""The only place where units are formatted; everything else keeps SI base units and plain numbers.

A missing figure is a dash, never 0, and a figure above 0 is never printed as 0.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

MISSING = "-"
"""Stands for a figure that was not measured or does not exist."""

TOO_FEW = "too few blocks"
"""Stands for a ratio whose interval is wider to a side than the ratio itself, which says nothing."""
BRIEF = 16
"""Characters of a baseline's name that a title has room for."""
NAMED = 5
"""Methods that a sentence names before it counts the rest; the tables mark all."""
_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def missing(value: Any) -> bool:
    """Whether a figure is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}"


def _scaled(value: float, unit: str, smallest: str) -> str:
    for size, prefix in _DECIMAL:
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)} {prefix}{unit}"
    return f"{value:.0f}{smallest}"


def count(value: float | None) -> str:
    """Parameters or FLOPs: ``22.6 M``, ``73.7 k``, ``0``."""
    return MISSING if value is None or missing(value) else _scaled(value, "", "")


def exact(value: float | None) -> str:
    """A whole number with thousands separators: ``22,565,376``."""
    return MISSING if value is None or missing(value) else f"{int(value):,}"


def size(value: float | None) -> str:
    """Bytes in decimal units: ``90.3 MB``, ``0``."""
    if value is None or missing(value):
        return MISSING
    return "0" if value == 0 else _scaled(value, "B", " B")


def seconds(value: float | None) -> str:
    """A duration: ``12.3 ms``, ``2.1 s``."""
    if value is None or missing(value):
        return MISSING
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= 0.9995 * unit:
            return f"{_three_digits(value / unit)} {name}"
    return "0 s" if value == 0 else f"{value * 1e9:.0f} ns"


def joules(value: float | None) -> str:
    """An energy: ``12.3 mJ``, ``2.1 J``, ``1.5 kJ``."""
    if value is None or missing(value):
        return MISSING
    for unit, name in ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")):
        if value >= 0.9995 * unit:
            return f"{_three_digits(value / unit)} {name}"
    return f"{value * 1e6:.3g} µJ"


def ratio(value: float | None, digits: int = 2) -> str:
    """A ratio: ``0.57``, ``0`` when it is exactly 0, ``<0.01`` when it is only nearly so."""
    if value is None or missing(value):
        return MISSING
    if value == 0:
        return "0"
    step = 10**-digits
    return f"<{step:.{digits}f}" if 0 < value < step / 2 else f"{value:.{digits}f}"


def says_nothing(value: float, low: float, high: float) -> bool:
    """Whether half of an interval is longer than the figure that it is about."""
    from bench.stats.intervals import is_informative  # numpy, which a command that prints one line does without

    return not is_informative(value, (low, high))


def ratio_plus_minus(value: float | None, low: float | None, high: float | None) -> str:
    """A ratio with the longer half of its interval, rounded up: ``0.57 ±.01``."""
    if value is None or low is None or high is None or missing(value) or missing(low) or missing(high):
        return ratio(value)
    if 0 < value and high < 0.005:
        return ratio(value)
    if says_nothing(value, low, high):
        return TOO_FEW
    half = math.ceil(max(value - low, high - value) * 100 - 1e-9) / 100
    shown = f"{half:.2f}".removeprefix("0") if half < 1 else ">1"
    return f"{ratio(value)} ±{shown}"


def ratio_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """A ratio with its interval: ``0.998 [0.994, 1.002]``; `TOO_FEW` where the interval says nothing."""
    shown = ratio(value, digits)
    if low is None or high is None or missing(low) or missing(high):
        return shown
    if value is not None and says_nothing(value, low, high):
        return TOO_FEW
    return f"{shown} [{ratio(low, digits)}, {ratio(high, digits)}]"


def percent(share: float) -> str:
    """A share in percent with two digits that count: ``0.42 %``."""
    return f"{100 * share:.2g} %"


def apart(first: float, second: float, unit: str) -> tuple[str, str]:
    """Two figures in one unit, with as many digits as tell them apart: ``1.765 GB`` and ``1.760 GB``."""
    scale, prefix = next(((s, p) for s, p in _DECIMAL if max(abs(first), abs(second)) >= 0.9995 * s), (1.0, ""))
    for digits in range(1 if prefix else 0, 7):
        texts = [f"{value / scale:.{digits}f} {prefix}{unit}" for value in (first, second)]
        if texts[0] != texts[1]:
            break
    return texts[0], texts[1]


def three(value: float | None) -> str:
    """A plain number with three digits that count: ``0.0312``, ``4.17e-09``, ``0`` when it is exactly 0."""
    return MISSING if value is None or missing(value) else f"{value:.3g}"


def loss(value: float | None) -> str:
    """A training loss: ``0.6934``."""
    return MISSING if value is None or missing(value) else f"{value:.4f}"


def points(value: float | None) -> str:
    """A score in points of 100: ``81.2``."""
    return MISSING if value is None or missing(value) else f"{value:.1f}"


def points_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A score with half its interval: ``81.2 ± 1.3``."""
    if value is None or low is None or high is None or missing(low) or missing(high):
        return points(value)
    return f"{value:.1f} ± {(high - low) / 2:.1f}"


def difference(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A signed difference in points with its interval: ``-0.6 [-1.9, +0.7]``."""
    if value is None or missing(value):
        return MISSING
    if low is None or high is None or missing(low) or missing(high):
        return f"{value:+.1f}"
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def of_tokens(length: int | None) -> str:
    """`` of 64 tokens``, to stand behind "row"; empty where the length is not known."""
    return "" if length is None else f" of {length} tokens"


def sentence(text: str) -> str:
    """``text`` with a capital in front and one full stop behind."""
    line = plain(text).rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(texts: Iterable[str]) -> str:
    """The first few, and how many more there are; one more stands itself rather than its count."""
    every = list(texts)
    if len(every) <= NAMED + 1:
        return ", ".join(every)
    return f"{', '.join(every[:NAMED])} and {len(every) - NAMED} more"


def brief(baseline: str) -> str:
    """The baseline's name where a title has room for it, else the word."""
    name = plain(baseline)
    return name if len(name) <= BRIEF else "baseline"


def plain(text: object) -> str:
    """One printable line: control characters, line breaks and terminal escapes become spaces."""
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    return " ".join(line.split())


def markdown(text: object) -> str:
    """Text that markdown shows as it stands: no HTML, no table cell, no markup of its own."""
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|#~$!])", r"\\\1", line)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)

"""Makes drawn figures part of the page: reads their SVG, keeps their ids apart, says what each shows; draws nothing."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.report.charts.catalogue import PLOTS

_UNUSED = ("metadata", "style")
"""Parts of matplotlib's files that a page has no use for: its one style rule stands in the page's own."""
_FALLBACK = "'DejaVu Sans', Verdana, sans-serif"
"""Of readers' machines few have the font that the figures were laid out with; Verdana is as wide."""


@dataclass(frozen=True)
class Figure:
    """One figure as the page shows it."""

    name: str
    title: str
    alt: str
    svg: str
    """Markup: an SVG element without a namespace, its ids unique within the page."""
    width: float
    """Points, as drawn."""


def figures(drawn: Iterable[Path]) -> list[Figure]:
    """The SVG files among ``drawn``, in that order.

    Raises:
        BenchError: A file cannot be read.
    """
    told = {plot.name: plot for plot in PLOTS}
    found = []
    for path in drawn:
        if path.suffix != ".svg":
            continue
        title = told[path.stem].title if path.stem in told else path.stem.replace("-", " ").capitalize()
        alt = told[path.stem].alt if path.stem in told else f"{title}."
        found.append(_figure(path, title, alt))
    return found


def _figure(path: Path, title: str, alt: str) -> Figure:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise BenchError(f"{path}: not a readable figure ({error}); remove it and repeat") from error
    width = float(root.get("viewBox", "0 0 648 0").split()[2])
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _UNUSED:
                parent.remove(child)
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", path.stem)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(_local(key), value, prefix) for key, value in element.attrib.items()}
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": f"{title}. {alt}"}
    return Figure(prefix, title, alt, ElementTree.tostring(root, encoding="unicode"), width)


def _local(name: str) -> str:
    """HTML gives SVG its namespace itself, and takes a plain ``href``."""
    return name.rpartition("}")[2]


def _own(key: str, value: str, prefix: str) -> str:
    """An attribute's value with ids, and what refers to them, made this figure's own."""
    if key == "id":
        return f"{prefix}-{value}"
    if key == "href":
        return f"#{prefix}-{value[1:]}" if value.startswith("#") else "".join(value.split())
    if key == "style":
        value = value.replace("'DejaVu Sans'", _FALLBACK)
    elif key == "d":
        value = " ".join(value.split())
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value)

"""Writes a document as one HTML file that asks no host for anything."""

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.report import format as fmt
from bench.report.document import Block, Choice, Choices, Document, Figure

if TYPE_CHECKING:
    from jinja2 import Environment

_FALLBACK = "'DejaVu Sans', Verdana, sans-serif"
"""Of readers' machines few have the font that the figures were laid out with; Verdana is as wide."""


def render(document: Document) -> str:
    """The page; every text of the document is escaped.

    Raises:
        BenchError: A figure cannot be read.
    """
    from markupsafe import Markup

    environment = _environment()
    source = environment.loader.get_source  # type: ignore[union-attr]
    style, script = (source(environment, name)[0] for name in ("page.css", "page.js"))
    choices = [row for block in document.blocks() if isinstance(block, Choices) for row in block.rows]
    return environment.get_template("page.html").render(
        document=document,
        needs=_needs(choices),
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@functools.cache
def _environment() -> "Environment":
    """Jinja's, which compiles each template once a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def one_line(value: Any) -> Any:
        return fmt.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("bench.report.render"), autoescape=True, undefined=StrictUndefined, finalize=one_line,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "kind": _kind,
        "anchor": anchor,
        "image": image,
        "sentence": fmt.sentence,
        "lines": Markup.escape,
    }
    return environment


def _kind(block: Block) -> str:
    return type(block).__name__


def anchor(figure: str) -> str:
    """``how-ratio-interval`` of ``ratio interval``."""
    return "how-" + re.sub(r"[^a-z0-9]+", "-", figure.lower()).strip("-")


def image(figure: Figure) -> str:
    """The figure's file as an address that holds it.

    Raises:
        BenchError: The file cannot be read, or holds no figure.
    """
    assert figure.file is not None
    return _address(figure.file)


def _address(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path}: not a readable figure ({error}); remove it and repeat") from error
    if not text.rstrip().endswith("</svg>"):
        raise BenchError(f"{path}: not a readable figure (its end is missing); remove it and repeat")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace("'DejaVu Sans'", _FALLBACK)
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def _needs(choices: Sequence[Choice]) -> dict[str, str]:
    """By heading of a row the numbers of the recommendations that it is among."""
    labels = dict.fromkeys(label for choice in choices for label in choice.methods)
    return {
        fmt.plain(label): " ".join(str(at) for at, choice in enumerate(choices) if label in choice.methods)
        for label in labels
    }

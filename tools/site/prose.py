"""Turns the Markdown that the project writes into a page's body: links that lead on, pictures inside the page."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


def html(text: str, folder: Path, leads_to: Callable[[str], str | None]) -> str:
    """The body of a page.

    Args:
        text: Markdown; markup in it is shown, not obeyed.
        folder: Where its pictures lie.
        leads_to: Gives the address of a link on the site; of None the words alone stay.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    pictures = [child for token in tokens for child in token.children or () if child.type == "image"]
    shown = {Path(str(picture.attrGet("src"))).with_suffix("") for picture in pictures}
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[at + 1].content))
        if token.children:
            token.children = list(_inline(token.children, folder, leads_to, shown))
    body: str = reader.renderer.render(tokens, reader.options, {})
    wide = '<div class="wide" role="region" aria-label="Table" tabindex="0"><table>'
    return body.replace("<table>", wide).replace("</table>", "</table></div>")


def anchor(heading: str) -> str:
    """``peak-memory-counted`` of ``Peak memory (counted)``, as repositories show it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _inline(
    tokens: list[Token], folder: Path, leads_to: Callable[[str], str | None], shown: set[Path]
) -> Iterator[Token]:
    """The tokens of one paragraph; ``shown``: pictures of the page, less their endings."""
    kept: list[bool] = []
    dropped = False
    for token in tokens:
        if token.type == "link_open":
            link = str(token.attrGet("href"))
            address = leads_to(link)
            kept.append(address is not None)
            if address is not None:
                token.attrSet("href", address)
                yield token
            # the other form of a picture that stands here already
            dropped = address is None and Path(link).suffix in KINDS and Path(link).with_suffix("") in shown
        elif token.type == "link_close":
            dropped = False
            if kept.pop():
                yield token
        elif not dropped:
            if token.type == "image":
                picture = folder / str(token.attrGet("src"))
                content = base64.b64encode(picture.read_bytes()).decode()
                token.attrSet("src", f"data:{KINDS[picture.suffix]};base64,{content}")
            yield token

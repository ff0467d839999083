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
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[at + 1].content))
        if token.children:
            token.children = list(_inline(token.children, folder, leads_to))
    body: str = reader.renderer.render(tokens, reader.options, {})
    wide = '<div class="wide" role="region" aria-label="Table" tabindex="0"><table>'
    return body.replace("<table>", wide).replace("</table>", "</table></div>")


def anchor(heading: str) -> str:
    """``peak-memory-counted`` of ``Peak memory (counted)``, as repositories show it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _inline(tokens: list[Token], folder: Path, leads_to: Callable[[str], str | None]) -> Iterator[Token]:
    kept: list[bool] = []
    for token in tokens:
        if token.type == "link_open":
            address = leads_to(str(token.attrGet("href")))
            kept.append(address is not None)
            if address is not None:
                token.attrSet("href", address)
                yield token
        elif token.type == "link_close":
            if kept.pop():
                yield token
        else:
            if token.type == "image":
                picture = folder / str(token.attrGet("src"))
                content = base64.b64encode(picture.read_bytes()).decode()
                token.attrSet("src", f"data:{KINDS[picture.suffix]};base64,{content}")
            yield token

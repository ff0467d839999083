"""Prints columns of figures that also stand when piped, wrapped and never cut; it knows no figure by name."""

import itertools
import textwrap
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bench.report import format as fmt

WIDTH = 118
"""Columns where there is no terminal to ask."""
LABEL_WIDTH = 18
"""Longer method labels go on below their own first line."""
GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column: header lines above, one cell per row."""

    head: tuple[str, str, str]
    """The first line is a title that neighbours with the same title share."""
    cells: list[str]
    left: bool = False
    """Aligned to the left, for columns that end a line."""

    @property
    def width(self) -> int:
        """Terminal cells of the widest entry."""
        return max(map(cell_len, (*self.head[1:], *self.cells)))

    def padded(self, text: str) -> str:
        """``text`` filled up to the column's width."""
        fill = " " * (self.width - cell_len(text))
        return text + fill if self.left else fill + text


def width_of(console: Console) -> int:
    """Columns that a text for ``console`` may take."""
    dumb = not console.is_terminal or console.is_dumb_terminal
    return WIDTH if dumb else max(60, console.width)


def say(console: Console, text: str, width: int | None = None, style: str = "", hanging: int = 2) -> None:
    """Print ``text``, wrapped at ``width`` with later lines indented by ``hanging``; never cropped."""
    if width:
        lines = textwrap.wrap(
            text, width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False
        )
        text = "\n".join(lines)
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


def table(shown: list[str], columns: list[Column], width: int) -> list[str]:
    """Lines of the table; columns that do not fit in ``width`` follow in a second table below.

    Args:
        shown: Method label of each row.
        columns: One cell a row each.
        width: Terminal cells of a line.
    """
    names = [_label_lines(label, width) for label in shown]
    first = Column(("", "", "method"), [name[0] for name in names], left=True)
    parts: list[list[Column]] = [[]]
    for title, group in itertools.groupby(columns, key=lambda column: column.head[0]):
        for added in [list(group)] if title else [[column] for column in group]:
            used = first.width + sum(len(GAP) + column.width for column in (*parts[-1], *added))
            if parts[-1] and used > width:
                parts.append([])
            parts[-1] += added
    lines: list[str] = []
    for part in parts:
        lines.append((" " * first.width + GAP + _titles(part)).rstrip())
        for level in (1, 2):
            cells = [first.padded(first.head[level]), *(column.padded(column.head[level]) for column in part)]
            lines.append(GAP.join(cells).rstrip())
        for row, name in enumerate(names):
            cells = [first.padded(name[0]), *(column.padded(column.cells[row]) for column in part)]
            lines += [GAP.join(cells).rstrip(), *name[1:]]
        lines.append("")
    return lines


def _label_lines(label: str, width: int) -> list[str]:
    """A label's first line, which has figures beside it, and those below, which have the width to themselves."""
    name, bracket, rest = fmt.plain(label).partition("(")
    if cell_len(name + bracket + rest) <= LABEL_WIDTH:
        return [name + bracket + rest]
    lines = textwrap.wrap(name, LABEL_WIDTH) or ["-"]
    below = " ".join([*lines[1:], bracket + rest])
    return [lines[0], *textwrap.wrap(below, width, initial_indent="  ", subsequent_indent="   ")]


def _titles(columns: list[Column]) -> str:
    """The line of shared titles, each centred over its columns."""
    parts = []
    for title, group in itertools.groupby(columns, key=lambda column: column.head[0]):
        members = list(group)
        width = sum(column.width for column in members) + len(GAP) * (len(members) - 1)
        parts.append(title + " " * (width - cell_len(title)) if members[-1].left else title.center(width))
    return GAP.join(parts)

"""Prints the short form of a document: columns of figures that also stand when piped, wrapped and never cut."""

import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text as Rich

from bench.report import format as fmt
from bench.report.document import Block, Column, Document, Facts, Table, Text, Verdicts

WIDTH = 118
"""Columns where there is no terminal to ask."""
LABEL_WIDTH = 18
"""Longer headings of rows go on below their own first line."""
NAME_WIDTH = 8
"""Of the name of a fact."""
GAP = "  "
MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "  ?", "invalid": "  ?"}
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "invalid": "yellow"}
TONES = {"plain": "", "warn": "yellow", "bad": "red", "good": "green"}


def render(document: Document, console: Console, top: int | None = None) -> None:
    """Print what each section shows on a screen.

    Args:
        document: Any.
        console: Where to print; without a terminal the text is 118 wide and bare of colours.
        top: Rows to show of a table of methods; None: all.
    """
    width = width_of(console)
    if document.header:
        say(console, document.header, width, style="bold", hanging=4)
    before: Block | None = None
    for section in document.sections:
        for at, block in enumerate(section.screen):
            apart = at == 0 or isinstance(block, Table) or isinstance(before, Table)
            if apart and before is not None:
                say(console, "")
            _show(block, console, width, top)
            before = block


def _show(block: Block, console: Console, width: int, top: int | None) -> None:
    if isinstance(block, Text):
        note = block.form in ("note", "list")
        style = TONES[block.tone] or ("dim" if note else "bold" if block.form == "heading" else "")
        for line in block.lines:
            say(console, "  " * note + line, width, style=style, hanging=4 if note else 2)
    elif isinstance(block, Facts):
        for fact in block.rows:
            say(console, f"{fact.name:<{NAME_WIDTH}}{fact.says}", width, style=TONES[fact.tone], hanging=NAME_WIDTH)
    elif isinstance(block, Verdicts):
        for row in block.rows:
            say(console, f"{MARKS[row.word]}  {row.line}", width, style=STYLES[row.word], hanging=6)
    elif isinstance(block, Table):
        _show_table(block, console, width, top)
    else:
        raise TypeError(f"a screen shows no {type(block).__name__}")


def _show_table(block: Table, console: Console, width: int, top: int | None) -> None:
    notes, hidden = list(block.notes), len(block.rows) - top if top is not None and block.of_methods else 0
    if hidden > 0:
        block, notes = replace(block, rows=block.rows[:top]), [f"{hidden} more in the report", *notes]
    if block.caption and not block.of_methods:
        say(console, block.caption, width)
    lines = list(table_lines(block, width))
    for line in lines if notes else lines[:-1]:
        say(console, line)
    for note in notes:
        say(console, f"  {note}", width, style="dim", hanging=4)


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
    console.print(Rich(text, style=style), soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class _Printed:
    """One column in print: two lines of heading, one cell a row."""

    title: str
    head: tuple[str, str]
    cells: list[str]
    left: bool

    @property
    def width(self) -> int:
        """Terminal cells of the widest entry."""
        return max(map(cell_len, (*self.head, *self.cells)))

    def padded(self, text: str) -> str:
        """``text`` filled up to the column's width."""
        fill = " " * (self.width - cell_len(text))
        return text + fill if self.left else fill + text


def _printed(table: Table) -> Iterator[_Printed]:
    for at, column in enumerate(table.columns):
        if at and column.screen is not None:
            title, *head = column.screen
            yield _Printed(title, (head[0], head[1]), [row[at].screen for row in table.rows], _is_left(column))


def _is_left(column: Column) -> bool:
    return column.ends_line or column.words


def table_lines(table: Table, width: int) -> Iterator[str]:
    """Lines of ``table``; columns that do not fit in ``width`` terminal cells follow in a second one below."""
    names = [_label_lines(row[0].text, width) for row in table.rows]
    first = _Printed("", ("", table.columns[0].name), [name[0] for name in names], True)
    parts: list[list[_Printed]] = [[]]
    for title, group in itertools.groupby(_printed(table), key=lambda column: column.title):
        for added in [list(group)] if title else [[column] for column in group]:
            used = first.width + sum(len(GAP) + column.width for column in (*parts[-1], *added))
            if parts[-1] and used > width:
                parts.append([])
            parts[-1] += added
    for part in parts:
        yield (" " * first.width + GAP + _titles(part)).rstrip()
        for level in (0, 1):
            cells = [first.padded(first.head[level]), *(column.padded(column.head[level]) for column in part)]
            yield GAP.join(cells).rstrip()
        for row, name in enumerate(names):
            cells = [first.padded(name[0]), *(column.padded(column.cells[row]) for column in part)]
            yield GAP.join(cells).rstrip()
            yield from name[1:]
        yield ""


def _label_lines(label: str, width: int) -> list[str]:
    """A label's first line, which has figures beside it, and those below, which have the width to themselves."""
    name, bracket, rest = fmt.plain(label).partition("(")
    if cell_len(name + bracket + rest) <= LABEL_WIDTH:
        return [name + bracket + rest]
    lines = textwrap.wrap(name, LABEL_WIDTH) or ["-"]
    below = " ".join([*lines[1:], bracket + rest])
    return [lines[0], *textwrap.wrap(below, width, initial_indent="  ", subsequent_indent="   ")]


def _titles(columns: list[_Printed]) -> str:
    """The line of shared titles, each centred over its columns."""
    parts = []
    for title, group in itertools.groupby(columns, key=lambda column: column.title):
        members = list(group)
        width = sum(column.width for column in members) + len(GAP) * (len(members) - 1)
        parts.append(title + " " * (width - cell_len(title)) if members[-1].left else title.center(width))
    return GAP.join(parts)

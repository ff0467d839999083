"""Builds the sections of a report from a run's results; how cells and tables are made of figures stands here."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from bench.report import format as fmt
from bench.report.document import Cell, Column, Table

Show = Callable[[float | None], str]
NOTHING = Cell(fmt.MISSING)


def number(value: object) -> float | None:
    """A figure as a number; None where it is missing."""
    return float(value) if isinstance(value, int | float) and not fmt.missing(value) else None


def word(text: object) -> Cell:
    """A cell of words, a dash where there are none."""
    shown = fmt.plain(text)
    return Cell(shown or fmt.MISSING, shown or None)


def figure(show: Show, value: object, short: Show | None = None) -> Cell:
    """A cell of one figure, formatted by ``show`` and on a screen by ``short``."""
    known = number(value)
    return Cell(show(known), known, short(known) if short else "")


def ratio_cell(row: "pd.Series", name: str, digits: int = 3) -> Cell:
    """A ratio with its interval; ``name_ratio name_low name_high`` of ``row``."""
    value, low, high = (number(row[f"{name}_{leaf}"]) for leaf in ("ratio", "low", "high"))
    return Cell(fmt.ratio_interval(value, low, high, digits), value, fmt.ratio_plus_minus(value, low, high))


def difference_cell(row: "pd.Series", name: str = "difference", prefix: str = "") -> Cell:
    """A difference in points with its interval, ``{prefix}low {prefix}high`` of ``row``."""
    value, low, high = (number(row[key]) for key in (name, f"{prefix}low", f"{prefix}high"))
    return Cell(fmt.difference(value, low, high), value)


def three(value: float | None) -> str:
    """A ratio with three digits."""
    return fmt.ratio(value, 3)


def table(
    caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], notes: Sequence[str] = (),
    of_methods: bool = False,
) -> Table | None:  # fmt: skip
    """A table without the columns in which no row has a figure; None where none is left beside the heading."""
    body = list(rows)
    kept = [at for at in range(len(columns)) if at == 0 or any(row[at].text != fmt.MISSING for row in body)]
    if len(kept) < 2:
        return None
    shown = tuple(tuple(row[at] for at in kept) for row in body)
    return Table(caption, tuple(columns[at] for at in kept), shown, tuple(notes), of_methods=of_methods)


def plain_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: Iterable[int] = (), sortable: bool = False
) -> Table:
    """A table of text; ``words`` are columns of words, counted from the last one where negative."""
    places = {at % len(head) for at in words}
    columns = tuple(Column(name, words=at in places) for at, name in enumerate(head))
    return Table(caption, columns, tuple(tuple(map(word, row)) for row in rows), sortable=sortable)


def columns(*names: str) -> tuple[Column, ...]:
    """Columns that a screen leaves out."""
    return tuple(map(Column, names))

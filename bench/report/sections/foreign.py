"""Shows results of others beside ours: the figures that mean the same, those taken on something else, and the rest."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from bench.analysis.beside import Alone, Apart, Beside, Difference, Reading
from bench.report import format as fmt
from bench.report.document import Block, Column, Document, Section, Table, Text
from bench.report.sections import word

HEAD = ("method", "where", "figure", "ours", "theirs", "theirs / ours", "verdict", "their field")
NO_VERDICT = "no verdict: measured at another moment or place, of other trained weights, or not counted alike"
WORDS = ("where", "figure", "verdict", "their field")
SHORT = 80
"""Characters of what a file says of itself."""


def added(document: Document | None, readings: Sequence[Reading], folder: str) -> Document:
    """What others measured, after the comparison of runs where there is one."""
    sections = tuple(_section(reading, at) for at, reading in enumerate(readings, start=1))
    if document is None:
        return Document(f"Results of others beside {fmt.plain(folder)}", "", "", sections)
    return dataclasses.replace(document, sections=(*document.sections, *sections))


def _section(reading: Reading, at: int) -> Section:
    foreign = reading.foreign
    title = f"{_short(foreign.name)}: {foreign.form}"
    blocks = tuple(_blocks(reading))
    return Section(f"others-{at}", title, blocks, (Text((title,), "heading"), *blocks))


def _short(text: object) -> str:
    shown = fmt.plain(text)
    return shown if len(shown) <= SHORT else f"{shown[: SHORT - 3]}..."


def _blocks(reading: Reading) -> Iterator[Block]:
    foreign = reading.foreign
    of = f"{_short(foreign.method.kind or 'method not stated')} on {_short(foreign.backbone or 'backbone not stated')}"
    yield Text((f"{_short(foreign.file)}: {of}.",))
    if reading.beside:
        columns = tuple(Column(name, ("", name, ""), words=name in WORDS) for name in HEAD)
        yield Table("", columns, tuple(tuple(map(word, _row(row))) for row in reading.beside), sortable=False)
        reasons = dict.fromkeys(f"{fmt.plain(row.figure)}: {row.why}" for row in reading.beside)
        if any(row.verdict == "no verdict" for row in reading.beside):
            reasons[NO_VERDICT] = None
        yield Text(tuple(reasons), "list")
    else:
        yield Text(("Nothing of it stands beside a figure of ours.",))
    if reading.apart:
        yield Text(("On something else",), "heading")
        yield Text(tuple(_apart(reading.apart)), "list")
    if reading.alone:
        yield Text(("Not comparable",), "heading")
        yield Text(tuple(_alone(reading.alone)), "list")


def _row(row: Beside) -> tuple[str, ...]:
    ratio = fmt.ratio(row.theirs / row.ours if row.ours else math.nan, 3)
    return (row.method, row.place, row.figure, _shown(row.ours, row.unit), _shown(row.theirs, row.unit), ratio,
            row.verdict, _short(row.field))  # fmt: skip


def _shown(value: float, unit: str) -> str:
    if unit == "seconds":
        return fmt.seconds(value)
    if unit in ("bytes", "parameters"):
        return f"{fmt.exact(value)} {unit}"
    return f"{value:.4f}"


def _apart(rows: Sequence[Apart]) -> Iterator[str]:
    """A line for all figures that differ in the same."""
    grouped: dict[tuple[str, tuple[Difference, ...]], list[Apart]] = {}
    for row in rows:
        grouped.setdefault((row.nearest, row.differs), []).append(row)
    for (nearest, differs), group in grouped.items():
        figures = "; ".join(f"{_short(r.field)}, {_shown(r.value, r.unit)} ({r.figure} here)" for r in group)
        if not nearest:
            yield f"{figures}: no record here holds it"
            continue
        parts = "; ".join(f"{fmt.plain(d.key)} {_short(d.ours)} here, {_short(d.theirs)} there" for d in differs)
        yield f"{figures}: nearest {fmt.plain(nearest)}, which differs in {parts}"


def _alone(rows: Sequence[Alone]) -> Iterator[str]:
    """A line for all figures that are none of ours for the same reason."""
    grouped: dict[str, list[str]] = {}
    for row in rows:
        grouped.setdefault(row.why, []).append(f"{_short(row.field)}, {_shown(row.value, row.unit)}")
    yield from (f"{'; '.join(figures)}: {why}" for why, figures in grouped.items())


def plain(readings: Sequence[Reading]) -> dict[str, Any]:
    """Everything as JSON has it; empty where nothing was read."""
    return {"foreign": [_plain(reading) for reading in readings]} if readings else {}


def _plain(reading: Reading) -> dict[str, Any]:
    foreign = reading.foreign
    return {
        "file": foreign.file, "form": foreign.form, "name": foreign.name, "method": foreign.method.kind,
        "backbone": foreign.backbone, "setting": dict(foreign.setting),
        "beside": [row._asdict() for row in reading.beside],
        "apart": [row._asdict() | {"differs": [d._asdict() for d in row.differs]} for row in reading.apart],
        "not_comparable": [row._asdict() for row in reading.alone],
    }  # fmt: skip

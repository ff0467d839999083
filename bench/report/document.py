"""A report as data: sections of text, facts, tables, figures, verdicts and caveats, the same for every renderer."""

import contextlib
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Tone = Literal["plain", "good", "warn", "bad"]
"""How a line of a screen stands out."""
Word = Literal["pass", "fail", "inconclusive", "invalid"]
HEAD = 4096
"""Bytes of an SVG that hold what it says of itself."""
Reach = Literal["exact", "bound", "open"]
"""Exact on any machine, bound to this machine or data, or not decided."""


@dataclass(frozen=True)
class Cell:
    """One figure as it is shown."""

    text: str
    value: float | str | None = None
    """What it is sorted by; None: last in either direction."""
    short: str = ""
    """The same figure in less width, for a screen; empty: ``text``."""

    @property
    def screen(self) -> str:
        """What a screen shows."""
        return self.short or self.text


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    name: str
    screen: tuple[str, str, str] | None = None
    """Its lines on a screen, the first one shared by neighbours; None: a screen leaves the column out."""
    words: bool = False
    """Words rather than figures: aligned to the left."""
    ends_line: bool = False
    """The last one of a screen's line: aligned to the left there."""


@dataclass(frozen=True)
class Table:
    """Rows of figures; the first cell of a row is its heading."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """Lines below it."""
    sortable: bool = True
    of_methods: bool = False
    """A row is a method: rows can be filtered, and recommendations mark theirs."""


@dataclass(frozen=True)
class Text:
    """Sentences: one paragraph, a list, notes in small print, or a heading within a section."""

    lines: tuple[str, ...]
    form: Literal["paragraph", "list", "note", "heading"] = "paragraph"
    tone: Tone = "plain"


@dataclass(frozen=True)
class Fact:
    """A name and what is said of it."""

    name: str
    says: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """Names, each with what is said of it."""

    rows: tuple[Fact, ...]


@dataclass(frozen=True)
class Figure:
    """A drawn figure."""

    name: str
    """Stem of its files in ``plots/``."""
    title: str
    alt: str
    """What a reader who cannot see it must know; it also stands below it."""
    tags: tuple[str, ...] = ()
    """How sure its figures are, as its badges say: ``counted · exact on any machine``, ``scored · SYNTHETIC data``."""
    file: Path | None = None
    """The SVG that a page embeds; None: a page has none to show."""

    @classmethod
    def drawn(cls, file: Path, title: str, alt: str) -> "Figure":
        """The figure that an SVG of `bench.report.charts` shows, with the badges that it says it wears."""
        head = b""
        with contextlib.suppress(OSError), file.open("rb") as opened:  # what cannot be read, the page refuses
            head = opened.read(HEAD)
        subject = re.search(r"<dc:subject>.*?</dc:subject>", head.decode("utf-8", "replace"), re.DOTALL)
        tags = re.findall(r"<rdf:li>(.*?)</rdf:li>", subject[0] if subject else "")
        return cls(file.stem, title, alt, tuple(map(html.unescape, tags)), file)


@dataclass(frozen=True)
class Answer:
    """One sentence of the answer to the suite's question."""

    says: str
    reach: Reach
    tag: str
    """How far it holds: ``exact, any machine``, ``this machine: ...`` or why it is not decided."""
    how: str
    """Name of the figure in the section that says how each is measured."""


@dataclass(frozen=True)
class Answers:
    """The answer to the suite's question, the surest sentence first."""

    rows: tuple[Answer, ...]


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it; an empty part has nothing to say."""

    word: Word
    says: str
    """The claim as a sentence without a full stop; of one that is not decided ``Not decided: whether ...``."""
    figures: str
    """Compared figure with its unit and interval; the range over several methods."""
    reach: str
    """``exact, any machine``, ``this machine`` or ``3 seeds``."""
    notes: tuple[str, ...]
    """What is paid for it, why it is not decided, what it holds in spite of."""
    methods: tuple[str, ...]
    metric: str
    how: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        figures = f": {self.figures}" if self.figures else ""
        return "; ".join([f"{self.says}{figures} ({self.reach})", *self.notes])


@dataclass(frozen=True)
class Verdicts:
    """What the suite claims, and what became of it."""

    rows: tuple[Verdict, ...]


@dataclass(frozen=True)
class Choice:
    """The methods that a rule gives for a need."""

    need: str
    pick: str
    """The methods in words."""
    says: str
    """The figures, ties, what is missing, and what did not take part."""
    rule: str
    """One sentence that a reader can check against the tables."""
    methods: tuple[str, ...]
    """Labels, as the first cells of a table of methods have them."""


@dataclass(frozen=True)
class Choices:
    """Recommendations by need."""

    rows: tuple[Choice, ...]


@dataclass(frozen=True)
class Caveat:
    """One thing to doubt, and what to do about it."""

    kind: str
    says: str
    remedy: str


@dataclass(frozen=True)
class Caveats:
    """What a reader must doubt, the gravest first."""

    rows: tuple[Caveat, ...]


@dataclass(frozen=True)
class Term:
    """One figure of the report: its unit and how it is measured."""

    name: str
    unit: str
    says: str
    heading: str
    """Of METHODOLOGY.md, which explains it."""
    address: str = ""
    """Of that heading, seen from the report; empty where the document does not lie above it."""


@dataclass(frozen=True)
class Glossary:
    """How each figure is measured."""

    rows: tuple[Term, ...]


@dataclass(frozen=True)
class Source:
    """A text file of the run folder, shown as it is; what lies beside it names it alone."""

    name: str
    text: str


Block = Text | Facts | Table | Figure | Answers | Verdicts | Choices | Caveats | Glossary | Source


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    name: str
    """Anchor, unique within the report."""
    title: str
    blocks: tuple[Block, ...]
    screen: tuple[Block, ...] = ()
    """What a terminal shows of it, which is its short form; empty: nothing."""


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    question: str
    header: str
    """One line: what was compared, on what."""
    sections: tuple[Section, ...]
    opening: int = 0
    """How many of the sections stand on the first screen of a page."""

    def blocks(self) -> Iterator[Block]:
        """All blocks in reading order."""
        for section in self.sections:
            yield from section.blocks

    def section(self, name: str) -> Section | None:
        """The section of that name; None where the report has none."""
        return next((section for section in self.sections if section.name == name), None)

"""A run's report as its three renderers show it."""

import functools
import io
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.report import pages
from bench.report.document import Table, Text
from bench.report.render import html, terminal
from bench.report.render import markdown as as_markdown
from bench.store.store import Run
from bench.verdicts.claims import JudgedResults

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


@functools.cache
def published(name):
    """The report of a committed run without figures, made once."""
    return document(PUBLISHED / name, ())


def document(run, drawn=None, change=None):
    """Its report; renderers asked one after the other about one run that was read have its tables in common."""
    return pages.document(JudgedResults(run) if isinstance(run, str | Path) else _judged(_Same(run)), drawn, change)


@dataclass(frozen=True)
class _Same:
    """A run that is no other, whatever the other holds."""

    run: Run

    def __eq__(self, other):
        return self.run is other.run

    def __hash__(self):
        return id(self.run)


@functools.lru_cache(maxsize=1)
def _judged(same):
    return JudgedResults(same.run)


def markdown(run, drawn=None, change=None):
    """Text of report.md."""
    return as_markdown.render(document(run, drawn, change))


def page(run, drawn=(), change=None):
    """Text of report.html; without figures unless some are given."""
    return html.render(document(run, drawn, change))


def screen(run, top=None, change=None, **options):
    """What a terminal shows."""
    return on_screen(document(run, None, change), top, **options)


def on_screen(shown, top=None, **options):
    out = io.StringIO()
    options = {"force_terminal": True, "color_system": None} | options if "width" in options else options
    terminal.render(shown, Console(file=out, **options), top)
    return out.getvalue()


def parts(section):
    """Sentences, headings and rows of text of a section with one table; all empty of no section."""
    blocks = section.blocks if section else ()
    sentences = [line for block in blocks if isinstance(block, Text) for line in block.lines]
    tables = [block for block in blocks if isinstance(block, Table)]
    head = [column.name for table in tables for column in table.columns]
    return sentences, head, [[cell.text for cell in row] for table in tables for row in table.rows]

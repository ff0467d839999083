"""Puts a run's sections together as one document, and writes it as report.md, report.html and on a screen."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from bench.analysis.tuning import RateChange
from bench.errors import unwritable
from bench.report.charts.catalogue import PLOTS
from bench.report.document import Block, Document, Facts, Figure, Section
from bench.report.render import html, markdown, terminal
from bench.report.sections import (
    caveats,
    claims,
    costs,
    overview,
    scores,
    sweeps,
    tuning,
)
from bench.verdicts.claims import JudgedResults

MARKDOWN, PAGE = "report.md", "report.html"
LEAD = ("backward-depth", "score-memory")
"""Figures on the first screen of a page; where a run lacks them its first one."""


def document(results: JudgedResults, drawn: Iterable[Path] | None = None, change: RateChange | None = None) -> Document:
    """The report of a run.

    Args:
        results: Of a run, finished or not.
        drawn: Figures of this run, from `bench.report.charts.catalogue.draw`; None: those in its folder.
        change: What a search for learning rates changed, where the reader gave one.

    Raises:
        BenchError: The records cannot be compared.
    """
    figures = _figures((results.folder / "plots").glob("*.svg") if drawn is None else drawn)
    lead = [figure for figure in figures if figure.name in LEAD] or figures[:1]
    rest = [figure for figure in figures if figure not in lead]
    opening = [claims.opening(results), claims.recommendations(results), _of_figures("lead", "", lead)]
    sections = [
        _methods(results, change), sweeps.section(results), claims.section(results), caveats.section(results),
        caveats.failures(results), scores.section(results), scores.retention(results), scores.over_rows(results),
        scores.fronts(results),
        scores.reach(results), scores.gradients(results), scores.directions(results), scores.vectors(results),
        tuning.ranking(change) if change is not None else None, _of_figures("figures", "Figures", rest),
        costs.section(results), caveats.origin(results), caveats.suite(results), caveats.how(results),
    ]  # fmt: skip
    first = [section for section in opening if section is not None]
    return Document(
        title=results.suite.name, question=results.suite.question or "No question was asked.",
        header=overview.header(results), sections=(*first, *(s for s in sections if s is not None)), opening=len(first),
    )  # fmt: skip


def _methods(results: JudgedResults, change: RateChange | None) -> Section | None:
    """The table of all methods, and on a screen who is on the Pareto front."""
    table, standing = costs.methods(results), scores.standing(results)
    standing += [tuning.fact(change)] if change is not None else []
    if table is None:
        return None
    screen: list[Block] = [table, *([Facts(tuple(standing))] if standing else [])]
    return Section("methods", "Methods", (table,), tuple(screen))


def _figures(drawn: Iterable[Path]) -> list[Figure]:
    """The SVG files among ``drawn`` in reading order."""
    files = {path.stem: path for path in drawn if path.suffix == ".svg"}
    known = [Figure.drawn(files.pop(plot.name), plot.title, plot.alt) for plot in PLOTS if plot.name in files]
    names = {stem: stem.replace("-", " ").capitalize() for stem in files}
    return known + [Figure.drawn(path, names[stem], f"{names[stem]}.") for stem, path in files.items()]


def _of_figures(name: str, title: str, figures: list[Figure]) -> Section | None:
    return Section(name, title, tuple(figures)) if figures else None


def write(shown: Document, folder: Path) -> tuple[Path, Path]:
    """Write ``report.md`` and ``report.html`` into a run's folder and return their paths.

    Raises:
        BenchError: The folder cannot be written, or a figure cannot be read.
    """
    write_text(folder / MARKDOWN, markdown.render(shown))
    write_text(folder / PAGE, html.render(shown))
    return folder / MARKDOWN, folder / PAGE


def write_text(path: Path, text: str) -> None:
    """Write a text file.

    Raises:
        BenchError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def show(shown: Document, folder: Path, console: Console, top: int | None = None) -> None:
    """Print the short form of a report, then where the page lies or how it is written.

    Args:
        shown: The report.
        folder: Of the run.
        console: Where to print; without a terminal the text is 118 wide and bare of colours.
        top: Number of methods to show, in the order of the suite; None: all.
    """
    terminal.render(shown, console, top)
    missing = f"not written yet: python -m bench report {_near(folder)}"
    terminal.say(console, f"report  {_near(folder / PAGE) if (folder / PAGE).exists() else missing}")


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)

"""Lifts what is said of scores beside their tables into sections of the page; computes no figure, writes no markup."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.tuned import RateChange
from bench.report import format as fmt
from bench.report.sections import curves, directions, fronts, gradients, paired, tuned
from bench.report.sections import overview as facts
from bench.report.sections.page_tables import Cell, Table
from bench.store.store import Run


@dataclass(frozen=True)
class Section:
    """One section: sentences, then a table where there is one."""

    name: str
    """Anchor."""
    title: str
    sentences: tuple[str, ...]
    table: Table | None


def said(run: Run) -> list[str]:
    """What a reader of the scores must know before their tables: the search for rates, and what was seen before."""
    if not facts.score_records(run):
        return []
    return [f"learning rates: {facts.rates(run)}", *facts.chosen_ranks(run), *facts.contamination(run)]


def sections(run: Run, change: RateChange | None) -> list[Section]:
    """The sections that the records allow, in reading order.

    Args:
        run: Finished or not.
        change: What a search for learning rates changed, where the reader gave one.
    """
    made = [
        _section("rows", paired.TITLE, "Against the baseline on the same test rows", {1, 8}, *paired.table(run)),
        _section("standing", "Fronts and ranks", "On the front and the best, with probability, and average rank", {-1},
                 *fronts.table(run)),
        _section("reach", curves.title(run), curves.title(run), {1, 8}, *curves.table(run)),
        _section("gradients", gradients.TITLE, "Norm of each part's gradient, and the loss at step 0", {1, 2},
                 *gradients.table(run)),
        _section("directions", "Directions", directions.TITLE, {1}, *directions.table(run)),
    ]  # fmt: skip
    if change is not None:
        made.append(_section("tuning", "Searched rates", tuned.TITLE, {7}, *tuned.table(change)))
    return [section for section in made if section is not None]


def _section(
    name: str, title: str, caption: str, words: set[int], sentences: Sequence[str], head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Section | None:  # fmt: skip
    """A section of plain text; ``words`` are columns of words, counted from the last one where negative."""
    if not sentences:
        return None
    body = tuple(tuple(Cell(fmt.plain(text)) for text in row) for row in rows)
    places = frozenset(at % len(head) for at in words) if head else frozenset()
    table = Table(caption, tuple(head), body, False, words=places) if rows else None
    return Section(name, title, tuple(sentences), table)

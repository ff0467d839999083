"""Draws the best score to expect of a search against its number of trials; computes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.tuning import Outcome, Search
from bench.report import format as fmt
from bench.report.charts.canvas import INK, Sheet, Words, in_key, key, line_handles, mark_size, new_figure, save, styled
from bench.report.charts.looks import looks
from bench.report.sections.tuning import EXPECTED, header, is_synthetic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
"""Panels side by side."""
NAME = "expected-maximum"


def draw(search: Search, found: Sequence[Outcome]) -> list[Path]:
    """Write ``plots/expected-maximum.png`` and ``.svg``; none, and none left from before, where nothing was chosen.

    Raises:
        BenchError: The folder cannot be written.
    """
    with styled():
        return save(_figure(search, found), search.folder / "plots", NAME)


def _figure(search: Search, found: Sequence[Outcome]) -> "Figure | None":
    from matplotlib.ticker import MaxNLocator

    drawn = [outcome for outcome in found if outcome.curve]
    tasks = [task for task in search.suite.tasks if any(outcome.task == task for outcome in drawn)]
    if not tasks:
        return None
    look = looks(search.suite.methods, search.suite.baseline)
    shown = [label for label in look if any(outcome.method == label for outcome in drawn)]
    across = min(ACROSS, len(tasks))
    sheet = Sheet(
        3.0 if across == 1 else 2.2, left=0.7, widths=(1.0,) * across, panels=len(tasks), above=0.3, gap=0.5,
        keys=-(-len(shown) // in_key(look, shown)),
    )  # fmt: skip
    figure, panels = new_figure(_words(search), sheet)
    for axes, task in zip(panels, tasks, strict=True):
        for outcome in (outcome for outcome in drawn if outcome.task == task):
            own = look[outcome.method]
            axes.plot(
                range(1, len(outcome.curve) + 1), [100 * score for score in outcome.curve], color=own.colour,
                marker=own.marker, markersize=mark_size(own, 4.5), markeredgecolor="white", markeredgewidth=0.5,
                linewidth=1.2, zorder=3 + (outcome.method == search.suite.baseline),
            )  # fmt: skip
        axes.set_title(fmt.plain(task), color=INK)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[::across]:
        axes.set_ylabel("best score to expect (points)")
    key(figure, line_handles(look, shown), sheet, in_key(look, shown))
    return figure


def _words(search: Search) -> Words:
    grid = search.table
    caption = (
        f"{EXPECTED} n = {fmt.plural(len(grid.seeds), 'seed')} a trial, {grid.selection_rows} selection rows cut from "
        "train; no interval. A trial that diverged counts as the metric's worst value. The later a curve grows flat, "
        "the more trials its method needs."
    )
    tag = "scored · SYNTHETIC data" if is_synthetic(search) else "scored"
    return Words("What a search for learning rates finds", caption, header(search), (tag,))

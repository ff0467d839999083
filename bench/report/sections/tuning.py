"""Shows what a search for learning rates found, on the screen, in tuning.md and as JSON; chooses and draws nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.analysis.tuning import Outcome, Search
from bench.errors import unwritable
from bench.report import format as fmt
from bench.report.render.columns import Column, say, table, width_of
from bench.report.render.export import markdown_table

HOW = (
    "Every method had the same grid, the same steps, the same seeds and the same rows to choose by, which are cut from "
    "train; the test split was not opened. A trial is a learning rate with a head rate; its score is the mean over its "
    "seeds. Of equal trials the one with the smaller learning rate stands, then with the smaller head rate. A trial "
    "that diverged (NaN) counts as the metric's worst value. The best selection score is the best of many and so too "
    "high: it chooses, it is no result."
)
EXPECTED = (
    "Expected best selection score of n trials drawn from the grid without replacement: exact expectation of the "
    "maximum (after Dodge et al., 2019, arXiv:1909.03004, who draw with replacement)."
)


def render(search: Search, found: Sequence[Outcome], console: Console) -> None:
    """Print a table for each task, then what must be done."""
    width = width_of(console)
    say(console, header(search), width, style="bold")
    say(console, "")
    for task in search.suite.tasks:
        rows = [outcome for outcome in found if outcome.task == task]
        say(console, title(search, rows), width)
        columns = [
            Column(("chosen", "learning", "rate"), [_rate(row, "learning_rate") for row in rows]),
            Column(("chosen", "head", "rate"), [_rate(row, "head_learning_rate") for row in rows]),
            Column(("selection score", "best", "chosen"), [_score(row, -1) for row in rows]),
            Column(("selection score", "expected", "of 1 trial"), [_score(row, 0) for row in rows]),
            Column(("trials", "", "scored"), [str(len(row.points) - row.diverged) for row in rows]),
            Column(("trials", "", "diverged"), [str(row.diverged) for row in rows]),
        ]
        for line in table([row.method for row in rows], columns, width):
            say(console, line)
        for said in dict.fromkeys(filter(None, map(remark, rows))):
            names = ", ".join(fmt.plain(row.method) for row in rows if remark(row) == said)
            say(console, f"  {names}: {said}", width, style="yellow", hanging=4)
        say(console, "")
    say(console, f"  {HOW}", width, style="dim")


def header(search: Search) -> str:
    """One line: suite, methods, backbone, grid."""
    asked, grid = search.suite, search.table
    rates = f"{fmt.plural(len(grid.learning_rates), 'rate')} x {fmt.plural(len(grid.head_learning_rates), 'head rate')}"
    backbone = fmt.plain(asked.backbone["name"]).rpartition("/")[2]
    parts = [fmt.plain(asked.name), "search for learning rates", fmt.plural(len(asked.methods), "method")]
    return " · ".join([*parts, backbone, f"{rates}, {fmt.plural(len(grid.seeds), 'seed')}"])


def title(search: Search, rows: Sequence[Outcome]) -> str:
    """One line: task, data, trials, steps, rows that choose."""
    grid, steps = search.table, max((row.steps for row in rows), default=0)
    data = " · SYNTHETIC data" if is_synthetic(search) else ""
    trials = f"{fmt.plural(len(grid.grid), 'trial')} of {fmt.plural(steps, 'step')} for each method"
    return f"{fmt.plain(rows[0].task)}{data} · {trials} · {fmt.plural(grid.selection_rows, 'selection row')} of train"


def is_synthetic(search: Search) -> bool:
    """Whether the trials ran on the project's own grammars."""
    data = search.suite.data
    return data is not None and data.kind == "synthetic"


def remark(row: Outcome) -> str:
    """What a person must do about a row; empty where nothing."""
    if row.missing:
        return f"{row.missing} records missing: the same command resumes"
    if row.failed:
        return f"{fmt.plural(row.failed, 'record')} failed, so nothing is chosen: mend it, then --fresh"
    if row.best is None:
        return "every trial diverged: add smaller rates to the grid"
    names = {"learning_rate": "learning rate", "head_learning_rate": "head rate"}
    ends = [(word, names[field]) for word, field in (edge.split() for edge in row.edges)]
    return ", ".join(f"best at the {word} {name}: widen the grid" for word, name in ends)


def _rate(row: Outcome, field: str) -> str:
    return f"{getattr(row.best, field):g}" if row.best else fmt.MISSING


def _score(row: Outcome, at: int) -> str:
    return fmt.points(100 * row.curve[at]) if row.curve else fmt.MISSING


def write(search: Search, found: Sequence[Outcome], drawn: Sequence[Path]) -> Path:
    """Write ``tuning.md`` into the folder of the search.

    Raises:
        BenchError: The folder cannot be written.
    """
    parts = [f"# {fmt.markdown(search.suite.name)}: search for learning rates", fmt.markdown(header(search)), HOW]
    for task in search.suite.tasks:
        rows = [outcome for outcome in found if outcome.task == task]
        parts += [f"## {fmt.markdown(title(search, rows))}", _chosen(rows), _expected(rows)]
    parts += [f"![{EXPECTED}]({path.relative_to(search.folder).as_posix()})" for path in drawn if path.suffix == ".png"]
    path = search.folder / "tuning.md"
    try:
        path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _chosen(rows: Sequence[Outcome]) -> str:
    head = ("method", "learning rate", "head rate", "best selection score", "trials", "diverged", "to do")
    cells = [
        [fmt.markdown(row.method), _rate(row, "learning_rate"), _rate(row, "head_learning_rate"), _score(row, -1),
         str(len(row.points)), str(row.diverged), remark(row) or fmt.MISSING]
        for row in rows
    ]  # fmt: skip
    return markdown_table(head, cells)


def _expected(rows: Sequence[Outcome]) -> str:
    """The curve at 1, 2, 4 ... all trials."""
    count = max((len(row.curve) for row in rows), default=0)
    if not count:
        return ""
    shown = sorted({*(2**power for power in range(count.bit_length())), count})
    cells = [
        [fmt.markdown(row.method), *(_score(row, n - 1) if len(row.curve) == count else fmt.MISSING for n in shown)]
        for row in rows
    ]
    return f"{EXPECTED}\n\n{markdown_table(('trials', *map(str, shown)), cells)}"


def as_json(search: Search, found: Sequence[Outcome], tuned: Path | None, drawn: Sequence[Path]) -> str:
    """For programs: scores from 0 to 1 (-1 to 1 for correlations), paths as the folder was given."""
    grid = search.table
    rows: list[dict[str, Any]] = [
        {
            "method": row.method, "task": row.task, "steps": row.steps, "trials": len(grid.grid),
            "scored": len(row.points) - row.diverged, "diverged": row.diverged, "failed": row.failed,
            "missing": row.missing, "edges": list(row.edges), "expected_maximum": list(row.curve),
            **{key: getattr(row.best, key, None) for key in ("learning_rate", "head_learning_rate", "score")},
        }
        for row in found
    ]  # fmt: skip
    about = {
        "folder": str(search.folder), "suite": search.suite.name, "tuned": str(tuned) if tuned else None,
        "tuning": grid.model_dump(mode="json"), "plots": [str(path) for path in drawn], "outcomes": rows,
    }  # fmt: skip
    return json.dumps(about, indent=2)

"""Shows what a search for learning rates found, and how far it changed the ranking of methods."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.tuning import Outcome, RateChange, Rates, Search
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Document, Fact, Figure, Section, Table, Text
from bench.report.sections import plain_table, word
from bench.stats.intervals import Interval

HOW = (
    "Every method had the same grid, the same steps, the same seeds and the same rows to choose by, which are cut from "
    "train; the test split was not opened. A trial is a learning rate with a head rate; its score is the mean over its "
    "seeds. Of equal trials the one with the smaller learning rate is chosen, then with the smaller head rate. A trial "
    "that diverged (NaN) counts as the metric's worst value. The best selection score is the best of many and so too "
    "high: it chooses, it is no result."
)
EXPECTED = (
    "Expected best selection score of n trials drawn from the grid without replacement: exact expectation of the "
    "maximum (after Dodge et al., 2019, arXiv:1909.03004, who draw with replacement)."
)
RANKING = "Ranking at default and at searched rates"


def document(search: Search, outcomes: Sequence[Outcome], drawn: Sequence[Path]) -> Document:
    """The report of a search: a section for each task, and the figure."""
    sections = [Section("how", "", (Text((HOW,)),))]
    for task in search.suite.tasks:
        rows = [outcome for outcome in outcomes if outcome.task == task]
        remarks = [
            Text((f"{', '.join(fmt.plain(r.method) for r in rows if remark(r) == said)}: {said}",), "note", "warn")
            for said in dict.fromkeys(filter(None, map(remark, rows)))
        ]
        chosen, expected = _chosen(rows), _expected(rows)
        blocks: list[Block] = [chosen]
        if expected is not None:
            blocks += [Text((EXPECTED,)), expected]
        screen: list[Block] = [replace(chosen, caption=title(search, rows)), *remarks]
        sections.append(Section(f"task-{task}", title(search, rows), tuple(blocks), tuple(screen)))
    figures = [Figure.drawn(path, "", EXPECTED) for path in drawn if path.suffix == ".svg"]
    sections.append(Section("figures", "", tuple(figures), (Text((HOW,), "note"),)))
    return Document(f"{search.suite.name}: search for learning rates", "", header(search), tuple(sections))


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


def _chosen(rows: Sequence[Outcome]) -> Table:
    columns = (
        Column("method"), Column("learning rate", ("chosen", "learning", "rate")),
        Column("head rate", ("chosen", "head", "rate")),
        Column("best selection score", ("selection score", "best", "chosen")),
        Column("expected of 1 trial", ("selection score", "expected", "of 1 trial")),
        Column("trials"), Column("scored", ("trials", "", "scored")), Column("diverged", ("trials", "", "diverged")),
        Column("to do", words=True),
    )  # fmt: skip
    cells = [
        (word(row.method), _rate(row, "learning_rate"), _rate(row, "head_learning_rate"), _score(row, -1),
         _score(row, 0), Cell(str(len(row.points))), Cell(str(len(row.points) - row.diverged)),
         Cell(str(row.diverged)), word(remark(row)))
        for row in rows
    ]  # fmt: skip
    return Table("What was chosen", columns, tuple(cells), sortable=False)


def _rate(row: Outcome, field: str) -> Cell:
    return Cell(f"{getattr(row.best, field):g}" if row.best else fmt.MISSING)


def _score(row: Outcome, at: int) -> Cell:
    return Cell(fmt.points(100 * row.curve[at]) if row.curve else fmt.MISSING)


def _expected(rows: Sequence[Outcome]) -> Table | None:
    """The curve at 1, 2, 4 ... all trials."""
    count = max((len(row.curve) for row in rows), default=0)
    if not count:
        return None
    shown = sorted({*(2**power for power in range(count.bit_length())), count})
    cells = tuple(
        (word(row.method), *(_score(row, n - 1) if len(row.curve) == count else Cell(fmt.MISSING) for n in shown))
        for row in rows
    )
    return Table("Expected best score", (Column("trials"), *(Column(str(n)) for n in shown)), cells, sortable=False)


def as_json(search: Search, outcomes: Sequence[Outcome], tuned: Path | None, drawn: Sequence[Path]) -> str:
    """For programs: scores from 0 to 1 (-1 to 1 for correlations), paths as the folder was given."""
    grid = search.table
    rows: list[dict[str, Any]] = [
        {
            "method": row.method, "task": row.task, "steps": row.steps, "trials": len(grid.grid),
            "scored": len(row.points) - row.diverged, "diverged": row.diverged, "failed": row.failed,
            "missing": row.missing, "edges": list(row.edges), "expected_maximum": list(row.curve),
            **{key: getattr(row.best, key, None) for key in ("learning_rate", "head_learning_rate", "score")},
        }
        for row in outcomes
    ]  # fmt: skip
    about = {
        "folder": str(search.folder), "suite": search.suite.name, "tuned": str(tuned) if tuned else None,
        "tuning": grid.model_dump(mode="json"), "plots": [str(path) for path in drawn], "outcomes": rows,
    }  # fmt: skip
    return json.dumps(about, indent=2)


def ranking(change: RateChange) -> Section:
    """How far a search for learning rates changed the ranking of methods, the best at searched rates first."""
    head = ["method", "default rates", "rank", "searched rates", "rank", "gain", "searched", "chosen (method, head)"]
    ranked = change.table.sort_values("tuned_rank", kind="stable")
    rows = [_ranked(str(label), row) for label, row in ranked.iterrows()]
    table = plain_table("Mean scores and ranks, and the rates that were chosen", head, rows, (7,))
    return Section("tuning", RANKING, (Text(tuple(sentences(change))), table))


def fact(change: RateChange) -> Fact:
    """The same in one line."""
    return Fact("tuned", f"{RANKING}: {summary(change)}")


def sentences(change: RateChange) -> list[str]:
    """What was compared, how far the two rankings agree and how sure that is."""
    where = ", ".join(map(fmt.plain, change.tasks))
    at = "at the rates of the other run" if change.default is None else f"at {pair(change.default)} (method, head)"
    what = [
        f"Mean scores on the {change.rows} rows of {where}, {fmt.plural(len(change.seeds), 'seed')}: {at} and at the "
        "rates that a search gave each method."
    ]
    if change.rows == "selection":
        what.append(
            "A searched score is the best of several on the rows that chose it, which luck makes too high; a score on "
            "test rows is not."
        )
    what.append(summary(change))
    what += [f"Left out: {fmt.plain(label)}, {fmt.plain(why)}." for label, why in change.left_out.items()]
    return what


def summary(change: RateChange) -> str:
    """One sentence: ``Kendall's tau 0.72 [0.51, 0.87]; 11 of 78 pairs of methods change places [6, 19]``."""
    tau = "none, one side has all methods equal" if fmt.missing(change.tau) else f"{change.tau:.2f}"
    luck = ""
    if change.tau_interval is None:
        luck = f" Not enough seeds to say how much of it is luck: {fmt.plural(len(change.seeds), 'seed')}."
    return (
        f"Kendall's tau {tau}{_interval(change.tau_interval, 2)}; {change.swapped} of "
        f"{fmt.plural(change.pairs, 'pair')} of methods change places{_interval(change.swapped_interval, 0)}.{luck}"
    )


def _interval(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _ranked(label: str, row: "pd.Series") -> list[str]:
    chosen: dict[str, Rates] = row["rates"]
    same = len(set(chosen.values())) == 1
    rates = [pair(rates) if same else f"{fmt.plain(task)} {pair(rates)}" for task, rates in chosen.items()]
    return [
        label, fmt.points(row["default"]), rank(row["default_rank"]), fmt.points(row["tuned"]), rank(row["tuned_rank"]),
        fmt.difference(row["gain"]), f"{row['searched']}", "; ".join(rates[:1] if same else rates),
    ]  # fmt: skip


def rank(value: float) -> str:
    """``3``, and ``3.5`` of two that share places."""
    return f"{value:g}"


def pair(rates: Rates) -> str:
    """``0.001, 0.01``."""
    return ", ".join(f"{rate:g}" for rate in rates)

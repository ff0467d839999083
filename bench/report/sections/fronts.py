"""Writes how likely each method is on the front of score and cost and the best, and its rank; computes none of it."""

from collections.abc import Sequence

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run

PARAMETERS, MEMORY = "trainable_method", "peak_step_bytes"
"""Columns of `bench.analysis.cost_table` that a score is held against."""
SHOWN = 0.05
"""The terminal leaves out methods that are less likely on the front."""


def line(run: Run) -> str | None:
    """The front of score against peak memory in one line, cheapest first; None without scores or without memory."""
    if not facts.score_records(run) or compare.method_cost(run, facts.labels(run), MEMORY).isna().all():
        return None
    found = compare.fronts(run, facts.labels(run), [PARAMETERS, MEMORY])  # as the report's table: drawn once for both
    if not found.seeds:
        return f"not enough seeds to say who is on it: {compare.FEWEST_SEEDS} of every task are needed"
    rows = found.table.dropna(subset=[f"{MEMORY}_front"]).sort_values(MEMORY, kind="stable")
    likely = rows[rows[f"{MEMORY}_front"] >= SHOWN]
    names = [
        f"{fmt.plain(label)} {probability(row[f'{MEMORY}_front'])}{_marks(row['why'])}"
        for label, row in likely.iterrows()
    ]
    return f"score against {_memory(run)}, with probability: {', '.join(names)}"


def best(run: Run) -> str | None:
    """Who has the highest mean score in one line, likeliest first; None without scores or with too few seeds."""
    if not facts.score_records(run):
        return None
    found = compare.fronts(run, facts.labels(run), [PARAMETERS, MEMORY])
    if not found.seeds:
        return None
    likely = found.table["best"] >= min(SHOWN, found.table["best"].max())
    rows = found.table[likely].sort_values("best", ascending=False, kind="stable")
    names = [f"{fmt.plain(label)} {probability(row['best'])}{_marks(row['why'])}" for label, row in rows.iterrows()]
    return f"highest mean score, with probability: {', '.join(names)}"


def _marks(why: Sequence[str]) -> str:
    """The signs that the scores of the table above carry."""
    return "".join(mark for flag, mark in facts.FLAG_MARKS.items() if flag.replace("_", " ") in why)


def probability(share: float) -> str:
    """``0``, ``<0.01``, ``0.32``, ``>0.99``, ``1.00``: certain only where every draw agrees."""
    return ">0.99" if 0.995 <= share < 1 else fmt.ratio(share)


def _memory(run: Run) -> str:
    return facts.memory_name(compare.cost_table(run.records, facts.labels(run)))


def how(found: compare.Fronts) -> str:
    """What was drawn again, and what could not be."""
    drawn, fixed = [f"{len(found.seeds)} seeds"], []
    if len(found.tasks) > 1:
        drawn.insert(0, f"{len(found.tasks)} tasks")
    else:
        fixed.append("not tasks, there is one")
    if rows := [fmt.plain(task) for task in found.tasks if task not in found.whole_tasks]:
        drawn.append(f"test rows of {', '.join(rows)}")
    fixed += [f"not test rows of {fmt.plain(task)}, {reason}" for task, reason in found.whole_tasks.items()]
    return f"Resampled {compare.RESAMPLES:,} times: {'; '.join([', '.join(drawn), *fixed])}."


def table(run: Run) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows of the report's section; all empty without scores, no rows where seeds are too few."""
    if not facts.score_records(run):
        return [], [], []
    found = compare.fronts(run, facts.labels(run), [PARAMETERS, MEMORY])
    if not found.seeds:
        return [f"Not enough seeds: {compare.FEWEST_SEEDS} that a method finished on every task are needed."], [], []
    sentences = [
        "On the front: probability that no other method is cheaper and as good, or as cheap and better; equals share "
        "their place. The best: probability of the highest mean score.",
        how(found),
    ]
    if (left := len(found.table) - int(found.table["compared"].sum())) > 0:
        sentences.append(f"{fmt.plural(left, 'method')} of {len(found.table)} not compared: too few seeds finished.")
    names = {PARAMETERS: ("trained - head", "on the front"), MEMORY: (_memory(run), "on the front")}
    costs = [cost for cost in names if found.table[cost].notna().any()]
    last = ("the best", "average rank, 95 %", "no verdict because")
    head = ["method", *(name for cost in costs for name in names[cost]), *last]
    return sentences, head, [_row(label, row, costs) for label, row in found.table.iterrows()]


def _row(label: object, row: "pd.Series", costs: Sequence[str]) -> list[str]:
    shown = {PARAMETERS: fmt.exact, MEMORY: fmt.size}
    cells = [str(label)]
    for cost in costs:
        cells += [shown[cost](row[cost]), probability(row[f"{cost}_front"])]
    rank = f"{row['rank']:.1f} [{row['rank_low']:.1f}, {row['rank_high']:.1f}]" if row["compared"] else fmt.MISSING
    return [*cells, probability(row["best"]), rank, "; ".join(row["why"]) or fmt.MISSING]

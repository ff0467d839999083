"""Writes how methods compare with the baseline on the same test rows, in words and cells; computes no figure."""

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run

TITLE = "Over test rows"


def table(run: Run) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows; all empty without scores, no rows where no task can be compared row by row."""
    if not facts.score_records(run):
        return [], [], []
    found, baseline = compare.paired_rows(run, facts.labels(run)), fmt.plain(run.suite.baseline)
    missing = [f"Not {fmt.plain(task)}: {fmt.plain(reason)}." for task, reason in found.left_out.items()]
    if found.table.empty:
        return missing, [], []
    sentences = [
        f"The same trained models on the same rows, method minus {baseline}: other test rows could have moved the "
        f"difference within the interval (rows drawn {compare.RESAMPLES:,} times), other seeds may move it further.",
        f"McNemar's exact test counts the rows that only one of the two gets right: one test a seed, p is twice their "
        f"median, after Holm's correction over {fmt.plural(int(found.table['p'].notna().sum()), 'row')}.",
        *missing,
    ]
    head = ["method", "task", "test rows", "seeds", f"- {baseline}, 95 % over rows", f"only {baseline} right",
            "only it right", "McNemar p", "no verdict because"]  # fmt: skip
    return sentences, head, [_row(str(label), str(task), row) for (label, task), row in found.table.iterrows()]


def _row(label: str, task: str, row: "pd.Series") -> list[str]:
    lone = [fmt.MISSING if fmt.missing(row[name]) else f"{row[name]:.1f}" for name in ("only_baseline", "only_method")]
    difference = fmt.difference(row["difference"], row["low"], row["high"])
    why = "; ".join(row["why"]) or fmt.MISSING
    return [label, task, fmt.exact(row["rows"]), fmt.exact(row["seeds"]), difference, *lone, p_value(row["p"]), why]


def p_value(p: float) -> str:
    """``0.043``, ``<0.001``; a dash where nothing was tested."""
    if fmt.missing(p):
        return fmt.MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"

"""Writes the parts of report.md that are about scores: tables, rows, fronts, curves, rates; decides no verdict."""

from collections.abc import Sequence

from bench import analysis as compare
from bench.analysis.tuned import RateChange
from bench.report import format as fmt
from bench.report.format import markdown as text
from bench.report.render.markdown_table import table
from bench.report.sections import curves, directions, fronts, gradients, paired, tuned
from bench.report.sections import overview as facts
from bench.store.store import Run


def sections(run: Run, change: RateChange | None) -> list[str]:
    """Every part about scores, in reading order; a part that the records do not allow is empty.

    Args:
        run: Finished or not.
        change: What a search for learning rates changed, where the reader gave one.
    """
    mark = " (SYNTHETIC data)" if facts.is_synthetic(run) else ""
    return [
        _scores(run, mark), _section(f"### {paired.TITLE}{mark}", *paired.table(run)),
        _section(f"## Who is on the front{mark}", *fronts.table(run)),
        _section(f"## {text(curves.title(run))}{mark}", *curves.table(run)),
        _section(f"## {gradients.TITLE}{mark}", *gradients.table(run)),
        _section(f"## {directions.TITLE}{mark}", *directions.table(run)),
        _section(f"## {tuned.TITLE}{mark}", *tuned.table(change)) if change is not None else "",
    ]  # fmt: skip


def _section(heading: str, sentences: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not sentences:
        return ""
    parts = [heading, " ".join(map(text, sentences))]
    return "\n\n".join(
        [*parts, table(list(map(text, head)), [list(map(text, row)) for row in rows])] if rows else parts
    )


def _scores(run: Run, mark: str) -> str:
    if not facts.score_records(run):
        return ""
    baseline, order = run.suite.baseline, facts.labels(run)
    scores = compare.score_table(run.records, baseline, order)
    over = f"- {text(baseline)}, 95 %"
    head = ("method", "mean score", "cells ok", "failed", over, "pairs", "left out", "no verdict because")
    whole = [
        (text(label), fmt.points_interval(r["mean"], r["mean_low"], r["mean_high"]), str(r["n"]), str(r["failed"]),
         "baseline" if label == baseline else fmt.difference(r["difference"], r["low"], r["high"]),
         fmt.MISSING if label == baseline else str(r["n_pairs"]), str(r["dropped"]),
         text("; ".join(r["why"])) if r["n"] and label != baseline else fmt.MISSING)
        for label, r in scores.iterrows()
    ]  # fmt: skip
    beside = [f"- learning rates: {text(facts.rates(run) or 'unknown')}"]
    beside += [f"- {text(line)}" for line in (*facts.chosen_ranks(run), *facts.contamination(run))]
    return f"## Scores{mark}\n\n" + "\n\n".join(("\n".join(beside), table(head, whole), _per_task(run, mark)))


def _per_task(run: Run, mark: str) -> str:
    baseline = run.suite.baseline
    single = compare.per_task(run.records, baseline, facts.labels(run))
    head = ("method", "task", "score ± 95 %", "n seeds", f"- {text(baseline)}, 95 %", "bag of words", "flags")
    rows = [
        (text(label), text(task), fmt.points_interval(r["mean"], r["low"], r["high"]), f"{r['n']:.0f}",
         fmt.difference(r["difference"], r["difference_low"], r["difference_high"]), fmt.points(r["floor"]),
         text(", ".join(r["flags"])) or fmt.MISSING)
        for (label, task), r in single.iterrows()
    ]  # fmt: skip
    return f"### Per task{mark}\n\n{table(head, rows)}"

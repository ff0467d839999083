"""Writes what each method spends until its score comes near the baseline's, in words and cells; computes no figure."""

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run


def title(run: Run) -> str:
    """``Cost to reach 99 % of full's score``."""
    return f"Cost to reach {compare.NEAR:.0%} of {fmt.plain(run.suite.baseline)}'s score".replace("%", " %")


def has_curves(run: Run) -> bool:
    """Whether any score was read on the way."""
    return any(record.curve for record in facts.score_records(run))


def table(run: Run) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows; all empty without scores on the way."""
    if not has_curves(run):
        return [], [], []
    found, baseline = compare.reached(run, facts.labels(run)).table, fmt.plain(run.suite.baseline)
    share = f"{compare.NEAR:.0%}".replace("%", " %")
    sentences = [
        f"Target: {share} of the mean final score of {baseline} on the task. Each figure is spent up to the first "
        "reading on the way that is at the target or above; between readings nothing is known, so it is the most that "
        "was needed. Medians over seeds; one that never came there counts as longer than any other.",
        _flops(run, found),
    ]
    memory = facts.memory_name(compare.cost_table(run.records, facts.labels(run)))
    head = ["method", "task", "target", "reached by", "steps", "training time", "training FLOPs", memory,
            "no verdict because"]  # fmt: skip
    return sentences, head, [_row(str(label), str(task), row) for (label, task), row in found.iterrows()]


def _flops(run: Run, found: pd.DataFrame) -> str:
    work, labels = compare.training_flops(run.records), list(dict.fromkeys(found.index.get_level_values("method")))
    lacking = [label for label in labels if label not in work]
    if len(lacking) == len(labels):
        return "No FLOPs: no sweep of this run counts a method at three lengths or more."
    said = "FLOPs are those of forward and backward, from counts at other lengths, padding with them."
    checked = min(work[label].checks for label in labels if label in work)
    if checked:
        said += f" The counts that they were not solved from, {checked} a method or more, agree to the last FLOP."
    return said + (f" Not counted: {', '.join(map(fmt.plain, lacking))}." if lacking else "")


def _row(label: str, task: str, row: "pd.Series") -> list[str]:
    return [
        label, task, fmt.points(row["target"]), f"{row['reached']} of {fmt.plural(row['seeds'], 'seed')}",
        steps(row["step"]), fmt.seconds(row["seconds"]), fmt.count(row["flops"]), fmt.size(row["peak_bytes"]),
        "; ".join(row["why"]) or fmt.MISSING,
    ]  # fmt: skip


def steps(value: float) -> str:
    """``120``; of an even number of seeds the median may lie between two readings."""
    return fmt.MISSING if fmt.missing(value) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"

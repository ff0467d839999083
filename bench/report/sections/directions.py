"""Writes how the updates of a run lie to the weights, to the baseline's and to another seed's; computes no figure."""

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run

TITLE = "Directions of what training added"


def table(run: Run) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows, one a (method, task); all empty where no record has directions."""
    found = compare.direction_table(run, facts.labels(run))
    if found.empty:
        return [], [], []
    baseline = fmt.plain(run.suite.baseline)
    leading, chance = int(found["leading"].max()), fmt.ratio(found["by_chance"].mean(), 3)
    sentences = [
        f"Of the update dW of each query and value weight, its {leading} leading left singular directions: overlap is "
        "the share of them that lies in those of the other matrix, the mean squared cosine of the principal angles; 1 "
        f"is the same subspace, {chance} what two random ones share. Means over {found['map'].nunique()} weights and "
        f"{fmt.plural(found['seed'].nunique(), 'seed')}; angles are the smallest principal ones.",
        "Stable rank: squared Frobenius norm / squared largest singular value.",
    ]
    head = ["method", "task", "|dW| / |W_0|", "stable rank", f"in its leading {leading}", "overlap with W_0", "angle",
            f"with {baseline}'s update", "angle", "with another seed's"]  # fmt: skip
    means = found.groupby(["method", "task"], sort=False).mean(numeric_only=True)
    return sentences, head, [[label, task, *_cells(row)] for (label, task), row in means.iterrows()]


def _cells(row: "pd.Series[float]") -> list[str]:
    def number(column: str, form: str) -> str:
        return fmt.MISSING if pd.isna(row[column]) else form.format(row[column])

    return [
        number("relative_norm", "{:.3f}"), number("stable_rank", "{:.1f}"), number("leading_share", "{:.1%}"),
        number("with_weight", "{:.3f}"), number("angle_to_weight", "{:.0f}°"),
        number("with_baseline", "{:.3f}"), number("angle_to_baseline", "{:.0f}°"), number("with_seed", "{:.3f}"),
    ]  # fmt: skip

"""How training began and what it added: norms of the first gradients, losses at step 0, directions of updates."""

import pandas as pd

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.document import Section, Text
from bench.report.sections import plain_table
from bench.report.sections.scores import mark

GRADIENTS = "Gradients of the first steps"
DIRECTIONS = "Directions of what training added"
SHOWN = (1, 2, 5)
"""Steps of the table, beside the last one noted."""


def gradients(results: Results) -> Section | None:
    """Norms of each part's gradient and the loss at step 0; None where no record has norms."""
    norms = results.gradient_table
    if norms.empty:
        return None
    baseline, starts = fmt.plain(results.baseline), results.start_table
    last = int(norms.index.get_level_values("step").max())
    steps = [step for step in SHOWN if step < last] + [last]
    sentences = (
        "Norm (L2) of the gradient of all parameters of a part together, before clipping; mean over n = "
        f"{fmt.plural(int(norms['n'].max()), 'seed')}. 0 is exactly 0, in every seed; the task head is left out.",
        "Loss at step 0: of the first batch, before any update and with the model's dropout; beside it the largest "
        f"distance of a seed's from that of {baseline}: 0 is the same loss bit for bit.",
        *_zeros(norms),
    )
    head = ["method", "task", "part", *(f"step {step}" for step in steps), "loss at step 0", f"apart from {baseline}"]
    rows = [row for place in starts.index for row in _norms(place, norms, starts, steps, results.baseline)]
    shown = plain_table("Norm of each part's gradient, and the loss at step 0", head, rows, (1, 2))
    return Section("gradients", GRADIENTS + mark(results), (Text(sentences), shown))


def first_gradients(results: Results) -> str:
    """Which parts get no gradient, in a sentence or two; empty where all do or nothing was noted."""
    return "" if results.gradient_table.empty else " ".join(_zeros(results.gradient_table))


def _norms(
    place: tuple[str, str], norms: pd.DataFrame, starts: pd.DataFrame, steps: list[int], baseline: str
) -> list[list[str]]:
    label, task = place
    start = starts.loc[place]
    apart = "baseline" if label == baseline else fmt.three(start["apart"])
    ends = [fmt.loss(start["loss"]), apart]
    mine = norms["mean"].xs(place, level=["method", "task"]) if place in norms.index.droplevel([2, 3]) else None
    if mine is None:
        return [[label, task, fmt.MISSING, *[fmt.MISSING] * len(steps), *ends]]
    parts = mine.index.unique("part")
    return [[label, task, part, *(fmt.three(mine.get((part, step))) for step in steps), *ends] for part in parts]


def _zeros(norms: pd.DataFrame) -> list[str]:
    """Which parts get no gradient at all, and which none at the first step alone."""
    never: dict[str, list[str]] = {}
    late: dict[str, list[str]] = {}
    for (label, part), norm in norms.groupby(["method", "part"], sort=False):
        largest = norm["high"].groupby("step").max()
        if not largest.any():
            never.setdefault(label, []).append(part)
        elif largest.iloc[0] == 0:
            late.setdefault(label, []).append(part)
    said = [f"No gradient at any step: {_named(never)}."] if never else []
    return said + ([f"None at step 1 alone: {_named(late)}."] if late else [])


def _named(parts_of: dict[str, list[str]]) -> str:
    return "; ".join(f"{' and '.join(parts)} of {fmt.plain(label)}" for label, parts in parts_of.items())


def directions(results: Results) -> Section | None:
    """How updates lie to the weights, to the baseline's and to another seed's; None where no record has directions."""
    angles = results.direction_table
    if angles.empty:
        return None
    baseline = fmt.plain(results.baseline)
    leading, chance = int(angles["leading"].max()), fmt.ratio(angles["by_chance"].mean(), 3)
    sentences = (
        f"Of the update dW of each query and value weight, its {leading} leading left singular directions: overlap is "
        "the share of them that lies in those of the other matrix, the mean squared cosine of the principal angles; 1 "
        f"is the same subspace, {chance} what two random ones share. Means over {angles['map'].nunique()} weights and "
        f"{fmt.plural(angles['seed'].nunique(), 'seed')}; angles are the smallest principal ones.",
        "Stable rank: squared Frobenius norm / squared largest singular value.",
    )
    head = ["method", "task", "|dW| / |W_0|", "stable rank", f"in its leading {leading}", "overlap with W_0", "angle",
            f"with {baseline}'s update", "angle", "with another seed's"]  # fmt: skip
    means = angles.groupby(["method", "task"], sort=False).mean(numeric_only=True)
    rows = [[label, task, *_angles(row)] for (label, task), row in means.iterrows()]
    return Section(
        "directions", DIRECTIONS + mark(results), (Text(sentences), plain_table(DIRECTIONS, head, rows, (1,)))
    )


def shared(results: Results) -> str:
    """How much of each update lies where the baseline's and the weight's do; empty where it was not measured."""
    angles = results.direction_table
    if angles.empty:
        return ""
    means = angles.groupby("method", sort=False)[["with_baseline", "with_weight"]].mean()
    told = [
        f"{fmt.plain(label)} {row['with_baseline']:.2f} and {row['with_weight']:.2f}"
        for label, row in means.drop(index=results.baseline, errors="ignore").iterrows()
        if not row.isna().any()
    ]
    whose = f"{fmt.plain(results.baseline)}'s update and with the weight"
    chance = fmt.ratio(angles["by_chance"].mean(), 2)
    return (
        f"Share of an update's leading directions in common with {whose}: {', '.join(told)}; by chance {chance}."
        if told
        else ""
    )


def _angles(row: "pd.Series[float]") -> list[str]:
    def number(column: str, form: str) -> str:
        return fmt.MISSING if pd.isna(row[column]) else form.format(row[column])

    return [
        number("relative_norm", "{:.3f}"), number("stable_rank", "{:.1f}"), number("leading_share", "{:.1%}"),
        number("with_weight", "{:.3f}"), number("angle_to_weight", "{:.0f}°"),
        number("with_baseline", "{:.3f}"), number("angle_to_baseline", "{:.0f}°"), number("with_seed", "{:.3f}"),
    ]  # fmt: skip

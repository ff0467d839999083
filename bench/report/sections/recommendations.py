"""Which method to take for a need: the least of all methods, and of those shown to score as well as the best."""

from collections.abc import Iterable

from bench.analysis.recommend import AsGood, Choice, Recommendation
from bench.analysis.results import Results
from bench.report import document as doc
from bench.report import format as fmt
from bench.report.sections import overview as facts

SHOWN = 5
"""Methods that a sentence names before it counts the rest; the tables mark all."""
FIGURES = {
    "delta_bytes": "bytes stored per task beside the backbone and the head",
    "trainable_parameters": "trainable parameters, the task head left out",
    "step_seconds": "time of a training step / {baseline}",
    "latency_seconds": "unmerged latency / base model",
    "merged_equals_base": "latency: merged, these methods are the base model again, operation by operation",
    "score": "mean score",
}
"""First part of a figure's dotted name -> what it is, in a rule; a peak is named by what took it."""
FEWEST = ("delta_bytes", "trainable_parameters")


def section(results: Results) -> doc.Section | None:
    """One recommendation a need; None for a run without a figure."""
    rows = tuple(_row(results, found) for found in results.recommendations if found.least is not None)
    return doc.Section("recommendations", "Recommendations", (doc.Choices(rows),)) if rows else None


def _row(results: Results, found: Recommendation) -> doc.Choice:
    picked = {*(found.least.methods if found.least else ()), *(found.as_good.methods if found.as_good else ())}
    says = [*_about_least(found), *_about_score(found)]
    if found.not_measured:
        says.append(f"not known of {_some(map(fmt.plain, found.not_measured))}")
    says += [f"not decided: {doubt}" for doubt in found.doubts]
    pick = _chosen(found, found.least) if found.least else ""
    return doc.Choice(found.need, pick, fmt.plain("; ".join(says)), _rule(results, found), tuple(sorted(picked)))


def _chosen(found: Recommendation, choice: Choice) -> str:
    """``head, 125 MB``."""
    names = _some(map(fmt.plain, choice.methods))
    if found.need == "best score" and choice is found.as_good:
        return names
    return f"{names}, {_value(found, choice)}"


def _value(found: Recommendation, choice: Choice) -> str:
    if found.unit == "B":
        after = choice.runner_up
        alike = after is not None and fmt.size(after[1]) == fmt.size(choice.value)
        return fmt.apart(choice.value, after[1], "B")[0] if after and alike else fmt.size(choice.value)
    return _shown(found, choice.value, choice)


def _shown(found: Recommendation, value: float, choice: Choice | None = None) -> str:
    if found.unit == "B":
        return fmt.size(value)
    if found.unit == "points":
        return f"{fmt.points(value)} points"
    if found.unit == "":
        return fmt.count(value)
    low, high = choice.interval if choice and choice.interval else (None, None)
    return f"{fmt.ratio_interval(value, low, high, 2)} x" if value != 1 or low is not None else "exactly 1 x"


def _about_least(found: Recommendation) -> list[str]:
    choice = found.least
    if choice is None:
        return ["no record holds the figure"]
    says = []
    if len(choice.methods) > 1:
        says.append(f"a tie of {len(choice.methods)}")
    if choice.not_distinguished:
        says.append(f"{len(choice.not_distinguished)} not significantly different")
    elif choice.runner_up is not None:
        label, value = choice.runner_up
        alike = found.unit == "B" and fmt.size(value) == fmt.size(choice.value)
        shown = fmt.apart(choice.value, value, "B")[1] if alike else _shown(found, value)
        says.append(f"next {fmt.plain(label)}, {shown}")
    return says


def _about_score(found: Recommendation) -> list[str]:
    """The choice among those that score as well as the best, or why scores took no part."""
    score = found.score
    if score.no_verdict and found.need == "best score":
        return [f"not decided: {', '.join(facts.needed(score.no_verdict))}"]
    if score.no_verdict:
        return [f"scores took no part: {', '.join(facts.needed(score.no_verdict))}"]
    if found.as_good is None:
        return [f"no figure of a method that {_as_good(score)}"]
    says = [f"of those that {_as_good(score)}: {_chosen(found, found.as_good)}"]
    if left := [f"{fmt.plain(label)} ({why})" for label, why in score.left_out.items()]:
        says.append(f"scores left out: {_some(left)}")
    return says


def _as_good(score: AsGood) -> str:
    """``are shown not to score over 1 point worse than the best``."""
    points = "point" if score.margin == 1 else "points"
    return f"are shown not to score over {score.margin:g} {points} worse than the best"


def _rule(results: Results, found: Recommendation) -> str:
    head = found.figure.partition(".")[0]
    name = FIGURES.get(head) or f"{facts.memory_name(results.cost_table())} of a training step"
    name = name.format(baseline=fmt.plain(results.baseline))
    on = f" at {found.shape.batch} x {found.shape.length} tokens" if found.shape and head != "latency_seconds" else ""
    on = "" if head == "merged_equals_base" else on
    what = "Highest" if found.unit == "points" else "Fewest" if head in FEWEST else "Lowest"
    if found.score.no_verdict:
        return f"{what} {name}{on}, among all methods."
    return (
        f"{what} {name}{on}, among all methods; then among those whose 95 % interval of the difference to the highest "
        f"mean score lies above -{found.score.margin:g}."
    )


def _some(texts: Iterable[str]) -> str:
    """The first few, and how many more there are; one more stands itself rather than its count."""
    every = list(texts)
    if len(every) <= SHOWN + 1:
        return ", ".join(every)
    return f"{', '.join(every[:SHOWN])} and {len(every) - SHOWN} more"

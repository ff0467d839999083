"""Compares a run with its reference and judges its claims: what a continuous integration passes or stops by."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS, training_doubts_of
from bench.schema.figures import figure_of
from bench.stats.intervals import LEVEL, mean_interval, one_sided_p
from bench.verdicts.claims import judge
from bench.verdicts.reference import Costs, Exact, Reference, Scores

Verdict = Literal["pass", "fail", "inconclusive", "invalid", "new"]
"""``new``: the reference knows no such method or figure, so there is nothing that could have changed."""
Kind = Literal["record", "exact", "score", "claim"]
ADD = "add it with: python -m bench reference"
MERGE_SLACK = (10.0, 1e-6)
"""Factor and floor by which a merge may miss the reference's: processors sum in different orders."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that the gate looked at."""

    kind: Kind
    name: str
    """Unique within a gate, such as ``32 x 64: lora(rank=8)``."""
    verdict: Verdict
    lines: tuple[str, ...] = ()
    """What was found, a sentence a line; empty where it passed and there is nothing to say."""


def stale(ours: Reference, reference: Reference) -> str | None:
    """Why a run cannot be compared: the first key that differs, with both values; None where it can.

    Args:
        ours: ``bench.verdicts.reference.figures_of`` the run.
        reference: The committed one.
    """
    for name in ("suite", "backbone", "versions"):
        left, right = getattr(ours, name), getattr(reference, name)
        pairs = {name: (left, right)} if isinstance(left, str) else {
            f"{name}.{key}": (left.get(key), right.get(key)) for key in left | right
        }  # fmt: skip
        for key, (mine, theirs) in pairs.items():
            if mine != theirs:
                return f"{_name(key)} is {mine!r} in the run but {theirs!r} in the reference"
    for task, scores in reference.scores.items():
        if task in ours.scores and ours.scores[task].content_sha256 != scores.content_sha256:
            return f"the rows of task {_name(task)} have another content_sha256 than the reference's"
    known = [costs.shape for costs in reference.costs]
    other = [costs.shape for costs in ours.costs if costs.shape not in known]
    return f"the shape {_words(other[0])} stands in the run but not in the reference" if other else None


def check(results: Results, ours: Reference, reference: Reference, *, margin: float = 1.0) -> list[Check]:
    """Look at everything that can be compared.

    Args:
        results: Of the run, whose records and claims are judged.
        ours: Its figures, whose keys are the reference's; see ``stale``.
        reference: The committed figures.
        margin: Points of 100 by which a method's score may lie below the reference's on average.
    """
    return [
        *_records(results),
        *_settings(ours, reference),
        *_exact(ours, reference),
        *_scored(results, ours, reference, margin),
        *_claims(results),
    ]


def verdict(checks: Iterable[Check]) -> Verdict:
    """The gate's own: the worst of its checks; what is new passes."""
    found = {check.verdict for check in checks}
    order: tuple[Verdict, ...] = ("fail", "invalid", "inconclusive")
    return next((worst for worst in order if worst in found), "pass")


def _records(results: Results) -> Iterator[Check]:
    for record in results.records:
        if record.status != "ok":
            name = f"{record.kind} {record.id[:12]} of {record.method.label}"
            line = f"{record.method.label} ended {record.status}: {record.reason}"
            yield Check(kind="record", name=name, verdict="fail", lines=(line,))


def _settings(ours: Reference, reference: Reference) -> Iterator[Check]:
    known = _known(reference)
    for label in [label for label in ours.configs if label in known]:
        if lines := tuple(_other_settings(label, reference.configs.get(label, {}), ours.configs[label])):
            yield Check(kind="exact", name=f"settings of {label}", verdict="fail", lines=lines)


def _known(reference: Reference) -> set[str]:
    """Methods that stand anywhere in a reference."""
    measured = {label for costs in reference.costs for label in costs.methods}
    return measured | {label for scores in reference.scores.values() for label in scores.methods}


def _exact(ours: Reference, reference: Reference) -> Iterator[Check]:
    found_by_shape = {_words(costs.shape): costs for costs in ours.costs}
    for costs in reference.costs:
        words = _words(costs.shape)
        found = found_by_shape.get(words, Costs(shape=costs.shape, methods={}))
        new = _new_figures(costs, found)
        if new:
            lines = tuple(f"{figure}: the reference has this figure of no method; {ADD}" for figure in new)
            yield Check(kind="exact", name=f"{words}: figures", verdict="new", lines=lines)
        for label, expected in costs.methods.items():
            told = {name: figure for name, figure in found.methods.get(label, {}).items() if _figure(name) not in new}
            lines = (*_differences(label, told, expected), *_other_merge(label, costs, found))
            yield Check(kind="exact", name=f"{words}: {label}", verdict="fail" if lines else "pass", lines=lines)
        for label in [label for label in found.methods if label not in costs.methods]:
            line = f"{label}: the reference has no such method; {ADD}"
            yield Check(kind="exact", name=f"{words}: {label}", verdict="new", lines=(line,))


def _new_figures(costs: Costs, found: Costs) -> list[str]:
    """Figures of methods that the reference knows which it has of none of them.

    One that it has of others is no new figure: this method has changed, and can now be merged for instance.
    """
    known = {_figure(name) for figures in costs.methods.values() for name in figures}
    held = dict.fromkeys(_figure(name) for label in costs.methods for name in found.methods.get(label, {}))
    return [figure for figure in held if figure not in known]


@functools.cache
def _figure(name: str) -> str:
    """The catalogue's path of a figure's dotted name: one for all layers."""
    figure = figure_of(name)
    return figure.path if figure else name


def _other_settings(label: str, expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for key in expected | found:
        if key not in expected:
            yield f"{label}: config.{key} = {found[key]!r} stands in the run but not in the reference; update it"
        elif key not in found:
            yield f"{label}: config.{key} is missing in the run, {expected[key]!r} in the reference"
        elif found[key] != expected[key]:
            yield f"{label}: config.{key} was {expected[key]!r}, is {found[key]!r}"


def _other_merge(label: str, expected: Costs, found: Costs) -> Iterator[str]:
    """What a merge that no longer gives the unmerged module shows: its structure stays that of the base."""
    if label not in expected.methods or label not in found.methods:
        return  # said of the method as a whole
    before, after = expected.merge_error.get(label), found.merge_error.get(label)
    factor, floor = MERGE_SLACK
    if before is None and after is not None:
        yield f"{label}: merge_error.float32 = {after:.1e} stands in the run but not in the reference; update it"
    elif before is not None and after is None:
        yield f"{label}: merge_error.float32 is missing in the run, {before:.1e} in the reference"
    elif before is not None and after is not None and after > (bound := max(factor * before, floor)):
        yield f"{label}: merge_error.float32 was {before:.1e}, is {after:.1e}; rounding explains {bound:.0e} at most"


def _words(shape: dict[str, str | int | float | bool]) -> str:
    """A shape as a name: its size and whatever is not the default."""
    usual = {"dtype": "float32", "attention": "sdpa", "optimizer": "adamw_fused", "weights": "native", "device": "cpu"}
    rest = [f"{key} {value}" for key, value in shape.items()
            if key not in ("batch", "length") and value and value != usual.get(key)]  # fmt: skip
    return _name(", ".join([f"{shape.get('batch')} x {shape.get('length')}", *rest]))


def _name(text: str) -> str:
    """``text`` as it stands, quoted where it would move the cursor or break the line."""
    return text if text.isprintable() else repr(text)


def _differences(label: str, found: dict[str, Exact], expected: dict[str, Exact]) -> Iterator[str]:
    if not found:
        yield f"{label}: the run has no costs of it, the reference has"
        return
    for name in sorted(expected | found, key=lambda name: "by_layer" in name):  # totals first: a screen shows few lines
        if name not in expected:
            yield f"{label}: {name} = {_shown(found[name])} stands in the run but not in the reference; update it"
        elif name not in found:
            yield f"{label}: {name} is missing in the run, {_shown(expected[name])} in the reference"
        elif found[name] != expected[name] or type(found[name]) is not type(expected[name]):
            yield f"{label}: {name} {_change(expected[name], found[name])}"


def _shown(figure: Exact) -> str:
    return str(figure) if isinstance(figure, bool) else f"{figure:,}"


def _change(before: Exact, after: Exact) -> str:
    if isinstance(before, bool) or isinstance(after, bool):
        return f"was {before}, is {after}"
    share = f" ({100 * (after - before) / before:+.2f} %)" if before else ""
    return f"was {before:,}, is {after:,}{share}"


def _scored(results: Results, ours: Reference, reference: Reference, margin: float) -> Iterator[Check]:
    doubtful = training_doubts_of(results)
    scored = [scores for side in (reference, ours) for scores in side.scores.values()]
    known = _known(reference)
    for label in dict.fromkeys(label for scores in scored for label in scores.methods):
        if label not in known:
            line = f"{label}: the reference has no scores of it; {ADD}"
            yield Check(kind="score", name=f"score of {label}", verdict="new", lines=(line,))
            continue
        expected, found = _points(reference.scores, label), _points(ours.scores, label)
        if unpaired := sorted(expected.keys() ^ found.keys()):
            task, seed = unpaired[0]
            side = "run" if unpaired[0] in expected else "reference"
            line = f"{label}: the {side} has no score of {task} with seed {seed} ({len(unpaired)} without a partner)"
            yield Check(kind="score", name=f"score of {label}", verdict="fail", lines=(line,))
            continue
        seeds = len({seed for _, seed in found})
        differences = [found[key] - expected[key] for key in found]
        yield _non_inferior(label, differences, margin, seeds, doubtful.get(label, []))


def _points(scores: dict[str, Scores], label: str) -> dict[tuple[str, int], float]:
    return {
        (task, seed): 100 * value
        for task, found in scores.items()
        for seed, value in found.methods.get(label, {}).items()
    }


def _non_inferior(label: str, differences: list[float], margin: float, seeds: int, doubts: list[str]) -> Check:
    name = f"score of {label}"
    if not any(differences):
        return Check(kind="score", name=name, verdict="pass")
    mean, interval = mean_interval(differences)
    shown = f"{mean:+.2f} points" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")
    if seeds < MIN_SEEDS:
        why = f"{label}: {shown} against the reference; {seeds} seeds carry no verdict, {MIN_SEEDS} do"
        return Check(kind="score", name=name, verdict="inconclusive", lines=(why,))
    if one_sided_p(differences, -margin, above=True) < LEVEL:
        if not doubts:
            return Check(kind="score", name=name, verdict="pass")
        why = f"{label}: {shown} against the reference; {', '.join(doubts)}: such a score can show a fall, no more"
        return Check(kind="score", name=name, verdict="inconclusive", lines=(why,))
    below = one_sided_p(differences, -margin, above=False) < LEVEL
    line = f"{label}: {shown} against the reference, margin {margin:g} points"
    return Check(kind="score", name=name, verdict="fail" if below else "inconclusive", lines=(line,))


def _claims(results: Results) -> Iterator[Check]:
    for judgement in judge(results):
        lines = tuple(
            f"{judgement.claim.says}: {outcome.method} shows {outcome.value}{f'; {outcome.why}' if outcome.why else ''}"
            for outcome in judgement.outcomes
            if outcome.verdict != "pass"
        )
        yield Check(kind="claim", name=judgement.claim.name, verdict=judgement.verdict, lines=lines)

"""Answers a reader's need by a rule that the tables can check: least memory, no latency, best score; measures nothing.

A pick is a row of the tables, not advice: what a rule cannot see (missing figures, few seeds, noise) stands in ``why``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench import analysis as compare
from bench.analysis.scores import check_one_content, doubts
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.stats.intervals import paired_difference
from bench.store.store import Run

WITHIN = 1.0
"""Points of 100 below the best mean that a cheap method may lie and still be picked."""
SHOWN = 5
"""Methods that a sentence names before it counts the rest; the tables mark all."""


@dataclass(frozen=True)
class Pick:
    """Which methods a rule gives for a need."""

    need: str
    """``least memory``, ``no latency``, ``best score``, ``least storage`` or ``least time a step``."""
    rule: str
    """One sentence that a reader can check against the tables."""
    methods: tuple[str, ...]
    """Labels, best first or tied; empty where no method meets the rule or no figure decides it."""
    why: str
    """The figures, ties, what is missing, and why there is no verdict; phrases joined by semicolons."""

    @property
    def named(self) -> str:
        """The first methods by name, the rest by number; empty where there is none."""
        return _some(map(fmt.plain, self.methods))


@dataclass(frozen=True)
class _Scores:
    """Means of the methods that scored every cell that any method scored: others have another mean, not a lower one."""

    means: dict[str, float]
    """Points of 100 by label, best first."""
    cells: dict[str, dict[tuple[str, int], float]]
    part: tuple[str, ...]
    """Methods whose scores are incomplete."""
    doubt: str
    """Why no comparison of these means carries a verdict; empty where one may."""

    @property
    def near(self) -> list[str]:
        """Labels at most `WITHIN` points below the best mean."""
        best = max(self.means.values())
        return [label for label, mean in self.means.items() if mean >= best - WITHIN]


def picks(run: Run) -> list[Pick]:
    """One pick a need, in a fixed order; none for a run without a cost and without a score.

    Costs are those of the run's first shape (`bench.analysis.cost_shapes`); the rule names it.

    Raises:
        BenchError: Scores or costs of the run cannot stand in one table.
    """
    scores = _scores(run)
    shapes = compare.cost_shapes(run.records)
    if scores is None and not shapes:
        return []
    costs = compare.cost_table(run.records, facts.labels(run))
    on = f" at {shapes[0].batch} x {shapes[0].length} tokens" if shapes else ""
    return [
        _memory(costs, scores, on), _no_latency(costs, scores), _best_score(scores), _storage(run, scores),
        _time(run, costs, scores, on),
    ]  # fmt: skip


def _scores(run: Run) -> _Scores | None:
    done = [record for record in compare.score_records(run.records) if record.status == "ok"]
    check_one_content(done)
    cells = compare.cells(done)
    asked = {cell for found in cells.values() for cell in found}
    whole = {label: sum(found.values()) / len(found) for label, found in cells.items() if len(found) == len(asked)}
    if not whole:
        return None
    means = dict(sorted(whole.items(), key=lambda item: -item[1]))
    doubt = ", ".join(doubts([record for record in done if record.method.label in whole], asked))
    part = tuple(label for label in facts.labels(run) if label not in whole)
    return _Scores(means, cells, part, doubt)


def _memory(costs: pd.DataFrame, scores: _Scores | None, on: str) -> Pick:
    what = f"lowest {facts.memory_name(costs)} of a training step{on}"
    return _least("least memory", what, costs[compare.peak_column(costs)], scores)


def _storage(run: Run, scores: _Scores | None) -> Pick:
    values = compare.cost_table(run.records, facts.labels(run))["delta_bytes"]
    for record in reversed(compare.score_records(run.records)):
        if record.status == "ok" and record.delta_bytes is not None and fmt.missing(values.get(record.method.label)):
            values[record.method.label] = float(record.delta_bytes)
    return _least("least storage", "fewest bytes stored per task beside the backbone and the head", values, scores)


def _least(need: str, what: str, values: "pd.Series[float]", scores: _Scores | None) -> Pick:
    """The lowest of an exact figure among methods whose score is near the best."""
    rule = _among(what, scores)
    known = {str(label): value for label, value in values.items() if not fmt.missing(value)}
    if not known:
        return Pick(need, rule, (), "no record holds the figure")
    allowed = {label: value for label, value in known.items() if scores is None or label in scores.near}
    if not allowed:
        return Pick(need, rule, (), f"no figure of {_names(scores.near if scores else ())}{_left_out(known, scores)}")
    lowest = min(allowed.values())
    found = tuple(label for label, value in allowed.items() if value == lowest)
    phrases = [fmt.size(lowest) + (f", a tie of {len(found)}" if len(found) > 1 else "")]
    if others := sorted((value, label) for label, value in allowed.items() if value > lowest):
        shown = fmt.apart(lowest, others[0][0], "B") if fmt.size(lowest) == fmt.size(others[0][0]) else None
        phrases = [shown[0] + phrases[0].removeprefix(fmt.size(lowest))] if shown else phrases
        phrases.append(f"next {fmt.plain(others[0][1])}, {shown[1] if shown else fmt.size(others[0][0])}")
    return Pick(need, rule, found, "; ".join(phrases) + _left_out(known, scores, values.index))


def _no_latency(costs: pd.DataFrame, scores: _Scores | None) -> Pick:
    order = "; highest mean score first" if scores else ""
    rule = f"Merged, the model is the base model again, operation by operation: exact on any machine{order}."
    if not costs["merged_is_base"].map(lambda same: isinstance(same, bool)).any():
        return Pick("no latency", rule, (), "no probe compared a merged model with the base here")
    found = [str(label) for label, same in costs["merged_is_base"].items() if same is True]
    if not found:
        return Pick("no latency", rule, (), "no merged model was found to be the base")
    if scores is None:
        return Pick("no latency", rule, tuple(found), "no scores: in the suite's order")
    ranked = sorted((label for label in found if label in scores.means), key=lambda label: -scores.means[label])
    means = [f"{fmt.plain(label)} {scores.means[label]:.1f}" for label in ranked]
    phrases = [f"mean score {_some(means)}"] if means else []
    unscored = [label for label in found if label not in scores.means]
    phrases += [f"last, without all scores: {_names(unscored)}"] if unscored else []
    return Pick("no latency", rule, (*ranked, *unscored), "; ".join(phrases) + _doubt(scores))


def _best_score(scores: _Scores | None) -> Pick:
    rule = (
        "Highest mean score, and every method whose difference to it, paired by task and seed, has 0 in its 95 % "
        "interval."
    )
    if scores is None:
        return Pick("best score", rule, (), "no method has a score")
    best = next(iter(scores.means))
    pairs = {label: paired_difference(scores.cells[label], scores.cells[best]) for label in scores.means}
    equal = [
        label
        for label, pair in pairs.items()
        if label == best or (pair.interval and pair.interval[0] <= 0 <= pair.interval[1])
    ]
    top = f"{fmt.plain(best)} {scores.means[best]:.1f}"
    phrases = [top + (f", {len(equal) - 1} not told from it" if len(equal) > 1 else "")]
    phrases += ["one pair: no interval"] if len(scores.cells[best]) == 1 else []
    return Pick("best score", rule, tuple(equal), "; ".join(phrases) + _left_out(scores.means, scores))


def _time(run: Run, costs: pd.DataFrame, scores: _Scores | None, on: str) -> Pick:
    baseline = fmt.plain(run.suite.baseline)
    what = f"lowest measured time of a training step{on} / {baseline}, with every one whose 95 % interval overlaps"
    rule = _among(what, scores)
    timed = costs[costs["step_ratio"].notna()]
    allowed = timed if scores is None else timed[timed.index.isin(scores.near)]
    if allowed.empty:
        reason = "no step was timed" if timed.empty else f"no time of {_names(scores.near if scores else ())}"
        return Pick("least time a step", rule, (), reason)
    ranked = allowed.sort_values("step_ratio", kind="stable")
    first = ranked.iloc[0]
    reach = (ranked["step_low"] <= first["step_high"]) & (ranked["step_high"] >= first["step_low"])
    found = ranked[reach]
    shown = [
        f"{fmt.plain(label)} {fmt.ratio_interval(row['step_ratio'], row['step_low'], row['step_high'], 2)}"
        for label, row in found.iterrows()
    ]
    phrases = [f"{_some(shown)}, on {facts.this_machine(run)}"]
    control = compare.controls(run.records)
    control = control[control["name"] == "step"]
    if control.empty or not control["quiet"].all():
        noisy = "there is no A/A control" if control.empty else "the A/A control was not quiet"
        phrases.append(f"no verdict on times: {noisy}")
    left = _left_out(timed.index, scores, costs.index)
    return Pick("least time a step", rule, tuple(map(str, found.index)), "; ".join(phrases) + left)


def _among(what: str, scores: _Scores | None) -> str:
    whom = f"methods whose mean score lies at most {WITHIN:g} point below the best" if scores else "all methods"
    return f"{what[0].upper()}{what[1:]}, among {whom}."


def _left_out(known: Iterable[object], scores: _Scores | None, labels: Iterable[object] = ()) -> str:
    """What the rule could not see, and why the scores that it used carry no verdict."""
    held = set(known)
    phrases = ""
    if missing := [str(label) for label in labels if label not in held]:
        phrases += f"; not known of {_names(missing)}"
    if scores is not None and scores.part:
        phrases += f"; left out, without all scores: {_names(scores.part)}"
    return phrases + _doubt(scores)


def _doubt(scores: _Scores | None) -> str:
    return f"; no verdict on scores: {scores.doubt}" if scores is not None and scores.doubt else ""


def _names(labels: Sequence[str]) -> str:
    return ", ".join(map(fmt.plain, labels))


def _some(texts: Iterable[str]) -> str:
    """The first few, and how many more there are; one more stands itself rather than its count."""
    every = list(texts)
    if len(every) <= SHOWN + 1:
        return ", ".join(every)
    return f"{', '.join(every[:SHOWN])} and {len(every) - SHOWN} more"

"""Writes what became of each claim as one line: verdict, sentence, figures and how far they hold; judges nothing."""

from bench.claims import Judgement, Outcome, judge
from bench.report import facts
from bench.report import format as fmt
from bench.store import Run

MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "  ?", "invalid": "  ?"}
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "invalid": "yellow"}
SHORT = {
    "step_seconds": "step time",
    "forward_seconds": "forward time",
    "backward_seconds": "backward time",
    "latency_seconds.unmerged.batch_1": "latency at batch 1",
    "latency_seconds.unmerged.batch_32": "latency at batch 32",
}
"""Figures as a price names them; another stands under its dotted name."""


def lines(run: Run) -> list[tuple[str, str]]:
    """Verdict and text of every claim that this run can decide, in the suite's order."""
    return [(judgement.verdict, _line(judgement, run)) for judgement in judge(run)]


def _line(judgement: Judgement, run: Run) -> str:
    says, figures = fmt.plain(judgement.claim.says.rstrip(".")), _figures(judgement)
    parts = [f"{says}{': ' + figures if figures else ''} ({_reach(judgement, run)})"]
    if judgement.prices:
        paid = ", ".join(f"{SHORT.get(name, name)} {ratio:.2f} x" for name, ratio in judgement.prices)
        parts.append(f"paid: {paid}")
    if why := _why(judgement):
        parts.append(f"{judgement.verdict}: {why}")
    elif widened := "; ".join(dict.fromkeys(outcome.widened for outcome in judgement.outcomes if outcome.widened)):
        parts.append(f"stands {widened}")
    return "; ".join(parts)


def _figures(judgement: Judgement) -> str:
    had = [outcome for outcome in judgement.outcomes if outcome.value is not None]
    if not had or judgement.claim.holds is not None:
        return ""
    if len(had) == 1:
        return _one(judgement, had[0])
    low, high = min(had, key=_value), max(had, key=_value)
    return f"{_number(judgement, _value(low))} - {_number(judgement, _value(high))}{_unit(judgement)}"


def _value(outcome: Outcome) -> float:
    assert outcome.value is not None
    return float(outcome.value)


def _one(judgement: Judgement, outcome: Outcome) -> str:
    text = _number(judgement, _value(outcome)) + _unit(judgement)
    if outcome.interval is None:
        return text
    return f"{text} [{_number(judgement, outcome.interval[0])}, {_number(judgement, outcome.interval[1])}]"


def _number(judgement: Judgement, value: float) -> str:
    if judgement.kind == "score":
        return f"{value:+.1f}"
    return fmt.exact(value) if judgement.claim.versus is None else f"{value:.3f}"


def _unit(judgement: Judgement) -> str:
    if judgement.kind == "score":
        return " points"
    return "" if judgement.claim.versus is None else " x"


def _reach(judgement: Judgement, run: Run) -> str:
    if judgement.kind == "exact":
        return "exact, any machine"
    return fmt.plural(len(facts.seeds(run)), "seed") if judgement.kind == "score" else "this machine"


def _why(judgement: Judgement) -> str:
    if judgement.verdict in ("pass", "fail"):
        return ""
    return fmt.plain("; ".join(dict.fromkeys(outcome.why for outcome in judgement.outcomes if outcome.why)))

"""Writes what became of each claim as one line: verdict, sentence, figures and how far they hold; judges nothing."""

from dataclasses import dataclass

from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run
from bench.verdicts.claims import Judgement, Outcome, Verdict, judge

MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "  ?", "invalid": "  ?"}
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "invalid": "yellow"}
SHORT = {
    "step_seconds": "step time",
    "forward_seconds": "forward time",
    "backward_seconds": "backward time",
    "latency_seconds.unmerged.batch_1": "latency at batch 1",
    "latency_seconds.unmerged.batch_8": "latency at batch 8",
    "latency_seconds.unmerged.batch_32": "latency at batch 32",
}
"""Figures as a price names them; another stands under its dotted name."""


@dataclass(frozen=True)
class Told:
    """One claim in words, part by part; an empty part has nothing to say."""

    verdict: Verdict
    says: str
    """The claim's own sentence, without a full stop."""
    figures: str
    """Compared figure with its unit and interval; the range over several methods."""
    reach: str
    """``exact, any machine``, ``this machine`` or ``3 seeds``, with the length that the claim names."""
    paid: str
    why: str
    """Why there is no verdict."""
    widened: str
    """What a verdict on times stands in spite of."""
    metric: str
    """Dotted name of the figure."""
    methods: tuple[str, ...]


def tell(run: Run) -> list[Told]:
    """Every claim that this run can decide, in the suite's order."""
    return [_told(judgement, run) for judgement in judge(run)]


def lines(run: Run) -> list[tuple[str, str]]:
    """Verdict and text of every claim that this run can decide, in the suite's order."""
    return [(told.verdict, _line(told)) for told in tell(run)]


def _told(judgement: Judgement, run: Run) -> Told:
    why = _why(judgement)
    return Told(
        verdict=judgement.verdict,
        says=fmt.plain(judgement.claim.says.rstrip(".")),
        figures=_figures(judgement),
        reach=_reach(judgement, run),
        paid=", ".join(f"{SHORT.get(name, name)} {ratio:.2f} x" for name, ratio in judgement.prices),
        why=why,
        widened="" if why else "; ".join(dict.fromkeys(o.widened for o in judgement.outcomes if o.widened)),
        metric=judgement.claim.metric,
        methods=judgement.claim.method,
    )


def _line(told: Told) -> str:
    parts = [f"{told.says}{': ' + told.figures if told.figures else ''} ({told.reach})"]
    if told.paid:
        parts.append(f"paid: {told.paid}")
    if told.why:
        parts.append(f"{told.verdict}: {told.why}")
    elif told.widened:
        parts.append(f"stands {told.widened}")
    return "; ".join(parts)


def _figures(judgement: Judgement) -> str:
    had = [outcome for outcome in judgement.outcomes if outcome.value is not None]
    if not had or judgement.claim.holds is not None:
        return ""
    if len(had) == 1:
        return _one(judgement, had[0])
    ends = dict.fromkeys(_number(judgement, end(map(_value, had))) for end in (min, max))
    return " - ".join(ends) + _unit(judgement)


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
    if judgement.kind != "score":
        length = judgement.claim.length
        reach = "exact, any machine" if judgement.kind == "exact" else "this machine"
        return f"{reach}, {fmt.plural(length, 'token')}" if length else reach
    tasks = fmt.plain(", ".join(judgement.claim.tasks))
    return f"{fmt.plural(len(facts.seeds(run)), 'seed')}{' of ' + tasks if tasks else ''}"


def _why(judgement: Judgement) -> str:
    if judgement.verdict in ("pass", "fail"):
        return ""
    return fmt.plain("; ".join(dict.fromkeys(outcome.why for outcome in judgement.outcomes if outcome.why)))

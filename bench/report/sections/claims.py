"""Answers the suite's question and a reader's needs: claims in words with their verdicts, and which method to take."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bench.analysis.recommend import AsGood, Choice, Recommendation
from bench.analysis.results import Results
from bench.analysis.scores import UNSCORED
from bench.report import document as doc
from bench.report import format as fmt
from bench.report.document import Answer, Answers, Choices, Reach, Section, Text, Verdict, Verdicts, Word
from bench.report.sections import overview as facts
from bench.report.sections import scores, sweeps
from bench.report.sections.caveats import origin_line
from bench.schema.claims import text_of
from bench.schema.figures import figure_of
from bench.stats.intervals import tied
from bench.verdicts.claims import JudgedResults, Judgement, Outcome

MOST = 3
"""Sentences of an answer."""
OPEN = "Not decided: whether "
SHORT = {"step_seconds": "step time", "forward_seconds": "forward time", "backward_seconds": "backward time"}
"""Figures as a price names them; another stands under its dotted name."""
Kind = Literal["exact", "timed", "score"]


@dataclass(frozen=True)
class Told:
    """One claim in words, part by part; an empty part has nothing to say."""

    verdict: Word
    kind: Kind
    says: str
    """The claim's own sentence, without a full stop."""
    figures: str
    """Compared figure with its unit and interval; the range over several methods."""
    reach: str
    """``exact, any machine``, ``this machine`` or ``3 seeds``, with the length that the claim names."""
    paid: str
    why: str
    """Why it is not decided."""
    widened: str
    """What a verdict on times holds in spite of."""
    metric: str
    """Dotted name of the figure."""
    methods: tuple[str, ...]

    @property
    def leans(self) -> bool:
        """Whether its sentence is understood after the one before it alone."""
        return self.says.partition(" ")[0] in ("And", "It", "Its", "So", "Their", "They")

    @property
    def sentence(self) -> str:
        """The claim as a sentence that says no more than is known."""
        return OPEN + in_clause(self.says) if self.why else self.says

    @property
    def row(self) -> Verdict:
        """The claim as a document holds it."""
        notes = [f"paid: {self.paid}"] if self.paid else []
        notes += [f"{self.verdict}: {self.why}"] if self.why else [self.widened] if self.widened else []
        return Verdict(self.verdict, self.sentence, self.figures, self.reach, tuple(notes), self.methods, self.metric,
                       how_of(self.metric))  # fmt: skip


def how_of(metric: str) -> str:
    """Name of the term that says how a figure is measured."""
    if text_of(metric) is not None:
        return "bits per byte"
    figure = figure_of(metric)
    if metric == "score" or figure is None:
        return "difference"  # of scores; a claim's metric is in the catalogue
    return figure.methodology


def in_clause(sentence: str) -> str:
    """A sentence as it stands within another: a first word that is no name in lower case."""
    first, space, rest = sentence.partition(" ")
    is_name = not re.fullmatch(r"[A-Z]?[a-z]*[,']?s?", first)
    return sentence if is_name else f"{first[:1].lower()}{first[1:]}{space}{rest}"


def section(results: JudgedResults) -> Section | None:
    """All claims, with a line on how they are decided; None where the suite makes none."""
    rows = Verdicts(tuple(told.row for told in tell(results)))
    undecided = facts.undecided(results)
    said = [Text((f"  ?     scores: {undecided}",), tone="warn")] if undecided is not None else []
    if not rows.rows:
        return Section("claims", "Claims", (), tuple(said)) if said else None
    how = (
        "Counted figures decide at once. Times and scores are tested at 5 % after Holm's correction over all of them; "
        "a time must still hold after widening its interval for A/A noise. Inconclusive: the interval contains the "
        "bound. Invalid: the A/A control was not quiet as well."
    )
    return Section("claims", "Claims", (rows, Text((how,), "note")), (rows, *said))


def tell(results: JudgedResults) -> list[Told]:
    """Every claim that this run can decide, in the suite's order."""
    return [_told(judgement, results) for judgement in results.judgements]


def _told(judgement: Judgement, results: JudgedResults) -> Told:
    why = _why(judgement)
    held = dict.fromkeys(outcome.widened for outcome in judgement.outcomes if outcome.widened)
    widened = "; ".join(f"still holds after widening the interval {by}" for by in held)
    return Told(
        verdict=judgement.verdict, kind=judgement.kind, says=fmt.plain(judgement.claim.says.rstrip(".")),
        figures=_figures(judgement), reach=_reach(judgement, results),
        paid=", ".join(f"{_short(name)} {ratio:.2f} x" for name, ratio in judgement.prices),
        why=why, widened="" if why else widened, metric=judgement.claim.metric, methods=judgement.claim.method,
    )  # fmt: skip


def _short(metric: str) -> str:
    batch = re.fullmatch(r"latency_seconds\.unmerged\.batch_(\d+)", metric)
    return f"latency at batch {batch[1]}" if batch else SHORT.get(metric, metric)


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
    if judgement.kind == "timed" and fmt.says_nothing(_value(outcome), *outcome.interval):
        return fmt.TOO_FEW
    return f"{text} [{_number(judgement, outcome.interval[0])}, {_number(judgement, outcome.interval[1])}]"


def _number(judgement: Judgement, value: float) -> str:
    if judgement.kind == "score":
        return f"{value:+.1f}" if text_of(judgement.claim.metric) is None else f"{value:+.3f}"
    return fmt.exact(value) if judgement.claim.versus is None else f"{value:.3f}"


def _unit(judgement: Judgement) -> str:
    if judgement.kind == "score":
        return " points" if text_of(judgement.claim.metric) is None else " bits per byte"
    return "" if judgement.claim.versus is None else " x"


def _reach(judgement: Judgement, results: JudgedResults) -> str:
    if judgement.kind != "score":
        length = judgement.claim.length
        reach = "exact, any machine" if judgement.kind == "exact" else "this machine"
        return f"{reach}, {fmt.plural(length, 'token')}" if length else reach
    tasks = fmt.plain(", ".join(judgement.claim.tasks))
    return f"{fmt.plural(len(results.seeds), 'seed')}{' of ' + tasks if tasks else ''}"


def _why(judgement: Judgement) -> str:
    if judgement.verdict in ("pass", "fail"):
        return ""
    reasons = dict.fromkeys(", ".join(facts.needed(outcome.why.split(", "))) for outcome in judgement.outcomes)
    return fmt.plain("; ".join(filter(None, reasons)))


def answers(results: JudgedResults, told: list[Told] | None = None) -> list[Answer]:
    """The answer to the suite's question.

    One sentence a kind (exact, timed, score): its first claim, the decided before the open and a comparison before a
    figure that stands alone, with the next one about another method; a kind without a claim gets one from the tables.

    Args:
        results: Of a run, finished or not.
        told: Its claims in words; None: `tell` them.
    """
    if not results.run.records:
        return [Answer("Nothing was measured here yet.", "open", "not decided: no record", "times")]
    told = tell(results) if told is None else told
    grown = [Answer(text, "exact", "exact, any machine", "grows as") for text in sweeps.sentences(results)]
    own = [*_training(results), _claimed(results, told, "exact") or _exact(results), *grown]
    own += [_claimed(results, told, "timed") or _timed(results), _claimed(results, told, "score") or _scored(results)]
    known = [answer for answer in own if answer is not None]
    return known[:MOST] or [Answer("No record holds a figure.", "open", "not decided: nothing succeeded", "times")]


def _training(results: JudgedResults) -> Iterator[Answer]:
    """What the suite asked of training on the way: only a suite that asks for it has records of it."""
    seeds = f"this data: {fmt.plural(len(results.seeds), 'seed')}"
    if text := scores.shared(results):
        yield Answer(text, "bound", seeds, "overlap")
    if text := scores.first_gradients(results):
        yield Answer(text, "bound", seeds, "gradient norm")
    text, why = scores.reached_first(results) if any(r.curve for r in results.score_records) else ("", "")
    if text:
        yield Answer(f"{OPEN * bool(why)}{text}.", "open" if why else "bound", f"not decided: {why}" if why else seeds,
                     "cost to reach")  # fmt: skip


def opening(results: JudgedResults) -> Section:
    """The first sentences of a report, and where their figures come from."""
    where = Text((origin_line(results),), "note")
    return Section("answers", "", (Answers(tuple(answers(results))), where), (facts.preamble(results),))


def _claimed(results: JudgedResults, told: list[Told], kind: Kind) -> Answer | None:
    asked = [claim for claim in told if claim.kind == kind]
    if not asked:
        return None
    ranked = sorted(asked, key=lambda claim: (bool(claim.why), claim.leans, not claim.figures.endswith((" x", "]"))))
    first, other = ranked[0], next((claim for claim in ranked if _goes_with(ranked[0], claim)), None)
    if other is None:
        return claimed(results, first)
    answer, second = claimed(results, first), claimed(results, other)
    whys = dict.fromkeys([*_phrases(first.why), *_phrases(other.why)])
    tag = f"not decided: {', '.join(whys)}" if first.why else answer.tag
    says = second.says.replace(OPEN, "whether ", 1)
    return Answer(f"{answer.says.removesuffix('.')}; {says}", answer.reach, tag, answer.how)


def _phrases(why: str) -> list[str]:
    """The reasons of a tag, apart at commas but for those inside an interval."""
    return re.split(r", (?![^\[]*\])", why)


def _goes_with(first: Told, other: Told) -> bool:
    """Whether a claim about one other method has come to as much as the first one."""
    about_one = len(first.methods) == len(other.methods) == 1
    return about_one and not other.leans and first.methods != other.methods and bool(first.why) == bool(other.why)


def claimed(results: JudgedResults, told: Told) -> Answer:
    """A claim as a sentence with its figures and what is paid."""
    fails = "Does not hold: " if told.verdict == "fail" else ""
    figures = f": {told.figures}" if told.figures else ""
    paid = f"; paid: {told.paid}" if told.paid else ""
    reach: Reach = "open" if told.why else "exact" if told.kind == "exact" else "bound"
    where = f"this machine: {facts.this_machine(results)}" if told.kind == "timed" else f"this data: {told.reach}"
    tag = f"not decided: {told.why}" if told.why else told.reach if told.kind == "exact" else where
    return Answer(f"{fails}{told.sentence}{figures}{paid}.", reach, tag, how_of(told.metric))


def _ends(values: "pd.Series[float]", baseline: str) -> str:
    """``from 0.03 x (lst) to 0.60 x (p_tuning)`` over all methods but the baseline; empty without a figure."""
    known = values.drop(index=baseline, errors="ignore").dropna().astype(float)
    if known.empty:
        return ""
    low, high = (
        f"{fmt.ratio(end)} x ({fmt.some(map(fmt.plain, known.index[tied(known, end)]))})"
        for end in (known.min(), known.max())
    )
    return low if low == high else f"from {low} to {high}"


def _exact(results: JudgedResults) -> Answer | None:
    ends = _ends(results.cost_table()["flops_backward_ratio"], results.baseline)
    text = f"Backward takes {ends} the FLOPs of {fmt.plain(results.baseline)}'s."
    return Answer(text, "exact", "exact, any machine", "FLOPs") if ends else None


def _timed(results: JudgedResults) -> Answer | None:
    control = results.controls()
    ends = _ends(results.cost_table()["step_ratio"], results.baseline)
    if not ends:
        return None
    text = f"A training step takes {ends} the time of {fmt.plain(results.baseline)}'s."
    step = control[control["name"] == "step"]
    if step.empty or not step["quiet"].all():
        why = "is missing" if step.empty else "was not quiet"
        return Answer(OPEN + in_clause(text), "open", f"not decided: the A/A control {why}", "A/A control")
    return Answer(text, "bound", f"this machine: {facts.this_machine(results)}", "times")


def _scored(results: JudgedResults) -> Answer | None:
    baseline = results.baseline
    means = results.score_table.dropna(subset=["mean"])
    if means.empty:
        return None
    best = list(means.index[tied(means["mean"], means["mean"].max())])
    others = means.drop(index=baseline, errors="ignore")
    undecided = facts.undecided(results)
    figures = f"{fmt.points(float(means.loc[best[0], 'mean']))} points"
    if baseline not in best and baseline in means.index:
        row = means.loc[best[0]]
        apart = fmt.difference(row["difference"], *((row["low"], row["high"]) if len(best) == 1 else ()))
        figures += f", {apart} against {fmt.plain(baseline)}"
    if undecided is not None or not others["verdict"].all():
        why = undecided or "; ".join(dict.fromkeys(phrase for whys in others["why"] for phrase in facts.needed(whys)))
        why = (why or "one pair alone").removeprefix("inconclusive: ")
        return Answer(
            f"{OPEN}{_may_be_best(best, len(means))}, {figures}.", "open", f"not decided: {why}", "difference"
        )
    text = f"{_are_best(best, len(means))}, {figures}."
    return Answer(text, "bound", f"this data: {fmt.plural(len(results.seeds), 'seed')}", "difference")


def _may_be_best(best: list[str], scored: int) -> str:
    if len(best) == 1:
        return f"{fmt.plain(best[0])} scores best: its mean is the highest"
    if len(best) == scored:
        return f"any method scores better than the others: all {scored} have the same mean"
    return f"{fmt.some(map(fmt.plain, best))} score best: they share the highest mean"


def _are_best(best: list[str], scored: int) -> str:
    if len(best) == 1:
        return f"The highest mean score is {fmt.plain(best[0])}'s"
    if len(best) == scored:
        return f"All {scored} methods have the same mean score"
    return f"{fmt.some(map(fmt.plain, best))} share the highest mean score"


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


def recommendations(results: Results) -> Section | None:
    """One recommendation a need; None for a run without a figure."""
    rows = tuple(_recommendation(results, found, found.least) for found in results.recommendations if found.least)
    return Section("recommendations", "Recommendations", (Choices(rows),)) if rows else None


def _recommendation(results: Results, found: Recommendation, least: Choice) -> doc.Choice:
    picked = {*least.methods, *(found.as_good.methods if found.as_good else ())}
    says = [*_about_least(found, least), *_about_score(found)]
    if found.not_measured:
        says.append(f"not known of {fmt.some(map(fmt.plain, found.not_measured))}")
    says += [f"not decided: {doubt}" for doubt in found.doubts]
    rule, labels = _rule(results, found), tuple(sorted(picked))
    return doc.Choice(found.need, _chosen(found, least), fmt.plain("; ".join(says)), rule, labels)


def _chosen(found: Recommendation, choice: Choice) -> str:
    """``head, 125 MB``."""
    names = fmt.some(map(fmt.plain, choice.methods))
    alone = found.need == "best score" and choice is found.as_good
    return names if alone else f"{names}, {_with_next(found, choice)[0]}"


def _with_next(found: Recommendation, choice: Choice) -> tuple[str, str]:
    """The figure of a choice and that of the next method; sizes with as many digits as tell them apart."""
    after = choice.runner_up[1] if choice.runner_up else choice.value
    texts = _shown(found, choice.value, choice), _shown(found, after)
    alike = found.unit == "B" and choice.runner_up is not None and texts[0] == texts[1]
    return fmt.apart(choice.value, after, "B") if alike else texts


def _shown(found: Recommendation, value: float, choice: Choice | None = None) -> str:
    if found.unit == "B":
        return fmt.size(value)
    if found.unit == "points":
        return f"{fmt.points(value)} points"
    if found.unit == "":
        return fmt.count(value)
    low, high = choice.interval if choice and choice.interval else (None, None)
    return f"{fmt.ratio_interval(value, low, high, 2)} x" if value != 1 or low is not None else "exactly 1 x"


def _about_least(found: Recommendation, least: Choice) -> list[str]:
    says = [f"a tie of {len(least.methods)}"] if len(least.methods) > 1 else []
    if least.not_distinguished:
        says.append(f"{len(least.not_distinguished)} not significantly different")
    elif least.runner_up is not None:
        says.append(f"next {fmt.plain(least.runner_up[0])}, {_with_next(found, least)[1]}")
    return says


def _about_score(found: Recommendation) -> list[str]:
    """The choice among those that score as well as the best, or why scores took no part."""
    score = found.score
    if score.no_verdict:
        what = "not decided" if found.need == "best score" else "scores took no part"
        return [f"{what}: {', '.join(facts.needed(score.no_verdict))}"]
    if found.as_good is None:
        return [f"no figure of a method that {_as_good(score)}"]
    says = [f"of those that {_as_good(score)}: {_chosen(found, found.as_good)}"]
    if left := [f"{fmt.plain(label)} ({why})" for label, why in score.left_out.items() if why != UNSCORED]:
        says.append(f"scores left out: {fmt.some(left)}")
    if unscored := list(score.left_out.values()).count(UNSCORED):
        says.append(f"{fmt.plural(unscored, 'method')} {UNSCORED}")
    return says


def _as_good(score: AsGood) -> str:
    """``are shown not to score over 1 point worse than the best``."""
    points = "point" if score.margin == 1 else "points"
    return f"are shown not to score over {score.margin:g} {points} worse than the best"


def _rule(results: Results, found: Recommendation) -> str:
    head = found.figure.partition(".")[0]
    name = FIGURES.get(head) or f"{facts.memory_name(results.cost_table())} of a training step"
    name = name.format(baseline=fmt.plain(results.baseline))
    on = ""
    if found.shape and head not in ("latency_seconds", "merged_equals_base"):
        on = f" at {facts.shape_among(results.shapes, found.shape)}"
    what = "Highest" if found.unit == "points" else "Fewest" if head in FEWEST else "Lowest"
    if found.score.no_verdict:
        return f"{what} {name}{on}, among all methods."
    return (
        f"{what} {name}{on}, among all methods; then among those whose 95 % interval of the difference to the highest "
        f"mean score lies above -{found.score.margin:g}."
    )

"""A claim as a suite states it: a sentence of the field and the comparison that decides it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.schema import figures
from bench.schema.figures import BASE, MODES
from bench.schema.forms import Loss, Objective

_OF_INFERENCE = ("latency_seconds", "inference")
"""Fields of a cost record that hold figures of the base and of each mode."""
_AGAINST_BASE = (*_OF_INFERENCE, "kv_cache", *figures.GENERATION, *(f"{p}_seconds" for p in figures.GENERATION))
"""Fields that hold figures of the base and of each mode, on whatever rows."""
LOOKS = 3
"""Times that interleaved samples are looked at, with as many blocks more each time, until they decide a claim."""
EXTRA_SECONDS = 30.0
"""Wall seconds that one interleaved measurement (training steps, or latency at one batch) may spend on blocks beyond
those that its suite asks for."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Bounds(_Table):
    """Where a figure must lie; both ends belong to it."""

    min: float | None = None
    """Lower bound, included."""
    max: float | None = None
    """Upper bound, included."""

    @model_validator(mode="after")
    def _ordered(self) -> "Bounds":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is greater than max = {self.max}")
        return self


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class ClaimTable(_Table):
    """One claim; it holds where it holds for every method that it names."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case words joined by hyphens; unique within the suite."""
    says: str
    """The claim as a sentence, without its figures."""
    metric: str
    """Dotted name of a figure of a cost record, such as ``latency_seconds.merged.batch_1``; ``score``; or
    ``retention.`` and a text of ``[retention]``: bits per byte after training, less those before."""
    method: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(min_length=1)
    """Label or labels, as the suite spells them."""
    versus: str | None = None
    """Label that ``ratio``, ``equivalent_within`` and ``difference`` compare with; ``base`` for one of inference."""
    ratio: Bounds | None = None
    """Bounds of method / versus."""
    equivalent_within: float | None = Field(default=None, gt=0, lt=1)
    """method / versus lies within 1 +- this much."""
    difference: Bounds | None = None
    """Bounds of method - versus over (task, seed): of ``score`` in points of 100, of a text in bits per byte."""
    value: Bounds | None = None
    """Bounds of the figure itself."""
    holds: bool | None = None
    """The figure is a yes or a no, and this one."""
    length: int | None = Field(default=None, ge=1)
    """Tokens in a row of the shape that the figure is taken on, of one of inference those of its rows; where left out,
    it is the first of the run's shapes that holds all methods of the claim, of a time the first that is timed."""
    objective: Objective | None = None
    """Objective of that shape, where the suite has shapes of several."""
    loss: Loss | None = None
    """Form of its next-token loss, likewise."""
    tasks: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Tasks over which scores are compared; all of the suite where left out."""
    price: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Figures shown beside the verdict as ratios to ``versus``, or to the baseline: what is paid for it."""

    @model_validator(mode="after")
    def _one_comparison(self) -> "ClaimTable":
        forms = ("ratio", "equivalent_within", "difference", "value", "holds")
        given = [form for form in forms if getattr(self, form) is not None]
        if len(given) != 1:
            raise ValueError(f"claim {self.name!r}: give exactly one of {', '.join(forms)}")
        if (given[0] in forms[:3]) != (self.versus is not None):
            needs = "needs" if self.versus is None else "takes no"
            raise ValueError(f"claim {self.name!r}: {given[0]} {needs} versus")
        if (given[0] == "difference") != of_scores(self.metric):
            raise ValueError(f"claim {self.name!r}: difference compares scores, and a score is compared by difference")
        if self.tasks and not of_scores(self.metric):
            raise ValueError(f"claim {self.name!r}: tasks applies to metric 'score' only, not to {self.metric}")
        for field in ("length", "objective", "loss"):
            if getattr(self, field) is not None and of_scores(self.metric):
                raise ValueError(f"claim {self.name!r}: {field} applies to costs only, not to metric {self.metric!r}")
        self._check_kind()
        if self.ratio is not None and any(end is not None and end <= 0 for end in (self.ratio.min, self.ratio.max)):
            raise ValueError(f"claim {self.name!r}: bounds of a ratio must be above 0; for an exact zero give value")
        return self

    def _check_kind(self) -> None:
        """Refuse a comparison that the kind of the figure never has an answer to."""
        yes_or_no, of_base = self.metric == "merged_equals_base", base_figure(self.metric)
        if (self.holds is not None) != yes_or_no:
            needs = (
                "is true or false: give holds" if yes_or_no else "is a number: holds applies to merged_equals_base only"
            )
            raise ValueError(f"claim {self.name!r}: {self.metric} {needs}")
        figure = figures.claimed(self.metric)
        if self.value is not None and figure is not None and figure.kind == "timed":
            raise ValueError(f"claim {self.name!r}: times are compared within one run; give versus and ratio")
        if self.versus == BASE and of_base is None:
            raise ValueError(
                f"claim {self.name!r}: versus {BASE!r} applies to figures of inference only, not to {self.metric}"
            )

    @property
    def labels(self) -> set[str]:
        """Labels of the methods that it compares."""
        return {*self.method, self.versus or BASE} - {BASE}

    @property
    def bounds(self) -> Bounds:
        """Where the compared figure must lie."""
        if self.equivalent_within is not None:
            return Bounds(min=1 - self.equivalent_within, max=1 + self.equivalent_within)
        found = self.ratio or self.difference or self.value
        assert found is not None, "a claim that holds or not has no bounds"
        return found


def of_scores(metric: str) -> bool:
    """Whether ``metric`` is one of trained cells: a score, or what they keep of a text."""
    return metric == "score" or text_of(metric) is not None


def text_of(metric: str) -> str | None:
    """The text whose retention ``metric`` is; None for other figures."""
    head, _, text = metric.partition(".")
    return text if head == "retention" and text else None


def of_time(metric: str) -> bool:
    """Whether ``metric`` is a time."""
    return metric.partition(".")[0].endswith("_seconds")


def of_inference(metric: str) -> bool:
    """Whether ``metric`` is taken on rows of inference, not of training."""
    return metric.partition(".")[0] in _OF_INFERENCE


def base_figure(metric: str) -> str | None:
    """The figure of the bare backbone that ``metric`` is compared with; None for what it has none of.

    ``latency_seconds.merged.batch_1`` -> ``latency_seconds.base.batch_1``, ``inference.unmerged.depth`` ->
    ``inference.base.depth``.
    """
    head, _, rest = metric.partition(".")
    mode, _, leaf = rest.partition(".")
    return f"{head}.{BASE}.{leaf}" if head in _AGAINST_BASE and mode in MODES and leaf else None


def check_claims(
    claims: Sequence[ClaimTable],
    labels: Sequence[str],
    tasks: Sequence[str],
    shapes: Sequence["ClaimedShape"],
    scored: Sequence[str],
) -> None:
    """Refuse a claim that no run of the suite could ever decide.

    Raises:
        ValueError: Two claims share a name, or one names a method or a figure that does not exist, compares a method
            with itself, compares scores where no task is scored or of a method that is not, or costs of which no one
            shape measures all.
    """
    names = [claim.name for claim in claims]
    for claim in claims:
        if names.count(claim.name) > 1:
            raise ValueError(f"claim {claim.name!r} is listed twice; give each its own name")
        for label in (*claim.method, *([claim.versus] if claim.versus not in (None, BASE) else [])):
            if label not in labels:
                raise ValueError(f"claim {claim.name!r}: the suite has no method {label!r}; it has {', '.join(labels)}")
        if claim.versus in claim.method:
            raise ValueError(f"claim {claim.name!r}: versus is the method itself, {claim.versus!r}; name another one")
        if of_scores(claim.metric) and not tasks:
            raise ValueError(
                f"claim {claim.name!r}: metric is {claim.metric!r} but the suite scores no task; give tasks"
            )
        if of_scores(claim.metric) and (left := sorted(claim.labels - {*scored})):
            raise ValueError(f"claim {claim.name!r}: {left[0]} is not scored; add it to scored")
        for task in claim.tasks:
            if task not in tasks:
                raise ValueError(f"claim {claim.name!r}: the suite has no task {task!r}; it has {', '.join(tasks)}")
        for metric in (claim.metric, *claim.price):
            if not of_scores(metric) and figures.claimed(metric) is None:
                raise ValueError(f"claim {claim.name!r}: a cost record has no figure {metric!r}")
        if not of_scores(claim.metric) and shapes:
            _check_shape(claim, shapes)


def _check_shape(claim: ClaimTable, shapes: Sequence["ClaimedShape"]) -> None:
    lengths = [shape.tokens_of(claim) for shape in shapes]
    if claim.length is not None and claim.length not in lengths:
        field = "latency_length" if of_inference(claim.metric) else "length"
        had = ", ".join(map(str, dict.fromkeys(lengths)))
        raise ValueError(f"claim {claim.name!r}: no [[cost]] has {field} = {claim.length}; the suite has {had}")
    for field in ("objective", "loss"):
        asked, known = getattr(claim, field), [getattr(shape, field) for shape in shapes]
        if asked is not None and not {asked, None} & {*known}:
            raise ValueError(
                f"claim {claim.name!r}: no [[cost]] has {field} = {asked!r}; the suite has "
                f"{', '.join(dict.fromkeys(map(str, known)))}"
            )
    if judged_on(claim, shapes) is None:
        where = "the suite" if claim.length is None else f"length {claim.length}"
        raise ValueError(
            f"claim {claim.name!r}: no [[cost]] of {where} measures all of {', '.join(sorted(claim.labels))}; "
            "its methods narrow each"
        )


class ClaimedShape(_Table):
    """A shape, as far as it matters to claims."""

    batch: int
    length: int
    latency_length: int | None
    """None where no inference was measured."""
    labels: tuple[str, ...]
    """Methods that are measured on it."""
    objective: Objective | None = None
    """None where a suite leaves it to the backbone."""
    loss: Loss | None = None
    timed: bool = True
    """Whether times are taken on it, or counts alone."""

    def is_of(self, claim: ClaimTable) -> bool:
        """Whether it is what the claim names of it: its length, its objective and its loss."""
        named = ((claim.objective, self.objective), (claim.loss, self.loss))
        settled = all(None in (asked, own) or asked == own for asked, own in named)
        return settled and claim.length in (None, self.tokens_of(claim))

    def tokens_of(self, claim: ClaimTable) -> int | None:
        """Length of the rows that the claim's figure is taken on."""
        return self.latency_length if of_inference(claim.metric) else self.length


def judged_on(claim: ClaimTable, shapes: Sequence[ClaimedShape]) -> ClaimedShape | None:
    """The shape that ``claim`` is about: the first of its length that holds all of its methods; None where none does.

    Of a time first comes one that is timed; then the one that holds most methods, then the one with most tokens.
    """
    fit = [shape for shape in shapes if claim.labels <= {*shape.labels} and shape.is_of(claim)]
    timed = of_time(claim.metric)
    return min(
        fit,
        key=lambda shape: (timed and not shape.timed, -len(shape.labels), -shape.batch * shape.length),
        default=None,
    )


class TimedBound(_Table):
    """A ratio of times that a claim is about: a probe measures until it is decided or three times as long."""

    phase: str
    """``forward``, ``backward``, ``optimizer``, ``step``, ``latency``, ``prefill`` or ``decode``."""
    context: int | None = None
    """Tokens of a prefill or decode."""
    batch: int | None = None
    """Of a latency, prefill or decode."""
    merged: bool = False
    method: str
    versus: str
    """Label, or ``base`` for what is also measured of the bare backbone."""
    bounds: Bounds
    equivalence: bool = False
    """Decided on a quiet machine alone, and there without widening."""


def timed_bounds(
    claims: Sequence[ClaimTable], shape: ClaimedShape, shapes: Sequence[ClaimedShape]
) -> tuple[TimedBound, ...]:
    """What the claims about times ask of a probe of ``shape``: those that are judged on it, of all ``shapes``."""
    found = []
    for claim in claims:
        head, _, rest = claim.metric.partition(".")
        if not of_time(claim.metric) or claim.versus is None:
            continue
        if judged_on(claim, shapes) != shape:
            continue
        mode, *keys = rest.split(".")
        sizes = {name: int(size) for name, _, size in (key.rpartition("_") for key in keys)}  # of context and batch
        found += [
            TimedBound(phase=head.removesuffix("_seconds"), **sizes, merged=mode == "merged", method=label,
                       versus=claim.versus, bounds=claim.bounds, equivalence=claim.equivalent_within is not None)
            for label in claim.method
        ]  # fmt: skip
    return tuple(found)

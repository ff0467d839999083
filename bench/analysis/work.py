"""FLOPs of training on rows of any lengths, from counts at a few lengths: solved exactly, never fitted; counts nothing.

A training step multiplies matrices once per token, per pair of tokens (attention), per row (the head) and per pass
(what depends on no row, such as a prompt encoder), so a pass over B rows of T tokens takes

    fixed + a B + b B T + c B T^2

FLOPs, prompts and prefixes included. Counts at three lengths and one batch give b, c and ``fixed + a B``; every further
length must agree to the last FLOP. Only counts at another batch tell ``fixed`` and ``a`` apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from bench.analysis.records import count_records, score_records
from bench.schema.record import CountRecord, CurvePoint, Record

LENGTHS = 3
"""Counted lengths that give the polynomial; those beyond check it."""


@dataclass(frozen=True)
class Work:
    """FLOPs of forward and backward of one method as sums over passes, rows, tokens and squared lengths."""

    fixed: Fraction
    """Per pass; 0 where ``batch`` holds it within ``per_row``."""
    per_row: Fraction
    per_token: Fraction
    per_square: Fraction
    batch: int | None
    """Rows of a pass for which it holds; None: any."""
    checks: int
    """Counts beyond those that it was solved from, all of which it meets exactly."""

    def flops(self, point: CurvePoint, passes: int) -> float:
        """FLOPs up to ``point``; NaN where the passes had another number of rows than what was counted.

        Args:
            point: Sums over all batches so far.
            passes: Batches so far.
        """
        if self.batch is not None and point.rows != passes * self.batch:
            return float("nan")
        return float(
            passes * self.fixed + point.rows * self.per_row + point.tokens * self.per_token
            + point.token_squares * self.per_square
        )  # fmt: skip


def training_flops(records: Iterable[Record]) -> dict[str, Work]:
    """The work of each method whose counts of sweeps give it; the others are left out.

    Counts are taken at the methods' own configuration, on a backbone with as many parameters as the scored one, without
    checkpointing and with fused attention, which is how cells train.

    Args:
        records: Any records; counts are read, and of scores the methods and the backbone.
    """
    records = tuple(records)
    asked = {(r.method.label, r.backbone.parameters) for r in score_records(records) if r.backbone}
    points: dict[str, dict[tuple[int, int], int]] = defaultdict(dict)
    for record in count_records(records):
        if _usable(record) and (record.method.label, record.backbone.parameters) in asked:  # type: ignore[union-attr]
            assert record.flops is not None
            place = (record.shape.batch, record.shape.length)
            points[record.method.label][place] = record.flops.forward + record.flops.backward
    found = {label: solved(counted) for label, counted in points.items()}
    return {label: work for label, work in found.items() if work is not None}


def _usable(record: CountRecord) -> bool:
    counted = record.status == "ok" and record.flops is not None and record.backbone is not None
    plain = record.vary in ("length", "batch") and not record.shape.checkpointing and record.shape.attention == "sdpa"
    return counted and plain


def solved(counted: Mapping[tuple[int, int], int]) -> Work | None:
    """The polynomial through counted FLOPs.

    Args:
        counted: FLOPs of forward and backward by (rows, tokens a row).

    Returns:
        None with fewer than three lengths at every batch, or where a further length does not lie on it.
    """
    by_batch: dict[int, dict[int, int]] = defaultdict(dict)
    for (batch, length), flops in counted.items():
        by_batch[batch][length] = flops
    batch, lengths = max(by_batch.items(), key=lambda item: len(item[1]), default=(0, {}))
    if len(lengths) < LENGTHS:
        return None
    together, b, c = _quadratic(lengths, batch)
    rest = [length for length in lengths if together + batch * (b * length + c * length**2) != lengths[length]]
    if rest:
        return None
    checks = len(lengths) - LENGTHS
    other = {place: flops for place, flops in counted.items() if place[0] != batch}
    # What depends on no length, at each other batch: fixed + a B.
    alone = {
        place: flops - place[0] * (b * place[1] + c * place[1] ** 2) for place, flops in other.items()
    }  # fmt: skip
    slopes = {(value - together) / (place[0] - batch) for place, value in alone.items()}
    if len(slopes) != 1:
        return Work(Fraction(0), together / batch, b, c, batch, checks)
    (a,) = slopes
    return Work(together - a * batch, a, b, c, None, checks + len(alone) - 1)


def _quadratic(lengths: Mapping[int, int], batch: int) -> tuple[Fraction, Fraction, Fraction]:
    """``(e, b, c)`` with ``e + B (b T + c T^2)`` through the smallest, a middle and the largest length."""
    rising: Sequence[int] = sorted(lengths)
    x = [rising[0], rising[len(rising) // 2], rising[-1]]
    y = [Fraction(lengths[length]) for length in x]
    first, second = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    c = (second - first) / (x[2] - x[0])
    b = first - c * (x[0] + x[1])
    e = y[0] - b * x[0] - c * x[0] ** 2
    return e, b / batch, c / batch

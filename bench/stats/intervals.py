"""Intervals and comparisons of plain numbers, and the noise that an A/A control shows."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtr, stdtrit

from bench.errors import BenchError
from bench.schema.record import Control

MIN_BLOCKS = 2
"""Below two blocks nothing is known about the spread between blocks."""

LEVEL = 0.05
"""Of every test that decides something."""

ROUNDING = 1e-12
"""Relative distance up to which two means are the same number, summed in another order."""

Interval = tuple[float, float]
Key = TypeVar("Key", bound=Hashable)


class PairedDifference(NamedTuple):
    """Mean of ``method - baseline`` over the keys that both have."""

    mean: float | None
    """None without a pair."""
    interval: Interval | None
    """None below two pairs."""
    n_pairs: int
    dropped: int
    """Keys that only one side has."""


def log_ratio_blocks(method: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Median paired log ratio of each block.

    Args:
        method: Seconds, ``[block][i]``; sample ``i`` was taken in the same round as the baseline's.
        baseline: Seconds, of the same shape.

    Raises:
        BenchError: The shapes differ, a block is empty, or a time is not above zero.
    """
    if len(method) != len(baseline):
        raise BenchError(
            f"paired times: {len(method)} blocks against {len(baseline)} of the baseline; "
            "pairs need as many on both sides"
        )
    medians = []
    for number, (ours, theirs) in enumerate(zip(method, baseline, strict=True)):
        if len(ours) != len(theirs) or not len(ours):
            raise BenchError(
                f"paired times: block {number} has {len(ours)} samples against {len(theirs)} of the baseline; "
                "pairs need as many on both sides and at least one"
            )
        pair = np.asarray([ours, theirs], dtype=float)
        if not (np.isfinite(pair).all() and (pair > 0).all()):
            raise BenchError(f"paired times: block {number} holds a time that is not above 0 s; measure it again")
        medians.append(np.median(np.log(pair[0] / pair[1])))
    return np.asarray(medians)


def pooled_median(blocks: Sequence[ArrayLike], *, resamples: int = 500, seed: int = 0) -> tuple[float, float]:
    """Median of the values of all blocks, with its standard error by bootstrap over blocks.

    For many values in blocks of a dozen or more: a median over all of them shrugs off a bad moment that a mean of the
    blocks' own medians would take in.

    Args:
        blocks: At least two, each with at least one value.
        resamples: Draws of as many blocks with replacement.
        seed: Of the draws.

    Raises:
        BenchError: Fewer than two blocks.
    """
    if len(blocks) < MIN_BLOCKS:
        raise BenchError(f"a median over blocks needs at least {MIN_BLOCKS}, got {len(blocks)}; measure more blocks")
    arrays = [np.asarray(block, dtype=float) for block in blocks]
    values, number = np.concatenate(arrays), len(arrays)
    order = np.argsort(values)
    values, block = values[order], np.repeat(np.arange(number), [array.size for array in arrays])[order]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):  # sorted once: a block that is drawn twice counts twice on the way to the middle
        times = np.bincount(rng.integers(number, size=number), minlength=number)
        passed = np.cumsum(times[block])
        middle = np.searchsorted(passed, [(passed[-1] - 1) // 2, passed[-1] // 2], side="right")
        drawn.append(values[middle].mean())
    return float(np.median(values)), float(np.std(drawn, ddof=1))


def block_bootstrap_ratio(
    method: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Ratio of two times that were measured in interleaved blocks, with an interval.

    The ratio is exp of the median over blocks of the block's median paired log ratio. Samples of one block share
    their luck, so the block is the unit: pooling samples gives an interval that is far too narrow. The interval is the
    hull of two over the block medians: the percentile bootstrap of their median, and Student's t of their mean. The
    bootstrap alone cannot reach beyond the smallest and the largest block, which leaves out the truth with probability
    ``2 ** (1 - b)`` at least (5 blocks: 6 %); in simulation it covers 48 % at 2 blocks, 76 % at 3 and 87 - 95 % at
    5 - 8, the hull 94 - 97 % at each. With 2 or 3 blocks the hull is honest and very wide. A spread that is no luck
    (a machine that slows down for good) is outside any interval: the A/A control is there for that.

    Args:
        method: Seconds, ``[block][i]``, paired with ``baseline`` by position.
        baseline: Seconds, of the same shape.
        confidence: Nominal coverage.
        resamples: Bootstrap draws of blocks.
        seed: Of the bootstrap; the same samples give the same interval.

    Returns:
        The ratio and its interval, which contains it.

    Raises:
        BenchError: Fewer than two blocks, unequal shapes, or a time that is not above zero.
    """
    blocks = log_ratio_blocks(method, baseline)
    if len(blocks) < MIN_BLOCKS:
        raise BenchError(
            f"a ratio of times needs at least {MIN_BLOCKS} blocks for an interval, got {len(blocks)}; "
            "measure more blocks"
        )
    center = float(np.median(blocks))
    draws = np.random.default_rng(seed).integers(len(blocks), size=(resamples, len(blocks)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.median(blocks[draws], axis=1), [tail, 1 - tail])
    student = mean_interval(blocks, confidence)[1]
    assert student is not None
    low, high = min(low, student[0], center), max(high, student[1], center)
    return float(np.exp(center)), (float(np.exp(low)), float(np.exp(high)))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, Interval | None]:
    """Mean and its Student t interval.

    Args:
        values: At least one number.
        confidence: Nominal coverage.

    Returns:
        The mean, and the interval or None below two values.
    """
    array = np.asarray(values, dtype=float)
    if not array.size:
        raise BenchError("a mean needs at least one value, got none")
    mean = float(array.mean())
    if array.size < 2:
        return mean, None
    error = float(array.std(ddof=1)) / array.size**0.5
    half = float(stdtrit(array.size - 1, (1 + confidence) / 2)) * error
    return mean, (mean - half, mean + half)


def is_informative(value: float, interval: Interval) -> bool:
    """Whether an interval says anything about a figure above zero, such as a time or a ratio of times.

    Args:
        value: The figure.
        interval: Of the same unit.

    Returns:
        False where the half-width exceeds the figure or an end is not finite: there were too few blocks.
    """
    low, high = interval
    return bool(np.isfinite([value, low, high]).all()) and (high - low) / 2 <= value


def paired_difference(
    method: Mapping[Key, float], baseline: Mapping[Key, float], confidence: float = 0.95
) -> PairedDifference:
    """Mean of ``method - baseline`` over the keys that both have, such as (task, seed).

    Every pair counts alike, so over several tasks the interval holds the spread between tasks as well as between seeds.

    Args:
        method: Score by key.
        baseline: Score by key.
        confidence: Nominal coverage of the Student t interval.
    """
    shared = [key for key in method if key in baseline]
    dropped = len(method) + len(baseline) - 2 * len(shared)
    if not shared:
        return PairedDifference(None, None, 0, dropped)
    mean, interval = mean_interval([method[key] - baseline[key] for key in shared], confidence)
    return PairedDifference(mean, interval, len(shared), dropped)


def tied(values: ArrayLike, end: ArrayLike) -> NDArray[np.bool_]:
    """Which values equal ``end`` but for the rounding of sums in another order; NaN never does."""
    return np.asarray(np.isclose(values, end, rtol=ROUNDING, atol=0))


def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point beats.

    Args:
        points: ``[n, 2]``: cost (less is better), score (more is better). A row with NaN is never on the front.

    Returns:
        Mask ``[n]``; equal points are on the front together.
    """
    array = np.asarray(points, dtype=float).reshape(-1, 2)
    cost, score = array[:, 0], array[:, 1]
    no_worse = (cost[:, None] <= cost) & (score[:, None] >= score)
    better = no_worse & ((cost[:, None] < cost) | (score[:, None] > score))
    front: NDArray[np.bool_] = np.isfinite(array).all(axis=1) & ~better.any(axis=0)
    return front


def one_sided_p(values: ArrayLike, bound: float, *, above: bool) -> float:
    """P-value of Student's t against the claim's opposite: the claim is that the mean lies above (below) ``bound``.

    Args:
        values: One number a unit of luck: a block's median log ratio, a seed's difference. Below two: 1.0.
        bound: A mean exactly at the bound does not support the claim.
        above: Whether the claim is "above" or "below".
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return 1.0
    distance = float(array.mean() - bound) * (1 if above else -1)
    error = float(array.std(ddof=1)) / array.size**0.5
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(array.size - 1, -distance / error))


def within_p(values: ArrayLike, low: float | None, high: float | None) -> float:
    """P-value of the claim that the mean lies inside the bounds; a bound may be open.

    The larger of two one-sided p-values (two one-sided tests, Schuirmann 1987): both must be small.
    """
    bounds = ((low, True), (high, False))
    return max((one_sided_p(values, bound, above=above) for bound, above in bounds if bound is not None), default=0.0)


def outside_p(values: ArrayLike, low: float | None, high: float | None) -> float:
    """P-value of the claim that the mean lies outside the bounds: the smaller of both sides, times their number."""
    bounds = ((low, False), (high, True))
    sides = [one_sided_p(values, bound, above=above) for bound, above in bounds if bound is not None]
    return min(1.0, len(sides) * min(sides)) if sides else 1.0


def both_ways(values: ArrayLike, low: float | None, high: float | None, wider: float = 0.0) -> tuple[float, float]:
    """P-values of lying inside and of lying outside the bounds, for intervals made wider by ``wider`` to both sides.

    Each bound comes nearer by as much: it is the same, and needs no interval.
    """

    def moved(bound: float | None, distance: float) -> float | None:
        return None if bound is None else bound + distance

    return (
        within_p(values, moved(low, wider), moved(high, -wider)),
        outside_p(values, moved(low, -wider), moved(high, wider)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979): each against what is left to test, never out of order."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def mcnemar_p(only_first: int, only_second: int) -> float:
    """P-value of McNemar's exact test: two classifiers are as often right on the same rows.

    Rows that both or neither get right say nothing. Of the others each side has as many as heads of a fair coin.

    Args:
        only_first: Rows that the first alone gets right.
        only_second: Rows that the second alone gets right.

    Returns:
        Two-sided; 1.0 where they never differ.
    """
    # As scipy.stats.binomtest gives it for a fair coin, from scipy.special, which loads in a tenth of the time.
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def twice_the_median(p_values: Sequence[float]) -> float:
    """One p-value of several tests of one hypothesis, valid however they depend on each other (Rueschendorf 1982)."""
    return min(1.0, 2 * float(np.median(p_values)))


class Agreement(NamedTuple):
    """How alike two sides put the same things in order."""

    tau: float
    """Kendall's tau-b: 1 the same order, -1 the reverse; NaN where one side has them all equal."""
    swapped: int
    """Pairs that stand in another order; ties do not."""
    pairs: int


def rank_agreement(first: ArrayLike, other: ArrayLike) -> Agreement:
    """Compare the orders that two sets of values give the same things; both ``[n]``."""
    one, two = (np.asarray(values, dtype=float) for values in (first, other))
    above = np.triu_indices(len(one), 1)
    signs, others = np.sign(one[:, None] - one)[above], np.sign(two[:, None] - two)[above]
    product = signs * others
    told = float((signs != 0).sum() * (others != 0).sum()) ** 0.5
    tau = float(product.sum() / told) if told else float("nan")
    return Agreement(tau, int((product < 0).sum()), len(product))


QUIET = (0.97, 1.03)
"""Where the interval of a control lies on a machine that is quiet enough to decide by."""
WIDENING = 2.0
"""A time's interval is widened to both sides by so many times the far end of the control's, on the log scale. One
control is one draw of how far identical code comes out apart; another may be worse. Simulated (docs/claim-errors.md),
a claim at its very bound passes in 4 % of runs at most where builds and drift are up to twice the noise of a block, in
9 % where they are four and eight times as large; with that end taken once it is 7 and 18 %, at a fixed number of
blocks."""


def is_quiet(control: Control) -> bool:
    """Whether the interval of ``control`` lies within ``QUIET``."""
    return QUIET[0] <= control.interval[0] and control.interval[1] <= QUIET[1]


def margin(control: Control) -> float:
    """By how much an interval of log ratios is widened to both sides."""
    return WIDENING * max(abs(math.log(end)) for end in control.interval)

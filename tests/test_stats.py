"""Intervals hold the truth as often as they say, and bad input is refused with a sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from bench.errors import BenchError
from bench.stats import block_bootstrap_ratio, mean_interval, paired_difference, pareto_front


def coverage(blocks: int, trials: int = 300) -> float:
    """Share of intervals that hold the true ratio, when blocks share their luck (block noise 5 x sample noise)."""
    rng = np.random.default_rng(blocks)
    hits = 0
    for _ in range(trials):
        noise = rng.standard_t(3, size=(blocks, 1)) * 0.05 + rng.normal(0, 0.01, size=(blocks, 5))
        _, (low, high) = block_bootstrap_ratio(0.5 * np.exp(noise), np.ones((blocks, 5)), resamples=300)
        hits += low <= 0.5 <= high
    return hits / trials


@pytest.mark.parametrize("blocks", [3, 6, 7, 8])
def test_ratio_interval_holds_the_truth_as_often_as_it_says(blocks):
    assert coverage(blocks) >= 0.92


def test_ratio_interval_is_not_uselessly_wide_at_eight_blocks():
    rng = np.random.default_rng(0)
    ratio, (low, high) = block_bootstrap_ratio(0.5 * np.exp(rng.normal(0, 0.01, (8, 20))), np.ones((8, 20)))
    assert ratio == pytest.approx(0.5, rel=0.01)
    assert high / low < 1.02


def test_ratio_cancels_what_both_sides_share():
    speed = np.random.default_rng(0).uniform(1, 10, size=(4, 7))  # the machine's luck, ten-fold
    ratio, interval = block_bootstrap_ratio(0.25 * speed, speed)
    assert (ratio, *interval) == pytest.approx((0.25, 0.25, 0.25))


def test_ratio_is_a_function_of_the_samples_alone():
    samples = np.random.default_rng(0).uniform(1, 2, size=(2, 5, 3))
    assert block_bootstrap_ratio(*samples) == block_bootstrap_ratio(*samples)


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=9))
def test_ratio_lies_in_its_interval(logs):
    ratio, (low, high) = block_bootstrap_ratio([[np.exp(x)] for x in logs], [[1.0]] * len(logs), resamples=50)
    assert low <= ratio <= high


@pytest.mark.parametrize(
    ("method", "baseline", "sentence"),
    [
        ([[1.0]], [[1.0]], "at least 2 blocks"),
        ([[1.0]], [[1.0], [1.0]], "as many on both sides"),
        ([[1.0], [1.0, 2.0]], [[1.0], [1.0]], "block 1 has 2 samples against 1"),
        ([[], []], [[], []], "at least one"),
        ([[1.0], [0.0]], [[1.0], [1.0]], "not above 0 s"),
        ([[1.0], [float("nan")]], [[1.0], [1.0]], "not above 0 s"),
    ],
)
def test_times_that_cannot_be_paired_are_refused(method, baseline, sentence):
    with pytest.raises(BenchError, match=sentence):
        block_bootstrap_ratio(method, baseline)


def test_mean_interval_is_students():
    values = [1.0, 2.0, 4.0, 8.0]
    mean, interval = mean_interval(values)
    assert mean == 3.75
    assert interval == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval(0.95)))


def test_one_value_has_a_mean_and_no_interval():
    assert mean_interval([3.0]) == (3.0, None)
    with pytest.raises(BenchError, match="at least one value"):
        mean_interval([])


def test_differences_pair_what_both_have_and_count_the_rest():
    method = {("sst2", 0): 0.80, ("sst2", 1): 0.70, ("sst2", 2): 0.90}
    baseline = {("sst2", 0): 0.85, ("sst2", 1): 0.75, ("mrpc", 0): 0.10}
    difference = paired_difference(method, baseline)
    assert difference.mean == pytest.approx(-0.05)
    assert (difference.n_pairs, difference.dropped) == (2, 2)
    assert paired_difference(method, {}) == (None, None, 0, 3)
    assert paired_difference({1: 1.0}, {1: 0.5}) == (0.5, None, 1, 0)


def test_pareto_front_keeps_what_no_point_beats():
    points = [(1, 0.5), (2, 0.7), (2, 0.6), (3, 0.7), (0.5, 0.1), (2, 0.7), (float("nan"), 1.0)]
    assert pareto_front(points).tolist() == [True, True, False, False, True, True, False]
    assert pareto_front([]).tolist() == []

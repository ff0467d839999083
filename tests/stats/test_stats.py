"""Intervals hold the truth as often as they say, and bad input is refused with a sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kendalltau, ttest_1samp

from bench.errors import BenchError
from bench.stats.intervals import (
    block_bootstrap_ratio,
    holm,
    is_informative,
    mcnemar_p,
    mean_interval,
    one_sided_p,
    outside_p,
    paired_difference,
    pareto_front,
    pooled_median,
    rank_agreement,
    twice_the_median,
    within_p,
)


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


SPREAD = st.lists(st.floats(-10, 10), min_size=2, max_size=20).filter(lambda values: np.std(values) > 1e-3)


@given(SPREAD, st.floats(-10, 10))
def test_one_sided_p_is_scipys(values, bound):
    assert one_sided_p(values, bound, above=True) == pytest.approx(
        ttest_1samp(values, bound, alternative="greater").pvalue
    )
    assert one_sided_p(values, bound, above=False) == pytest.approx(
        ttest_1samp(values, bound, alternative="less").pvalue
    )


def test_one_value_is_no_evidence_and_equal_values_are_certain():
    assert one_sided_p([5.0], 0.0, above=True) == 1.0
    assert one_sided_p([5.0, 5.0], 0.0, above=True) == 0.0
    assert one_sided_p([5.0, 5.0], 5.0, above=True) == 1.0


def rejections(test, mean, deviation=0.02, n=8, trials=2000):
    values = np.random.default_rng(0).normal(mean, deviation, (trials, n))
    return np.mean([test(row) < 0.05 for row in values])


def test_equivalence_is_claimed_at_most_once_in_twenty_at_the_bound_and_mostly_well_inside():
    def equivalent(values):
        return within_p(values, -0.03, 0.03)

    assert rejections(equivalent, 0.03) <= 0.06
    assert rejections(equivalent, -0.03) <= 0.06
    assert rejections(equivalent, 0.0) >= 0.8


def test_outside_is_claimed_at_most_once_in_twenty_at_the_bound_and_mostly_well_outside():
    def different(values):
        return outside_p(values, -0.03, 0.03)

    assert rejections(different, 0.03) <= 0.06
    assert rejections(different, 0.0) <= 0.01
    assert rejections(different, 0.06) >= 0.9


def test_an_open_bound_asks_for_one_side_alone():
    values = [0.3, 0.31, 0.29]
    assert within_p(values, None, 0.5) == one_sided_p(values, 0.5, above=False)
    assert outside_p(values, None, 0.5) == one_sided_p(values, 0.5, above=True)
    assert (within_p(values, None, None), outside_p(values, None, None)) == (0.0, 1.0)


def test_holm_is_the_step_down_of_its_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(np.diff(np.asarray(adjusted)[order]) >= 0)


def test_mcnemar_is_the_exact_test_of_a_fair_coin():
    for one, other in [(0, 0), (3, 3), (1, 9), (0, 5), (40, 22)]:
        exact = binomtest(one, one + other).pvalue if one + other else 1.0
        assert mcnemar_p(one, other) == mcnemar_p(other, one) == pytest.approx(exact)


def test_mcnemar_finds_a_difference_that_is_none_at_most_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [mcnemar_p(int(one), 60 - int(one)) for one in rng.binomial(60, 0.5, 2000)]
    assert 0.02 < np.mean(np.array(found) < 0.05) <= 0.05  # exact: of whole numbers, so never above its level


def test_twice_the_median_is_valid_also_where_all_tests_are_one():
    uniform = np.random.default_rng(0).uniform(size=4000)
    assert np.mean([twice_the_median([p] * 5) < 0.05 for p in uniform]) == pytest.approx(0.025, abs=0.01)
    assert twice_the_median([0.01, 0.9, 0.02]) == 0.04
    assert twice_the_median([0.7, 0.9]) == 1.0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_agreement_of_two_orders_is_kendall_s_tau_with_the_pairs_that_swap(pairs):
    first, other = zip(*pairs, strict=True)
    found = rank_agreement(first, other)
    with np.errstate(all="ignore"):
        wanted = kendalltau(first, other).statistic
    assert found.tau == pytest.approx(wanted, nan_ok=True)
    both = [(i, j) for i in range(len(pairs)) for j in range(i)]
    assert found.swapped == sum((first[i] - first[j]) * (other[i] - other[j]) < 0 for i, j in both)
    assert found.pairs == len(both)


def test_the_pooled_median_shrugs_off_a_bad_block_and_knows_how_far_blocks_scatter():
    rng = np.random.default_rng(0)
    quiet = list(rng.normal(0.05, 0.1, size=(20, 15)))
    value, error = pooled_median(quiet)
    assert value == np.median(quiet)
    assert error == pytest.approx(1.2533 * 0.1 / 300**0.5, rel=0.4)  # that of a median of 300 normal values
    assert abs(pooled_median([*quiet[:19], np.full(15, 9.0)])[0] - value) < 2 * error
    moody = [block + mood for block, mood in zip(quiet, rng.normal(0, 0.2, 20), strict=True)]
    assert pooled_median(moody)[1] > 3 * error
    with pytest.raises(BenchError, match="at least 2"):
        pooled_median([[1.0]])


@pytest.mark.parametrize(
    ("value", "interval", "expected"),
    [
        (1.0, (0.97, 1.04), True),
        (1.242, (0.090, 17.214), False),
        (1.0, (1e-28, 4e28), False),
        (1.0, (0.5, float("inf")), False),
        (1.0, (0.0, 2.0), True),  # as wide as the figure to both sides, no wider
    ],
)
def test_an_interval_wider_than_its_figure_says_nothing(value, interval, expected):
    assert is_informative(value, interval) is expected

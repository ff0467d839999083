"""What is drawn again is as lucky as it says: fronts, the best, and rows that stay paired."""

import numpy as np
import pytest

from bench.stats.resampling import best_probability, drawn_means, drawn_sums, front_probability


def lucky(*means, seeds=5, items=40):
    """One task's scores of methods with these true means, ``[methods, seeds, items]``."""
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(mean, 0.05, (seeds, items)) for mean in means])


def test_a_method_is_on_the_front_as_often_as_its_luck_allows():
    means = drawn_means([lucky(0.9, 0.9, 0.5)] * 2, resamples=200)
    shares = front_probability([2.0, 1.0, 3.0], means)
    assert shares[1] == 1.0  # the cheapest
    assert 0.05 < shares[0] < 0.95  # dearer and no better but by luck
    assert shares[2] == 0.0


def test_the_best_is_as_sure_as_its_luck_allows_and_equals_share_it():
    shares = best_probability(drawn_means([lucky(0.9, 0.9, 0.5)], resamples=400))
    assert shares.sum() == pytest.approx(1)
    assert 0.05 < shares[0] < 0.95
    assert shares[2] == 0.0
    same = np.full((2, 3, 1), 0.8)
    assert best_probability(drawn_means([same], resamples=10)).tolist() == [0.5, 0.5]


def test_draws_are_the_same_whichever_methods_are_drawn():
    scores = lucky(0.9, 0.7, 0.5)
    whole = drawn_means([scores], resamples=20)
    np.testing.assert_allclose(whole[:, :2], drawn_means([scores[:2]], resamples=20))


def test_an_interval_over_rows_holds_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for seed in range(300):
        right = rng.random((200, 2)) < (0.8, 0.75)
        difference = drawn_sums(right, resamples=300, seed=seed) @ [1, -1] / 200
        low, high = np.quantile(difference, [0.025, 0.975])
        hits += low <= 0.05 <= high
    assert hits / 300 >= 0.92


def test_rows_are_drawn_alike_for_every_column():
    values = np.random.default_rng(0).random((50, 1))
    sums = drawn_sums(np.hstack([values, 2 * values, np.ones_like(values)]), resamples=30)
    np.testing.assert_allclose(sums[:, 1], 2 * sums[:, 0])
    assert set(sums[:, 2]) == {50.0}

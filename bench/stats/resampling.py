"""Draws tasks, seeds and test rows again: what luck could have made of scores; knows nothing of records or methods."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.stats.intervals import pareto_front, tied

Floats = NDArray[np.float64]
FEWEST_SEEDS = 3
"""Of two seeds a resampling draws one twice half of the time: that says nothing about luck."""
RESAMPLES = 1000
"""Draws; a probability of a half is then known to 0.03 (95 %)."""


def drawn_means(scores: Sequence[ArrayLike], *, resamples: int = 2000, seed: int = 0) -> Floats:
    """Mean score of each method in each draw of tasks, within them of seeds, within them of items.

    Args:
        scores: One array ``[n, seeds, items]`` a task, the same seeds and items for every method; one item where only
            a task's metric is known.
        resamples: Draws.
        seed: Of the draws; the same one draws alike for any number of methods.

    Returns:
        ``[resamples, n]``.
    """
    rng, tasks = np.random.default_rng(seed), [np.asarray(task, dtype=float) for task in scores]
    found = []
    for _ in range(resamples):
        means = []
        for task in rng.integers(len(tasks), size=len(tasks)):
            methods, seeds, items = tasks[task].shape
            # drawn as how often each one comes: products read the scores once and copy none
            by_seed = tasks[task].reshape(-1, items) @ (times_drawn(rng, items) / items)
            means.append(by_seed.reshape(methods, seeds) @ (times_drawn(rng, seeds) / seeds))
        found.append(np.mean(means, axis=0))
    return np.asarray(found, dtype=float)


def front_probability(costs: ArrayLike, means: Floats) -> Floats:
    """Probability of each method to be on the Pareto front of cost and mean score, over the luck of the scores.

    Args:
        costs: ``[n]``, exact; less is better.
        means: ``[resamples, n]``, as `drawn_means` gives them; more is better.

    Returns:
        ``[n]``; equal methods are on the front together.
    """
    exact = np.asarray(costs, dtype=float)
    return np.asarray(np.mean([pareto_front(np.column_stack([exact, drawn])) for drawn in means], axis=0))


def best_probability(means: Floats) -> Floats:
    """Probability of each method to have the highest mean score, over the luck of the scores.

    Args:
        means: ``[resamples, n]``, as `drawn_means` gives them.

    Returns:
        ``[n]``, in all 1: methods that are the best together share a draw in equal parts.
    """
    best = tied(means, means.max(axis=1, keepdims=True))
    return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))


def drawn_sums(values: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> Floats:
    """Sums over as many rows as there are, drawn with replacement.

    Args:
        values: ``[rows, columns]``.
        resamples: Draws; each draws the same rows for every column, which keeps columns paired.
        seed: Of the draws.

    Returns:
        ``[resamples, columns]``.
    """
    table, rng = np.asarray(values, dtype=float), np.random.default_rng(seed)
    return np.asarray([times_drawn(rng, len(table)) @ table for _ in range(resamples)])


def times_drawn(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """How often each of ``size`` things comes in as many draws with replacement."""
    return np.bincount(rng.integers(size, size=size), minlength=size)

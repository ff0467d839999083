"""Flags of a score that a reader must not take for what the method can do; knows neither torch nor the model."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from bench.tasks.glue import TaskSpec
from bench.tasks.metrics import compute

FEWEST_STEPS = 20
"""Shorter runs are not asked whether they still improve."""


def constant_score(spec: TaskSpec, labels: Sequence[Any]) -> float:
    """Main metric of the best constant answer to rows with these ``labels``; 0 for a correlation."""
    if spec.regression:
        return 0.0
    return max(compute(spec, [label] * len(labels), labels)[spec.main_metric] for label in sorted(set(labels)))


def flags(
    losses: Sequence[float], score: float, *, constant: float, bag_of_words: float, best_step: int | None = None
) -> Iterator[str]:
    """What the training and its score leave to doubt.

    Args:
        losses: Training loss of each step.
        score: Main metric.
        constant: Main metric of the best constant answer.
        bag_of_words: Main metric of counting words, the floor that records hold. No better than the one or below the
            other is ``did_not_learn``: nothing was learned that needs a language model.
        best_step: Step whose state was scored, where one was chosen. A loss that still falls is
            ``still_improving`` only where that step lies in the last quarter: otherwise more steps did not help.

    Yields:
        ``did_not_learn``, ``still_improving``.
    """
    if score <= constant or score < bag_of_words:
        yield "did_not_learn"
    quarter = len(losses) // 4
    chosen_late = best_step is None or best_step > len(losses) - quarter
    if len(losses) >= FEWEST_STEPS and chosen_late and _falls(losses[-2 * quarter : -quarter], losses[-quarter:]):
        yield "still_improving"


def _falls(before: Sequence[float], last: Sequence[float]) -> bool:
    fall = statistics.fmean(before) - statistics.fmean(last)
    noise = ((statistics.variance(before) + statistics.variance(last)) / len(last)) ** 0.5
    return bool(fall > 2 * noise)  # two standard errors: chance alone gives that in 1 of 40 runs

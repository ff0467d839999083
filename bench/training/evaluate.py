"""Turns rows of text into batches and a trained model into a score."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.errors import BenchError
from bench.models.head import TaskModel, generator
from bench.models.tokenizer import Tokenizer
from bench.schema.record import LabelScale
from bench.schema.task import TaskSpec
from bench.tasks.metrics import compute
from bench.tasks.rows import Rows
from bench.training.loop import NonFiniteLoss, autocast

POOL = 8
"""Batches in a pool that is sorted by length; see ``Batches.order``."""


def label_scale(rows: Rows) -> LabelScale:
    """Mean and deviation of the labels of ``rows``, which a regression is trained in.

    A head starts at about zero and moves by about its rate a step: raw scores around 3 leave it to spend a short
    training on their mean, whatever the method is.

    Raises:
        BenchError: All labels are the same.
    """
    mean, deviation = statistics.fmean(rows.labels), statistics.pstdev(rows.labels)
    if not deviation:
        raise BenchError(
            f"all {len(rows)} training rows have the score {mean:g}; a regression needs two values at least"
        )
    return LabelScale(mean=mean, deviation=deviation)


def balanced_weights(rows: Rows, classes: int) -> Tensor:
    """Weight of each class ``[classes]``: rows / (classes * rows of the class), so that all weigh alike in sum.

    King and Zeng, 2001, "Logistic Regression in Rare Events Data". A class without a row weighs nothing.
    """
    counts = torch.bincount(torch.tensor(rows.labels), minlength=classes).double()
    return torch.where(counts > 0, len(rows) / (classes * counts.clamp(min=1)), 0.0)


class Batches:
    """Tokenised rows in batches: shuffled for training, by length for a score."""

    labels: Sequence[Any]
    """As the task has them."""
    scale: LabelScale | None = None
    """What batches give the labels of a regression in; None for all else."""

    def __len__(self) -> int:
        raise NotImplementedError

    def _length(self, row: int) -> int:
        """Tokens of a row."""
        raise NotImplementedError

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Batch of the given rows."""
        raise NotImplementedError

    def shuffled(self, batch_size: int, seed: int, purpose: str = "order") -> Iterator[dict[str, Tensor]]:
        """Endless batches of rows in their `order`."""
        return (self.batch(indices) for indices in self.order(batch_size, seed, purpose))

    def order(self, batch_size: int, seed: int, purpose: str = "order") -> Iterator[list[int]]:
        """Rows of endless batches of similar length; each epoch is a fresh order from the stream (seed, purpose).

        A random permutation is cut into pools of ``POOL`` batches; each pool is sorted by length, cut into batches,
        and the batches are shuffled: little padding, and still other batches in every epoch.
        """
        stream = generator(seed, purpose)
        size = min(batch_size, len(self))
        while True:
            order = torch.randperm(len(self), generator=stream).tolist()
            for start in range(0, len(order) - size + 1, size * POOL):
                pool = sorted(order[start : start + size * POOL], key=self._length)
                starts = range(0, len(pool) - size + 1, size)
                for turn in torch.randperm(len(starts), generator=stream).tolist():
                    yield pool[starts[turn] : starts[turn] + size]

    def by_length(self, batch_size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Each row once, similar lengths together: little padding, and padding changes no prediction."""
        order = sorted(range(len(self)), key=self._length)
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            yield indices, self.batch(indices)


class Encoded(Batches):
    """Tokenised rows of classes or scores, padded a batch at a time.

    Args:
        rows: Texts and labels.
        tokenizer: The backbone's own.
        max_length: Tokens per row at most.
        scale: What batches give the labels of a regression in; None for classes.
        device: Where batches go.
    """

    def __init__(
        self, rows: Rows, tokenizer: Tokenizer, max_length: int, *, scale: LabelScale | None, device: str
    ) -> None:
        columns = [list(column) for column in zip(*rows.texts, strict=True)]
        self._inputs = dict(tokenizer(*columns, truncation=True, max_length=max_length))
        self._padding = {"input_ids": tokenizer.pad_token_id}
        self.labels = rows.labels
        trained = rows.labels if scale is None else [scale.of(label) for label in rows.labels]
        self._labels = torch.tensor(trained, dtype=torch.long if scale is None else torch.float32)
        self.scale = scale
        self._device = device

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Batch of the given rows, padded on the right to its longest row."""
        batch = {"labels": self._labels[list(indices)]}
        for name, values in self._inputs.items():
            rows = [torch.tensor(values[i]) for i in indices]
            batch[name] = pad_sequence(rows, batch_first=True, padding_value=self._padding.get(name, 0))
        return {name: tensor.to(self._device) for name, tensor in batch.items()}

    def _length(self, row: int) -> int:
        return len(self._inputs["input_ids"][row])


def evaluate(
    model: TaskModel, spec: TaskSpec, rows: Encoded, batch_size: int = 64, *, dtype: str = "float32"
) -> dict[str, list[Any]]:
    """Predict every row in eval mode, which the model is left in.

    Args:
        model: Adapted backbone with its head.
        spec: The task.
        rows: What to predict.
        batch_size: Rows at a time; changes no prediction beyond rounding.
        dtype: As the recipe has it.

    Returns:
        Columns of the predictions sidecar: ``row``, ``label``, ``prediction`` in the unit of the labels and, for
        classes, ``probability`` of the predicted class.

    Raises:
        NonFiniteLoss: A prediction is NaN or infinite: the last step went astray, after its loss was taken.
    """
    answers = predictions(model, rows, batch_size, dtype=dtype)
    table: dict[str, list[Any]] = {
        "row": list(range(len(rows))),
        "label": list(rows.labels),
        "prediction": [prediction for prediction, _ in answers],
    }
    return table if spec.regression else table | {"probability": [certainty for _, certainty in answers]}


def predictions(
    model: TaskModel, rows: Encoded, batch_size: int = 64, *, dtype: str = "float32"
) -> list[tuple[float, float]]:
    """Class id and its probability, or score in the unit of the labels and NaN, of every row in order.

    The model is left in eval mode. Not in ``inference_mode``: what a module caches there could take part in no later
    training step.

    Raises:
        NonFiniteLoss: A prediction is NaN or infinite.
    """
    model.eval()
    answers: dict[int, tuple[float, float]] = {}
    with torch.no_grad():
        for indices, batch in rows.by_length(batch_size):
            with autocast(batch["labels"].device, dtype):
                logits = model(batch)
            logits = logits.float().cpu()
            if not torch.isfinite(logits).all():
                raise NonFiniteLoss("the trained model predicts NaN or infinity; a lower learning rate may help")
            if rows.scale is not None:
                back = [rows.scale.back(value) for value in logits.squeeze(-1).tolist()]
                values = zip(back, [math.nan] * len(indices), strict=True)
            else:
                probability, predicted = torch.softmax(logits, dim=-1).max(dim=-1)
                values = zip(predicted.tolist(), probability.tolist(), strict=True)
            answers |= zip(indices, values, strict=True)
    return [answers[row] for row in range(len(rows))]


FEWEST_STEPS = 20
"""Shorter runs are not asked whether they still improve."""


def constant_score(spec: TaskSpec, labels: Sequence[Any]) -> float:
    """Main metric of the best constant answer to rows with these ``labels``; 0 for a correlation and for text."""
    if spec.kind != "classes":
        return 0.0
    main = spec.main_metric
    return max(compute(spec, [label] * len(labels), labels, [main])[main] for label in sorted(set(labels)))


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

"""Evaluations on the way through training, for the curve and the best state; what trains does not notice them."""

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from bench.models.head import TaskModel
from bench.schema.record import CurvePoint

CHOICES = 10
"""Equal shares after which a run of less than two epochs chooses its state."""


def equal_shares(steps: int, number: int) -> frozenset[int]:
    """Steps at which ``number`` equal shares of ``steps`` end, the last one included; none for 0."""
    return frozenset(math.ceil(steps * share / number) for share in range(1, number + 1))


def epoch_ends(steps: int, epoch: int) -> frozenset[int]:
    """Steps at which epochs of ``epoch`` steps end, and the last step; of less than two epochs ``CHOICES`` shares."""
    if steps < 2 * epoch:
        return equal_shares(steps, CHOICES)
    return frozenset({*range(epoch, steps + 1, epoch), steps})


@dataclasses.dataclass
class Work:
    """Sums over all batches so far, of B rows padded to T tokens each."""

    rows: int = 0
    tokens: int = 0
    token_squares: int = 0
    """Of B * T * T."""

    def over(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """``batches``, each counted as it is taken."""
        for batch in batches:
            rows, length = batch["input_ids"].shape
            self.rows += rows
            self.tokens += rows * length
            self.token_squares += rows * length * length
            yield batch


@dataclasses.dataclass(frozen=True)
class Reading:
    """A score that is taken after certain steps; by default never."""

    steps: frozenset[int] = frozenset()
    score: Callable[[], float] = lambda: math.nan
    """Main metric of the model as it is; may leave it in eval mode."""
    bits: Callable[[], dict[str, float]] = dict
    """Bits per byte of plain texts, by name; asked for at each of the steps but the last one."""


class Milestones:
    """Called after every step of a training; its clock starts when it is made and stands still while it evaluates.

    Args:
        model: What trains.
        work: Counts the batches that it trains on.
        curve: Gives the points of the curve.
        choice: Chooses the state to keep: the first with the highest score.
    """

    def __init__(self, model: TaskModel, work: Work, curve: Reading, choice: Reading) -> None:
        self.curve: list[CurvePoint] = []
        self.best_step: int | None = None
        """Step whose state ``end`` brings back; None: nothing was chosen."""
        self.spent = math.nan
        """Training seconds in all, once at the end."""
        self._model, self._work, self._curve, self._choice = model, work, curve, choice
        self._losses: list[float] = []
        self._best = -math.inf
        self._state: dict[str, Tensor] = {}
        self._started = time.perf_counter()

    def after(self, step: int, loss: float) -> None:
        """Take what is to be taken after ``step``."""
        self._losses.append(loss)
        if step in self._curve.steps:
            with self._aside() as spent:
                self._add_point(step, spent)
        if step in self._choice.steps:
            with self._aside():
                self._keep_if_best(step)

    def end(self) -> None:
        """Stop the clock and put the chosen state back, where one was chosen."""
        self.spent = time.perf_counter() - self._started
        tensors = _tensors(self._model)
        with torch.no_grad():
            for name, kept in self._state.items():
                tensors[name].copy_(kept)

    def _add_point(self, step: int, spent: float) -> None:
        score, loss = self._curve.score(), statistics.fmean(self._losses)
        bits = self._curve.bits() if step < max(self._curve.steps) else {}
        self._losses.clear()
        work = dataclasses.asdict(self._work)
        self.curve.append(CurvePoint(step=step, seconds=spent, score=score, loss=loss, retention=bits, **work))

    def _keep_if_best(self, step: int) -> None:
        score = self._choice.score()
        if score > self._best:
            self._best, self.best_step = score, step
            self._state = {name: tensor.detach().clone() for name, tensor in _tensors(self._model).items()}

    @contextlib.contextmanager
    def _aside(self) -> Iterator[float]:
        """Off the clock, which so far says what is given, and with the random streams of training left as they are."""
        began = time.perf_counter()
        gpus = [torch.cuda.current_device()] if next(self._model.parameters()).is_cuda else []
        with torch.random.fork_rng(devices=gpus):
            yield began - self._started
        self._model.train()
        self._started += time.perf_counter() - began


def _tensors(model: TaskModel) -> dict[str, Tensor]:
    """What training changes: trained parameters, and all buffers."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())

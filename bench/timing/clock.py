"""Times the phases of training steps against each other."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.count.step import TrainingStep
from bench.method import Method
from bench.timing.interleave import Round, between, clock
from bench.training.loop import NonFiniteLoss

PHASES = ("forward", "backward", "optimizer", "step")
SHORT_SECONDS = 0.005
"""An optimizer step shorter than this is repeated within a sample: alone it would measure the clock and the caches."""
REPEATS = (1, 2, 5, 10, 20)
"""Of such a step, the largest that SHORT_SECONDS asks for: few values, since a later repeat finds warm caches and arms
whose steps are as long should repeat them as often."""


@dataclass
class Seen:
    """What the builds of one step have in common."""

    loss: float | None = None
    """Of the first run."""
    repeats: int = 0
    """Optimizer steps in one sample; 0 before the first run, which chooses them."""
    warnings: list[str] = field(default_factory=list)
    """What a reader of the times must know."""


class StepClock:
    """One arm: a training step at rate 0, so that its loss has to stay the same bit for bit.

    ``seen`` goes from one build of a step to the next.
    """

    def __init__(self, step: TrainingStep, device: str, seen: Seen | None = None) -> None:
        self._step = step
        self._device = device
        self.seen = seen or Seen()
        for group in step.optimizer.param_groups:
            group["lr"] = 0.0

    def run(self) -> Round:
        """One step; ``step`` is the sum of the three phases, ``zero_grad`` and the loss check lie outside.

        Raises:
            NonFiniteLoss: The loss is NaN or infinite.
        """
        repeats = self.seen.repeats or 1
        start = clock(self._device)
        loss = self._step.forward()
        forwarded = clock(self._device)
        self._step.backward(loss)
        backwarded = clock(self._device)
        for _ in range(repeats):
            self._step.optimize()
        ended = clock(self._device)
        value = loss.item()
        del loss
        if not self.seen.repeats:
            self.seen.repeats = self._choose_repeats()
        self._step.zero()
        self._check(value)
        forward, backward = between(start, forwarded), between(forwarded, backwarded)
        optimizer = between(backwarded, ended, repeats)
        step = (forward[0] + backward[0] + optimizer[0], forward[1] + backward[1] + optimizer[1])
        return {"forward": forward, "backward": backward, "optimizer": optimizer, "step": step}

    def once(self) -> None:
        """One step, without a look at the clock or the loss."""
        loss = self._step.forward()
        self._step.backward(loss)
        self._step.optimize()
        self._step.zero()

    def _choose_repeats(self) -> int:
        # Not from the first optimizer step: that one also makes the optimizer's state.
        least = self._optimizer_seconds()
        if least >= SHORT_SECONDS:
            return 1
        before = [grad.clone() for grad in self._gradients()]
        least = min(least, self._optimizer_seconds())
        if not all(map(torch.equal, self._gradients(), before)):
            return 1  # it changes gradients, so a second step would do other work than the first
        least = min(least, *(self._optimizer_seconds() for _ in range(3)))
        return max(number for number in REPEATS if number == 1 or number <= math.ceil(SHORT_SECONDS / least))

    def _optimizer_seconds(self) -> float:
        start = clock(self._device)
        self._step.optimize()
        return between(start, clock(self._device))[0]

    def _gradients(self) -> Iterator[Tensor]:
        groups = self._step.optimizer.param_groups
        return (p.grad for group in groups for p in group["params"] if p.grad is not None)

    def _check(self, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss of a timed step is {value}")
        if self.seen.loss is None:
            self.seen.loss = value
        moves_weights = type(self._step.method).after_step is not Method.after_step
        first = self.seen.loss
        same = value == first or (self._device == "cuda" and math.isclose(value, first, rel_tol=1e-4))
        if not same and not moves_weights and not self.seen.warnings:
            self.seen.warnings.append(
                f"the loss of timed steps moved from {first!r} to {value!r} at rate 0: the method's work varies"
            )

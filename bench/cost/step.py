"""One training step of one method as a thing that can be repeated, counted and timed; it measures nothing itself."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from bench.cost.places import Origin
from bench.head import TaskModel, generator
from bench.method import Batch, Method


@dataclasses.dataclass
class TrainingStep:
    """A built method with its optimizer and a fixed batch."""

    method: Method
    config: Any
    model: TaskModel
    origin: Origin
    optimizer: torch.optim.Optimizer
    batch: Batch

    def forward(self) -> Tensor:
        """Scalar loss with the method's regularizer."""
        loss = self.model.loss(self.batch)
        extra = self.method.regularizer(self.model.body)
        return loss if extra is None else loss + extra

    def backward(self, loss: Tensor) -> None:
        """Gradients of all trainable parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

    def optimize(self) -> None:
        """Optimizer step with the method's own work after it."""
        self.optimizer.step()
        self.method.after_step(self.model.body, 0, 1)

    def zero(self) -> None:
        """Drop the gradients; outside every measured phase."""
        self.optimizer.zero_grad(set_to_none=True)


def random_batch(
    rows: int, length: int, *, vocabulary: int, outputs: int, device: torch.device | str = "cpu", seed: int = 0
) -> Batch:
    """Random token ids ``[rows, length]`` without padding, and labels ``[rows]`` (floating for one output)."""
    stream = generator(seed, "probe batch")
    ids = torch.randint(min(5, vocabulary - 1), vocabulary, (rows, length), generator=stream)
    integer = torch.randint(0, max(outputs, 2), (rows,), generator=stream)
    labels = integer if outputs > 1 else integer.float()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def without_dropout(model: nn.Module) -> None:
    """Set every dropout of ``model`` to 0, in place.

    Some families read their dropout from modules, others hand a number of the module or of the configuration to a
    function: so every ``nn.Dropout`` and every number whose name contains ``drop`` is set, also in configurations.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(vars(holder).items()) if hasattr(holder, "__dict__") else []:
                if "drop" in name and isinstance(value, float) and value:
                    setattr(holder, name, 0.0)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def randomise(body: nn.Module, *, scale: float = 0.01, seed: int = 0) -> None:
    """Add N(0, ``scale``) to every trainable parameter: deltas start at zero and would make a merge vacuous."""
    stream = generator(seed, "probe noise")
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.requires_grad:
                noise = torch.empty(parameter.shape).normal_(0.0, scale, generator=stream)
                parameter.add_(noise.to(parameter))

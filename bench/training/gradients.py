"""Norms of the gradients of a method's parts over the first steps of a training; it changes none and draws nothing."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class GradientNorms:
    """Called after every backward pass, once the gradients are whole and before they are clipped.

    Norms stay on their device until ``read``: a step does not wait for them.

    Args:
        parts: Trainable parameters of ``body`` by part, each in one part; an empty part has no norm.
        body: The adapted backbone.
        steps: How many of the first steps are noted.

    Raises:
        RuntimeError: The parts are not exactly the trainable parameters.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Parameter]], body: nn.Module, steps: int) -> None:
        given = [id(p) for parameters in parts.values() for p in parameters]
        wanted = {id(p) for p in body.parameters() if p.requires_grad}
        if len(given) != len(set(given)) or set(given) != wanted:
            raise RuntimeError("parts of the method do not hold exactly the trainable parameters, each once")
        self._parts = {name: list(parameters) for name, parameters in parts.items() if parameters}
        self._steps = steps
        self._noted: dict[str, list[Tensor]] = {name: [] for name in self._parts}

    def after(self, step: int) -> None:
        """Note the norm of every part at ``step``, which counts from 1."""
        if step <= self._steps:
            for name, parameters in self._parts.items():
                self._noted[name].append(_norm(parameters))

    def read(self) -> dict[str, tuple[float, ...]]:
        """The norm of each part at each step noted so far."""
        return {name: tuple(torch.stack(found).tolist()) for name, found in self._noted.items() if found}


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together; a parameter without one adds nothing."""
    # in double: squares of finite gradients do not overflow, and exact zero stays exact
    found = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in parameters if p.grad is not None]
    if not found:
        return torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    whole: Tensor = torch.linalg.vector_norm(torch.stack(found))
    return whole

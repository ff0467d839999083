"""One training step as it is built and counted: its shape, on a device, with a head."""

import torch

from bench.schema.forms import Weights
from bench.schema.shape import StepShape


class Setting(StepShape):
    """One training step's shape and form."""

    weights: Weights = "native"
    """How the backbone's frozen linear weights are stored."""
    device: str = "cpu"
    """``cpu`` or ``cuda``: where a real step runs, or whose forms a count on fake tensors imitates."""
    outputs: int = 2
    """Classes of the head."""

    @property
    def loaded(self) -> torch.dtype:
        """Type that the backbone is loaded in."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    @property
    def autocast(self) -> bool:
        """Whether forward runs under bfloat16 autocast."""
        return self.dtype == "bfloat16_autocast"

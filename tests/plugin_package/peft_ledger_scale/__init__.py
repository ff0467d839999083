"""A method of a third party: scales the last hidden state by a learned vector; adapts nothing in the backbone."""

import dataclasses
from typing import Any

import torch
from torch import nn

from bench.method import Method, MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputScaleConfig(MethodConfig):
    """What is learned."""

    shift: bool = False
    """Whether a vector is added as well; both keep the backbone's output at the start."""


class OutputScale(Method):
    """y = s * h_L (+ b), s starts at one and b at zero; trains d (2 d) parameters, and backward ends there."""

    Config = OutputScaleConfig

    def apply(self, backbone: nn.Module, config: OutputScaleConfig) -> nn.Module:
        """Put the scale behind ``backbone``."""
        return Scaled(backbone, config.shift)


class Scaled(nn.Module):
    """A frozen backbone whose last hidden state is scaled."""

    def __init__(self, backbone: nn.Module, shift: bool) -> None:
        super().__init__()
        self.backbone = backbone
        like = next(backbone.parameters())
        self.scale = nn.Parameter(torch.ones(backbone.config.hidden_size, dtype=like.dtype, device=like.device))
        self.shift = nn.Parameter(torch.zeros_like(self.scale)) if shift else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the backbone's call contract."""
        output = self.backbone(*args, **kwargs)
        scaled = output.last_hidden_state * self.scale
        output.last_hidden_state = scaled if self.shift is None else scaled + self.shift
        return output

"""The state of an 8-bit AdamW as tensors, for counting alone: it updates nothing."""

from collections.abc import Iterable
from typing import Any

import torch

SMALLEST = 4096
"""Parameters with fewer elements keep float32 state."""
BLOCK = 256
"""Elements that share one scale."""


class EightBitState(torch.optim.Optimizer):
    """Holds what bitsandbytes' ``AdamW8bit`` holds: two bytes an element with one float32 scale a block for each.

    Its kernel works in place without temporaries (Dettmers et al., ICLR 2022, arXiv:2110.02861).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(list(groups), {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the state of parameters that have a gradient."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            if not state:
                state |= {name: value for moment in "12" for name, value in _moment(parameter, moment).items()}


def _moment(parameter: torch.Tensor, number: str) -> dict[str, torch.Tensor]:
    if parameter.numel() < SMALLEST:
        return {f"state{number}": torch.zeros_like(parameter, dtype=torch.float32)}
    scales = torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.float32, device=parameter.device)
    return {f"state{number}": torch.zeros_like(parameter, dtype=torch.uint8), f"absmax{number}": scales}

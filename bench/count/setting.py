"""What the cost of a training step depends on beside the method and the backbone; every field is part of a key."""

import dataclasses

import torch

from bench.schema.record import Attention, Dtype, Optimizer, Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One training step's shape and form."""

    batch: int
    """Rows."""
    length: int
    """Tokens per row, prompts not counted; no row is padded."""
    dtype: Dtype = "float32"
    attention: Attention = "sdpa"
    optimizer: Optimizer = "adamw_fused"
    dropout: float = 0.0
    """Probability in place of every dropout that the model has."""
    checkpointing: bool = False
    """Whether each backbone layer keeps its input alone and runs forward again during backward."""
    weights: Weights = "native"
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

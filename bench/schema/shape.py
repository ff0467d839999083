"""A training step's shape: what its cost depends on beside the method and the backbone."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from bench.schema.forms import Attention, Dtype, Optimizer, Weights

if TYPE_CHECKING:
    import torch


class StepForm(BaseModel):
    """How a training step computes, whatever its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Dtype = "float32"
    """Type of weights and computation."""
    attention: Attention = "sdpa"
    """Attention implementation."""
    optimizer: Optimizer = "adamw_fused"
    """Optimizer of the step."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability in place of every dropout that the model has; above 0, CPU attention leaves its fused path."""
    checkpointing: bool = False
    """Keep each backbone layer's input alone and run its forward again during backward."""
    clipping: bool = False
    """Scale the gradients to a global norm of at most 1 before the update, as recipes do unless told otherwise."""

    def step(self) -> dict[str, Any]:
        """These fields alone, by name: what another shape of the same step is made with."""
        return {name: getattr(self, name) for name in StepForm.model_fields}


class StepShape(StepForm):
    """A training step of ``batch`` rows of ``length`` tokens, prompts not counted; no row is padded."""

    batch: int = Field(ge=1)
    """Rows of one training step."""
    length: int = Field(ge=1)
    """Tokens per row."""

    def step(self) -> dict[str, Any]:
        """These fields alone, by name: what another shape of the same step is made with."""
        return {name: getattr(self, name) for name in StepShape.model_fields}


class Setting(StepShape):
    """All that a count of a training step depends on beside the method and the backbone."""

    weights: Weights = "native"
    """How the backbone's frozen linear weights are stored."""
    device: str = "cpu"
    """``cpu`` or ``cuda``: where a real step runs, or whose forms a count on fake tensors imitates."""
    outputs: int = 2
    """Classes of the head."""

    @property
    def loaded(self) -> "torch.dtype":
        """Type that the backbone is loaded in."""
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    @property
    def autocast(self) -> bool:
        """Whether forward runs under bfloat16 autocast."""
        return self.dtype == "bfloat16_autocast"

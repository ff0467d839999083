"""A training step's shape: what its cost depends on beside the method and the backbone."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from bench.schema.forms import Attention, Dtype, Optimizer


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

"""What a method adds beside a backbone in bfloat16: float32, as peft casts it, on tensors with and without values."""

from pathlib import Path

import pytest
import torch

from bench.errors import BenchError
from bench.models.objective import settle
from bench.schema.shape import Setting, StepShape
from tests.factories.cost_steps import fake_counts, real_counts, real_step, tiny_shape
from tests.factories.methods import METHODS

OWN = {"full", "head", "bitfit"}
"""Methods that add nothing: what trains is the backbone's own, and stays in its type."""
NEEDS_BIASES = {"bitfit"}


def setting(adapters: str, objective: str, *, padded: bool = False) -> Setting:
    return Setting(
        batch=2, length=8, dtype="bfloat16", adapter_dtype=adapters, objective=objective, clipping=True, padded=padded
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("family", "objective"), [("bert", "classes"), ("llama", "text")])
def test_a_step_without_values_costs_what_a_real_one_does(
    name: str, family: str, objective: str, tmp_path: Path
) -> None:
    if family in METHODS[name].refused or (name in NEEDS_BIASES and family == "llama"):
        return
    shape, config = tiny_shape(family, tmp_path), METHODS[name].config
    step = real_step(shape, name, setting("float32", objective), **config)
    trained = {p.dtype for part, p in step.model.body.named_parameters() if p.requires_grad}
    assert trained <= ({torch.bfloat16} if name in OWN else {torch.float32})
    frozen = {p.dtype for p in step.model.body.parameters() if not p.requires_grad}
    assert frozen <= {torch.bfloat16}
    real = real_counts(step)
    found = fake_counts(shape, name, setting("float32", objective), **config)
    assert (found.flops, found.bytes, found.delta_bytes) == (real.flops, real.bytes, real.delta_bytes)
    assert found.trained_dtypes == real.trained_dtypes
    assert found.peak == real.peak

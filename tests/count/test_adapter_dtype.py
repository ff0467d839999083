"""What a method adds beside a backbone in bfloat16: float32, as peft casts it, on tensors with and without values."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import BenchError
from bench.models.objective import settle
from bench.schema.shape import Setting, StepForm
from tests.factories.cost_steps import fake_counts, real_counts, real_step, tiny_shape
from tests.factories.methods import METHODS
from tests.methods.peft_types import suited

OWN = {"full", "head", "bitfit"}
"""Methods that add nothing: what trains is the backbone's own, and stays in its type."""
KEPT = {"LN_TUNING", "ADAPTION_PROMPT"}
"""Types that peft does not cast: copies of the backbone's norms, and adaption prompts."""
BRIDGED = ["LORA", "ADALORA", "VERA", "VBLORA", "TINYLORA", *sorted(KEPT)]


def setting(adapters: str, objective: str = "classes", **values: Any) -> Setting:
    return Setting(
        batch=2, length=8, dtype="bfloat16", adapter_dtype=adapters, objective=objective, clipping=True, **values
    )


def same(shape: Any, name: str, form: Setting, config: dict[str, Any]) -> Any:
    """The real step, once fake tensors have given the same figures."""
    step = real_step(shape, name, form, **config)
    real = real_counts(step)
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    found = fake_counts(shape, name, form, **plain)
    assert (found.flops, found.bytes, found.delta_bytes) == (real.flops, real.bytes, real.delta_bytes)
    assert found.trained_dtypes == real.trained_dtypes
    assert found.peak == real.peak
    return step


def types(step: Any, *, trains: bool) -> set[torch.dtype]:
    return {p.dtype for p in step.model.body.parameters() if p.requires_grad == trains}


CASES = [(name, *of) for name in METHODS for of in (("bert", "classes"), ("llama", "text"))] + [("lst", "t5", "text")]


@pytest.mark.parametrize(("name", "family", "objective"), CASES)
def test_what_a_built_in_method_adds_is_float32_on_real_and_fake_tensors(
    name: str, family: str, objective: str, tmp_path: Path
) -> None:
    if family in METHODS[name].refused:
        return
    step = same(tiny_shape(family, tmp_path), name, setting("float32", objective), METHODS[name].config)
    assert types(step, trains=True) <= ({torch.bfloat16} if name in OWN else {torch.float32})
    assert types(step, trains=False) <= {torch.bfloat16}


@pytest.mark.parametrize(("name", "said"), [("full", True), ("head", True), ("lora", False)])
def test_a_record_says_where_nothing_of_a_method_is_float32(name: str, said: bool, tmp_path: Path) -> None:
    found = fake_counts(tiny_shape("llama", tmp_path), name, setting("float32", "text"))
    assert said == any(note.startswith("no adapter is float32") for note in found.notes)


@pytest.mark.parametrize("kind", BRIDGED)
def test_a_bridged_type_is_cast_as_peft_casts_it_with_values_and_without(kind: str, tmp_path: Path) -> None:
    shape, config = tiny_shape("llama", tmp_path), suited(kind, "llama")
    step = same(shape, "peft", setting("float32"), config)
    assert types(step, trains=True) == ({torch.bfloat16} if kind in KEPT else {torch.float32})
    assert types(same(shape, "peft", setting("model"), config), trains=True) == {torch.bfloat16}


def test_float32_adapters_add_what_they_compute_in_float32(tmp_path: Path) -> None:
    shape = tiny_shape("llama", tmp_path)
    states = {}
    for adapters in ("float32", "model"):
        step = real_step(shape, "lora", setting(adapters), rank=4)
        with torch.no_grad():
            for name, p in step.model.body.named_parameters():
                if p.requires_grad:  # values that bfloat16 cannot hold, so that a product in it would differ
                    p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
            states[adapters] = step.model.states(step.batch)
    assert {s.dtype for s in states.values()} == {torch.bfloat16}
    apart = (states["float32"] - states["model"]).float().abs().max()
    assert 0 < apart < 0.1


@pytest.mark.parametrize(("dtype", "given", "settled"), [
    ("bfloat16", None, "float32"), ("bfloat16", "model", "model"), ("float32", None, None),
    ("bfloat16_autocast", None, None),
])  # fmt: skip
def test_a_step_in_bfloat16_has_float32_adapters_unless_asked(
    dtype: str, given: str | None, settled: str | None, tmp_path: Path
) -> None:
    form = StepForm(dtype=dtype, adapter_dtype=given)
    assert settle(tiny_shape("bert", tmp_path), form, length=8)["adapter_dtype"] == settled


@pytest.mark.parametrize("dtype", ["float32", "bfloat16_autocast"])
def test_adapters_of_a_type_are_refused_where_they_are_float32_anyway(dtype: str, tmp_path: Path) -> None:
    form = StepForm(dtype=dtype, adapter_dtype="model")
    with pytest.raises(BenchError, match="adapter_dtype = model is of dtype bfloat16"):
        settle(tiny_shape("bert", tmp_path), form, length=8)


def test_a_record_from_before_keeps_its_adapters_in_the_models_type() -> None:
    assert Setting(batch=2, length=8, dtype="bfloat16").adapter_dtype == "model"
    assert Setting(batch=2, length=8).adapter_dtype is None


@pytest.mark.parametrize("name", ["full", "lora", "prefix_tuning"])
def test_padded_rows_cost_the_same_without_values(name: str, tmp_path: Path) -> None:
    shape, config = tiny_shape("llama", tmp_path), METHODS[name].config
    padded = same(shape, name, setting("float32", "text", padded=True), config)
    assert not padded.batch["attention_mask"].all()


def test_a_mask_costs_memory_where_keys_are_grouped(tmp_path: Path) -> None:
    shape, config = tiny_shape("llama", tmp_path), METHODS["lora"].config
    plain, padded = (
        fake_counts(shape, "lora", setting("float32", "text", padded=value), **config) for value in (False, True)
    )
    assert padded.bytes.saved_activations > plain.bytes.saved_activations

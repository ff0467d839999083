"""Bridged types without values are those with values: the same tensors train, in the same type, at the same cost."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.errors import BenchError
from bench.registry import make
from bench.schema.shape import Setting
from tests.factories.cost_steps import fake_counts, real_counts, real_step, tiny_shape
from tests.methods.adapted import trained
from tests.methods.families import tiny
from tests.methods.peft_types import FAMILIES, suited

DTYPES = ["float32", "bfloat16"]
FROM_VALUES = {"ADAMSS", "BOFT", "FROD", "SHIRA", "UNILORA"}
"""Types whose start needs the values of the weights: refused without them."""
SEVERAL = {"SHADOW"}
"""Types that train some tensors in float32 whatever the backbone's type."""
FLOAT32 = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "CPT"}
"""Prompts, which peft keeps in float32."""


def kinds() -> list[str]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind.value != "XLORA")


def built(kind: str, family: str, dtype: torch.dtype, device: str) -> nn.Module:
    method, config = make("peft", suited(kind, family))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.apply(tiny(family).to(device=device, dtype=dtype), config)


def alike(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (p.shape, p.dtype) for name, p in trained(module).items()}


@pytest.mark.parametrize("kind", kinds())
def test_what_trains_without_values_is_what_trains_with_them(kind: str) -> None:
    for family in FAMILIES:
        for dtype in (torch.float32, torch.bfloat16):
            try:
                real = alike(built(kind, family, dtype, "cpu"))
            except BenchError:
                with pytest.raises((BenchError, NotImplementedError)):
                    built(kind, family, dtype, "meta")
                continue
            if kind in FROM_VALUES:
                with pytest.raises(NotImplementedError, match="starts from the values of the weights"):
                    built(kind, family, dtype, "meta")
                continue
            assert alike(built(kind, family, dtype, "meta")) == real, (family, dtype)
            types = {found for _, found in real.values()}
            expected = {torch.float32} if kind in FLOAT32 else {dtype}
            assert types == (expected | {torch.float32} if kind in SEVERAL else expected), (family, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["LORA", "ADALORA", "LN_TUNING", "SHADOW", "PROMPT_TUNING", "IA3"])
def test_a_step_without_values_costs_what_a_real_one_does(kind: str, dtype: str, tmp_path: Path) -> None:
    shape, setting = tiny_shape("bert", tmp_path), Setting(batch=2, length=8, dtype=dtype)
    values = suited(kind, "bert")
    found = fake_counts(
        shape, "peft", setting, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    )
    real = real_counts(real_step(shape, "peft", setting, **values))
    assert (found.flops, found.bytes, found.delta_bytes) == (real.flops, real.bytes, real.delta_bytes)
    assert found.trained_dtypes == real.trained_dtypes
    assert found.peak == real.peak


@pytest.mark.parametrize(
    ("kind", "dtype", "method", "head"),
    [
        ("LORA", "float32", "float32", "float32"),
        ("LORA", "bfloat16", "bfloat16", "bfloat16"),
        ("LN_TUNING", "bfloat16", "bfloat16", "bfloat16"),
        ("LORA", "bfloat16_autocast", "float32", "float32"),
        ("PROMPT_TUNING", "bfloat16", "float32", "bfloat16"),
        ("SHADOW", "bfloat16", "bfloat16 float32", "bfloat16"),
        ("SHADOW", "float32", "float32", "float32"),
    ],
)
def test_a_count_names_the_type_of_all_that_trains(
    kind: str, dtype: str, method: str, head: str, tmp_path: Path
) -> None:
    shape, setting = tiny_shape("bert", tmp_path), Setting(batch=2, length=8, dtype=dtype)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in suited(kind, "bert").items()}
    counts = fake_counts(shape, "peft", setting, **values)
    if method == head:
        assert counts.trained_dtypes == {head: ("*",)}
    else:
        named = {name: of for of, names in counts.trained_dtypes.items() for name in names}
        assert {of for name, of in named.items() if name.startswith("head.")} == {head}
        assert " ".join(sorted({of for name, of in named.items() if not name.startswith("head.")})) == method
    assert any("trains in several types" in note for note in counts.notes) == (" " in method)

"""Folders of peft's: ``PeftModel.from_pretrained`` gives what the method computes, on every build of backbone."""

import json

import pytest
import torch

from bench.errors import BenchError
from bench.registry import make
from methods import peft_folder
from tests.methods.adapted import adapt, randomise, states
from tests.methods.families import tiny
from tests.methods.peft_types import FAMILIES, suited

ALL_LINEAR = {"targets": ["query", "key", "value", "output", "ffn_in", "ffn_out"]}
EXPRESSIBLE = [
    *((name, family, config) for name in ("lora", "rslora", "lora_plus", "lora_fa", "dora", "pissa")
      for family in (*FAMILIES, "t5") for config in ({}, ALL_LINEAR)),
    *(("adalora", family, config) for family in FAMILIES for config in ({}, ALL_LINEAR)),
    *(("ia3", family, {}) for family in (*FAMILIES, "t5", "roberta")),
    *(("vera", family, {"rank": 8}) for family in FAMILIES),
    *((name, family, {"length": 3}) for name in ("prompt_tuning", "p_tuning") for family in (*FAMILIES, "roberta")),
    *((name, family, {"length": 3, "position_shift": shift}) for name in ("prefix_tuning", "p_tuning_v2")
      for family in ("bert", "gpt2", "roberta") for shift in (True, False)),
    *(("prefix_tuning", family, {"length": 3}) for family in ("llama", "qwen3", "gpt_neox", "cohere")),
    ("p_tuning_v2", "bert", {"length": 3, "reparametrise": True}),
]  # fmt: skip


def through_a_folder(method, module, family, folder):
    """Hidden states of what peft loads from the folder."""
    model = method.to_peft(method.finalize(module), tiny(family))
    files = peft_folder.save(model, folder, "owner/base", None)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)
    return states(peft_folder.load(tiny(family), folder))


@pytest.mark.parametrize(("name", "family", "config"), EXPRESSIBLE)
def test_peft_computes_the_same(tmp_path, name, family, config):
    method, module = adapt(name, family, **config)
    randomise(module.eval())
    with torch.no_grad():
        expected = states(module)
        found = through_a_folder(method, module, family, tmp_path)
    assert not expected.allclose(states(tiny(family)), atol=1e-3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


ASKED_FOR = (
    "LORA ADALORA IA3 VERA OFT LN_TUNING PROMPT_TUNING P_TUNING PREFIX_TUNING MISS SHIRA HIRA ROAD LILY BEFT"
).split()
OTHERS = (
    "BOFT LOHA LOKR FOURIERFT HRA RANDLORA C3A VBLORA TRAINABLE_TOKENS WAVEFT DELORA GRALORA PVERA UNILORA GLORA "
    "CARTRIDGE SHADOW FROD OSF TINYLORA SUPERTUNING PSOFT PEANUT DEFT ADAMSS"
).split()
BRIDGED = [
    *((kind, "bert") for kind in ASKED_FOR),
    *(pytest.param(kind, "bert", marks=pytest.mark.slow) for kind in OTHERS),
    *(pytest.param(k, "llama", marks=pytest.mark.slow) for k in (*ASKED_FOR, *OTHERS, "ADAPTION_PROMPT")),
]


@pytest.mark.parametrize(("kind", "family"), BRIDGED)
def test_a_bridged_method_is_saved_by_peft_itself(tmp_path, kind, family):
    method, config = make("peft", suited(kind, family))
    module = method.apply(tiny(family), config)
    randomise(module.eval(), 0.02)
    with torch.no_grad():
        kept = method.load_delta(tiny(family), config, method.delta(module)).eval()
        expected = states(kept)
        found = through_a_folder(method, kept, family, tmp_path)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_configuration_is_spelled_as_people_spell_it(tmp_path):
    method, module = adapt("lora", "bert")
    through_a_folder(method, module, "bert", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["query", "value"] and (config["r"], config["lora_alpha"]) == (8, 16)
    assert config["base_model_name_or_path"] == "owner/base" and config["task_type"] == "FEATURE_EXTRACTION"
    assert config["inference_mode"] is True


def test_maps_that_end_like_the_pooler_are_named_in_full(tmp_path):
    method, module = adapt("lora", "bert", targets=["ffn_in"])
    through_a_folder(method, module, "bert", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == [f"encoder.layer.{i}.intermediate.dense" for i in (0, 1)]


@pytest.mark.parametrize(
    ("name", "family", "config", "sentence"),
    [
        *((name, "bert", {}, "peft has no method that computes the same")
          for name in ("full", "head", "bitfit", "houlsby_adapter", "pfeiffer_adapter", "parallel_adapter", "lst")),
        ("prompt_tuning", "bert", {"position_shift": False}, "which position_shift = false leaves to the tokens"),
        ("vera", "bert", ALL_LINEAR, "adapt maps that read states of one width"),
        ("prefix_tuning", "t5", {}, "peft hands a prefix over as a cache, which this family does not read"),
        ("prefix_tuning", "modernbert", {}, "peft"),
        ("peft", "bert", suited("CPT", "bert"), "peft loads CPT onto language models alone"),
        ("peft", "bert", suited("POLY", "bert"), "peft's POLY asks for the number of a task with every batch"),
    ],
)  # fmt: skip
def test_what_peft_cannot_have_is_a_sentence(name, family, config, sentence):
    method, module = adapt(name, family, **config)
    with pytest.raises(BenchError, match=sentence):
        method.to_peft(method.finalize(module), tiny(family))


def test_weights_that_are_pickled_are_not_opened(tmp_path):
    method, module = adapt("lora", "bert")
    through_a_folder(method, module, "bert", tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(BenchError, match=r"adapter_model\.safetensors: missing; weights in another format"):
        peft_folder.load(tiny("bert"), tmp_path)

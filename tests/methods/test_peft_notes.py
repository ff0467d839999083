"""What a bridged adapter's records say beside its figures: a moved start, an inexact merge, what peft takes as well."""

import re
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModel

from bench.count.predict import check_fit, predictions
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.forms import parse_spec
from bench.schema.shape import Setting
from methods.peft_notes import base_states, difference, folded
from tests.factories.cost_steps import tiny_shape
from tests.methods.adapted import adapt, randomise
from tests.methods.families import tiny
from tests.methods.peft_types import suited

AT_THE_BASE = [
    *((family, {"peft_type": "LORA", "init_lora_weights": start}) for family in ("bert", "llama")
      for start in (True, "gaussian", "orthogonal", "olora", "pissa")),
    *(("bert", {"peft_type": kind}) for kind in ("IA3", "OFT", "HRA", "LOHA", "ADALORA", "LN_TUNING", "ROAD")),
    ("gpt2", {"peft_type": "LORA", "init_lora_weights": "pissa"}),
]  # fmt: skip
MOVED = {
    "OLoRA on a transposed weight": ("gpt2", {"target_modules": ["attn.c_proj"], "init_lora_weights": "olora"}),
    "a random B": ("bert", {"init_lora_weights": False}),
    "a random vector": ("bert", {"peft_type": "IA3", "init_ia3_weights": False}),
    "a random rotation": ("bert", {"peft_type": "OFT", "init_weights": False}),
    "random frequencies": ("bert", {"peft_type": "FOURIERFT"}),
    "a random product": ("bert", {"peft_type": "LOHA", "init_weights": False}),
}


def configured(family, values):
    return suited(values.get("peft_type", "LORA"), family) | values


def starts(family, values):
    method, module = adapt("peft", family, **configured(family, values))
    return [note for note in method.notes(module) if note.startswith("the start is not the base model")]


@pytest.mark.parametrize(("family", "values"), AT_THE_BASE, ids=str)
def test_no_note_of_a_start_that_is_the_base_model(family, values):
    assert starts(family, values) == []


@pytest.mark.parametrize("case", MOVED)
def test_a_start_that_is_not_the_base_model_is_measured_and_named(case):
    family, values = MOVED[case]
    (note,) = starts(family, values)
    _, module = adapt("peft", family, **configured(family, values))
    apart = difference(base_states(module), base_states(tiny(family)))
    assert apart > 1e-3 and note.endswith(f"differ by {apart:.2g} of their largest")


def test_a_start_is_measured_without_a_trace():
    """Modes, random numbers and gradients are as they were."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backbone = tiny("bert")
    modes = [part.training for part in backbone.train().modules()]
    torch.manual_seed(0)
    base_states(backbone)
    assert torch.equal(torch.rand(3), expected)
    assert [part.training for part in backbone.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_is_held_against_what_was_merged(dtype):
    backbone = tiny("bert").to(dtype)
    method, module = adapt("peft", backbone, **suited("LORA", "bert"))
    randomise(module, 0.1)
    merged = method.merge(module)
    assert method.notes(module) == ()
    with torch.no_grad():
        merged.get_submodule("encoder.layer.1.output.dense").weight.mul_(50)
    (note,) = folded(module, merged)
    assert note.startswith("merging by peft is not exact: hidden states differ by 0.")


DECODER = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
PREFIX = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 9}


def mixture(**more):
    values = {**DECODER, "num_hidden_layers": 1, "num_local_experts": 4, "num_experts_per_tok": 2}
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model("mixtral", **values, **more)).requires_grad_(False)


def windowed(family):
    values = {**DECODER, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 6}
    return AutoModel.from_config(AutoConfig.for_model(family, **values), attn_implementation="eager")


SAID = {
    "experts and router": (
        mixture, {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"},
        "no linear layer are adapted as well: mlp.experts.down_proj (rank 4), mlp.experts.gate_up_proj (rank 8), "
        "mlp.gate.weight (rank 4)",
    ),
    "experts by their older names": (
        mixture, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "w1", "w2", "w3"]}, "gate_up_proj (rank 8)",
    ),
    "a window in some layers": (
        lambda: windowed("gemma2"), PREFIX, "at most 5 of its 9 positions",
    ),
    "a window in all layers": (
        lambda: windowed("mistral"), PREFIX, "at most 5 of its 9 positions",
    ),
    "a prompt": (lambda: tiny("llama"), {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}, "position_ids"),
    "no bias": (
        lambda: tiny("llama"), {"peft_type": "LORA", "target_modules": ["q_proj"], "bias": "lora_only"},
        "bias = 'lora_only' trains nothing more",
    ),
    "ranks of before": (
        lambda: tiny("bert"),
        suited("ADALORA", "bert") | {"rank_pattern": {"encoder.layer.0.attention.self.query": [True]}},
        "ranks are dealt out anew",
    ),
    "a loss": (lambda: tiny("bert"), suited("SHADOW", "bert"), "SHADOW's auxiliary loss is left out"),
    "weights of a loss": (
        lambda: tiny("bert"), suited("CPT", "bert") | {"opt_weighted_loss_type": "decay"}, "'decay' is left out",
    ),
    "a saved norm": (
        lambda: tiny("llama"), {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
        "by 'norm' peft also takes layers.0.input_layernorm and all that end so, 4 in all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_a_configuration_does_beside_what_it_says_is_noted(case):
    backbone, values, words = SAID[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method, module = adapt("peft", backbone().requires_grad_(False), **values)
    assert words in " | ".join(method.notes(module))


def test_peft_warns_in_the_notes_and_not_on_the_screen():
    backbone = tiny("llama", tie_word_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method, module = adapt(
            "peft", backbone, peft_type="VERA", r=4, target_modules=["q_proj"], save_projection=False
        )
    assert any(note.startswith("peft: ") for note in method.notes(module))
    assert all("\n" not in note and not note.endswith(".") for note in method.notes(module))


@pytest.mark.parametrize(
    ("kind", "words"), [("VBLORA", None), ("CPT", "reads values in"), ("BOFT", "starts from the values")]
)
def test_a_prediction_says_where_an_adapter_needs_values(kind, words, tmp_path):
    shape = tiny_shape("bert", tmp_path)
    inner = ", ".join(f"{key}={value!r}" for key, value in suited(kind, "bert").items())
    _, row = predictions(shape.name, ["head", f"peft({inner})"], Setting(batch=2, length=8))
    if words is None:
        assert row.not_counted is None and row.flops.backward > 0
    else:
        assert re.match(f"peft {kind} .*{words}", row.not_counted), "a sentence, without the name of an error"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("null", None), ("True", True), ("[true, 1]", [True, 1])]
)
def test_a_method_may_be_written_with_the_words_of_toml_and_json(text, value):
    assert parse_spec(f"peft(use_dora={text})") == ("peft", {"use_dora": value})


def planned(**values):
    inner = ", ".join(f"{key}={value!r}" for key, value in values.items())
    chosen = select(load_suite("smoke"), Selection(methods=("full", f"peft({inner})"), seeds=(0,)))
    return make_plan(chosen, "smoke", "cpu")


def test_a_plan_refuses_what_matches_nothing_and_takes_what_starts_from_values():
    with pytest.raises(BenchError, match=r"method peft\(.*'valu' is not found in the base model"):
        check_fit(planned(peft_type="LORA", target_modules=["query", "valu"]))
    check_fit(planned(peft_type="BOFT", target_modules=["query"]))

"""The bridge to peft: what it checks, strips, adds and stores, and which of peft's types run through it."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from bench.count.memory import nbytes
from bench.errors import BenchError
from bench.registry import make, resolved
from tests.methods.adapted import adapt, randomise, states, trained
from tests.methods.families import tiny
from tests.methods.peft_types import outcome
from tools import peft_table

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query", "value"]}


def test_lora_is_ours_on_equal_weights():
    _, theirs = adapt("peft", "bert", **LORA)
    _, ours = adapt("lora", "bert", rank=4, alpha=16)
    with torch.no_grad():
        for mine, other in zip(trained(ours).values(), trained(theirs).values(), strict=True):
            mine.copy_(torch.randn_like(mine))
            other.copy_(mine)
    torch.testing.assert_close(states(theirs), states(ours))


def test_a_file_is_its_content_and_keys_beside_it_win(tmp_path):
    saved = LORA | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "meta-llama/Llama-3.2-3B",
        "peft_version": "0.1",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved))
    _, config = make("peft", {"adapter_config": str(tmp_path), "r": 2})
    assert config == make("peft", LORA | {"r": 2, "task_type": "CAUSAL_LM"})[1]
    assert json.loads(json.dumps(resolved(config))) == resolved(config)
    assert str(tmp_path) not in str(resolved(config))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "peft_type is missing"),
        ({"peft_type": "LORAA"}, "Did you mean 'LORA'"),
        ({"peft_type": "LORA", "rr": 4}, "unknown key 'rr'"),
        ({"peft_type": "LORA", "task_type": "CAUSL_LM"}, "Did you mean 'CAUSAL_LM'"),
        ({"peft_type": "LORA", "inference_mode": True}, "set by the harness"),
        ({"peft_type": "ADALORA", "orth_reg_weight": -1}, "orth_reg_weight = -1; it takes at least 0"),
        ({"adapter_config": "nowhere.json"}, "no readable JSON"),
    ],
)
def test_a_configuration_is_refused_by_one_sentence(values, words):
    with pytest.raises(BenchError, match=words):
        make("peft", values)


def test_targets_that_match_nothing_are_refused():
    with pytest.raises(BenchError, match="not found in the base model"):
        adapt("peft", "bert", peft_type="LORA", target_modules=["nowhere"])


def test_adalora_takes_the_recipes_steps_and_adds_its_orthogonality():
    method, module = adapt("peft", "bert", peft_type="ADALORA", init_r=4, target_r=2, target_modules=["query"])
    tuner = module.peft.base_model
    output = type("Output", (), {"loss": torch.zeros(())})()
    tuner.model.forward = lambda: output
    torch.testing.assert_close(method.regularizer(module), tuner.forward().loss)
    del tuner.model.forward
    randomise(module)
    for step in range(1, 6):
        states(module).square().mean().backward()
        method.after_step(module, step, 5)
    assert tuner.peft_config["default"].total_step == 5
    kept = sum(sum(ranks) for ranks in tuner.peft_config["default"].rank_pattern.values())
    assert kept == 2 * 2, "target_r ranks on average over two layers"


def test_adalora_stores_what_pefts_file_holds_and_its_values_whole():
    values = {"peft_type": "ADALORA", "init_r": 4, "target_r": 3, "target_modules": ["query", "value"]}
    method, module = adapt("peft", "bert", **values)
    fresh = method.delta(module)
    randomise(module)
    for step in range(1, 6):
        states(module).square().mean().backward()
        method.after_step(module, step, 5)
    delta, file = method.delta(module), peft.get_peft_model_state_dict(module.peft)
    factors = {name.replace("peft.base", "base").replace(".default", ""): t for name, t in delta.items()}
    assert factors.keys() == file.keys()
    for name, tensor in file.items():
        found = factors[name]
        assert tensor.equal(found[found.ne(0).flatten()] if "lora_E" in name else found)
    assert nbytes(fresh.values()) == nbytes(delta.values())
    _, config = make("peft", values)
    loaded = method.load_delta(tiny("bert"), config, delta)
    assert states(loaded).equal(states(module))
    assert all(t.equal(delta[name]) for name, t in method.delta(loaded).items())


@pytest.mark.parametrize("kind", ["LORA", "IA3", "OFT", "ADALORA", "PREFIX_TUNING", "P_TUNING", "LN_TUNING"])
def test_a_type_does_on_bert_what_the_page_says(kind):
    assert outcome(kind, "bert").works


@pytest.mark.slow
def test_the_page_is_what_every_type_does():
    """All of peft's types on three families; minutes."""
    page = Path(__file__).resolve().parents[2] / "docs" / "peft.md"
    assert page.read_text() == peft_table.text()


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "LILY", "r": 4, "stride_A": 2, "num_B": 2, "target_modules": ["query", "value"]},
        {"peft_type": "RANDLORA", "r": 4, "target_modules": ["query", "value"]},
        {"peft_type": "VERA", "r": 4, "target_modules": ["query", "value"]},
        {"peft_type": "TRAINABLE_TOKENS", "token_indices": [5, 6], "target_modules": ["word_embeddings"]},
    ],
    ids=lambda options: options["peft_type"],
)
def test_what_is_stored_is_what_pefts_file_holds(options, tmp_path):
    """Also tensors that layers share, which the file has once for each of them."""
    method, module = adapt("peft", "bert", **options)
    randomise(module)
    module.peft.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    stored = method.delta(module)
    assert sum(t.nbytes for t in stored.values()) == sum(t.nbytes for t in held.values())
    again = method.load_delta(tiny("bert"), module.options, stored)
    torch.testing.assert_close(states(again), states(module), rtol=0, atol=0)

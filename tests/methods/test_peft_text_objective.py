"""peft's methods on a whole language model: names of the model, its LM head, and peft's own loss."""

import json
import warnings
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import bench
from bench.count.predict import predictions, setting_for
from bench.models.head import TaskModel
from bench.models.text import IGNORED, TextHead, text_backbone, with_targets
from bench.registry import make, spell
from bench.schema.record import Prediction
from bench.schema.shape import StepShape
from tests.methods.families import CONFIGS, batch

WIDTH, VOCABULARY, KEYS, FFN, LAYERS = 32, 96, 16, 64, 2
MAP = 8 * (WIDTH + WIDTH)  # rank 8 on a square map
LORA = {"peft_type": "LORA", "target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("llama") / "llama.json"
    path.write_text(json.dumps({"model_type": "llama", **CONFIGS["llama"][1]}))
    return str(path)


def counted(llama: str, options: dict) -> Prediction:
    setting = setting_for(llama, StepShape(batch=2, length=8), weights="native", device="cpu")
    (found,) = predictions(llama, [spell("peft", options)], setting)
    assert found.flops is not None, found.refused or found.not_counted
    return found


REACHED = [
    ({"target_modules": ["lm_head"]}, 8 * (WIDTH + VOCABULARY)),
    ({"target_modules": ["q_proj", "lm_head"]}, LAYERS * MAP + 8 * (WIDTH + VOCABULARY)),
    ({"target_modules": ["q_proj", "embed_tokens"]}, LAYERS * MAP + 8 * (WIDTH + VOCABULARY)),
    ({"modules_to_save": ["lm_head"]}, LAYERS * MAP + WIDTH * VOCABULARY),
    ({"modules_to_save": ["lm_head", "embed_tokens"]}, LAYERS * MAP + 2 * WIDTH * VOCABULARY),
    ({"target_modules": ["model.layers.0.self_attn.q_proj"]}, MAP),
    ({"rank_pattern": {"model.layers.0.self_attn.q_proj": 4}}, MAP + MAP // 2),
    ({"target_modules": "all-linear"},  # all but the LM head, as peft has it
     LAYERS * 8 * (2 * 2 * WIDTH + 2 * (WIDTH + KEYS) + 3 * (WIDTH + FFN))),
    ({"trainable_token_indices": [1, 2]}, LAYERS * MAP + 2 * WIDTH),
]  # fmt: skip


@pytest.mark.parametrize(("options", "trained"), REACHED, ids=lambda value: str(value)[:60])
def test_names_of_the_whole_model_reach_what_they_name(llama: str, options: dict, trained: int) -> None:
    assert counted(llama, LORA | options).trainable_parameters.method == trained


@pytest.mark.parametrize(
    ("task", "notes"),
    [(None, 0), ("CAUSAL_LM", 0), ("FEATURE_EXTRACTION", 0), ("SEQ_CLS", 1), ("SEQ_2_SEQ_LM", 1)],
)
def test_a_task_type_that_is_not_what_stands_there_is_noted(llama: str, task: str | None, notes: int) -> None:
    said = counted(llama, LORA | ({"task_type": task} if task else {})).notes
    assert sum("is not what is trained here: on this backbone stands its own LM head" in one for one in said) == notes


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **CONFIGS["llama"][1], use_cache=False))


def wrapped(config: peft.PeftConfig) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by a name of old, and does not know its norms
        return peft.get_peft_model(model(), config, autocast_adapter_dtype=False)


TYPES = [
    LORA | {"init_lora_weights": False},
    LORA | {"target_modules": ["q_proj", "lm_head"], "init_lora_weights": False},
    {"peft_type": "IA3", "init_ia3_weights": True},
    {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    {"peft_type": "LN_TUNING"},
]


@pytest.mark.parametrize("options", TYPES, ids=lambda options: f"{options['peft_type']}-{len(options)}")
def test_loss_and_gradients_are_those_of_pefts_causal_model(options: dict) -> None:
    given = batch(2, 8)
    # the first token has no target: in peft the last position of a prompt would tell it, here no caller's token does
    given |= {"labels": given["input_ids"].index_fill(1, torch.tensor([0]), IGNORED)}
    torch.manual_seed(1)
    config = peft.get_peft_config({**options, "task_type": "CAUSAL_LM"})
    theirs = wrapped(config).train()
    expected = theirs(**given).loss
    expected.backward()
    method, parsed = make("peft", options)
    torch.manual_seed(1)
    module = method.apply(text_backbone(model().requires_grad_(False)), parsed)
    ours = TaskModel(module, TextHead(module.config, "full")).train()
    mine = [p for p in module.parameters() if p.requires_grad]
    other = [p for p in theirs.parameters() if p.requires_grad]
    with torch.no_grad():
        for one, two in zip(mine, other, strict=True):
            one.copy_(two)
    loss = ours.loss(with_targets(given, shifted=True))
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_account_of_pefts_causal_model_is_the_prediction_of_the_same(llama: str) -> None:
    given = {"input_ids": torch.zeros(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    theirs = wrapped(config).train()
    found = bench.account(theirs, given | {"labels": given["input_ids"]})
    ours = counted(llama, LORA)
    for part in ("forward", "backward", "backward_weight_gradient", "backward_input_gradient", "backward_attention"):
        assert getattr(found.flops, part) == getattr(ours.flops, part), part
    for part in ("weights", "gradients", "optimizer_state"):
        assert getattr(found.bytes, part) == getattr(ours.bytes, part), part
    assert found.trainable.method == ours.trainable_parameters.method
    assert found.bytes.saved_activations == pytest.approx(ours.bytes.saved_activations, rel=0.01)


def test_a_saved_configuration_of_a_causal_model_says_its_task(tmp_path: Path, llama: str) -> None:
    peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    found = counted(llama, {"adapter_config": str(tmp_path)})
    assert found.trainable_parameters.method == LAYERS * MAP
    assert not any("task_type" in note for note in found.notes)

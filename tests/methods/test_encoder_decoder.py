"""What a whole T5 is and what methods train of it, beside what the paper on Ladder Side-Tuning prints of T5-base."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.anatomy import anatomy
from bench.count.predict import predictions
from bench.errors import BenchError
from bench.models import backbone
from bench.models.head import inputs_of
from bench.plan.budget import matched
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.schema.forms import Objective
from bench.schema.shape import Setting
from bench.timing.models import Models
from bench.training.contract import states
from tests.factories.cost_steps import fake_counts, tiny_shape
from tests.methods.adapted import adapt, count, randomise, trained
from tests.methods.families import ENCODER_DECODERS, batch, beside_decoder, tiny

METHODOLOGY = Path(__file__).resolve().parents[2] / "METHODOLOGY.md"
D, F, VOCABULARY, HEADS = 768, 3072, 32_128, 12


@functools.cache
def described(name: str) -> Any:
    spec = backbone.shape_of(name)
    return backbone.describe(spec, backbone.usual_objective(spec))


def whole(name: str = "t5-base") -> nn.Module:
    return backbone.load(backbone.shape_of(name), device="meta", objective="text")


# What the names mean


def test_t5_base_is_t5_with_its_decoder():
    """One matrix of the vocabulary for both inputs and the output; a table of 32 positions and a last norm a stack."""
    encoder, decoder = 4 * D * D + 2 * D * F + 2 * D, 8 * D * D + 2 * D * F + 3 * D
    stacks = 12 * (encoder + decoder) + 2 * (32 * HEADS + D)
    assert described("t5-base").parameters == VOCABULARY * D + stacks == 222_903_552
    assert described("t5-base-encoder").parameters == VOCABULARY * D + 12 * encoder + 32 * HEADS + D == 109_628_544


def test_flan_t5_has_an_output_matrix_of_its_own():
    model: Any = whole("flan-t5-base")
    assert described("flan-t5-base").parameters == 247_577_856
    assert model.lm_head.weight is not model.shared.weight and not model.lm_head.weight.requires_grad
    tied: Any = whole()
    assert tied.lm_head.weight is tied.shared.weight


def test_a_file_of_flan_t5_is_loaded_with_both_of_its_matrices(tmp_path):
    from bench.schema.jobs import BackboneSpec

    spec = tiny_shape("t5_gated_whole", tmp_path)
    made: Any = backbone.load(spec, objective="text")
    made.lm_head.weight.normal_()  # both start alike
    made.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(Path(spec.name).read_text())
    stored = BackboneSpec(name="some/t5", weights="pretrained", revision="main", folder=str(tmp_path))
    loaded: Any = backbone.load(stored, objective="text")
    assert torch.equal(loaded.lm_head.weight, made.lm_head.weight)
    assert torch.equal(loaded.encoder.embed_tokens.weight, made.shared.weight)
    assert not torch.equal(loaded.lm_head.weight, loaded.shared.weight)


@pytest.mark.parametrize(("objective", "notes"), [("text", 0), ("classes", 1)])
def test_classes_on_a_file_of_t5_stand_on_its_encoder_as_a_note_says(objective: Objective, notes: int, tmp_path):
    spec = tiny_shape("t5_whole", tmp_path)
    found = backbone.describe(spec, objective).notes
    assert found == ("the encoder alone stands here: objective classes reads no decoder",) * notes
    (row,) = predictions(spec.name, ["lora"], Setting(batch=1, length=8, objective=objective))
    assert [note for note in row.notes if "encoder alone" in note] == list(found)


# What methods train of it; adapters of the paper's reduction 16 are 48 wide

LST = {"reduction": 8, "add_backbone_output": False}
NINE = (1, 2, 3, 5, 6, 7, 9, 10, 11)
BOTH = tuple(12 * stack + index for stack in (0, 1) for index in NINE)
TRAINED = {
    "lora": ({"rank": 32}, 36 * 2 * 32 * 2 * D),
    "ia3": ({}, 12 * (2 * D + F) + 12 * (4 * D + F)),
    "houlsby_adapter": ({"bottleneck": 48}, 48 * (2 * D * 48 + 48 + D)),
    "pfeiffer_adapter": ({"bottleneck": 48}, 24 * (2 * D * 48 + 48 + D)),
    "parallel_adapter": ({"bottleneck": 48}, 24 * (2 * D * 48 + 48 + D)),
    "prefix_tuning": ({"length": 20}, 2 * (12 + 24) * 20 * D),
    "prompt_tuning": ({"length": 100}, 100 * D),
    "head": ({}, VOCABULARY * D),
    "full": ({}, 222_903_552),
}


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_method_trains_of_both_stacks(name: str):
    config, expected = TRAINED[name]
    assert count(adapt(name, whole(), **config)[1]) == expected


PAPER = {
    "lst": (LST | {"layers": BOTH}, 3_878_706, 1.74, 0),
    "houlsby_adapter": ({"bottleneck": 48, "train_layer_norm": True}, 3_625_728, 1.63, 0),
    "lora": ({"rank": 32}, 3_538_944, 1.71, 282_496),
    "prompt_tuning": ({"length": 100}, 76_800, 0.03, 0),
}
"""Method -> configuration, what trains here, the paper's per cent, and parameters that the paper adds to T5: biases of
every linear map and norm and of the LM head, which train beside LoRA there. T5 has none, and none is added here."""
PRINTED_OF = 222_882_048
"""T5-base with the 32,100 rows of its tokenizer, by which the authors' code divides."""


@pytest.mark.parametrize("name", PAPER)
def test_shares_that_the_paper_on_ladder_side_tuning_prints(name: str):
    config, expected, per_cent, biases = PAPER[name]
    assert count(adapt(name, whole(), **config)[1]) == expected
    assert described("t5-base").parameters - PRINTED_OF == (VOCABULARY - 32_100) * D
    assert round(100 * (expected + biases) / PRINTED_OF, 2) == per_cent
    share = round(100 * expected / PRINTED_OF, 2)
    assert f"| {expected:,} | {share:.2f} | {per_cent:.2f}" in METHODOLOGY.read_text()


def test_bitfit_of_the_paper_trains_biases_that_t5_has_not():
    with pytest.raises(BenchError, match="family 't5' has no bias vectors to train"):
        adapt("bitfit", whole())


# The ladder beside both stacks


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_side_decoder_reads_the_side_encoder_and_the_backbone_is_left_alone(family: str):
    _, module = adapt("lst", tiny(family), reduction=4, add_backbone_output=False)
    randomise(module)
    read = {}
    cross = anatomy(module.backbone).layers[2].cross["key"].path.removeprefix(anatomy(module.backbone).layers[2].path)
    module.blocks[2].get_submodule(cross[1:]).register_forward_pre_hook(lambda m, inputs: read.update(states=inputs[0]))
    module.norm.register_forward_hook(lambda m, inputs, output: read.update(side=output))
    module(**inputs_of(beside_decoder(batch()))).last_hidden_state.square().mean().backward()
    assert torch.equal(read["states"], read["side"]) and read["side"].shape == (3, 10, 8)
    silent = {name for name, p in trained(module).items() if p.grad is None or not p.grad.any()}
    assert all(name.endswith("k_proj.bias") for name in silent)
    assert all(p.grad is None for p in module.backbone.parameters())


def test_kept_layers_are_counted_over_both_stacks():
    _, module = adapt("lst", tiny("t5_whole"), reduction=4, layers=(1, 2))
    assert [block.is_decoder for block in module.blocks] == [False, True] and len(module.downs) == 3
    with pytest.raises(
        BenchError, match=r"layers = \[0, 1\] keeps no layer of the encoder or of the decoder; .* from 2"
    ):
        adapt("lst", tiny("t5_whole"), reduction=4, layers=(0, 1))


def test_pruning_has_no_rule_for_cross_attention():
    method, module = adapt("lst", tiny("t5_whole"), reduction=4, init="pruned")
    method.prepare(module, lambda given: torch.zeros(()), [])
    assert "no rule for the cross-attention of family 't5'" in module.prepare_note


# Prefixes, prompts and peft


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_prefix_stands_in_each_of_the_three_attentions(family: str):
    _, module = adapt("p_tuning_v2", tiny(family), length=3)
    module(**inputs_of(beside_decoder(batch()))).last_hidden_state.square().mean().backward()
    assert module.prefix.table.shape == (2 + 2 * 2, 2, 4, 3, 8)
    assert module.prefix.table.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("name", "value"), [("prefix_tuning", True), ("prompt_tuning", False)])
def test_positions_that_bart_numbers_by_itself_are_not_promised(name: str, value: bool):
    with pytest.raises(BenchError, match="needs learned positions, which family 'bart' numbers by itself alone"):
        adapt(name, tiny("bart"), position_shift=value)


@pytest.mark.parametrize("peft_type", ["PREFIX_TUNING", "CARTRIDGE"])
def test_a_prefix_of_peft_is_refused_beside_a_decoder(peft_type: str):
    with pytest.raises(BenchError, match=f"peft: {peft_type} hands its prefix over as one cache"):
        adapt("peft", tiny("t5_whole"), peft_type=peft_type, num_virtual_tokens=3)


# Counting, budgets and timing

TEXT = Setting(batch=4, length=16, objective="text", target_tokens=6)


def test_target_tokens_are_those_that_the_decoder_reads(tmp_path):
    """Products of a layer's maps: the encoder's on its 16 tokens, the decoder's on its 6, but cross keys and values."""
    flops = fake_counts(tiny_shape("t5_whole", tmp_path), "full", TEXT).flops
    square, ffn = 32 * 32, 2 * 32 * 64
    encoder = 16 * (4 * square + ffn) + 2 * 16 * 16 * 32
    decoder = 6 * (6 * square + ffn) + 16 * 2 * square + 2 * 6 * 6 * 32 + 2 * 6 * 16 * 32
    assert flops.backbone.forward == 2 * 4 * 2 * (encoder + decoder)
    assert flops.head.forward == 2 * 4 * 6 * 32 * 96
    assert [layer for layer in flops.by_layer if layer.startswith("layer_")] == [f"layer_{i}" for i in range(1, 5)]


def test_rows_of_the_decoder_find_their_positions():
    (refusal,) = _refusals("bart-base", target_tokens=1025)
    assert refusal == "target_tokens = 1025 is above 1024, the positions of the decoder; lower it"


def _refusals(name: str, **fields: Any) -> list[str]:
    from bench.models.objective import settle
    from bench.schema.shape import StepShape

    with pytest.raises(BenchError) as refusal:
        settle(backbone.shape_of(name), StepShape(batch=1, length=8, **fields), length=8)
    return [str(refusal.value)]


def suite_on(name: str, **changes: Any) -> Any:
    cost = {"batch": 2, "length": 8, "latency_length": 4, "timed": False, "target_tokens": 6}
    return parse_suite(
        {"name": "mine", "question": "q", "backbone": {"name": name, "weights": "random"}, "cost": [cost],
         "baseline": "full", "method": [{"name": "full"}, {"name": "lora"}]} | changes, "mine.toml",
    )  # fmt: skip


def test_a_budget_is_that_of_the_whole_model(tmp_path):
    spec = tiny_shape("t5_whole", tmp_path)
    suite = suite_on(spec.name, match={"trainable_parameters": 12 * 64 * 5 + 1})
    _, outcomes = matched(suite, spec, "cpu", "mine.toml")
    assert outcomes["lora(rank=5)"]["reached"] == 12 * 64 * 5  # six attentions of two maps


def test_rows_of_the_decoder_keep_their_length_where_the_encoders_are_shorter(tmp_path):
    (probe,) = make_plan(suite_on(tiny_shape("t5_whole", tmp_path).name), "mine.toml", "cpu").probes
    given = Models(probe).batch(1, 4)
    assert given["input_ids"].shape == (1, 4) and given["decoder_input_ids"].shape == (1, 6)


def test_two_fixed_rows_of_a_third_partys_method_reach_the_decoder_too():
    assert states(tiny("t5_whole"), 96).shape == (2, 8, 32)

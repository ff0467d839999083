"""Latency: merged equals the base exactly, unmerged does not; logits are checked while the clock runs."""

import copy

import pytest
import torch

from bench.count.fake import fake_like, fakeify, without_data
from bench.count.step import TrainingStep, random_batch, randomise
from bench.models.head import TaskModel, make_head
from bench.schema.record import Inference
from bench.timing.inference import (
    NARROW_TOKENS,
    Deployed,
    compare_structure,
    count_inference,
    deploy,
    inference_arm,
    merge_error,
    switch_seconds,
)
from methods import BUILTIN
from tests.factories.cost_steps import LAYERS, LENGTH, WIDTH, training_step
from tests.factories.methods import sized
from tests.methods.families import tiny


def trained(name: str, **config: object) -> tuple[TrainingStep, Deployed]:
    step = training_step(name, **config)
    randomise(step.model.body, scale=0.1)
    step.model.eval()
    return step, deploy(step.method, step.model.body, step.model.head)


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_merged_is_the_base_again(name: str) -> None:
    step, ready = trained(name)
    assert ready.merged is not None
    assert compare_structure(ready.merged.body, tiny("bert"), step.batch).all


def test_unmerged_lora_differs_in_every_respect() -> None:
    step, ready = trained("lora")
    found = compare_structure(ready.unmerged.body, tiny("bert"), step.batch)
    assert (found.modules, found.parameters, found.op_trace, found.flops) == (False, False, False, False)


def test_another_width_is_seen() -> None:
    step, _ = trained("head")
    found = compare_structure(tiny("bert", intermediate_size=32), tiny("bert"), step.batch)
    assert found.modules
    assert not (found.parameters or found.op_trace or found.flops)


def test_the_merge_error_is_small_but_not_vacuous() -> None:
    step, ready = trained("lora")
    bare = tiny("bert")(**{k: v for k, v in step.batch.items() if k != "labels"}).last_hidden_state
    adapted = ready.unmerged.body(**{k: v for k, v in step.batch.items() if k != "labels"}).last_hidden_state
    assert (bare - adapted).abs().max() > 1e-2
    error = merge_error(ready.method, ready.unmerged.body, step.batch)
    assert error["float32"] < 1e-5
    assert error["float32"] < error["bfloat16"] < 0.2


def test_in_bfloat16_the_first_tokens_of_a_row_are_compared() -> None:
    step, ready = trained("lora")
    long = {name: tensor.repeat(1, 2) for name, tensor in step.batch.items() if tensor.ndim > 1}
    assert long["input_ids"].shape[1] > NARROW_TOKENS
    first = {name: tensor[:, :NARROW_TOKENS] for name, tensor in long.items()}
    whole, part = (merge_error(ready.method, ready.unmerged.body, batch) for batch in (long, first))
    assert whole["bfloat16"] == part["bfloat16"]
    assert whole["float32"] >= part["float32"]


def test_where_there_is_nothing_to_fold_there_is_no_error() -> None:
    step, ready = trained("full")
    assert merge_error(ready.method, ready.unmerged.body, step.batch) == {"float32": 0.0, "bfloat16": 0.0}


def test_a_method_without_merge_has_no_merged_variant() -> None:
    assert trained("lst")[1].merged is None


def test_full_fine_tuning_is_its_own_merge() -> None:
    _, ready = trained("full")
    assert ready.merged is ready.unmerged


def test_switching_restores_the_delta() -> None:
    _, ready = trained("lora")
    before = copy.deepcopy(ready.unmerged.body.state_dict())
    seconds = switch_seconds(ready.method, ready.unmerged.body, "cpu")
    assert seconds is not None
    assert seconds > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in ready.unmerged.body.state_dict().items())


def test_an_empty_delta_has_no_switch_time() -> None:
    _, ready = trained("head")
    assert switch_seconds(ready.method, ready.unmerged.body, "cpu") is None


def test_logits_that_change_between_runs_end_the_arm() -> None:
    step, ready = trained("head")
    arm = inference_arm("head", lambda: ready.unmerged, step.batch, "cpu")
    assert set(arm.run()) == {"latency"}
    with torch.no_grad():
        step.model.head.linear.weight.add_(1.0)
    with pytest.raises(ArithmeticError, match="differ between two runs"):
        arm.run()


def test_logits_that_are_not_finite_end_the_arm() -> None:
    step, ready = trained("head")
    with torch.no_grad():
        step.model.head.linear.weight.fill_(float("inf"))
    with pytest.raises(ArithmeticError, match="not finite"):
        inference_arm("head", lambda: ready.unmerged, step.batch, "cpu").run()


ROW = random_batch(1, LENGTH, vocabulary=96, outputs=2)


def bare(layers: int = LAYERS) -> Inference:
    """One row through the bare backbone and the head."""
    backbone = tiny("bert", num_hidden_layers=layers)
    return count_inference(TaskModel(backbone, make_head(backbone, 2)).eval(), ROW)


def counted(name: str, **config: object) -> Inference:
    """The same of a method as trained."""
    _, ready = trained(name, **config)
    return count_inference(ready.unmerged, ROW)


def added(name: str, **config: object) -> tuple[int, int]:
    """Operations and depth that a method adds to the bare backbone."""
    ours, base = counted(name, **config), bare()
    return ours.operations - base.operations, ours.depth - base.depth


def test_a_layer_of_bert_is_twelve_operations_ten_of_them_in_a_chain() -> None:
    """Query, key and value side by side; attention, output, sum, norm; two maps with the activation, sum, norm."""
    shallow, deep = bare(layers=2), bare(layers=5)
    assert deep.operations - shallow.operations == 3 * 12
    assert deep.depth - shallow.depth == 3 * 10
    d, t, f = WIDTH, LENGTH, 64
    assert deep.flops - shallow.flops == 3 * (2 * t * (4 * d * d + 2 * d * f) + 4 * t * t * d)


@pytest.mark.parametrize(
    ("name", "operations", "depth"),
    [
        ("houlsby_adapter", 2 * 4, 2 * 4),  # twice down, activation, up, sum: all wait for the sublayer
        ("parallel_adapter", 4, 1),  # the same beside the feed-forward: its sum alone lengthens the path
        ("lora", 2 * 2, 1),  # down, and up with the sum, at query and value, which stand side by side
        ("ia3", 3, 2),  # keys and values side by side, then the feed-forward's activation
    ],
)
def test_what_a_method_adds_to_each_layer(name: str, operations: int, depth: int) -> None:
    config = sized(name)
    assert added(name, **config) == (LAYERS * operations, LAYERS * depth)


def test_a_parallel_branch_lengthens_the_path_less_than_a_serial_one_of_as_many_operations() -> None:
    serial, parallel = added("houlsby_adapter", bottleneck=2), added("lora", rank=2, targets=["query", "key", "value"])
    assert 0 < parallel[1] < serial[1]
    assert parallel[1] / parallel[0] < serial[1] / serial[0]


@pytest.mark.parametrize("rank", [1, 7])
def test_the_rank_changes_the_flops_alone(rank: int) -> None:
    assert added("lora", rank=rank) == (LAYERS * 4, LAYERS * 1)
    assert counted("lora", rank=rank).flops - bare().flops == LAYERS * 2 * 2 * LENGTH * rank * 2 * WIDTH


@pytest.mark.parametrize("name", ["lora", "rslora", "lora_plus", "lora_fa", "dora", "pissa", "adalora", "vera", "ia3"])
def test_merged_inference_is_the_base_s_in_operations_depth_and_flops(name: str) -> None:
    _, ready = trained(name, **sized(name))
    assert count_inference(ready.merged, ROW) == bare()
    assert count_inference(ready.unmerged, ROW).operations > bare().operations


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning"])
def test_a_longer_prompt_takes_more_flops_on_the_same_path(name: str) -> None:
    short, long = counted(name, length=3), counted(name, length=9)
    assert (short.operations, short.depth) == (long.operations, long.depth)
    assert bare().flops < short.flops < long.flops
    assert bare().operations < short.operations
    assert 0 <= short.depth - bare().depth < 10, "less than one layer: it is put in front and taken off again"


def test_a_ladder_lengthens_the_path_by_its_last_block_alone() -> None:
    operations, depth = added("lst", reduction=4)
    assert depth < operations / 2
    assert depth < 2 * 10, "its lower blocks run beside the backbone"


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_inference_without_data_is_counted_as_with(name: str) -> None:
    _, ready = trained(name, **sized(name))
    real = count_inference(ready.unmerged, ROW)
    with without_data():
        fakeify(ready.unmerged)
        assert count_inference(ready.unmerged, {key: fake_like(tensor) for key, tensor in ROW.items()}) == real

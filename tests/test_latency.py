"""Latency: merged equals the base exactly, unmerged does not; logits are checked while the clock runs."""

import copy

import pytest
import torch

from bench.cost.latency import Deployed, compare_structure, deploy, inference_arm, merge_error, switch_seconds
from bench.cost.step import TrainingStep, randomise
from tests.cost_steps import training_step
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
    arm = inference_arm("head", ready.unmerged, step.batch, "cpu")
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
        inference_arm("head", ready.unmerged, step.batch, "cpu").run()

"""One loop for every method: schedule, groups, clipping and the hooks, in the stated order."""

import dataclasses
import itertools

import pytest
import torch

from bench.count.step import set_dropout
from bench.errors import BenchError
from bench.models.head import TaskModel, make_head
from bench.registry import make
from bench.training.loop import NonFiniteLoss, Recipe, check_groups, linear_schedule, to_autocast, train
from tests.methods.families import batch, tiny

RECIPE = Recipe(
    steps=6, batch_size=3, max_length=10, learning_rate=1e-3, head_learning_rate=1e-2, warmup=0.3, weight_decay=0.01,
    gradient_clip=1.0,
)  # fmt: skip


def model_of(name="lora"):
    method, config = make(name, {})
    backbone = tiny("bert")
    head = make_head(backbone, 2, dropout=0.0)
    torch.manual_seed(0)
    return method, TaskModel(method.apply(backbone, config), head)


def batches():
    return itertools.repeat({**batch(), "labels": torch.tensor([0, 1, 0])})


@pytest.mark.parametrize("name", ["full", "lora", "head"])
def test_the_loss_falls_on_a_batch_that_repeats(name):
    method, model = model_of(name)
    losses = train(model, method, model.body, batches(), RECIPE)
    assert len(losses) == RECIPE.steps
    assert losses[-1] < losses[0]


def test_the_same_start_gives_the_same_losses_bit_for_bit():
    runs = []
    for _ in range(2):
        method, model = model_of()
        torch.manual_seed(5)
        runs.append(train(model, method, model.body, batches(), RECIPE))
    assert runs[0] == runs[1]


def test_the_rate_rises_then_falls_to_nearly_zero():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    schedule = linear_schedule(optimizer, RECIPE)
    rates = []
    for _ in range(RECIPE.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_loss_that_is_not_finite_ends_the_training():
    method, model = model_of()
    with torch.no_grad():
        model.head.linear.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="at step 1"):
        train(model, method, model.body, batches(), RECIPE)


def test_hooks_run_in_order_each_step():
    method, model = model_of()
    calls = []

    class Watched(type(method)):
        def regularizer(self, module):
            calls.append("regularizer")
            return torch.zeros(())

        def after_step(self, module, step, total):
            calls.append((step, total))
            assert any(p.grad is not None for p in module.parameters())  # before zero_grad

    train(model, Watched(), model.body, batches(), RECIPE)
    assert calls[:4] == ["regularizer", (1, 6), "regularizer", (2, 6)]


def test_groups_that_forget_or_repeat_a_parameter_are_refused():
    _, model = model_of()
    trained = [p for p in model.parameters() if p.requires_grad]
    check_groups([{"params": trained}], model)
    for wrong in (trained[:-1], [*trained, trained[0]]):
        with pytest.raises(BenchError, match="exactly the trainable parameters"):
            check_groups([{"params": wrong}], model)


def test_too_few_batches_are_an_error():
    method, model = model_of()
    with pytest.raises(RuntimeError, match="gave 2 batches"):
        train(model, method, model.body, itertools.islice(batches(), 2), RECIPE)


def without_dropout(name="lora"):
    method, model = model_of(name)
    set_dropout(model, 0.0)
    return method, model


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts):
    runs = []
    for number in (1, parts):
        method, model = without_dropout()
        runs.append(
            train(model, method, model.body, batches(), dataclasses.replace(RECIPE, gradient_accumulation=number))
        )
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


def test_autocast_stores_frozen_matrices_alone_in_bfloat16_and_learns():
    method, model = without_dropout()
    to_autocast(model)
    kinds = {(p.requires_grad, p.ndim > 1): p.dtype for p in model.parameters()}
    assert kinds[False, True] == torch.bfloat16
    assert {dtype for kind, dtype in kinds.items() if kind != (False, True)} == {torch.float32}
    losses = train(model, method, model.body, batches(), dataclasses.replace(RECIPE, dtype="bfloat16_autocast"))
    assert losses[-1] < losses[0]

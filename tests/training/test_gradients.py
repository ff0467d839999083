"""Norms of the first gradients: of what they are, that they are taken before clipping, and that nothing notices."""

import dataclasses
import itertools

import pytest
import torch

from bench.errors import BenchError
from bench.models.head import TaskModel, make_head
from bench.plan.load import load_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select
from bench.registry import make
from bench.schema.record import ScoreRecord
from bench.training.cell import run_cell
from bench.training.diagnostics import GradientNorms
from bench.training.loop import Recipe, train
from tests.factories.records import score
from tests.methods.families import batch, tiny
from tests.training.test_cell import cells

RECIPE = Recipe(
    steps=4, batch_size=3, max_length=10, learning_rate=1e-2, head_learning_rate=1e-2, warmup=0.0, weight_decay=0.01,
    gradient_clip=0.0,
)  # fmt: skip


def watched(name="lora", steps=3, **changes):
    """Losses, norms of the first ``steps`` steps, and the trained model of a short training without dropout."""
    config = {"rank": 2} if name == "lora" else {}
    method, parsed = make(name, config)
    backbone = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    head = make_head(backbone, 2, dropout=0.0)
    torch.manual_seed(0)
    model = TaskModel(method.apply(backbone, parsed), head)
    norms = GradientNorms(method.parts(model.body), model.body, steps)
    rows = itertools.repeat({**batch(), "labels": torch.tensor([0, 1, 0])})
    losses = train(model, method, model.body, rows, dataclasses.replace(RECIPE, **changes), on_gradient=norms.after)
    return losses, norms.read(), model


def test_a_norm_is_that_of_all_gradients_of_a_part_together():
    method, config = make("lora", {"rank": 2})
    backbone = tiny("bert")
    module = method.apply(backbone, config)
    norms = GradientNorms(method.parts(module), module, 1)
    for at, (name, parameter) in enumerate((n, p) for n, p in module.named_parameters() if p.requires_grad):
        parameter.grad = torch.full_like(parameter, 3.0 if ".A." in name else 0.0)
        if at == 0:
            parameter.grad = None  # not reached by backward: it adds nothing
    norms.after(1)
    matrices = [p for n, p in module.named_parameters() if ".A." in n and p.grad is not None]
    assert norms.read() == {"A": (pytest.approx(3 * sum(p.numel() for p in matrices) ** 0.5),), "B": (0.0,)}


def test_norms_do_not_overflow_where_gradients_are_finite():
    parameter = torch.nn.Parameter(torch.zeros(4))
    body = torch.nn.ParameterList([parameter])
    norms = GradientNorms({"all": [parameter]}, body, 1)
    parameter.grad = torch.full((4,), 1e30)
    norms.after(1)
    assert norms.read()["all"] == (pytest.approx(2e30),)


def test_norms_are_taken_before_clipping_and_of_the_first_steps_alone():
    _, free, _ = watched()
    _, clipped, _ = watched(gradient_clip=1e-3)
    assert {name: len(found) for name, found in free.items()} == {"A": 3, "B": 3}
    assert clipped["B"][0] == free["B"][0] > 1e-3
    assert len(watched(steps=99)[1]["B"]) == RECIPE.steps


def test_parts_of_a_batch_give_the_norm_of_the_whole():
    whole, parts = watched()[1], watched(gradient_accumulation=3)[1]
    assert parts["B"] == pytest.approx(whole["B"], rel=1e-4)


def test_a_method_without_parts_of_its_own_has_one_and_one_that_trains_nothing_has_none():
    assert set(watched("bitfit")[1]) == {"delta"}
    assert watched("head")[1] == {}


def test_parts_that_forget_or_repeat_a_parameter_are_refused():
    _, _, model = watched()
    trained = [p for p in model.body.parameters() if p.requires_grad]
    for wrong in (trained[:-1], [*trained, trained[0]]):
        with pytest.raises(BenchError, match=r"parts\(\) of the method does not hold exactly the trainable parameters"):
            GradientNorms({"delta": wrong}, model.body, 1)


def test_training_does_not_notice_that_its_gradients_are_noted():
    alone, noted = (run_cell(*cells(**recipe))[0] for recipe in ({}, {"gradient_norms": 3}))
    assert noted.status == "ok", noted.reason
    assert (noted.losses, noted.predictions_sha256) == (alone.losses, alone.predictions_sha256)
    assert {name: len(norms) for name, norms in noted.gradient_norms.items()} == {"A": 3, "B": 3}
    assert noted.gradient_norms["A"][0] == 0.0
    assert min(noted.gradient_norms["A"][1:] + noted.gradient_norms["B"]) > 0
    assert alone.gradient_norms == {}


def of_starts(*labels):
    """Records of smoke's cells with these methods at one rate, without dropout in the head."""
    recipe = {"gradient_norms": 5, "head_dropout": 0.0, "learning_rate": 2e-3}
    return {label: run_cell(*cells(label, **recipe))[0] for label in labels}


def test_lora_with_both_at_zero_is_the_head_alone_to_the_last_bit():
    zero, head = of_starts("lora(rank=8, init='zero')", "head").values()
    assert zero.gradient_norms == {"A": (0.0,) * 5, "B": (0.0,) * 5}
    assert head.gradient_norms == {}
    assert (zero.losses, zero.predictions_sha256) == (head.losses, head.predictions_sha256)


def test_the_first_loss_is_that_of_the_start():
    """All starts that keep the backbone's output have it in common, one that moves it has not."""
    kept = ["lora(rank=8)", *(f"lora(rank=8, init={init!r})" for init in ("gaussian", "zero_a", "zero"))]
    found = of_starts(*kept, "lora(rank=8, init='random')", "lora(rank=8, init='orthogonal')", "pissa(rank=8)", "head")
    firsts = {label: record.losses[0] for label, record in found.items()}
    common = firsts["head"]
    assert {firsts[label] for label in kept} == {common}
    assert firsts["lora(rank=8, init='orthogonal')"] == pytest.approx(common, abs=1e-5)
    assert firsts["pissa(rank=8)"] == pytest.approx(common, abs=1e-5)
    assert abs(firsts["lora(rank=8, init='random')"] - common) > 1e-4
    lasts = [found[label].losses[-1] for label in (*kept[:3], "head")]
    assert len(set(lasts)) == len(lasts)


def test_the_number_of_noted_steps_is_part_of_a_cell_that_asks_for_it_and_of_no_other():
    suite = select(load_suite("smoke"), Selection(methods=("lora(rank=8)",)))
    asked = suite.model_copy(update={"recipe": suite.recipe.model_copy(update={"gradient_norms": 2})})
    plain, noted = (make_plan(s, "smoke", "cpu").cells[0] for s in (suite, asked))
    assert "gradient_norms" not in plain.recipe
    assert noted.recipe == plain.recipe | {"gradient_norms": 2}
    assert noted.id != plain.id


def test_trials_of_a_search_note_no_gradients():
    suite = select(load_suite("smoke"), Selection(methods=("lora(rank=8)",)))
    asked = suite.model_copy(update={"recipe": suite.recipe.model_copy(update={"gradient_norms": 2})})
    assert all("gradient_norms" not in cell.recipe for cell in plan_search(asked, "smoke", "cpu").cells)


def test_a_record_from_before_there_were_norms_has_none():
    old = score("ia3", "sst2", 0).model_dump(by_alias=True)
    del old["gradient_norms"]
    assert ScoreRecord.model_validate(old).gradient_norms == {}

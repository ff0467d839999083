"""A cell is a function of its spec: same seed, same record; another seed, another start, order and dropout."""

import io
import json

import pytest

from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.training.cell import run_cell
from tests.factories.command import module


def cells(method="lora(rank=8)", seeds=(0,), **recipe):
    plan = make_plan(select(load_suite("smoke"), Selection(methods=(method,), seeds=seeds)), "smoke", "cpu")
    found = [cell for cell in plan.cells if cell.method.label == method]
    return [cell.model_copy(update={"recipe": {**cell.recipe, "steps": 5, **recipe}}) for cell in found]


def test_one_seed_gives_the_same_losses_and_predictions_bit_for_bit():
    first, again = (run_cell(*cells())[0] for _ in range(2))
    assert first.status == "ok"
    assert (first.losses, first.predictions_sha256) == (again.losses, again.predictions_sha256)


def test_another_seed_gives_other_losses():
    one, other = (run_cell(cell)[0] for cell in cells(seeds=(0, 1)))
    assert one.losses != other.losses


def test_the_record_says_all_that_decided_the_score():
    (cell,) = cells()
    record, sidecars = run_cell(cell)
    predictions = sidecars.predictions
    assert record.trainable_parameters.method == 2 * 2 * 2 * 64 * 8  # layers, q and v, A and B, width, rank
    assert record.trainable_parameters.head == 2 * 64 + 2
    assert record.delta_bytes == 4 * record.trainable_parameters.method
    assert record.metrics.keys() == {"accuracy"}
    assert record.recipe["steps"] == 5
    assert set(record.flags) >= {"random_weights", "synthetic"}
    assert len(predictions["prediction"]) == record.task.test_rows
    accuracy = sum(p == t for p, t in zip(predictions["prediction"], predictions["label"], strict=True)) / 128
    assert record.score == pytest.approx(accuracy)


def test_a_prompt_longer_than_the_positions_left_is_refused_in_one_sentence():
    (cell,) = cells("prompt_tuning(length=120)")
    record, _ = run_cell(cell)
    assert record.status == "failed"
    assert "a prompt of 120 and 24 tokens need 144 positions, the backbone has 128" in record.reason


def test_rows_that_changed_since_the_plan_are_refused():
    (cell,) = cells()
    task = cell.task.model_copy(update={"content_sha256": "0" * 64})
    record, _ = run_cell(cell.model_copy(update={"task": task}))
    assert record.status == "failed"
    assert "the rows of sst2 changed since the run was planned" in record.reason


def test_a_loss_that_explodes_ends_as_nan():
    (cell,) = cells("full", learning_rate=1e30, gradient_clip=0.0)
    record, _ = run_cell(cell)
    assert record.status == "nan"
    assert "a lower learning rate may help" in record.reason


def test_predictions_that_are_no_numbers_end_as_nan():
    (cell,) = cells("full", learning_rate=1e38, head_learning_rate=1e38, gradient_clip=0.0, steps=1)
    record, _ = run_cell(cell)  # the only loss was taken before the only step
    assert record.status == "nan"
    assert "predicts NaN or infinity" in record.reason


def test_a_cell_is_a_command_with_a_spec_in_and_a_record_out(monkeypatch):
    (cell,) = cells()
    monkeypatch.setattr("sys.stdin", io.StringIO(cell.model_dump_json()))
    record = json.loads(module("python", "-m", "bench.training.cell"))
    assert (record["kind"], record["id"], record["status"]) == ("score", cell.id, "ok")

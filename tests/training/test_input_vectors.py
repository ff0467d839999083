"""Learned vectors among the words: norms, distances and neighbours are those of the definitions."""

import pytest
import torch
from torch import nn

from bench.count.predict import check_fit
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select
from bench.schema.record import ScoreRecord
from bench.training.cell import run_cell
from bench.training.diagnostics import SAMPLE, Words, input_vectors

NAMELESS = """
question = "q"
data = "synthetic"
tasks = ["sst2", "stsb"]
seeds = [0]
backbone = { name = "tiny", weights = "random" }
recipe = { steps = 2, batch_size = 4, max_length = 32, train_rows = 8, test_rows = 8 }
method = [
    { name = "full", learning_rate = 1e-3 },
    { name = "prompt_tuning", config = { init = "labels" }, learning_rate = 1e-3 },
]
"""
WORDS = ["zero", "east", "north", "northeast", "west"]
TABLE = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-4.0, 0.0]])


def words(table=TABLE):
    return Words(nn.Embedding.from_pretrained(table), lambda ids: [WORDS[at] if at < 4 else None for at in ids])


def test_a_vector_s_nearest_words_are_those_of_the_smallest_angles():
    (found,) = words().nearest(torch.tensor([[0.5, 0.1]]), 3)
    assert [near.token for near in found] == ["east", "northeast", "north"]
    assert [near.cosine for near in found] == pytest.approx([0.9806, 0.8321, 0.1961], abs=1e-4)
    (found,) = words().nearest(torch.tensor([[-1.0, 0.0]]), 1)
    assert [(near.token, near.cosine) for near in found] == [("#4", 1.0)], "what the tokenizer cannot spell"


def test_there_are_no_more_neighbours_than_words():
    (found,) = words().nearest(torch.tensor([[1.0, 0.0]]), 100)
    assert len(found) == len(WORDS)


def test_norms_and_the_distance_moved_are_euclidean():
    start, end = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    found = input_vectors(words(), start, end, 1)
    first, second = found.vectors
    assert (first.start_norm, first.norm, first.moved) == (5, 3, 4)
    assert (second.start_norm, second.norm, second.moved) == (1, 1, 0)
    assert (first.nearest[0].token, second.start_nearest, second.nearest[0].cosine) == ("east", second.nearest, 1)


def test_the_words_are_measured_among_themselves():
    found = input_vectors(words(), torch.ones(1, 2), torch.ones(1, 2), 1)
    assert found.words == 5
    assert found.word_norms == pytest.approx((0.2, 1.0, 2**0.5, 2.0, 3.6))
    assert found.word_distance == pytest.approx(float(torch.pdist(TABLE).mean()))
    half = 0.5**0.5  # of east, north and northeast; west has none nearer than at a right angle, zero none at all
    assert found.word_nearest == pytest.approx((0 + half + half + half + 0) / 5)
    assert half < found.random_nearest < 1, "in the plane some word is never far"


def test_in_many_dimensions_a_random_direction_is_near_no_word():
    torch.manual_seed(0)
    table = torch.randn(2 * SAMPLE, 384)
    table[1::2] = table[::2] + 0.1 * torch.randn(SAMPLE, 384)  # each word has a twin
    found = words(table).yardsticks()
    assert found["random_nearest"] < 0.25
    assert found["word_nearest"] == pytest.approx(1 / 1.01**0.5, abs=2e-3)


def test_the_yardsticks_are_the_same_each_time_and_draw_nothing_of_the_training():
    torch.manual_seed(0)
    table = torch.randn(2000, 16)
    before = torch.get_rng_state()
    assert words(table).yardsticks() == words(table).yardsticks()
    assert torch.get_rng_state().equal(before)


def test_scaled_word_embeddings_are_compared_as_the_backbone_reads_them():
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 3 * super().forward(ids)

    embedding = Scaled(5, 2)
    with torch.no_grad():
        embedding.weight.copy_(TABLE)
    assert Words(embedding, lambda ids: WORDS[: len(ids)]).table.equal(3 * TABLE)


def cells(*labels, task="sst2", **changes):
    suite = select(load_suite("smoke"), Selection(methods=labels, tasks=(task,), seeds=(0,), data="synthetic"))
    plan = make_plan(suite.model_copy(update={"recipe": suite.recipe.model_copy(update=changes)}), "smoke", "cpu")
    return [cell for cell in plan.cells if cell.method.label in labels]


def started_from(cell, **config):
    return cell.model_copy(update={"method": cell.method.model_copy(update={"config": cell.method.config | config})})


def test_a_cell_notes_the_vectors_of_a_prompt_and_training_does_not_notice():
    (plain,), (asked,) = (cells("prompt_tuning", **recipe) for recipe in ({}, {"nearest_words": 2}))
    alone, noted = (run_cell(cell)[0] for cell in (plain, asked))
    assert alone.status == noted.status == "ok"
    assert (alone.losses, alone.predictions_sha256) == (noted.losses, noted.predictions_sha256)
    assert ("nearest_words" in plain.recipe, alone.input_vectors) == (False, None)
    found = noted.input_vectors
    assert len(found.vectors) == asked.method.config.get("length", 20)
    for vector in found.vectors:
        assert vector.moved > 0
        assert vector.start_nearest[0].cosine == pytest.approx(1), "it starts as a word"
        assert len(vector.nearest) == len(vector.start_nearest) == 2
    assert ScoreRecord.model_validate_json(noted.model_dump_json(by_alias=True)) == noted


def test_methods_without_such_vectors_have_none():
    assert [run_cell(cell)[0].input_vectors for cell in cells("lora(rank=8)", "head", nearest_words=2)] == [None] * 2


def test_a_prompt_starts_from_the_names_of_the_task_s_classes():
    (cell,) = cells("prompt_tuning", nearest_words=1)
    found, _ = run_cell(started_from(cell, init="labels"))
    starts = [vector.start_nearest[0] for vector in found.input_vectors.vectors]
    assert [near.cosine for near in starts] == pytest.approx([1] * len(starts))
    assert [near.token for near in starts] == [starts[at % 2].token for at in range(len(starts))]
    assert starts[0].token != starts[1].token


def test_a_start_from_class_names_needs_classes():
    (cell,) = cells("prompt_tuning", task="stsb")
    found, _ = run_cell(started_from(cell, init="labels"))
    assert (found.status, found.reason) == (
        "failed", "init = 'labels' needs a task whose classes have names; take init = 'vocabulary'",
    )  # fmt: skip


def test_a_plan_refuses_a_start_from_class_names_where_a_task_has_none(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(NAMELESS)
    plan = make_plan(load_suite(str(path)), "mine.toml", "cpu")
    said = r"^method prompt_tuning\(init='labels'\) on task stsb: init = 'labels' needs a task whose classes have names"
    with pytest.raises(BenchError, match=said):
        check_fit(plan)
    named = [cell for cell in plan.cells if cell.task.name != "stsb"]
    check_fit(plan.model_copy(update={"cells": tuple(named)}))


def test_a_search_for_rates_notes_no_words(tmp_path):
    tuning = "tuning = { learning_rates = [1e-3], head_learning_rates = [1e-3], seeds = [7], selection_rows = 2 }\n"
    path = tmp_path / "mine.toml"
    path.write_text(NAMELESS.replace("steps = 2,", "steps = 2, nearest_words = 3,") + tuning)
    suite = load_suite(str(path))
    assert suite.recipe.nearest_words == 3
    cells = plan_search(suite, "mine.toml", "cpu").cells
    assert cells
    assert all("nearest_words" not in cell.recipe for cell in cells)


def test_a_record_from_before_has_none():
    (cell,) = cells("head")
    old = run_cell(cell)[0].model_dump(mode="json", by_alias=True)
    del old["input_vectors"]
    assert ScoreRecord.model_validate(old).input_vectors is None

"""What a cell keeps rebuilds the very model: same predictions, bit for bit, whatever the method and the types."""

import hashlib
import pickle
import shutil

import pytest

import bench
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.store import kept
from bench.store.kept import Keep
from bench.tasks.sources import rows_of
from bench.training.cell import run_cell
from methods import BUILTIN

EVERY = [*BUILTIN, 'peft(peft_type="OFT", oft_block_size=4, r=0, target_modules=["query"])']
KEPT = {}


def trained(folder, method, task="sst2", **recipe):
    """A cell of two steps, kept in ``folder``: the cell, its record and its predictions."""
    suite = select(load_suite("smoke"), Selection(methods=(method,), tasks=(task,), data="synthetic", seeds=(0,)))
    cell = next(c for c in make_plan(suite, "smoke", "cpu").cells if method == "full" or c.method.label != "full")
    values = {"steps": 2, "batch_size": 4, **recipe}
    cell = cell.model_copy(update={"recipe": cell.recipe | values})
    record, sidecars = run_cell(cell, keep=Keep(folder, "all", "b" * 64))
    assert record.status == "ok", record.reason
    kept.land(folder, cell.id)
    return cell, record, sidecars.predictions


def texts(cell):
    return rows_of(cell).test.texts


@pytest.mark.parametrize("method", EVERY)
def test_predictions_are_those_of_the_cell(tmp_path, method):
    cell, record, predictions = trained(tmp_path, method)
    place = tmp_path / "kept" / cell.id
    adapted = bench.load_adapted(place)
    answers = list(adapted.answers(texts(cell)))
    assert [adapted.labels.index(one.value) for one in answers] == predictions["prediction"]
    assert [one.probability for one in answers] == predictions["probability"]
    assert record.kept_sha256 == adapted.about.files["delta.safetensors"]
    assert adapted.about.score.test == record.score and adapted.about.score.rows == "test"


def test_a_score_is_predicted_in_the_unit_of_its_labels(tmp_path):
    cell, _, predictions = trained(tmp_path, "lora", "stsb")
    adapted = bench.load_adapted(tmp_path / "kept" / cell.id)
    assert adapted.predict(texts(cell)) == predictions["prediction"] and adapted.labels == ()


@pytest.mark.parametrize("method", ["lora", "full", "p_tuning", "vera"])
def test_training_under_autocast_predicts_under_autocast(tmp_path, method):
    cell, _, predictions = trained(tmp_path, method, dtype="bfloat16_autocast")
    answers = bench.load_adapted(tmp_path / "kept" / cell.id).answers(texts(cell))
    assert [one.probability for one in answers] == predictions["probability"]


def test_keeping_changes_no_figure(tmp_path):
    cell, record, _ = trained(tmp_path, "lora")
    alone = run_cell(cell)[0]
    assert (alone.losses, alone.predictions_sha256) == (record.losses, record.predictions_sha256)
    assert alone.kept_sha256 is None


def test_rows_cut_from_train_tell_seeds_apart_where_there_are_any(tmp_path):
    suite = select(load_suite("smoke"), Selection(methods=("head",), seeds=(0,)))
    recipe = suite.recipe.model_copy(update={"selection_rows": 64, "steps": 2})
    *_, cell = make_plan(suite.model_copy(update={"recipe": recipe}), "smoke", "cpu").cells
    record, _ = run_cell(cell, keep=Keep(tmp_path, "all", "b" * 64))
    kept.land(tmp_path, cell.id)
    score = bench.load_adapted(tmp_path / "kept" / cell.id).about.score
    assert (score.rows, score.test) == ("selection", record.score)
    assert 64 * score.value == pytest.approx(round(64 * score.value))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    cell, *_ = trained(folder, "lora(rank=8)")
    return folder / "kept" / cell.id


def test_a_row_that_the_task_does_not_read_is_a_sentence(one):
    adapted = bench.load_adapted(one)
    assert adapted.predict([]) == []
    assert adapted.predict(["good", ("bad",)])[0] in adapted.labels
    with pytest.raises(BenchError, match="row 2: the task sst2 takes a string a row, not 3"):
        adapted.predict(["good", 3])
    with pytest.raises(BenchError, match=r"row 1: the task sst2 takes a string a row, not \('a', 'b'\)"):
        adapted.predict([("a", "b")])


def test_a_folder_of_something_else_is_a_sentence(tmp_path):
    with pytest.raises(BenchError, match=r"holds neither delta\.json nor bench\.json; give a folder that export wrote"):
        bench.load_adapted(tmp_path)


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ({"name": "no/such-model", "weights": "pretrained", "sha256": "0" * 64}, "its backbone is not found: backbone"),
        ({"name": "tiny", "weights": "random", "files_sha256": ["0" * 64]}, "has another config.json or tokenizer"),
        ({"name": "tiny", "weights": "random", "sha256": "0" * 64}, "has other weights than those that were adapted"),
    ],
)
def test_another_backbone_is_a_sentence(one, tmp_path, monkeypatch, base, sentence):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = shutil.copytree(one, tmp_path / "moved")
    about = kept.read_about(place / "delta.json")
    moved = about.model_copy(update={"base": type(about.base).model_validate({"seed": 0, **base})})
    kept.write_about(place / "delta.json", moved)
    with pytest.raises(BenchError, match=sentence):
        bench.load_adapted(place)


def test_tensors_of_another_configuration_are_a_sentence(one, tmp_path):
    place = shutil.copytree(one, tmp_path / "moved")
    about = kept.read_about(place / "delta.json")
    method = about.method.model_copy(update={"config": about.method.config | {"rank": 4}})
    kept.write_about(place / "delta.json", about.model_copy(update={"method": method}))
    with pytest.raises(BenchError, match=r"delta\.safetensors: delta '.*' is \[.*8.*\], expected \[.*4.*\]"):
        bench.load_adapted(place)


def test_nothing_but_safetensors_is_opened(one, tmp_path):
    place = shutil.copytree(one, tmp_path / "pickled")
    (place / "delta.safetensors").write_bytes(pickle.dumps({"body.x": 1}))
    about = kept.read_about(place / "delta.json")
    digest = hashlib.sha256((place / "delta.safetensors").read_bytes()).hexdigest()
    kept.write_about(place / "delta.json", about.model_copy(update={"files": {"delta.safetensors": digest}}))
    with pytest.raises(BenchError, match=r"delta\.safetensors: damaged"):
        bench.load_adapted(place)

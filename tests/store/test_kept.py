"""Kept deltas: written aside, put in place whole, told apart by score, and refused in a sentence where damaged."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.schema.delta import Delta
from bench.store import kept
from tests.factories.deltas import delta

TENSORS = {"body.A": torch.arange(6.0).reshape(2, 3), "head.linear.bias": torch.ones(2)}


def stored(folder, **values):
    about = delta(**values)
    kept.write_aside(folder, about, TENSORS)
    kept.land(folder, about.cell)
    return folder / "kept" / about.cell


def test_what_is_written_aside_is_kept_once_it_is_in_place(tmp_path):
    about = delta()
    digest = kept.write_aside(tmp_path, about, TENSORS)
    assert list(kept.kept_in(tmp_path)) == [] and not kept.is_kept(tmp_path, about.cell)
    kept.land(tmp_path, about.cell)
    ((folder, read),) = kept.kept_in(tmp_path)
    assert read == about.model_copy(update={"files": {"delta.safetensors": digest}})
    kept.check_files(folder, read)
    assert kept.read_tensors(folder / "delta.safetensors", "body.")["A"].equal(TENSORS["body.A"])


def test_views_and_shared_tensors_are_stored_as_tensors_of_their_own(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    kept.write_aside(tmp_path, delta(), {"body.a": table.t(), "body.b": table})
    kept.land(tmp_path, delta().cell)
    read = kept.read_tensors(tmp_path / "kept" / delta().cell / "delta.safetensors", "body.")
    assert read["a"].equal(table.t()) and read["b"].equal(table)


def test_a_cell_that_is_trained_again_replaces_its_delta(tmp_path):
    stored(tmp_path, score=0.1)
    stored(tmp_path, score=0.2)
    assert [one.about.score.value for one in kept.kept_in(tmp_path)] == [0.2]
    assert len([*(tmp_path / "kept").iterdir()]) == 1


@pytest.mark.parametrize("killed", ["while writing", "between two renames"])
def test_what_a_killed_run_left_is_tidied(tmp_path, killed):
    place = stored(tmp_path)
    if killed == "while writing":
        kept.write_aside(tmp_path, delta(seed=1), TENSORS)
    else:
        place.replace(place.with_name(place.name + ".old"))
    kept.tidy(tmp_path)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [place.name]
    assert kept.is_kept(tmp_path, place.name)


def test_of_each_method_and_task_the_best_seed_stays(tmp_path):
    for seed, score in enumerate((0.5, 0.7, 0.7)):
        stored(tmp_path, seed=seed, score=score)
    stored(tmp_path, seed=3, score=0.1, task="mrpc")
    stored(tmp_path, seed=4, score=0.2, label="full")
    kept.leave_best(tmp_path)
    assert [one.about.title for one in kept.kept_in(tmp_path)] == [
        "full · sst2 · seed 4", "lora(rank=8) · mrpc · seed 3", "lora(rank=8) · sst2 · seed 1",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "kept").write_text("a file where the folder should be")
    with pytest.raises(kept.NotWritten, match=r"cannot be written .*; free space or fix permissions, then run again"):
        kept.write_aside(tmp_path, delta(), TENSORS)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda path: path.unlink(), "missing; train or export it again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"), "damaged or changed"),
        (lambda path: path.write_bytes(b""), "damaged or changed"),
    ],
)
def test_a_damaged_file_of_tensors_is_a_sentence(tmp_path, harm, sentence):
    place = stored(tmp_path)
    harm(place / "delta.safetensors")
    with pytest.raises(BenchError, match=f"delta.safetensors: {sentence}"):
        kept.check_files(place, kept.read_about(place / "delta.json"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "other"}, "not the description of a delta"),
        ({"version": 2}, "version 2; this program reads version 1"),
        ({"labels": []}, "one of labels and label_scale is needed"),
        ({"labels": ["yes", "yes"]}, "labels names a class twice"),
        ({"labels": ["a", "b", "c"]}, "head.outputs is 2, and there are 3"),
        ({"files": {"../elsewhere": "0" * 64}}, "no file in this folder"),
        ({"max_length": 0}, "max_length: must be at least 1, not 0"),
        ({"surprise": 1}, "surprise: no such field is known"),
        ({"base": {"name": "x", "weights": "pretrained", "seed": 0}}, "base.sha256 is missing"),
    ],
)
def test_a_description_that_does_not_hold_together_is_a_sentence(tmp_path, changes, sentence):
    path = tmp_path / "delta.json"
    path.write_text(json.dumps(delta().model_dump(mode="json", by_alias=True) | changes))
    with pytest.raises(BenchError, match=sentence) as refused:
        kept.read_about(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted(delta().model_dump(mode="json", by_alias=True))


@settings(max_examples=80, deadline=None)
@given(field=st.sampled_from(FIELDS), value=PLAIN, cut=st.none() | st.integers(0, 400))
def test_any_value_of_any_field_is_read_or_refused_in_one_sentence(tmp_path_factory, field, value, cut):
    path = tmp_path_factory.getbasetemp() / "any.json"
    text = json.dumps(delta().model_dump(mode="json", by_alias=True) | {field: value})
    path.write_text(text[:cut], encoding="utf-8", errors="replace")
    try:
        read = kept.read_about(path)
    except BenchError as refused:
        assert str(refused).startswith(str(path))
    else:
        assert Delta.model_validate_json(read.model_dump_json(by_alias=True)) == read


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_in_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"bytes\.json: "):
        kept.read_about(path)

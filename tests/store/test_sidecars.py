"""Predictions and directions of a run read alike, one file a cell or one file a run; what is damaged is named."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import BenchError
from bench.store.sidecars import (
    DIRECTIONS,
    PREDICTIONS,
    Sidecars,
    pack,
    predictions_path,
    predictions_sha256,
    read_directions,
    read_predictions,
)

CLASSES = {"row": [0, 1, 2], "label": [1, 0, 1], "prediction": [1, 1, 1], "probability": [0.5, 1 / 3, 0.9999]}
SCORES = {"row": [0, 1], "label": [2.0, 4.5], "prediction": [0.1 + 0.2, -1e-9]}
VECTORS = {"0.query": np.eye(4, 2, dtype=np.float32), "1.value": np.ones((3, 1), np.float32)}


@pytest.fixture
def folder(tmp_path):
    """A run folder with a cell of classes and one of scores."""
    run, packed = tmp_path / "run", tmp_path / "packed"
    run.mkdir(), packed.mkdir()
    Sidecars(CLASSES, VECTORS).write(run, "a")
    Sidecars(SCORES).write(run, "b")
    return run


def joined(folder):
    into = folder.with_name("packed")
    pack(folder, ["a", "b", "none"], into)
    return into


def test_a_joint_file_holds_every_value_of_the_cells_own_files_in_its_own_type(folder):
    into = joined(folder)
    assert sorted(path.name for path in into.iterdir()) == [DIRECTIONS, PREDICTIONS]
    for identity in ("a", "b"):
        own, joint = (read_predictions(place, identity) for place in (folder, into))
        assert joint.path == into / PREDICTIONS
        assert joint.table.to_pydict() == own.table.to_pydict()
        assert joint.table.schema.equals(own.table.schema)
        assert len({predictions_sha256(one.table["prediction"].to_pylist()) for one in (own, joint)}) == 1
    vectors = read_directions(into, "a").vectors
    assert vectors.keys() == VECTORS.keys()
    assert all(np.array_equal(vectors[name], VECTORS[name]) for name in VECTORS)


def test_what_a_run_has_none_of_is_no_file_and_no_cell(folder):
    into = joined(folder)
    for place in (folder, into):
        assert read_predictions(place, "none") is read_directions(place, "b") is read_directions(place, "none") is None
    bare = folder.with_name("bare")
    bare.mkdir()
    assert pack(bare, ["a"], bare) == {}
    assert not list(bare.iterdir())


def test_a_cell_that_is_measured_again_beside_a_joint_file_is_read_from_its_own_file(folder):
    into = joined(folder)
    Sidecars(SCORES | {"prediction": [1.0, 2.0]}).write(into, "b")
    assert read_predictions(into, "b").table["prediction"].to_pylist() == [1.0, 2.0]
    assert read_predictions(into, "a").table.to_pydict() == CLASSES
    again = folder.with_name("again")
    again.mkdir()
    assert pack(into, ["a", "b"], again) == {PREDICTIONS: 2, DIRECTIONS: 1}
    assert read_predictions(again, "b").table["prediction"].to_pylist() == [1.0, 2.0]


def test_a_joint_file_that_is_written_anew_is_read_anew(folder):
    into = joined(folder)
    assert read_predictions(into, "b").table["prediction"].to_pylist() == SCORES["prediction"]
    Sidecars(SCORES | {"prediction": [3.0, 4.0]}).write(folder, "b")
    joined(folder)
    assert read_predictions(into, "b").table["prediction"].to_pylist() == [3.0, 4.0]


@pytest.mark.parametrize("content", [b"", b"torn", b"PAR1torn"])
def test_a_damaged_file_is_named(folder, content):
    into = joined(folder)
    for path in (predictions_path(folder, "a"), into / PREDICTIONS):
        path.write_bytes(content)
        with pytest.raises(BenchError, match=rf"{path.name}: not readable predictions \(.*\); restore or remove"):
            read_predictions(path.parent if path.parent == into else folder, "a")
    (into / DIRECTIONS).write_bytes(content)
    with pytest.raises(BenchError, match=rf"{DIRECTIONS}: not readable vectors \(.*\); restore or remove"):
        read_directions(into, "a")


@pytest.mark.parametrize(
    ("columns", "says"),
    [({"row": [0]}, "id"), ({"id": ["a", "b", "a"], "label": [1, 1, 1]}, "a cell is in it twice")],
)
def test_a_joint_file_without_identities_or_with_one_twice_is_refused(tmp_path, columns, says):
    pq.write_table(pa.table(columns), tmp_path / PREDICTIONS)
    with pytest.raises(BenchError, match=rf"not readable predictions \(.*{says}"):
        read_predictions(tmp_path, "a")

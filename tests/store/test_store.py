"""Records are durable, unique and readable after any death of the writer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.schema.resolved import ResolvedSuite
from bench.store.sidecars import Sidecars
from bench.store.store import open_store, read_records, read_run, read_suite

SUITE = ResolvedSuite.model_validate(
    {"name": "s", "methods": ["full"], "baseline": "full", "backbone": {"name": "tiny"}}
)


def score(identity="a", **changes):
    method = {"label": "full", "name": "full", "config": {}, "class": "m:C", "distribution": "d", "version": "1"}
    values = {
        "id": identity, "suite": "s", "status": "ok", "backbone": None, "method": method, "environment": {},
        "started": "t", "ended": "t", "task": None, "task_name": "sst2", "recipe": {}, "seed": 0, "score": 0.5,
    }  # fmt: skip
    return ScoreRecord.model_validate(values | changes)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score(metrics={"accuracy": 0.5}), Sidecars({"row": [0], "label": [1], "prediction": [1]}))
    run = read_run(tmp_path)
    assert run.records == (score(metrics={"accuracy": 0.5}),)
    assert run.suite == SUITE
    assert (tmp_path / "predictions" / "a.parquet").exists()


def test_a_record_is_never_written_twice(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
        store.append(score())
    assert len(read_records(tmp_path / "records.jsonl")) == 1


@given(cut=st.integers(min_value=1, max_value=200))
def test_a_torn_last_line_is_cut_and_the_rest_stands(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    with open_store(folder, SUITE) as store:
        store.append(score("a"))
        store.append(score("b"))
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [r.id for r in read_records(path)] == ["a"]
    with open_store(folder, SUITE) as store:
        assert "a" in store
        assert "b" not in store
        store.append(score("c"))
    assert [r.id for r in read_records(path)] == ["a", "c"]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with open_store(tmp_path, SUITE), pytest.raises(BenchError, match="another run is writing here"):
        with open_store(tmp_path, SUITE):
            raise AssertionError("two writers")


def test_another_suite_in_the_same_folder_is_refused(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    with pytest.raises(BenchError, match=r"holds a different suite \(baseline differ\)"):
        with open_store(tmp_path, SUITE.changed(baseline="head")):
            raise AssertionError("mixed suites")
    assert len(read_run(tmp_path).records) == 1


@pytest.mark.parametrize(("first", "word"), [(False, "with"), (True, "without")])
def test_a_folder_of_counts_alone_says_so(tmp_path, first, word):
    counted, timed = ({"cost": [{"batch": 2, "length": 8, "timed": flag}]} for flag in (False, True))
    with open_store(tmp_path, SUITE.changed(**(timed if first else counted))):
        pass
    with pytest.raises(BenchError, match=rf"\(cost differ; it was begun {word} --counts\); give another --out"):
        with open_store(tmp_path, SUITE.changed(**(counted if first else timed))):
            raise AssertionError("mixed suites")


def test_a_search_over_more_rates_goes_on_and_one_over_others_is_refused(tmp_path):
    grid = {"learning_rates": [1e-3, 1e-2], "head_learning_rates": [1e-2], "seeds": [100]}
    with open_store(tmp_path, SUITE.changed(tuning=grid)) as store:
        store.append(score())
    wider = {**grid, "learning_rates": [1e-4, 1e-3, 1e-2], "head_learning_rates": [1e-3, 1e-2]}
    with open_store(tmp_path, SUITE.changed(tuning=wider)) as store:
        assert "a" in store
    assert read_suite(tmp_path).tuning == wider
    with open_store(tmp_path, SUITE.changed(tuning={**wider, "learning_rates": [1e-3, 1e-2, 1e-4, 1e-5]}), fresh=True):
        assert len(list(tmp_path.glob("suite-*.toml"))) == len(list(tmp_path.glob("records-*.jsonl"))) == 1
    wider["learning_rates"] = [1e-3, 1e-2, 1e-4, 1e-5]
    for other in (grid, {}, {**wider, "seeds": [101]}, {**wider, "learning_rates": [1e-4, 1e-3, 3e-2]}):
        with pytest.raises(BenchError, match=r"holds a different suite \(tuning differ\)"):
            with open_store(tmp_path, SUITE.changed(tuning=other)):
                raise AssertionError("a search that lacks trials of its folder")
    with pytest.raises(BenchError, match=r"holds a different suite \(baseline, tuning differ\)"):
        with open_store(tmp_path, SUITE.changed(baseline="head", tuning={**wider, "head_learning_rates": [1.0]})):
            raise AssertionError("mixed suites")


def test_fresh_sets_earlier_records_aside(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    with open_store(tmp_path, SUITE, fresh=True) as store:
        assert "a" not in store
    assert len(list(tmp_path.glob("records-*.jsonl"))) == 1


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be written"):
        with open_store(tmp_path / "file" / "run", SUITE):
            raise AssertionError("written into a file")


def test_a_fault_of_the_run_is_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(BrokenPipeError), open_store(tmp_path, SUITE):
        raise BrokenPipeError(32, "Broken pipe")
    with open_store(tmp_path, SUITE) as store:  # the lock was given back
        assert not store.records


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    with open_store(tmp_path, SUITE) as store:
        store.append(score("a"))

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(BenchError, match=r"cannot be written .No space left on device.; free space"):
            store.append(score("b"))
        monkeypatch.undo()
        store.append(score("b"))
    assert [r.id for r in read_records(tmp_path / "records.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[]", "schema None; this version reads schema 1"),
        ("{}", "schema None"),
        ('{"schema": 99}', "schema 99"),
        ("not json", "not a JSON record"),
        ('{"schema": 1, "kind": "score"}', "fields do not fit"),
        ('{"schema": 1, "kind": "other"}', "fields do not fit"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, sentence):
    path = tmp_path / "records.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(BenchError, match=rf"records.jsonl:1: .*{sentence}"):
        read_records(path)


@given(st.binary(max_size=200))
def test_any_bytes_give_records_or_a_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hostile") / "records.jsonl"
    path.write_bytes(content)
    try:
        read_records(path)
    except BenchError as error:
        assert "records.jsonl" in str(error)


def test_a_resolved_suite_of_wrong_types_is_named(tmp_path):
    (tmp_path / "suite.toml").write_text('name = "s"\nmethods = 1\nbaseline = "full"\nbackbone = {}\n')
    with pytest.raises(BenchError, match=r"suite.toml: methods = 1 is damaged"):
        read_run(tmp_path)


def test_a_repeated_identity_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    line = score().model_dump_json(by_alias=True)
    path.write_text(f"{line}\n{line}\n")
    with pytest.raises(BenchError, match="is listed twice"):
        read_records(path)


def test_records_are_plain_json_with_the_names_of_the_design(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    values = json.loads((tmp_path / "records.jsonl").read_text())
    assert {"schema", "kind", "id", "status", "method", "recipe", "seed", "environment"} <= values.keys()
    assert values["method"]["class"] == "m:C"

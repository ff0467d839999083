"""Records are durable, unique and readable after any death of the writer."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.schema.record import ScoreRecord
from bench.schema.resolved import ResolvedSuite
from bench.store.sidecars import Sidecars
from bench.store.store import RETRIED, open_store, read_records, read_run, read_suite

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


def test_what_records_have_in_common_is_held_once_and_what_differs_apart(tmp_path):
    recipes = ({"rate": 1}, {"rate": 1}, {"rate": 1.0})
    with open_store(tmp_path, SUITE) as store:
        for number, recipe in enumerate(recipes):
            store.append(score(str(number), recipe=recipe, environment={"threads": 2}))
    first, second, third = read_records(tmp_path / "records.jsonl")
    assert first.method is second.method is third.method
    assert first.environment is third.environment
    assert first.recipe is second.recipe
    assert repr(third.recipe) == "{'rate': 1.0}"
    assert first.model_fields_set == set(ScoreRecord.model_fields)


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
        ('{"schema": 1, "kind": "other"}', "'kind' = 'other' is none of 'score'"),
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


WHOLE = tomli_w.dumps(SUITE.plain())


@pytest.fixture
def begun(tmp_path):
    """A run folder with one record."""
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    return tmp_path


@pytest.fixture
def written(monkeypatch):
    """Names of what was synced or put in its place, in this order."""
    names, sync, put = [], os.fsync, Path.replace

    def synced(number):
        names.append("sync " + Path(f"/proc/self/fd/{number}").readlink().name)
        sync(number)

    def replaced(path, target):
        names.append(f"put {Path(target).name}")
        return put(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return names


def test_a_suite_is_on_the_disk_before_it_takes_its_place_and_is_written_once(tmp_path, written):
    with open_store(tmp_path, SUITE):
        assert written == ["sync suite.partial", "put suite.toml", f"sync {tmp_path.name}"]
    written.clear()
    with open_store(tmp_path, SUITE):
        assert written == []


def test_what_lies_beside_a_record_is_on_the_disk_with_its_folder_before_the_record(tmp_path, written):
    with open_store(tmp_path, SUITE) as store:
        written.clear()
        store.append(score(), Sidecars({"row": [0], "label": [1], "prediction": [1]}))
    assert written == [
        f"sync {tmp_path.name}", "sync a.partial", "put a.parquet", "sync predictions",
        "sync records.jsonl", f"sync {tmp_path.name}",
    ]  # fmt: skip


def test_a_disk_that_takes_no_suite_leaves_the_one_that_stands(begun, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=r"cannot be written .No space left on device"):
        with open_store(begun, SUITE.changed(baseline="head"), fresh=True):
            raise AssertionError("opened on a full disk")
    monkeypatch.undo()
    aside = [path for path in begun.glob("suite-*.toml") if path.read_text() == WHOLE]
    assert aside or (begun / "suite.toml").read_text() == WHOLE


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("cut", [0, 1, len(WHOLE) // 2, WHOLE.index("\n") + 1, len(WHOLE) - 1])
def test_a_suite_that_was_cut_short_beside_whole_records_is_made_anew(begun, cut, fresh):
    (begun / "suite.toml").write_text(WHOLE[:cut])
    with open_store(begun, SUITE, fresh=fresh, wanted={"a"}) as store:
        assert ("a" in store) is not fresh
    assert (begun / "suite.toml").read_text() == WHOLE


@pytest.mark.parametrize("cut", [0, 1, None])
def test_a_suite_that_was_cut_short_is_not_made_anew_beside_records_of_another(begun, cut):
    (begun / "suite.toml").unlink()
    if cut is not None:
        (begun / "suite.toml").write_text(WHOLE[:cut])
    with pytest.raises(BenchError, match="records beside it are not of this suite as it is now; give another --out or"):
        with open_store(begun, SUITE, wanted={"b"}):
            raise AssertionError("mixed suites")


@pytest.mark.parametrize("damaged", [b"baseline = ", b"\xff\x00", b'baseline = "full"\n'])
def test_fresh_sets_a_damaged_suite_aside_where_records_say_that_it_is_a_run_s(begun, damaged):
    (begun / "suite.toml").write_bytes(damaged)
    with pytest.raises(BenchError, match="or --fresh"):
        with open_store(begun, SUITE.changed(baseline="head"), wanted={"b"}):
            raise AssertionError("opened with a damaged suite")
    with open_store(begun, SUITE.changed(baseline="head"), fresh=True) as store:
        assert not store.records
    (aside,) = begun.glob("suite-*.toml")
    assert aside.read_bytes() == damaged
    assert read_suite(begun) == SUITE.changed(baseline="head")


def test_what_fresh_refuses_stays_where_it_was(tmp_path):
    (tmp_path / "suite.toml").write_text("# mine\n[[method]]\n")
    with pytest.raises(BenchError, match="holds a different suite"):
        with open_store(tmp_path, SUITE, fresh=True):
            raise AssertionError("written over it")
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["suite.toml"]


def gone(folder):
    shutil.rmtree(folder)


def made_anew(folder):
    folder.rename(folder.with_name("moved"))
    folder.mkdir()


def without_records(folder):
    (folder / "records.jsonl").unlink()


def with_others(folder):
    with (folder / "records.jsonl").open("a") as file:
        file.write(score("of another").model_dump_json(by_alias=True) + "\n")


@pytest.mark.parametrize("change", [gone, made_anew, without_records, with_others])
def test_a_folder_that_is_removed_or_replaced_under_a_run_ends_it_with_a_sentence(tmp_path, change):
    folder = tmp_path / "run"
    with pytest.raises(
        BenchError, match=r"run: the folder or its records.jsonl was removed, replaced or changed while"
    ):
        with open_store(folder, SUITE) as store:
            store.append(score("a"))
            change(folder)
            store.append(score("b"), Sidecars({"row": [0], "label": [1], "prediction": [1]}))
    assert not (folder / "predictions").exists()


def test_records_to_be_repeated_are_moved_to_an_archive_byte_for_byte(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        for identity in "abcd":
            store.append(score(identity))
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    with open_store(tmp_path, SUITE) as store:
        store.set_aside({"b", "d"})
        assert [record.id for record in store.records] == ["a", "c"]
        assert "b" not in store
        store.append(score("b", score=0.75))
        store.set_aside({"b"})
        store.append(score("b", score=0.875))
    found = [(record.id, record.score) for record in read_records(tmp_path / "records.jsonl")]
    assert found == [("a", 0.5), ("c", 0.5), ("b", 0.875)]
    archive = (tmp_path / RETRIED).read_bytes().splitlines(keepends=True)
    assert archive[:2] == [lines[1], lines[3]]
    assert len(archive) == 3


def test_a_disk_that_fails_while_records_are_moved_loses_none(begun, monkeypatch):
    before = (begun / "records.jsonl").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with open_store(begun, SUITE) as store:
        monkeypatch.setattr("bench.store.store.write_whole", full)
        with pytest.raises(BenchError, match="cannot be written"):
            store.set_aside({"a"})
        assert "a" in store
    assert (begun / "records.jsonl").read_bytes() == before

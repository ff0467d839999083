"""Faults become records, the run goes on, and whatever dies, the same command ends every cell exactly once."""

import importlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from importlib.machinery import ModuleSpec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from bench.execute.runner import Result, remaining, run_jobs, warm_up
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.report.charts import catalogue as plots
from bench.store.store import open_store, read_records, read_run
from tests.execute.test_workers import lives
from tests.factories.command import Started, bench, forked, printed, workers

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
question = "Does a fault stay where it is?"
baseline = "full"
tasks = ["sst2"]
seeds = {seeds}
data = "synthetic"
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 4
batch_size = 4
max_length = 16
train_rows = 32
test_rows = 16
timeout_seconds = 300.0
{methods}
"""
FAULTS = {"Raises": "failed", "OutOfMemory": "oom", "Killed": "crashed", "NotANumber": "nan"}
REASONS = {
    "Talks": "apply() of the method raises ValueError: word word ",
    "CannotSay": "apply() of the method raises Unspeakable: its message cannot be read, which raises RuntimeError",
    "Surrogates": "apply() of the method raises ValueError: half of a pair: ?",
    "RaisesNoException": "apply() of the method raises Odd: neither an error nor a signal",
    "StartsAProcess": "apply() of the method raises ValueError: left one behind",
}
"""Of methods that fail in an odd way, how the reasons of their records begin."""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """The faulty methods as an installed distribution: of this process, of its workers and of what it starts."""
    site = tmp_path / "site"
    info = site / "faulty-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "faulty_plugin.py").write_text((ROOT / "tests" / "factories" / "faulty_plugin.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0.1\n")
    names = [*FAULTS, *REASONS, "Hangs", "Slow", "Mended", "Rests"]
    points = "\n".join(f"{name.lower()} = faulty_plugin:{name}" for name in names)
    (info / "entry_points.txt").write_text(f"[bench.methods]\n{points}\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ROOT}")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    yield site
    sys.modules.pop("faulty_plugin", None)


@pytest.fixture
def undrawn(monkeypatch):
    """Reports of this process without their figures."""
    monkeypatch.setattr(plots, "draw", lambda run, change=None: [])


def suite_file(tmp_path, names, seeds="[0]"):
    path = tmp_path / "faults.toml"
    methods = "\n".join(f'[[method]]\nname = "{name}"' for name in names)
    path.write_text(SUITE.format(seeds=seeds, methods=methods))
    return path


def asked(suite, out):
    return "run", "--suite", str(suite), "--out", str(out), "--workers", "2"


def test_every_fault_becomes_a_record_the_run_goes_on_and_json_keeps_stdout_for_programs(tmp_path, faulty, svg_alone):
    suite = suite_file(tmp_path, ["full", *(f"faulty/{name.lower()}" for name in (*FAULTS, *REASONS)), "head"])
    run = tmp_path / "run"
    heard, shown = tmp_path / "heard", tmp_path / "shown"
    process = Started(*asked(suite, run), "--json", heard=heard, shown=shown)
    assert process.wait() == 1, heard.read_text()
    assert "a method's own print" in printed(2)
    assert "a method's own print" not in printed(1)
    summary = json.loads(shown.read_text())
    assert all(Path(path).exists() for path in (*summary["plots"], summary["report"]))
    records = {record.method.label: record for record in read_run(run).records}
    assert {label.removeprefix("faulty/"): r.status for label, r in records.items()} == {
        "full": "ok", "head": "ok", **{name.lower(): status for name, status in FAULTS.items()},
        **{name.lower(): "failed" for name in REASONS},
    }  # fmt: skip
    for name, reason in REASONS.items():
        record = records[f"faulty/{name.lower()}"]
        assert record.reason.startswith(reason)
        assert len(record.reason) <= 500
        assert "faulty_plugin.py" in record.traceback
        assert len(record.traceback) <= 20_000
    (left,) = (faulty / "left").read_text().split()
    assert not lives(int(left))
    assert summary["records"] == len(records)
    assert set(summary["failed"]) == {record.id for record in records.values() if record.status != "ok"}
    assert records["faulty/raises"].reason == "apply() of the method raises ValueError: this method is broken"
    assert "faulty_plugin.py" in records["faulty/raises"].traceback
    assert "SIGKILL" in records["faulty/killed"].reason
    again = bench(*asked(suite, run), code=1).stdout  # what failed is a result: it is shown, not tried again
    assert "nothing to do (use --fresh to run again)" in again
    for name, status in FAULTS.items():
        assert f"faulty/{name.lower()}" in again
        assert status in again


def test_what_runs_longer_than_its_time_is_ended_and_the_others_go_on(tmp_path, faulty):
    suite = suite_file(tmp_path, ["full", "faulty/hangs", "head"])
    cells = make_plan(load_suite(str(suite)), "faults", "cpu").cells
    assert {cell.timeout_seconds for cell in cells} == {300.0}
    timed = [
        cell.model_copy(update={"timeout_seconds": 1.0}) if cell.method.label == "faulty/hangs" else cell
        for cell in cells
    ]
    events = run_jobs(workers(), timed, workers=2)
    records = {event.job.method.label: event.record for event in events if isinstance(event, Result)}
    assert {label: record.status for label, record in records.items()} == {
        "full": "ok", "faulty/hangs": "timeout", "head": "ok",
    }  # fmt: skip
    assert records["faulty/hangs"].reason == "ran longer than 1 s"


def test_records_that_a_kill_has_spoilt_are_repeated_without_the_others(tmp_path, faulty, undrawn):
    suite, run = tmp_path / "costs.toml", tmp_path / "run"
    suite.write_text(COSTS + "\n".join(f'[[method]]\nname = "{name}"' for name in ("full", "faulty/mended", "head")))
    bench(*asked(suite, run), code=1)
    before = read_run(run).records
    assert {record.method.label: record.status for record in before} == {
        "full": "ok", "faulty/mended": "crashed", "head": "ok",
    }  # fmt: skip
    spoilt = next(record for record in before if record.status == "crashed")
    assert "--retry crashed repeats 1 crashed record" in bench(*asked(suite, run), code=1).stdout
    assert (
        "--retry: no record here is oom or timeout"
        in bench(*asked(suite, run), "--retry", "oom,timeout", code=1).stdout
    )
    (faulty / "mended").touch()
    shown = bench(*asked(suite, run), "--retry", "crashed,oom").stdout
    assert "repeats 1 crashed record; what they were is in retried.jsonl" in shown
    assert "1 costs to do, 2 already done" in shown
    after = read_run(run).records
    assert after[:2] == tuple(record for record in before if record.status == "ok")
    assert (after[2].id, after[2].status) == (spoilt.id, "ok")
    assert read_records(run / "retried.jsonl") == [spoilt]


def wait_for_records(path, count):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no record came")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_run_that_was_stopped_resumes_to_every_cell_once(tmp_path, faulty, undrawn, number, code):
    suite = suite_file(tmp_path, ["full", "faulty/slow", "head"], seeds="[0, 1, 2]")
    run = tmp_path / "run"
    process = Started(*asked(suite, run), heard=tmp_path / "heard")
    wait_for_records(run / "records.jsonl", 3)
    process.send_signal(number)
    assert process.wait() == code
    said = (tmp_path / "heard").read_text()
    before = read_records(run / "records.jsonl")
    assert 3 <= len(before) < 9
    if code > 0:
        told = r"interrupted: (\d) of 9 records are kept; the same command resumes"
        kept = re.fullmatch(told, said.splitlines()[-1])
        assert int(kept[1]) in (len(before), len(before) - 1)  # the last may still be on its way to the disk
    bench(*asked(suite, run))
    records = read_run(run).records
    assert list(records[: len(before)]) == before
    cells = Counter((record.method.label, record.seed) for record in records)
    assert len(cells) == 9
    assert set(cells.values()) == {1}
    assert "nothing to do (use --fresh to run again)" in bench(*asked(suite, run)).stdout


COSTS = """
question = "Is a cost kept once it is measured?"
[backbone]
name = "tiny"
weights = "random"
[[cost]]
batch = 2
length = 8
timed = false
"""


def test_costs_that_were_measured_before_a_kill_are_kept_and_the_others_are_measured_once(tmp_path, faulty, undrawn):
    suite, run = tmp_path / "costs.toml", tmp_path / "run"
    labels = ["full", "head", "faulty/slow", "bitfit", "ia3"]
    suite.write_text(COSTS + "\n".join(f'[[method]]\nname = "{label}"' for label in labels))
    process = Started(*asked(suite, run), heard=os.devnull)
    wait_for_records(run / "records.jsonl", 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_records(run / "records.jsonl")
    assert 2 <= len(before) < len(labels)
    plan = make_plan(load_suite(str(suite)), "costs", "cpu")
    with open_store(run, plan.suite) as store:
        (owed,) = remaining(plan, store).probes
    assert [method.label for method in owed.methods] == labels[len(before) :]
    bench(*asked(suite, run))
    records = read_run(run).records
    assert list(records[: len(before)]) == before
    assert [(record.method.label, record.status) for record in records] == [(label, "ok") for label in labels]


def test_a_method_that_kills_its_process_costs_no_other_its_record(tmp_path, faulty, undrawn):
    suite, run = tmp_path / "costs.toml", tmp_path / "run"
    suite.write_text(COSTS + "\n".join(f'[[method]]\nname = "{name}"' for name in ("full", "faulty/killed", "head")))
    bench(*asked(suite, run), code=1)
    found = {record.method.label: record.status for record in read_run(run).records}
    assert found == {"full": "ok", "faulty/killed": "crashed", "head": "ok"}


class Empty:
    """Finds an empty module for each library of data and prints the name of what is asked for."""

    def find_spec(self, name, path, target=None):
        if name not in ("datasets", "evaluate"):
            return None
        sys.stdout.write(f"{name}\n")
        return ModuleSpec(name, self)

    def create_module(self, spec):
        """As any module."""

    def exec_module(self, module):
        """With nothing inside."""


def preload():
    """What the fork server imports for its workers, with empty libraries of data."""
    for name in ("bench.execute.warm", "datasets", "evaluate"):
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Empty())
    importlib.import_module("bench.execute.warm")


@pytest.mark.parametrize(("name", "cells"), [("cost-bert-base", False), ("smoke", True)])
def test_data_libraries_are_warmed_for_a_suite_with_cells_alone(monkeypatch, name, cells):
    loaded = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(ForkServerContext, "set_forkserver_preload", lambda self, names: loaded.extend(names))
    monkeypatch.setenv("BENCH_WARM_MODEL_TYPE", "")
    monkeypatch.setenv("BENCH_WARM_CELLS", "")
    warm_up(load_suite(name))
    assert loaded == ["bench.execute.warm"]
    assert forked(preload).split() == ["datasets", "evaluate"] * cells

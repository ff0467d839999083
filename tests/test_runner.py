"""Faults become records, the run goes on, and whatever dies, the same command ends every cell exactly once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from bench.runner import warm_up
from bench.store import read_records, read_run
from bench.suite import load_suite

ROOT = Path(__file__).resolve().parents[1]
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
timeout_seconds = 20.0
{methods}
"""
FAULTS = {"Raises": "failed", "OutOfMemory": "oom", "Killed": "crashed", "Hangs": "timeout", "NotANumber": "nan"}


@pytest.fixture
def environment(tmp_path):
    """Environment in which the faulty methods are an installed distribution."""
    site = tmp_path / "site"
    info = site / "faulty-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "faulty_plugin.py").write_text((ROOT / "tests" / "faulty_plugin.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0.1\n")
    names = [*FAULTS, "Slow"]
    points = "\n".join(f"{name.lower()} = faulty_plugin:{name}" for name in names)
    (info / "entry_points.txt").write_text(f"[bench.methods]\n{points}\n")
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "ignore"}


def suite_file(tmp_path, names, seeds="[0]"):
    path = tmp_path / "faults.toml"
    methods = "\n".join(f'[[method]]\nname = "{name}"' for name in names)
    path.write_text(SUITE.format(seeds=seeds, methods=methods))
    return path


def command(suite, out):
    return [sys.executable, "-m", "bench", "run", "--suite", str(suite), "--out", str(out), "--workers", "2"]


def test_every_fault_becomes_a_record_and_the_run_goes_on(tmp_path, environment):
    suite = suite_file(tmp_path, ["full", *(f"faulty/{name.lower()}" for name in FAULTS), "head"])
    done = subprocess.run(
        command(suite, tmp_path / "run"), env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1, done.stderr
    records = {record.method.label: record for record in read_run(tmp_path / "run").records}
    assert {label.removeprefix("faulty/"): r.status for label, r in records.items()} == {
        "full": "ok", "head": "ok", **{name.lower(): status for name, status in FAULTS.items()},
    }  # fmt: skip
    assert records["faulty/raises"].reason == "ValueError: this method is broken"
    assert "faulty_plugin.py" in records["faulty/raises"].traceback
    assert "SIGKILL" in records["faulty/killed"].reason
    assert records["faulty/hangs"].reason == "ran longer than 20 s"
    for name, status in FAULTS.items():
        assert f"faulty/{name.lower()}" in done.stdout
        assert status in done.stdout


def wait_for_records(path, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no record came")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_was_stopped_resumes_to_every_cell_once(tmp_path, environment, number, code):
    suite = suite_file(tmp_path, ["full", "faulty/slow", "head"], seeds="[0, 1, 2]")
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(suite, run), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_records(run / "records.jsonl", 3)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    before = read_records(run / "records.jsonl")
    assert 3 <= len(before) < 9
    again = subprocess.run(command(suite, run), env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    records = read_run(run).records
    assert list(records[: len(before)]) == before
    cells = Counter((record.method.label, record.seed) for record in records)
    assert len(cells) == 9
    assert set(cells.values()) == {1}
    finished = subprocess.run(command(suite, run), env=environment, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0
    assert "nothing to do; --fresh repeats" in finished.stdout


def test_json_keeps_stdout_for_programs(tmp_path, environment):
    suite = suite_file(tmp_path, ["full"])
    done = subprocess.run(
        [*command(suite, tmp_path / "run"), "--json"], env=environment, capture_output=True, text=True, timeout=240
    )
    summary = json.loads(done.stdout)
    assert summary["records"] == 1
    assert summary["failed"] == []
    assert all(Path(path).exists() for path in (*summary["plots"], summary["report"]))


@pytest.mark.parametrize(("name", "cells"), [("cost-bert-base", False), ("smoke", True)])
def test_data_libraries_are_warmed_for_a_suite_with_cells_alone(monkeypatch, name, cells):
    asked = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(ForkServerContext, "set_forkserver_preload", lambda self, names: asked.extend(names))
    monkeypatch.setenv("BENCH_WARM_MODEL_TYPE", "")
    warm_up(load_suite(name))
    assert asked == ["bench.executors.warm", *["bench.executors.warm_cells"] * cells]

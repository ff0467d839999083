"""The crash campaign sees what is wrong with a run, and kills real ones."""

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.execute.runner import _in_place
from bench.schema.jobs import Cell, sha256_of
from bench.store.kept import Keep
from bench.store.sidecars import Sidecars, predictions_path
from bench.store.store import open_store
from tools.crash import light
from tools.crash.__main__ import owed, possible, read
from tools.crash.ray_trial import cluster, ray_trial, unlike
from tools.crash.trial import KILLED, Outcome, shared_memory, trial, wrong

PLAN = light.plan()
CELL = PLAN.cells[0].id


@pytest.fixture
def run(tmp_path):
    """The folder of a run of the plan, as the command leaves it."""
    keep = Keep(tmp_path / "run", "all", sha256_of("suite"))
    with open_store(keep.folder, PLAN.suite) as store:
        for job in PLAN.jobs:
            for record in light.records(job):
                if isinstance(job, Cell):
                    light.keep_trained(job, keep)
                    _in_place(keep, job.id)
                    store.append(record, light.sidecars(job))
                else:
                    store.append(record)
    return keep.folder


def lines(run):
    return (run / "records.jsonl").read_bytes().split(b"\n")[:-1]


def rewritten(run, kept):
    (run / "records.jsonl").write_bytes(b"".join(line + b"\n" for line in kept))


def test_a_run_that_nobody_disturbed_is_sound(run):
    assert wrong(run, lines(run)) == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda run: rewritten(run, lines(run)[:-1]), "lost: "),
        (lambda run: rewritten(run, [*lines(run), lines(run)[0]]), "is listed twice"),
        (lambda run: rewritten(run, [line.replace(b'"delta_bytes":4', b'"delta_bytes":5') for line in lines(run)]),
         "corrupt: "),
        (lambda run: rewritten(run, [line[:-3] for line in lines(run)]), "corrupt: "),
        (lambda run: (run / "kept" / CELL / "delta.safetensors").write_bytes(b""), "delta.safetensors: damaged"),
        (lambda run: (run / "kept" / CELL / "delta.safetensors").unlink(), "lost: kept/"),
        (lambda run: (run / "kept" / CELL / "delta.json").unlink(), "lost: kept/"),
        (lambda run: predictions_path(run, CELL).unlink(), f"corrupt: predictions of {CELL[:12]}"),
        (lambda run: predictions_path(run, CELL).write_bytes(b"PAR1"), f"corrupt: predictions of {CELL[:12]}"),
        (lambda run: Sidecars({"prediction": [0] * light.ROWS}).write(run, CELL), "corrupt: predictions"),
        (lambda run: (run / "predictions" / "x.partial").write_bytes(b""), "left behind: predictions/x.partial"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_seen(run, damage, fault):
    seen = lines(run)
    damage(run)
    assert fault in "; ".join(wrong(run, seen))


def test_shared_memory_that_nobody_maps_is_seen():
    before = shared_memory()
    program = "from multiprocessing import shared_memory as s, resource_tracker as t; import os; t.register = print; "
    program += "m = s.SharedMemory(create=True, size=64); print(m.name, flush=True); os._exit(0)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    name = said.split()[-1]
    try:
        assert name in shared_memory() - before
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path("/dev/shm", name).unlink()


@pytest.mark.parametrize("kills", [0, 1, 3, 7, 200])
def test_as_many_runs_are_killed_as_are_asked_for(kills):
    assert len(owed(kills, 0, 0, [])) == kills


@pytest.mark.parametrize("content", ["not JSON\n", "[]\n", '{"kind": "driver"}\n', '{"x": 1}\n'])
def test_a_file_that_holds_no_trials_is_refused_with_a_sentence(tmp_path, content):
    path = tmp_path / "crash.jsonl"
    path.write_text(content)
    with pytest.raises(BenchError, match=r"crash.jsonl: holds no trials \("):
        read(path)


def test_what_is_owed_is_what_the_file_does_not_hold(tmp_path):
    path = tmp_path / "crash.jsonl"
    path.write_text('{"kind": "driver", "number": 0, "kills": 1, "codes": [-9, 0], "faults": [], "sockets_left": 0}\n')
    assert read(path) == [Outcome("driver", 0, 1, [-9, 0])]
    todo = owed(8, 1, 3, read(path))
    assert len(todo) == 8 - 1 + 4 + 3
    assert ("driver", 0) not in todo
    assert {kind for kind, _ in todo} >= {*KILLED, "Ctrl-C", "full disk"}
    assert [number for kind, number in todo if kind == "Ray worker"] == [0, 1, 2]


def test_without_ray_its_trials_are_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert possible(owed(4, 0, 2, [])) == [(kind, 0) for kind in KILLED]
    assert capsys.readouterr().out.startswith("without trials of Ray workers: they take the extra ray (python -m pip ")


@pytest.fixture
def again(run, tmp_path):
    """The folder of a second run that gave the same; its moments differ."""
    folder = tmp_path / "again"
    shutil.copytree(run, folder)
    records = [json.loads(line) | {"started": "2026-01-01T00:00:00+00:00"} for line in lines(run)]
    rewritten(folder, [json.dumps(record).encode() for record in records])
    return folder


def test_a_run_that_gave_what_an_undisturbed_one_gave_is_sound(again, run):
    assert unlike(again, run) == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda run: rewritten(run, lines(run)[:-1]), "lost: "),
        (lambda run: rewritten(run, [*lines(run), lines(run)[0]]), "is listed twice"),
        (lambda run: rewritten(run, [line.replace(b'"delta_bytes": 4', b'"delta_bytes": 5') for line in lines(run)]),
         "other figures: "),
        (lambda run: rewritten(run, [lines(run)[-1].replace(b'"ok"', b'"crashed"', 1), *lines(run)[:-1]]),
         "other figures: "),
        (lambda run: (run / "kept" / CELL / "delta.safetensors").write_bytes(b""), "delta.safetensors: damaged"),
        (lambda run: (run / "kept" / CELL / "delta.json").unlink(), f"lost: kept/{CELL}/delta.json"),
        (lambda run: predictions_path(run, CELL).unlink(), f"lost: predictions/{CELL}"),
        (lambda run: Sidecars({"prediction": [0] * light.ROWS}).write(run, CELL), "corrupt: predictions"),
        (lambda run: (run / "predictions" / "x.partial").write_bytes(b""), "left behind: predictions/x.partial"),
    ],
)  # fmt: skip
def test_each_way_in_which_a_run_on_ray_is_unlike_an_undisturbed_one_is_seen(again, run, damage, fault):
    damage(again)
    assert fault in "; ".join(unlike(again, run))


@pytest.mark.parametrize("kind", ["driver", "worker"])
def test_a_run_that_is_killed_loses_nothing(kind, tmp_path):
    outcome = trial(kind, 0, 0, tmp_path, startup=1.0)
    assert outcome.faults == []
    assert outcome.codes[-1] == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_whose_ray_workers_are_killed_loses_nothing(tmp_path):
    pytest.importorskip("ray")
    # Ray's sockets lie in the cluster's folder, and a path of theirs has 107 characters at most
    with tempfile.TemporaryDirectory() as place, cluster(Path(place)) as there:
        outcome = ray_trial(0, 0, tmp_path, there)
    assert outcome.faults == []
    assert outcome.kills > 0
    assert outcome.codes[-1] == 0

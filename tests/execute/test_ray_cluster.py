"""A Ray cluster of two nodes on this machine: whatever is lost, every cell ends once, with the bits of a local run."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime

import psutil
import pytest

from bench.execute.ray_wire import connected
from bench.execute.run import selected
from bench.execute.runner import Progress, Result, run_jobs
from bench.plan.planner import make_plan
from bench.plan.select import Selection
from bench.store.store import read_records
from tests.execute.test_alone import figures
from tests.execute.test_runner import faulty, suite_file  # noqa: F401
from tests.factories.command import workers

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def two_nodes(faulty, tmp_path, monkeypatch):  # noqa: F811
    """Two nodes of a CPU each, whose workers know the faulty methods."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    nodes = (cluster.head_node, second)
    started = [one.process for node in nodes for held in node.all_processes.values() for one in held]
    yield cluster, second
    cluster.shutdown()
    for process in started:
        process.wait(60)


def planned(tmp_path, names, seeds):
    """A suite of methods and the baseline, and its cells: those of the methods before those of the baseline."""
    narrowed = selected(str(suite_file(tmp_path, [*names, "full"], seeds=str(list(range(seeds))))), Selection())
    cells = make_plan(narrowed, "faults", "cpu").cells
    return narrowed, sorted(cells, key=lambda cell: cell.method.label == "full")


def results(events):
    return [event.record for event in events if isinstance(event, Result)]


def below(node):
    """All that runs on a node."""
    (raylet,) = node.all_processes["raylet"]
    return psutil.Process(raylet.process.pid).children(recursive=True)


def lose(cluster, node):
    """End a node as a machine ends: with all that runs on it."""
    there = below(node)
    cluster.remove_node(node, allow_graceful=False)
    for process in there:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def in_the_midst(node, act):
    """Call ``act``, in a thread of its own, with the Ray worker that runs a job on a node, in the midst of a job."""

    def wait_and_act():
        found = None
        while found is None:
            for one in below(node):
                with contextlib.suppress(psutil.Error):  # one that has just ended
                    found = one if " ".join(one.cmdline()).startswith("ray::carry") else found
        time.sleep(2.0)  # one that was about to end has begun the next
        act(found)

    threading.Thread(target=wait_and_act).start()


def test_a_node_that_is_removed_and_a_worker_that_is_killed_cost_no_cell_and_no_bit(two_nodes, tmp_path, capfd):
    cluster, second = two_nodes
    narrowed, cells = planned(tmp_path, ["faulty/rests"], 5)
    records, anew = [], []
    with connected(narrowed, cluster.address) as there:
        for event in there.run_jobs(cells):
            if isinstance(event, Progress):
                anew += [event.line] if "begins anew" in event.line else []
                continue
            records.append(event.record)
            if len(records) == 1:
                in_the_midst(second, lambda worker: lose(cluster, second))
            if len(records) == 3:  # the node that is left begins another one that rests
                in_the_midst(cluster.head_node, psutil.Process.kill)
    assert Counter(record.id for record in records) == Counter(cell.id for cell in cells)
    assert len(anew) == 2  # Ray may learn that a worker is gone before it learns that the node is
    assert anew[0] in ("begins anew: its node was lost", "begins anew: its Ray worker was killed")
    assert anew[1] == "begins anew: its Ray worker was killed"
    assert "raylet" not in "".join(capfd.readouterr())
    local = {record.id: record for record in results(run_jobs(workers(), cells, workers=2))}
    for record in records:
        assert record.status == "ok", record.reason
        assert figures(record) == figures(local[record.id])


def test_cells_of_some_seconds_take_little_more_than_on_one_machine(two_nodes, tmp_path):
    narrowed, cells = planned(tmp_path, ["faulty/rests"], 24)
    (first,) = results(run_jobs(workers(), cells[:1], workers=1))
    each = (datetime.fromisoformat(first.ended) - datetime.fromisoformat(first.started)).total_seconds()
    with connected(narrowed, two_nodes[0].address) as there:
        list(there.run_jobs(cells[-4:]))  # start-up is told apart
        since = time.monotonic()
        records = results(there.run_jobs(cells[:24]))
        spent = time.monotonic() - since
    assert {record.status for record in records} == {"ok"}
    assert len(records) == 24
    print(f"\n24 cells of {each:.1f} s on two workers: {spent:.1f} s, {spent / (12 * each):.3f} x the ideal")  # noqa: T201
    assert spent <= 1.15 * 12 * each


def test_two_thousand_trivial_cells_cost_little_each_and_the_driver_no_memory(two_nodes, tmp_path):
    narrowed, cells = planned(tmp_path, ["faulty/raises", "faulty/outofmemory"], 1000)
    cells = cells[:2000]  # those that fail at once
    memory, records = [], 0
    workers()
    since = time.monotonic()
    assert len(results(run_jobs(workers(), cells[:400], workers=2))) == 400
    local = (time.monotonic() - since) / 400
    with connected(narrowed, two_nodes[0].address) as there:
        list(there.run_jobs(cells[:4]))
        since = time.monotonic()
        for event in there.run_jobs(cells):
            records += isinstance(event, Result)
            if isinstance(event, Result) and records % 200 == 0:
                memory.append(psutil.Process().memory_info().rss)
        each = (time.monotonic() - since) / 2000
    grown = max(memory) / memory[0] - 1
    print(f"\na cell {1e3 * each:.1f} ms, {1e3 * local:.1f} ms locally; memory {grown:+.1%}")  # noqa: T201
    assert records == 2000
    assert each - local < 0.05
    assert abs(grown) <= 0.1


def begun(suite, out, *words):
    """``run`` on Ray as a process of its own, once it has a record; what it says goes beside ``out``."""
    command = [sys.executable, "-m", "bench", "run", "--suite", suite, "--out", out, "--json", "--executor", "ray"]
    with out.with_suffix(".heard").open("w") as heard:
        process = subprocess.Popen([*map(str, [*command, *words])], stdout=subprocess.PIPE, stderr=heard)
    while process.poll() is None and not read_records(out / "records.jsonl"):
        time.sleep(0.1)
    assert process.poll() is None, out.with_suffix(".heard").read_text()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_as_elsewhere_and_leaves_no_process(faulty, tmp_path, number):  # noqa: F811
    process = begun(suite_file(tmp_path, ["full", "faulty/rests"], "[0, 1, 2]"), tmp_path / "run")
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.communicate()[0] == b""
    assert process.returncode == 128 + number
    heard = (tmp_path / "run.heard").read_text().splitlines()
    assert re.fullmatch(r"interrupted: \d of 6 records are kept; the same command resumes", heard[-1])
    assert not [line for line in heard if "ray" in line.lower() or "Traceback" in line]
    assert psutil.wait_procs(started, 60)[1] == []


def test_a_cluster_that_is_gone_ends_the_command_with_a_sentence(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # this one asks for none, and would never be heard with one
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    suite = suite_file(tmp_path, ["full", "faulty/rests"], str([*range(30)]))
    process = begun(suite, tmp_path / "run", "--address", two_nodes[0].address)
    two_nodes[0].head_node.kill_gcs_server(check_alive=False)
    assert process.communicate()[0] == b""
    assert process.returncode == 2
    assert "error: the Ray cluster is gone: nobody answers at " in (tmp_path / "run.heard").read_text()

"""What the driver of a Ray cluster decides, told by a cluster that is played; `test_ray_cluster` starts a real one."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

from bench.errors import BenchError
from bench.execute import fork_server, ray_cluster, ray_host, ray_wire, runner
from bench.execute.ray_cluster import (
    RETRIES,
    Cluster,
    Node,
    Request,
    Surveyed,
    alike,
    check_fits,
)
from bench.execute.ray_host import Order, Prepared, Setting, carry, survey, variables
from bench.execute.ray_wire import RayWire, Signals, connected
from bench.execute.run import place
from bench.execute.runner import Progress, Result, execute, remaining, run_jobs
from bench.plan.load import load_suite
from bench.plan.planner import SOURCES, make_plan
from bench.schema.jobs import Cell, Probe, Sweep, record_ids, source_hash
from bench.store import parcels
from bench.store.environment import environment, fingerprint, versions
from bench.store.kept import Keep, is_kept
from bench.store.store import open_store
from bench.training.cell import failure
from tests.execute.test_alone import SUITE, figures
from tests.factories.command import bench, workers

SETTING = Setting("bert", True, {}, "/", versions())
SMALL, LARGE = Node("small", 2, 0), Node("large", 8, 2)
LOST = ("lost", ("crashed", "its node was lost"))


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "jobs.toml"
    path.write_text(SUITE.replace("seeds = [0]", "seeds = [0, 1]"))
    return make_plan(load_suite(str(path)), str(path), "cpu")


def told(node, **hardware):
    """What a node says of itself."""
    seen = {"cpu": "c", "cores": node.cpus, "memory_bytes": 1, "gpus": []} | hardware
    return Surveyed(node, {"node": f"m-{node.id}", "hardware": seen, "versions": {"torch": "2"}, "threads": 1})


class Played:
    """A cluster whose jobs say what ``script`` has for them, one list for each time that they are started."""

    def __init__(self, *nodes, script=None):
        self.alive, self.script = list(nodes) or [SMALL], script or {}
        self.started, self.stopped, self.at_once = [], [], 0
        self.pause, self.asked = 0.0, []
        self._running = {}

    def nodes(self):
        return self.alive

    def surveyed(self, *, wait):
        self.asked.append(wait)
        return [told(node) for node in self.alive]

    def put(self, parcel):
        return {file.name: ["reference"] for file in parcel.files}

    def start(self, order, parts, request, node):
        job = ray_host.job_of(order.kind, order.job)
        nth = sum(before.job.id == job.id for before in self.started)
        self.started.append(SimpleNamespace(job=job, order=order, parts=parts, request=request, node=node))
        lines = self.script.get(job.id)
        lines = said(job) if lines is None or nth >= len(lines) else lines[nth]
        handle = object()
        self._running[handle] = list(lines)
        self.at_once = max(self.at_once, len(self._running))
        return handle

    def heard(self, handles, seconds):
        assert set(handles) == set(self._running)
        time.sleep(self.pause)
        for handle in handles:
            if self._running[handle]:
                message = self._running[handle].pop(0)
                if message[0] in ("ended", "lost"):
                    del self._running[handle]
                return [(handle, message)]
        return []

    def has_spoken(self, handle):
        return bool(self._running[handle])

    def stop(self, handle):
        self.stopped.append(self._running.pop(handle, None))


def records_of(job):
    """A record of each that ``job`` owes, of a node."""
    from bench.execute.runner import unfinished

    return [result.record for result in unfinished(job, set(), "failed", "as played", "2026-01-01T00:00:00+00:00")]


def said(job):
    """What a job says that goes well: a method that fails is a result."""
    lines = [("record", (record.model_dump_json(by_alias=True), None)) for record in records_of(job)]
    return [("began", "m-small"), ("ready", None), *lines, ("ended", None)]


def carried(wire, jobs, **options):
    return [*Cluster(wire, SETTING).run_jobs(jobs, **options)]


def results(events):
    return [event.record for event in events if isinstance(event, Result)]


def test_every_job_is_one_task_with_a_cpu_for_each_thread_spread_over_the_nodes(plan):
    wire = Played()
    for jobs in (plan.cells, plan.sweeps):
        records = results(carried(wire, jobs))
        assert [record.id for record in records] == [identity for job in jobs for identity in record_ids(job)]
    assert [one.job.id for one in wire.started] == [job.id for job in (*plan.cells, *plan.sweeps)]
    assert {(one.request, one.node) for one in wire.started} == {(Request(1, 0), None)}
    four = [cell.model_copy(update={"threads": 4, "device": "cuda"}) for cell in plan.cells]
    carried(wire := Played(LARGE), four)
    assert {one.request for one in wire.started} == {Request(4, 1)}


@pytest.mark.parametrize(("nodes", "asked", "most"), [([SMALL], None, 2), ([SMALL, LARGE], 3, 3), ([LARGE], None, 4)])
def test_no_more_jobs_are_started_than_the_nodes_have_room_for_and_workers_allow(plan, nodes, asked, most):
    carried(wire := Played(*nodes), plan.cells, workers=asked)
    assert wire.at_once == most


def test_a_lost_job_begins_anew_and_one_that_is_always_lost_is_recorded_with_its_node(plan):
    often, once = plan.cells[0], plan.cells[1]
    lost = [("began", "m-small"), LOST]
    wire = Played(script={often.id: [lost] * 9, once.id: [[LOST]]})
    events = carried(wire, plan.cells)
    records = {record.id: record for record in results(events)}
    assert records.keys() == {cell.id for cell in plan.cells}
    assert len(results(events)) == len(plan.cells)
    assert Counter(one.job.id for one in wire.started) == Counter({cell.id: 1 for cell in plan.cells}) + Counter(
        {often.id: RETRIES, once.id: 1}
    )
    crashed = records[often.id]
    assert (crashed.status, crashed.reason) == ("crashed", "lost 3 times: its node was lost")
    around = crashed.environment
    assert (around["node"], around["hardware"]["cores"], around["threads"]) == ("m-small", 2, often.threads)
    assert around["fingerprint"] == fingerprint({key: around[key] for key in ("versions", "hardware", "threads")})
    assert records[once.id].reason == "as played"
    anew = [event.line for event in events if isinstance(event, Progress) and "anew" in event.line]
    assert anew == ["begins anew: its node was lost"] * 3


def test_a_job_that_is_lost_before_any_node_is_known_names_none(plan, monkeypatch):
    wire = Played(script={plan.cells[0].id: [[LOST]] * 3})
    monkeypatch.setattr(wire, "surveyed", lambda *, wait: [])
    (record,) = results(carried(wire, plan.cells[:1]))
    assert record.environment == {"node": None, "threads": 1}


def test_what_a_method_does_is_a_result_and_is_not_tried_again(plan):
    records = results(carried(wire := Played(), plan.cells))
    assert {record.status for record in records} == {"failed"}
    assert len(wire.started) == len(plan.cells)


def test_a_job_that_a_node_says_nothing_of_any_more_is_stopped_and_recorded(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "GRACE_SECONDS", 0.0)
    silent = plan.cells[0].model_copy(update={"timeout_seconds": 1e-9})
    wire = Played(script={silent.id: [[("began", "m-small"), ("ready", None)]] * 3})
    (record,) = results(carried(wire, [silent]))
    assert record.status == "timeout"
    assert record.reason == "lost 3 times: node m-small says nothing of it any more"
    assert len(wire.stopped) == 3


@pytest.fixture
def parcel(tmp_path, monkeypatch):
    """A file that every job reads."""
    (tmp_path / "file").write_text("weights")
    packed = parcels.pack(tmp_path, ["file"])
    monkeypatch.setattr("bench.plan.needs.needs", lambda job: {"backbone": packed})
    return packed


def test_the_time_in_which_files_travel_is_none_of_the_job_s_own(plan, parcel, monkeypatch):
    monkeypatch.setattr(ray_cluster, "GRACE_SECONDS", 0.02)
    short = plan.cells[0].model_copy(update={"timeout_seconds": 0.02})
    travels = [("began", "m-small"), ("progress", "files arrive"), ("ready", None), *said(short)[2:]]
    for bytes_a_second, status in ((1.0, "failed"), (1e9, "timeout")):  # seven bytes may take 7 s, or no time
        monkeypatch.setattr(ray_cluster, "SLOWEST_BYTES", bytes_a_second)
        wire = Played(script={short.id: [travels if status == "failed" else travels[:1]] * 3})
        wire.pause = 0.1
        (record,) = results(carried(wire, [short]))
        assert record.status == status


def test_what_a_job_has_said_is_read_before_it_is_given_up(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "GRACE_SECONDS", 0.0)
    short = plan.cells[0].model_copy(update={"timeout_seconds": 1e-9})
    wire = Played(script={short.id: [said(short)]})
    wire.pause = 0.1  # as where the driver reads a large file meanwhile
    (record,) = results(carried(wire, [short]))
    assert record.reason == "as played"
    assert wire.stopped == []


def test_counts_of_a_sweep_that_was_lost_half_way_are_handed_on_once(plan):
    (sweep,) = plan.sweeps
    whole = said(sweep)
    wire = Played(script={sweep.id: [[*whole[:2], LOST]]})
    assert [record.id for record in results(carried(wire, [sweep]))] == [*record_ids(sweep)]


def test_times_of_a_probe_are_of_one_node_all_or_none(plan):
    (probe,) = plan.probes
    wire = Played(script={probe.id: [[*said(probe)[:2], LOST]]})
    heard = []
    for event in Cluster(wire, SETTING).run_jobs([probe]):
        heard.append((type(event), len(wire.started)))
    assert [started for kind, started in heard if kind is Result] == [2, 2]


def test_a_probe_has_a_whole_node_and_its_machine_for_itself(plan):
    one, two, other = Node("a", 4, 1), Node("b", 4, 1), Node("c", 2, 0)
    wire = Played(one, two, other)
    (probe,) = plan.probes
    carried(wire, copies_of(probe, 3))
    assert {(started.node, started.request) for started in wire.started} == {(one, Request(4, 1)), (two, Request(4, 1))}
    assert wire.at_once == 2


def test_times_are_taken_on_machines_that_are_alike_and_like_those_of_the_folder(plan):
    a, b, c = told(Node("a", 4, 0)), told(Node("b", 4, 0)), told(Node("c", 8, 0))
    same = dataclasses.replace(b, environment=b.environment | {"node": "m-a"})
    newer = dataclasses.replace(b, environment=b.environment | {"versions": {"torch": "3"}})
    least = Request(1, 0)
    assert alike([a, b, c], least, []) == [a, b]
    assert alike([a, same], least, []) == [a]  # two nodes of one machine
    assert len(alike([a, newer], least, [])) == 1
    assert alike([a, b, c], Request(8, 0), []) == [c]
    cost = records_of(plan.probes[0])[0]
    beside = cost.model_copy(update={"environment": c.environment | {"node": "another"}})
    assert alike([a, b, c], least, [beside]) == [c]
    with pytest.raises(BenchError, match=r"taken on c with 8 cores, and no node of the cluster is like it"):
        alike([a, b], least, [beside])
    with pytest.raises(BenchError, match=r"no node of the cluster that answers has 8 CPUs, which a probe asks for"):
        alike([a, b], Request(8, 0), [])


def copies_of(probe, number):
    return [probe.model_copy(update={"id": f"{n}" * 64}) for n in range(number)]


def joined(wire, jobs, *nodes):
    """Run ``jobs`` on ``wire``, which ``nodes`` join once the first of them has said something."""
    for _ in Cluster(wire, SETTING).run_jobs(jobs):
        wire.alive += [node for node in nodes if wire.started and node not in wire.alive]


def test_nodes_that_join_while_probes_run_time_none_unless_they_are_like_the_first(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    first, like = Node("first", 4, 0), Node("like", 4, 0)
    joined(wire := Played(first), copies_of(plan.probes[0], 4), Node("b", 8, 0), Node("c", 8, 0))  # a larger group
    assert [one.node for one in wire.started] == [first] * 4
    joined(wire := Played(first), copies_of(plan.probes[0], 6), Node("b", 8, 0), like)
    assert {one.node for one in wire.started} == {first, like}
    assert wire.at_once == 2


def test_nodes_that_join_are_not_waited_for_until_they_say_what_they_are(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    joined(wire := Played(Node("first", 4, 0)), copies_of(plan.probes[0], 4), Node("b", 8, 0))
    assert wire.asked[0] is True
    assert set(wire.asked[1:]) == {False}


def test_a_cluster_that_loses_all_nodes_that_times_were_taken_on_ends_the_run(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    wire = Played(Node("first", 4, 0))
    events = Cluster(wire, SETTING).run_jobs(copies_of(plan.probes[0], 4))
    with pytest.raises(BenchError, match=r"^the nodes that times were taken on are gone, and no other is like them"):
        for _ in events:
            wire.alive = [Node("b", 8, 0)] if wire.started else wire.alive
    assert {one.node.id for one in wire.started} == {"first"}


def test_probes_go_to_nodes_that_hold_the_one_that_asks_for_most(plan):
    small, large = (plan.probes[0].model_copy(update={"id": f"{n}" * 64, "threads": n}) for n in (1, 8))
    carried(wire := Played(SMALL, Node("s", 2, 0), LARGE), [small, large])
    assert {one.node for one in wire.started} == {LARGE}


@pytest.mark.parametrize(
    ("changes", "nodes", "said"),
    [
        ({"threads": 4}, [SMALL], r"asks for 4 CPUs, and no node .* \(the largest has 2 CPUs and 0 GPUs\); lower"),
        ({"device": "cuda"}, [SMALL], r"asks for 1 CPU and 1 GPU, and no node of the cluster has that"),
        ({"devices": 3}, [SMALL], r"asks for 3 CPUs, and no node"),
        ({"devices": 3, "device": "cuda", "threads": 2}, [LARGE], r"asks for 6 CPUs and 3 GPUs, and no"),
        ({"threads": 9}, [SMALL, LARGE], r"asks for 9 CPUs, .*the largest has 8 CPUs and 2 GPUs"),
        ({}, [], r"asks for 1 CPU, and no node of the cluster has that \(none is there\)"),
    ],
)
def test_what_no_node_can_ever_hold_is_refused_before_anything_is_started(plan, changes, nodes, said):
    recipe = plan.cells[1].recipe | {name: value for name, value in changes.items() if name == "devices"}
    cells = [plan.cells[0], plan.cells[1].model_copy(update=changes | {"recipe": recipe})]
    wire = Played()
    wire.alive = nodes
    with pytest.raises(BenchError, match=said):
        carried(wire, cells)
    with pytest.raises(BenchError, match=said):
        Cluster(wire, SETTING).check(plan.model_copy(update={"cells": tuple(cells)}))
    assert wire.started == []
    check_fits(plan.cells, [SMALL])


def test_a_cluster_that_loses_the_last_node_that_fits_ends_the_run_and_stops_what_runs(plan):
    wire = Played(script={plan.cells[0].id: [[LOST]], plan.cells[1].id: [[("began", "m-small")]]})
    events = Cluster(wire, SETTING).run_jobs(plan.cells)
    with pytest.raises(BenchError, match=r"no node of the cluster has that \(none is there\)"):
        for event in events:
            assert "anew" in event.line
            wire.alive = []
    assert len(wire.stopped) == 1


def test_a_node_that_joins_is_used(plan, monkeypatch):
    monkeypatch.setattr(ray_cluster, "LOOK_SECONDS", 0.0)
    wire = Played(Node("one", 1, 0))
    for _ in Cluster(wire, SETTING).run_jobs(plan.cells):
        wire.alive = [LARGE]
    assert wire.at_once > 1


def test_files_are_given_to_the_cluster_once_a_node_lacks_them_which_is_no_loss(plan, parcel, monkeypatch):
    puts = []
    lacks = [("began", "m-small"), ("lacks", [parcel.id]), ("ended", None)]
    wire = Played(script={cell.id: [lacks] for cell in plan.cells[:2]})
    monkeypatch.setattr(wire, "put", lambda sent: puts.append(sent) or {"file": ["reference"]})
    assert len(results(carried(wire, plan.cells))) == len(plan.cells)
    assert puts == [parcel]
    assert [bool(one.parts) for one in wire.started] == [False, False, True, True, True, True]
    assert {one.order.parcels["backbone"] for one in wire.started} == {parcel}


def test_what_a_node_refuses_ends_the_run_and_stops_the_others(plan):
    wire = Played(script={plan.cells[0].id: [[("refused", "node m-small: has another torch")]],
                          plan.cells[1].id: [[]]})  # fmt: skip
    with pytest.raises(BenchError, match=r"^node m-small: has another torch$"):
        carried(wire, plan.cells)
    assert len(wire.stopped) == 2


def test_kept_deltas_come_back_to_the_run_folder_or_the_run_ends(plan, tmp_path):
    here = tmp_path / "node"
    cell = plan.cells[0]
    local = [*run_jobs(workers(), [cell], workers=1, keep=_keep(here))]
    (record,) = results(local)
    files = ray_host._files(ray_host.aside_of(here, cell.id))
    sent = ("record", (record.model_dump_json(by_alias=True), None))
    wire = Played(script={cell.id: [[("began", "m"), ("kept", (cell.id, files)), sent, ("ended", None)]]})
    folder = tmp_path / "run"
    with open_store(folder, plan.suite) as store:
        todo = remaining(plan.model_copy(update={"cells": (cell,), "probes": (), "sweeps": ()}), store)
        list(execute(todo, store, Cluster(wire, SETTING), keep=_keep(folder)))
    assert is_kept(folder, cell.id)
    files["delta.safetensors"] = numpy.flip(files["delta.safetensors"]).copy()
    wire = Played(script={cell.id: [[("kept", (cell.id, files))]]})
    with pytest.raises(BenchError, match=r"damaged or changed, its sha256 is another"):
        carried(wire, [cell], keep=_keep(folder))


def _keep(folder):
    folder.mkdir(exist_ok=True)
    return Keep(folder, "all", "0" * 64)


# between this command and Ray


class Stop(BaseException):
    """What the command's handlers raise."""


def told_by_signal(number, frame):
    raise Stop(number)


@pytest.fixture
def stoppable():
    """A process whose SIGTERM is answered by `told_by_signal`."""
    before = signal.signal(signal.SIGTERM, told_by_signal)
    yield
    signal.signal(signal.SIGTERM, before)


def ray_call():
    """A call of Ray that a signal comes in: its compiled code knows ``KeyboardInterrupt`` alone."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise SystemError from error


def test_a_signal_ends_a_call_of_ray_and_is_answered_as_elsewhere(stoppable):
    with pytest.raises(SystemError):
        ray_call()
    signals = Signals()
    with signals.heard():
        with pytest.raises(Stop), signals:
            ray_call()
        assert signal.getsignal(signal.SIGTERM) is told_by_signal  # a second one is not held up
        signals.again()
        with pytest.raises(Stop):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(ValueError, match="of Ray"), signals:
            raise ValueError("of Ray")
    assert signal.getsignal(signal.SIGTERM) is told_by_signal


def test_handlers_that_ray_s_compiled_code_has_replaced_are_set_again(stoppable):
    signals = Signals()
    with signals.heard():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signals.again()
        with pytest.raises(Stop):
            os.kill(os.getpid(), signal.SIGTERM)


def ray_of(head, nodes=()):
    """As much of the module as a wire asks for."""
    names = (
        "RayError", "OutOfMemoryError", "WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError",
        "TaskUnschedulableError", "ObjectLostError", "TaskCancelledError",
    )  # fmt: skip
    return SimpleNamespace(
        remote=lambda **options: lambda function: function,
        exceptions=SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names}),
        get_runtime_context=lambda: SimpleNamespace(gcs_address=head),
        put=lambda content: content,
        nodes=lambda: [{"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0}} for name in nodes],
    )


def test_a_cluster_that_is_gone_ends_the_run_before_ray_ends_the_process(monkeypatch):
    assert ray_wire.GONE_SECONDS + ray_wire.CONNECT_SECONDS + ray_cluster.LOOK_SECONDS < 60
    monkeypatch.setattr(ray_wire, "GONE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        wire = RayWire(ray_of(address, ["a"]), SETTING, Signals())
        assert wire.nodes() == [Node("a", 2, 0)]
    with pytest.raises(BenchError, match=rf"^the Ray cluster is gone: nobody answers at {address} any more \("):
        wire.nodes()


@pytest.mark.parametrize("before", [None, "token", "disabled"])
@pytest.mark.parametrize(("asks", "mode"), [(True, "token"), (False, "disabled")])
def test_a_token_is_shown_to_a_cluster_that_asks_for_one_and_to_no_other(monkeypatch, before, asks, mode):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if before is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", before)
    monkeypatch.setattr(ray_wire, "_refuses", lambda address, mode: asks and mode == "disabled")
    read = []  # what Ray has read of its environment
    config = SimpleNamespace(initialize=lambda words: read.append(os.environ["RAY_AUTH_MODE"]))
    with ray_wire._token_as_asked(SimpleNamespace(_raylet=SimpleNamespace(Config=config)), "auto"):
        assert os.environ["RAY_AUTH_MODE"] == mode
    assert read == [mode]
    assert os.environ.get("RAY_AUTH_MODE") == before


def test_a_cluster_whose_token_this_machine_does_not_have_is_not_joined(monkeypatch):
    monkeypatch.setattr(ray_wire, "_refuses", lambda address, mode: True)
    before = dict(os.environ)
    with pytest.raises(BenchError, match=r"^the Ray cluster auto asks for a token that this machine lacks; copy"):
        ray_wire._token_as_asked(SimpleNamespace(), "auto").__enter__()
    assert dict(os.environ) == before


def test_no_cluster_on_this_machine_is_said_in_words_of_this_project(monkeypatch):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance. Please specify the one to connect to by ...")

    monkeypatch.setattr(ray_wire, "_token_as_asked", lambda ray, address: contextlib.nullcontext())
    ray = ray_of("127.0.0.1:1")
    ray.init = init
    ray._private = SimpleNamespace(worker=SimpleNamespace(), utils=SimpleNamespace(set_sigterm_handler=None))
    with pytest.raises(BenchError, match=r"^no Ray cluster runs on this machine, which auto asks for; start one"):
        ray_wire._join(ray, "auto")


REFUSING = """
import sys
sys.exit({exits!r})
"""


@pytest.mark.parametrize(
    ("exits", "mode", "refuses"),
    [
        (0, "disabled", False), (0, "token", False), ("... InvalidAuthToken: ...", "disabled", True),
        ("nobody there", "disabled", False), ("no token", "token", True),
    ],
)  # fmt: skip
def test_whether_a_cluster_asks_for_a_token_is_asked_of_a_process_that_may_fail(monkeypatch, exits, mode, refuses):
    monkeypatch.setattr(ray_wire, "_ASK", REFUSING.format(exits=exits))
    assert ray_wire._refuses("127.0.0.1:1", mode) is refuses


def test_files_that_are_gone_when_a_node_asks_for_them_are_a_sentence(parcel, tmp_path):
    (tmp_path / "file").unlink()
    with pytest.raises(BenchError, match=rf"^{tmp_path}: cannot be sent to a node that lacks it \("):
        RayWire(ray_of("127.0.0.1:1"), SETTING, Signals()).put(parcel)


@pytest.mark.parametrize("joined", [True, False])
def test_a_job_is_stopped_where_the_cluster_is_still_joined_and_none_is_started_for_it(joined):
    ray, stopped = ray_of("127.0.0.1:1"), []
    ray.is_initialized = lambda: joined
    ray.cancel = lambda handle, force: stopped.append(handle)
    RayWire(ray, SETTING, Signals()).stop("a job")
    assert stopped == ["a job"] * joined


# on the node


@pytest.fixture
def host(monkeypatch):
    """This process as a Ray worker, whose fork server is that of the tests."""
    monkeypatch.setattr(ray_host, "_servers", [workers()])
    monkeypatch.setattr(ray_host, "_checked", set())
    monkeypatch.setattr(ray_host, "LINE_SECONDS", -1.0)


HOLDS = """
import sys, time
from pathlib import Path
from bench.execute.ray_host import own_folder
print(own_folder(Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


def test_a_ray_worker_removes_the_folders_of_those_that_were_killed_and_no_other(tmp_path):
    def begun():
        process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True)
        folder = Path(process.stdout.readline().strip())
        (folder / "aside").mkdir()
        return process, folder

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "peft-ledger-ray-link").symlink_to(tmp_path / "elsewhere")
    (killed, left), (lives, held) = begun(), begun()
    try:
        killed.kill()
        killed.communicate()
        third, own = begun()
        third.kill()
        third.communicate()
        assert {*tmp_path.iterdir()} == {held, own, tmp_path / "elsewhere", tmp_path / "peft-ledger-ray-link"}
        assert left not in (held, own)
        assert (held / "aside").is_dir()
    finally:
        lives.kill()
        lives.communicate()


def test_the_sockets_of_a_ray_worker_lie_in_a_folder_of_its_own_wherever_the_temporary_one_is(tmp_path):
    deep = tmp_path / "the-folder-of-a-job" / "of-a-batch-system" / "that-gives-every-job-one" / "and-this-is-its-tmp"
    deep.mkdir(parents=True)
    program = "import tempfile; from multiprocessing import util; from bench.execute.ray_host import _own_folders; "
    program += "_own_folders(); print(util.get_temp_dir(), tempfile.gettempdir())"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=os.environ | {"TMPDIR": str(deep)}, capture_output=True, text=True, check=True)
    socket_folder, own = map(Path, done.stdout.split())
    try:
        assert own.parent == deep
        assert socket_folder.parent.name.startswith("peft-ledger-ray-")
        assert socket_folder.parents[1] == Path("/tmp")
    finally:
        socket_folder.parent.rmdir()


@pytest.mark.parametrize(("named", "chosen"), [({}, "/tmp/ray"), ({"RAY_TMPDIR": "/scratch"}, None)])
def test_a_cluster_of_this_machine_alone_is_begun_where_its_sockets_have_room(monkeypatch, tmp_path, named, chosen):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("a-folder-of-a-job" * 3)))
    for name in ("RAY_TMPDIR", *named):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    assert ray_wire._own_cluster().get("_temp_dir") == chosen


def order(job, **changes):
    kind = ray_host.job_of, type(job)
    values = {
        "setting": SETTING, "kind": {Cell: "cell", Probe: "probe", Sweep: "sweep"}[kind[1]],
        "job": job.model_dump_json(), "sources_sha256": source_hash(SOURCES[type(job)]), "checked": "all",
        "parcels": {}, "keep": None,
    }  # fmt: skip
    return Order(**values | changes)


def test_a_node_gives_the_bits_of_a_run_on_one_machine_and_says_what_it_does(plan, host):
    for job in (plan.cells[0], *plan.probes, *plan.sweeps):
        messages = [*carry(order(job), {})]
        assert messages[0] == ("began", environment()["node"])
        assert "progress" in {kind for kind, _ in messages}
        there = [ray_cluster.record_of(value[0]) for kind, value in messages if kind == "record"]
        here = results(run_jobs(workers(), [job], workers=1))
        assert [figures(record) for record in there] == [figures(record) for record in here]
        assert {record.status for record in there} == {"ok"}


@pytest.mark.parametrize("times", [1, 2])
def test_a_node_whose_server_is_killed_as_it_is_asked_what_it_is_asks_another(host, monkeypatch, times):
    left, start = [times], ForkServerProcess.start

    def killed(process):
        if left[0]:
            left[0] -= 1
            raise EOFError("unexpected EOF")
        start(process)

    monkeypatch.setattr(ForkServerProcess, "start", killed)
    monkeypatch.setattr(fork_server, "has_ended", lambda server: True)
    monkeypatch.setattr(runner, "has_ended", lambda server: True)
    if times == 1:
        assert survey(SETTING)["node"] == environment()["node"]
    else:
        with pytest.raises(BenchError, match="torch cannot be imported there"):
            survey(SETTING)


def test_a_job_whose_server_is_killed_again_and_again_is_lost_and_the_run_goes_on(plan, host, monkeypatch):
    def killed(*_):
        raise runner._ServerLost from EOFError("unexpected EOF")

    monkeypatch.setattr(runner, "_start", killed)
    monkeypatch.setattr(fork_server, "has_ended", lambda server: True)
    monkeypatch.setattr(runner, "has_ended", lambda server: True)
    messages = [*carry(order(plan.cells[0]), {})]
    assert messages[-1] == ("lost", ("crashed", "no worker can be started (EOFError: unexpected EOF)"))
    whole = (*messages, ("ended", None))
    wire = Played(script={plan.cells[0].id: [[*whole]] * (RETRIES + 1)})
    (record,) = results(Cluster(wire, SETTING).run_jobs(plan.cells[:1]))
    assert (record.status, record.reason) == ("crashed", f"lost {RETRIES + 1} times: {messages[-1][1][1]}")


def test_a_node_is_held_against_the_plan_once_for_jobs_that_ask_the_same(plan, host):
    cell = plan.cells[0]
    changed = {"sources_sha256": "0" * 64}
    (*_, (kind, sentence)) = carry(order(cell, **changed), {})
    assert kind == "refused"
    assert sentence.startswith(f"node {environment()['node']}: {cell.name}: was planned with other code")
    assert [kind for kind, _ in carry(order(cell), {})][-1] == "record"
    assert [kind for kind, _ in carry(order(cell, **changed), {})][-1] == "record"  # what it was asked, it has


def test_a_node_that_lacks_files_asks_for_them_and_one_that_has_them_is_given_its_own_paths(
    plan, host, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 60}))
    parcel = parcels.pack(tmp_path / "here", ["config.json"])
    content = (tmp_path / "here" / "config.json").read_bytes()
    (tmp_path / "here" / "config.json").unlink()
    asked = order(plan.cells[0], parcels={"backbone": parcel})
    assert [*carry(asked, {})][-1] == ("lacks", [parcel.id])
    monkeypatch.setattr(ray_host, "_received", lambda references: [content[: len(references)], content[1:]])
    given = []
    monkeypatch.setattr(ray_host, "_carried", lambda order, folders: given.append(folders) or iter(()))
    messages = carry(asked, {parcel.id: {"config.json": ["one"]}})
    assert next(messages)[0] == "began"
    assert parcels.standing(parcel) is None
    assert next(messages)[0] == "ready"  # its own time begins once they are there
    assert parcels.standing(parcel) is not None
    assert list(messages) == []
    assert (given[0]["backbone"] / "config.json").read_bytes() == content


def test_a_job_has_the_driver_s_numeric_settings_and_none_of_its_secrets():
    around = {"OMP_WAIT_POLICY": "passive", "MKL_CBWR": "AVX2", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "s", "HOME": "/h"}
    assert variables(around).keys() == {"OMP_WAIT_POLICY", "MKL_CBWR", "HF_HUB_OFFLINE"}


def test_a_job_sees_the_gpus_that_ray_gives_it_and_the_driver_s_folder(plan, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    there = order(plan.cells[0], setting=SETTING._replace(folder=str(tmp_path)))
    assert Prepared(there, {}, True, "3")(plan.cells[0]) == plan.cells[0]
    assert ray_host.os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert ray_host.Path.cwd() == tmp_path


# the command line


def test_an_address_without_a_cluster_one_that_nobody_answers_at_and_a_missing_extra_are_sentences(
    plan, tmp_path, monkeypatch
):
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    words = ("run", "--suite", path, "--out", tmp_path / "run")
    assert bench(*words, "--address", "auto", code=2).stderr == (
        "error: --address auto is of a Ray cluster; add --executor ray, or omit --address\n"
    )
    ray = (*words, "--executor", "ray", "--address")
    for address in ("ray://head:10001", "head", ":1", "head:"):
        assert "must be auto or HOST:PORT of the head node" in bench(*ray, address, code=2).stderr
    assert "--address 127.0.0.1:1: nobody answers there (" in bench(*ray, "127.0.0.1:1", code=2).stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    said = bench(*words, "--executor", "ray", code=2).stderr
    assert said.startswith(
        "error: --executor ray needs the extra ray: python -m pip install -c constraints.txt -e '.[ray]'"
    )
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BenchError, match=r"^RAY_ADDRESS 127\.0\.0\.1:1: nobody answers"), connected(plan.suite, None):
        pass


def test_jobs_run_on_this_machine_where_nothing_else_is_asked(monkeypatch):
    monkeypatch.setattr("bench.execute.run.warm_up", lambda suite: "this machine")
    with place("local", None, None) as where:
        assert where == "this machine"


def test_a_run_folder_is_filled_by_a_cluster_as_by_this_machine(plan, tmp_path):
    with open_store(tmp_path, plan.suite) as store:
        events = execute(remaining(plan, store), store, Cluster(Played(), SETTING))
        assert {record.id for record in results(events)} == plan.job_ids()
        assert [record.id for record in store.records] == [one for job in plan.jobs for one in record_ids(job)]
        assert not remaining(plan, store)


def test_records_of_losses_need_no_other_figures_than_those_of_one_machine(plan):
    cell = plan.cells[0]
    (record,) = results(carried(Played(script={cell.id: [[LOST]] * 3}), [cell]))
    here = failure(cell, "crashed", record.reason, record.started)
    assert record.model_dump(exclude={"environment", "ended"}) == here.model_dump(exclude={"environment", "ended"})

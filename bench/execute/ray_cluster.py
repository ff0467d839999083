"""Carries out jobs on a Ray cluster, one of this machine or a given one; the driver alone writes records."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

from bench.errors import BenchError, said
from bench.execute.ray_host import Message, Order, Setting, carry, survey, variables
from bench.execute.runner import Job, Progress, Result, base_of, kind_of, record_of, unfinished, with_base
from bench.plan.select import family
from bench.schema.jobs import Cell, Plan, Probe, sha256_of, source_hash
from bench.schema.record import CostRecord, Stored
from bench.schema.suite import Suite
from bench.store.environment import cores, fingerprint, now, versions
from bench.store.kept import Keep, copy_aside
from bench.store.parcels import Parcel

RETRIES = 2
"""How often a job whose worker or node was lost is begun anew."""
LOOK_SECONDS = 5.0
"""The nodes of the cluster are looked at this often, and a job that waits is spoken of."""
GRACE_SECONDS = 120.0
"""A node that says nothing of a job for so long after the job's own time limit is given up."""
SLOWEST_BYTES = 2**20
"""Files of a job may take a second to arrive for each so many bytes; that is none of the job's own time."""
PART_BYTES = 2**27
"""Files travel in parts of at most so many bytes."""
CONNECT_SECONDS = 5.0
"""Longest wait for the head node to answer."""
ASK_SECONDS = 60.0
"""Longest wait for the head node to say whether it asks for a token."""
GONE_SECONDS = 30.0
"""A head node that nobody answers at for so long is gone. Ray itself ends this process, wordless, after 60 s."""
SURVEY_SECONDS = 600.0
"""Longest wait for a node to import torch and say what it is; one that takes longer times no probe."""
_INSTALL = "python -m pip install 'peft-ledger[ray]'"


class Node(NamedTuple):
    """A node of the cluster that is alive."""

    id: str
    """Ray's."""
    cpus: int
    gpus: int


class Request(NamedTuple):
    """What a job asks of a node."""

    cpus: int
    gpus: int

    def fits(self, node: Node) -> bool:
        """Whether ``node`` holds it while nothing else runs there."""
        return self.cpus <= node.cpus and self.gpus <= node.gpus

    def slots(self, node: Node) -> int:
        """How many of them ``node`` holds side by side."""
        by_cpu = node.cpus // self.cpus
        return min(by_cpu, node.gpus // self.gpus) if self.gpus else by_cpu

    def __str__(self) -> str:
        cpus = _plural(self.cpus, "CPU")
        return f"{cpus} and {_plural(self.gpus, 'GPU')}" if self.gpus else cpus


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def request_of(job: Job) -> Request:
    """What ``job`` asks for: a CPU for each torch thread, and a GPU where it trains or is timed on one.

    A probe is given a whole node, and asks for the least that such a node must have.
    """
    gpus = int(job.device == "cuda" and kind_of(job) != "sweep")  # a sweep counts on fake tensors
    if isinstance(job, Probe):
        return Request(max(1, job.threads or 1), gpus)
    return Request(job.threads if isinstance(job, Cell) else 1, gpus)


def _largest(jobs: Iterable[Job]) -> Request:
    """What any of ``jobs`` asks for at most."""
    asked = [request_of(job) for job in jobs]
    return Request(max(one.cpus for one in asked), max(one.gpus for one in asked))


def check_fits(jobs: Sequence[Job], nodes: Sequence[Node]) -> None:
    """Refuse what no node of the cluster can ever run.

    Raises:
        BenchError: The sentence names a job, what it asks for, and the largest node.
    """
    for request, job in {request_of(job): job for job in reversed(jobs)}.items():
        if not any(request.fits(node) for node in nodes):
            largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node("", 0, 0))
            held = f"the largest has {_plural(largest.cpus, 'CPU')} and {_plural(largest.gpus, 'GPU')}"
            raise BenchError(
                f"{kind_of(job)} {job.name} asks for {request}, and no node of the cluster has that "
                f"({held if nodes else 'none is there'}); lower threads in the suite, or add a node"
            )


@dataclass(frozen=True)
class Surveyed:
    """A node with what records say of it."""

    node: Node
    environment: Mapping[str, Any]

    @property
    def hardware(self) -> str:
        """Equal for nodes whose times may stand in one table."""
        return _hardware(self.environment)


def _hardware(environment: Mapping[str, Any]) -> str:
    return json.dumps([environment.get("hardware"), environment.get("versions")], sort_keys=True)


def alike(found: Sequence[Surveyed], request: Request, beside: Sequence[Stored]) -> list[Surveyed]:
    """One node of each machine that times may be taken on: all like each other, and like those of ``beside``.

    Args:
        found: The nodes.
        request: What a probe asks for at least.
        beside: Records of the run folder.

    Raises:
        BenchError: No node is like the one that earlier costs were taken on, or none is large enough.
    """
    groups: dict[str, dict[Any, Surveyed]] = {}
    for one in found:
        if request.fits(one.node):
            machine = one.environment.get("node") or one.node.id
            groups.setdefault(one.hardware, {}).setdefault(machine, one)
    costs = (record.environment for record in beside if isinstance(record, CostRecord))
    standing = next((environment for environment in costs if environment.get("hardware")), None)
    if standing is not None:
        groups = {name: group for name, group in groups.items() if name == _hardware(standing)}
        if not groups:
            hardware = standing["hardware"]
            raise BenchError(
                f"costs of this folder were taken on {hardware.get('cpu')} with {hardware.get('cores')} cores, and no "
                "node of the cluster is like it in hardware and versions; give another --out, or --fresh"
            )
    if not groups:
        raise BenchError(f"no node of the cluster that answers has {request}, which a probe asks for; add one")
    return list(max(groups.items(), key=lambda item: (len(item[1]), item[0]))[1].values())


class Wire(Protocol):
    """What is asked of Ray."""

    def nodes(self) -> list[Node]:
        """Nodes that are alive and have a CPU."""
        ...

    def surveyed(self, *, wait: bool) -> list[Surveyed]:
        """Nodes whose environment is known; all that are alive are asked, and waited for where ``wait``.

        Raises:
            BenchError: A node cannot run this program.
        """
        ...

    def put(self, parcel: Parcel) -> dict[str, list[Any]]:
        """Give the files of ``parcel`` to the cluster; references to their parts by name."""
        ...

    def start(self, order: Order, parts: Mapping[str, Any], request: Request, node: Node | None) -> Any:
        """Start a job on ``node``, or spread over the nodes where None; returns what it is heard by."""
        ...

    def heard(self, handles: Sequence[Any], seconds: float) -> list[tuple[Any, Message]]:
        """What jobs say within ``seconds``: as `carry`, or ``ended``, or ``lost`` with status and reason.

        Raises:
            BenchError: A node cannot run this program.
        """
        ...

    def has_spoken(self, handle: Any) -> bool:
        """Whether a job has said something that was not heard yet."""
        ...

    def stop(self, handle: Any) -> None:
        """End a job at once."""
        ...


@dataclass
class _Try:
    """A job, and what became of it so far."""

    job: Job
    losses: int = 0
    place: Surveyed | None = None
    """Of a probe."""
    node: str | None = None
    """Where it runs, as records name it; None while it waits for room."""
    started: str = field(default_factory=now)
    bytes: int = 0
    """Of the files that it reads, and that may have to travel to it."""
    deadline: float = float("inf")
    """When it is given up, if nothing is heard of it until then; none while it waits for room."""
    lacks: list[str] = field(default_factory=list)
    received: list[Stored] = field(default_factory=list)
    held: list[Result] = field(default_factory=list)
    """Of a probe that runs: its times are of one node, all or none."""

    def again(self) -> "_Try":
        """The same, about to be started again."""
        return _Try(self.job, self.losses, received=self.received)


class Cluster:
    """Carries out jobs on a cluster.

    Args:
        wire: To Ray.
        setting: What all jobs share.
    """

    def __init__(self, wire: Wire, setting: Setting) -> None:
        self._wire, self._setting = wire, setting
        self._parts: dict[str, dict[str, list[Any]]] = {}
        self._sources: dict[type[Job], str] = {}
        self._read: dict[str, dict[str, float]] = {}
        self._timed: str | None = None
        """Hardware and versions of the nodes that this run is timed on."""

    def check(self, plan: Plan) -> None:
        """Refuse a plan of which no node of the cluster can run a job.

        Raises:
            BenchError: No node is large enough.
        """
        check_fits(plan.jobs, self._wire.nodes())

    def run_jobs(
        self, jobs: Sequence[Job], *, workers: int | None = None, keep: Keep | None = None,
        beside: Sequence[Stored] = (),
    ) -> Iterator[Progress | Result]:  # fmt: skip
        """Run ``jobs``, all of one kind, and yield what happens as it happens.

        A job whose worker or node is lost is begun anew up to ``RETRIES`` times, then recorded as crashed. A probe has
        a whole node, no other job on the same machine beside it, and all of them have nodes that are alike.

        Args:
            jobs: Cells, probes or sweeps, started in this order.
            workers: Jobs at once; as many as the nodes have room for where None.
            keep: Where in the run folder to put what cells have trained, aside of its place.
            beside: Records of the run folder: probes go to nodes like those of its costs.

        Raises:
            BenchError: No node can run a job, a node lacks something, or what is kept cannot be written.
        """
        waiting = deque(_Try(job) for job in jobs)
        running: dict[Any, _Try] = {}
        looked, nodes, places = float("-inf"), list[Node](), list[Surveyed]()
        spoke = time.monotonic()
        try:
            while waiting or running:
                if time.monotonic() - looked > LOOK_SECONDS:
                    looked, nodes = time.monotonic(), self._wire.nodes()
                    check_fits([one.job for one in (*waiting, *running.values())], nodes)
                    if isinstance(jobs[0], Probe) and waiting:
                        if not places:
                            yield Progress(waiting[0].job, "waits for the nodes to say what they are")
                        places = self._places(_largest(one.job for one in waiting), beside)
                self._start(waiting, running, nodes, places, workers, keep)
                heard = self._wire.heard(list(running), LOOK_SECONDS)
                for handle, message in heard:
                    yield from self._take(handle, message, waiting, running, keep)
                    spoke = time.monotonic()
                    looked = float("-inf") if message[0] == "lost" else looked
                yield from self._overdue(waiting, running)
                if running and time.monotonic() - spoke > 2 * LOOK_SECONDS and not any(map(_begun, running.values())):
                    spoke = time.monotonic()
                    yield Progress(next(iter(running.values())).job, "waits for room on the cluster")
        finally:
            for handle in running:
                self._wire.stop(handle)

    def _places(self, request: Request, beside: Sequence[Stored]) -> list[Surveyed]:
        """Nodes for probes: those that join later must be like the first ones.

        Raises:
            BenchError: No node is like those that times were taken on before, or none is large enough.
        """
        # one that joins says later what it is: the others need not wait for that
        found = self._like(wait=False) if self._timed is not None else []
        found = found or self._like(wait=True)
        if self._timed is not None and not found:
            raise BenchError(
                "the nodes that times were taken on are gone, and no other is like them in hardware and versions; add "
                "one, then run the same command again"
            )
        places = alike(found, request, beside)
        self._timed = places[0].hardware
        return places

    def _like(self, *, wait: bool) -> list[Surveyed]:
        return [one for one in self._wire.surveyed(wait=wait) if self._timed in (None, one.hardware)]

    def _start(
        self, waiting: deque[_Try], running: dict[Any, _Try], nodes: Sequence[Node], places: Sequence[Surveyed],
        workers: int | None, keep: Keep | None,
    ) -> None:  # fmt: skip
        """Start as many jobs as there is room for."""
        while waiting:
            request, taken = request_of(waiting[0].job), [one.place for one in running.values()]
            if isinstance(waiting[0].job, Probe):
                place = next((place for place in places if place not in taken), None)
                if place is None:
                    return
                request = Request(place.node.cpus, place.node.gpus)
            else:
                place = None
                if len(running) >= sum(request.slots(node) for node in nodes):
                    return
            if workers is not None and len(running) >= workers:
                return
            one = waiting.popleft()
            one.place = place
            order = self._order(with_base(one.job, self._read), keep)
            one.bytes = sum(file.size for parcel in order.parcels.values() for file in parcel.files)
            parts = {parcel.id: self._parts[parcel.id] for parcel in order.parcels.values() if parcel.id in self._parts}
            running[self._wire.start(order, parts, request, place.node if place else None)] = one

    def _order(self, job: Job, keep: Keep | None) -> Order:
        from bench.plan.needs import needs
        from bench.plan.planner import SOURCES

        if type(job) not in self._sources:
            self._sources[type(job)] = source_hash(SOURCES[type(job)])
        checked = sha256_of(job.model_dump(mode="json", exclude={"id": True, "seed": True}))
        return Order(
            self._setting, kind_of(job), job.model_dump_json(), self._sources[type(job)], checked, needs(job),
            None if keep is None else (keep.which, keep.suite_sha256),
        )  # fmt: skip

    def _take(
        self, handle: Any, message: Message, waiting: deque[_Try], running: dict[Any, _Try], keep: Keep | None
    ) -> Iterator[Progress | Result]:
        """What follows from a message."""
        one, (kind, value) = running[handle], message
        if kind == "began":
            one.node, one.started = value, now()
            one.deadline = time.monotonic() + one.bytes / SLOWEST_BYTES + GRACE_SECONDS
        elif kind == "ready":
            one.started = now()
            one.deadline = time.monotonic() + one.job.timeout_seconds + GRACE_SECONDS
        elif kind == "progress":
            yield Progress(one.job, value)
        elif kind == "kept":
            assert keep is not None, "nothing else is kept"
            copy_aside(keep.folder, value[0], {name: memoryview(content) for name, content in value[1].items()})
        elif kind == "record":
            yield from self._record(one, Result(one.job, record_of(value[0]), value[1]))
        elif kind == "refused":
            raise BenchError(value)
        elif kind == "lacks":
            one.lacks = value
        elif kind == "lost":
            del running[handle]
            status, reason = value
            yield from self._lost(one, status, reason, waiting)
        elif kind == "ended":
            del running[handle]
            yield from self._ended(one, waiting)

    def _record(self, one: _Try, result: Result) -> Iterator[Result]:
        if isinstance(one.job, Probe):
            one.held.append(result)
        elif result.record.id not in {record.id for record in one.received}:
            one.received.append(result.record)
            self._read |= base_of(one.job, one.received)
            yield result

    def _ended(self, one: _Try, waiting: deque[_Try]) -> Iterator[Result]:
        if not one.lacks:
            yield from one.held
            return
        from bench.plan.needs import needs

        for parcel in needs(one.job).values():
            if parcel.id in one.lacks and parcel.id not in self._parts:
                self._parts[parcel.id] = self._wire.put(parcel)
        waiting.appendleft(one.again())

    def _lost(self, one: _Try, status: str, reason: str, waiting: deque[_Try]) -> Iterator[Progress | Result]:
        """Begin a job anew whose worker or node is gone, or record that it was lost too often."""
        if isinstance(one.job, Cell) and one.received:
            return
        one.losses += 1
        if one.losses <= RETRIES:
            waiting.appendleft(one.again())
            yield Progress(one.job, f"begins anew: {reason}")
            return
        whole = f"lost {one.losses} times: {reason}"
        job, done = one.job, {record.id for record in one.received}
        if isinstance(job, Probe) and job.threads is None and one.place is not None:
            job = job.model_copy(update={"threads": one.place.environment["hardware"]["cores"]})
        for result in unfinished(job, done, status, whole, one.started):
            environment = self._environment(one.node, result.record.environment["threads"])
            yield Result(one.job, result.record.model_copy(update={"environment": environment}))

    def _environment(self, node: str | None, threads: int) -> dict[str, Any]:
        """Of the node that a job was lost with; its name alone where it has not said more."""
        every = [place.environment for place in self._wire.surveyed(wait=False)]
        seen = next((one for one in every if node is not None and one.get("node") == node), None)
        if seen is None:
            return {"node": node, "threads": threads}
        compared = {"versions": seen["versions"], "hardware": seen["hardware"], "threads": threads}
        return {**seen, **compared, "fingerprint": fingerprint(compared), "load_average": None}

    def _overdue(self, waiting: deque[_Try], running: dict[Any, _Try]) -> Iterator[Progress | Result]:
        """Give up what a node says nothing of any more."""
        for handle, one in list(running.items()):
            # what it has said while this process did something else is read first
            if time.monotonic() > one.deadline and not self._wire.has_spoken(handle):
                self._wire.stop(handle)
                del running[handle]
                yield from self._lost(one, "timeout", f"node {one.node} says nothing of it any more", waiting)


def _begun(one: _Try) -> bool:
    return one.deadline < float("inf")


@contextlib.contextmanager
def connected(suite: Suite, address: str | None) -> Iterator[Cluster]:
    """A Ray cluster for the jobs of ``suite``: its nodes import what these need while the caller plans.

    Args:
        suite: From ``selected``.
        address: ``auto`` or ``HOST:PORT`` of one that runs; else ``RAY_ADDRESS``, else one of this machine is started.

    Raises:
        BenchError: Ray is not installed, or the cluster cannot be reached or joined.
    """
    option = "RAY_ADDRESS" if address is None else "--address"
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_address(address, option)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BenchError(f"--executor ray needs the extra ray: {_INSTALL}") from error
    setting = Setting(family(suite), bool(suite.tasks), variables(os.environ), str(Path.cwd()), versions())
    signals = Signals()
    with signals.heard():
        try:
            with signals:
                _join(ray, address)
            signals.again()
            wire = RayWire(ray, setting, signals)
            wire.look()
            yield Cluster(wire, setting)
        finally:
            with signals:
                ray.shutdown()


def _check_address(address: str, option: str) -> None:
    """Refuse an address that Ray would try in vain for minutes.

    Raises:
        BenchError: It is none, or nobody answers there.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise BenchError(
            f"{option} {address}: must be auto or HOST:PORT of the head node; start this command on a node of the "
            "cluster, with ray job submit for example"
        )
    if (reason := _unanswered(address)) is not None:
        raise BenchError(
            f"{option} {address}: nobody answers there ({reason}); give the address that ray start has printed"
        )


def _unanswered(address: str) -> str | None:
    """Why nobody answers at ``HOST:PORT``; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        return said(error)
    return None


def _join(ray: Any, address: str) -> None:
    own = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    internals = ray._private
    # Ray prints to stdout, whatever log_to_driver is, that a worker or a node was lost: it would stand in the midst of
    # what --json prints. This function does nothing else where log_to_driver is off, and a loss is a line of the run.
    internals.worker.print_to_stdstream = lambda *data, **options: None
    registers = internals.utils.set_sigterm_handler
    internals.utils.set_sigterm_handler = lambda handler: None  # SIGTERM stays this command's to answer
    try:
        with contextlib.nullcontext() if address == "local" else _token_as_asked(ray, address):
            ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", **own)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise BenchError(
            f"the Ray cluster {address} cannot be joined ({said(error)}); start ray of the same version and with the "
            "same ~/.ray/auth_token on every node, and this command on one of them"
        ) from error
    finally:
        internals.utils.set_sigterm_handler = registers


@contextlib.contextmanager
def _token_as_asked(ray: Any, address: str) -> Iterator[None]:
    """Show the user's token to a cluster that asks for one, and to no other.

    Ray goes by whether there is a token, for ``auto`` alone: one that is not shown is refused, and with one that was
    not asked for the workers' answers are refused here, for ever and without a word.
    """
    before = os.environ.get(_MODE)
    os.environ[_MODE] = "token" if _asks_for_token(address) else "disabled"
    ray._raylet.Config.initialize("")  # it was read before
    try:
        yield
    finally:
        os.environ.pop(_MODE)
        os.environ.update({} if before is None else {_MODE: before})


_MODE = "RAY_AUTH_MODE"
_ASK = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1]))
"""


def _asks_for_token(address: str) -> bool:
    """Whether a cluster refuses a process that shows none; one that cannot be joined at all does not say."""
    command = [sys.executable, "-c", _ASK, address]
    with contextlib.suppress(subprocess.TimeoutExpired):
        around = {**os.environ, _MODE: "disabled"}
        asked = subprocess.run(command, env=around, capture_output=True, text=True, timeout=ASK_SECONDS)
        return asked.returncode != 0 and "InvalidAuthToken" in asked.stderr
    return False


class Signals:
    """Lets Ctrl-C and SIGTERM end a call of Ray, and be answered then as everywhere else.

    Ray's compiled code looks for signals itself and knows ``KeyboardInterrupt`` alone: where a handler raises anything
    else, the call ends with a ``SystemError``, and what the handler has raised is lost.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._calls, self._came = False, 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Stand before the handlers that are set; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            every = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: handler for number, handler in every.items() if callable(handler)}
        self.again()
        try:
            yield
        except KeyboardInterrupt:
            self._answer()
            raise
        finally:
            self._leave()

    def again(self) -> None:
        """Set the handlers anew: Ray's compiled code puts one for SIGTERM in their place that aborts the process."""
        for number in self._handlers:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._calls:
            self._handlers[number](number, frame)
            return
        self._came = number
        self._leave()  # a second one is not held up
        raise KeyboardInterrupt

    def _leave(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler)

    def __enter__(self) -> None:
        """Before calls of Ray: a signal that comes from now on ends them."""
        self._calls = True

    def __exit__(self, *ended: object) -> None:
        """After calls of Ray: the handler of the signal that has ended them is called."""
        self._calls = False
        self._answer()

    def _answer(self) -> None:
        number, self._came = self._came, 0
        if number:
            self._handlers[number](number, None)


class RayWire:
    """The wire to a cluster that this process has joined.

    Args:
        ray: The module.
        setting: What all jobs share.
        signals: End calls of Ray.
    """

    def __init__(self, ray: Any, setting: Setting, signals: Signals) -> None:
        self._ray, self._setting, self._signals = ray, setting, signals
        self._head: str = ray.get_runtime_context().gcs_address
        self._carry = ray.remote(num_returns="streaming", max_retries=0)(carry)
        # a CPU, so that the first job of a node waits for it and has its server, and does not start one beside it
        self._survey = ray.remote(num_cpus=1, max_retries=0)(survey)
        self._asked: dict[Node, Any] = {}
        self._told: dict[Node, Surveyed | None] = {}
        gone = ray.exceptions
        self._losses: dict[type[Exception], tuple[str, str]] = {
            gone.OutOfMemoryError: ("oom", "Ray killed its worker, as the memory of the node was full"),
            gone.WorkerCrashedError: ("crashed", "its Ray worker was killed"),
            gone.NodeDiedError: ("crashed", "its node was lost"),
            gone.LocalRayletDiedError: ("crashed", "its node was lost"),
            gone.TaskUnschedulableError: ("crashed", "its node was lost"),
            gone.ObjectLostError: ("crashed", "its node was lost with what it had to say"),
            gone.TaskCancelledError: ("crashed", "it was cancelled"),
        }

    def nodes(self) -> list[Node]:
        """See `Wire`."""
        self._wait_for_head()
        with self._signals:
            every_node = self._ray.nodes()
        alive = [(one["NodeID"], one["Resources"]) for one in every_node if one["Alive"]]
        every = [Node(name, int(has.get("CPU", 0)), int(has.get("GPU", 0))) for name, has in alive]
        return sorted(node for node in every if node.cpus)

    def _wait_for_head(self) -> None:
        """One may be started anew in the place of one that is lost; without any, Ray would answer nothing for a minute.

        Raises:
            BenchError: The cluster is gone.
        """
        given_up = time.monotonic() + GONE_SECONDS
        while (reason := _unanswered(self._head)) is not None:
            if time.monotonic() > given_up:
                raise BenchError(
                    f"the Ray cluster is gone: nobody answers at {self._head} any more ({reason}); start it again, "
                    "then run the same command again"
                )
            time.sleep(1.0)

    def look(self) -> None:
        """Ask nodes that were not asked yet what they are."""
        for node in self.nodes():
            if node not in self._asked:
                self._asked[node] = self._survey.options(scheduling_strategy=self._on(node)).remote(self._setting)

    def surveyed(self, *, wait: bool) -> list[Surveyed]:
        """See `Wire`."""
        self.look()
        alive = self.nodes()
        for node, reference in self._asked.items():
            if node in self._told or node not in alive:
                continue
            if wait or self._ready([reference], 0.0):
                self._told[node] = self._answer(node, reference)
        return [told for node, told in self._told.items() if told is not None and node in alive]

    def _answer(self, node: Node, reference: Any) -> Surveyed | None:
        try:
            with self._signals:
                return Surveyed(node, self._ray.get(reference, timeout=SURVEY_SECONDS))
        except self._ray.exceptions.RayError as error:
            if isinstance(error, (*self._losses, self._ray.exceptions.GetTimeoutError)):
                return None
            raise self._unfit(error) from error

    def put(self, parcel: Parcel) -> dict[str, list[Any]]:
        """See `Wire`."""
        try:
            with self._signals:
                paths = {file.name: Path(parcel.root) / file.name for file in parcel.files}
                return {name: [*map(self._ray.put, _parts(path))] for name, path in paths.items()}
        except (OSError, self._ray.exceptions.RayError) as error:
            raise BenchError(
                f"{parcel.root}: cannot be sent to a node that lacks it ({said(error)}); leave files as they are while "
                "jobs run, and free memory and space for Ray's object store"
            ) from error

    def start(self, order: Order, parts: Mapping[str, Any], request: Request, node: Node | None) -> Any:
        """See `Wire`."""
        place = "SPREAD" if node is None else self._on(node)
        task = self._carry.options(num_cpus=request.cpus, num_gpus=request.gpus, scheduling_strategy=place)
        with self._signals:
            return task.remote(order, dict(parts))

    def _on(self, node: Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.id, soft=False)

    def heard(self, handles: Sequence[Any], seconds: float) -> list[tuple[Any, Message]]:
        """See `Wire`."""
        return [(handle, self._message(handle)) for handle in self._ready(handles, seconds)]

    def _ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        with self._signals:
            ready, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds, fetch_local=False)
        return [*ready]

    def has_spoken(self, handle: Any) -> bool:
        """See `Wire`."""
        return bool(self._ready([handle], 0.0))

    def _message(self, handle: Any) -> Message:
        try:
            with self._signals:
                message: Message = self._ray.get(next(handle))
        except StopIteration:
            return "ended", None
        except self._ray.exceptions.RayError as error:
            for kind, loss in self._losses.items():
                if isinstance(error, kind):
                    return "lost", loss
            raise self._unfit(error) from error
        return message

    def _unfit(self, error: BaseException) -> BenchError:
        """The sentence for a node on which this program itself fails."""
        cause = getattr(error, "cause", None) or error
        return BenchError(
            f"a node of the cluster cannot run this program ({type(cause).__name__}: {said(cause)}); install the same "
            "commit and the same versions on every node"
        )

    def stop(self, handle: Any) -> None:
        """See `Wire`."""
        with contextlib.suppress(Exception):  # it may have ended, and so may the cluster
            if self._ray.is_initialized():  # else Ray starts a cluster of this machine, to cancel nothing on it
                self._ray.cancel(handle, force=True)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part

"""Decides what runs where on a Ray cluster, and what its answers mean; the driver alone writes records."""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from bench.errors import BenchError
from bench.execute.ray_host import Message, Order, Setting
from bench.execute.runner import Job, Progress, Result, base_of, kind_of, record_of, unfinished, with_base
from bench.schema.jobs import Cell, Plan, Probe, sha256_of, source_hash
from bench.schema.record import CostRecord, Stored
from bench.store.environment import fingerprint, now
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
    """What ``job`` asks for: CPUs for the torch threads of each of its devices, and GPUs where it runs on some.

    A probe is given a whole node, and asks for the least that such a node must have.
    """
    on_gpu = int(job.device == "cuda")
    if isinstance(job, Cell):
        return Request(job.threads * job.devices, on_gpu * job.devices)
    if isinstance(job, Probe):
        return Request(max(1, job.threads or 1), on_gpu)
    return Request(1, 0)  # a sweep counts on fake tensors


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
                f"({held if nodes else 'none is there'}); lower threads or devices in the suite, or add a node"
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

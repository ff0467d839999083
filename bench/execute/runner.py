"""Carries out a plan: each job in a process of its own through a fork server; stores each record at once."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import NamedTuple, Protocol

from pydantic import TypeAdapter

from bench.count.isolation import own_group
from bench.count.sweep import failures as count_failures
from bench.count.sweep import run_sweep
from bench.errors import BenchError, traced, unwritable
from bench.execute.fork_server import LOST, ensure_server, has_ended, let_server_end, server_number, warm_context
from bench.plan.select import family
from bench.schema.jobs import Cell, Plan, Probe, Sweep, cost_id, count_id, sha256_of
from bench.schema.record import ScoreRecord, Stored
from bench.schema.suite import Suite
from bench.store.environment import at_once, cores, gpus, now
from bench.store.kept import Keep, NotWritten, land, leave_best
from bench.store.sidecars import Sidecars
from bench.store.store import Store
from bench.timing.probe import failures as cost_failures
from bench.timing.probe import run_probe
from bench.training.cell import failure, run_cell

Job = Cell | Probe | Sweep
Prepare = Callable[[Job], Job]
Gpus = tuple[int, ...]
_KINDS: dict[str, type[Job]] = {"cell": Cell, "probe": Probe, "sweep": Sweep}
_RECORD: TypeAdapter[Stored] = TypeAdapter(Stored)


@dataclass(frozen=True)
class Progress:
    """A line from a running job, for people."""

    job: Job
    line: str


@dataclass(frozen=True)
class Result:
    """A record that a job handed back, with what a cell leaves beside it."""

    job: Job
    record: Stored
    sidecars: Sidecars | None = None


@dataclass
class _Worker:
    job: Job
    process: ForkServerProcess
    messages: Connection
    lifeline: Connection
    """Held open as long as this process lives: a worker whose lifeline breaks ends itself."""
    started: str = field(default_factory=now)
    deadline: float = 0.0
    received: list[Stored] = field(default_factory=list)
    raised: tuple[str, str] | None = None
    """Reason and traceback of what ended the job and was no failure that its records could hold."""

    server: int | None = None
    """Number of the fork server's process."""
    gpus: Gpus = ()
    """Numbers of the GPUs that it was given; empty: there was no choice."""

    def end(self) -> None:
        """End the process, which may live on without its server, and those that its method has started."""
        with contextlib.suppress(OSError):
            if self.process.pid is not None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """Give back what it is heard by, once nobody speaks."""
        with contextlib.suppress(EOFError, OSError):
            while self.messages.poll(_LAST_WORDS_SECONDS):
                self.messages.recv_bytes()
        self.messages.close()
        self.lifeline.close()


class NoWorker(BenchError):
    """The fork server was gone twice as a worker was asked of it."""


class _ServerLost(Exception):
    """The fork server was gone when a process was asked of it."""


_LAST_WORDS_SECONDS = 5.0
"""A process that was killed gives its memory back, closes its pipes and ends, in this order and soon after."""


def run_jobs(
    context: ForkServerContext,
    jobs: Sequence[Job],
    *,
    workers: int,
    keep: Keep | None = None,
    prepare: Prepare | None = None,
) -> Iterator[Progress | Result]:
    """Run ``jobs``, at most ``workers`` at once, and yield what happens as it happens.

    Where the fork server dies, its jobs start anew in another one; a job under which it dies twice has crashed.

    Args:
        context: From ``warm_context``.
        jobs: Cells, probes or sweeps, started in this order.
        workers: Processes at once; they change how long all takes, and no figure.
        keep: Where cells write what they have trained, aside of its place; None: it is not kept.
        prepare: Called in each worker first, gives the job as it is to be run there; it can be pickled.

    Raises:
        BenchError: What is to be kept cannot be written, no fork server can be started, or ``prepare`` refuses a job.
    """
    waiting = list(reversed(jobs))
    running: list[_Worker] = []
    repeated: set[str] = set()
    read: dict[str, dict[str, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                given = _free_gpus(waiting[-1], running)
                running.append(_started(context, with_base(waiting[-1], read), keep, given, prepare))
                waiting.pop()
            handles = [handle for worker in running for handle in (worker.messages, worker.process.sentinel)]
            wait(handles, timeout=max(0.0, min(worker.deadline for worker in running) - time.monotonic()))
            for worker in list(running):
                yield from _drain(worker)
                if not (ended := _ended(worker)):
                    continue
                running.remove(worker)
                worker.end()
                yield from _drain(worker)
                read |= base_of(worker.job, worker.received)
                scored = isinstance(worker.job, Cell) and worker.received
                if ended.server_lost and not scored and worker.job.id not in repeated:
                    repeated.add(worker.job.id)
                    waiting.append(worker.job)
                    worker.close()
                    yield Progress(worker.job, "begins anew: the process that starts the workers was killed")
                else:
                    yield from _close(worker, ended)
    finally:
        for worker in running:
            worker.end()


def _free_gpus(job: Job, running: Sequence[_Worker]) -> Gpus:
    """The GPUs that fewest jobs run on, as many as a cell has devices; none where there is no choice."""
    if not isinstance(job, Cell) or job.device != "cuda" or (number := gpus()) <= job.devices:
        return ()
    taken = [worker.gpus for worker in running]
    groups = [tuple(range(first, first + job.devices)) for first in range(0, number - job.devices + 1, job.devices)]
    return min(groups, key=lambda group: sum(bool({*group} & {*one}) for one in taken))


def base_of(job: Job, records: Sequence[Stored]) -> dict[str, dict[str, float]]:
    """What the backbone needed for a byte of each text, where a cell has read it, by all that this depends on."""
    if not isinstance(job, Cell) or job.retention is None:
        return {}
    kept = (record.retention for record in records if isinstance(record, ScoreRecord))
    return {_reading(job): {name: bits.before for name, bits in one.items()} for one in kept if one}


def with_base(job: Job, read: Mapping[str, dict[str, float]]) -> Job:
    """``job``, a cell with what another one has read of the bare backbone: nothing of it depends on the method."""
    if not isinstance(job, Cell) or job.retention is None or (before := read.get(_reading(job))) is None:
        return job
    return job.model_copy(update={"retention": job.retention.model_copy(update={"before": before})})


def _reading(cell: Cell) -> str:
    assert cell.retention is not None
    return sha256_of([cell.retention.decides(), dataclasses.asdict(cell.backbone), cell.device, cell.threads,
                      cell.recipe.get("dtype")])  # fmt: skip


def kind_of(job: Job) -> str:
    """``cell``, ``probe`` or ``sweep``."""
    return next(kind for kind, cls in _KINDS.items() if isinstance(job, cls))


def job_of(kind: str, text: str) -> Job:
    """The job of its JSON.

    Args:
        kind: As `kind_of` gives it.
        text: What ``model_dump_json`` gave.
    """
    return _KINDS[kind].model_validate_json(text)


def _threads(job: Job) -> int:
    """Torch threads of the job's process."""
    if isinstance(job, Cell):
        return job.threads
    return 1 if isinstance(job, Sweep) else job.threads or cores()


def _started(context: ForkServerContext, job: Job, keep: Keep | None, given: Gpus, prepare: Prepare | None) -> _Worker:
    """Start a job, in a new fork server where the one that runs dies meanwhile."""
    with contextlib.suppress(_ServerLost):
        return _start(context, job, keep, given, prepare)
    let_server_end()
    try:
        return _start(context, job, keep, given, prepare)
    except _ServerLost as error:
        raise NoWorker(
            f"no worker can be started ({type(error.__cause__).__name__}: {error.__cause__}); see what ends their fork "
            "server, such as a limit on memory or processes, then run the same command again"
        ) from error


def _start(context: ForkServerContext, job: Job, keep: Keep | None, given: Gpus, prepare: Prepare | None) -> _Worker:
    messages, theirs = context.Pipe(duplex=False)
    their_lifeline, lifeline = context.Pipe(duplex=False)
    asked = kind_of(job), job.model_dump_json(), _threads(job), keep, given, prepare
    process = context.Process(target=_work, args=(*asked, theirs, their_lifeline))
    try:
        ensure_server()
        process.start()
    except (EOFError, OSError) as error:
        messages.close()
        lifeline.close()
        raise _ServerLost from error
    finally:
        theirs.close()
        their_lifeline.close()
    deadline = time.monotonic() + job.timeout_seconds
    return _Worker(job, process, messages, lifeline, deadline=deadline, server=server_number(), gpus=given)


def _work(
    kind: str, spec: str, threads: int, keep: Keep | None, given: Gpus, prepare: Prepare | None,
    messages: Connection, lifeline: Connection,
) -> None:  # fmt: skip
    """In the worker: run one job and send what comes of it."""
    own_group()  # by which the parent ends it
    os.dup2(2, 1)  # whatever a method prints must not mix with the parent's JSON
    # The parent answers Ctrl-C, and the SIGTERM that a batch system sends to every process of a job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    try:
        if prepare is not None:
            spec = _prepared(prepare, kind, spec)
        _run(kind, spec, threads, keep, given, messages)
    except _Refused as error:
        messages.send(("refused", str(error), None))
    except BaseException as error:  # SystemExit too: what a method does to its process is a result
        from bench.training.blame import reason_of

        messages.send(("raised", (reason_of(error), traced(error)), None))


VISIBLE = "CUDA_VISIBLE_DEVICES"


def seen_as(given: Gpus, visible: str | None) -> list[str]:
    """How CUDA names those GPUs that have these numbers among the ``visible`` ones; all are where that is None."""
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    return [str(one) if names is None else names[one] for one in given]


class _Refused(Exception):
    """This machine cannot run the job; the sentence is for the user."""


def _prepared(prepare: Prepare, kind: str, spec: str) -> str:
    try:
        return prepare(job_of(kind, spec)).model_dump_json()
    except BenchError as error:
        raise _Refused(str(error)) from error


def _run(kind: str, spec: str, threads: int, keep: Keep | None, given: Gpus, messages: Connection) -> None:
    import torch

    if len(given) == 1:
        torch.cuda.set_device(*given)  # ``cuda`` is this one from here on
    elif given:  # those are all that the processes of the devices, which begin anew, will see
        os.environ[VISIBLE] = ",".join(seen_as(given, os.environ.get(VISIBLE)))
    if kind != "probe":  # one of those must make no team of threads before it forks
        torch.set_num_threads(threads)

    def progress(line: str) -> None:
        messages.send(("progress", line, None))

    if kind == "cell":
        try:
            record, sidecars = run_cell(Cell.model_validate_json(spec), progress, keep)
        except NotWritten as error:
            raise _Refused(str(error)) from error
        messages.send((kind, record.model_dump_json(by_alias=True), sidecars))
    elif kind == "probe":
        for cost in run_probe(Probe.model_validate_json(spec), progress):
            messages.send((kind, cost.model_dump_json(by_alias=True), None))
    else:
        for counted in run_sweep(Sweep.model_validate_json(spec), progress):
            messages.send((kind, counted.model_dump_json(by_alias=True), None))


def _end_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _drain(worker: _Worker) -> Iterator[Progress | Result]:
    try:
        while worker.messages.poll():
            kind, text, sidecars = worker.messages.recv()
            if kind == "progress":
                yield Progress(worker.job, text)
                continue
            if kind == "refused":
                raise BenchError(text)
            if kind == "raised":
                worker.raised = text
                continue
            record = record_of(text)
            worker.received.append(record)
            yield Result(worker.job, record, sidecars)
    except (EOFError, OSError):
        return  # the worker is gone; _ended sees it by its process


def record_of(text: str) -> Stored:
    """The record of its JSON."""
    return _RECORD.validate_json(text)


class _Ended(NamedTuple):
    """How a worker ended."""

    status: str
    reason: str
    """Of whatever it still owes."""
    server_lost: bool = False
    """Whether the fork server died, and the worker may have been sound."""


def _ended(worker: _Worker) -> _Ended | None:
    """How the worker ended; None while it runs."""
    if not worker.process.is_alive():
        code = worker.process.exitcode or 0
        if code == LOST and has_ended(worker.server):
            return _Ended("crashed", "the process that starts the workers was killed twice while it ran", True)
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return _Ended("crashed", f"the worker process ended without a record ({cause})")
    if time.monotonic() > worker.deadline:
        return _Ended("timeout", f"ran longer than {worker.job.timeout_seconds:g} s")
    return None


def _close(worker: _Worker, ended: _Ended) -> Iterator[Progress | Result]:
    worker.close()
    status, reason = ended.status, ended.reason
    trace: str | None = None
    if worker.raised is not None:
        status, (reason, trace) = "failed", worker.raised
    done = {record.id for record in worker.received}
    yield from unfinished(worker.job, done, status, reason, worker.started, trace)


def unfinished(
    job: Job, done: Set[str], status: str, reason: str, started: str, trace: str | None = None
) -> Iterator[Result]:
    """Records of what a job that has ended still owes.

    Args:
        job: The job.
        done: Identities of the records that it has handed back.
        status: What became of the others.
        reason: Why, in a line.
        started: When it was started, as `now` gives it.
        trace: Python's traceback, where there is one.
    """
    owed: Sequence[Stored]
    if isinstance(job, Cell):
        owed = [] if done else [failure(job, status, reason, started, trace)]
    elif isinstance(job, Sweep):
        owed = count_failures(job, status, reason, started)
    else:
        owed = cost_failures(job, status, reason, started)
    yield from (Result(job, record) for record in owed if record.id not in done)


@dataclass(frozen=True)
class Remaining:
    """What a plan still asks of a run folder."""

    probes: tuple[Probe, ...]
    """With only those methods left that have no record, and the baseline where they are timed against it."""
    cells: tuple[Cell, ...]
    sweeps: tuple[Sweep, ...] = ()
    """With only those values left at which a method has no record."""
    counts: int = 0
    """Records that these sweeps owe."""
    costs: int = 0
    """Records that these probes owe."""

    def __bool__(self) -> bool:
        return bool(self.probes or self.cells or self.sweeps)


def remaining(plan: Plan, store: Store) -> Remaining:
    """Jobs of ``plan`` without a record in ``store``; a probe that was cut short is measured again for what it owes."""
    probes, costs = [], 0
    for probe in plan.probes:
        owed = [m for m in probe.methods if cost_id(probe, m) not in store]
        costs += len(owed)
        if owed:
            kept = [m for m in probe.methods if m in owed or (probe.timed and m.label == probe.baseline)]
            probes.append(probe.model_copy(update={"methods": tuple(kept)}))
    sweeps, counts = [], 0
    for sweep in plan.sweeps:
        points = [value for value in sweep.values for m in sweep.methods if count_id(sweep, m, value) not in store]
        counts += len(points)
        if points:
            sweeps.append(sweep.model_copy(update={"values": tuple(dict.fromkeys(points))}))
    cells = tuple(cell for cell in plan.cells if cell.id not in store)
    return Remaining(tuple(probes), cells, tuple(sweeps), counts, costs)


def warm_up(suite: Suite) -> ForkServerContext:
    """Start the fork server for the suite's backbone; it imports while the suite is planned."""
    return warm_context(family(suite), cells=bool(suite.tasks))


class Elsewhere(Protocol):
    """Carries out jobs on other machines, and decides there what runs side by side."""

    def run_jobs(
        self, jobs: Sequence[Job], *, workers: int | None, keep: Keep | None, beside: Sequence[Stored]
    ) -> Iterator[Progress | Result]:
        """As `run_jobs` of this module, for jobs of one kind.

        Args:
            jobs: Cells, probes or sweeps.
            workers: Jobs at once; as many as the machines carry where None.
            keep: Where in the run folder cells leave what they have trained, aside of its place.
            beside: Records of the run folder: what is timed is timed on machines like theirs.
        """
        ...


def execute(
    todo: Remaining,
    store: Store,
    context: ForkServerContext | Elsewhere,
    *,
    workers: int | None = None,
    keep: Keep | None = None,
) -> Iterator[Progress | Result]:
    """Run what remains, store every record before it is passed on.

    Args:
        context: Where it is run: from ``warm_up``, on this machine.
        todo: From ``remaining``.
        store: The open store of the run folder.
        workers: Cells or sweeps at once; as many as have a core for each of their threads where None.
        keep: What to keep of what cells train; None: nothing.
    """
    if not isinstance(context, ForkServerContext):
        kinds: tuple[Sequence[Job], ...] = (todo.sweeps, todo.probes, todo.cells)
        for jobs in filter(None, kinds):
            aside = keep if jobs is todo.cells else None
            yield from _stored(context.run_jobs(jobs, workers=workers, keep=aside, beside=store.records), store, aside)
        return
    if todo.sweeps:  # counted, not timed: they may share the machine
        yield from _stored(run_jobs(context, todo.sweeps, workers=workers or at_once(len(todo.sweeps))), store)
    for probe in todo.probes:  # one at a time: nothing runs beside a probe
        yield from _stored(run_jobs(context, [probe], workers=1), store)
    if todo.cells:
        side_by_side = workers or _at_once(todo.cells)
        yield from _stored(run_jobs(context, todo.cells, workers=side_by_side, keep=keep), store, keep)


def _at_once(cells: Sequence[Cell]) -> int:
    """Cells side by side where nobody says how many: as many as the cores carry, and on GPUs one each."""
    each = cells[0].devices
    carried = at_once(len(cells), cells[0].threads * each)
    return carried if cells[0].device != "cuda" else max(1, min(gpus() // each, carried))


def _stored(events: Iterator[Progress | Result], store: Store, keep: Keep | None = None) -> Iterator[Progress | Result]:
    for event in events:
        if isinstance(event, Result):
            if event.record.id in store:
                continue
            kept = keep is not None and getattr(event.record, "kept_sha256", None) is not None
            if keep is not None and kept:
                _in_place(keep, event.record.id)
            store.append(event.record, event.sidecars)
            if keep is not None and kept and keep.which == "best":
                leave_best(keep.folder)
        yield event


def _in_place(keep: Keep, identity: str) -> None:
    """Put what a worker wrote aside in its place, before the record says that it is there."""
    try:
        land(keep.folder, identity)
    except OSError as error:
        raise unwritable(keep.folder, error, "free space or fix permissions, then run again") from error

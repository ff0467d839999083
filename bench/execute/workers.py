"""Runs each job in its own process through a fork server; a dead or hung worker becomes a record."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from pydantic import TypeAdapter

from bench.count import sweep as counts
from bench.schema.jobs import Cell, Probe, Sweep
from bench.schema.record import Stored
from bench.store.environment import now
from bench.store.sidecars import Sidecars
from bench.timing import probe
from bench.training.cell import failure, run_cell

Job = Cell | Probe | Sweep
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


def warm_context(model_type: str, *, cells: bool = True) -> ForkServerContext:
    """Fork server that imports torch, transformers and the backbone's class once, for cells also datasets and evaluate.

    Args:
        model_type: Family of the backbone, e.g. ``bert``.
        cells: Whether cells will run; probes alone need neither datasets nor evaluate, which may then be absent.
    """
    os.environ["BENCH_WARM_MODEL_TYPE"] = model_type
    os.environ["BENCH_WARM_CELLS"] = "1" if cells else ""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execute.warm"])
    forkserver.ensure_running()  # returns at once: the server imports while the caller plans
    return context


def run_jobs(
    context: ForkServerContext, jobs: Sequence[Job], *, workers: int, threads: int
) -> Iterator[Progress | Result]:
    """Run ``jobs``, at most ``workers`` at once, and yield what happens as it happens.

    Args:
        context: From ``warm_context``.
        jobs: Cells, probes or sweeps, started in this order.
        workers: Processes at once.
        threads: Torch threads of each process.
    """
    waiting = list(reversed(jobs))
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(context, waiting.pop(), threads))
            handles = [handle for worker in running for handle in (worker.messages, worker.process.sentinel)]
            wait(handles, timeout=max(0.0, min(worker.deadline for worker in running) - time.monotonic()))
            for worker in list(running):
                yield from _drain(worker)
                if ended := _ended(worker):
                    running.remove(worker)
                    yield from _close(worker, *ended)
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.join()


def _start(context: ForkServerContext, job: Job, threads: int) -> _Worker:
    messages, theirs = context.Pipe(duplex=False)
    their_lifeline, lifeline = context.Pipe(duplex=False)
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(job, cls))
    process = context.Process(target=_work, args=(kind, job.model_dump_json(), threads, theirs, their_lifeline))
    process.start()
    theirs.close()
    their_lifeline.close()
    return _Worker(job, process, messages, lifeline, deadline=time.monotonic() + job.timeout_seconds)


def _work(kind: str, spec: str, threads: int, messages: Connection, lifeline: Connection) -> None:
    """In the worker: run one job and send what comes of it."""
    import torch

    os.dup2(2, 1)  # whatever a method prints must not mix with the parent's JSON
    # The parent answers Ctrl-C, and the SIGTERM that a batch system sends to every process of a job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(threads)

    def progress(line: str) -> None:
        messages.send(("progress", line, None))

    if kind == "cell":
        record, sidecars = run_cell(Cell.model_validate_json(spec), progress)
        messages.send((kind, record.model_dump_json(by_alias=True), sidecars))
    elif kind == "probe":
        for cost in probe.run_probe(Probe.model_validate_json(spec), progress):
            messages.send((kind, cost.model_dump_json(by_alias=True), None))
    else:
        for counted in counts.run_sweep(Sweep.model_validate_json(spec), progress):
            messages.send((kind, counted.model_dump_json(by_alias=True), None))


def _end_with_parent(lifeline: Connection) -> None:
    try:
        lifeline.recv_bytes()
    except EOFError:
        os._exit(1)


def _drain(worker: _Worker) -> Iterator[Progress | Result]:
    try:
        while worker.messages.poll():
            kind, text, sidecars = worker.messages.recv()
            if kind == "progress":
                yield Progress(worker.job, text)
                continue
            record = _RECORD.validate_json(text)
            worker.received.append(record)
            yield Result(worker.job, record, sidecars)
    except (EOFError, OSError):
        return  # the worker is gone; _ended sees it by its process


def _ended(worker: _Worker) -> tuple[str, str] | None:
    """Status and reason for whatever the worker still owes, or None while it runs."""
    if not worker.process.is_alive():
        code = worker.process.exitcode or 0
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "crashed", f"the worker process ended without a record ({cause})"
    if time.monotonic() > worker.deadline:
        worker.process.kill()
        worker.process.join()
        return "timeout", f"ran longer than {worker.job.timeout_seconds:g} s"
    return None


def _close(worker: _Worker, status: str, reason: str) -> Iterator[Progress | Result]:
    worker.process.join()
    yield from _drain(worker)
    worker.messages.close()
    worker.lifeline.close()
    if isinstance(worker.job, Cell):
        if not worker.received:
            yield Result(worker.job, failure(worker.job, status, reason, worker.started))
        return
    done = {record.id for record in worker.received}
    owed: Sequence[Stored] = (
        counts.failures(worker.job, status, reason, worker.started)
        if isinstance(worker.job, Sweep)
        else probe.failures(worker.job, status, reason, worker.started)
    )
    yield from (Result(worker.job, record) for record in owed if record.id not in done)

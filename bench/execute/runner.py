"""Carries out a plan: sweeps in parallel, probes one at a time, cells in parallel; stores each record at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext

from bench.execute.workers import Progress, Result, run_jobs, warm_context
from bench.plan.select import family
from bench.schema.jobs import Cell, Plan, Probe, Sweep, cost_id, count_id
from bench.schema.suite import Suite
from bench.store.environment import cores
from bench.store.store import Store


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


def execute(
    todo: Remaining, store: Store, context: ForkServerContext, *, workers: int | None = None
) -> Iterator[Progress | Result]:
    """Run what remains, store every record before it is passed on.

    Args:
        context: From ``warm_up``.
        todo: From ``remaining``.
        store: The open store of the run folder.
        workers: Cells or sweeps at once, one per core where None; the cores are divided among cells.
    """
    if todo.sweeps:  # counted, not timed: they may share the machine
        side_by_side = min(workers or cores(), len(todo.sweeps))
        yield from _stored(run_jobs(context, todo.sweeps, workers=side_by_side, threads=1), store)
    for probe in todo.probes:  # one at a time: nothing runs beside a probe
        yield from _stored(run_jobs(context, [probe], workers=1, threads=probe.threads or cores()), store)
    if todo.cells:
        workers = workers or min(cores(), len(todo.cells))
        threads = max(1, cores() // workers)
        yield from _stored(run_jobs(context, todo.cells, workers=workers, threads=threads), store)


def _stored(events: Iterator[Progress | Result], store: Store) -> Iterator[Progress | Result]:
    for event in events:
        if isinstance(event, Result):
            if event.record.id in store:
                continue
            store.append(event.record, event.sidecars)
        yield event

"""From the name of a suite to records in a folder: select, plan, carry out."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import BenchError, Interrupted

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from bench.cli.progress import Display
    from bench.execute.ray_cluster import Cluster
    from bench.plan.select import Selection
    from bench.schema.jobs import Plan
    from bench.schema.record import Stored
    from bench.schema.suite import Suite
    from bench.store.kept import Keep
    from bench.store.store import Store

    Executor = ForkServerContext | Cluster

MEASURE = "Measure"
"""Panel of the help text for the verbs that run things."""


def quiet_libraries() -> None:
    """Set before the libraries are imported, also for the workers: no advice, no progress bars, no thread warnings."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def selected(name: str, selection: "Selection") -> "Suite":
    """The suite of this name or file, narrowed to what the command line asks for."""
    quiet_libraries()
    from bench.plan.load import load_suite
    from bench.plan.select import select

    return select(load_suite(name), selection)


def warm_up(suite: "Suite") -> "ForkServerContext":
    """Start the fork server; it imports while the suite is planned."""
    from bench.execute import runner

    return runner.warm_up(suite)


@contextlib.contextmanager
def place(name: Literal["local", "ray"], address: str | None, suite: "Suite") -> "Iterator[Executor]":
    """Where the jobs of ``suite`` run: this machine's fork server, or a Ray cluster that is left in the end.

    Args:
        name: As ``--executor`` gives it.
        address: Of the cluster, as ``--address`` gives it.
        suite: From ``selected``.

    Raises:
        BenchError: There is an address and no cluster, or the cluster cannot be had.
    """
    if name == "ray":
        from bench.execute.ray_wire import connected

        with connected(suite, address) as cluster:
            yield cluster
    elif address is None:
        yield warm_up(suite)
    else:
        raise BenchError(f"--address {address} is of a Ray cluster; add --executor ray, or omit --address")


def planned(
    suite: "Suite", say: Callable[[str], None] = lambda line: None, make: Callable[..., "Plan"] | None = None
) -> "Plan":
    """Plan ``suite`` for this machine and refuse what does not fit before anything is trained.

    Args:
        suite: From ``selected``.
        say: Called with one line a stage.
        make: Plans it; ``bench.plan.planner.make_plan`` where left out.
    """
    import torch

    from bench.count.predict import check_fit, check_memory
    from bench.plan.planner import make_plan
    from bench.store.environment import check_devices

    plan = (make or make_plan)(suite, f"suite {suite.name}", "cuda" if torch.cuda.is_available() else "cpu", say)
    for cell in plan.cells[:1]:  # all of a suite ask for as many
        check_devices(cell.devices, cell.device)
    check_fit(plan)
    check_memory(plan)
    return plan


@contextlib.contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Let an interruption say what is kept: ``kept`` gives the words when it comes."""
    try:
        yield
    except Interrupted as stop:
        stop.kept = stop.kept or kept()
        raise


def carry_out(
    plan: "Plan", folder: Path, fresh: bool, workers: int | None, context: "Executor", display: "Display",
    which: Literal["best", "all"] | None = None, trackers: Sequence[str] = (), retry: Set[str] = frozenset(),
) -> list[Any]:  # fmt: skip
    """Carry out what the folder still lacks.

    Args:
        plan: What is to be done.
        folder: The run folder.
        fresh: Archive earlier records, and what is kept, and begin anew.
        workers: Jobs at once; as many as the cores carry where None.
        context: From ``place``.
        display: Shows how far it is.
        which: What to keep of what cells train; None: nothing.
        trackers: Where every record of the plan is sent, from ``bench.execute.tracking.checked``.
        retry: Statuses of the records to repeat.

    Returns:
        The records of the plan, of this call and of earlier ones, in the order of the file.

    Raises:
        BenchError: Something is to be kept, and nothing is trained, or it was trained before and not kept; or the
            cluster cannot run a job of the plan.
    """
    from multiprocessing.context import ForkServerContext

    from bench.execute.runner import Result, execute, remaining
    from bench.execute.tracking import Tracking
    from bench.store.kept import kept_in, leave_best, set_aside, tidy
    from bench.store.store import RETRIED, open_store

    wanted = plan.job_ids()
    without = " without --fresh" if fresh else " without --retry" if retry else ""

    def kept() -> str:
        there = sum(identity in store for identity in wanted)
        return f"{there} of {len(wanted)} records are kept; the same command{without} resumes"

    keep = _keep(plan, folder, which)
    if not isinstance(context, ForkServerContext):
        context.check(plan)
    with open_store(folder, plan.suite, fresh=fresh, wanted=wanted) as store, interruptible(kept):
        if fresh:
            set_aside(folder)
        tidy(folder)
        if keep is not None:
            _check_kept(plan, store, keep)
        owed = {record.id for record in store.records if record.id in wanted and record.status in retry}
        if owed:
            counts = _statuses(record for record in store.records if record.id in owed)
            store.set_aside(owed)
            display.note(f"repeats {_spoken(counts)}; what they were is in {RETRIED}")
        elif retry:
            display.note(f"--retry: no record here is {' or '.join(sorted(retry))}")
        tracking = Tracking(folder, trackers, display.note, fresh, owed)
        for record in store.records:
            if record.id in wanted:
                tracking.send(record)
        todo = remaining(plan, store)
        if not todo:
            display.note("nothing to do (use --fresh to run again)")
            if lost := _statuses(record for record in store.records if record.id in wanted and record.status in _LOST):
                display.note(f"--retry {','.join(lost)} repeats {_spoken(lost)}")
        else:
            display.begin(plan, todo, sum(identity in store for identity in wanted), folder)
            if keep is None and any(kept_in(folder)):
                display.note("earlier cells of this run are kept; without --keep those that follow are not")
            with display:
                for event in execute(todo, store, context, workers=workers, keep=keep):
                    display.show(event)
                    if isinstance(event, Result):
                        tracking.send(event.record)
        if keep is not None and keep.which == "best":
            leave_best(folder)
        return [record for record in store.records if record.id in wanted]


_LOST = ("oom", "timeout", "crashed")
"""Statuses that a fuller machine, or a kill from outside, may have caused."""


def _statuses(records: "Iterable[Stored]") -> dict[str, int]:
    """How many of ``records`` have each status."""
    return dict(sorted(Counter(str(record.status) for record in records).items()))


def _spoken(counts: dict[str, int]) -> str:
    """``1 oom and 2 crashed records``."""
    words = " and ".join(f"{number} {status}" for status, number in counts.items())
    return f"{words} {'record' if sum(counts.values()) == 1 else 'records'}"


def _keep(plan: "Plan", folder: Path, which: Literal["best", "all"] | None) -> "Keep | None":
    """What is to be kept of ``plan``."""
    if which is None:
        return None
    from bench.schema.jobs import sha256_of
    from bench.store.kept import Keep

    if not plan.cells:
        raise BenchError("--keep stores what scored cells train, and nothing is scored here; omit --keep")
    if texts := sorted({cell.task.name for cell in plan.cells if cell.spec.kind == "text"}):
        raise BenchError(
            f"--keep stores adapted models of classes and scores, and {', '.join(texts)} writes texts; omit --keep, or "
            "leave such tasks out with --tasks"
        )
    return Keep(folder, which, sha256_of(plan.suite.plain()))


def _check_kept(plan: "Plan", store: "Store", keep: "Keep") -> None:
    """Refuse to keep what an earlier call has trained and thrown away."""
    from bench.store.kept import is_kept

    cells = {cell.id for cell in plan.cells}
    done: list[Any] = [r for r in store.records if r.id in cells and r.status == "ok"]
    unkept = [r for r in done if r.kept_sha256 is None]
    if unkept:
        raise BenchError(
            f"{keep.folder}: {len(unkept)} of {len(cells)} cells were trained without --keep, and what they trained is "
            "gone; add --fresh to train them again, or omit --keep"
        )
    gone = [r for r in done if not is_kept(keep.folder, r.id)] if keep.which == "all" else []
    if gone:
        raise BenchError(
            f"{keep.folder}: {len(gone)} of {len(cells)} cells were trained under --keep best, which left the best "
            "seeds alone; add --fresh to train them again, or take --keep best"
        )

"""Carries out one job from its file: what a scheduler of any kind starts, and starts again."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.execute.fork_server import warm_context
from bench.execute.run import interruptible
from bench.execute.runner import Result, run_jobs
from bench.plan.here import check_here, family, located
from bench.schema.jobs import Cell
from bench.schema.record import Stored
from bench.store.outcomes import ENDING, check_writable, read_outcome, write_outcome
from bench.store.sidecars import Sidecars
from bench.store.specs import read_spec


class Done(NamedTuple):
    """What stands in the file that a job leaves."""

    records: list[Stored]
    ran: bool
    """Whether this call ran the job; it stood there before if not."""


def carry_out_alone(spec_file: Path, out: Path, say: Callable[[str], object]) -> Done:
    """Run the job of a spec in a worker, as a run does, and leave its records and sidecars whole or not at all.

    Args:
        spec_file: Of ``plan --specs``.
        out: Where the records go, a file; sidecars go into folders beside it.
        say: Called with one line a stage.

    Raises:
        BenchError: A file is damaged or another job's, or this machine lacks what the job was planned with; nothing is
            written then.
    """
    if out.suffix != ENDING or out.is_dir():
        raise BenchError(f"--out {out}: must be a file that ends in {ENDING}")
    spec = read_spec(spec_file)
    if (standing := read_outcome(out, spec.job)) is not None:
        return Done(standing, ran=False)
    check_writable(out)
    job = located(spec, str(spec_file))
    context = warm_context(family(job), cells=isinstance(job, Cell))  # imports while this machine is looked at
    check_here(job, str(spec_file))
    results: list[tuple[Stored, Sidecars | None]] = []
    with interruptible(lambda: "nothing is written; the same command runs the job again"):
        for event in run_jobs(context, [job], workers=1):
            if isinstance(event, Result):
                results.append((event.record, event.sidecars))
            else:
                say(f"{event.job.name}: {event.line}")
        write_outcome(out, results)
    return Done([record for record, _ in results], ran=True)

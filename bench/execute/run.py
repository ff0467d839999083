"""From the name of a suite to records in a folder: select, plan, carry out."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import Interrupted

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from bench.cli.progress import Display
    from bench.plan.select import Selection
    from bench.schema.jobs import Plan
    from bench.schema.suite import Suite

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

    plan = (make or make_plan)(suite, f"suite {suite.name}", "cuda" if torch.cuda.is_available() else "cpu", say)
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
    plan: "Plan", folder: Path, fresh: bool, workers: int | None, context: "ForkServerContext", display: "Display"
) -> list[Any]:
    """Carry out what the folder still lacks.

    Returns:
        The records of the plan, of this call and of earlier ones, in the order of the file.
    """
    from bench.execute.runner import execute, remaining
    from bench.store.store import open_store

    wanted = plan.job_ids()
    again = "the same command without --fresh" if fresh else "the same command"

    def kept() -> str:
        return f"{sum(identity in store for identity in wanted)} of {len(wanted)} records are kept; {again} resumes"

    with open_store(folder, plan.suite, fresh=fresh) as store, interruptible(kept):
        todo = remaining(plan, store)
        if not todo:
            display.note("nothing to do (use --fresh to run again)")
        else:
            display.begin(plan, todo, sum(identity in store for identity in wanted), folder)
            with display:
                for event in execute(todo, store, context, workers=workers):
                    display.show(event)
        return [record for record in store.records if record.id in wanted]

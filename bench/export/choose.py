"""Finds the kept delta that somebody means by method, task and seed."""

from pathlib import Path

from bench.errors import BenchError, unknown
from bench.store.kept import Kept, kept_in
from bench.store.store import read_run


def choose(run: Path, method: str, task: str | None = None, seed: int | None = None) -> Kept:
    """The kept delta of ``method`` in a run folder.

    Args:
        run: The run folder.
        method: Its label, or its name where one label alone has it.
        task: Its task; may be left out where one task alone is kept.
        seed: Its seed; the one with the best score of those kept, if left out.

    Raises:
        BenchError: Nothing is kept, or what is kept is not what is asked for, or more than that.
    """
    recorded = {record.id for record in read_run(run).records}
    found = [kept for kept in kept_in(run) if kept.about.cell in recorded]
    if not found:
        raise BenchError(f"{run}: nothing that its cells trained is kept; run it with --keep best into another --out")
    labels = sorted({kept.about.method.label for kept in found if method in _names(kept)})
    if not labels:
        raise unknown("kept method", method, {kept.about.method.label for kept in found}, str(run))
    if len(labels) > 1:
        raise BenchError(f"--method {method} is several here; give one of {', '.join(labels)}")
    found = [kept for kept in found if kept.about.method.label == labels[0]]
    tasks = sorted({kept.about.task for kept in found})
    if task is None and len(tasks) > 1:
        raise BenchError(f"{labels[0]} is kept of several tasks; give one with --task: {', '.join(tasks)}")
    if task is not None and task not in tasks:
        raise unknown("kept task", task, tasks, str(run))
    found = [kept for kept in found if task in (None, kept.about.task)]
    seeds = sorted(kept.about.seed for kept in found)
    if seed is not None and seed not in seeds:
        known = ", ".join(map(str, seeds))
        raise BenchError(f"--seed {seed} is not kept of {labels[0]}; kept: {known} (run --keep all keeps every seed)")
    found = [kept for kept in found if seed in (None, kept.about.seed)]
    return min(found, key=lambda kept: (-kept.about.score.value, kept.about.seed))


def _names(kept: Kept) -> tuple[str, str]:
    method = kept.about.method
    return method.label, method.name

"""Rows of a trial: train without the selection rows, and those rows in place of the test split."""

from pathlib import Path

from bench.tasks import folder, hub, synthetic
from bench.tasks.glue import TaskSpec, task
from bench.tasks.rows import Rows, content_sha256, cut_selection, subset
from bench.tasks.sources import Source, TaskData


def load_trial(name: str, source: Source, train_rows: int | None, selection_rows: int) -> TaskData:
    """Load what a trial of task ``name`` trains on and, as its ``test``, the rows that choose; opens no test split.

    Args:
        name: Name of the task.
        source: What ``resolve_source`` gave.
        train_rows: Rows drawn from train, those that choose included; None for all.
        selection_rows: How many of them choose.

    Raises:
        BenchError: The task is unknown, its rows cannot be read, or they are too few.
    """
    spec = task(name)
    train, selection = cut_selection(subset(_train(spec, source), train_rows), selection_rows, name)
    return TaskData(spec, source.kind, train, selection, content_sha256((train, selection)), selection)


def _train(spec: TaskSpec, source: Source) -> Rows:
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        return folder.read_train(Path(source.path), spec)
    return hub.read_train(spec) if source.kind == "hub" else synthetic.rows(spec.name, "train")

"""Rows of a trial: train without rows cut from it, and those rows in the place of the test split, which stays shut."""

from pathlib import Path

from bench.errors import BenchError
from bench.tasks import folder, hub, synthetic
from bench.tasks.glue import TaskSpec, task
from bench.tasks.rows import Rows, content_sha256, overlap, subset
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
    train, selection = _cut(subset(_train(spec, source), train_rows), selection_rows, name)
    return TaskData(spec, source.kind, train, selection, content_sha256((train, selection)), overlap(train, selection))


def _train(spec: TaskSpec, source: Source) -> Rows:
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        return folder.read_train(Path(source.path), spec)
    return hub.read_train(spec) if source.kind == "hub" else synthetic.rows(spec.name, "train")


def _cut(rows: Rows, count: int, name: str) -> tuple[Rows, Rows]:
    """Rows left to train on, and the first ``count``; what shares its texts with one of those is trained on by none."""
    chosen = Rows(rows.texts[:count], rows.labels[:count])
    seen = set(chosen.texts)
    left = [(texts, label) for texts, label in zip(rows.texts, rows.labels, strict=True) if texts not in seen]
    if len(chosen) < count or not left:
        raise BenchError(
            f"{name}: {count} selection rows leave nothing of {len(rows)} training rows; lower selection_rows or raise "
            "train_rows"
        )
    return Rows(tuple(texts for texts, _ in left), tuple(label for _, label in left)), chosen

"""Decides once where the rows of a run come from, and loads them."""

from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.models.hub import offline
from bench.schema.jobs import Cell, Source
from bench.tasks import folder, hub, synthetic
from bench.tasks.glue import HUB_ID, TaskSpec, task
from bench.tasks.rows import Rows, TaskData, content_sha256, cut_selection, subset

_REAL = "Real GLUE: --data DIR or a network"


def resolve_source(data: str, tasks: Sequence[str]) -> Source:
    """Choose the source of a run's data.

    Args:
        data: ``auto`` (cached, else the hub if it answers within 3 s, else synthetic), ``hub``, ``synthetic`` or a
            folder.
        tasks: Names of all tasks of the run.

    Raises:
        BenchError: A task is unknown, or the source does not have it.
    """
    specs = [task(name, "tasks") for name in tasks]
    names = tuple(spec.name for spec in specs)
    if data == "synthetic":
        return _synthetic(names, "asked for")
    if data not in {"auto", "hub"}:
        return _folder(data, names)
    if hub.cached(specs):
        return Source("hub", None, f"GLUE ({', '.join(names)}) from {HUB_ID}, cached")
    variable = offline()
    why = hub.refusal() if variable is None else f"hub not asked: {variable} is set"
    if why is None:
        return Source("hub", None, f"GLUE ({', '.join(names)}) from {HUB_ID}")
    if data == "hub":
        raise BenchError(f"--data hub: {HUB_ID} is not cached ({why}); use --data DIR or --data synthetic")
    return _synthetic(names, why)


def _synthetic(names: tuple[str, ...], why: str) -> Source:
    synthetic.require_synthetic(names, why)
    return Source("synthetic", None, f"SYNTHETIC stand-ins for {', '.join(names)} ({why}). {_REAL}")


def _folder(data: str, names: tuple[str, ...]) -> Source:
    root = Path(data).expanduser().resolve()
    if not root.is_dir():
        raise BenchError(f"--data {data}: no such folder; allowed: auto, hub, synthetic or a folder of GLUE files")
    present = folder.tasks_in(root)
    missing = [name for name in names if name not in present]
    if missing:
        ready = [name for name in names if name in present] or present
        remedy = f"use --tasks {','.join(ready)}" if ready else "name the folder that holds SST-2, MRPC, ..."
        raise BenchError(f"--data {data}: the folder lacks {', '.join(missing)}; {remedy}")
    return Source("folder", str(root), f"GLUE ({', '.join(names)}) from {data}")


def load_task(
    name: str, source: Source, train_rows: int | None, test_rows: int | None, selection_rows: int | None = None
) -> TaskData:
    """Load the rows of task ``name``; subsets are drawn by content, so the order in files does not matter.

    Args:
        name: Name of the task.
        source: What ``resolve_source`` gave.
        train_rows: Rows drawn from train, the selection included; None for all.
        test_rows: Rows to score on, None for all.
        selection_rows: Rows cut from those drawn from train, None for no cut.

    Raises:
        BenchError: The task is unknown, its rows cannot be read, or the cut leaves nothing to train on.
    """
    spec = task(name)
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        train, test = folder.read_folder(Path(source.path), spec)
    elif source.kind == "hub":
        train, test = hub.read_hub(spec)
    else:
        train, test = synthetic.rows(name, "train"), synthetic.rows(name, "test")
    notes = (*train.notes, *test.notes, *_fewer(train, train_rows, "train"), *_fewer(test, test_rows, "test"))
    train, test = subset(train, train_rows), subset(test, test_rows)
    if selection_rows is None:
        return TaskData(spec, source.kind, train, test, content_sha256((train, test)), notes=notes)
    train, selection = cut_selection(train, selection_rows, name)
    return TaskData(spec, source.kind, train, test, content_sha256((train, selection, test)), selection, notes)


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
    whole = _train(spec, source)
    train, selection = cut_selection(subset(whole, train_rows), selection_rows, name)
    notes = (*whole.notes, *_fewer(whole, train_rows, "train"))
    return TaskData(spec, source.kind, train, selection, content_sha256((train, selection)), selection, notes)


def _fewer(rows: Rows, asked: int | None, split: str) -> tuple[str, ...]:
    """That a split has fewer rows than were asked for."""
    few = asked is not None and len(rows) < asked
    return (f"{split}_rows = {asked:,} are asked for, the task has {len(rows):,}: all are used",) if few else ()


def rows_of(cell: Cell) -> TaskData:
    """The rows that ``cell`` was planned with.

    Raises:
        BenchError: They have changed since, or cannot be read.
    """
    train, test, selection = (cell.recipe.get(f"{split}_rows") for split in ("train", "test", "selection"))
    if cell.trial:
        data = load_trial(cell.task.name, cell.source, train, cell.recipe["selection_rows"])
    else:
        data = load_task(cell.task.name, cell.source, train, test, selection)
    if data.content_sha256 != cell.task.content_sha256:
        raise BenchError(f"the rows of {cell.task.name} changed since the run was planned; begin with --fresh")
    return data


def _train(spec: TaskSpec, source: Source) -> Rows:
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        return folder.read_train(Path(source.path), spec)
    return hub.read_train(spec) if source.kind == "hub" else synthetic.rows(spec.name, "train")

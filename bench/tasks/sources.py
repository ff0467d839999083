"""Decides once where the rows of each task of a run come from, and loads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.models.hub import offline
from bench.schema.jobs import Cell, Source
from bench.schema.suite import DATA
from bench.schema.task import TaskSpec
from bench.tasks import folder, hub, index, own, synthetic, written
from bench.tasks.rows import Rows, TaskData, content_sha256, cut_selection, subset

_REAL = "Real GLUE: --data DIR or a network"
_WRITTEN = "generated: rows that a grammar of this project writes"
_INSTEAD = {"sst2": "movie-polarity"}
"""Tasks of the package index that ask what a synthetic one stands for."""


class Located(NamedTuple):
    """The tasks that a run scores, and where the rows of each are."""

    specs: tuple[TaskSpec, ...]
    """As asked for, or those that stand in for them; classes settled."""
    sources: dict[str, Source]
    """By task."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """One line for each source, for the screen and the resolved suite."""
        return tuple(dict.fromkeys(source.reason for source in self.sources.values()))

    @property
    def kind(self) -> str:
        """Kind of the source; ``mixed`` where tasks have theirs from several."""
        kinds = {source.kind for source in self.sources.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"


def locate(data: str, specs: Sequence[TaskSpec], instead: Sequence[TaskSpec] = ()) -> Located:
    """Choose the source of each task's rows.

    Args:
        data: ``auto`` (cached, else the hub if it answers within 3 s, else the package index for the tasks
            ``instead``, else synthetic), ``hub``, ``index``, ``synthetic`` or a folder. Tasks with files of the
            user's own have their rows from them, those with a grammar from it.
        specs: The tasks of the run.
        instead: Tasks of the package index that take the place of ``specs`` where the hub gives nothing.

    Raises:
        BenchError: The source does not have a task, or a file of a task cannot be read.
    """
    _check_applies(data, specs)
    of_hub = [spec for spec in specs if spec.hub is not None]
    why = _hub_refusal(data, of_hub)
    if instead and (data == "index" or (data == "auto" and why is not None)):
        if (missing := index.refusal()) is None:
            note = f" ({why})" if why and data == "auto" else ""
            return Located(tuple(instead), {spec.name: _of_index(spec, note) for spec in instead})
        if data == "index":
            raise BenchError(f"data index: {missing}; use --data DIR or --data synthetic")
        why = f"{why}; {missing}"
    sources = {spec.name: _fixed(spec) or _of_index(spec) for spec in specs if spec.hub is None} | _of_others(
        data, of_hub, why, tried=bool(instead)
    )
    if data not in DATA:
        shared = [spec for spec in specs if _fixed(spec) is None]
        sources |= _folder(data, shared)
    settled = tuple(own.settled(spec) if spec.own else spec for spec in specs)
    return Located(settled, {spec.name: sources[spec.name] for spec in specs})


def check_named(data: str, spec: TaskSpec, named_by: str) -> None:
    """Refuse, before anything is loaded, a task that ``data`` cannot give and that its user may not know of.

    Args:
        data: As for ``locate``.
        spec: The task.
        named_by: What names it, where it is neither the suite's list of tasks nor ``--tasks``.

    Raises:
        BenchError: Its rows come from elsewhere, or the folder lacks it.
    """
    try:
        _check_applies(data, [spec])
        if data not in DATA:
            _folder(data, [spec])
    except BenchError as error:
        raise BenchError(f"{named_by} names {spec.name}: {error}") from error


def _check_applies(data: str, specs: Sequence[TaskSpec]) -> None:
    """``data``, of the suite or of ``--data``, must decide something for the tasks at hand."""
    if data == "auto":
        return
    if fixed := [spec for spec in specs if _fixed(spec) is not None]:
        if len(fixed) == len(specs) or data in DATA:
            origin = "files" if fixed[0].own else "a grammar"
            alike = ", ".join(spec.name for spec in fixed if spec.own == fixed[0].own)
            raise BenchError(f"data {data}: {alike} has its rows from {origin} of its own; leave data out")
    elif data in {"hub", "synthetic"} and (other := [spec.name for spec in specs if spec.hub is None]):
        raise BenchError(f"data {data}: {', '.join(other)} comes from the package index; leave data out")


def _hub_refusal(data: str, specs: Sequence[TaskSpec]) -> str | None:
    """Why the hub gives nothing, where it is asked at all."""
    if not specs or data not in {"auto", "hub"} or hub.cached(specs):
        return None
    variable = offline()
    return hub.refusal(specs) if variable is None else f"hub not asked: {variable} is set"


def _fixed(spec: TaskSpec) -> Source | None:
    """The one source of a task that nobody chooses it for: its files, or its grammar; None of others."""
    if spec.grammar is not None:
        written.check(spec.grammar, f"task {spec.name}")
        reason = f"{spec.name}: {spec.origin or _WRITTEN}"
        return Source("generated", None, reason, f"generated, grammar {spec.grammar}")
    return _own(spec) if spec.own else None


def _own(spec: TaskSpec) -> Source:
    names = [Path(path).name for path in (spec.train, spec.test) if path is not None]
    parts = "" if spec.test_share is None else f", {100 * spec.test_share:g} % of its rows held out by hash"
    place = f"{' and '.join(names)}{parts}"
    return Source("files", None, f"{spec.name} from {place}", place)


def _of_index(spec: TaskSpec, note: str = "") -> Source:
    if (missing := index.refusal()) is not None:
        raise BenchError(f"task {spec.name}: {missing}; try again with a network")
    place = f"package index, {index.RELEASE.file}{note}"
    return Source("index", None, f"{spec.name}: {spec.origin} ({spec.citation}){note}", place)


def _of_others(data: str, specs: Sequence[TaskSpec], why: str | None, *, tried: bool) -> dict[str, Source]:
    """Sources of tasks that the hub has, from it or from grammars; ``tried``: the package index has nothing either."""
    names = tuple(spec.name for spec in specs)
    if not specs or data not in DATA:
        return {}
    if data == "synthetic":
        return dict.fromkeys(names, _synthetic(names, "asked for"))
    if data == "index":
        other = f"--tasks {_INSTEAD[names[0]]}, " if names[0] in _INSTEAD else ""
        raise BenchError(f"data index: {names[0]} is not on the package index; use {other}--data hub or --data DIR")
    if why is None:
        place = ", ".join(dict.fromkeys(str(spec.hub) for spec in specs))
        cached = ", cached" if hub.cached(specs) else ""
        reason = f"{', '.join(names)} from {place}{cached}"
        return {spec.name: Source("hub", None, reason, f"hub, {spec.hub}{cached}") for spec in specs}
    if data == "hub":
        raise BenchError(f"data hub: {specs[0].hub} is not cached ({why}); use --data DIR or --data synthetic")
    others = () if tried else tuple(_INSTEAD[name] for name in names if name in _INSTEAD)
    return dict.fromkeys(names, _synthetic(names, why, others))


def _synthetic(names: tuple[str, ...], why: str, others: Sequence[str] = ()) -> Source:
    synthetic.require_synthetic(names, why)
    more = f"; real sentences of the package index: --tasks {','.join(others)}" if others else ""
    reason = f"SYNTHETIC stand-ins for {', '.join(names)} ({why}). {_REAL}{more}"
    return Source("synthetic", None, reason, f"synthetic ({why})")


def _folder(data: str, specs: Sequence[TaskSpec]) -> dict[str, Source]:
    root = Path(data).expanduser().resolve()
    if not root.is_dir():
        raise BenchError(f"data {data}: no such folder; allowed: {', '.join(DATA)} or a folder of task files")
    names = [spec.name for spec in specs]
    present = folder.tasks_in(root, specs)
    if missing := [name for name in names if name not in present]:
        remedy = f"use --tasks {','.join(present)}" if present else f"name the folder that holds {_folder_of(specs[0])}"
        raise BenchError(f"data {data}: the folder lacks {', '.join(missing)}; {remedy}")
    return dict.fromkeys(names, Source("folder", str(root), f"{', '.join(names)} from {data}", f"folder {data}"))


def _folder_of(spec: TaskSpec) -> str:
    return spec.folder.name if spec.folder is not None else spec.name


def load_task(
    spec: TaskSpec, source: Source, train_rows: int | None, test_rows: int | None, selection_rows: int | None = None
) -> TaskData:
    """Load the rows of task ``spec``; subsets are drawn by content, so the order in files does not matter.

    Args:
        spec: The task, its classes settled.
        source: What ``locate`` gave for it.
        train_rows: Rows drawn from train, the selection included; None for all.
        test_rows: Rows to score on, None for all.
        selection_rows: Rows cut from those drawn from train, None for no cut.

    Raises:
        BenchError: The rows cannot be read, or the cut leaves nothing to train on.
    """
    train, test = _both(spec, source, train_rows, test_rows)
    notes = (*train.notes, *test.notes, *_fewer(train, train_rows, "train"), *_fewer(test, test_rows, "test"))
    train, test = subset(train, train_rows), subset(test, test_rows)
    if selection_rows is None:
        return TaskData(spec, source.kind, train, test, content_sha256((train, test)), notes=notes)
    train, selection = cut_selection(train, selection_rows, spec.name)
    return TaskData(spec, source.kind, train, test, content_sha256((train, selection, test)), selection, notes)


def _both(spec: TaskSpec, source: Source, train_rows: int | None, test_rows: int | None) -> tuple[Rows, Rows]:
    """Training and test rows; those of the user's files are drawn while they are read."""
    if source.kind == "files":
        return own.read_split(spec, "train", train_rows), own.read_split(spec, "test", test_rows)
    if source.kind == "generated":
        return written.read_split(spec, "train"), written.read_split(spec, "test")
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        return folder.read_folder(Path(source.path), spec)
    if source.kind == "index":
        return index.read(spec.name)
    if source.kind == "hub":
        return hub.read_hub(spec)
    return synthetic.rows(spec.name, "train"), synthetic.rows(spec.name, "test")


def load_trial(spec: TaskSpec, source: Source, train_rows: int | None, selection_rows: int) -> TaskData:
    """Load what a trial of task ``spec`` trains on and, as its ``test``, the rows that choose; opens no test split.

    Args:
        spec: The task, its classes settled.
        source: What ``locate`` gave for it.
        train_rows: Rows drawn from train, those that choose included; None for all.
        selection_rows: How many of them choose.

    Raises:
        BenchError: The rows cannot be read, or they are too few.
    """
    whole = _train(spec, source, train_rows)
    train, selection = cut_selection(subset(whole, train_rows), selection_rows, spec.name)
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
        data = load_trial(cell.spec, cell.source, train, cell.recipe["selection_rows"])
    else:
        data = load_task(cell.spec, cell.source, train, test, selection)
    if data.content_sha256 != cell.task.content_sha256:
        raise BenchError(f"the rows of {cell.task.name} changed since the run was planned; begin with --fresh")
    return data


def _train(spec: TaskSpec, source: Source, count: int | None) -> Rows:
    if source.kind == "files":
        return own.read_split(spec, "train", count)
    if source.kind == "generated":
        return written.read_split(spec, "train")
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        return folder.read_train(Path(source.path), spec)
    if source.kind == "index":
        return index.read_train(spec.name)
    return hub.read_train(spec) if source.kind == "hub" else synthetic.rows(spec.name, "train")

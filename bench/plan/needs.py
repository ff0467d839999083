"""Which files of this machine a job reads, and the job where they lie elsewhere: how weights and rows travel.

What the plan has read travels, wherever it came from: a node needs neither a network nor caches. Rows that are
generated and shapes without weights need no file. A ``config.json`` that a backbone is named by stays where it is: its
path is its name.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from bench.errors import BenchError, unwritable
from bench.models import package_index
from bench.models.folder import weight_files
from bench.schema.jobs import BackboneSpec, Cell, Job, PlainText, Source
from bench.schema.task import TaskSpec
from bench.store.parcels import Parcel, pack
from bench.tasks import hub, index
from bench.tasks.folder import task_folder

_BESIDE_WEIGHTS = (".json", ".txt", ".model", ".jinja")
"""Endings of what a configuration and a tokenizer are read from."""
_ROWS = (".tsv", ".jsonl", ".parquet")


def needs(job: Job) -> dict[str, Parcel]:
    """The files that ``job`` reads, by what they are to it.

    Raises:
        BenchError: One cannot be read.
    """
    found = {} if job.backbone.folder is None else {"backbone": _backbone(job.backbone)}
    if isinstance(job, Cell):
        found |= _rows(job.source, job.spec)
        for text in _texts(job):
            found |= _index() if text.path is None else {text.path: _file(text.path)}
    return found


def placed(job: Job, folders: Mapping[str, Path]) -> Job:
    """``job`` where its files lie in ``folders``, by what `needs` calls them.

    Raises:
        BenchError: This machine's cache of the package index cannot be written.
    """
    changed: dict[str, object] = {}
    if "backbone" in folders:
        changed["backbone"] = dataclasses.replace(job.backbone, folder=str(folders["backbone"]))
    if not isinstance(job, Cell):
        return job.model_copy(update=changed)
    if "rows" in folders:
        changed["source"] = dataclasses.replace(job.source, path=str(folders["rows"]))
    files = {name: str(folders[name] / Path(getattr(job.spec, name)).name) for name in _SPLITS if name in folders}
    if files:
        changed["spec"] = job.spec.model_copy(update=files)
    if "hub" in folders:
        os.environ["HF_DATASETS_CACHE"] = str(folders["hub"])  # `hub.cache_folder` is below it
    if "index" in folders:
        _cache_release(folders["index"] / index.RELEASE.file)
    if job.retention is not None:
        texts = tuple(_moved(text, folders) for text in job.retention.texts)
        changed["retention"] = job.retention.model_copy(update={"texts": texts})
    if job.general is not None:
        changed["general"] = _moved(job.general, folders)
    return job.model_copy(update=changed)


_SPLITS = ("train", "test")


@functools.lru_cache(maxsize=64)  # cells of a run share them
def _backbone(spec: BackboneSpec) -> Parcel:
    assert spec.folder is not None, "a backbone with files has a folder"
    folder = Path(spec.folder)
    try:
        names = {path.name for path in folder.iterdir() if path.suffix in _BESIDE_WEIGHTS and path.is_file()}
    except OSError as error:
        raise BenchError(f"backbone {spec.name}: {folder} cannot be read ({error.strerror})") from error
    if spec.weights == "pretrained":
        names |= {path.name for path in weight_files(folder)}
    return pack(folder, names)


@functools.lru_cache(maxsize=64)
def _rows(source: Source, spec: TaskSpec) -> dict[str, Parcel]:
    """What the rows of a task are read from."""
    if source.kind == "files":
        return {name: _file(path) for name in _SPLITS if (path := getattr(spec, name)) is not None}
    if source.kind == "folder":
        assert source.path is not None, "a folder source has a path"
        root = Path(source.path)
        folder = task_folder(root, spec)
        files = [] if folder is None else [path for path in folder.iterdir() if path.suffix in _ROWS]
        return {"rows": pack(root, (path.relative_to(root).as_posix() for path in files))}
    if source.kind == "hub":
        folder = hub.cache_folder(spec)
        root = folder.parents[3]  # below it: dataset, configuration, version and revision
        return {"hub": pack(root, (path.relative_to(root).as_posix() for path in folder.glob("*.arrow")))}
    return _index() if source.kind == "index" else {}


def _index() -> dict[str, Parcel]:
    path = package_index.cache_path(index.RELEASE)
    return {"index": pack(path.parent, [path.name])}


def _file(path: str) -> Parcel:
    return pack(Path(path).parent, [Path(path).name])


def _texts(cell: Cell) -> tuple[PlainText, ...]:
    read = () if cell.retention is None else cell.retention.texts
    return read if cell.general is None else (*read, cell.general)


def _moved(text: PlainText, folders: Mapping[str, Path]) -> PlainText:
    if text.path is None or text.path not in folders:
        return text
    return text.model_copy(update={"path": str(folders[text.path] / Path(text.path).name)})


def _cache_release(file: Path) -> None:
    """Put the file of the package index where this machine looks for it; its hash is checked when it is read."""
    if package_index.held(index.RELEASE):
        return
    path = package_index.cache_path(index.RELEASE)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, partial)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error, "free space, fix permissions, or set XDG_CACHE_HOME on that machine") from error

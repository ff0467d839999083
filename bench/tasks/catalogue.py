"""Finds tasks by name: a suite's own, those that this project ships as tables, and those of installed packages."""

import functools
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from bench.errors import BenchError, first_fault, said, unknown
from bench.schema.task import TaskSpec

ENTRY_POINT_GROUP = "bench.tasks"
"""Packages register a task under it as ``name = "module:TABLE"``, a dictionary with the keys of ``[[task]]``."""
SHIPPED = ("glue", "icwsm", "written")
"""Files of this folder with tables of tasks, in the order in which ``list tasks`` shows them."""


@functools.cache
def shipped() -> Mapping[str, TaskSpec]:
    """The tasks that come with this project, by name."""
    found = {}
    for stem in SHIPPED:
        values = tomllib.loads(Path(__file__).with_name(f"{stem}.toml").read_text(encoding="utf-8"))
        for table in values["task"]:
            spec = parse_task(values.get("defaults", {}) | table, f"{stem}.toml")
            found[spec.name] = spec
    return MappingProxyType(found)


def parse_task(values: Mapping[str, Any], where: str) -> TaskSpec:
    """Check one table of a task.

    Raises:
        BenchError: A key is unknown, missing or has the wrong type or range.
    """
    try:
        return TaskSpec.model_validate(dict(values))
    except ValidationError as error:
        fault = first_fault(error, dict(values))
        if fault.kind == "extra_forbidden":
            raise unknown("key", str(fault.location[-1]), TaskSpec.model_fields, where) from error
        raise BenchError(f"{where}: {f'{fault.place}: ' if fault.place else ''}{fault.message}") from error


def _plugins() -> dict[str, EntryPoint]:
    """Tasks of installed packages by ``package/name``; reads metadata, imports nothing."""
    return {
        f"{point.dist.name if point.dist else 'unknown'}/{point.name}": point
        for point in entry_points(group=ENTRY_POINT_GROUP)
    }


def task_names(own: Iterable[TaskSpec] = ()) -> list[str]:
    """Every known name: a suite's own, those that are shipped, then ``package/name`` of installed packages."""
    return [*(spec.name for spec in own), *shipped(), *sorted(_plugins())]


def task(name: str, where: str = "", own: Iterable[TaskSpec] = ()) -> TaskSpec:
    """Look up the specification of task ``name``.

    Args:
        name: As ``tasks`` of a suite spells it.
        where: Locates the mistake where there is one.
        own: The ``[[task]]`` tables of the suite.

    Raises:
        BenchError: The task is unknown, or the package that registers it gives no sound table.
    """
    for spec in own:
        if spec.name == name:
            return spec
    if name in shipped():
        return shipped()[name]
    if "/" in name and name in (points := _plugins()):
        return _registered(name, points[name])
    raise unknown("task", name, task_names(own), where)


def kinds(names: Iterable[str], own: Iterable[TaskSpec] = ()) -> set[str]:
    """What the tasks ``names`` predict.

    Raises:
        BenchError: One of them is unknown.
    """
    tables = tuple(own)
    return {task(name, own=tables).kind for name in names}


def _registered(name: str, point: EntryPoint) -> TaskSpec:
    """The table that a package registers; files that it names lie beside the module that holds it."""
    where = f"task {name!r}, entry point {point.value!r}"
    try:
        table = point.load()
    except Exception as error:  # a third party's import may fail in any way; the sentence names whose it is
        raise BenchError(f"{where}: it cannot be imported ({type(error).__name__}: {said(error)})") from error
    if not isinstance(table, Mapping):
        raise BenchError(f"{where}: it is a {type(table).__name__}; let it be a dictionary with the keys of [[task]]")
    return in_folder(parse_task({**table, "name": name}, where), _folder_of(point.module))


def _folder_of(module: str) -> Path:
    import importlib.util

    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None, "the module has just been imported"
    return Path(found.origin).parent


def in_folder(spec: TaskSpec, folder: Path) -> TaskSpec:
    """``spec`` with the paths of its files made absolute; relative ones lie below ``folder``."""
    changes = {
        field: str((folder / Path(value).expanduser()).resolve())
        for field in ("train", "test") if (value := getattr(spec, field)) is not None
    }  # fmt: skip
    return spec.model_copy(update=changes) if changes else spec

"""Finds methods by name, built-in or from entry points, and parses ``name(key=value, ...)``."""

import ast
import dataclasses
import importlib
import importlib.util
import types
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, said, unknown
from bench.schema.forms import parse_spec as parse_spec
from bench.schema.forms import spell as spell
from methods import BRIDGES as BRIDGES
from methods import BUILTIN as BUILTIN

if TYPE_CHECKING:
    from bench.method import Method, MethodConfig
    from bench.schema.record import MethodUsed

ENTRY_POINT_GROUP = "bench.methods"


def _plugins() -> dict[str, EntryPoint]:
    """Third-party methods by ``package/name``; reads metadata, imports nothing."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        package = point.dist.name if point.dist else "unknown"
        found[f"{package}/{point.name}"] = point
    return found


def method_names() -> list[str]:
    """Every known name: built-ins in the mission's order, bridges, then ``package/name`` of third parties."""
    return [*BUILTIN, *BRIDGES, *sorted(_plugins())]


def summaries() -> list[tuple[str, str]]:
    """Every known name with the first line of its class's docstring; imports no method, and so no torch.

    Raises:
        BenchError: The module of a built-in method is missing.
    """
    places = BUILTIN | BRIDGES
    return [(name, _class_summary(places[name]) if name in places else "third-party method") for name in method_names()]


def _class_summary(target: str) -> str:
    """First docstring line of ``module:Class``, read from the source."""
    module, _, name = target.partition(":")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise BenchError(f"{module}: the module of a built-in method is missing; reinstall peft-ledger")
    for node in ast.parse(Path(found.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def load_method(name: str, where: str = "") -> type["Method"]:
    """Import the class of method ``name``.

    Raises:
        BenchError: The name is unknown, or the plug-in that provides it cannot be imported.
    """
    if place := BUILTIN.get(name) or BRIDGES.get(name):
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    plugins = _plugins()
    if name not in plugins:
        raise unknown("method", name, method_names(), where)
    try:
        loaded = plugins[name].load()
    except Exception as error:  # a third party's import may fail in any way; the sentence names whose it is
        raise BenchError(
            f"method {name!r}: its plug-in cannot be imported ({type(error).__name__}: {said(error)})"
        ) from error
    from bench.method import Method

    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise BenchError(
            f"method {name!r}: entry point {plugins[name].value!r} is not a subclass of bench.method.Method"
        )
    return loaded


def built_in(method: "Method") -> bool:
    """Whether ``method`` is one of this project's own, which the conformance tests hold on every family."""
    return f"{type(method).__module__}:{type(method).__qualname__}" in BUILTIN.values()


def ours(method: "Method") -> bool:
    """Whether ``method`` is built in or bridged: this project's tests hold it, not a third party's."""
    return f"{type(method).__module__}:{type(method).__qualname__}" in {*BUILTIN.values(), *BRIDGES.values()}


def merges(name: str) -> bool:
    """Whether method ``name`` can fold what it trained into the backbone, on some families at least."""
    from bench.method import Method

    return load_method(name).merge is not Method.merge


def adapters() -> types.ModuleType:
    """What reads and writes folders of the ``peft`` library: ``save`` and ``load``."""
    return importlib.import_module("methods.peft_folder")


def provenance(name: str) -> dict[str, str]:
    """Distribution and version that provide method ``name``: ``{"distribution": ..., "version": ...}``."""
    plugin = _plugins().get(name) if "/" in name else None  # which reads the metadata of every installed package
    if plugin is not None and plugin.dist is not None:
        return {"distribution": plugin.dist.name, "version": plugin.dist.version}
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"distribution": "peft-ledger", "version": version("peft-ledger")}
    except PackageNotFoundError:  # run from a checkout that is not installed
        return {"distribution": "peft-ledger", "version": "0+checkout"}


def make(name: str, config: Mapping[str, Any], where: str = "") -> tuple["Method", "MethodConfig"]:
    """Instantiate method ``name`` with its checked configuration.

    Raises:
        BenchError: The name is unknown, its plug-in is broken, or ``config`` does not fit it.
    """
    cls = load_method(name, where)
    return cls(), cls.Config.parse(config, f"{where}: {name}" if where else name)


def resolved(config: "MethodConfig") -> dict[str, Any]:
    """All fields of ``config``, defaults included, as plain JSON values."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(config).items()}


def method_used(label: str, name: str, config: dict[str, Any]) -> "MethodUsed":
    """What a record keeps of a method; a third party's code is not imported for it."""
    from bench.schema.record import MethodUsed

    plugin = _plugins().get(name) if "/" in name else None
    place = BUILTIN.get(name) or BRIDGES.get(name) or (plugin.value if plugin else "")
    if not place:
        cls = load_method(name)
        place = f"{cls.__module__}:{cls.__qualname__}"
    values = {"label": label, "name": name, "config": config, "class": place}
    return MethodUsed.model_validate(values | provenance(name))

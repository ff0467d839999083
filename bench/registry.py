"""Finds methods by name, built-in and from entry points alike, and parses ``name(key=value, ...)``; imports lazily."""

import ast
import dataclasses
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, unknown
from methods import BRIDGES, BUILTIN

if TYPE_CHECKING:
    from bench.method import Method, MethodConfig

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
            f"method {name!r}: its plug-in cannot be imported ({type(error).__name__}: {error})"
        ) from error
    from bench.method import Method

    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise BenchError(
            f"method {name!r}: entry point {plugins[name].value!r} is not a subclass of bench.method.Method"
        )
    return loaded


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


def parse_spec(spec: str, where: str = "") -> tuple[str, dict[str, Any]]:
    """Split ``"lora(rank=8)"`` into ``("lora", {"rank": 8})``; the values are Python literals.

    Raises:
        BenchError: The text is not of the form ``name`` or ``name(key=value, ...)``.
    """
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        if any(k.arg is None for k in call.keywords):
            raise ValueError
        if len({k.arg for k in call.keywords}) < len(call.keywords):
            raise ValueError
        return name, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        prefix = f"{where}: " if where else ""
        raise BenchError(f"{prefix}cannot read method {spec!r}; write name or name(key=value, ...)") from error


def make(name: str, config: Mapping[str, Any], where: str = "") -> tuple["Method", "MethodConfig"]:
    """Instantiate method ``name`` with its checked configuration.

    Raises:
        BenchError: The name is unknown, its plug-in is broken, or ``config`` does not fit it.
    """
    cls = load_method(name, where)
    return cls(), cls.Config.parse(config, f"{where}: {name}" if where else name)


def spell(name: str, config: Mapping[str, Any]) -> str:
    """Write a method and the values given to it the way that the command line reads them."""
    inner = ", ".join(f"{key}={value!r}" for key, value in config.items())
    return f"{name}({inner})" if inner else name


def resolved(config: "MethodConfig") -> dict[str, Any]:
    """All fields of ``config``, defaults included, as plain JSON values."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(config).items()}

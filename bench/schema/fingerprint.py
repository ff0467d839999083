"""Hashes of what decides a result: plain data and source files, including a method's own package."""

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


def sha256_of(value: Any) -> str:
    """Hash of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def source_hash(names: Iterable[str]) -> str:
    """Hash of files and folders of this package, with their names."""
    digest = hashlib.sha256()
    for name in names:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def method_sources(module: str) -> str:
    """Hash of the file that implements a method and of those of its own package that it imports."""
    package = module.partition(".")[0]
    digest, waiting, seen = hashlib.sha256(), [module], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue  # a name imported from a module, not a module
        content = Path(found.origin).read_bytes()
        digest.update(name.encode() + b"\0" + content)
        inside = found.name if found.submodule_search_locations is not None else found.name.rpartition(".")[0]
        for names in _imports(content, inside):
            waiting += sorted(n for n in names if n.partition(".")[0] == package and n not in seen)
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)  # methods of one family read the same files
def _imports(content: bytes, package: str) -> tuple[tuple[str, ...], ...]:
    """The modules that each import statement of a source file in ``package`` names, also by dots."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom):
            found.append((_imported(node, package),))
        elif isinstance(node, ast.Import):
            found.append(tuple(alias.name for alias in node.names))
    return tuple(found)


def _imported(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)

"""Names and one-line descriptions of methods, suites, tasks and backbones, without importing torch."""

import ast
import importlib.util
from pathlib import Path

from bench.errors import BenchError


def listing(what: str) -> list[tuple[str, str]]:
    """Rows of (name, description)."""
    return {"methods": _methods, "suites": _suites, "tasks": _tasks, "backbones": _backbones}[what]()


def _methods() -> list[tuple[str, str]]:
    from bench.registry import method_names
    from methods import BRIDGES, BUILTIN

    places = BUILTIN | BRIDGES
    return [(name, _class_summary(places[name]) if name in places else "third-party method") for name in method_names()]


def _class_summary(target: str) -> str:
    """First docstring line of ``module:Class``, read from the source: importing it would import torch."""
    module, _, name = target.partition(":")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise BenchError(f"{module}: the module of a built-in method is missing; reinstall peft-ledger")
    for node in ast.parse(Path(found.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _suites() -> list[tuple[str, str]]:
    from bench.plan.load import load_suite, suite_names

    return [(name, " ".join(load_suite(name).question.split())) for name in suite_names()]


def _tasks() -> list[tuple[str, str]]:
    from bench.tasks.glue import TASKS

    return [
        (
            name,
            f"{' + '.join(spec.text)}; {' | '.join(spec.labels) or 'regression'}; {spec.main_metric}",
        )
        for name, spec in TASKS.items()
    ]


def _backbones() -> list[tuple[str, str]]:
    from bench.models.backbone import PRETRAINED, SHAPES

    pretrained = [(name, f"pretrained, revision {pinned.revision[:8]}") for name, pinned in PRETRAINED.items()]
    return [*pretrained, *((name, f"shape of {family}, random weights") for name, (family, _) in SHAPES.items())]

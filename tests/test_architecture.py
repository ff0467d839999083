"""Rules of the architecture, held by tests: one direction of imports, light readers, a harness that names no method."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from methods import BRIDGES, BUILTIN

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (
    ("errors", "revision", "strict_json", "record_parts", "subspaces"),
    ("record", "method", "anatomy", "stats", "resampling", "environment", "tokens", "resize", "identity", "downloads"),
    ("control", "sidecars"),
    ("registry", "head", "backbone", "tasks", "sweep_table", "claim_table", "tuning_table", "match_table", "trial"),
    ("suite", "train", "score", "store", "guards", "milestones", "gradients", "directions"),
    ("jobs", "plan_sweeps", "selection"),
    ("cell", "cost"),
    ("match",),
    ("plan",),
    ("probe", "counts"),
    ("executors",),
    ("runner", "ab", "compare", "claims", "reference", "gate", "scaling", "predict", "listing"),
    ("tune", "choice", "tuned_suite"),
    ("report", "picks"),
    ("display", "options"),
    ("carry",),
    ("cli_ci", "cli_tune"),
    ("cli",),
    ("__main__",),
)
"""A module imports from its own level or from one above it in this list, never from one below."""
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
TYPES_ONLY = {("method", "registry")}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports(path):
    """Names of all modules that a file imports, also inside functions; those for type checkers alone left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module in {"bench", "methods"}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules("bench"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_upstream(path):
    own = path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "bench" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules("methods"), ids=lambda path: path.name)
def test_methods_know_the_plug_in_interface_and_nothing_else_of_the_harness(path):
    for name in imports(path):
        if name.split(".")[0] == "bench" and name != "bench":
            assert name.split(".")[1] in {"method", "anatomy", "errors"}, name


@pytest.mark.parametrize("path", modules("bench"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_harness_names_no_method(path):
    strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    named = {value for value in strings if isinstance(value, str)} & {*BUILTIN, *BRIDGES}
    # "full" is the default baseline of a suite; "head" is also the name of the task head.
    assert named <= {"full", "head"}, named


def test_readers_need_no_torch():
    program = """
import sys
for name in ("torch", "transformers", "datasets", "evaluate", "peft"):
    sys.modules[name] = None
import bench.cli, bench.compare, bench.display, bench.listing, bench.record, bench.report.markdown
import bench.report.plots, bench.report.terminal, bench.stats, bench.store, bench.suite
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=ROOT)


def test_the_cost_path_needs_neither_datasets_nor_evaluate():
    program = """
import sys
for name in ("datasets", "evaluate"):
    sys.modules[name] = None
import bench.cli, bench.cost.session, bench.executors.warm, bench.plan, bench.probe, bench.runner
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("path", [*modules("bench"), *modules("methods")], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is_and_fits_a_sitting(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 370

"""Rules of the architecture, held by tests: one direction of imports, light readers, a harness that names no method."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from methods import BRIDGES, BUILTIN
from tools.house import imported, measured

ROOT = Path(__file__).resolve().parents[1]
INTERFACE = {"errors", "method", "anatomy", "registry"}
"""Flat in ``bench/``: what plug-ins import, and the registry that finds them."""
MAY_IMPORT = {
    "schema": set(),
    "stats": {"schema"},
    "models": {"schema", "anatomy"},
    "tasks": {"schema", "models"},
    "store": {"schema"},
    "training": {"schema", "stats", "models", "tasks", "store", "registry", "method", "anatomy"},
    "count": {"schema", "models", "store", "training", "registry", "method", "anatomy"},
    "timing": {"schema", "stats", "models", "store", "training", "count", "registry", "method"},
    "plan": {"schema", "models", "tasks", "store", "count", "registry"},
    "execute": {"schema", "store", "training", "count", "timing", "plan"},
    "export": {"schema", "models", "tasks", "store", "training", "registry"},
    "ab": {"schema", "stats", "timing", "plan", "registry"},
    "analysis": {"schema", "stats", "store", "tasks"},
    "verdicts": {"schema", "stats", "store", "analysis"},
    "report": {"schema", "stats", "store", "analysis", "verdicts", "ab"},
    "cli": {"schema", "store", "count", "plan", "execute", "export", "ab", "analysis", "verdicts", "report"},
    "registry": {"schema", "method"},
    "method": set(),
    "anatomy": set(),
    "errors": set(),
    "__main__": {"cli", "report"},
    "__init__": {"count", "plan", "store", "training", "verdicts"},
}  # fmt: skip
"""What each folder and each module flat in ``bench/`` may import beside ``errors`` and itself; downstream alone."""


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def room(path):
    """The folder of a file of ``bench``, or its own name where it lies flat."""
    return path.relative_to(ROOT / "bench").parts[0].removesuffix(".py")


def between_rooms():
    """Each import of a room by a file of another, but those for type checkers alone: path, name, and the room's."""
    for path in modules("bench"):
        for name in imported(path):
            if name.startswith("bench.") and (to := name.split(".")[1]) in MAY_IMPORT and to != room(path):
                yield path, name, to


def test_no_module_imports_upstream():
    rising = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path, name, to in between_rooms()
        if to not in {"errors", *MAY_IMPORT[room(path)]}
    }
    assert not rising, "\n".join(sorted(rising))


def test_no_room_is_allowed_an_import_that_it_does_not_make():
    made = {(room(path), to) for path, _, to in between_rooms()}
    allowed = {(name, to) for name, others in MAY_IMPORT.items() for to in others}
    lazy = {("__init__", to) for to in MAY_IMPORT["__init__"]}  # by name, when they are asked for
    assert allowed - made - lazy == set()


def test_methods_know_the_plug_in_interface_and_nothing_else_of_the_harness():
    strange = {
        f"{path.name} imports {name}"
        for path in modules("methods")
        for name in imported(path)
        if name.startswith("bench.") and name.split(".")[1] not in {"method", "anatomy", "errors"}
    }
    assert not strange, "\n".join(sorted(strange))


def test_the_harness_names_no_method():
    # "full" is the default baseline of a suite; "head" is also the name of the task head, "peft" of a format of files.
    names = {*BUILTIN, *BRIDGES} - {"full", "head", "peft"}
    named = {
        f"{path.relative_to(ROOT)}:{node.lineno} names {node.value}"
        for path in modules("bench")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert not named, "\n".join(sorted(named))


def imported_alone(program):
    """Run ``program`` in a process that knows nothing of a run that this one has started before."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_WARM")}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=ROOT, env=around)


def test_readers_need_no_torch():
    program = """
import sys
for name in ("torch", "transformers", "datasets", "evaluate", "peft"):
    sys.modules[name] = None
import bench.analysis, bench.cli.app, bench.cli.progress, bench.schema.record, bench.plan.load, bench.plan.load
import bench.report.charts.catalogue, bench.report.render.markdown, bench.report.render.terminal
import bench.stats.intervals, bench.store.store
"""
    imported_alone(program)


def test_the_cost_path_needs_neither_datasets_nor_evaluate():
    program = """
import sys
for name in ("datasets", "evaluate"):
    sys.modules[name] = None
import bench.cli.app, bench.execute.runner, bench.execute.warm, bench.plan.planner
import bench.timing.probe, bench.timing.session
"""
    imported_alone(program)


def test_every_file_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in (*modules("bench"), *modules("methods"))
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, "\n".join(silent)


def test_the_house_is_no_more_crowded_than_it_was_meant_to_be():
    counted = measured(ROOT)
    assert counted.rooms <= 23
    assert counted.files <= 222
    assert counted.report_files <= 30
    assert counted.arrows <= 120
    assert counted.floors <= 11
    assert (counted.circles, counted.file_circles) == (0, 0)

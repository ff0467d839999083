"""Turns a suite into an ordered plan of cells and probes, pure data with an identity each; runs nothing."""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bench import backbone, registry
from bench.backbone import BackboneSpec
from bench.environment import versions
from bench.errors import BenchError, unknown
from bench.record import SCHEMA, Attention, Dtype, Optimizer, TaskUsed
from bench.selection import label
from bench.suite import DEFAULTS, CostTable, MethodTable, RecipeValues, Suite
from bench.tasks.glue import task as task_spec
from bench.tasks.sources import Source, TaskData, bag_of_words_floor, load_task, resolve_source

_ROOT = Path(__file__).parent
_SHARED_SOURCES = ("method.py", "anatomy.py", "backbone.py", "head.py")
_CELL_SOURCES = (*_SHARED_SOURCES, "train.py", "score.py", "tokens.py", "cell.py", "tasks")
_PROBE_SOURCES = (*_SHARED_SOURCES, "train.py", "stats.py", "probe.py", "cost")


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Job(_Data):
    id: str
    """sha256 over all that decides the result."""
    suite: str
    backbone: BackboneSpec
    timeout_seconds: float


class MethodSpec(_Data):
    """A method with its checked configuration."""

    label: str
    """As the suite spells it; unique within the plan."""
    name: str
    config: dict[str, Any]
    """All fields, defaults included."""
    source_sha256: str
    """Hash of the source file that implements it."""


class Cell(_Job):
    """Trains and scores once: (backbone, task, method, recipe, seed)."""

    method: MethodSpec
    source: Source
    task: TaskUsed
    recipe: dict[str, Any]
    """Every recipe value, resolved for this method and task."""
    seed: int
    device: str
    """``cpu`` or ``cuda``."""

    @property
    def name(self) -> str:
        """For people: method, task and seed."""
        return f"{self.method.label} · {self.task.name} · seed {self.seed}"


class Probe(_Job):
    """Measures the cost of all methods on one shape."""

    methods: tuple[MethodSpec, ...]
    baseline: str
    """Label of the method that ratios refer to."""
    batch: int
    length: int
    dtype: Dtype
    device: str
    attention: Attention
    optimizer: Optimizer = "adamw_fused"
    dropout: float = 0.0
    checkpointing: bool = False
    compile: bool = False
    blocks: int
    rounds: int
    threads: int | None = None
    """Torch threads; one for each core where None."""
    latency_batches: tuple[int, ...]
    latency_length: int
    learning_rate: float
    head_learning_rate: float
    outputs: int

    @property
    def name(self) -> str:
        """For people: the shape."""
        return f"costs at batch {self.batch} x {self.length}"


class Plan(_Data):
    """Everything that a run will do, in order."""

    suite: dict[str, Any]
    """The resolved suite: what ``suite.toml`` of the run folder holds."""
    probes: tuple[Probe, ...]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Folder name: suite and the first six hex digits of the plan's hash."""
        return f"{self.suite['name']}-{_sha256([self.suite, *(job.id for job in (*self.probes, *self.cells))])[:6]}"

    def job_ids(self) -> set[str]:
        """Identities of all cells and, for each probe and method, of all cost records."""
        costs = {cost_id(probe, method) for probe in self.probes for method in probe.methods}
        return {cell.id for cell in self.cells} | costs


def cost_id(probe: Probe, method: MethodSpec) -> str:
    """Identity of the cost record of ``method`` in ``probe``."""
    return _sha256([probe.id, method.label])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _source_hash(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def make_plan(suite: Suite, where: str, device: str, progress: Callable[[str], None] = lambda line: None) -> Plan:
    """Resolve data, weights and configurations of ``suite`` once and list what is to be done.

    Args:
        suite: A checked suite.
        where: Its file, for error messages.
        device: ``cpu`` or ``cuda``; decides the batch of cost shapes.
        progress: Called with one line a stage.

    Raises:
        BenchError: Anything that the suite names does not exist or does not fit.
    """
    methods = _methods(suite, where)
    spec = backbone.resolve(suite.backbone.name, suite.backbone.weights, suite.backbone.revision)
    probes = tuple(_probe(suite, spec, methods, cost, device) for cost in suite.cost)
    cells: tuple[Cell, ...] = ()
    source = None
    if suite.tasks:
        _check_tasks(suite, where)
        source = resolve_source(suite.data, suite.tasks)
        progress(source.reason)
        cells = tuple(_cells(suite, spec, methods, source, device))
    return Plan(suite=_resolved(suite, spec, methods, source, probes), probes=probes, cells=cells)


def _check_tasks(suite: Suite, where: str) -> None:
    """Every task that the suite names exists, also where only a recipe or a rate names it."""
    rates = [table.learning_rate for table in suite.method if isinstance(table.learning_rate, dict)]
    overrides = suite.recipe.task if suite.recipe else {}
    for name in (*suite.tasks, *overrides, *(key for rate in rates for key in rate if key != "default")):
        task_spec(name, where)


def _methods(suite: Suite, where: str) -> tuple[MethodSpec, ...]:
    specs = []
    for index, table in enumerate(suite.method):
        place = f"{where}: method[{index}]"
        instance, config = registry.make(table.name, table.config, place)
        digest = _method_sources(type(instance).__module__)
        specs.append(
            MethodSpec(label=label(table), name=table.name, config=registry.resolved(config), source_sha256=digest)
        )
    labels = [spec.label for spec in specs]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BenchError(f"{where}: method {twice[0]} stands twice; give each a config of its own")
    if suite.baseline not in labels:
        raise unknown("baseline", suite.baseline, labels, where)
    return tuple(specs)


def _method_sources(module: str) -> str:
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
        for node in ast.walk(ast.parse(content)):
            names = [_imported(node, found)] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            waiting += sorted(n for n in names if n.partition(".")[0] == package and n not in seen)
    return digest.hexdigest()


def _imported(node: ast.ImportFrom, where: ModuleSpec) -> str:
    """The module that ``from ... import`` names in module ``where``, also by dots."""
    if not node.level:
        return node.module or ""
    package = where.name if where.submodule_search_locations is not None else where.name.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _probe(suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], cost: CostTable, device: str) -> Probe:
    values = cost.model_dump(exclude={"batch_on_cpu", "timeout_seconds"})
    if device == "cpu" and cost.batch_on_cpu is not None:
        values["batch"] = cost.batch_on_cpu
    if suite.baseline != "full" and not any(m.label == suite.baseline for m in methods):
        raise unknown("baseline", suite.baseline, (m.label for m in methods))
    values |= {
        "suite": suite.name, "backbone": spec, "methods": methods, "baseline": suite.baseline, "device": device,
        "learning_rate": DEFAULTS["learning_rate"], "head_learning_rate": DEFAULTS["head_learning_rate"], "outputs": 2,
        "timeout_seconds": cost.timeout_seconds,
    }  # fmt: skip
    draft = Probe(id="", **values)
    return draft.model_copy(update={"id": _identity(draft, _PROBE_SOURCES)})


def _identity(job: Cell | Probe, sources: Iterable[str]) -> str:
    """Hash of all that decides the result: never paths, never git state, never time limits."""
    decided = job.model_dump(mode="json", exclude={"id", "timeout_seconds", "backbone", "source"})
    key = {
        "schema": SCHEMA, "job": decided, "weights": [job.backbone.name, job.backbone.weights, job.backbone.sha256],
        "backbone_files": backbone.files_sha256(job.backbone),
        "versions": versions(), "sources": _source_hash(sources),
    }  # fmt: skip
    return _sha256(key)


def _cells(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], source: Source, device: str
) -> Iterable[Cell]:
    assert suite.recipe is not None
    tables = {label(table): table for table in suite.method}
    used = {name: _task_used(suite, spec, name, source) for name in suite.tasks}
    for seed in suite.seeds:
        for name in suite.tasks:
            for method in methods:
                recipe = _recipe(suite, tables[method.label], name, used[name].train_rows)
                draft = Cell(
                    id="", suite=suite.name, backbone=spec, method=method, source=source, task=used[name],
                    recipe=recipe, seed=seed, device=device, timeout_seconds=suite.recipe.timeout_seconds,
                )  # fmt: skip
                yield draft.model_copy(update={"id": _identity(draft, _CELL_SOURCES)})


def _task_used(suite: Suite, spec: BackboneSpec, name: str, source: Source) -> TaskUsed:
    assert suite.recipe is not None
    values = _values(suite, name)
    data: TaskData = load_task(name, source, values.get("train_rows"), values.get("test_rows"))
    return TaskUsed(
        name=name, version=data.spec.version, source=source.kind, content_sha256=data.content_sha256,
        train_rows=len(data.train.labels), test_rows=len(data.test.labels), overlap=data.overlap,
        floor=bag_of_words_floor(data), notes=(*data.spec.notes, *backbone.task_notes(spec.name, name)),
    )  # fmt: skip


def _values(suite: Suite, task: str) -> dict[str, Any]:
    assert suite.recipe is not None
    fields = set(RecipeValues.model_fields)
    values = DEFAULTS | suite.recipe.model_dump(include=fields, exclude_none=True)
    if task in suite.recipe.task:
        override = suite.recipe.task[task].model_dump(exclude_none=True)
        if "steps" in override:
            values.pop("epochs", None)
        if "epochs" in override:
            values.pop("steps", None)
        values |= override
    return values


def _recipe(suite: Suite, method: MethodTable, task: str, train_rows: int) -> dict[str, Any]:
    values = _values(suite, task)
    if epochs := values.pop("epochs", None):
        values["steps"] = epochs * math.ceil(train_rows / values["batch_size"])
    rate = method.learning_rate
    if isinstance(rate, dict):
        rate = rate.get(task, rate.get("default"))
    if rate is not None:
        values["learning_rate"] = rate
    if method.head_learning_rate is not None:
        values["head_learning_rate"] = method.head_learning_rate
    return dict(sorted(values.items()))


def _resolved(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], source: Source | None, probes: tuple[Probe, ...]
) -> dict[str, Any]:
    """The resolved suite as plain TOML values: lists of labels, where the data came from, what was measured."""
    tables = {label(table): table for table in suite.method}
    described = backbone.describe(spec).model_dump(mode="json", exclude_none=True)
    resolved: dict[str, Any] = {
        "name": suite.name, "question": suite.question, "baseline": suite.baseline, "backbone": described,
        "methods": [method.label for method in methods], "tasks": list(suite.tasks), "seeds": list(suite.seeds),
        "method": {
            m.label: {"name": m.name, "config": m.config}
            | tables[m.label].model_dump(include={"learning_rate", "head_learning_rate"}, exclude_none=True)
            for m in methods
        },
    }  # fmt: skip
    if source is not None and suite.recipe is not None:
        resolved["data"] = {k: v for k, v in dataclasses.asdict(source).items() if v is not None}
        resolved["recipe"] = suite.recipe.model_dump(mode="json", exclude_none=True)
    shape = {"batch", "length", "dtype", "device", "attention", "blocks", "rounds", "latency_batches"}
    shape |= {"latency_length", "threads", "optimizer", "dropout", "checkpointing", "compile"}
    resolved["cost"] = [probe.model_dump(mode="json", include=shape) for probe in probes]
    plain: dict[str, Any] = _without_none(json.loads(json.dumps(resolved)))
    return plain


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out, at any depth."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value

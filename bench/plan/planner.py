"""Turns a suite into an ordered plan of sweeps, probes and cells: plain data with an identity each."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from bench import registry
from bench.errors import BenchError, unknown
from bench.models import backbone
from bench.plan.identity import identity
from bench.plan.select import label
from bench.plan.sweeps import check_crossovers, plan_sweeps, resolved_sweeps
from bench.schema.claims import timed_bounds
from bench.schema.fingerprint import method_sources
from bench.schema.jobs import BackboneSpec, Cell, MethodSpec, Plan, Probe, Source
from bench.schema.record import TaskUsed
from bench.schema.resolved import ResolvedSuite
from bench.schema.shape import StepShape
from bench.schema.suite import DEFAULTS, CostTable, MethodTable, RecipeValues, Suite, claimed_shape
from bench.tasks.glue import task as task_spec
from bench.tasks.metrics import bag_of_words_floor
from bench.tasks.rows import TaskData, content_sha256
from bench.tasks.sources import load_task, load_trial, resolve_source


def make_plan(
    suite: Suite, where: str, device: str, progress: Callable[[str], None] = lambda line: None, *, trials: bool = False
) -> Plan:
    """Resolve data, weights and configurations of ``suite`` once and list what is to be done.

    Args:
        suite: A checked suite.
        where: Its file, for error messages.
        device: ``cpu`` or ``cuda``; decides the batch of cost shapes.
        progress: Called with one line a stage.
        trials: Make every cell a trial of a search for rates, which opens no test split.

    Raises:
        BenchError: Anything that the suite names does not exist or does not fit.
    """
    methods = _methods(suite, where)  # what is misspelled stops here, before anything is loaded
    spec = backbone.resolve(suite.backbone.name, suite.backbone.weights, suite.backbone.revision)
    sizes: dict[str, Any] = {}
    if suite.match is not None:
        # what counts imports torch's compiler: a second that suites without a budget need not wait
        from bench.plan.budget import matched

        suite, sizes = matched(suite, spec, device, where)
        methods = _methods(suite, where)
    probes = tuple(_probe(suite, spec, methods, cost, device) for cost in suite.cost if not trials)
    sweeps = plan_sweeps(suite, spec, methods, where)
    check_crossovers(suite, sweeps, where)
    cells: tuple[Cell, ...] = ()
    source = None
    if suite.tasks:
        _check_tasks(suite, where)
        source = resolve_source(suite.data, suite.tasks)
        progress(source.reason)
        cells = tuple(_cells(suite, spec, methods, source, device, trials))
    resolved = _resolved(suite, spec, methods, source, probes) | resolved_sweeps(suite, sweeps)
    if suite.match is not None:
        resolved["match"] = suite.match.model_dump(exclude_none=True)
        for name, outcome in sizes.items():
            resolved["method"][name]["match"] = outcome
    return Plan(suite=ResolvedSuite.model_validate(resolved), probes=probes, cells=cells, sweeps=sweeps)


def _check_tasks(suite: Suite, where: str) -> None:
    """Every task that the suite names exists, also where only a recipe or a rate names it."""
    rates = [rate for table in suite.method for rate in (table.learning_rate, table.head_learning_rate)]
    named = (key for rate in rates if isinstance(rate, dict) for key in rate if key != "default")
    overrides = suite.recipe.task if suite.recipe else {}
    for name in (*suite.tasks, *overrides, *named):
        task_spec(name, where)


def _methods(suite: Suite, where: str) -> tuple[MethodSpec, ...]:
    specs = []
    for index, table in enumerate(suite.method):
        place = f"{where}: method[{index}]"
        instance, config = registry.make(table.name, table.config, place)
        digest = method_sources(type(instance).__module__)
        specs.append(
            MethodSpec(label=label(table), name=table.name, config=registry.resolved(config), source_sha256=digest)
        )
    labels = [spec.label for spec in specs]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BenchError(f"{where}: method {twice[0]} is listed twice; give each its own config")
    if suite.baseline not in labels:
        raise unknown("baseline", suite.baseline, labels, where)
    return tuple(specs)


def _probe(suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], cost: CostTable, device: str) -> Probe:
    values = cost.model_dump(exclude={"batch_on_cpu", "timeout_seconds", "methods"}) | {"batch": cost.batch_on(device)}
    if suite.baseline != "full" and not any(m.label == suite.baseline for m in methods):
        raise unknown("baseline", suite.baseline, (m.label for m in methods))
    labels = [method.label for method in methods]
    shapes = [claimed_shape(one, labels, device) for one in suite.cost]
    shape = shapes[suite.cost.index(cost)]
    chosen = tuple(method for method in methods if method.label in shape.labels)
    values |= {
        "suite": suite.name, "backbone": spec, "methods": chosen, "baseline": suite.baseline, "device": device,
        "learning_rate": DEFAULTS["learning_rate"], "head_learning_rate": DEFAULTS["head_learning_rate"], "outputs": 2,
        "timeout_seconds": cost.timeout_seconds,
        "bounds": timed_bounds(suite.claim, shape, shapes) if cost.timed else (),
    }  # fmt: skip
    draft = Probe(id="", **values)
    return draft.model_copy(update={"id": identity(draft)})


def _cells(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], source: Source, device: str, trials: bool
) -> Iterable[Cell]:
    assert suite.recipe is not None
    tables = {label(table): table for table in suite.method}
    found = {name: _task_used(suite, spec, name, source, trials) for name in suite.tasks}
    for seed in suite.seeds:
        for name in suite.tasks:
            for method in methods:
                used, chosen_by = found[name]
                recipe = _recipe(suite, tables[method.label], name, used.train_rows) | chosen_by
                draft = Cell(
                    id="", suite=suite.name, backbone=spec, method=method, source=source, task=used,
                    recipe=recipe, seed=seed, device=device, timeout_seconds=suite.recipe.timeout_seconds,
                    tuning=tables[method.label].tuning, trial=trials,
                )  # fmt: skip
                yield draft.model_copy(update={"id": identity(draft)})


def _task_used(
    suite: Suite, spec: BackboneSpec, name: str, source: Source, trials: bool
) -> tuple[TaskUsed, dict[str, str]]:
    """What a record says of the task, and the hash of the selection rows for the recipe, where there are any."""
    assert suite.recipe is not None
    values = _values(suite, name)
    data: TaskData = (
        load_trial(name, source, values.get("train_rows"), values["selection_rows"])
        if trials
        else load_task(name, source, *(values.get(f"{split}_rows") for split in ("train", "test", "selection")))
    )
    used = TaskUsed(
        name=name, version=data.spec.version, source=source.kind, content_sha256=data.content_sha256,
        train_rows=len(data.train.labels), test_rows=len(data.test.labels), overlap=data.overlap,
        overlap_ngrams=data.overlap_ngrams, floor=bag_of_words_floor(data),
        notes=(*data.spec.notes, *backbone.task_notes(spec.name, name)),
    )  # fmt: skip
    return used, {"selection_sha256": content_sha256([data.selection])} if data.selection else {}


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
    return dict(sorted((values | method.rates(task)).items()))


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
            | tables[m.label].model_dump(include={"learning_rate", "head_learning_rate", "tuning"}, exclude_none=True)
            for m in methods
        },
    }  # fmt: skip
    if source is not None and suite.recipe is not None:
        resolved["data"] = {"kind": source.kind, "reason": source.reason}  # where files lie decides nothing
        resolved["recipe"] = suite.recipe.model_dump(mode="json", exclude_none=True)
    shape = {*StepShape.model_fields, "device", "compile", "timed", "blocks", "rounds", "extra_seconds", "rebuild",
             "threads", "latency_batches", "latency_length"}  # fmt: skip
    if suite.claim:
        resolved["claims"] = [claim.model_dump(mode="json", exclude_none=True) for claim in suite.claim]
    resolved["cost"] = [
        probe.model_dump(mode="json", include=shape)
        | ({"methods": [m.label for m in probe.methods]} if len(probe.methods) < len(methods) else {})
        for probe in probes
    ]
    plain: dict[str, Any] = _without_none(json.loads(json.dumps(resolved)))
    return plain


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out, at any depth."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value

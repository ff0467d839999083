"""Turns a suite into an ordered plan of sweeps, probes and cells, or of the trials of a search for rates."""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from bench import registry
from bench.count.isolation import guarded
from bench.errors import BenchError, unknown
from bench.models import backbone
from bench.models.generation import check_writes
from bench.models.head import check_positions
from bench.models.objective import objective_of, outputs_of, settle
from bench.models.tokenizer import Tokenizer, load_tokenizer
from bench.plan.select import label, unscored
from bench.schema.claims import check_claims, timed_bounds
from bench.schema.jobs import (
    BackboneSpec,
    Cell,
    MethodSpec,
    PlainText,
    Plan,
    Probe,
    Retained,
    Source,
    Sweep,
    is_path,
    method_sources,
    sha256_of,
    source_hash,
)
from bench.schema.ranges import RATES, check_recipe
from bench.schema.record import SCHEMA, TaskUsed
from bench.schema.resolved import ResolvedSuite
from bench.schema.shape import StepShape
from bench.schema.suite import (
    DEFAULTS,
    OF_THE_HEAD,
    CostTable,
    MethodTable,
    RecipeValues,
    Suite,
    TuningTable,
    claimed_shape,
    measured,
    search_table,
)
from bench.schema.task import TaskSpec
from bench.store.environment import versions
from bench.tasks import plain
from bench.tasks.catalogue import task as task_spec
from bench.tasks.figures import check_room, row_figures
from bench.tasks.metrics import bag_of_words_floor, metric_sources
from bench.tasks.rows import TaskData, check_labels, content_sha256
from bench.tasks.sources import Located, check_named, load_task, load_trial, locate

_SHARED = ("method.py", "anatomy.py", "families.toml", "models", "models/shapes.toml", "training/loop.py")
SOURCES: dict[type[Cell | Probe | Sweep], tuple[str, ...]] = {
    Cell: (*_SHARED, "stats/subspaces.py", "training", "tasks"),
    Probe: (*_SHARED, "stats/intervals.py", "schema/claims.py", "timing", "count"),
    Sweep: (*_SHARED, "count"),
}
"""Files of this package that decide the result of a job beside those of its methods."""


def identity(job: Cell | Probe | Sweep) -> str:
    """Hash of all that decides the result: never paths, never git state, never time limits."""
    apart = {"id", "timeout_seconds", "method_timeout_seconds", "backbone", "source", "spec", "retention", "general"}
    decided = job.model_dump(mode="json", exclude=apart)
    name = None if is_path(job.backbone.name) else job.backbone.name  # of a path, what lies there decides
    if isinstance(job, Cell):
        decided |= {"spec": job.spec.decides()} | metric_sources(job.spec.metrics)
        decided |= {} if job.retention is None else {"retention": job.retention.decides()}
        decided |= {} if job.general is None else {"general": job.general.model_dump(mode="json", exclude={"path"})}
    key = {
        "schema": SCHEMA, "job": decided, "weights": [name, job.backbone.weights, job.backbone.sha256],
        "backbone_files": backbone.files_sha256(job.backbone),
        **({} if job.backbone.layers is None else {"layers": job.backbone.layers}),
        **({} if job.backbone.width is None else {"width": job.backbone.width}),
        "versions": versions(), "sources": source_hash(SOURCES[type(job)]),
    }  # fmt: skip
    return sha256_of(key)


def plan_sweeps(suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], where: str) -> tuple[Sweep, ...]:
    """The sweeps of ``suite`` in their order.

    Args:
        suite: A checked suite.
        spec: Its backbone, for sweeps that name none.
        methods: Its methods, for sweeps that name none.
        where: Its file, for error messages.

    Raises:
        BenchError: A method or backbone is unknown, or a value gives no shape that can be built.
    """
    return tuple(_sweep(suite, spec, methods, i, f"{where}: sweep[{i}]") for i in range(len(suite.sweep)))


def _sweep(suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], index: int, place: str) -> Sweep:
    table = suite.sweep[index]
    by_label = {method.label: method for method in methods}
    for name in table.methods:
        if name not in by_label:
            raise unknown("method", name, by_label, f"{place}.methods")
    used = spec if table.backbone is None else backbone.resolve(table.backbone, "random")
    values = table.model_dump(exclude={"name", "backbone", "methods"})
    shortest = table.values[0] if table.vary == "length" else table.length
    values |= settle(used, table, length=shortest, where=place)
    values["attention"] = backbone.attention_of(used, table.attention)
    draft = Sweep(
        id="", suite=suite.name, title=table.title, **values, backbone=used, outputs=outputs_of(values["objective"]),
        methods=tuple(by_label[name] for name in table.methods) or methods,
    )  # fmt: skip
    _check_values(draft, place)
    return draft.model_copy(update={"id": identity(draft)})


def _check(name: str, config: dict[str, Any]) -> None:
    registry.make(name, config)


def _check_values(sweep: Sweep, place: str) -> None:
    """Every value gives a shape that can be built, and changes something."""
    for value in sweep.values:
        try:
            backbone.configuration(sweep.backbone_at(value))
            for method in sweep.methods:
                guarded(method.name, functools.partial(_check, method.name, sweep.config_at(method, value)))
        except BenchError as error:
            raise BenchError(f"{place}.values: {error}") from error
    if sweep.vary.startswith("config."):
        first, last = sweep.values[0], sweep.values[-1]
        if all(sweep.config_at(method, first) == sweep.config_at(method, last) for method in sweep.methods):
            raise BenchError(f"{place}.vary: no method of this sweep has an integer field {sweep.vary[7:]!r}")
    shape = dataclasses.replace(sweep.backbone, weights="random")
    longest = max(sweep.shape_at(value).length for value in sweep.values)
    check_positions(
        backbone.load(shape, device="meta", objective=sweep.objective or "classes"), longest, option="length", at=place
    )


def check_crossovers(suite: Suite, sweeps: tuple[Sweep, ...], where: str) -> None:
    """Both methods of every crossover are counted by its sweeps.

    Raises:
        BenchError: One is not; the sentence names those that are.
    """
    known = {sweep.title: [method.label for method in sweep.methods] for sweep in sweeps}
    for index, table in enumerate(suite.crossover):
        curves = (("method", table.method, table.sweep), ("than", table.than, table.than_sweep or table.sweep))
        for field, name, title in curves:
            if name not in known[title]:
                raise unknown("method", name, known[title], f"{where}: crossover[{index}].{field} of {title!r}")


def resolved_sweeps(suite: Suite, sweeps: tuple[Sweep, ...]) -> dict[str, Any]:
    """The sweeps as plain TOML values; nothing where there is none."""
    if not sweeps:
        return {}
    left_out = {"id", "suite", "backbone", "methods", "timeout_seconds", "method_timeout_seconds", "outputs"}
    resolved = [
        sweep.model_dump(mode="json", exclude=left_out, exclude_none=True)
        | {"backbone": sweep.backbone.name, "methods": [method.label for method in sweep.methods]}
        for sweep in sweeps
    ]
    return {"sweep": resolved, "crossover": [t.model_dump(mode="json", exclude_none=True) for t in suite.crossover]}


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
    if (said := backbone.first_use(suite.backbone.name, suite.backbone.weights)) is not None:
        progress(said)
    spec = backbone.resolve(suite.backbone.name, suite.backbone.weights, suite.backbone.revision)
    suite = _settled(suite, spec, where)
    sizes: dict[str, Any] = {}
    if suite.match is not None:
        # what counts imports torch's compiler: a second that suites without a budget need not wait
        from bench.plan.budget import matched

        suite, sizes = matched(suite, spec, device, where)
        methods = _methods(suite, where)
    names = {table.label for table in measured(suite.method)}
    costed = tuple(method for method in methods if method.label in names)
    probes = tuple(
        _probe(suite, spec, costed, index, f"{where}: cost[{index}]", device)
        for index in range(0 if trials else len(suite.cost))
    )
    sweeps = plan_sweeps(suite, spec, costed, where)
    check_crossovers(suite, sweeps, where)
    cells: tuple[Cell, ...] = ()
    data = None
    if suite.tasks:
        suite, data = _located(suite, spec, where)
        for reason in data.reasons:
            progress(reason)
        scored = tuple(method for method in methods if suite.scores(method.label))
        retained = _retained(suite, spec, data, where)
        general = _general(suite, spec, scored, data, retained, where)
        cells = tuple(_cells(suite, spec, scored, data, device, retained, general, trials=trials))
    elif suite.scored:
        progress(f"no scores: {suite.name} {unscored(suite)}")
    resolved = _resolved(suite, spec, methods, data, probes) | resolved_sweeps(suite, sweeps)
    if suite.match is not None:
        resolved["match"] = suite.match.model_dump(exclude_none=True)
        for name, outcome in sizes.items():
            resolved["method"][name]["match"] = outcome
    return Plan(suite=ResolvedSuite.model_validate(resolved), probes=probes, cells=cells, sweeps=sweeps)


def _settled(suite: Suite, spec: BackboneSpec, where: str) -> Suite:
    """The suite with what each cost shape leaves to the backbone: its objective, its loss, the attention it has.

    Raises:
        BenchError: The backbone cannot have an objective, two shapes are then one, or no shape is one of a claim.
    """
    costs: list[CostTable] = []
    for index, table in enumerate(suite.cost):
        place = f"{where}: cost[{index}]"
        values = settle(spec, table, length=table.length, where=place)
        cost = table.model_copy(update=values | {"attention": backbone.attention_of(spec, table.attention)})
        if any(cost.key == other.key for other in costs):
            raise BenchError(
                f"{place} repeats the shape of an earlier [[cost]], with what {spec.name!r} has where it is left out "
                f"({', '.join(cost.unusual) or cost.objective}); remove one of the two"
            )
        costs.append(cost)
    labels = [label(table) for table in suite.method]
    costed = [table.label for table in measured(suite.method)]
    try:
        named = [one for one in suite.claim if (one.objective or one.loss) and one.labels <= {*labels}]
        shapes = [claimed_shape(cost, costed, "cuda") for cost in costs]
        check_claims(named, labels, suite.tasks, shapes, suite.scored or labels)
    except ValueError as error:
        raise BenchError(f"{where}: {error}") from error
    return suite.model_copy(update={"cost": tuple(costs)})


def _located(suite: Suite, spec: BackboneSpec, where: str) -> tuple[Suite, Located]:
    """Where the rows of each task are, and the suite with the tasks that are scored: those for want of a hub, if so."""
    _check_tasks(suite, where)
    specs, instead = (
        [task_spec(name, where, suite.task) for name in names] for names in (suite.tasks, suite.without_hub)
    )
    _check_kinds(specs, spec, where)
    data = locate(suite.data, specs, instead)
    names = tuple(spec.name for spec in data.specs)
    if names == suite.tasks:
        return suite, data
    searched = (
        table if table.tuning is None or table.tuning.task in names else table.model_copy(update={"tuning": None})
        for table in suite.method
    )
    return suite.model_copy(update={"tasks": names, "method": tuple(searched)}), data


def _check_kinds(specs: Iterable[TaskSpec], spec: BackboneSpec, where: str) -> None:
    """All tasks stand on one objective, which the backbone can have."""
    of_text = [task.name for task in specs if task.kind == "text"]
    others = [task.name for task in specs if task.kind != "text"]
    if of_text and others:
        raise BenchError(
            f"{where}: task {of_text[0]} writes text and {others[0]} does not: they stand on different objectives; "
            "score them in two suites"
        )
    try:
        backbone.check_objective_of(spec, "text" if of_text else "classes")
    except BenchError as error:
        raise BenchError(f"{where}: task {(of_text or others)[0]}: {error}") from error


def _check_tasks(suite: Suite, where: str) -> None:
    """Every task that the suite names exists, also where only a recipe or a rate names it."""
    rates = [rate for table in suite.method for rate in (table.learning_rate, table.head_learning_rate)]
    named = (key for rate in rates if isinstance(rate, dict) for key in rate if key != "default")
    overrides = suite.recipe.task if suite.recipe else {}
    for name in (*suite.tasks, *suite.without_hub, *overrides, *named):
        task_spec(name, where, suite.task)


def _method(table: MethodTable, place: str) -> MethodSpec:
    instance, config = registry.make(table.name, table.config, place)
    digest = method_sources(type(instance).__module__)
    return MethodSpec(label=label(table), name=table.name, config=registry.resolved(config), source_sha256=digest)


def _methods(suite: Suite, where: str) -> tuple[MethodSpec, ...]:
    specs = []
    for index, table in enumerate(suite.method):
        specs.append(guarded(table.name, functools.partial(_method, table, f"{where}: method[{index}]")))
    labels = [spec.label for spec in specs]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise BenchError(f"{where}: method {twice[0]} is listed twice; give each its own config")
    if suite.baseline not in labels:
        raise unknown("baseline", suite.baseline, labels, where)
    return tuple(specs)


def _probe(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], index: int, place: str, device: str
) -> Probe:
    cost = suite.cost[index]
    if cost.generation is not None:
        check_writes(backbone.configuration(spec), cost.objective, f"{place}.generation")
    if cost.serving is not None and backbone.configuration(spec).is_encoder_decoder:
        raise BenchError(
            f"{place}.serving: {spec.name} has a decoder beside its encoder, and tasks are served on one stack alone; "
            "leave serving out, or name an encoder or a decoder"
        )
    values = cost.model_dump(exclude={"batch_on_cpu", "timeout_seconds", "methods"}) | {"batch": cost.batch_on(device)}
    if suite.baseline != "full" and not any(m.label == suite.baseline for m in methods):
        raise unknown("baseline", suite.baseline, (m.label for m in methods))
    labels = [method.label for method in methods]
    shapes = [claimed_shape(one, labels, device) for one in suite.cost]
    shape = shapes[index]
    chosen = tuple(method for method in methods if method.label in shape.labels)
    values |= {
        "suite": suite.name, "backbone": spec, "methods": chosen, "baseline": suite.baseline, "device": device,
        "learning_rate": DEFAULTS["learning_rate"], "head_learning_rate": DEFAULTS["head_learning_rate"],
        "outputs": outputs_of(values["objective"]),
        "timeout_seconds": cost.timeout_seconds,
        "bounds": timed_bounds(suite.claim, shape, shapes) if cost.timed else (),
    }  # fmt: skip
    if not cost.inference:
        values["latency_batches"] = ()
    draft = Probe(id="", **values)
    return draft.model_copy(update={"id": identity(draft)})


def _retained(suite: Suite, spec: BackboneSpec, data: Located, where: str) -> Retained | None:
    """The plain texts that cells read before and after they train, where the suite has any.

    Raises:
        BenchError: The backbone or a task has no language model to ask, or a text cannot be had.
    """
    if (table := suite.retention) is None:
        return None
    place = f"{where}: retention"
    if others := [task.name for task in data.specs if task.kind != "text"]:
        raise BenchError(f"{place}: task {others[0]} trains no language model that could read a text; remove the table")
    if spec.weights == "random":
        raise BenchError(f"{place}: {spec.name!r} has random weights, which know nothing to forget; remove the table")
    config = backbone.configuration(spec)
    if config.is_encoder_decoder:
        raise BenchError(
            f"{place}: {spec.name!r} has an encoder, and a plain text alone is read by decoders; name a decoder, or "
            "remove the table"
        )
    shape = backbone.load(dataclasses.replace(spec, weights="random"), device="meta", objective="text")
    check_positions(shape, table.context, option="context", at=place)
    texts = plain.found(table.texts, table.most_bytes, f"{place}.texts")
    return Retained(context=table.context, texts=texts, on_the_way=table.on_the_way)


def _general(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], data: Located, retained: Retained | None,
    where: str,
) -> PlainText | None:  # fmt: skip
    """The text that some of ``methods`` mix in; None where none does.

    Raises:
        BenchError: The backbone or a task has no language model to train on it, or the text cannot be had.
    """
    asking = {table.label for table in suite.method if table.mix is not None}
    if suite.recipe is None or (mix := suite.recipe.mix) is None or not any(one.label in asking for one in methods):
        return None
    place = f"{where}: recipe.mix"
    if others := [task.name for task in data.specs if task.kind != "text"]:
        raise BenchError(f"{place}: task {others[0]} trains no language model that could read a text; remove the table")
    if backbone.configuration(spec).is_encoder_decoder:
        raise BenchError(
            f"{place}: {spec.name!r} has an encoder, and a plain text alone is read by decoders; name a decoder, or "
            "remove the table"
        )
    return plain.general(mix.text, mix.most_bytes, retained.texts if retained else (), f"{place}.text")


def _cells(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], data: Located, device: str,
    retained: Retained | None, general: PlainText | None, *, trials: bool,
) -> Iterable[Cell]:  # fmt: skip
    assert suite.recipe is not None
    tables = {label(table): table for table in suite.method}
    tokenizer = load_tokenizer(spec.folder, backbone.configuration(spec).vocab_size)  # what does not fit stops here
    found = {
        task.name: _task_used(suite, spec, task, data.sources[task.name], tokenizer, trials) for task in data.specs
    }
    for seed in suite.seeds:
        for task in data.specs:
            name = task.name
            for method in methods:
                used, chosen_by = found[name]
                recipe = _recipe(suite, tables[method.label], task, used.train_rows) | chosen_by
                draft = Cell(
                    id="", suite=suite.name, backbone=spec, method=method, spec=task,
                    source=data.sources[name], task=used,
                    recipe=recipe, seed=seed, device=device, timeout_seconds=suite.recipe.timeout_seconds,
                    threads=suite.recipe.threads, tuning=tables[method.label].tuning, trial=trials,
                    retention=retained, general=general if "mix" in recipe else None,
                )  # fmt: skip
                yield draft.model_copy(update={"id": identity(draft)})


def _task_used(
    suite: Suite, spec: BackboneSpec, task: TaskSpec, source: Source, tokenizer: Tokenizer, trials: bool
) -> tuple[TaskUsed, dict[str, str]]:
    """What a record says of the task, and the hash of the selection rows for the recipe, where there are any."""
    assert suite.recipe is not None
    values = _values(suite, task)
    data: TaskData = (
        load_trial(task, source, values.get("train_rows"), values["selection_rows"])
        if trials
        else load_task(task, source, *(values.get(f"{split}_rows") for split in ("train", "test", "selection")))
    )
    check_labels(data)
    if task.kind == "text":
        alone = not backbone.configuration(spec).is_encoder_decoder
        check_room(data, tokenizer, values["max_length"], shifted=alone)
    used = TaskUsed(
        name=task.name, version=task.version, source=source.kind, content_sha256=data.content_sha256,
        train_rows=len(data.train.labels), test_rows=len(data.test.labels), overlap=data.overlap,
        overlap_ngrams=data.overlap_ngrams, floor=bag_of_words_floor(data),
        kind=task.kind, main_metric=task.main_metric, origin=task.origin, citation=task.citation,
        rows=row_figures(data, tokenizer, values["max_length"]),
        notes=(*task.notes, *data.notes, *backbone.task_notes(spec.name, task.name)),
    )  # fmt: skip
    return used, {"selection_sha256": content_sha256([data.selection])} if data.selection else {}


def _values(suite: Suite, task: TaskSpec) -> dict[str, Any]:
    assert suite.recipe is not None
    fields = set(RecipeValues.model_fields)
    selection = {"selection_rows": task.selection} if task.selection else {}
    values = DEFAULTS | selection | suite.recipe.model_dump(include=fields, exclude_none=True)
    if task.name in suite.recipe.task:
        override = suite.recipe.task[task.name].model_dump(exclude_none=True)
        if "steps" in override:
            values.pop("epochs", None)
        if "epochs" in override:
            values.pop("steps", None)
        values |= override
    return values


def _check_head(suite: Suite, task: TaskSpec) -> None:
    """Refuse what a recipe says of a head that a task of text does not have."""
    assert suite.recipe is not None
    for where, values in (("recipe", suite.recipe), (f"recipe.task.{task.name}", suite.recipe.task.get(task.name))):
        if values is not None and (given := [key for key in OF_THE_HEAD if getattr(values, key) is not None]):
            raise BenchError(
                f"{where}.{given[0]} is of a head, and task {task.name} writes text with the backbone's own; remove it"
            )


def _recipe(suite: Suite, method: MethodTable, task: TaskSpec, train_rows: int) -> dict[str, Any]:
    values = _values(suite, task)
    if task.kind == "text":
        _check_head(suite, task)
        values = {key: value for key, value in values.items() if key not in OF_THE_HEAD}
    if epochs := values.pop("epochs", None):
        values["steps"] = epochs * math.ceil(train_rows / values["batch_size"])
    values |= _mix(suite, method, task, values) | _devices(suite)
    recipe = dict(sorted((values | method.rates(task.name)).items()))
    try:
        check_recipe(recipe)
    except ValueError as error:  # epochs may come to more steps than a suite may name
        fewer = "; give fewer epochs" if epochs else ""
        raise BenchError(f"recipe of {task.name}: {error}{fewer}") from error
    if values["batch_size"] > train_rows:
        raise BenchError(
            f"recipe of {task.name}: batch_size = {values['batch_size']} is above its {train_rows} training rows; "
            "lower it"
        )
    return recipe


def _devices(suite: Suite) -> dict[str, Any]:
    """How the rows of a step are shared out; nothing where there is one device, as before there could be more."""
    assert suite.recipe is not None
    if suite.recipe.devices == 1:
        return {}
    return {"devices": suite.recipe.devices, "shard": suite.recipe.shard}


def _mix(suite: Suite, method: MethodTable, task: TaskSpec, values: dict[str, Any]) -> dict[str, Any]:
    """Steps and rows of a method that trains on general text beside the task; nothing where it does not."""
    if method.mix is None:
        return {}
    assert suite.recipe is not None and suite.recipe.mix is not None, "the suite's own check"
    table, most = suite.recipe.mix, values["max_length"]
    if table.length is not None and table.length > most:
        raise BenchError(f"recipe.mix.length = {table.length} is above max_length = {most} of {task.name}; lower it")
    try:
        rows = plain.mixed_rows(values["steps"], values["batch_size"], method.mix.share, method.mix.hold)
    except ValueError as error:
        raise BenchError(f"mix of {method.label} on {task.name}: {error}") from error
    mix = method.mix.model_dump() | {"text": plain.shown(table.text), "length": table.length or most}
    return {"steps": rows.steps, "mix": mix | {"domain_rows": rows.domain, "general_rows": rows.general}}


def _resolved(
    suite: Suite, spec: BackboneSpec, methods: tuple[MethodSpec, ...], data: Located | None, probes: tuple[Probe, ...]
) -> dict[str, Any]:
    """The resolved suite as plain TOML values: lists of labels, where the data came from, what was measured."""
    tables = {label(table): table for table in suite.method}
    own = {"unused_tensors", "configuration"}  # of its files, which its hashes stand for
    objective = objective_of(suite, spec, [task.kind for task in data.specs] if data else ())
    described = backbone.describe(spec, objective).model_dump(mode="json", exclude_none=True, exclude=own)
    resolved: dict[str, Any] = {
        "name": suite.name, "question": suite.question, "baseline": suite.baseline, "backbone": described,
        "methods": [method.label for method in methods], "tasks": list(suite.tasks), "seeds": list(suite.seeds),
        "method": {
            m.label: {"name": m.name, "config": m.config}
            | tables[m.label].model_dump(include={*RATES, "tuning", "mix"}, exclude_none=True)
            for m in methods
        },
    }  # fmt: skip
    if data is not None and suite.recipe is not None:
        resolved["data"] = {"kind": data.kind, "reason": "; ".join(data.reasons)}  # where files lie decides nothing
        resolved["task"] = {spec.name: spec.decides() for spec in data.specs}
        resolved["recipe"] = suite.recipe.model_dump(mode="json", exclude_none=True)
        if suite.recipe.mix is not None:
            resolved["recipe"]["mix"]["text"] = plain.shown(suite.recipe.mix.text)
        if suite.retention is not None:
            names = [plain.shown(name) for name in suite.retention.texts]
            resolved["retention"] = suite.retention.model_dump(mode="json") | {"texts": names}
        resolved |= {"scored": list(suite.scored)} if suite.scored else {}
    shape = {*StepShape.model_fields, "device", "compile", "timed", "blocks", "rounds", "extra_seconds", "rebuild",
             "threads", "latency_batches", "latency_length", "generation", "serving"}  # fmt: skip
    if suite.claim:
        resolved["claims"] = [claim.model_dump(mode="json", exclude_none=True) for claim in suite.claim]
    resolved["cost"] = [
        probe.model_dump(mode="json", include=shape)
        | ({"methods": [m.label for m in probe.methods]} if len(probe.methods) < len(methods) else {})
        | {name: False for name in ("energy", "inference") if not getattr(probe, name)}
        for probe in probes
    ]
    values: dict[str, Any] = _without_none(json.loads(json.dumps(resolved)))
    return values


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out, at any depth."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def plan_search(suite: Suite, where: str, device: str, progress: Callable[[str], None] = lambda line: None) -> Plan:
    """Plan every trial: each rate and head rate of the grid for each scored method, task and seed, and nothing else.

    All methods come to a pair of rates before the next pair begins, so that a search that is cut short has given them
    alike. The rates that the suite has now decide nothing: a search stands when its result is written into the suite.

    Args:
        suite: A checked suite.
        where: Its file, for error messages.
        device: ``cpu`` or ``cuda``.
        progress: Called with one line a stage.

    Raises:
        BenchError: The suite has no grid, or what it names does not exist or does not fit.
    """
    table = search_table(suite.tuning, where)
    if not suite.tasks and suite.scored:
        raise BenchError(f"{where} {unscored(suite)}; name one of those with --methods")
    if table.task is not None and table.task not in (*suite.tasks, *suite.without_hub):
        raise BenchError(f"{where} searches for rates on {table.task} alone; omit --tasks, or include it there")
    if table.task is not None:
        check_named(suite.data, task_spec(table.task, where, suite.task), f"[tuning] of {where}")
    plan = make_plan(_bare(suite, table), where, device, progress, trials=True)
    cells = tuple(_at(cell, *rates) for rates, cell in itertools.product(table.grid, plan.cells))
    return Plan(
        suite=plan.suite.changed(tuning=table.model_dump(mode="json", exclude_none=True)),
        probes=(),
        cells=cells,
    )


def _bare(suite: Suite, table: TuningTable) -> Suite:
    """The suite with nothing to do but the trials, at no rates yet; a budget of memory still needs its cost shape."""
    assert suite.recipe is not None, "a suite with a [tuning] table has tasks, one with tasks has a recipe"
    decided: dict[str, Any] = dict.fromkeys(
        (
            "learning_rate",
            "head_learning_rate",
            "test_rows",
            "curve_points",
            "gradient_norms",
            "directions",
            "nearest_words",
        )
    )
    if table.steps is not None:
        decided |= {"steps": None, "epochs": None}
    cut = {"selection_rows": table.selection_rows} | ({"steps": table.steps} if table.steps is not None else {})
    by_task: dict[str, RecipeValues] = {
        name: values.model_copy(update=decided | {"selection_rows": None}) for name, values in suite.recipe.task.items()
    }
    baseline = next((method.measured for method in suite.method if method.label == suite.baseline), suite.baseline)
    bare = {"learning_rate": None, "head_learning_rate": None, "tuning": None, "mix": None}
    scored = [method for method in suite.method if suite.scores(method.label)]
    return suite.model_copy(
        update={
            "tasks": suite.tasks if table.task is None else (table.task,),
            "without_hub": suite.without_hub if table.task is None else (), "scored": (), "retention": None,
            "seeds": table.seeds, "baseline": baseline, "sweep": (), "crossover": (), "claim": (),
            "method": tuple(method.model_copy(update=bare) for method in measured(scored)),
            "recipe": suite.recipe.model_copy(update=decided | cut | {"task": by_task, "mix": None}),
        }
    )  # fmt: skip


def _at(cell: Cell, learning_rate: float, head_learning_rate: float) -> Cell:
    """The trial of ``cell`` at these rates."""
    rates = {"learning_rate": learning_rate, "head_learning_rate": head_learning_rate}
    draft = cell.model_copy(update={"id": "", "recipe": cell.recipe | rates})
    return draft.model_copy(update={"id": identity(draft)})

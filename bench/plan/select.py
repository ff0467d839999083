"""Narrows a suite to what the command line asks for."""

import dataclasses
import functools
from typing import Any

from bench import registry
from bench.count.isolation import guarded
from bench.errors import BenchError
from bench.models import backbone
from bench.schema.suite import CostTable, MethodTable, Suite, SweepTable


@dataclasses.dataclass(frozen=True)
class Selection:
    """What the command line narrows or replaces; None leaves the suite's own choice."""

    data: str | None = None
    methods: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    backbone: str | None = None
    counts: bool = False
    """Count alone: score no task, take no step, time nothing."""


def select(suite: Suite, selection: Selection) -> Suite:
    """Apply ``selection`` to ``suite``.

    Raises:
        BenchError: A method is unknown, or a task is no task.
    """
    changes: dict[str, Any] = {}
    _check_choices(selection)
    _check_scores(suite, selection)
    if selection.data is not None:
        changes["data"] = selection.data
    if selection.methods is not None:
        changes["method"] = _select_methods(suite, selection.methods)
        kept = {label(method): method for method in changes["method"]}
        changes |= {"cost": _narrow_shapes(suite, kept)} | _narrow_sweeps(suite, kept)
        changes |= _narrow_scored(suite, kept, selection.tasks is not None or selection.seeds is not None)
    if selection.tasks is not None:
        changes |= {"tasks": selection.tasks, "without_hub": ()}
    if selection.seeds is not None:
        changes["seeds"] = selection.seeds
    if selection.backbone is not None:
        weights = backbone.usual_weights(selection.backbone)
        changes["backbone"] = suite.backbone.model_copy(
            update={"name": selection.backbone, "weights": weights, "revision": None}
        )
    if selection.backbone is not None or {*(selection.tasks or ())} - {*suite.tasks, *suite.without_hub}:
        changes["method"] = _not_searched(changes.get("method", suite.method))
    if selection.counts:
        if not suite.cost and not suite.sweep:
            raise BenchError(f"suite {suite.name!r} has no [[cost]] shape to count; omit --counts")
        untimed = {"timed": False, "batch_on_cpu": None}
        shapes = changes.get("cost", suite.cost)
        changes |= {"tasks": (), "scored": (), "cost": tuple(cost.model_copy(update=untimed) for cost in shapes)}
    return suite.model_copy(update=changes)


def _check_choices(selection: Selection) -> None:
    """Refuse a choice that names nothing, or a task or seed twice: the suite's own checks do not see them."""
    for option, chosen in (("methods", selection.methods), ("tasks", selection.tasks), ("seeds", selection.seeds)):
        if chosen is None:
            continue
        if not chosen:
            raise BenchError(f"--{option} is empty; name at least one, or omit the option")
        if option != "methods" and (twice := [value for value in chosen if list(chosen).count(value) > 1]):
            raise BenchError(f"--{option}: {twice[0]} is listed twice; name each once")
    for seed in selection.seeds or ():
        if not 0 <= seed < 2**63:
            raise BenchError(f"--seeds: {seed}: seeds must be integers from 0 to 2**63 - 1")


def _check_scores(suite: Suite, selection: Selection) -> None:
    """Refuse a choice of rows, tasks or seeds where none is scored."""
    why = "--counts scores no tasks" if selection.counts else f"suite {suite.name!r} scores no tasks"
    if suite.tasks and not selection.counts:
        return
    for option in ("data", "tasks", "seeds"):
        if getattr(selection, option) is not None:
            raise BenchError(f"{why}; omit --{option}")


def _select_methods(suite: Suite, specs: tuple[str, ...]) -> tuple[MethodTable, ...]:
    """Methods asked for; one that the suite has under the same spelling or name lends its learning rates."""
    by_label = {label(m): m for m in suite.method}
    by_name = {m.name: m for m in reversed(suite.method)}
    chosen = []
    for spec in specs:
        name, config = registry.parse_spec(spec, "--methods")
        known = by_label.get(registry.spell(name, config)) or (by_name.get(name) if not config else None)
        lender = by_name.get(name)
        chosen.append(
            known
            or MethodTable(name=name, config=config).model_copy(
                update={"learning_rate": lender.learning_rate if lender else None,
                        "head_learning_rate": lender.head_learning_rate if lender else None}
            )
        )  # fmt: skip
    if suite.baseline in by_label and suite.baseline not in {label(m) for m in chosen}:
        chosen.insert(0, by_label[suite.baseline])  # every ratio needs its baseline
    return tuple(chosen)


def _not_searched(methods: tuple[MethodTable, ...]) -> tuple[MethodTable, ...]:
    """Methods on a backbone or a task that their search for rates did not see."""
    return tuple(method.model_copy(update={"tuning": None}) for method in methods)


def _narrow_shapes(suite: Suite, kept: dict[str, MethodTable]) -> tuple[CostTable, ...]:
    """Cost shapes of a suite with the methods that are left; one that has lost all but the baseline goes too."""
    narrowed = []
    for cost in suite.cost:
        left = tuple(name for name in cost.methods if name in kept)
        if not cost.methods or {*left} - {suite.baseline} or {*kept} == {*left}:
            narrowed.append(cost.model_copy(update={"methods": left}))
    if suite.cost and not narrowed and not suite.sweep and not suite.tasks:
        raise BenchError(f"suite {suite.name!r}: no [[cost]] measures any of these methods; name others with --methods")
    return tuple(narrowed)


def _narrow_scored(suite: Suite, kept: dict[str, MethodTable], asked: bool) -> dict[str, Any]:
    """Scored methods that are left, and those that the suite does not have; where only the baseline is, no task is.

    Raises:
        BenchError: Scores are ``asked`` for, or are all that there is to do, and none of these methods has any.
    """
    if not suite.scored:
        return {}
    own = {label(method) for method in suite.method}
    left = tuple(name for name in kept if name in suite.scored or name not in own)
    if {*left} == {*kept}:
        return {"scored": ()}
    if {*left} - {suite.baseline}:
        return {"scored": left}
    if asked or not (suite.cost or suite.sweep):
        raise BenchError(f"suite {suite.name!r} {unscored(suite)}; name one of those with --methods")
    return {"tasks": (), "without_hub": ()}


def unscored(suite: Suite) -> str:
    """Why nothing is scored, where ``--methods`` left out all that the suite scores."""
    return f"scores only {', '.join(suite.scored)}"


def _narrow_sweeps(suite: Suite, kept: dict[str, MethodTable]) -> dict[str, Any]:
    """Sweeps of a suite with the methods that are left; a sweep or a crossover that has lost its methods goes too."""
    narrowed = {}
    for table in suite.sweep:
        left = tuple(name for name in table.methods or kept if name in kept)
        if left and _varies(table, [kept[name] for name in left]):
            narrowed[table.title] = table.model_copy(update={"methods": left if table.methods else ()})

    def counted(title: str, name: str) -> bool:
        return title in narrowed and name in (narrowed[title].methods or kept)

    crossovers = tuple(
        table
        for table in suite.crossover
        if counted(table.sweep, table.method) and counted(table.than_sweep or table.sweep, table.than)
    )
    if suite.sweep and not narrowed and not suite.cost and not suite.tasks:
        raise BenchError(f"suite {suite.name!r}: no sweep counts any of these methods; name others with --methods")
    return {"sweep": tuple(narrowed.values()), "crossover": crossovers}


def _varies(table: SweepTable, methods: list[MethodTable]) -> bool:
    """Whether the swept quantity is one of the step's or of one of ``methods``."""
    field = table.vary.removeprefix("config.")
    if field == table.vary:
        return True
    configs = [guarded(method.name, functools.partial(_resolved, method)) for method in methods]
    return any(type(config.get(field)) is int for config in configs)


def _resolved(method: MethodTable) -> dict[str, Any]:
    return registry.resolved(registry.make(method.name, method.config)[1])


def label(method: MethodTable) -> str:
    """A method as the suite spells it; unique within a plan."""
    return method.label


def family(suite: Suite) -> str:
    """The family of the suite's backbone, as transformers names it, such as ``bert``."""
    table = suite.backbone
    name: str = backbone.configuration(backbone.resolve(table.name, table.weights, table.revision)).model_type
    return name

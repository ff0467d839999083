"""Plans the sweeps of a suite and checks that every value gives a shape that can be built."""

import dataclasses
from typing import Any

from bench import registry
from bench.errors import BenchError, unknown
from bench.models import backbone
from bench.models.positions import check_positions
from bench.plan.identity import identity
from bench.schema.jobs import BackboneSpec, MethodSpec, Sweep
from bench.schema.suite import Suite


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
    values = table.model_dump(exclude={"name", "backbone", "methods"})
    draft = Sweep(
        id="", suite=suite.name, title=table.title, **values,
        backbone=spec if table.backbone is None else backbone.resolve(table.backbone, "random"),
        methods=tuple(by_label[name] for name in table.methods) or methods,
    )  # fmt: skip
    _check_values(draft, place)
    return draft.model_copy(update={"id": identity(draft)})


def _check_values(sweep: Sweep, place: str) -> None:
    """Every value gives a shape that can be built, and changes something."""
    for value in sweep.values:
        try:
            backbone.configuration(sweep.backbone_at(value))
            for method in sweep.methods:
                registry.make(method.name, sweep.config_at(method, value))
        except BenchError as error:
            raise BenchError(f"{place}.values: {error}") from error
    if sweep.vary.startswith("config."):
        first, last = sweep.values[0], sweep.values[-1]
        if all(sweep.config_at(method, first) == sweep.config_at(method, last) for method in sweep.methods):
            raise BenchError(f"{place}.vary: no method of this sweep has an integer field {sweep.vary[7:]!r}")
    shape = dataclasses.replace(sweep.backbone, weights="random")
    longest = max(sweep.shape_at(value).length for value in sweep.values)
    check_positions(backbone.load(shape, device="meta"), longest, option="length", at=place)


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
    left_out = {"id", "suite", "backbone", "methods", "timeout_seconds", "outputs"}
    resolved = [
        sweep.model_dump(mode="json", exclude=left_out, exclude_none=True)
        | {"backbone": sweep.backbone.name, "methods": [method.label for method in sweep.methods]}
        for sweep in sweeps
    ]
    return {"sweep": resolved, "crossover": [t.model_dump(mode="json", exclude_none=True) for t in suite.crossover]}

"""Counts what methods train and store on a backbone's shape, on the meta device: no weights, no run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import backbone, registry
from bench.backbone import SHAPES, BackboneSpec
from bench.cell import checked_length
from bench.errors import BenchError
from bench.jobs import Plan
from methods import BUILTIN


def predictions(name: str, specs: Sequence[str] | None) -> list[dict[str, Any]]:
    """Figures of each method on backbone ``name``.

    Args:
        name: Named shape, hub id (its configuration only) or path of a ``config.json``.
        specs: Methods as ``name(key=value, ...)``; every built-in method where None.

    Returns:
        One row a method: ``method``, ``trainable_parameters.method`` and ``.head`` (two classes), ``delta_bytes``, the
        backbone's parameters, or ``refused`` with the reason where the family cannot carry the method.

    Raises:
        BenchError: The backbone or a method is unknown.
    """
    if specs is not None and not specs:
        raise BenchError("--method names nothing; write name, name(key=value, ...) or all")
    spec = _shape(name)
    backbone.load(spec, device="meta")  # what no method is to blame for stops here
    rows = []
    for text in specs if specs is not None else list(BUILTIN):
        method_name, values = registry.parse_spec(text, "--method")
        method, config = registry.make(method_name, values, "--method")
        row: dict[str, Any] = {"backbone": name, "method": registry.spell(method_name, values)}
        try:
            rows.append(row | _figures(spec, method, config))
        except BenchError as error:
            if specs is not None:
                raise
            rows.append(row | {"refused": str(error)})
    return rows


def check_fit(plan: Plan) -> None:
    """Try every built-in method of ``plan`` on the backbone's shape, before anything is trained.

    A plug-in's method is tried by its own process alone: whatever it does there becomes a record.

    Raises:
        BenchError: The family cannot carry a method, a value does not fit the shape, or a prompt leaves no position.
    """
    checked: set[tuple[str, int | None]] = set()
    trials = [(job, method, None) for job in plan.probes for method in job.methods]
    for job, used, length in [*trials, *((cell, cell.method, cell.recipe["max_length"]) for cell in plan.cells)]:
        if used.name not in BUILTIN or (used.label, length) in checked:
            continue
        checked.add((used.label, length))
        spec = dataclasses.replace(job.backbone, weights="random")
        method, config = registry.make(used.name, used.config)
        try:
            _figures(spec, method, config)
            if length is not None:
                checked_length(method.reserved_positions(config), length, backbone.load(spec, device="meta"))
        except BenchError as error:
            raise BenchError(f"method {used.label}: {error}") from error


def _shape(name: str) -> BackboneSpec:
    if name in SHAPES or Path(name).suffix == ".json":
        return backbone.resolve(name, "random")
    found = backbone.resolve(name, "pretrained")
    return BackboneSpec(name=name, weights="random", folder=found.folder)


def _figures(spec: BackboneSpec, method: Any, config: Any) -> dict[str, Any]:
    import torch

    from bench.head import make_head

    bare = backbone.load(spec, device="meta")
    parameters = sum(p.numel() for p in bare.parameters())
    head = make_head(bare, 2)
    with torch.device("meta"):
        module = method.apply(bare, config)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        stored = method.delta(method.finalize(module))
    return {
        "trainable_parameters": {"method": trained, "head": sum(p.numel() for p in head.parameters())},
        "delta_bytes": sum(t.numel() * t.element_size() for t in stored.values()),
        "backbone_parameters": parameters,
    }

"""One sweep: a training step of every method at every value, counted on fake tensors, as one record each."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.count.outcome import Findings
from bench.models import backbone
from bench.schema.jobs import MethodSpec, Sweep, count_id
from bench.schema.record import CountRecord, Shape
from bench.store.environment import environment, now

if TYPE_CHECKING:
    from bench.count.count import Counts


def run_sweep(sweep: Sweep, progress: Callable[[str], None] = lambda line: None) -> Iterator[CountRecord]:
    """Count ``sweep`` and yield each record as it is made, value by value.

    A method that cannot be counted at a value gives a record with its status and reason; the others go on. A method
    that the swept quantity does not change is counted once.

    Args:
        sweep: What to count.
        progress: Called with short lines such as ``counting lora at length 512``.
    """
    unchanged: dict[str, Findings] = {}
    around = environment()
    points = [(spec, value) for value in sweep.values for spec in sweep.methods]
    # third parties' first, each in a fork: of a process that has run no method, and before torch begins threads in it
    for spec, value in sorted(points, key=lambda point: "/" not in point[0].name):
        progress(f"counting {spec.label} at {sweep.vary} {value}")
        started = now()
        constant = sweep.vary.startswith("config.") and sweep.config_at(spec, value) == spec.config
        found = unchanged.get(spec.label) if constant else None
        if found is None:
            found = _apart(sweep, spec, value)
        if constant:
            unchanged[spec.label] = found
        yield _record(sweep, spec, value, found, started, around)


def failures(sweep: Sweep, status: str, reason: str, started: str) -> list[CountRecord]:
    """Records of a sweep whose process died or hung: every point, all with the same status and reason."""
    found = Findings(status=status, reason=reason)  # type: ignore[arg-type]
    around = environment(threads=1)
    return [_record(sweep, spec, value, found, started, around) for value in sweep.values for spec in sweep.methods]


def _apart(sweep: Sweep, spec: MethodSpec, value: int) -> Findings:
    """A count of a method of this project here, of a third party's in a fork; where that is lost, how it ended."""
    if "/" not in spec.name:
        return _counted(sweep, spec, value)
    from bench.count.isolation import Lost, apart

    try:
        return apart(functools.partial(_counted, sweep, spec, value), seconds=sweep.seconds_of_a_method)
    except Lost as lost:
        found = Findings()
        found.lose(lost)
        return found


def _counted(sweep: Sweep, spec: MethodSpec, value: int) -> Findings:
    found = Findings()
    try:
        found.figures = _figures(_count(sweep, spec, value))
    except Exception as error:  # the outermost frame of one point: its failure is a result
        found.fail(error)
    return found


def _count(sweep: Sweep, spec: MethodSpec, value: int) -> "Counts":
    from bench.count.depth import count
    from bench.models.head import check_positions
    from bench.models.objective import shape_for
    from bench.schema.shape import Setting

    method, config = registry.make(spec.name, sweep.config_at(spec, value), spec.label)
    shape = dataclasses.replace(sweep.backbone_at(value), weights="random")
    stored = {"device": sweep.device, "weights": sweep.weights, "outputs": sweep.outputs}
    setting = Setting(**sweep.shape_at(value).step() | stored)
    check_positions(shape_for(shape, setting), setting.length, method.reserved_positions(config), option="length")
    return count(shape, method, config, setting)


def _figures(counts: "Counts") -> dict[str, Any]:
    whole = counts.flops.model_copy(update={"by_layer": {}, "backbone_by_layer": {}})
    return counts.figures(CountRecord) | {"flops": whole}


def _record(
    sweep: Sweep, spec: MethodSpec, value: int, found: Findings, started: str, around: dict[str, Any]
) -> CountRecord:
    used = sweep.backbone_at(value)
    return CountRecord(
        id=count_id(sweep, spec, value), suite=sweep.suite, sweep=sweep.title, vary=sweep.vary, value=value,
        status=found.status, reason=found.reason, traceback=found.traceback,
        backbone=backbone.describe(used, sweep.objective),
        method=registry.method_used(spec.label, spec.name, sweep.config_at(spec, value)), environment=around,
        started=started, ended=now(), flags=("random_weights",) if used.weights == "random" else (),
        shape=Shape(
            **sweep.shape_at(value).step(), device=sweep.device, threads=around["threads"], weights=sweep.weights
        ),
        **found.figures,
    )  # fmt: skip

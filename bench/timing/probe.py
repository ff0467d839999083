"""One probe: the cost of every method of a suite on one shape, as one record a method."""

from collections.abc import Callable, Iterator
from typing import Any

from bench import registry
from bench.count.outcome import Findings
from bench.models import backbone
from bench.schema.jobs import MethodSpec, Probe, cost_id
from bench.schema.record import CostRecord, Shape
from bench.store.environment import cores, environment, now


def run_probe(probe: Probe, progress: Callable[[str], None] = lambda line: None) -> Iterator[CostRecord]:
    """Measure ``probe`` and yield the record of each method once its figures are complete, and not before.

    Methods are timed against each other: the records of a timed group come together, after its last round. What is
    counted alone comes method by method. A method that fails gives a record with its status, its reason and the
    figures taken before; the others go on.

    Args:
        probe: What to measure.
        progress: Called with short lines such as ``counted 5/13`` or ``timed block 2/5, about 40 s left``.
    """
    from bench.timing.session import completed

    started, around = now(), environment()
    findings = {spec.label: Findings() for spec in probe.methods}
    owed = {spec.label: spec for spec in probe.methods}

    def record(label: str) -> CostRecord:
        return _record(probe, owed.pop(label), findings[label], _common(probe, started, around))

    try:
        for label in completed(probe, findings, progress):
            yield record(label)
    except Exception as error:  # what no method is to blame for, such as a backbone that cannot be loaded
        for label in owed:
            if findings[label].ok:
                findings[label].fail(error)
    yield from [record(label) for label in [*owed]]


def failures(probe: Probe, status: str, reason: str, started: str) -> list[CostRecord]:
    """Records of a probe whose process died or hung: all methods, all with the same status and reason."""
    common = _common(probe, started, environment(probe.threads or cores()))
    found = Findings(status=status, reason=reason)  # type: ignore[arg-type]
    return [_record(probe, spec, found, common) for spec in probe.methods]


def _common(probe: Probe, started: str, around: dict[str, Any]) -> dict[str, Any]:
    """What the records of all methods share."""
    gpus = around["hardware"]["gpus"]
    on_gpu = probe.device == "cuda" or (probe.device == "auto" and gpus)
    return {
        "suite": probe.suite, "backbone": backbone.describe(probe.backbone), "environment": around,
        "baseline": probe.baseline, "flags": ("random_weights",) if probe.backbone.weights == "random" else (),
        "started": started, "ended": now(),
        "shape": Shape(
            **probe.step(), threads=around["threads"], compiled=probe.compile,
            device=gpus[0] if on_gpu and gpus else probe.device if probe.device != "auto" else "cpu",
        ),
    }  # fmt: skip


def _record(probe: Probe, spec: MethodSpec, found: Findings, common: dict[str, Any]) -> CostRecord:
    return CostRecord(
        id=cost_id(probe, spec),
        method=registry.method_used(spec.label, spec.name, spec.config),
        status=found.status,
        reason=found.reason,
        traceback=found.traceback,
        warnings=tuple(found.warnings),
        **common,
        **found.figures,
    )

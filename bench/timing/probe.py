"""One probe: the cost of every method of a suite on one shape, as one record a method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.count.outcome import Findings
from bench.models import backbone
from bench.schema.jobs import MethodSpec, Probe, cost_id
from bench.schema.record import CostRecord, Shape
from bench.store.environment import cores, environment, now

if TYPE_CHECKING:
    from bench.timing.counted import Bench

Say = Callable[[str], None]


def run_probe(probe: Probe, progress: Say = lambda line: None) -> Iterator[CostRecord]:
    """Measure ``probe`` and yield the record of each method once its figures are complete, and not before.

    Each method is counted in a fork of this process, and all are timed against each other in another, so that this one
    stays as it was: a method that changes what all share, ends its process or hangs is named in its own record. The
    records of a timed group come together, after its last round; what is counted alone comes method by method. A method
    that fails gives a record with its status, its reason and the figures taken before; the others go on.

    Args:
        probe: What to measure.
        progress: Called with short lines such as ``counted 5/13`` or ``timed block 2/5, about 40 s left``.
    """
    from bench.count.isolation import apart, usable_threads

    started, threads = now(), usable_threads(probe.threads or cores())
    findings = {spec.label: Findings() for spec in probe.methods}
    owed = {spec.label: spec for spec in probe.methods}
    around = apart(lambda: environment(threads))  # which asks CUDA for its name, where there is one

    def record(label: str) -> CostRecord:
        return _record(probe, owed.pop(label), findings[label], _common(probe, started, around))

    try:
        with _one_thread():
            for label in _completed(probe, findings, progress, threads):
                yield record(label)
    except Exception as error:  # what no method is to blame for, such as a backbone that cannot be loaded
        for label in owed:
            if findings[label].ok:
                findings[label].fail(error)
    yield from [record(label) for label in [*owed]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work here without a team of threads, which no fork of this process could use."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _completed(probe: Probe, findings: dict[str, Findings], progress: Say, threads: int) -> Iterator[str]:
    """Take all figures of ``probe`` into ``findings``; yields each label as soon as none of its figures is to come."""
    from bench.timing.counted import Bench

    bench = Bench(probe, threads)
    for done, (spec, found) in enumerate(zip(probe.methods, bench.counted(), strict=True), start=1):
        findings[spec.label] = found
        progress(f"counted {done}/{len(probe.methods)}")
        if not probe.timed or not found.ok:
            yield spec.label
    if not probe.timed:
        return
    alike = [label for label, found in findings.items() if found.ok and not found.disturbs]
    for label in [label for label, found in findings.items() if found.ok and found.disturbs]:
        findings[label].warnings.append("no times: what it changes would move the times of all methods")
        yield label
    yield from _timed(bench, findings, alike, progress)


def _timed(bench: "Bench", findings: dict[str, Findings], labels: list[str], progress: Say) -> Iterator[str]:
    """Time ``labels`` in one fork; where that is lost or moved, time what is left of them one by one."""
    from bench.count.isolation import Lost
    from bench.timing.counted import Moved
    from bench.timing.session import together

    owed, baseline = list(labels), bench.probe.baseline
    broken = "" if baseline in owed or findings[baseline].ok is False else f"the baseline {baseline} has none"
    if broken:
        for label in owed:
            findings[label].warnings.append(f"no times: {broken}")
        yield from owed
        return
    try:
        for label, found in together(bench, findings, labels, progress):
            findings[label] = found
            owed.remove(label)
            yield label
        return
    except (Lost, Moved) as error:
        why = str(error)
    failed: Lost | None = None
    progress(f"timing again, method by method: {why}")
    for label in sorted(owed, key=lambda label: label != baseline):
        try:
            if failed is not None:
                raise failed
            if broken:
                raise Moved(broken)
            pair = dict.fromkeys((baseline, label))
            findings[label] = dict(together(bench, findings, list(pair), progress))[label]
            findings[label].note([f"timed beside the baseline alone: in one process with all methods, {why}"])
        except Moved as moved:
            findings[label].warnings.append(f"no times: {moved}")
        except Lost as lost:
            findings[label].lose(lost)
            if label == baseline and lost.status == "failed":  # methods answer for what they raise: this was not theirs
                failed = lost
        if label == baseline and not findings[label].figures.get("step_seconds"):
            broken = f"the baseline {baseline} has none"
        yield label


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
        "suite": probe.suite, "backbone": backbone.describe(probe.backbone, probe.objective), "environment": around,
        "baseline": probe.baseline, "flags": ("random_weights",) if probe.backbone.weights == "random" else (),
        "started": started, "ended": now(),
        "shape": Shape(
            **probe.step(), threads=around["threads"], compiled=probe.compile,
            device=gpus[0] if on_gpu and gpus else probe.device if probe.device != "auto" else "cpu",
        ),
    }  # fmt: skip


def _record(probe: Probe, spec: MethodSpec, found: Findings, common: dict[str, Any]) -> CostRecord:
    figures = {"flags": (), **found.figures}
    return CostRecord(
        id=cost_id(probe, spec),
        method=registry.method_used(spec.label, spec.name, spec.config),
        status=found.status,
        reason=found.reason,
        traceback=found.traceback,
        warnings=tuple(found.warnings),
        **common | figures | {"flags": (*common["flags"], *figures["flags"])},
    )

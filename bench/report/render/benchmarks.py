"""Exports the times of a run as pytest-benchmark's JSON, which dashboards read; computes no figure of its own."""

from typing import Any

from bench.analysis.costs import MODES, PHASES
from bench.analysis.records import latest
from bench.errors import BenchError
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord, Timing
from bench.store.store import Run


def export(run: Run) -> dict[str, Any]:
    """The times of ``run`` by method, phase and shape, with all their samples in seconds.

    Raises:
        BenchError: pytest-benchmark is not installed, or the run timed nothing.
    """
    try:
        import pytest_benchmark
    except ImportError as error:
        raise BenchError("this format needs pytest-benchmark; install the extra 'test'") from error

    records = [r for r in latest(run.records)[0] if isinstance(r, CostRecord) and r.status == "ok"]
    benchmarks = [entry for record in records for entry in _benchmarks(record)]
    if not benchmarks:
        raise BenchError(f"{run.folder}: nothing was timed; run a suite with [[cost]] shapes, without --counts")
    first = records[0]
    return {
        "machine_info": {**first.environment["hardware"], "python_version": first.environment["versions"]["python"]},
        "commit_info": {"id": first.environment.get("commit"), "dirty": first.environment.get("dirty")},
        "benchmarks": benchmarks,
        "datetime": first.started,
        "version": pytest_benchmark.__version__,
    }  # fmt: skip


def _benchmarks(record: CostRecord) -> list[dict[str, Any]]:
    timed = {phase: getattr(record, f"{phase}_seconds") for phase in PHASES}
    for mode in ("base", *MODES):
        latency = getattr(record.latency_seconds, mode, None)
        timed |= {
            f"latency_{mode}_batch_{rows}": timing for rows, timing in (latency.by_batch if latency else {}).items()
        }
    return [_benchmark(record, name, timing) for name, timing in timed.items() if timing is not None]


def _benchmark(record: CostRecord, name: str, timing: Timing) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for seconds in (seconds for block in timing.samples for seconds in block):
        stats.update(seconds)
    shape = facts.shape_line(record.shape)
    return {
        "group": f"{name}, {shape}",
        "name": f"{record.method.label} {name}",
        "fullname": f"{record.suite}::{record.method.label}::{name} ({shape})",
        "params": {"method": record.method.label},
        "param": record.method.label,
        "extra_info": {
            "ratio_to_baseline": timing.ratio_to_baseline,
            "ratio_interval": list(timing.ratio_interval),
            "baseline": record.baseline,
        },
        "options": {},
        "stats": stats.as_dict() | {"data": list(stats.data), "iterations": 1},
    }

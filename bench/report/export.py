"""Writes a run's figures for other programs: CSV, parquet, Markdown, and pytest-benchmark's JSON."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from bench.analysis.costs import MODES, PHASES
from bench.analysis.records import latest
from bench.errors import BenchError, unwritable
from bench.report.format import markdown as text
from bench.report.render import markdown
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord, Timing
from bench.store.store import Run


def emit(content: bytes, path: Path | None) -> None:
    """Print ``content``, a text, or write a file whole or not at all and print its name.

    Raises:
        BenchError: The file cannot be written.
    """
    if path is None:
        typer.echo(content.decode(), nl=False)
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(path, error, "give another -o") from error
    typer.echo(path)


def encoded(table: pd.DataFrame, form: str) -> bytes:
    """``table`` as ``csv``, ``parquet`` or ``markdown``; every column must be of one type."""
    if form == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form == "csv":
        return str(table.to_csv(index=False, lineterminator="\n")).encode()
    rows = ([_cell(value) for value in row] for row in table.itertuples(index=False))
    return (markdown.table([text(name) for name in table.columns], rows) + "\n").encode()


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    return text(value) or "-"


def pytest_benchmark_json(run: Run) -> dict[str, Any]:
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

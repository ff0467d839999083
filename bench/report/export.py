"""Writes for other programs: figures as CSV, parquet, Markdown or pytest-benchmark's JSON, and what a gate found."""

import contextlib
import dataclasses
import io
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from bench.analysis.costs import MODES, PHASES
from bench.analysis.results import latest
from bench.errors import BenchError, shortened, unwritable
from bench.report import format as fmt
from bench.report.render.markdown import table as markdown_table
from bench.report.sections import overview as facts
from bench.schema.forms import inert
from bench.schema.record import CostRecord, Timing
from bench.store.store import Run
from bench.verdicts.gate import Check, Verdict
from bench.verdicts.gate import verdict as overall


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
        return str(_inert(table).to_csv(index=False, lineterminator="\n")).encode()
    rows = ([_cell(value) for value in row] for row in table.itertuples(index=False))
    return (markdown_table([fmt.markdown(name) for name in table.columns], rows) + "\n").encode()


def _inert(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` whose texts, names of columns among them, begin no formula."""
    texts = [name for name in table.columns if any(isinstance(value, str) for value in table[name])]
    return table.assign(**{name: table[name].map(inert) for name in texts}).rename(columns=inert)


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    return fmt.markdown(value) or "-"


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
    first, around = records[0], records[0].environment
    if lacking := [name for name in ("hardware", "versions") if not isinstance(around.get(name), dict)]:
        raise BenchError(
            f"{run.folder}: the record of {first.method.label} has no environment.{lacking[0]}, which this format "
            "needs; measure again with --fresh"
        )
    return {
        "machine_info": {**around["hardware"], "python_version": around["versions"].get("python")},
        "commit_info": {"id": around.get("commit"), "dirty": around.get("dirty")},
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


SHOWN = 40
"""Lines of findings that a screen shows; files hold all of them."""
LEVELS = {"fail": "error", "new": "notice"}
"""Of GitHub's annotations; every other verdict is a warning."""


def write_gate(title: str, checks: Sequence[Check], junit_file: Path | None) -> None:
    """Write the files that were asked for: JUnit XML, and the job's summary page where GitHub runs the gate.

    Raises:
        BenchError: A file cannot be written.
    """
    try:
        if junit_file is not None:
            junit_file.write_bytes(junit(title, checks))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as page:
                page.write(gate_markdown(title, checks))
    except OSError as error:
        raise unwritable(error.filename, error, "give another path") from error


def gate_json(checks: Sequence[Check]) -> str:
    """The verdict and every check, for programs."""
    return json.dumps({"verdict": overall(checks), "checks": [dataclasses.asdict(c) for c in checks]}, indent=2)


def gate_screen(title: str, checks: Sequence[Check]) -> list[str]:
    """Lines to print: findings, `SHOWN` at most, then the verdict; where GitHub runs the gate, annotations too."""
    found = findings(checks)
    shown = [f"{kind:<12}  {shortened(fmt.plain(line))}" for kind, line in found[:SHOWN]]
    if (hidden := len(found) - SHOWN) > 0:
        shown.append(f"{hidden} more; --json shows all")
    shown.append(f"{overall(checks):<12}  {title}: {tally(checks)}")
    return shown + (annotations(checks) if os.environ.get("GITHUB_ACTIONS") == "true" else [])


def findings(checks: Sequence[Check]) -> list[tuple[Verdict, str]]:
    """Every finding as verdict and sentence, failures first."""
    order = ("fail", "invalid", "inconclusive", "new")
    found = [(check.verdict, line) for check in checks if check.verdict != "pass" for line in check.lines]
    return sorted(found, key=lambda pair: order.index(pair[0]))


def tally(checks: Sequence[Check]) -> str:
    """``57 passed, 1 failed, 2 inconclusive``."""
    names = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive", "invalid": "invalid",
             "new": "new"}  # fmt: skip
    counts = [(sum(check.verdict == verdict for check in checks), word) for verdict, word in names.items()]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing to check"


def gate_markdown(title: str, checks: Sequence[Check]) -> str:
    """A section for a job's summary page."""
    rows = [f"| {verdict} | {fmt.markdown(line)} |" for verdict, line in findings(checks)]
    table = ["", "| verdict | finding |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## {fmt.markdown(title)}", "", fmt.markdown(tally(checks)), *table]) + "\n"


def annotations(checks: Sequence[Check]) -> list[str]:
    """Workflow commands that put each finding beside a change on GitHub; ``%`` and line ends are escaped."""
    return [
        f"::{LEVELS.get(verdict, 'warning')} title=peft-ledger gate::{_escaped(line)}"
        for verdict, line in findings(checks)
    ]


def _escaped(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(character if character.isprintable() else " " for character in escaped)


def junit(title: str, checks: Sequence[Check]) -> bytes:
    """A test suite with one case a check; inconclusive and invalid ones count as skipped, new ones as passed."""
    failed = sum(check.verdict == "fail" for check in checks)
    skipped = sum(check.verdict in ("inconclusive", "invalid") for check in checks)
    suite = ElementTree.Element(
        "testsuite", name=_plain(title), tests=str(len(checks)), failures=str(failed), skipped=str(skipped), errors="0"
    )
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.kind, name=_plain(check.name))
        if check.verdict not in ("pass", "new"):
            tag = "failure" if check.verdict == "fail" else "skipped"
            message = _plain(check.lines[0] if check.lines else check.verdict)
            ElementTree.SubElement(case, tag, message=message).text = _plain("\n".join(check.lines))
    body: bytes = ElementTree.tostring(suite, encoding="utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + body + b"\n"


_UNFIT = {*map(chr, range(32)), "\ufffe", "\uffff", *map(chr, range(0xD800, 0xE000))} - {"\t", "\n"}


def _plain(text: str) -> str:
    """``text`` without the characters that XML 1.0 has no place for."""
    return "".join(character for character in text if character not in _UNFIT)

"""Writes what a gate found for people and for machines: lines, Markdown, JUnit XML, annotations; it checks nothing."""

import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from bench.errors import unwritable
from bench.report import format as fmt
from bench.verdicts.gate import Check, Verdict
from bench.verdicts.gate import verdict as overall

SHOWN = 40
"""Lines of findings that a screen shows; files hold all of them."""


def write(title: str, checks: Sequence[Check], junit_file: Path | None) -> None:
    """Write the files that were asked for: JUnit XML, and the job's summary page where GitHub runs the gate.

    Raises:
        BenchError: A file cannot be written.
    """
    try:
        if junit_file is not None:
            junit_file.write_bytes(junit(title, checks))
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as page:
                page.write(markdown(title, checks))
    except OSError as error:
        raise unwritable(error.filename, error, "give another path") from error


def as_json(checks: Sequence[Check]) -> str:
    """The verdict and every check, for programs."""
    return json.dumps({"verdict": overall(checks), "checks": [dataclasses.asdict(c) for c in checks]}, indent=2)


def screen(title: str, checks: Sequence[Check]) -> list[str]:
    """Lines to print: findings, `SHOWN` at most, then the verdict; where GitHub runs the gate, annotations too."""
    found = lines(checks)
    shown = [f"{kind:<12}  {fmt.plain(line)}" for kind, line in found[:SHOWN]]
    if (hidden := len(found) - SHOWN) > 0:
        shown.append(f"{hidden} more; --json shows all")
    shown.append(f"{overall(checks):<12}  {title}: {tally(checks)}")
    return shown + (annotations(checks) if os.environ.get("GITHUB_ACTIONS") == "true" else [])


def lines(checks: Sequence[Check]) -> list[tuple[Verdict, str]]:
    """Every finding as verdict and sentence, failures first."""
    order = ("fail", "invalid", "inconclusive", "pass")
    found = [(check.verdict, line) for check in checks if check.verdict != "pass" for line in check.lines]
    return sorted(found, key=lambda pair: order.index(pair[0]))


def tally(checks: Sequence[Check]) -> str:
    """``57 passed, 1 failed, 2 inconclusive``."""
    names = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive", "invalid": "invalid"}
    counts = [(sum(check.verdict == verdict for check in checks), word) for verdict, word in names.items()]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing to check"


def markdown(title: str, checks: Sequence[Check]) -> str:
    """A section for a job's summary page."""
    rows = [f"| {verdict} | {fmt.markdown(line)} |" for verdict, line in lines(checks)]
    table = ["", "| verdict | finding |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## {fmt.markdown(title)}", "", fmt.markdown(tally(checks)), *table]) + "\n"


def annotations(checks: Sequence[Check]) -> list[str]:
    """Workflow commands that put each finding beside a change on GitHub; ``%`` and line ends are escaped."""
    return [
        f"::{'error' if verdict == 'fail' else 'warning'} title=peft-ledger gate::{_escaped(line)}"
        for verdict, line in lines(checks)
    ]


def _escaped(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(character if character.isprintable() else " " for character in escaped)


def junit(title: str, checks: Sequence[Check]) -> bytes:
    """A test suite with one case a check; what is inconclusive or invalid counts as skipped."""
    failed = sum(check.verdict == "fail" for check in checks)
    skipped = sum(check.verdict in ("inconclusive", "invalid") for check in checks)
    suite = ElementTree.Element(
        "testsuite", name=_plain(title), tests=str(len(checks)), failures=str(failed), skipped=str(skipped), errors="0"
    )
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.kind, name=_plain(check.name))
        if check.verdict != "pass":
            tag = "failure" if check.verdict == "fail" else "skipped"
            message = _plain(check.lines[0] if check.lines else check.verdict)
            ElementTree.SubElement(case, tag, message=message).text = _plain("\n".join(check.lines))
    body: bytes = ElementTree.tostring(suite, encoding="utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + body + b"\n"


_UNFIT = {*map(chr, range(32)), "\ufffe", "\uffff", *map(chr, range(0xD800, 0xE000))} - {"\t", "\n"}


def _plain(text: str) -> str:
    """``text`` without the characters that XML 1.0 has no place for."""
    return "".join(character for character in text if character not in _UNFIT)

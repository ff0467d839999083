"""What the crash campaign and the search for faults have found, as SECURITY.md shows it."""

import collections
import json
from pathlib import Path
from typing import Any

from tools.answers.words import table

ROBUSTNESS = Path(__file__).resolve().parents[2] / "results" / "robustness"
HIT = {
    "driver": "`kill -9` of the driver", "worker": "`kill -9` of a worker",
    "fork server": "`kill -9` of the process that starts the workers", "all of them": "`kill -9` of all at once",
    "SIGTERM": "SIGTERM to the driver", "SIGTERM to all": "SIGTERM to all", "Ctrl-C": "Ctrl-C",
    "full disk": "the disk runs full",
    "Ray worker": "`kill -9` of Ray workers that carry a job, of processes below them, of the driver on Ray",
}  # fmt: skip
"""Words for each kind of trial."""


def trials() -> list[dict[str, Any]]:
    """The committed trials of the crash campaign."""
    return [json.loads(line) for line in (ROBUSTNESS / "crash.jsonl").read_text(encoding="utf-8").splitlines()]


def robustness() -> str:
    """Both results: trials by what was done to the run, examples by what was spoilt."""
    held: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for trial in trials():
        held[trial["kind"]].append(trial)
    rows = [
        [HIT[kind], str(len(of)), str(sum(one["kills"] for one in of)), str(sum(bool(one["faults"]) for one in of))]
        for kind, of in held.items()
    ]
    every = [one for of in held.values() for one in of]
    sound = "none had anything wrong" if not any(one["faults"] for one in every) else "those counted had a fault"
    crashed = table(["what was done", "runs", "times in all", "with something wrong"], rows, 1)
    said = (
        f"{len(every)} runs, disturbed {sum(one['kills'] for one in every)} times and resumed until they were done: "
        f"{sound}. Looked at are records (lost, doubled, corrupt), files (damaged, left behind), processes, semaphores "
        "and tracebacks."
    )
    searched = json.loads((ROBUSTNESS / "fuzz.json").read_text(encoding="utf-8"))["kinds"]
    fuzzed = table(
        ["what was spoilt", "examples", "worked", "refused with a sentence", "other exit codes", "faults"],
        [_searched(name, one) for name, one in searched.items()], 1,
    )  # fmt: skip
    total = sum(one["examples"] for one in searched.values())
    return f"{said}\n\n{crashed}\n\n{total:,} spoilt inputs:\n\n{fuzzed}"


def _searched(name: str, one: dict[str, Any]) -> list[str]:
    codes = collections.Counter(one["codes"])
    others = one["examples"] - codes["0"] - codes["2"]
    return [name, *map(str, (one["examples"], codes["0"], codes["2"], others, int("found" in one)))]

"""Made-up searches for learning rates, for tests of their readers: right in shape, invented in value."""

import itertools

from bench.analysis.tuning import Search
from bench.schema.record import TrialRecord
from tests.factories import records

GRID = {"learning_rates": [1e-4, 1e-3, 1e-2], "head_learning_rates": [1e-3, 1e-2], "seeds": [100],
        "selection_rows": 256}  # fmt: skip


def trial(label, task, rates, *, seed=100, score=0.7, status="ok", **changes):
    """One record; a status other than ok has no score."""
    learning_rate, head = rates
    values = records.score(label, task, seed).model_dump(by_alias=True) | {
        "kind": "trial", "id": f"trial-{label}-{task}-{seed}-{learning_rate}-{head}", "status": status,
        "score": score if status == "ok" else None, "reason": None if status == "ok" else "it went astray",
        "recipe": {"steps": 60, "learning_rate": learning_rate, "head_learning_rate": head, "selection_rows": 256},
    }  # fmt: skip
    return TrialRecord.model_validate(values | changes)


def search(folder, score, *, methods=("full", "lora(rank=8)"), tasks=("sst2",), grid=None, **suite):
    """A finished search; ``score(label, task, rates, seed)`` gives a number, or the status of a trial without one."""
    grid = grid or GRID
    rates = itertools.product(grid["learning_rates"], grid["head_learning_rates"])
    made = []
    for pair, label, task, seed in itertools.product(rates, methods, tasks, grid["seeds"]):
        found = score(label, task, pair, seed)
        outcome = {"status": found} if isinstance(found, str) else {"score": found}
        made.append(trial(label, task, pair, seed=seed, **outcome))
    asked = {"methods": list(methods), "tasks": list(tasks), "seeds": grid["seeds"], "tuning": grid} | suite
    return Search(folder, records.suite(**asked), tuple(made))

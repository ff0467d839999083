"""Writes a suite's file again with the rates that a search chose; other lines and comments are kept."""

import dataclasses
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from bench.errors import unwritable
from bench.plan.load import EVERY, parse_suite, read_suite_file
from bench.registry import BUILTIN
from bench.schema.labels import spell
from bench.schema.resolved import ResolvedSuite
from bench.schema.suite import RATES, TuningTable

if TYPE_CHECKING:
    from tomlkit.items import Table

Rate = float | dict[str, float]
"""One, or one by task."""


class Rates(Protocol):
    """A pair of learning rates."""

    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def head_learning_rate(self) -> float: ...  # noqa: D102


class Outcome(Protocol):
    """What a search found for one method on one task; a dataclass, such as ``bench.analysis.tuning.Outcome``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def best(self) -> Rates | None: ...  # noqa: D102


Searched = TypeVar("Searched", bound=Outcome)


def as_spelled(outcomes: Sequence[Searched], suite: ResolvedSuite) -> list[Searched]:
    """``outcomes`` under the labels of the suite's file, where a budget of ``suite``, resolved, has chosen sizes."""
    spelled = {label: str(method.match.get("spelled", label)) for label, method in suite.method.items()}
    return [dataclasses.replace(one, method=spelled.get(one.method, one.method)) for one in outcomes]


def write_tuned(suite_file: Path, outcomes: Sequence[Outcome], table: TuningTable, out: Path) -> list[str]:
    """Write ``out``: the text of ``suite_file`` with the chosen rates.

    Returns:
        Labels of the methods whose rates it holds now, in the order of the suite.

    Raises:
        BenchError: A file cannot be read or written.
    """
    text, changed = tuned(read_suite_file(suite_file)[0], outcomes, table)
    parse_suite({"name": suite_file.stem} | tomllib.loads(text), str(out))
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(error.filename, error, "the chosen rates are in tuning.md") from error
    return changed


def tuned(text: str, outcomes: Sequence[Outcome], table: TuningTable) -> tuple[str, list[str]]:
    """``text``, a suite, with the rates of every method that the search chose for.

    A method gets one rate where its choices agree or one task was searched for all, else rates by task. Its
    ``tuning`` stands where the search chose for every task of the suite, or for the one that serves all; else what
    stood there goes, since it no longer tells where all rates come from.

    Returns:
        The text, and the labels of the methods whose rates it holds now.
    """
    import tomlkit

    document = tomlkit.parse(text)
    _name_searched(document.get("method", ()), outcomes)
    tasks = [str(task) for task in document.get("tasks", ())] if table.task is None else [table.task]
    changed = []
    for method in document.get("method", ()):
        plain: dict[str, Any] = method.unwrap()
        label = spell(plain["name"], plain.get("config", {}))
        chosen = {outcome.task: outcome for outcome in outcomes if outcome.method == label and outcome.best}
        if not chosen:
            continue
        whole = set(tasks) <= set(chosen)
        for field in RATES:
            by_task = {task: getattr(outcome.best, field) for task, outcome in chosen.items()}
            standing = None if table.task is not None else plain.get(field)
            _set(method, field, _rate(standing, by_task, whole))
        if whole:
            steps = max(outcome.steps for outcome in chosen.values())
            found: dict[str, Any] = {"trials": len(table.grid), "seeds": len(table.seeds), "steps": steps,
                                     "selection_rows": table.selection_rows}  # fmt: skip
            _set(method, "tuning", found | ({} if table.task is None else {"task": table.task}))
        else:
            method.pop("tuning", None)
        changed.append(label)
    return tomlkit.dumps(document), changed


def _name_searched(tables: Any, outcomes: Sequence[Outcome]) -> None:
    """Give each searched method that ``*`` stands for a table of its own, which can hold its rates."""
    import tomlkit
    from tomlkit.items import AoT

    plain = [table.unwrap() for table in tables]
    if all(table["name"] != EVERY for table in plain):
        return
    labels = [spell(table["name"], table.get("config", {})) for table in plain]
    for name in dict.fromkeys(outcome.method for outcome in outcomes if outcome.best):
        if name in BUILTIN and name not in labels:
            table = tomlkit.table() if isinstance(tables, AoT) else tomlkit.inline_table()
            table["name"] = name
            tables.append(table)


def _rate(
    standing: float | dict[str, float] | None, by_task: dict[str, float], whole: bool
) -> float | dict[str, float]:
    """One rate for all tasks, or rates by task where they differ or where some of those that stand must stay."""
    if whole and not isinstance(standing, dict) and len(set(by_task.values())) == 1:
        return next(iter(by_task.values()))
    kept = standing if isinstance(standing, dict) else {} if standing is None else {"default": standing}
    return kept | by_task


def _set(method: "Table", key: str, value: Any) -> None:
    """Set a key; a new one goes before the comments and empty lines at the end, which speak of what follows."""
    import tomlkit
    from tomlkit.items import InlineTable

    if isinstance(value, dict):
        value = tomlkit.value("{ " + ", ".join(f"{name} = {json.dumps(held)}" for name, held in value.items()) + " }")
    if key in method or isinstance(method, InlineTable):
        method[key] = value
        return
    body = method.value.body
    after = []
    while body and body[-1][0] is None:
        after.append(body.pop())
    method.append(key, value)
    body.extend(reversed(after))

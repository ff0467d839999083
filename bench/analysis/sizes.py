"""Finds methods that a run has at several values of one field, such as LoRA at several ranks; compares none."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.schema.record import CostRecord, MethodUsed, Record, ScoreRecord

FEWEST = 3
"""Values that make a series."""


@dataclass(frozen=True)
class Series:
    """One method at several values of one of its fields, all other fields equal."""

    name: str
    """Of the method."""
    field: str
    others: tuple[tuple[str, Any], ...]
    """Fields that differ from those of the other series of the same method; empty where there is one alone."""
    labels: dict[int, str]
    """Label by value, rising."""


def series(records: Iterable[Record]) -> list[Series]:
    """Every series of a run, the one with most values first; of one method the fields that keep its series apart."""
    methods = {r.method.label: r.method for r in records if isinstance(r, CostRecord | ScoreRecord)}
    found: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for label, method in methods.items():
        for field, value in method.config.items():
            if type(value) is int:
                found[method.name, field, _without(method, field)][value] = label
    kept = {place: labels for place, labels in found.items() if len(labels) >= FEWEST}
    made = [
        Series(name, field, _apart(methods, name, [held for (n, _, _), held in kept.items() if n == name], labels),
               dict(sorted(labels.items())))
        for (name, field, _), labels in kept.items()
    ]  # fmt: skip
    return sorted(made, key=lambda one: -len(one.labels))


def _without(method: MethodUsed, field: str) -> str:
    return repr(sorted((name, value) for name, value in method.config.items() if name != field))


def _apart(
    methods: dict[str, MethodUsed], name: str, all_of_it: list[dict[int, str]], own: dict[int, str]
) -> tuple[tuple[str, Any], ...]:
    """Fields of one series of ``name`` that not all of its series share."""
    configs = [methods[next(iter(labels.values()))].config for labels in all_of_it]
    mine = methods[next(iter(own.values()))].config
    varied = {field for field in mine if any(repr(config.get(field)) != repr(mine[field]) for config in configs)}
    constant = {field for field in varied if len({repr(methods[label].config[field]) for label in own.values()}) == 1}
    return tuple((field, mine[field]) for field in mine if field in constant) if len(all_of_it) > 1 else ()

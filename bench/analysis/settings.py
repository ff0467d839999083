"""Says in which settings two runs differ: versions, hardware, code, backbone, methods, shapes, recipes, data, coverage.

It judges nothing: whether a difference matters for a figure is the reader's to say.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.analysis.costs import flat
from bench.schema.record import CostRecord, Record, ScoreRecord, Shape, TaskUsed

if TYPE_CHECKING:
    from bench.analysis.results import Results

PASSING = ("load_average", "fingerprint", "node")
"""Of the environment: what says nothing about the setting, and a hash of what is compared anyway."""
ABOUT = {"versions": "versions", "hardware": "hardware", "threads": "hardware", "platform": "hardware"}
"""First part of an environment's key: what it is about; the commit and the rest are about the code."""
WHERE = {"device", "threads"}
"""Of a shape: where it ran, not what ran."""
EVERY = "all"
"""Stands for the method where a difference is the same for every method that both runs have."""


class Difference(NamedTuple):
    """One setting that is not the same in both runs."""

    about: str
    """``versions hardware code backbone method shape recipe data coverage``."""
    method: str
    """Label; `EVERY` where it is no method's own."""
    key: str
    """Dotted name, as in the records."""
    first: str
    other: str
    """Values as JSON, several separated by commas; empty where a run has none."""


def pair_shapes(first: Iterable[Shape], other: Iterable[Shape]) -> dict[Shape, Shape]:
    """The same shape in both runs: equal, else equal but for `WHERE`; shapes without a partner are left out."""
    ours, theirs = list(dict.fromkeys(first)), list(dict.fromkeys(other))
    pairs = {shape: shape for shape in ours if shape in theirs}
    free = {}
    for shape in reversed([shape for shape in theirs if shape not in pairs]):
        free[_work(shape)] = shape
    for shape in ours:
        if shape not in pairs and (partner := free.pop(_work(shape), None)) is not None:
            pairs[shape] = partner
    return {shape: pairs[shape] for shape in ours if shape in pairs}


def _work(shape: Shape) -> str:
    return shape.model_dump_json(exclude=WHERE)


def place(shape: Shape) -> str:
    """A shape in few words: ``32 x 64 float32 sdpa adamw_fused``, and what is not usual."""
    rare = [*shape.unusual, *(["compiled"] if shape.compiled else [])]
    rare += [shape.weights] if shape.weights != "native" else []
    words = (f"{shape.batch} x {shape.length}", shape.dtype, shape.attention, shape.optimizer, *rare)
    return " ".join(words)


def differences(first: "Results", other: "Results") -> list[Difference]:
    """Every setting in which ``other`` differs from ``first``, those of single methods last within their kind."""
    ours, theirs = first.records, other.records
    return [
        *_environments(ours, theirs), *_backbones(ours, theirs), *_methods(ours, theirs), *_shapes(ours, theirs),
        *_recipes(ours, theirs), *_data(ours, theirs), *_tasks(first, other),
        *_coverage(first, other, ours, theirs),
    ]  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _values(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Every value that each key has, in one text: a run may have begun on one machine and ended on another."""
    kept: dict[str, dict[str, None]] = {}
    for mapping in found:
        for key, value in flat(mapping).items():
            kept.setdefault(key, {})[_text(value)] = None
    return {key: ", ".join(sorted(values)) for key, values in kept.items()}


def _unequal(first: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in {**first, **other}:
        if first.get(key, "") != other.get(key, ""):
            yield key, first.get(key, ""), other.get(key, "")


def _environments(ours: Sequence[Record], theirs: Sequence[Record]) -> Iterator[Difference]:
    def values(records: Sequence[Record]) -> dict[str, str]:
        distinct = {json.dumps(record.environment, sort_keys=True): record.environment for record in records}
        return _values(
            {key: value for key, value in environment.items() if key not in PASSING}
            for environment in distinct.values()
        )

    for key, mine, yours in _unequal(values(ours), values(theirs)):
        yield Difference(ABOUT.get(key.partition(".")[0], "code"), EVERY, key, mine, yours)


def _backbones(ours: Sequence[Record], theirs: Sequence[Record]) -> Iterator[Difference]:
    said = {"notes", "unused_tensors"}  # of its files, which the hash tells apart
    if not all(record.backbone.configuration for record in (*ours, *theirs) if record.backbone):
        said.add("configuration")  # records from before lack it

    def values(records: Sequence[Record]) -> dict[str, str]:
        found = (record.backbone.model_dump(exclude=said) for record in records if record.backbone)
        return _values({json.dumps(one, sort_keys=True): one for one in found}.values())

    for key, mine, yours in _unequal(values(ours), values(theirs)):
        yield Difference("backbone", EVERY, key, mine, yours)


def _methods(ours: Sequence[Record], theirs: Sequence[Record]) -> list[Difference]:
    def values(records: Sequence[Record]) -> dict[str, dict[str, str]]:
        used = {record.method.label: record.method for record in records}
        return {label: _values([method.model_dump(by_alias=True, exclude={"label"})]) for label, method in used.items()}

    return _by_method("method", values(ours), values(theirs))


def _recipes(ours: Sequence[Record], theirs: Sequence[Record]) -> list[Difference]:
    def values(records: Sequence[Record]) -> dict[str, dict[str, str]]:
        distinct: dict[str, dict[str, dict[str, Any]]] = {}
        for record in records:
            if isinstance(record, ScoreRecord):
                search = {"search": record.tuning.model_dump()} if record.tuning else {}
                recipe = record.recipe | search
                distinct.setdefault(record.method.label, {})[str(recipe)] = recipe
        return {label: _values(recipes.values()) for label, recipes in distinct.items()}

    return _by_method("recipe", values(ours), values(theirs))


def _by_method(
    about: str, first: Mapping[str, Mapping[str, str]], other: Mapping[str, Mapping[str, str]]
) -> list[Difference]:
    """Differences of the methods that both runs have; one that all of them share is told once."""
    shared = [label for label in first if label in other]
    found: dict[tuple[str, str, str], list[str]] = {}
    for label in shared:
        for unequal in _unequal(first[label], other[label]):
            found.setdefault(unequal, []).append(label)
    common = [Difference(about, EVERY, *key) for key, labels in found.items() if len(labels) == len(shared) > 1]
    own = [
        Difference(about, label, *key)
        for key, labels in found.items()
        for label in labels
        if not len(labels) == len(shared) > 1
    ]
    return [*common, *own]


def _shapes(ours: Sequence[Record], theirs: Sequence[Record]) -> Iterator[Difference]:
    def shapes(records: Sequence[Record]) -> list[Shape]:
        return list(dict.fromkeys(record.shape for record in records if isinstance(record, CostRecord)))

    mine, yours = shapes(ours), shapes(theirs)
    pairs = pair_shapes(mine, yours)
    for shape, partner in pairs.items():
        for key, first, other in _unequal(_values([shape.model_dump()]), _values([partner.model_dump()])):
            yield Difference("shape", EVERY, f"{place(shape)}: {key}", first, other)
    if mine and yours:
        for shape in mine:
            if shape not in pairs:
                yield Difference("coverage", EVERY, "shape", place(shape), "")
        for shape in yours:
            if shape not in pairs.values():
                yield Difference("coverage", EVERY, "shape", "", place(shape))


def _data(ours: Sequence[Record], theirs: Sequence[Record]) -> Iterator[Difference]:
    def values(records: Sequence[Record]) -> dict[str, dict[str, str]]:
        tasks = [record.task for record in records if isinstance(record, ScoreRecord) and record.task]
        used = {task.model_dump_json(): task for task in tasks}  # not by hash: counts of rows are dictionaries
        by_name: dict[str, list[dict[str, Any]]] = {}
        for task in used.values():
            by_name.setdefault(task.name, []).append(task.model_dump(exclude={"name", "notes", "floor"}))
        return {name: _values(found) for name, found in by_name.items()}

    mine, yours = values(ours), values(theirs)
    for task in mine:
        for key, first, other in _unequal(mine[task], yours.get(task, mine[task])):
            yield Difference("data", EVERY, f"{task}: {key}", first, other)


def _tasks(first: "Results", other: "Results") -> Iterator[Difference]:
    """What a suite says of a task and its records do not, such as weights of classes; old suites say nothing."""
    for name, mine in first.suite.task.items():
        if yours := other.suite.task.get(name):
            tables = (
                _values([{key: value for key, value in table.items() if key not in TaskUsed.model_fields}])
                for table in (mine, yours)
            )
            for key, *values in _unequal(*tables):
                yield Difference("data", EVERY, f"{name}: {key}", *values)


def _coverage(
    first: "Results", other: "Results", ours: Sequence[Record], theirs: Sequence[Record]
) -> Iterator[Difference]:
    def held(results: "Results", records: Sequence[Record]) -> dict[str, list[str]]:
        scores = [record for record in records if isinstance(record, ScoreRecord)]
        return {
            "baseline": [results.baseline],
            "kinds of record": list(dict.fromkeys(record.kind for record in records)),
            "methods": list(dict.fromkeys(record.method.label for record in records)),
            "tasks": list(dict.fromkeys(record.task_name for record in scores)),
            "seeds": list(map(str, sorted({record.seed for record in scores}))),
        }

    mine, yours = held(first, ours), held(other, theirs)
    for key in mine:
        only_first = [name for name in mine[key] if name not in yours[key]]
        only_other = [name for name in yours[key] if name not in mine[key]]
        if only_first or only_other:
            yield Difference("coverage", EVERY, key, ", ".join(only_first), ", ".join(only_other))

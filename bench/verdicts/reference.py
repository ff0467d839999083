"""The committed file that a gate compares a run with: exact figures, scores, and what decides them."""

import itertools
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bench.analysis.results import Results
from bench.errors import BenchError, first_fault, unwritable
from bench.schema.figures import exact_fields
from bench.schema.ranges import Amount, Count, Score, check_metrics
from bench.schema.record import CostRecord, Record, ScoreRecord, Shape
from bench.store.store import strict_json

DECIDING = ("torch", "transformers")
"""Packages whose version, but for the last number, decides a count."""
AGAIN = "write it again with: python -m bench reference"
Exact = Count | bool


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Costs(_Data):
    """Exact figures of every method on one shape."""

    shape: dict[str, str | int | float | bool]
    """Without threads: no count depends on them."""
    methods: dict[str, dict[str, Exact]]
    """Figures by dotted name, by label."""
    merge_error: dict[str, Amount] = {}
    """Largest float32 difference of the merged module from the unmerged one, by label; equal but for rounding."""


class Scores(_Data):
    """Scores of every method on one task."""

    content_sha256: str
    """Of the rows: nothing is compared across different ones."""
    methods: dict[str, dict[Count, Score]]
    """Score by seed, by label."""
    metrics: tuple[str, ...] = ()
    """What the scores are among; each is within their ranges. Empty in references from before they were named."""

    @model_validator(mode="after")
    def _possible(self) -> "Scores":
        for label, found in self.methods.items():
            for seed, score in found.items():
                try:
                    check_metrics(dict.fromkeys(self.metrics, 0.0), score)
                except ValueError as error:
                    raise ValueError(f"{label}, seed {seed}: {error}") from error
        return self


class Reference(_Data):
    """What a run must equal (costs) or not fall below (scores)."""

    schema_version: Literal[1] = 1
    suite: str
    backbone: dict[str, str | int | None]
    versions: dict[str, str]
    configs: dict[str, dict[str, Any]] = {}
    """Configuration by label, defaults included: a changed default is another method under the same label."""
    costs: tuple[Costs, ...] = ()
    scores: dict[str, Scores] = {}

    @model_validator(mode="after")
    def _every_shape_once(self) -> "Reference":
        shapes = [costs.shape for costs in self.costs]
        if twice := [shape for shape in shapes if shapes.count(shape) > 1]:
            raise ValueError(f"the shape {twice[0]} is listed twice in costs")
        return self


def reference_of(results: Results) -> Reference:
    """The reference that a whole run makes.

    Raises:
        BenchError: A record of the run is missing or failed, or it holds nothing to compare.
    """
    run = results.run
    if run.records and (missing := _missing(results)):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise BenchError(
            f"{run.folder}: unfinished, without {', '.join(missing[:3])}{more}; finish the run first: {run.command}"
        )
    if failed := [r for r in results.records if r.status != "ok"]:
        first = failed[0]
        raise BenchError(
            f"{run.folder}: {first.method.label} ended {first.status} ({first.reason}); "
            "a reference needs a complete run"
        )
    return figures_of(results)


def _missing(results: Results) -> list[str]:
    """What the suite of a run asks for and no record answers, in words."""
    costs, suite = results.cost_records, results.suite
    held: set[tuple[Any, ...]] = {(r.method.label, r.task_name, r.seed) for r in results.score_records}
    held |= {(r.sweep, r.method.label, r.value) for r in results.count_records}
    missing = []
    for table in suite.cost:
        measured = {r.method.label for r in costs if suite.asked_of(r.shape) is table}
        missing += [f"costs of {m} at {table.words}" for m in table.methods or suite.methods if m not in measured]
    for sweep in suite.sweep:
        points = itertools.product(sweep.methods, sweep.values)
        missing += [f"count of {m} at {sweep.vary} {v}" for m, v in points if (sweep.title, m, v) not in held]
    cells = itertools.product(suite.scored or suite.methods, suite.tasks, suite.seeds)
    missing += [f"score of {m} on {task} with seed {seed}" for m, task, seed in cells if (m, task, seed) not in held]
    return missing


def figures_of(results: Results) -> Reference:
    """What stands in a run in a reference's form; records that failed are left out.

    Raises:
        BenchError: It holds nothing to compare.
    """
    run = results.run
    costs = tuple(_costs(results, shape) for shape in results.shapes)
    scores = _scores(results.score_records)
    if not any(found.methods for found in costs) and not scores:
        raise BenchError(f"{run.folder}: no records to make a reference of; finish the run first: {run.command}")
    said = run.records[0].environment.get("versions")
    versions = said if isinstance(said, dict) else {}
    if lacking := [name for name in DECIDING if name not in versions]:
        raise BenchError(
            f"{run.folder}: its records do not say which {lacking[0]} they ran on; measure again with --fresh"
        )
    backbone = next((r.backbone for r in run.records if r.backbone is not None), None)
    if backbone is None:
        raise BenchError(f"{run.folder}: no record names its backbone; measure again with --fresh")
    return Reference(
        suite=run.suite.name,
        backbone={name: getattr(backbone, name) for name in ("name", "revision", "sha256", "parameters", "weights")},
        versions={name: ".".join(str(versions[name]).split(".")[:2]) for name in DECIDING},
        configs={r.method.label: r.method.config for r in results.records if _compared(r)},
        costs=costs,
        scores=scores,
    )


def _compared(record: Record) -> bool:
    return record.status == "ok" and isinstance(record, CostRecord | ScoreRecord)


def write_reference(reference: Reference, path: Path) -> None:
    """Write ``reference``, whole or not at all; sorted keys and one figure a line read well in review.

    Raises:
        BenchError: The file cannot be written.
    """
    text = json.dumps(reference.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error, "give another -o") from error


def read_reference(path: Path) -> Reference | None:
    """Read a reference; None where there is no such file.

    Raises:
        BenchError: The file is no reference; the sentence names the field.
    """
    values: object = None
    try:
        values = strict_json(path.read_bytes())
        return Reference.model_validate(values)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BenchError(f"{path}: not a JSON reference ({error}); {AGAIN}") from error
    except ValidationError as error:
        fault = first_fault(error, values)
        raise BenchError(f"{path}: {fault.place or 'the file'}: {fault.message}; {AGAIN}") from error
    except ValueError as error:
        raise BenchError(f"{path}: {error}; {AGAIN}") from error


def _shape_key(shape: Shape) -> dict[str, Any]:
    """What of a shape decides a count; fields from after the first references where they are not as those had it."""
    key = shape.model_dump(exclude={"threads"}, exclude_none=True)
    return {name: value for name, value in key.items() if (name, value) not in _FIRST}


_FIRST = (("clipping", False), ("objective", "classes"), ("adapter_dtype", "model"))


def _exact_figures(record: CostRecord) -> dict[str, Exact]:
    """Counted figures by dotted name; those that the record lacks are absent."""
    figures: dict[str, Exact] = {}
    for name in exact_fields():
        value = getattr(record, name)
        if isinstance(value, BaseModel):
            figures |= _flat(value.model_dump(exclude_none=True), f"{name}.")
        elif value is not None:
            figures[name] = value
    return figures


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Exact]:
    flat: dict[str, Exact] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _costs(results: Results, shape: Shape) -> Costs:
    records = [record for record in results.cost_records if record.shape == shape and record.status == "ok"]
    return Costs(
        shape=_shape_key(shape),
        methods={r.method.label: _exact_figures(r) for r in records},
        merge_error={
            r.method.label: r.merge_error["float32"] for r in records if r.merge_error and "float32" in r.merge_error
        },
    )


def _scores(records: list[ScoreRecord]) -> dict[str, Scores]:
    by_task: dict[str, list[ScoreRecord]] = {}
    for record in records:
        if record.status == "ok":
            by_task.setdefault(record.task_name, []).append(record)
    return {task: _task_scores(found) for task, found in by_task.items()}


def _task_scores(records: list[ScoreRecord]) -> Scores:
    methods: dict[str, dict[int, float]] = {}
    for record in records:
        assert record.score is not None, "a record that is ok has its score"
        methods.setdefault(record.method.label, {})[record.seed] = record.score
    content = next((record.task.content_sha256 for record in records if record.task is not None), None)
    if content is None:
        raise BenchError(f"no score record of task {records[0].task_name!r} knows its rows; measure again with --fresh")
    metrics = sorted({name for record in records for name in record.metrics})
    return Scores(content_sha256=content, methods=methods, metrics=tuple(metrics))

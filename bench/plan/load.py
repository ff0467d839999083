"""Reads a suite by name or from a TOML file, with one sentence for a mistake in it; lists what can be named in one."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.errors import BenchError, first_fault, unknown
from bench.models.backbone import PRETRAINED, SHAPES
from bench.registry import BUILTIN, summaries
from bench.schema.claims import Bounds, ClaimTable
from bench.schema.record import Tuning
from bench.schema.suite import (
    BackboneTable,
    CostTable,
    CrossoverTable,
    MatchTable,
    MethodTable,
    RecipeTable,
    RecipeValues,
    Suite,
    SweepTable,
    TuningTable,
)
from bench.tasks.glue import TASKS

EVERY = "*"
"""As the name of a method: every built-in one that the suite names nowhere else."""
FOLDER = Path(__file__).parents[2] / "suites"
"""Where the suites of the project lie."""


def suite_names() -> list[str]:
    """Names of the suites that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def suite_path(name_or_path: str) -> Path:
    """The file of a suite that is given by its name or its path.

    Raises:
        BenchError: It is no path of a .toml file, and no suite has this name.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    if name_or_path not in suite_names():
        raise unknown("suite", name_or_path, suite_names())
    return FOLDER / f"{name_or_path}.toml"


def load_suite(name_or_path: str) -> Suite:
    """Read a suite by name or from a file.

    Raises:
        BenchError: No such suite, or its file breaks the format; the sentence names file and field.
    """
    path = suite_path(name_or_path)
    values = read_suite_file(path)[1]
    values.setdefault("name", path.stem)
    return parse_suite(values, str(path))


def read_suite_file(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a suite's file, and its values as they stand there.

    Raises:
        BenchError: It cannot be read, or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path}: not a readable TOML file ({error})") from error


def parse_suite(values: dict[str, Any], where: str) -> Suite:
    """Check the values of a suite file.

    Raises:
        BenchError: A key is unknown, missing or has the wrong type or range.
    """
    try:
        return Suite.model_validate(_tuples(values | {"method": _spelled_out(values.get("method"), where)}))
    except ValidationError as error:
        raise BenchError(f"{where}: {_sentence(error)}") from error


def _spelled_out(tables: Any, where: str) -> Any:
    """The methods of a suite with those that ``*`` stands for; what is no list of tables is left to the checks."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return tables
    places = [index for index, table in enumerate(tables) if table.get("name") == EVERY]
    if not places:
        return tables
    if more := [key for key in tables[places[0]] if key != "name"]:
        raise BenchError(
            f"{where}: method[{places[0]}]: name = {EVERY!r} stands for methods with their defaults; give "
            f"{more[0]} in a table of the method itself"
        )
    if len(places) > 1:
        raise BenchError(f"{where}: method[{places[1]}]: name = {EVERY!r} is listed twice; remove one")
    named = [table.get("name") for table in tables]
    rest = [{"name": name} for name in BUILTIN if name not in named]
    return [*tables[: places[0]], *rest, *tables[places[0] + 1 :]]


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples: strict models take no lists for them."""
    if isinstance(value, dict):
        return {key: item if key == "config" else _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _sentence(error: ValidationError) -> str:
    fault = first_fault(error)
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.location]
    place = "".join(parts).lstrip(".")
    if fault.kind == "extra_forbidden":
        known = _fields_at(fault.location[:-1])
        return str(unknown("key", str(fault.location[-1]), known, "".join(parts[:-1]).lstrip(".")))
    if fault.kind == "missing":
        return f"{place} is missing"
    given = f", got {fault.given!r}" if place and fault.kind != "value_error" else ""
    return f"{place or 'suite'}: {fault.message}{given}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "backbone": BackboneTable, "recipe": RecipeTable, "method": MethodTable,
        "cost": CostTable, "task": RecipeValues, "sweep": SweepTable, "crossover": CrossoverTable,
        "claim": ClaimTable, "ratio": Bounds, "difference": Bounds, "value": Bounds,
        "tuning": Tuning if "method" in location else TuningTable, "match": MatchTable,
    }  # fmt: skip
    named = [tables[part] for part in location if isinstance(part, str) and part in tables]
    return list((named[-1] if named else Suite).model_fields)


def listing(what: str) -> list[tuple[str, str]]:
    """Rows of (name, description)."""
    return {"methods": summaries, "suites": _suites, "tasks": _tasks, "backbones": _backbones}[what]()


def _suites() -> list[tuple[str, str]]:
    return [(name, " ".join(load_suite(name).question.split())) for name in suite_names()]


def _tasks() -> list[tuple[str, str]]:
    return [
        (
            name,
            f"{' + '.join(spec.text)}; {' | '.join(spec.labels) or 'regression'}; {spec.main_metric}",
        )
        for name, spec in TASKS.items()
    ]


def _backbones() -> list[tuple[str, str]]:
    pretrained = [(name, f"pretrained, revision {pinned.revision[:8]}") for name, pinned in PRETRAINED.items()]
    return [*pretrained, *((name, f"shape of {family}, random weights") for name, (family, _) in SHAPES.items())]

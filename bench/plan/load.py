"""Reads a suite by name or from a TOML file, lists what one can name, and writes one again with searched rates."""

import dataclasses
import itertools
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from bench.errors import BenchError, first_fault, said, unknown, unwritable
from bench.models.backbone import PRETRAINED, SHAPES
from bench.models.folder import located
from bench.registry import BUILTIN, summaries
from bench.schema.claims import Bounds, ClaimTable
from bench.schema.forms import spell
from bench.schema.ranges import RATES
from bench.schema.record import Tuning
from bench.schema.resolved import ResolvedSuite
from bench.schema.shape import Generation, Serving
from bench.schema.suite import (
    DATA,
    BackboneTable,
    CostTable,
    CrossoverTable,
    MatchTable,
    MethodTable,
    MixTable,
    RecipeTable,
    RecipeValues,
    RetentionTable,
    ShareTable,
    Suite,
    SweepTable,
    TuningTable,
)
from bench.schema.task import FolderLayout, TaskSpec
from bench.tasks import plain
from bench.tasks.catalogue import in_folder, shipped, task_names

if TYPE_CHECKING:
    from tomlkit.items import Table

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
    return _located(parse_suite(values, str(path)), path.parent)


def _located(suite: Suite, folder: Path) -> Suite:
    """The suite with paths of backbones, which its file spells from ``folder``, spelled from the working directory."""
    own = suite.backbone.model_copy(update={"name": located(suite.backbone.name, folder)})
    sweeps = (
        table.model_copy(update={"backbone": table.backbone and located(table.backbone, folder)})
        for table in suite.sweep
    )
    return suite.model_copy(update={"backbone": own, "sweep": tuple(sweeps)})


def read_suite_file(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a suite's file, and its values as they stand there.

    Raises:
        BenchError: It cannot be read, or is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BenchError(f"{path}: not a readable TOML file ({said(error)})") from error


def parse_suite(values: dict[str, Any], where: str) -> Suite:
    """Check the values of a suite file.

    Raises:
        BenchError: A key is unknown, missing or has the wrong type or range.
    """
    if (place := _nul(values)) is not None:
        raise BenchError(f"{where}: {place.lstrip('.')} holds a NUL character, which no name of a file can; remove it")
    if "method" in values:
        values = values | {"method": _mixed(_spelled_out(values["method"], where))}
    plain_values = _tuples(values)
    try:
        suite = Suite.model_validate(plain_values)
    except ValidationError as error:
        raise BenchError(f"{where}: {_sentence(error, plain_values)}") from error
    if taken := [spec.name for spec in suite.task if spec.name in shipped()]:
        raise BenchError(f"{where}: task {taken[0]!r} comes with this project; give yours another name")
    folder = Path(where).parent
    changes: dict[str, Any] = {"task": tuple(in_folder(spec, folder) for spec in suite.task)}
    if suite.data not in DATA:
        changes["data"] = str(folder / Path(suite.data).expanduser())
    if suite.retention is not None:
        texts = tuple(plain.in_folder(name, folder) for name in suite.retention.texts)
        changes["retention"] = suite.retention.model_copy(update={"texts": texts})
    if suite.recipe is not None and suite.recipe.mix is not None:
        mix = suite.recipe.mix.model_copy(update={"text": plain.in_folder(suite.recipe.mix.text, folder)})
        changes["recipe"] = suite.recipe.model_copy(update={"mix": mix})
    return suite.model_copy(update=changes)


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


def _mixed(tables: Any) -> Any:
    """The methods of a suite with one for each share and hold that a ``mix`` lists; share 0 is that without one."""
    if not isinstance(tables, list):
        return tables
    return [one for table in tables for one in (_of_each_mix(table) if isinstance(table, dict) else [table])]


def _of_each_mix(table: dict[str, Any]) -> list[dict[str, Any]]:
    mix = table.get("mix")
    if not isinstance(mix, dict):
        return [table]
    given = {key: mix[key] for key in ("share", "hold") if key in mix}
    listed = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    bare = {key: value for key, value in table.items() if key != "mix"}
    found = []
    for values in itertools.product(*listed.values()):
        chosen = dict(zip(listed, values, strict=True))
        one = bare if chosen.get("share") == 0 else {**bare, "mix": mix | chosen}
        found += [one] if one is not bare or bare not in found else []
    return found


def _nul(value: Any) -> str | None:
    """Path of the first text with a NUL character; None where there is none."""
    if isinstance(value, str):
        return "" if "\0" in value else None
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in parts:
        if isinstance(key, str) and "\0" in key:
            return f".{key!r}"
        if (place := _nul(item)) is not None:
            return (f"[{key}]" if isinstance(key, int) else f".{key}") + place
    return None


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples: strict models take no lists for them."""
    if isinstance(value, dict):
        return {key: item if key == "config" else _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _sentence(error: ValidationError, values: dict[str, Any]) -> str:
    fault = first_fault(error, values)
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.location]
    place = "".join(parts).lstrip(".")
    if fault.kind == "extra_forbidden":
        known = _fields_at(fault.location[:-1])
        return str(unknown("key", str(fault.location[-1]), known, "".join(parts[:-1]).lstrip(".")))
    if fault.kind == "missing":
        return f"{place} is missing"
    if isinstance(fault.given, dict) and place in _LISTED:
        return f"{place} is a list of tables; write [[{place}]] in the place of [{place}]"
    return f"{place or 'suite'}: {fault.message}"


_LISTED = ("method", "cost", "sweep", "crossover", "claim", "task")


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "backbone": BackboneTable, "recipe": RecipeTable, "method": MethodTable,
        "cost": CostTable, "sweep": SweepTable, "crossover": CrossoverTable,
        "task": RecipeValues if "recipe" in location else TaskSpec, "folder": FolderLayout,
        "claim": ClaimTable, "ratio": Bounds, "difference": Bounds, "value": Bounds,
        "tuning": Tuning if "method" in location else TuningTable, "match": MatchTable, "retention": RetentionTable,
        "generation": Generation, "serving": Serving, "mix": MixTable if "recipe" in location else ShareTable,
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
            f"{' + '.join(spec.text)}; {' | '.join(spec.labels) or spec.kind}; {spec.main_metric}",
        )
        for name, spec in shipped().items()
    ] + [(name, "third-party task") for name in task_names() if name not in shipped()]


def _backbones() -> list[tuple[str, str]]:
    pretrained = {name: f"pretrained, revision {pinned.revision[:8]}" for name, pinned in PRETRAINED.items()}
    shapes = {name: f"shape of {family}, random weights" for name, (family, _) in SHAPES.items()}
    both = {
        name: f'{pretrained[name]}; with weights = "random" a {shapes[name]}' for name in pretrained if name in shapes
    }
    return [*(pretrained | shapes | both).items()]


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
    text = _moved(text, suite_file.parent, out.parent)
    parse_suite({"name": suite_file.stem} | tomllib.loads(text), str(out))
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable(error.filename, error, "the chosen rates are in tuning.md") from error
    return changed


def _moved(text: str, before: Path, after: Path) -> str:
    """``text``, a suite in the folder ``before``, as it names the same backbones and rows from ``after``."""
    import tomlkit

    document = tomlkit.parse(text)
    for key, tables in (("name", [document.get("backbone", {})]), ("backbone", document.get("sweep", ()))):
        for table in tables:
            if (name := table.get(key)) and (moved := located(str(name), before, after)) != name:
                table[key] = moved
    for table in document.get("task", ()):
        for key in ("train", "test"):
            if key in table:
                table[key] = _file_moved(str(table[key]), before, after)
    if (data := document.get("data", "auto")) not in DATA:
        document["data"] = _file_moved(str(data), before, after)
    retention, mix = document.get("retention", {}), document.get("recipe", {}).get("mix", {})
    if "texts" in retention:
        retention["texts"] = [_text_moved(str(text), before, after) for text in retention["texts"]]
    if "text" in mix:
        mix["text"] = _text_moved(str(mix["text"]), before, after)
    return tomlkit.dumps(document)


def _file_moved(name: str, before: Path, after: Path) -> str:
    path = Path(name)
    if path.is_absolute() or path.parts[0] == "~" or before.resolve() == after.resolve():
        return name
    return Path(os.path.relpath(before / path, after)).as_posix()


def _text_moved(name: str, before: Path, after: Path) -> str:
    return name if name in plain.KNOWN else _file_moved(name, before, after)


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
    every = document.get("tasks", [own["name"] for own in document.get("task", ())])
    tasks = [str(task) for task in every] if table.task is None else [table.task]
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

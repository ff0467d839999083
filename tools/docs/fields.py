"""Tables of the keys of a suite and of the fields of a record, from the schema's annotations and docstrings."""

import ast
import inspect
import itertools
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bench.schema.delta import Delta
from bench.schema.record import CostRecord, CountRecord, ScoreRecord
from bench.schema.suite import DEFAULTS, RecipeValues, Suite
from tools.method_pages import table

WORDS = {int: "integer", float: "number", str: "string", bool: "true or false", type(None): "null"}
"""Python type -> its name in a suite or a record."""
BOUNDS = ((annotated_types.Ge, "ge", ">="), (annotated_types.Gt, "gt", ">"), (annotated_types.Le, "le", "<="),
          (annotated_types.Lt, "lt", "<"))  # fmt: skip
KINDS = (ScoreRecord, CostRecord, CountRecord)
TOP = "Top of the file"
MEANINGS = {
    "id": "sha256 over everything that decides the result; the same job has the same id in every run.",
}


def suite_keys() -> str:
    """Every key that a suite may hold, a section for each table."""
    places = tables(Suite)
    titles = {model: ", ".join(f"`{place}`" for place in found) or TOP for model, found in places.items()}
    head, parts = ["key", "type", "default", "meaning"], []
    for model, title in titles.items():
        parts += [f"### {title}", sentence(model)]
        extended = next((other for other in titles if other is not model and issubclass(other, model)), None)
        if extended:
            parts.append(f"The keys of {titles[extended]} again, but for {_only(extended, model)}; none is required.")
        else:
            parts.append(table(head, list(rows(model, titles)), len(head)))
    return "\n\n".join(parts)


def _only(extended: type[BaseModel], model: type[BaseModel]) -> str:
    """Keys of the first that the second lacks."""
    return " and ".join(f"`{name}`" for name in extended.model_fields if name not in model.model_fields)


def record_fields() -> str:
    """Every field of the three kinds of record, and of the tables inside them."""
    head, parts = ["field", "type", "meaning"], []
    titles: dict[type[BaseModel], str] = {}
    for model in KINDS:
        titles |= {inner: inner.__name__ for inner in tables(model) if inner is not model}
    shared = set.intersection(*(set(model.model_fields) for model in KINDS)) - {"kind"}
    common = [row for row in rows(CostRecord, titles, defaults=False) if row[0] in _named(CostRecord, shared)]
    parts += ["### Every record", table(head, common, len(head))]
    for model in KINDS:
        own = [row for row in rows(model, titles, defaults=False) if row[0] not in _named(model, shared)]
        kind = model.model_fields["kind"].default
        parts += [f"### Records of kind `{kind}`", sentence(model), table(head, own, len(head))]
    for inner, title in titles.items():
        own = list(rows(inner, titles, defaults=False))
        parts += [f"### {title}", sentence(inner), table(head, own, len(head)) if own else ""]
    return "\n\n".join(part for part in parts if part)


def delta_fields() -> str:
    """Every field of ``delta.json``, and of the tables inside it that records do not have."""
    head = ["field", "type", "meaning"]
    shared = {inner for model in KINDS for inner in tables(model)}
    titles = {inner: inner.__name__ for inner in tables(Delta) if inner is not Delta}
    parts = [sentence(Delta), table(head, list(rows(Delta, titles, defaults=False)), len(head))]
    for inner, title in titles.items():
        if inner not in shared:
            own = list(rows(inner, titles, defaults=False))
            parts += [f"### {title}", sentence(inner), table(head, own, len(head))]
    return "\n\n".join(parts)


def _named(model: type[BaseModel], fields: typing.Iterable[str]) -> set[str]:
    """Names of ``fields`` as files spell them and tables show them."""
    return {f"`{model.model_fields[field].alias or field}`" for field in fields}


def tables(model: type[BaseModel]) -> dict[type[BaseModel], list[str]]:
    """``model`` and the tables inside it, outer ones first, each with its places in TOML, such as ``[[cost]]``."""
    found: dict[type[BaseModel], list[str]] = {model: []}
    waiting = [(model, "")]
    while waiting:
        outer, path = waiting.pop(0)
        for name, field in outer.model_fields.items():
            for inner, many, keyed in _inner(field.annotation):
                below = f"{path}.{name}".lstrip(".") + (".NAME" if keyed else "")
                if inner not in found:
                    waiting.append((inner, below))
                found.setdefault(inner, []).append(f"[[{below}]]" if many else f"[{below}]")
    return found


def _inner(annotation: Any, many: bool = False, keyed: bool = False) -> Iterator[tuple[type[BaseModel], bool, bool]]:
    """Tables that an annotation names, whether in a list, and whether under names of the user's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, many, keyed
    origin = typing.get_origin(annotation)
    for argument in typing.get_args(annotation):
        yield from _inner(argument, many or origin in (tuple, list), keyed or origin is dict)


def rows(model: type[BaseModel], titles: dict[type[BaseModel], str], defaults: bool = True) -> Iterator[list[str]]:
    """Name, type, default where asked for, and meaning of each field.

    Args:
        model: A table of the schema.
        titles: Tables that have a section of their own, with its heading, which types link to.
        defaults: Whether there is a column of defaults.

    Raises:
        ValueError: A field has no docstring.
    """
    says = docstrings(model)
    for name, field in model.model_fields.items():
        meaning = MEANINGS.get(name) or says.get(name)
        if not meaning:
            raise ValueError(f"{model.__name__}.{name} has no docstring; write one below the field")
        default = [_default(model, name, field)] if defaults else []
        kind = " ".join([spelled(field.annotation, titles), *bounds(field.metadata)])
        meaning = meaning.replace("``", "`").replace("|", "\\|")
        yield [f"`{field.alias or name}`", kind, *default, meaning]


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstring of each field, those of base classes included, on one line."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
        for field, after in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[ast.unparse(field.target)] = " ".join(str(after.value.value).split())
    return found


def sentence(model: type[BaseModel]) -> str:
    """First sentence of a class's docstring."""
    return " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split()).replace("``", "`")


def spelled(annotation: Any, titles: dict[type[BaseModel], str], many: bool = False) -> str:
    """A type in the words of a reader: ``list of integers``, ``"a" or "b"``; a table links to its section."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation] + ("s" if many and annotation is not bool else "")
    if origin is typing.Annotated:
        return " ".join([spelled(arguments[0], titles, many), *bounds(arguments[1:])])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(spelled(part, titles, many) for part in arguments if part is not type(None)))
    if origin in (tuple, list):
        kinds = {spelled(part, titles, True) for part in arguments if part is not Ellipsis}
        return f"list of {' or '.join(sorted(kinds))}"
    if origin is dict:
        return f"table of {spelled(arguments[1], titles, True)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{titles[annotation]}](#{anchor(titles[annotation])})"
    return "values" if many else "any value"


def anchor(heading: str) -> str:
    """The address that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def bounds(metadata: typing.Iterable[Any]) -> list[str]:
    """``>= 1`` and the like."""
    return [f"{sign} {getattr(found, name):g}" for found in metadata for kind, name, sign in BOUNDS
            if isinstance(found, kind)]  # fmt: skip


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    """The default in a suite's own spelling; empty where there is none to speak of."""
    if model is Suite and name == "name":
        return "the file's name"
    if field.is_required():
        return "required"
    value = DEFAULTS.get(name) if issubclass(model, RecipeValues) and field.default is None else field.default
    if value is PydanticUndefined or value is None or value in ((), {}, ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"

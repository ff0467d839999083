"""Errors that a user can fix: one sentence that says what, where, what is allowed and what to do."""

import difflib
import json
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class BenchError(Exception):
    """A user's mistake; the command line prints the sentence alone and exits with code 2."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; no ``Exception``, so that nothing takes it for a failure of a job or of a library.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = ""
        """What is kept and how to go on, where the command can say so."""


LONGEST_REASON = 500
"""Characters of a reason: more than that is no sentence, and a screen would wrap it for minutes."""
LONGEST_TRACEBACK = 20_000


def shortened(text: str, most: int = LONGEST_REASON) -> str:
    """``text`` as any file and screen can hold it: without lone surrogates, of at most ``most`` characters.

    Of a longer one the beginning and the end stay, with the number of characters that are left out between them.
    """
    if len(text) > most:
        cut = f" ... {len(text) - most} characters left out ... "
        half = (most - len(cut)) // 2
        text = text[:half] + cut + text[-half:]
    return text.encode("utf-8", "replace").decode()


def message(error: BaseException) -> str:
    """All that an exception says, also one that a third party wrote: to ask for it raises nothing."""
    try:
        return str(error)
    except Exception as unsaid:
        return f"its message cannot be read, which raises {type(unsaid).__name__}"


def said(error: BaseException, most: int = LONGEST_REASON) -> str:
    """The first line with words of what an exception says, `shortened`; empty where it says nothing."""
    return shortened(next((line.strip() for line in message(error).splitlines() if line.strip()), ""), most)


def traced(error: BaseException) -> str:
    """Python's traceback of an exception, with what stands before and after its middle where it is very long."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as unsaid:
        text = f"{type(error).__name__}, whose traceback cannot be read ({type(unsaid).__name__})"
    return shortened(text, LONGEST_TRACEBACK)


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> BenchError:
    """Build the error for a name that is not among the known ones, with the nearest known name.

    Args:
        what: Kind of thing that was looked up, e.g. ``"method"`` or ``"key"``.
        name: The name that was asked for.
        known: All names that exist.
        where: Prefix that locates the mistake, e.g. ``"suites/smoke.toml: methods[2]"``.
    """
    names, name = sorted(known), shortened(name, 200)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    prefix = f"{where}: " if where else ""
    listed = f"known: {', '.join(names)}" if names else "it takes none"
    return BenchError(f"{prefix}unknown {what} {name!r}; {listed}.{hint}")


def given(hook: str, value: Any, kind: type[T], due: str) -> T:
    """``value``, which a hook of a method gave, where it is what the interface asks for.

    Args:
        hook: Name of the hook, e.g. ``"apply"``.
        value: What it gave.
        kind: The class that it has to be of.
        due: That class in words, e.g. ``"a torch module"``.

    Raises:
        BenchError: It is of another class.
    """
    if isinstance(value, kind):
        return value
    what = "None" if value is None else f"a value of type {type(value).__name__}"
    raise BenchError(f"{hook}() of the method gives {what}; let it return {due}")


class Fault(NamedTuple):
    """What a data model refused first."""

    location: tuple[int | str, ...]
    """Keys and numbers that lead to the field."""
    message: str
    kind: str
    """Pydantic's name for it, such as ``missing``."""
    given: object
    faults: int
    """Faults in all."""

    @property
    def place(self) -> str:
        """Dotted path of the field; empty for the whole."""
        return ".".join(map(str, self.location))


_DUE = {
    "string_type": "text in quotes", "string_sub_type": "text in quotes", "bool_type": "true or false",
    "bool_parsing": "true or false", "int_type": "a whole number", "int_parsing": "a whole number",
    "int_from_float": "a whole number", "int_parsing_size": "a smaller number", "float_type": "a number",
    "float_parsing": "a number", "finite_number": "a finite number", "tuple_type": "a list", "list_type": "a list",
    "set_type": "a list", "frozen_set_type": "a list", "dict_type": "a table of keys and values",
    "mapping_type": "a table of keys and values", "model_type": "a table of keys and values",
    "model_attributes_type": "a table of keys and values", "dataclass_type": "a table of keys and values",
    "none_required": "left out", "literal_error": "{expected}", "enum": "{expected}", "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}", "less_than": "below {lt}", "less_than_equal": "at most {le}",
    "too_short": "a list of {min_length} or more", "too_long": "a list of {max_length} at most",
    "string_pattern_mismatch": "text of the form {pattern}",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of {max_length} characters at most",
}  # fmt: skip
"""What pydantic asks for, by its name of the fault, in words that complete "must be"."""
LONGEST_GIVEN = 100
_NOWHERE = object()


def first_fault(error: Any, given: object) -> Fault:
    """What a pydantic ``ValidationError`` says first, in words of this project.

    Of a field that may be of several types all are named, or what is wrong deeper within the one that was meant.

    Args:
        error: The exception.
        given: What was validated, as tables and lists.
    """
    faults = error.errors(include_url=False)
    places = [_field(fault, given) for fault in faults]
    place = max((one for one in places if one[: len(places[0])] == places[0]), key=len)
    if len(places[0]) == len(faults[0]["loc"]):  # no union: what comes first stands first
        place = places[0]
    alike = [fault for fault, one in zip(faults, places, strict=True) if one == place]
    first, dues = alike[0], dict.fromkeys(_due(one) for one in alike)
    if first["type"] in _OF_KEYS:
        words = _OF_KEYS[first["type"]].format(**first.get("ctx", {}))
    elif None in dues:
        words = first["msg"].removeprefix("Value error, ")
    else:
        words = f"must be {' or '.join(map(str, dues))}, not {_shown(first['input'])}"
    return Fault(place, words, first["type"].replace("unexpected_keyword_argument", "extra_forbidden"),
                 first["input"], len(faults))  # fmt: skip


_OF_KEYS = {
    "missing": "is missing", "extra_forbidden": "no such field is known",
    "unexpected_keyword_argument": "no such field is known", "union_tag_not_found": "{discriminator} is missing",
    "union_tag_invalid": "{discriminator} = '{tag}' is none of {expected_tags}",
}  # fmt: skip


def _field(fault: Mapping[str, Any], given: object) -> tuple[int | str, ...]:
    """Keys and numbers of a location that are in ``given``: pydantic adds names of the types that it has tried."""
    found: list[int | str] = []
    for part in fault["loc"]:
        if (inner := _within(given, part)) is not _NOWHERE:
            given = inner
            found.append(part)
    if fault["type"] == "missing":
        found.append(fault["loc"][-1])
    elif found and found[-1] == fault["loc"][-1] and _shown(given) != _shown(fault["input"]):
        found.pop()  # a key that is called as a type is
    return tuple(found)


def _within(given: object, part: int | str) -> object:
    if isinstance(given, Mapping):
        return given.get(part, _NOWHERE)
    if isinstance(given, list | tuple) and isinstance(part, int) and part < len(given):
        return given[part]
    return _NOWHERE


def _due(fault: Mapping[str, Any]) -> str | None:
    due = _DUE.get(fault["type"])
    values = fault.get("ctx", {}).items()
    return due and due.format(
        **{name: f"{value:.10g}" if isinstance(value, float) else value for name, value in values}
    )


def _shown(value: object) -> str:
    """A value as TOML and JSON spell it."""
    return shortened(json.dumps(value, default=str, ensure_ascii=False), LONGEST_GIVEN)


def unwritable(path: object, error: OSError, remedy: str = "free space or fix permissions") -> BenchError:
    """Build the error for a file or folder that cannot be written."""
    return BenchError(f"{path}: cannot be written ({error.strerror}); {remedy}")

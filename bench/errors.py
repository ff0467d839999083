"""Errors that a user can fix: one sentence that says what, where, what is allowed and what to do."""

import difflib
import traceback
from collections.abc import Iterable
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
    return BenchError(f"{prefix}unknown {what} {name!r}; known: {', '.join(names)}.{hint}")


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


def first_fault(error: Any) -> Fault:
    """What a pydantic ``ValidationError`` says first, without the library's own form."""
    faults = error.errors()
    first = faults[0]
    return Fault(first["loc"], first["msg"].removeprefix("Value error, "), first["type"], first["input"], len(faults))


def unwritable(path: object, error: OSError, remedy: str = "free space or fix permissions") -> BenchError:
    """Build the error for a file or folder that cannot be written."""
    return BenchError(f"{path}: cannot be written ({error.strerror}); {remedy}")

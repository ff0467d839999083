"""Strict JSON: no duplicate key, no NaN, no number that overflows."""

import json
import re
from collections.abc import Callable
from typing import Any

_LARGEST = 1e100
"""Numbers beyond it are no figure, and arithmetic on them would overflow."""


def strict_json(text: bytes) -> Any:
    """Parse JSON that holds no key twice, as a bad merge leaves it, no NaN and no number that overflows.

    Raises:
        ValueError: ``text`` is no such JSON.
        RecursionError: It is nested too deeply.
    """
    encoding = json.detect_encoding(text)
    decoder = _QUICK if encoding == "utf-8" and not _may_overflow(text) else _CAREFUL
    return decoder.decode(text.decode(encoding, "surrogatepass"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is listed twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def _number(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(digits: str) -> int | float:
        if len(digits) > 400 or abs(value := kind(digits)) > _LARGEST:
            raise ValueError(f"{digits[:20]} is too large")
        return value

    return parse


_OUTLINE = bytes(
    48 if byte in b"0123456789" else 101 if byte in b"eE" else 44 if byte in b",]} \t\r\n" else 46
    for byte in range(256)
)
"""Every digit as 0, every end of a number as a comma; what is left of a text is enough to see how long numbers are."""
_EXPONENT = re.compile(rb"0e00+(?:,|$)")


def _may_overflow(text: bytes) -> bool:
    """Whether a number may have 90 digits or an exponent of two: to ask each one of a run's millions takes seconds."""
    outline = text.translate(_OUTLINE, b"+")
    return b"0" * 90 in outline or _EXPONENT.search(outline) is not None


_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_refuse, parse_int=_number(int), parse_float=_number(float)
)
_QUICK = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)
"""Looks at no single number."""

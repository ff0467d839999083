"""Sound documents, spoilt: parts replaced, removed, repeated or renamed, and text cut, flipped and joined."""

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[Any]], Any]

ODD_TEXTS = (
    "", " ", "x", "*", "..", "../x", "./x", "~", "a/b", "a\\b", "a\nb", "a,b", "\t", "\x00", "\x1b[31mx", "\u202ex",
    "=1+1", "@x", "<b>x</b>", "[bold]x", "{x}", "{0}", "%s", "$x", "`x`", "|", "nan", "None", "true", "1e999",
    "ß" * 40, "x" * 300, "x" * 5000, "full", "lora", "sst2", "tiny",
)  # fmt: skip
"""Harmless texts that a program may take for something else."""
ODD_NUMBERS = (-1, 0, 1, 2, 3, 7, 1000, 2**31, 2**53 + 1, 2**63, -(2**63), 10**30, 0.0, -0.0, 0.5, 1e-300, 1e300,
               float("nan"), float("inf"))  # fmt: skip

LEAVES = st.one_of(
    st.none(), st.booleans(), st.sampled_from(ODD_NUMBERS), st.integers(-5, 70), st.floats(),
    st.sampled_from(ODD_TEXTS), st.text(max_size=8),
    st.sampled_from([[], {}, [[1]], {"a": {"b": 1}}, [None]]),
    st.lists(st.integers(0, 3), max_size=4), st.lists(st.sampled_from(ODD_TEXTS), max_size=3),
)  # fmt: skip
"""In place of whatever stands somewhere."""


CHANGES = st.sampled_from((0, 1, 1, 1, 2, 3))
"""Of one example; the first of a search has none, and what is sound must work."""


def _alike(value: Any) -> st.SearchStrategy[Any]:
    """Others of the same type, which a check of types alone lets through."""
    if isinstance(value, bool) or value is None:
        return st.booleans()
    if isinstance(value, int):
        return st.one_of(st.integers(-2, 70), st.sampled_from([one for one in ODD_NUMBERS if isinstance(one, int)]))
    if isinstance(value, float):
        return st.one_of(st.sampled_from([float(one) for one in ODD_NUMBERS]), st.floats(), st.floats(0, 1))
    if isinstance(value, str):
        return st.one_of(st.sampled_from(ODD_TEXTS), st.just(value * 2), st.just(value[1:]), st.text(max_size=8))
    if isinstance(value, list) and value:
        return st.one_of(st.permutations(value), st.just(value[1:]), st.just(value * 2))
    return LEAVES


def spoilt(draw: Draw, value: T) -> T:
    """``value``, plain data, with up to three changes."""
    for _ in range(draw(CHANGES)):
        value = _changed(draw, value, 0)
    return value


def _changed(draw: Draw, value: Any, depth: int) -> Any:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or (depth and draw(st.integers(0, 5)) == 0):
        return draw(_alike(value) if draw(st.booleans()) else LEAVES)
    key, copy = draw(st.sampled_from(keys)), value.copy()
    what = draw(st.integers(0, 11))
    if what == 0:
        del copy[key]
    elif what == 1 and isinstance(copy, list):
        copy.append(copy[key])
    elif what == 1:
        copy[draw(st.sampled_from(ODD_TEXTS))] = copy.pop(key)
    elif what == 2 and isinstance(copy, dict):
        copy[draw(st.sampled_from(ODD_TEXTS))] = draw(LEAVES)
    else:
        copy[key] = _changed(draw, value[key], depth + 1)
    return copy


def garbled(draw: Draw, content: bytes) -> bytes:
    """``content`` with up to three spans of bytes cut out, repeated, flipped or written over."""
    for _ in range(draw(CHANGES)):
        low = draw(st.integers(0, len(content)))
        high = draw(st.integers(low, min(len(content), low + 40)))
        span = content[low:high]
        middle = draw(st.one_of(
            st.just(b""), st.just(span * 2), st.just(bytes(byte ^ 1 for byte in span)), st.binary(max_size=6),
            st.sampled_from([text.encode() for text in ODD_TEXTS]),
        ))  # fmt: skip
        content = content[:low] + middle + content[high:]
    return content

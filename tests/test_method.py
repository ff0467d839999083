"""The plug-in interface: what a configuration takes from a file."""

import dataclasses
from typing import Any, Literal

import pytest

from bench.errors import BenchError
from bench.method import MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every(MethodConfig):
    """A field of each kind that configurations have."""

    flag: bool = False
    number: int = 0
    share: float = 0.0
    word: str = ""
    only_true: Literal[True] = True
    one_or_two: Literal[1, 2] = 1
    layers: Literal["all"] | tuple[int, ...] = "all"
    ones: tuple[Literal[1], ...] = ()
    either: bool | Literal["random"] = False
    free: Any = None


TAKEN = {
    "flag": [True], "number": [3], "share": [0.5, 1], "word": ["a"], "only_true": [True], "one_or_two": [1, 2],
    "layers": ["all", [0, 1]], "ones": [[], [1, 1]], "either": [True, "random"], "free": [1, True, {"a": [None]}],
}  # fmt: skip
REFUSED = {
    "flag": [1, 0, "true", None], "number": [True, 1.0, "3"], "share": [True, "0.5"], "word": [1],
    "only_true": [1, 1.0, False], "one_or_two": [True, 1.0, 3, "1"], "layers": ["some", [True], [0.0], 0],
    "ones": [[True], [1, 1.0], 1], "either": [1, 0, "zero"],
}  # fmt: skip


def pairs(table):
    return [(field, value) for field, values in table.items() for value in values]


@pytest.mark.parametrize(("field", "value"), pairs(TAKEN))
def test_a_value_of_the_fields_type_is_taken(field, value):
    held = getattr(Every.parse({field: value}), field)
    assert held == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("field", "value"), pairs(REFUSED))
def test_a_value_of_another_type_is_refused_also_where_python_calls_it_equal(field, value):
    with pytest.raises(BenchError, match=f"mine.toml: {field} = .* has the wrong type; it takes "):
        Every.parse({field: value}, "mine.toml")

"""A file's numbers are figures, its keys stand once; a quick look judges as a close one does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.store.store import strict_json

HARMLESS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**80), 10**80) | st.floats(-1e99, 1e99) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(HARMLESS, st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_what_json_writes_comes_back(value, encoding):
    assert strict_json(json.dumps(value).encode(encoding)) == value


@pytest.mark.parametrize("around", ["%s", "[1, %s]", '{"a": [%s]}', '{"a": %s, "b": 1}', "[%s\n]"])
@pytest.mark.parametrize(
    "number",
    [
        "1e101",
        "-1e101",
        "1E+101",
        "1.5e0000101",
        "1e400",
        "-9" + "9" * 100,
        "9" * 95 + "e9",
        "9" * 101 + ".0",
        "1" * 5000,
    ],
)
def test_a_number_that_arithmetic_would_overflow_is_refused_wherever_it_stands(number, around):
    for encoding in ("utf-8", "utf-16"):
        with pytest.raises(ValueError, match="is too large"):
            strict_json((around % number).encode(encoding))


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a number in JSON"):
        strict_json(text.encode())


def test_a_key_that_stands_twice_is_refused_at_any_depth():
    with pytest.raises(ValueError, match="the key 'a' is listed twice"):
        strict_json(b'[{"b": {"a": 1, "a": 1}}]')


def test_a_hash_with_an_e_among_digits_is_no_number():
    assert strict_json(b'{"id": "12e400", "at": "1e999, 2"}') == {"id": "12e400", "at": "1e999, 2"}

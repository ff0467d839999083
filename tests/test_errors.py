"""What others say in their exceptions becomes a reason: a sentence that any file and any screen can hold."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import LONGEST_REASON, LONGEST_TRACEBACK, BenchError, first_fault, shortened, traced, unknown
from bench.schema.forms import LONGEST_SPEC, inert, parse_spec
from bench.schema.record import ScoreRecord
from bench.training.blame import reason_of
from tests.store.test_store import score


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class NoText(Exception):
    def __str__(self):
        return None


RAISED = {
    "plain": (ValueError("\n  two lines\nof it"), "ValueError: two lines"),
    "nothing": (ValueError(), "ValueError"),
    "a raising __str__": (Unspeakable(), "Unspeakable: its message cannot be read, which raises RuntimeError"),
    "a __str__ without text": (NoText(), "NoText: its message cannot be read, which raises TypeError"),
    "half of a pair": (ValueError("a \ud83d b"), "ValueError: a ? b"),
    "no Exception": (SystemExit("enough"), "SystemExit: enough"),
    "a user's sentence": (BenchError("give another name"), "give another name"),
}


@pytest.mark.parametrize(("error", "reason"), RAISED.values(), ids=RAISED)
def test_whatever_is_raised_has_a_reason_and_a_traceback(error, reason):
    assert reason_of(error) == reason
    assert type(error).__name__ in traced(error)


def test_a_very_long_message_is_a_sentence_with_its_beginning_and_its_end():
    reason = reason_of(ValueError("begins " + "x" * 10_000_000 + " ends"))
    assert len(reason) <= LONGEST_REASON
    assert reason.startswith("ValueError: begins xxx")
    assert " characters left out ... xxx" in reason
    assert reason.endswith(" ends")
    assert len(traced(ValueError("x" * 10_000_000))) <= LONGEST_TRACEBACK


@pytest.mark.parametrize("text", ["", "a", "a" * 500, "\ud800" * 700, "é" * 501])
def test_what_was_shortened_stays_as_it_is(text):
    once = shortened(text)
    assert len(once) <= LONGEST_REASON
    assert shortened(once) == once
    once.encode()


def test_a_record_holds_no_more_whoever_made_it():
    made = score(
        status="failed", reason="r" * 10_000, traceback="t" * 10**6, notes=["\ud800" + "n" * 10_000], score=None
    )
    line = made.model_dump_json(by_alias=True)
    assert len(line) < LONGEST_TRACEBACK + 5_000
    assert ScoreRecord.model_validate(json.loads(line)) == made


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("lora(rank=" + "(" * 900 + "1" + ")" * 900 + ")", "cannot read method 'lora(rank=((("),
        ("lora(rank=" + "-" * 1_900 + "1)", "cannot read method 'lora(rank=---"),
        ("lora(rank=" + "[" * 150 + "]" * 150 + "+1)", "cannot read method 'lora(rank=[[["),
        ("lora(rank={[]: 1})", "cannot read method 'lora(rank={[]: 1})'"),
        ("lora(rank=" + "9" * 1_900 + "e9)(", "cannot read method 'lora(rank=999"),
        (
            "lora(rank=" + "1" * 100_000 + ")",
            "has 100,011 characters, of at most 2,000; leave out what it need not say",
        ),
        ("x" * LONGEST_SPEC + "y", "has 2,001 characters"),
    ],
)
def test_a_method_that_nobody_can_read_is_a_sentence(spec, sentence):
    with pytest.raises(BenchError) as refused:
        parse_spec(spec, "--methods")
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("--methods: ")
    assert len(str(refused.value)) < 400


def test_an_unknown_name_is_quoted_in_part_where_it_is_very_long():
    assert len(str(unknown("method", "m" * 100_000, ["lora", "head"]))) < 300


@pytest.mark.parametrize("text", ["=1+1", "=cmd|' /C calc'!A0", "+x", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_begins_a_formula_has_an_apostrophe_before_it_in_csv(text):
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1", "+1.5", "-", "lora(rank=8)", "a=b", "", -1, -1.5, None, True, "-inf"])
def test_numbers_and_all_other_cells_stay_as_they_are(value):
    assert inert(value) is value


class Hash(BaseModel):
    hash: str = Field(pattern="^[0-9a-f]+$")


class Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = "x"
    rate: float | dict[str, float] = 0.5
    sizes: tuple[int, ...] = Field((1,), min_length=1)
    kind: Literal["classes", "score"] = "score"
    share: float = Field(0.5, ge=0.0, lt=1.0)
    on: bool = True
    rates: dict[str, int] = {}
    kept: Hash | None = None


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        ({"name": 3}, "name", "must be text in quotes, not 3"),
        ({"name": (0, None)}, "name", "must be text in quotes, not [0, null]"),
        ({"rate": "fast"}, "rate", 'must be a number or a table of keys and values, not "fast"'),
        ({"rate": {"float": "fast"}}, "rate.float", 'must be a number, not "fast"'),
        ({"rate": {"float": 0.5, "str": None}}, "rate.str", "must be a number, not null"),
        ({"float": 3}, "float", "no such field is known"),
        ({"rates": {"str": [3]}}, "rates.str", "must be a whole number, not [3]"),
        ({"kept": {}}, "kept.hash", "is missing"),
        ({"kept": {"hash": "x"}}, "kept.hash", 'must be text of the form ^[0-9a-f]+$, not "x"'),
        ({"rate": {"sst2": "fast"}}, "rate.sst2", 'must be a number, not "fast"'),
        ({"sizes": (1, 2.5)}, "sizes.1", "must be a whole number, not 2.5"),
        ({"sizes": ()}, "sizes", "must be a list of 1 or more, not []"),
        ({"kind": "text"}, "kind", "must be 'classes' or 'score', not \"text\""),
        ({"share": 1.0}, "share", "must be below 1, not 1.0"),
        ({"share": -1.0}, "share", "must be at least 0, not -1.0"),
        ({"on": "yes"}, "on", 'must be true or false, not "yes"'),
        ({"off": True}, "off", "no such field is known"),
    ],
)
def test_what_does_not_fit_a_table_is_said_in_words_of_this_project(values, place, words):
    with pytest.raises(ValidationError) as error:
        Table.model_validate(values)
    fault = first_fault(error.value, values)
    assert (fault.place, fault.message) == (place, words)


def test_a_long_value_is_cut():
    with pytest.raises(ValidationError) as error:
        Table.model_validate(values := {"on": "x" * 10_000})
    assert len(first_fault(error.value, values).message) < 200

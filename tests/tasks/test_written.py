"""Rows that grammars write: the same everywhere, right by another reckoning, worded otherwise in the test split."""

import datetime
import json
import re
import subprocess
import sys
from fractions import Fraction

import pytest

from bench.errors import BenchError
from bench.schema.jobs import Source
from bench.tasks import written
from bench.tasks.catalogue import parse_task, shipped, task_names
from bench.tasks.sources import load_task, load_trial, locate
from bench.tasks.written import _NUMBERS, CITIES, GRAMMARS, MONTHS, NAMES, THINGS, WEEKDAYS

TASKS = {name: spec for name, spec in shipped().items() if spec.grammar is not None}
SPLITS = ("train", "test")
grammars = pytest.mark.parametrize("name", GRAMMARS)
UNITS = {
    "kilometres": 100_000, "km": 100_000, "metres": 100, "m": 100, "dm": 10, "centimetres": 1, "cm": 1,
    "millimetres": Fraction(1, 10), "mm": Fraction(1, 10),
    "tonnes": 10**9, "t": 10**9, "kilograms": 10**6, "kg": 10**6, "grams": 1000, "g": 1000, "milligrams": 1, "mg": 1,
    "litres": 1000, "l": 1000, "dl": 100, "millilitres": 1, "ml": 1,
    "weeks": 604_800, "days": 86_400, "d": 86_400, "hours": 3600, "h": 3600, "minutes": 60, "min": 60, "seconds": 1,
    "s": 1, "yards": 36, "ft": 12, "inches": 1, "in": 1, "gross": 144, "dozen": 12, "pieces": 1,
}  # fmt: skip
"""In the smallest of its kind."""


def skeleton(text):
    """``text`` with everything that a row fills in masked: two of one wording are equal."""
    filled = (*MONTHS, *WEEKDAYS, *_NUMBERS, *UNITS, "red", "blue", "green", "white", "black", "yellow")
    filled += tuple(word for table in (NAMES, CITIES) for split in SPLITS for word in table[split])
    filled += tuple(f"{word}s?" for split in SPLITS for word in THINGS[split])
    masked = re.sub(rf"\b({'|'.join(filled)})\b", "_", text, flags=re.IGNORECASE)
    return re.sub(r"_( _)+|\d+(\.5)?(st|nd|rd|th)?", "_", masked)


def pairs(name, split):
    rows = written.rows(name, split)
    return [(texts[0], answer) for texts, answer in zip(rows.texts, rows.labels, strict=True)]


@grammars
def test_pools_have_their_sizes_and_no_text_twice(name):
    train, test = (written.rows(name, split).texts for split in SPLITS)
    assert (len(train), len(test)) == (written.TRAIN_ROWS, written.TEST_ROWS)
    assert len({*train, *test}) == len(train) + len(test)


@grammars
def test_wordings_of_the_test_split_are_in_no_row_of_training(name):
    train, test = ({skeleton(text) for text, _ in pairs(name, split)} for split in SPLITS)
    assert len(test) >= 3
    assert not train & test
    wordings = GRAMMARS[name].wordings
    assert not {*wordings["train"]} & {*wordings["test"]}


@grammars
def test_every_wording_of_a_split_is_written(name):
    for split in SPLITS:
        texts = "\n".join(text for text, _ in pairs(name, split))
        for template in GRAMMARS[name].wordings[split]:
            parts = [re.escape(part) for part in re.split(r"\{\w+\}", template)]
            assert re.search(".+".join(parts), texts, flags=re.IGNORECASE), template


def test_what_rows_are_about_is_of_one_split():
    for table in (NAMES, CITIES, THINGS):
        assert not {*table["train"]} & {*table["test"]}
    named = [{named_day(text) for text, _ in pairs("dates", split)} for split in SPLITS]
    asked = [{asked_units(text)[:2] for text, _ in pairs("units", split)} for split in SPLITS]
    assert not named[0] & named[1]
    assert not asked[0] & asked[1]


@pytest.mark.parametrize("split", SPLITS)
def test_dates_are_right_by_the_calendar(split):
    kinds = set()
    for text, answer in pairs("dates", split):
        named, asked = named_day(text), datetime.date.fromisoformat(answer)
        days = (asked - named).days
        back = re.search(r"\b(before|earlier|ahead)\b", text) is not None
        weekdays = [WEEKDAYS.index(word) for word in re.findall("|".join(WEEKDAYS), text)]
        number = re.search(rf"\b(\d+|{'|'.join(_NUMBERS)}) days\b", text)
        assert not weekdays or named.weekday() in weekdays
        if number:
            said = number[1]
            assert abs(days) == (int(said) if said.isdigit() else _NUMBERS.index(said))
            assert (days < 0) == back
        elif len(weekdays) == 2:
            assert asked.weekday() in weekdays
            assert (-7 if back else 1) <= days <= (-1 if back else 7)
        else:
            assert days == 0
        kinds.add("days" if number else len(weekdays))
    assert kinds == {"days", 0, 1, 2}


def named_day(text):
    """The date that is named: its day stands beside the month, before it or after."""
    month = "|".join(MONTHS)
    found = (
        re.search(rf"(\d+)(?:st|nd|rd|th)?(?: day)?(?: of)? ({month})(?: in)?(?: (\d{{4}}))", text)
        or re.search(rf"(?P<m>{month})(?: the)? (?P<d>\d+)(?:st|nd|rd|th)?(?:,| of)? (?P<y>\d{{4}})", text)
        or re.search(rf"(?P<y>\d{{4}}), (?P<m>{month}) (?P<d>\d+)", text)
    )
    day, name, year = (found["d"], found["m"], found["y"]) if found.re.groupindex else found.groups()
    return datetime.date(int(year), MONTHS.index(name) + 1, int(day))


@pytest.mark.parametrize("split", SPLITS)
def test_orders_hold_what_was_said_and_nothing_else(split):
    changed = 0
    for text, answer in pairs("orders", split):
        order = json.loads(answer)
        assert order["to"]["name"] in text
        assert order["to"]["city"] in text
        assert order["express"] == bool(re.search("express|fast|urgent", text))
        said = [
            (int(n) if n.isdigit() else _NUMBERS.index(n.lower()), colour, thing)
            for n, colour, thing in re.findall(
                rf"\b(\d+|{'|'.join(_NUMBERS)}) (?:(red|blue|green|white|black|yellow) )?(\w+)s\b", text, re.IGNORECASE
            )
        ]
        of_order = [(item["n"], item.get("colour", ""), item["item"]) for item in order["items"]]
        if len(said) > len(of_order):  # the last number puts the first right
            (number, _, thing), changed = said.pop(), changed + 1
            assert said[0][2] == thing
            assert said[0][0] != number
            said[0] = (number, *said[0][1:])
        assert said == of_order
    assert changed > 100


@pytest.mark.parametrize("split", SPLITS)
def test_conversions_are_right_in_both_steps(split):
    for text, answer in pairs("units", split):
        value, given, wanted = asked_units(text)
        amount = Fraction(value) * UNITS[given]
        between, last = (part.split() for part in answer.split(" = "))
        for number, unit in (between, last):
            assert int(number) * UNITS[unit] == amount
        assert UNITS[last[1]] == UNITS[wanted]
        assert UNITS[given] > UNITS[between[1]] > UNITS[last[1]]


def asked_units(text):
    value = re.search(r"\d+(\.5)?", text)[0]
    words = [word for word in re.findall(r"[a-z]+", text) if len(word) > 3 and word in UNITS]
    given = re.search(rf"{re.escape(value)} (\w+)", text)[1]
    return value, given, next(word for word in words if word != given)


def test_rows_are_the_same_in_every_process():
    code = (
        "from bench.tasks import written; from bench.tasks.rows import content_sha256;"
        "print(*(content_sha256([written.rows(g, s) for s in ('train', 'test')]) for g in written.GRAMMARS))"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}).stdout
    from bench.tasks.rows import content_sha256

    assert other.split() == [content_sha256([written.rows(name, split) for split in SPLITS]) for name in GRAMMARS]


# as tasks


def test_they_are_tasks_of_text_wherever_tasks_are_named():
    assert {name: spec.grammar for name, spec in TASKS.items()} == {name: name for name in GRAMMARS}
    assert {*TASKS} <= {*task_names()}
    for spec in TASKS.values():
        assert (spec.kind, spec.metrics) == ("text", ("exact_match", "answer_nats"))
        assert spec.origin.startswith("generated: ")


@grammars
def test_the_source_says_that_rows_are_generated(name):
    located = locate("auto", [TASKS[name]])
    source = located.sources[name]
    assert (source.kind, source.path) == ("generated", None)
    assert source.reason == f"{name}: {TASKS[name].origin}"
    assert source.place == f"generated, grammar {name}"
    data = load_task(TASKS[name], source, 50, 20)
    assert (len(data.train), len(data.test), data.source) == (50, 20, "generated")
    assert all(texts[0].endswith(":\n") for texts in data.train.texts)
    assert len(load_trial(TASKS[name], source, 50, 10).train) == 40


@pytest.mark.parametrize("data", ["hub", "index", "synthetic", "folder"])
def test_data_that_would_decide_nothing_is_refused(data, tmp_path):
    asked = str(tmp_path) if data == "folder" else data
    with pytest.raises(BenchError, match=f"data {asked}: dates has its rows from a grammar of its own; leave data out"):
        locate(asked, [TASKS["dates"]])


def test_a_table_of_a_user_s_own_may_take_a_grammar_with_another_prompt():
    table = {"name": "mine", "kind": "text", "grammar": "units", "text": "q", "prompt": "Q: {q} A:"}
    spec = parse_task(table, "suite.toml: task[0]")
    located = locate("auto", [spec])
    assert load_task(spec, located.sources["mine"], 5, 5).test.texts[0][0].startswith("Q: ")
    assert located.reasons == ("mine: generated: rows that a grammar of this project writes",)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grammar": "date"}, r"task mine: unknown grammar 'date'; .* Did you mean 'dates'\?"),
        ({"kind": "score"}, r"grammar writes rows of one text for kind = 'text'"),
        ({"text": ["a", "b"]}, r"grammar writes rows of one text for kind = 'text'"),
        ({"hub": "a/b"}, "give exactly one of train, hub, index and grammar, not hub and grammar"),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence(changes, sentence):
    table = {"name": "mine", "kind": "text", "grammar": "dates", "text": "q"} | changes
    with pytest.raises(BenchError, match=sentence):
        locate("auto", [parse_task(table, "suite.toml: task[0]")])


def test_a_trial_and_its_source_know_no_other_grammar():
    with pytest.raises(BenchError, match="unknown grammar 'riddles'"):
        load_task(TASKS["dates"].model_copy(update={"grammar": "riddles"}), Source("generated", None, ""), 1, 1)

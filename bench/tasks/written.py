"""Rows of text that grammars write: dates in words, orders, conversions of units; each split has wordings of its own.

A row is what somebody says and what is to be written for it. Wordings of the test split are in no row of training, and
neither is what they are about: the date that is named, who orders what, the number that is converted.
"""

import datetime
import functools
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from bench.errors import unknown
from bench.schema.task import TaskSpec
from bench.tasks.own import prompted
from bench.tasks.rows import Rows, is_test

Split = Literal["train", "test"]
TRAIN_ROWS = 4000
"""Rows of every training pool."""
TEST_ROWS = 800
"""Rows of every test pool."""
_TEST_SHARE = 0.2
"""Of dates and of conversions, those that are asked for in the test split alone."""


class Grammar(NamedTuple):
    """Of one task."""

    draw: Callable[[random.Random, Split], tuple[str, str]]
    """Writes what somebody says, and what is to be written for it."""
    wordings: Mapping[Split, tuple[str, ...]]
    """Every template of a split."""


def rows(grammar: str, split: Split) -> Rows:
    """All rows of one split: no text twice, the same on every machine.

    Args:
        grammar: ``dates``, ``orders`` or ``units``.
        split: Which rows.

    Raises:
        BenchError: There is no such grammar.
    """
    check(grammar)
    return _rows(grammar, split)


def check(grammar: str, where: str = "") -> None:
    """Refuse a name that no grammar has.

    Raises:
        BenchError: It lists those that there are; ``where`` is what names it.
    """
    if grammar not in GRAMMARS:
        raise unknown("grammar", grammar, GRAMMARS, where)


def read_split(spec: TaskSpec, split: Split) -> Rows:
    """The rows of one split of a task with a grammar, as the prompts and targets of a language model.

    Raises:
        BenchError: There is no such grammar.
    """
    assert spec.grammar is not None, "a generated source is that of a task with a grammar"
    every = rows(spec.grammar, split)
    return Rows(tuple((prompted(spec, texts),) for texts in every.texts), every.labels)


@functools.lru_cache(maxsize=6)
def _rows(grammar: str, split: Split) -> Rows:
    rng = random.Random(f"peft-ledger {grammar} {split}")  # a text seed is hashed with sha512: equal on every platform
    wanted = TRAIN_ROWS if split == "train" else TEST_ROWS
    found: dict[str, str] = {}
    while len(found) < wanted:
        text, answer = GRAMMARS[grammar].draw(rng, split)
        found.setdefault(text, answer)
    return Rows(tuple((text,) for text in found), tuple(found.values()))


def _of_split(key: str, split: Split) -> bool:
    return is_test((key,), _TEST_SHARE) == (split == "test")


_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()


def _number(rng: random.Random, value: int) -> str:
    """``value`` in digits, or in words."""
    return str(value) if rng.random() < 0.5 else _NUMBERS[value]


# Dates

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
_FIRST_DAY, _LAST_DAY = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
_MOST_DAYS = 20
"""Days that a date lies before or after another one."""

_DATES: dict[Split, tuple[str, ...]] = {
    "train": ("{day} {month} {year}", "{month} {day}, {year}", "the {nth} of {month} {year}", "{month} {nth}, {year}"),
    "test": ("{nth} {month} {year}", "{year}, {month} {day}", "the {nth} day of {month} in {year}",
             "{month} the {nth} of {year}"),
}  # fmt: skip
"""A date that is named; what is asked for is it, or lies some days or weekdays from it."""
_PLAIN: dict[Split, tuple[str, ...]] = {
    "train": ("{date}", "on {date}", "it was {weekday}, {date}"),
    "test": ("dated {date}", "the letter of {date}", "{date}, which was a {weekday}"),
}
_DAYS: dict[Split, tuple[tuple[str, int], ...]] = {
    "train": (("{number} days after {date}", 1), ("{number} days before {date}", -1), ("{date} plus {number} days", 1)),
    "test": (("{date}, and then {number} days later", 1), ("{number} days earlier than {date}", -1),
             ("{number} days on from {date}", 1)),
}  # fmt: skip
_WEEKDAYS: dict[Split, tuple[tuple[str, int], ...]] = {
    "train": (("the first {other} after {weekday}, {date}", 1), ("the last {other} before {weekday}, {date}", -1)),
    "test": (("{date} is a {weekday}: the next {other}", 1), ("the {other} just ahead of {date}, a {weekday}", -1)),
}


def _dates(rng: random.Random, split: Split) -> tuple[str, str]:
    """A date in words, in a third of the rows some days from the one that is named, in a fifth some weekdays."""
    kind = rng.choices(("plain", "days", "weekdays"), weights=(47, 33, 20))[0]
    named = _named_day(rng, split)
    number, other = rng.randint(1, _MOST_DAYS), rng.randint(1, 7)
    if kind == "plain":
        template, days = rng.choice(_PLAIN[split]), 0
    elif kind == "days":
        template, sign = rng.choice(_DAYS[split])
        number = max(number, 2)
        days = sign * number
    else:
        template, sign = rng.choice(_WEEKDAYS[split])
        days = sign * other
    asked = named + datetime.timedelta(days=days)
    text = template.format(
        date=_in_words(rng, named, split), number=_number(rng, number), weekday=WEEKDAYS[named.weekday()],
        other=WEEKDAYS[asked.weekday()],
    )  # fmt: skip
    return text, asked.isoformat()


def _named_day(rng: random.Random, split: Split) -> datetime.date:
    while True:
        day = _FIRST_DAY + datetime.timedelta(days=rng.randint(0, (_LAST_DAY - _FIRST_DAY).days))
        if _of_split(day.isoformat(), split):
            return day


def _in_words(rng: random.Random, day: datetime.date, split: Split) -> str:
    template = rng.choice(_DATES[split])
    return template.format(day=day.day, nth=_nth(day.day), month=MONTHS[day.month - 1], year=day.year)


def _nth(day: int) -> str:
    ending = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


# Orders

NAMES: dict[Split, tuple[str, ...]] = {
    "train": tuple("Ana Boris Carla Daniel Emma Felix Greta Hugo Ines Jonas Karla Leon Marta Nils Olga Paul".split()),
    "test": tuple("Alma Bruno Clara David Elsa Frank Helen Ivan".split()),
}
CITIES: dict[Split, tuple[str, ...]] = {
    "train": tuple("Lima Oslo Paris Rome Madrid Berlin Vienna Dublin Boston Cairo Delhi Tokyo".split()),
    "test": tuple("London Athens Lisbon Prague Sydney Chicago".split()),
}
THINGS: dict[Split, tuple[str, ...]] = {
    "train": tuple("mug lamp chair table pen notebook bottle clock plate pillow basket bucket ladder mirror".split()),
    "test": tuple("cup desk pencil blanket bag spoon hat towel".split()),
}
_COLOURS = ("red", "blue", "green", "white", "black", "yellow")
_MOST = 12
_ORDERS: dict[Split, tuple[str, ...]] = {
    "train": ("Please send {items} to {name} in {city}{soon}.", "{name} in {city} ordered {items}{soon}.",
              "I need {items} for {name}, {city}{soon}."),
    "test": ("{items} should go to {name}, who lives in {city}{soon}.", "Ship {name} of {city} {items}{soon}.",
             "An order came in from {city}{soon}: {name} wants {items}."),
}  # fmt: skip
_SOON: dict[Split, tuple[str, ...]] = {
    "train": (" by express", ", as fast as you can"),
    "test": (", and it is urgent", " by the fastest way"),
}
_CHANGED: dict[Split, tuple[str, ...]] = {
    "train": (" No, make that {number} {thing}.", " Sorry, {number} {thing}."),
    "test": (" On second thoughts, {number} {thing}.", " Wait: it is {number} {thing}."),
}
"""Said after an order whose first number was wrong."""


def _orders(rng: random.Random, split: Split) -> tuple[str, str]:
    """An order of one or two things in a sentence; in a fifth of the rows another one puts a number right."""
    things = rng.sample(THINGS[split], rng.choice((1, 2)))
    items = [_item(rng, thing) for thing in things]
    said = " and ".join(_said(rng, item) for item in items)
    name, city = rng.choice(NAMES[split]), rng.choice(CITIES[split])
    urgent = rng.random() < 0.4
    soon = rng.choice(_SOON[split]) if urgent else ""
    text = rng.choice(_ORDERS[split]).format(items=said, name=name, city=city, soon=soon)
    if rng.random() < 0.2:
        items[0]["n"] = rng.choice([n for n in range(2, _MOST + 1) if n != items[0]["n"]])
        changed = {"number": _number(rng, items[0]["n"]), "thing": _plural(things[0])}
        text += rng.choice(_CHANGED[split]).format(**changed)
    answer = {"to": {"name": name, "city": city}, "items": items, "express": urgent}
    return text[0].upper() + text[1:], json.dumps(answer)


def _item(rng: random.Random, thing: str) -> dict[str, Any]:
    colour = {"colour": rng.choice(_COLOURS)} if rng.random() < 0.5 else {}
    return {"n": rng.randint(2, _MOST), "item": thing} | colour


def _said(rng: random.Random, item: Mapping[str, Any]) -> str:
    colour = f"{item['colour']} " if "colour" in item else ""
    return f"{_number(rng, item['n'])} {colour}{_plural(item['item'])}"


def _plural(thing: str) -> str:
    return f"{thing}s"


# Units


class _Chain(NamedTuple):
    """Two conversions, one after the other."""

    units: tuple[str, str, str]
    """As the answer writes them."""
    asked: tuple[str, str]
    """The first and the last in words."""
    factors: tuple[int, int]
    halves: bool
    """Whether half a unit is asked for too."""


_CHAINS = (
    _Chain(("km", "m", "cm"), ("kilometres", "centimetres"), (1000, 100), True),
    _Chain(("m", "dm", "mm"), ("metres", "millimetres"), (10, 100), True),
    _Chain(("t", "kg", "g"), ("tonnes", "grams"), (1000, 1000), True),
    _Chain(("kg", "g", "mg"), ("kilograms", "milligrams"), (1000, 1000), True),
    _Chain(("l", "dl", "ml"), ("litres", "millilitres"), (10, 100), True),
    _Chain(("wk", "d", "h"), ("weeks", "hours"), (7, 24), False),
    _Chain(("d", "h", "min"), ("days", "minutes"), (24, 60), False),
    _Chain(("h", "min", "s"), ("hours", "seconds"), (60, 60), True),
    _Chain(("yd", "ft", "in"), ("yards", "inches"), (3, 12), False),
    _Chain(("gross", "dozen", "pieces"), ("gross", "pieces"), (12, 12), False),
)
_MOST_UNITS = 150
_UNITS: dict[Split, tuple[str, ...]] = {
    "train": ("{value} {given} in {wanted}", "How many {wanted} are {value} {given}?",
              "Convert {value} {given} to {wanted}."),
    "test": ("Express {value} {given} as {wanted}.", "{value} {given} makes how many {wanted}?",
             "What do you get for {value} {given} when you count in {wanted}?"),
}  # fmt: skip


def _units(rng: random.Random, split: Split) -> tuple[str, str]:
    """A number of units in words; its answer names the unit between: ``2 weeks in hours``, ``14 d = 336 h``."""
    while True:
        chain = rng.choice(_CHAINS)
        halves = rng.randint(4, 2 * _MOST_UNITS) if chain.halves else 2 * rng.randint(2, _MOST_UNITS)
        if _of_split(f"{halves / 2:g} {chain.units[0]}", split):
            break
    first, second = chain.factors
    between, last = halves * first // 2, halves * first * second // 2
    given, wanted = chain.asked
    text = rng.choice(_UNITS[split]).format(value=f"{halves / 2:g}", given=given, wanted=wanted)
    return text, f"{between} {chain.units[1]} = {last} {chain.units[2]}"


def _wordings(*tables: Mapping[Split, tuple[str, ...] | tuple[tuple[str, int], ...]]) -> dict[Split, tuple[str, ...]]:
    """Every template of some tables, by split."""
    splits: tuple[Split, ...] = ("train", "test")
    return {
        split: tuple(one if isinstance(one, str) else one[0] for table in tables for one in table[split])
        for split in splits
    }


GRAMMARS = {
    "dates": Grammar(_dates, _wordings(_DATES, _PLAIN, _DAYS, _WEEKDAYS)),
    "orders": Grammar(_orders, _wordings(_ORDERS, _SOON, _CHANGED)),
    "units": Grammar(_units, _wordings(_UNITS)),
}
"""By the name that ``grammar`` of a task gives."""

"""What the figures of one run share: its tables, the words around them, one colour and one marker for each method."""

import ast
import functools
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from bench.analysis.results import Results
from bench.analysis.tuning import RateChange
from bench.report import format as fmt
from bench.report.charts.canvas import COUNTED, Words
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord, ScoreRecord, Shape

TABLE = Path(__file__).with_name("looks.toml")
FILLS = ("full", "left", "right", "bottom", "top")
"""Of the markers of one method's configurations; an empty marker means a merged model."""
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
SHADES = (0.0, -0.4, 0.45)
"""How far the configurations of one method lie from its colour: towards black below 0, towards white above."""
LONGEST = 30
"""Characters of a method label in a figure; the tables carry it in full."""
OTHERS = "other methods"
"""Group of methods that the table does not list, and title of groups that have no room for theirs."""
_LISTED = 2
"""Entries of a list up to which a label spells them."""


Marker = str | tuple[tuple[float, float], ...]
"""A letter of matplotlib's, or the corners of a shape, the first again as the last."""


@dataclass(frozen=True)
class Look:
    """How one method appears in every figure."""

    text: str
    colour: str
    marker: Marker
    group: str = ""
    """Of methods that are drawn together where there are many."""
    fill: str = "full"
    line: str | tuple[int, tuple[float, ...]] = "-"
    is_baseline: bool = False


Looks = Mapping[str, Look]


def looks(labels: Sequence[str], baseline: str) -> dict[str, Look]:
    """The look of each label: colour and marker by method, fill, line and shade by configuration.

    Args:
        labels: As the suite spells them, ``lora(rank=8)``.
        baseline: The label that others are compared with.
    """
    seen: dict[str, int] = {}
    chosen: dict[str, tuple[str, Marker, str]] = {}
    for name in sorted({label.partition("(")[0] for label in labels}):  # whatever the suite's order
        chosen[name] = _named().get(name) or _derived(name, {pair[:2] for pair in chosen.values()})
    found: dict[str, Look] = {}
    for label, text in zip(labels, _texts(labels), strict=True):
        name = label.partition("(")[0]
        (colour, marker, group), at = chosen[name], seen.get(name, 0)
        seen[name] = at + 1
        found[label] = Look(
            text, shade(colour, SHADES[at % len(SHADES)]), marker, group, FILLS[at % len(FILLS)],
            LINES[at % len(LINES)], label == baseline,
        )  # fmt: skip
    return found


def groups(style: Looks, names: Sequence[str], most: int) -> list[tuple[str, list[str]]]:
    """``names`` by group in order of first appearance, each with its title.

    A group of more than ``most`` is divided by method, and a method with more configurations evenly; a method that is
    the only one of its group joins the one before.
    """
    divided: dict[str, list[str]] = {}
    for name in names:
        mates = [other for other in names if style[other].group == style[name].group]
        title = style[name].group if len(mates) <= most else name.partition("(")[0]
        divided.setdefault(title, []).append(name)
    found: list[tuple[str, list[str]]] = []
    for title, members in divided.items():
        if len(members) == 1 and found and len(found[-1][1]) < most:
            before, others = found.pop()
            joined = f"{before}, {title}"
            found.append((joined if len(joined) <= LONGEST else OTHERS, [*others, *members]))
        else:
            title = style[members[0]].group if len(members) == 1 else title
            found += [(_cut(title), part) for part in _evenly(members, most)]
    return found


def _evenly(names: list[str], most: int) -> Iterator[list[str]]:
    parts = -(-len(names) // most)
    size = -(-len(names) // parts)
    return (names[at : at + size] for at in range(0, len(names), size))


def shade(colour: str, share: float) -> str:
    """``colour`` moved by ``share`` of the way towards black (below 0) or white (above)."""
    target = 255 if share > 0 else 0
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + abs(share) * (target - part)):02X}" for part in parts)


@functools.cache
def _named() -> dict[str, tuple[str, Marker, str]]:
    """Method -> colour, marker and group."""
    tables = tomllib.loads(TABLE.read_text())
    return {
        name: (colour, marker if isinstance(marker, str) else tuple((x, y) for x, y in (*marker, marker[0])), group)
        for group, part in tables.items()
        for name, (colour, marker) in part.items()
    }


def _derived(name: str, taken: set[tuple[str, Marker]]) -> tuple[str, Marker, str]:
    """Colour and marker of a method that the table does not list, by its name alone.

    A pair that a listed method or another one of the run has is passed over.
    """
    listed = _named().values()
    taken = taken | {pair[:2] for pair in listed}
    colours, markers = (list(dict.fromkeys(column)) for column in list(zip(*listed, strict=True))[:2])
    pairs = [(colour, marker) for colour in colours for marker in markers]
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % len(pairs)
    free = (pair for pair in (*pairs[start:], *pairs[:start]) if pair not in taken)
    return (*next(free, pairs[start]), OTHERS)


def _texts(labels: Sequence[str]) -> list[str]:
    """What figures write for each label: at most `LONGEST` characters, no two alike."""
    found: list[str] = []
    for label in labels:
        text = fmt.plain(label)
        text = text if len(text) <= LONGEST else _cut(_telling(label, labels) or text)
        alike = sum(other.partition("…#")[0] == text for other in found)
        found.append(f"{text}…#{alike + 1}" if alike else text)
    return found


def _cut(text: str) -> str:
    """At most `LONGEST` characters; a name keeps both its ends, a call its beginning."""
    if len(text) <= LONGEST:
        return text
    end = 0 if "(" in text else LONGEST // 2
    return f"{text[: LONGEST - 1 - end]}…{text[len(text) - end :]}"


def _telling(label: str, labels: Sequence[str]) -> str | None:
    """A label by its first argument and those that no other of the same beginning has; None where it has none.

    ``peft(peft_type='LORA', r=8, use_dora=True)`` beside ``peft(peft_type='LORA', r=8)`` is ``peft('LORA', …,
    use_dora=True)``. Where that is too long, names of arguments that have a value of their own are left out, and long
    lists are counted: ``lora(4, 6 targets)``; where that is too long as well and the first argument tells it from all
    others, it stands alone: ``peft('OFT', …)``.
    """
    own = _arguments(label)
    if own is None:
        return None
    alike = [other for other in map(_arguments, labels) if other and other[:2] == own[:2] and other != own]
    told = [argument for argument in own[2] if all(argument not in other[2] for other in alike)]
    left_out = ["…"] * (len(told) < len(own[2]))
    whole = _call(own, [*left_out, *(f"{key}={value}" for key, value in told)])
    if len(whole) <= LONGEST:
        return whole
    brief = _call(own, [*left_out, *(_short(key, value) for key, value in told)])
    return brief if alike or len(brief) <= LONGEST else _call(own, ["…"])


def _short(key: str, value: str) -> str:
    read = ast.parse(value, mode="eval").body
    if isinstance(read, ast.List) and len(read.elts) > _LISTED:
        return f"{len(read.elts)} {key}"
    return {"True": key, "False": f"{key}=False"}.get(value, value)


def _call(own: tuple[str, str, object], rest: Sequence[str]) -> str:
    return fmt.plain(f"{own[0]}({', '.join([own[1], *rest])})")


def _arguments(label: str) -> tuple[str, str, tuple[tuple[str, str], ...]] | None:
    """Name, value of the first argument, a long list counted, and the others, key and value.

    None where ``label`` has none.
    """
    try:
        call = ast.parse(label, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # a label of a damaged record is shown as it stands
    if not isinstance(call, ast.Call) or not call.keywords:
        return None
    first, *others = call.keywords
    rest = tuple((one.arg or "**", ast.unparse(one.value)) for one in others)
    return ast.unparse(call.func), _short(first.arg or "**", ast.unparse(first.value)), rest


class Sheet:
    """What the figures of one run share: its results, and how they are worded and drawn."""

    def __init__(self, results: Results, change: RateChange | None = None) -> None:
        """Of a run as read.

        Args:
            results: Of the run.
            change: What a search for learning rates changed, where the reader gave one.
        """
        self.results, self.change = results, change
        self.run = results.run
        self.labels = results.labels
        self.baseline = results.baseline
        self.name = fmt.plain(self.baseline)
        """Of the baseline, as figures write it."""

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Look of each method."""
        return looks(self.labels, self.baseline)

    @cached_property
    def cost_records(self) -> dict[str, CostRecord]:
        """What was measured without fault on the first shape, by label, in the suite's order."""
        return self.results.measured()

    @cached_property
    def shape(self) -> Shape | None:
        """The shape that is drawn."""
        return next(iter(self.results.shapes), None)

    @property
    def costs(self) -> pd.DataFrame:
        """Costs on the shape that is drawn."""
        return self.results.cost_table()

    @cached_property
    def inference_length(self) -> int | None:
        """Tokens of each row of inference on the shape that is drawn, where a record or the suite says so."""
        return facts.inference_length(self.results, self.shape)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """The A/A controls by name, of the shape that is drawn."""
        return self.results.controls(self.shape).set_index("name")

    @cached_property
    def score_records(self) -> list[ScoreRecord]:
        """Scores without fault."""
        return [record for record in self.results.score_records if record.status == "ok"]

    @cached_property
    def peak_source(self) -> str | None:
        """What measured peak memory."""
        return next((s for s in self.costs["peak_memory_source"] if isinstance(s, str)), None)

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks of the suite, then those that only records know."""
        return list(dict.fromkeys([*self.results.tasks, *(record.task_name for record in self.score_records)]))

    @cached_property
    def seeds(self) -> int:
        """How many seeds were asked for."""
        return len(self.results.seeds)

    @cached_property
    def _backbone(self) -> str:
        return facts.backbone(self.results)

    @cached_property
    def _machine(self) -> str:
        return facts.this_machine(self.results)

    def words(self, title: str, caption: str, *badges: str, shape: str | None = None) -> Words:
        """Title, line below it, caption and badges of a figure.

        Args:
            title: What it shows.
            caption: What is measured, its unit, n and interval.
            badges: Of ``counted``, ``timed``, ``measured`` and ``scored`` those that hold.
            shape: What was measured on; None: the probe's shape, where anything but scores is shown.
        """
        said = {
            "counted": COUNTED,
            "timed": f"timed · this machine: {self._machine}",
            "measured": f"measured · this machine: {self._machine}",
            "scored": "scored · SYNTHETIC data" if self.results.is_synthetic else "scored",
        }
        parts = [fmt.plain(self.run.suite.name), self._backbone]
        if shape is None and self.shape and set(badges) != {"scored"}:
            shape = facts.shape_line(self.shape)
        parts += [shape] if shape else []
        return Words(title, caption, " · ".join(parts), tuple(said[badge] for badge in badges))

"""Gives each method one colour and one mark, by its place in the suite: the same in every figure of a run."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report import format as fmt

PALETTE = (
    *("#0072B2", "#EE6677", "#009E73", "#CCBB44", "#332288", "#33BBEE"),
    *("#AA3377", "#997700", "#CC79A7", "#666633", "#661100", "#663333"),
)
"""From the colour-blind safe sets of Okabe and Ito (2008, "Color Universal Design") and of Paul Tol (2021, "Colour
Schemes", SRON/EPS/TN/09-002), those twelve that lie furthest apart also where a kind of cone is missing."""
MARKERS = "osD^vPX<>pH"
"""Their number and that of the colours have no common factor: 132 methods pass before a pair comes again."""
BASELINE_COLOUR, BASELINE_MARKER = "#000000", "*"
LONGEST = 30
"""Characters of a method label in a figure; the tables carry it in full."""


@dataclass(frozen=True)
class Look:
    """How one method appears in every figure."""

    text: str
    colour: str
    marker: str


Looks = Mapping[str, Look]


def looks(labels: Sequence[str], baseline: str) -> dict[str, Look]:
    """Colour, marker and text of each method by its place among ``labels``; the baseline is a black star."""
    found: dict[str, Look] = {}
    place = 0
    for label in labels:
        text = fmt.plain(label)
        text = text if len(text) <= LONGEST else _cut(_telling(label, labels) or text)
        if label == baseline:
            found[label] = Look(text, BASELINE_COLOUR, BASELINE_MARKER)
        else:
            found[label] = Look(text, PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
            place += 1
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _telling(label: str, labels: Sequence[str]) -> str | None:
    """A label by its first argument and those that no other of the same beginning has; None where it has none.

    ``peft(peft_type='LORA', r=8, use_dora=True)`` beside ``peft(peft_type='LORA', r=8)`` is ``peft('LORA', …,
    use_dora=True)``. Where that is too long, names of arguments that have a value of their own are left out.
    """
    own = _arguments(label)
    if own is None:
        return None
    alike = [other for other in map(_arguments, labels) if other and other[:2] == own[:2] and other != own]
    told = [argument for argument in own[2] if all(argument not in other[2] for other in alike)]
    left_out = ["…"] * (len(told) < len(own[2]))
    spelled = [f"{key}={value}" for key, value in told]
    whole = _call(own, [*left_out, *spelled])
    if len(whole) <= LONGEST:
        return whole
    short = {"True": "{key}", "False": "{key}=False"}
    return _call(own, [*left_out, *(short.get(value, "{value}").format(key=key, value=value) for key, value in told)])


def _call(own: tuple[str, str, object], rest: Sequence[str]) -> str:
    return fmt.plain(f"{own[0]}({', '.join([own[1], *rest])})")


def _arguments(label: str) -> tuple[str, str, tuple[tuple[str, str], ...]] | None:
    """Name, value of the first argument, and the others, key and value; None where ``label`` has none."""
    try:
        call = ast.parse(label, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # a label of a damaged record is shown as it stands
    if not isinstance(call, ast.Call) or not call.keywords:
        return None
    first, *others = call.keywords
    rest = tuple((one.arg or "**", ast.unparse(one.value)) for one in others)
    return ast.unparse(call.func), ast.unparse(first.value), rest

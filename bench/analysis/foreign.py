"""What results of others are here: figures in our units, each with the figure of ours that means the same, or why none.

Files of others are bounded before anything is made of them, and a fault is one sentence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, first_fault

LARGEST_FILE = 32 * 2**20
"""Bytes; what these programs write is far below one MiB, but for samples, which they keep in files of their own."""
Number = Annotated[float, Field(strict=True, ge=0, le=1e18, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True, ge=0, le=10**15)]
Signed = Annotated[float, Field(strict=True, ge=-1e18, le=1e18, allow_inf_nan=False)]
Form = TypeVar("Form", bound=BaseModel)

ALL_TRAINS = "full fine-tuning"
"""How these programs say that everything trains: by naming no adapter."""
RESERVED = "reserved by the allocator{}, free blocks among it; ours is what tensors take at the peak of a step"


class Lenient(BaseModel):
    """A table of another program: what is read of it is typed, all else is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Theirs(NamedTuple):
    """One figure of another program."""

    field: str
    """Dotted name, as in their file."""
    value: float
    """In our unit: bytes, seconds, counts, shares."""
    unit: str
    ours: tuple[str, ...] = ()
    """Dotted names of the figures of ours that mean the same, as in `bench.schema.figures`; empty: none does."""
    depends: tuple[str, ...] = ()
    """Settings that it depends on beside method and backbone."""
    alike: bool = True
    """Whether both are the same to the last digit where all agrees and both are counted."""
    why: str = ""
    """Why they mean the same and what remains between them; of a figure without counterpart: why there is none."""


@dataclass(frozen=True)
class Adapted:
    """How somebody adapted the backbone."""

    kind: str | None
    """Their name of the method, or a label of ours where the user says so; None: the file does not say."""
    config: Mapping[str, Any] = field(default_factory=dict)
    ours: bool = False
    """Whether ``kind`` is a label of the run."""


@dataclass(frozen=True)
class Foreign:
    """One measurement of another program: one method on one setting, or one task."""

    file: str
    form: str
    """Which program's."""
    name: str
    """What their file calls it."""
    method: Adapted
    backbone: str | None
    """None: the file does not say."""
    setting: Mapping[str, Any]
    """By the names of our shapes; None: the file does not say."""
    figures: tuple[Theirs, ...]

    def of(self, label: str) -> "Foreign":
        """The same, of the method that a label of ours names."""
        return replace(self, method=Adapted(label, ours=True))


def computed(dtype: str, autocast: str | None, adapted: bool) -> str:
    """How weights are held and what is computed in, by our name where we have the same.

    Ours under autocast holds frozen weights in bfloat16 and what trains in float32, as peft does of a backbone in
    bfloat16; a backbone in float32 under autocast is another setting, and so is one that trains in bfloat16.

    Args:
        dtype: Type of the backbone's weights.
        autocast: Type that autocast computes in; None: there is none.
        adapted: Whether peft adds what trains.
    """
    if autocast is None:
        return dtype
    if dtype == autocast == "bfloat16" and adapted:
        return "bfloat16_autocast"
    return f"{dtype} under {autocast} autocast"


def table(path: Path) -> dict[str, Any]:
    """The JSON object of a file; NaN, which Python's own writer writes, is null.

    Raises:
        BenchError: It cannot be read, is larger than `LARGEST_FILE`, or holds no JSON object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); give a file of results") from error
    if len(text) > LARGEST_FILE:
        raise BenchError(f"{path}: larger than {LARGEST_FILE // 2**20} MiB, which no file of results is; give another")
    try:
        found = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=lambda _: None)
    except RecursionError:
        raise BenchError(f"{path}: not a JSON file of results (it is nested too deeply); give another") from None
    except ValueError as error:
        raise BenchError(f"{path}: not JSON ({str(error)[:120]}); give a file of results") from error
    if not isinstance(found, dict):
        raise BenchError(f"{path}: holds no table of results but a {type(found).__name__}; give a file of results")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} is listed twice")
    return values


def parsed(model: type[Form], values: Any, path: Path, form: str, at: str = "") -> Form:
    """``values`` as ``model``.

    Args:
        model: What the program writes.
        values: What the file holds.
        path: The file, for the sentence.
        form: The program, for the sentence.
        at: Dotted name of the place of ``values`` in the file.

    Raises:
        BenchError: A field is missing, or holds what the program never writes.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        fault = first_fault(error, values)
        place = ".".join(filter(None, (at, fault.place)))[:200]
        if fault.kind == "missing":
            raise BenchError(f"{path}: {place} is missing; results of {form} have it") from error
        given, message = str(fault.given)[:40], fault.message
        message = "it must be a table" if fault.kind == "model_type" else message
        raise BenchError(f"{path}: {place} = {given!r} does not fit results of {form} ({message})") from error

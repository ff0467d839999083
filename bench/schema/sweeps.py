"""Sweeps of a suite: which quantity varies over which values, and which curves are compared."""

import itertools
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.schema.forms import Device
from bench.schema.shape import StepForm

SWEPT = ("length", "batch", "layers", "width")
"""Quantities that may be swept; beside them any whole number of a method's configuration, as ``config.rank``."""
Figure = Literal["peak_memory", "saved_activations", "training_flops"]
"""``peak_memory`` of one training step; ``training_flops`` of its forward and backward."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SweepTable(StepForm):
    """One quantity swept while the others stand still; every point is counted, none is run."""

    model_config = ConfigDict(strict=True)

    name: str = ""
    """Stands in tables and is what ``[[crossover]]`` refers to; ``vary`` where left out."""
    vary: str
    """``length``, ``batch``, ``layers``, ``width`` or ``config.<field>``, a whole number of methods that have it."""
    values: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2)
    """Rising."""
    batch: int | None = Field(default=None, ge=1)
    """Rows; left out where they are swept."""
    length: int | None = Field(default=None, ge=1)
    """Tokens per row; left out where they are swept."""
    backbone: str | None = None
    """Named shape or path of a config.json; the suite's backbone where left out."""
    methods: tuple[str, ...] = ()
    """Labels as the suite spells its methods; all of them where left out."""
    device: Device = "cpu"
    """Whose forms of each operation are counted; no such device is needed."""
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """Counting this sweep may take this long."""

    @property
    def title(self) -> str:
        """The sweep's name."""
        return self.name or self.vary

    @model_validator(mode="after")
    def _sound(self) -> "SweepTable":
        if self.vary not in SWEPT and not re.fullmatch(r"config\.[A-Za-z_]\w*", self.vary):
            raise ValueError(f"vary takes {', '.join(SWEPT)} or config.<field of a method>, not {self.vary!r}")
        if any(before >= after for before, after in itertools.pairwise(self.values)):
            raise ValueError("values must increase; sort them and list each once")
        for field in ("batch", "length"):
            given, swept = getattr(self, field) is not None, self.vary == field
            if given and swept:
                raise ValueError(f"{field} is the swept quantity; remove {field} = ...")
            if not given and not swept:
                raise ValueError(f"{field} is missing; only the swept quantity may be left out")
        return self


class CrossoverTable(_Table):
    """A question about two curves: from which value on does the first lie above the second?"""

    sweep: str
    """Name of a sweep."""
    method: str
    """Label of the first curve."""
    than: str
    """Label of the second curve."""
    than_sweep: str | None = None
    """Sweep of the second curve, over the same quantity; the first one's where left out."""
    figure: Figure = "peak_memory"
    """What the curves show."""


def check_sweeps(sweeps: tuple[SweepTable, ...], crossovers: tuple[CrossoverTable, ...]) -> None:
    """Names are unique and every crossover compares two curves over the same quantity.

    Raises:
        ValueError: They do not; a sentence for the suite's reader.
    """
    by_title = {table.title: table for table in sweeps}
    if len(by_title) < len(sweeps):
        titles = [table.title for table in sweeps]
        twice = next(title for title in titles if titles.count(title) > 1)
        raise ValueError(f"two sweeps are named {twice!r}; give each its own name")
    for index, table in enumerate(crossovers):
        other = table.than_sweep or table.sweep
        for title in (table.sweep, other):
            if title not in by_title:
                raise ValueError(f"crossover[{index}]: there is no sweep {title!r}; known: {', '.join(by_title)}")
        first, second = by_title[table.sweep], by_title[other]
        if first.vary != second.vary:
            raise ValueError(
                f"crossover[{index}]: {table.sweep!r} sweeps {first.vary} but {other!r} sweeps {second.vary}; "
                "compare sweeps of one quantity"
            )

"""A suite's search for learning rates: one grid, the same for every method."""

import itertools
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError

RATES = ("learning_rate", "head_learning_rate")
"""What a search chooses."""
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EXAMPLE = (
    "tuning = { learning_rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], head_learning_rates = [1e-3, 1e-2], "
    "seeds = [100], selection_rows = 256 }"
)
"""A line for the top of a suite that has no such table; no grid is assumed for it."""


class TuningTable(BaseModel):
    """The grid that every method of the suite is given: each rate with each head rate, for every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    learning_rates: tuple[Rate, ...] = Field(min_length=1)
    """Peak rates of the method's parameters, rising; evenly spaced in their logarithm they favour no decade."""
    head_learning_rates: tuple[Rate, ...] = Field(min_length=1)
    """Peak rates of the task head, rising."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(min_length=1)
    """Seeds of every trial; none of them scores in the suite."""
    selection_rows: int = Field(ge=1)
    """Rows cut from train by content hash: trials do not train on them and are scored on them."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of every trial; those of the recipe where left out."""
    task: str | None = None
    """The one task that is searched, whose rates then hold for all; where left out each task has a search of its own.

    For suites whose other tasks need so many steps before they tell rates apart that a search cannot pay for them.
    """

    @model_validator(mode="after")
    def _sound(self) -> "TuningTable":
        for field in ("learning_rates", "head_learning_rates", "seeds"):
            values = getattr(self, field)
            if any(before >= after for before, after in itertools.pairwise(values)):
                raise ValueError(f"{field} must increase; sort them and list each once")
        return self

    @property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """Every (learning rate, head learning rate), smaller rates first: the trials of one method on one task."""
        return tuple(itertools.product(self.learning_rates, self.head_learning_rates))


def required(table: TuningTable | None, where: str) -> TuningTable:
    """The grid of a search.

    Raises:
        BenchError: There is none; the sentence shows one to add to ``where``, the file of the suite.
    """
    if table is None:
        raise BenchError(f"{where} has no [tuning] table; add one at the top of the file, such as: {EXAMPLE}")
    return table


def check_tuning(table: TuningTable | None, seeds: tuple[int, ...], tasks: tuple[str, ...]) -> None:
    """A search needs tasks to try on, and seeds of its own: a seed that chose the rates would score too well with them.

    Raises:
        ValueError: One is missing; a sentence for the suite's reader.
    """
    if table is None:
        return
    if not tasks:
        raise ValueError("a search ([tuning]) needs tasks")
    if table.task is not None and table.task not in tasks:
        raise ValueError(f"tuning.task = {table.task!r} is not one of the suite's tasks: {', '.join(tasks)}")
    if shared := sorted({*table.seeds} & {*seeds}):
        raise ValueError(f"tuning.seeds contains {shared[0]}, a seed of the suite itself; search with other seeds")

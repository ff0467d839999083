"""A run as readers see it: its newest records, and every table that is made of them, each made once."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from bench.analysis import costs, curves, examples, export, ranking, recommend, scores, sweeps
from bench.errors import BenchError, first_fault
from bench.schema.claims import ClaimTable
from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord, Shape, Stored
from bench.schema.resolved import ResolvedSuite, ResolvedSweep
from bench.store.store import Run, read_run

Table = TypeVar("Table")
Kept = TypeVar("Kept", bound=Stored)
Place = TypeVar("Place", bound=Hashable)


def newest(records: Iterable[Kept], place: Callable[[Kept], Place]) -> dict[Place, Kept]:
    """The newest record of each place, in the order in which places come first."""
    held: dict[Place, Kept] = {}
    for record in records:
        at = place(record)
        if at not in held or record.ended >= held[at].ended:
            held[at] = record
    return held


def latest(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep the newest record of each cell, of each method in a probe and at each value of a sweep.

    Returns:
        The records in their order, and how many older ones were left out.
    """
    every = list(records)
    held = list(newest(every, _place).values())
    return held, len(every) - len(held)


def _place(record: Record) -> Hashable:
    if isinstance(record, ScoreRecord):
        return record.method.label, record.task_name, record.seed
    if isinstance(record, CostRecord):
        return record.method.label, record.shape
    return record.method.label, record.sweep, record.value, "point"


class Results:
    """A run with its tables. Scores are in points of 100, everything else in SI base units.

    Tables that hold one row per method are indexed by its label, in the order of the suite.
    """

    def __init__(self, run: Run | Path | str) -> None:
        """Read a run.

        Args:
            run: A run folder, or a run that was read already.

        Raises:
            BenchError: It is no run folder, or a file in it is damaged.
        """
        self.run = run if isinstance(run, Run) else read_run(Path(run))
        self.suite: ResolvedSuite = self.run.suite
        self.folder: Path = self.run.folder
        self.baseline: str = self.suite.baseline
        self._made: dict[Hashable, object] = {}

    def _once(self, key: Hashable, make: Callable[[], Table]) -> Table:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]

    @cached_property
    def labels(self) -> list[str]:
        """Method labels in the order of the suite, then any that only records know."""
        return list(dict.fromkeys([*self.suite.methods, *(record.method.label for record in self.run.records)]))

    @cached_property
    def scored(self) -> list[str]:
        """Labels of the methods that tasks are scored with, and of those that have scores."""
        asked = self.suite.scored or self.suite.methods
        held = {record.method.label for record in self.score_records}
        return [label for label in self.labels if label in asked or label in held]

    def labels_on(self, shape: Shape) -> list[str]:
        """Labels of the methods that are measured on ``shape``."""
        chosen = self.suite.asked_of(shape).methods
        return [label for label in self.labels if not chosen or label in chosen]

    # Records: the newest of each cell, of each method in a probe and at each value of a sweep.

    @cached_property
    def records(self) -> list[Record]:
        """The newest records of every kind."""
        return self._latest[0]

    @cached_property
    def older(self) -> int:
        """Records that a newer one of the same cell, probe or sweep replaces."""
        return self._latest[1]

    @cached_property
    def _latest(self) -> tuple[list[Record], int]:
        return latest(self.run.records)

    @cached_property
    def cost_records(self) -> list[CostRecord]:
        """The newest cost records, failures included."""
        return [record for record in self.records if isinstance(record, CostRecord)]

    @cached_property
    def count_records(self) -> list[CountRecord]:
        """The newest count records, failures included."""
        return [record for record in self.records if isinstance(record, CountRecord)]

    @cached_property
    def score_records(self) -> list[ScoreRecord]:
        """The newest score records, failures included."""
        return [record for record in self.records if isinstance(record, ScoreRecord)]

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Records that are not ok: ``kind status method task seed reason``; a sweep's ``task`` is its point."""
        rows = []
        for record in (record for record in self.records if record.status != "ok"):
            place: tuple[str | None, int | None] = (None, None)
            if isinstance(record, ScoreRecord):
                place = (record.task_name, record.seed)
            elif isinstance(record, CountRecord):
                place = (f"{record.sweep} at {record.value}", None)
            rows.append((record.kind, record.status, record.method.label, *place, record.reason))
        return pd.DataFrame(rows, columns=["kind", "status", "method", "task", "seed", "reason"], dtype=object)

    # What was asked.

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks of the suite; those of the records where it names none."""
        return list(self.suite.tasks or dict.fromkeys(record.task_name for record in self.score_records))

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds of the suite; those of the records where it names none."""
        return list(self.suite.seeds or sorted({record.seed for record in self.score_records}))

    @cached_property
    def is_synthetic(self) -> bool:
        """Whether any score was taken on synthetic data; before the first score, whether any will be."""
        sources: set[str | None] = {record.task.source for record in self.score_records if record.task}
        return "synthetic" in (sources or {self.suite.data.kind if self.suite.data else None})

    @cached_property
    def claim_tables(self) -> list[ClaimTable]:
        """The suite's claims.

        Raises:
            BenchError: One of them is malformed.
        """
        try:
            return TypeAdapter(list[ClaimTable]).validate_python(self.suite.claims)
        except ValidationError as error:
            fault = first_fault(error, self.suite.claims)
            raise BenchError(
                f"{self.folder / 'suite.toml'}: claims.{fault.place}: {fault.message}; mend or remove the claim"
            ) from error

    # Costs.

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shapes that were probed, first those that hold most methods, then those with most tokens."""
        return costs.cost_shapes(self.cost_records)

    def cost_table(self, shape: Shape | None = None) -> pd.DataFrame:
        """Costs by method on ``shape``, the first one where None (`bench.analysis.costs.cost_table`)."""
        return self._once(("costs", shape), lambda: costs.cost_table(self, shape))

    def measured(self, shape: Shape | None = None) -> dict[str, CostRecord]:
        """Cost records without fault on ``shape`` (the first one where None) by label, in the suite's order."""
        shape = shape or next(iter(self.shapes), None)
        held = {r.method.label: r for r in self.cost_records if r.status == "ok" and r.shape == shape}
        return {label: held[label] for label in self.labels if label in held}

    @cached_property
    def latency_table(self) -> pd.DataFrame:
        """As `bench.analysis.costs.latency_table` gives it."""
        return costs.latency_table(self)

    def generation_table(self, shape: Shape | None = None) -> pd.DataFrame:
        """As `bench.analysis.costs.generation_table` gives it."""
        return self._once(("generation", shape), lambda: costs.generation_table(self, shape))

    def controls(self, shape: Shape | None = None) -> pd.DataFrame:
        """The A/A controls, of ``shape`` or of all shapes (`bench.analysis.costs.controls`)."""
        held = [r for r in self.cost_records if shape is None or r.shape == shape]
        return self._once(("controls", shape), lambda: costs.controls(held))

    def method_cost(self, column: str) -> "pd.Series[float]":
        """A column of `cost_table` by label; what cells count too, also of methods that were only scored."""
        return self._once(("method cost", column), lambda: ranking.method_cost(self, column))

    # Scores.

    @cached_property
    def score_table(self) -> pd.DataFrame:
        """As `bench.analysis.scores.score_table` gives it."""
        return scores.score_table(self)

    @cached_property
    def task_table(self) -> pd.DataFrame:
        """As `bench.analysis.scores.per_task` gives it."""
        return scores.per_task(self)

    @cached_property
    def floors(self) -> dict[str, float]:
        """What counting words scores on each task, in points of 100."""
        return scores.floors(self)

    @cached_property
    def least_scores(self) -> dict[str, float]:
        """Least possible score of each task, in points of 100."""
        return scores.least_scores(self)

    @cached_property
    def retention_table(self) -> pd.DataFrame:
        """As `bench.analysis.scores.retention_table` gives it."""
        return scores.retention_table(self)

    @cached_property
    def retention_curve(self) -> pd.DataFrame:
        """As `bench.analysis.scores.retention_curve` gives it."""
        return scores.retention_curve(self)

    @cached_property
    def paired_rows(self) -> examples.PairedRows:
        """As `bench.analysis.examples.paired_rows` gives it."""
        return examples.paired_rows(self)

    def fronts(self, columns: Sequence[str]) -> ranking.Fronts:
        """Pareto fronts of score against cost ``columns`` (`bench.analysis.ranking.fronts`)."""
        return self._once(("fronts", *columns), lambda: ranking.fronts(self, columns))

    # Training on the way.

    @cached_property
    def curve_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.curve_table` gives it."""
        return curves.curve_table(self)

    @cached_property
    def reached(self) -> curves.Reached:
        """As `bench.analysis.curves.reached` gives it."""
        return curves.reached(self)

    @cached_property
    def training_flops(self) -> dict[str, curves.Work]:
        """As `bench.analysis.curves.training_flops` gives it."""
        return curves.training_flops(self)

    @cached_property
    def gradient_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.gradient_table` gives it."""
        return curves.gradient_table(self)

    @cached_property
    def start_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.start_table` gives it."""
        return curves.start_table(self)

    @cached_property
    def direction_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.direction_table` gives it."""
        return curves.direction_table(self)

    @cached_property
    def vector_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.vector_table` gives it."""
        return curves.vector_table(self)

    # Sweeps.

    @cached_property
    def swept(self) -> dict[str, ResolvedSweep]:
        """As `bench.analysis.sweeps.swept` gives it."""
        return sweeps.swept(self)

    def sweep_table(self, title: str, figure: sweeps.Figure) -> pd.DataFrame:
        """One figure by method and value of a sweep (`bench.analysis.sweeps.sweep_table`)."""
        return self._once(("sweep", title, figure), lambda: sweeps.sweep_table(self, title, figure))

    @cached_property
    def crossovers(self) -> list[sweeps.Crossover]:
        """As `bench.analysis.sweeps.crossovers` gives them."""
        return sweeps.crossovers(self)

    # What users read.

    @cached_property
    def recommendations(self) -> list[recommend.Recommendation]:
        """As `bench.analysis.recommend.recommendations` gives them."""
        return recommend.recommendations(self)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """Every figure of the run (`bench.analysis.export.figure_table`)."""
        return export.figure_table(self)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per method and shape: ``method status``, the shape's fields, every cost figure with its unit."""
        return export.cost_figures(self).drop(columns="kind", errors="ignore")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per method and task: ``method task``, mean score, interval, seeds, paired difference to baseline."""
        return export.score_figures(self).drop(columns="kind", errors="ignore")

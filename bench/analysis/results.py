"""A run as readers see it: its newest records, and every table that is made of them, each made once."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from bench.analysis import (
    costs,
    curves,
    directions,
    gradients,
    inference,
    over_rows,
    ranking,
    recommend,
    records,
    scaling,
    scores,
)
from bench.analysis.export import cost_figures, figure_table, score_figures
from bench.errors import BenchError, first_fault
from bench.schema.claims import ClaimTable
from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord, Shape
from bench.schema.resolved import ResolvedSuite
from bench.store.store import Run, read_run

if TYPE_CHECKING:
    from bench.analysis.curves import Reached
    from bench.analysis.over_rows import PairedRows
    from bench.analysis.ranking import Fronts

Table = TypeVar("Table")


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

    def labels_on(self, shape: Shape) -> list[str]:
        """Labels of the methods that are measured on ``shape``."""
        chosen = self.suite.asked_of(shape).methods
        return [label for label in self.labels if not chosen or label in chosen]

    # Records: the newest of each cell, of each method in a probe and at each value of a sweep.

    @cached_property
    def records(self) -> list[Record]:
        """The newest records of every kind."""
        return records.latest(self.run.records)[0]

    @cached_property
    def older(self) -> int:
        """Records that a newer one of the same cell, probe or sweep replaces."""
        return records.latest(self.run.records)[1]

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
        """As `bench.analysis.records.failures` gives it."""
        return records.failures(self.run.records)

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
            fault = first_fault(error)
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
        return self._once(("costs", shape), lambda: costs.cost_table(self.run.records, self.labels, shape))

    def measured(self, shape: Shape | None = None) -> dict[str, CostRecord]:
        """Cost records without fault on ``shape`` (the first one where None) by label, in the suite's order."""
        shape = shape or next(iter(self.shapes), None)
        held = {r.method.label: r for r in self.cost_records if r.status == "ok" and r.shape == shape}
        return {label: held[label] for label in self.labels if label in held}

    @cached_property
    def latency_table(self) -> pd.DataFrame:
        """As `bench.analysis.inference.latency_table` gives it."""
        return inference.latency_table(self.run.records, self.labels)

    def controls(self, shape: Shape | None = None) -> pd.DataFrame:
        """The A/A controls, of ``shape`` or of all shapes (`bench.analysis.costs.controls`)."""
        held = [r for r in self.cost_records if shape is None or r.shape == shape]
        return self._once(("controls", shape), lambda: costs.controls(held))

    def method_cost(self, column: str) -> "pd.Series[float]":
        """A column of `cost_table` by label; what cells count too, also of methods that were only scored."""
        return ranking.method_cost(self.run, self.labels, column)

    # Scores.

    @cached_property
    def score_table(self) -> pd.DataFrame:
        """As `bench.analysis.scores.score_table` gives it."""
        return scores.score_table(self.run.records, self.baseline, self.labels)

    @cached_property
    def task_table(self) -> pd.DataFrame:
        """As `bench.analysis.scores.per_task` gives it."""
        return scores.per_task(self.run.records, self.baseline, self.labels)

    @cached_property
    def floors(self) -> dict[str, float]:
        """What counting words scores on each task, in points of 100."""
        return scores.floors(self.run.records)

    @cached_property
    def paired_rows(self) -> "PairedRows":
        """As `bench.analysis.over_rows.paired_rows` gives it."""
        return over_rows.paired_rows(self.run, self.labels)

    def fronts(self, columns: Sequence[str]) -> "Fronts":
        """Pareto fronts of score against cost ``columns`` (`bench.analysis.ranking.fronts`)."""
        return self._once(("fronts", *columns), lambda: ranking.fronts(self.run, self.labels, columns))

    # Training on the way.

    @cached_property
    def curve_table(self) -> pd.DataFrame:
        """As `bench.analysis.curves.curve_table` gives it."""
        return curves.curve_table(self.run.records, self.labels)

    @cached_property
    def reached(self) -> "Reached":
        """As `bench.analysis.curves.reached` gives it."""
        return curves.reached(self.run, self.labels)

    @cached_property
    def gradient_table(self) -> pd.DataFrame:
        """As `bench.analysis.gradients.gradient_table` gives it."""
        return gradients.gradient_table(self.run.records, self.labels)

    @cached_property
    def start_table(self) -> pd.DataFrame:
        """As `bench.analysis.gradients.start_table` gives it."""
        return gradients.start_table(self.run.records, self.baseline, self.labels)

    @cached_property
    def direction_table(self) -> pd.DataFrame:
        """As `bench.analysis.directions.direction_table` gives it."""
        return directions.direction_table(self.run, self.labels)

    # Sweeps.

    def sweep_table(self, title: str, figure: "scaling.Figure") -> pd.DataFrame:
        """One figure by method and value of a sweep (`bench.analysis.scaling.sweep_table`)."""
        return self._once(
            ("sweep", title, figure), lambda: scaling.sweep_table(self.run.records, title, figure, self.labels)
        )

    # What users read.

    @cached_property
    def recommendations(self) -> list["recommend.Recommendation"]:
        """As `bench.analysis.recommend.recommendations` gives them."""
        return recommend.recommendations(self)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """Every figure of the run (`bench.analysis.export.figure_table`)."""
        return figure_table(self.run)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row per method and shape: ``method status``, the shape's fields, every cost figure with its unit."""
        return cost_figures(self.run).drop(columns="kind", errors="ignore")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per method and task: ``method task``, mean score, interval, seeds, paired difference to baseline."""
        return score_figures(self.run).drop(columns="kind", errors="ignore")

"""The tables of a run that figures are drawn from, each made once however many figures need it; draws nothing."""

from dataclasses import replace
from functools import cached_property

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.charts.canvas import Words
from bench.report.charts.looks import Look, looks
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord, ScoreRecord, Shape
from bench.store.store import Run


class Tables:
    """What the figures of one run share."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._costs = tuple(compare.cost_records(run.records))  # one tuple, whose tables are lifted once
        self._scores = facts.score_records(run)
        self.labels = facts.labels(run)
        self.baseline: str = run.suite["baseline"]
        self.name = fmt.plain(self.baseline)
        """Of the baseline, as figures write it."""

    @cached_property
    def looks(self) -> dict[str, Look]:
        """Look of each method, by its place in the suite."""
        return looks(self.labels, self.baseline)

    @cached_property
    def cost_records(self) -> dict[str, CostRecord]:
        """What was measured without fault on the first shape, by label, in the suite's order."""
        found = {r.method.label: r for r in self._costs if r.status == "ok" and r.shape == self.shape}
        return {label: found[label] for label in self.labels if label in found}

    @cached_property
    def shape(self) -> Shape | None:
        """The first of `bench.analysis.cost_shapes`."""
        return next(iter(compare.cost_shapes(self._costs)), None)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """As `bench.analysis.cost_table` gives it."""
        return compare.cost_table(self._costs, self.labels)

    @cached_property
    def latencies(self) -> pd.DataFrame:
        """As `bench.analysis.latency_table` gives it."""
        return compare.latency_table(self._costs, self.labels)

    @cached_property
    def inference_length(self) -> int | None:
        """Tokens of each row of inference on the shape that is drawn, where a record or the suite says so."""
        return facts.inference_length(self.run, self.shape)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """The A/A controls by name, of the shape that is drawn."""
        return compare.controls(self.cost_records.values()).set_index("name")

    @cached_property
    def score_records(self) -> list[ScoreRecord]:
        """Scores without fault."""
        return [record for record in self._scores if record.status == "ok"]

    def cost(self, column: str) -> "pd.Series[float]":
        """A column of `costs` by label; trained parameters also of methods that were only scored."""
        records = self._costs if self.costs[column].reindex(self.labels).notna().all() else self.run.records
        return compare.method_cost(replace(self.run, records=records), self.labels, column)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """As `bench.analysis.score_table` gives it."""
        return compare.score_table(self._scores, self.baseline, self.labels)

    @cached_property
    def per_task(self) -> pd.DataFrame:
        """As `bench.analysis.per_task` gives it."""
        return compare.per_task(self._scores, self.baseline, self.labels)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As `bench.analysis.curve_table` gives it."""
        return compare.curve_table(self.run.records, self.labels)

    @cached_property
    def gradients(self) -> pd.DataFrame:
        """As `bench.analysis.gradient_table` gives it."""
        return compare.gradient_table(self.run.records, self.labels)

    @cached_property
    def directions(self) -> pd.DataFrame:
        """As `bench.analysis.direction_table` gives it."""
        return compare.direction_table(self.run, self.labels)

    @cached_property
    def reached(self) -> compare.Reached:
        """As `bench.analysis.reached` gives it."""
        return compare.reached(self.run, self.labels)

    @cached_property
    def peak_source(self) -> str | None:
        """What measured peak memory."""
        return next((s for s in self.costs["peak_memory_source"] if isinstance(s, str)), None)

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks of the suite, then those that only records know."""
        return list(dict.fromkeys([*facts.tasks(self.run), *(record.task_name for record in self.score_records)]))

    @cached_property
    def seeds(self) -> int:
        """How many seeds were asked for."""
        return len(facts.seeds(self.run))

    @cached_property
    def _synthetic(self) -> bool:
        return facts.is_synthetic(self.run)

    @cached_property
    def _backbone(self) -> str:
        return facts.backbone(self.run)

    @cached_property
    def _machine(self) -> str:
        return facts.this_machine(replace(self.run, records=self._costs or self.run.records))

    def words(self, title: str, caption: str, *tags: str, shape: str | None = None) -> Words:
        """Title, line below it, caption and tags of a figure.

        Args:
            title: What it shows; of scores on synthetic data it says so.
            caption: What is measured, its unit, n and interval.
            tags: Of ``counted``, ``timed``, ``measured`` and ``scored`` those that hold.
            shape: What was measured on; None: the probe's shape, where anything but scores is shown.
        """
        scored = "scored" in tags
        said = {
            "counted": "counted · exact on any machine",
            "timed": f"timed · this machine: {self._machine}",
            "measured": f"measured · this machine: {self._machine}",
            "scored": "scored · SYNTHETIC data" if self._synthetic else "scored",
        }
        parts = [fmt.plain(self.run.suite["name"]), self._backbone]
        if shape is None and self.shape and set(tags) != {"scored"}:
            shape = facts.shape_line(self.shape)
        parts += [shape] if shape else []
        mark = " · SYNTHETIC data" if scored and self._synthetic and len(tags) > 1 else ""
        shown = tuple(said[tag] for tag in tags if not (mark and tag == "scored"))
        return Words(title + mark, caption, " · ".join(parts), shown)

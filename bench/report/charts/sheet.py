"""What the figures of one run share: its tables, the looks of its methods, the words around a figure."""

from functools import cached_property

import pandas as pd

from bench.analysis.results import Results
from bench.analysis.tuning import RateChange
from bench.report import format as fmt
from bench.report.charts.canvas import Words
from bench.report.charts.looks import Look, looks
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord, ScoreRecord, Shape


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
            "counted": "counted · exact on any machine",
            "timed": f"timed · this machine: {self._machine}",
            "measured": f"measured · this machine: {self._machine}",
            "scored": "scored · SYNTHETIC data" if self.results.is_synthetic else "scored",
        }
        parts = [fmt.plain(self.run.suite.name), self._backbone]
        if shape is None and self.shape and set(badges) != {"scored"}:
            shape = facts.shape_line(self.shape)
        parts += [shape] if shape else []
        return Words(title, caption, " · ".join(parts), tuple(said[badge] for badge in badges))

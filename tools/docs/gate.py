"""What the page on CI shows: the action's inputs as its file names them, and what a failing gate prints."""

import copy
from pathlib import Path
from typing import Any

import yaml

from bench.analysis.results import Results
from bench.report.export import gate_screen
from bench.verdicts.gate import check
from bench.verdicts.reference import Reference, figures_of, reference_of
from tools.answers.words import published, table

ACTION = Path(__file__).resolve().parents[2] / ".github" / "actions" / "gate" / "action.yml"
RUN, METHOD, FIGURE, LESS = "cost-minilm-two-threads", "lora(rank=8)", "bytes.saved_activations", 1_048_576
"""The example: a committed run against a reference in which one figure is so many bytes smaller."""
REFERENCE = "suites/mine.json"


def inputs() -> str:
    """A table of the action's inputs."""
    given: dict[str, dict[str, Any]] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))["inputs"]
    rows = [[f"`{name}`", f"`{values['default']}`" if "default" in values else "required", values["description"]]
            for name, values in given.items()]  # fmt: skip
    return table(["input", "default", "meaning"], rows, 3)


def older_reference() -> Reference:
    """The run's own reference, but for one figure of one method."""
    made = copy.deepcopy(reference_of(Results(published(RUN))))
    made.costs[0].methods[METHOD][FIGURE] -= LESS
    return made


def failing() -> str:
    """What a gate on that reference prints."""
    results = Results(published(RUN))
    title = f"{results.suite.name} against {REFERENCE}"
    lines = gate_screen(title, check(results, figures_of(results), older_reference()))
    return "\n".join(["```", *(line for line in lines if not line.startswith("::")), "```"])

"""Sets what is counted beside what others measured, the published step times of peft's method comparison.

python -m tools.validation COUNTED.csv

Counts a step of every experiment (minutes), and prints how FLOPs, bytes moved and the estimate from the peak rates of
an L40S order the published times. The step is this harness's own, under a head of two classes: the logits over the
vocabulary, which every experiment has, are not in it.
"""

import csv
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy import stats

from bench.count.count import count
from bench.count.fake import uncounted
from bench.count.roofline import DEVICES
from bench.errors import BenchError
from bench.registry import make
from bench.schema.shape import Setting
from tests.methods.comparison import BACKBONE, experiments, method_of

PUBLISHED = Path(__file__).parents[1] / "results" / "validation" / "peft_metamathqa.csv"
SETTING = Setting(
    batch=4, length=210, dtype="bfloat16", optimizer="adamw_foreach", device="cuda", clipping=True
)  # fmt: skip
"""Of the comparison, with the mean length of its rows."""
DEVICE = DEVICES["l40s"]
"""Whose times they are."""
LIKE = {"ia3/lr_0.001": "ia3/default", "prompt_tuning/default": "prompt_tuning/lr_0.001"}
"""Experiments whose file was not to be had -> those of the same type and number of parameters, whose names differ by
the learning rate alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted:
    """An experiment's published step time beside what is counted of its step."""

    experiment: str
    published_step_time_s: float
    flops: int | None = None
    traffic_bytes: int | None = None
    estimated_step_seconds: float | None = None
    not_counted: str = ""


def published() -> list[dict[str, str]]:
    """Rows of the published figures."""
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def method(name: str, folder: Path) -> tuple[Any, Any]:
    """Method and configuration of an experiment by its name.

    Raises:
        BenchError: The installed peft has not what it asks for.
    """
    if name.startswith("full-finetuning/"):
        return make("full", {})
    return method_of(experiments()[LIKE.get(name, name)], folder)


def counted() -> Iterator[Counted]:
    """Every experiment with its counts, or with the reason why it has none."""
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(published()):
            name, seconds = row["experiment"], float(row["published_step_time_s"])
            try:
                counts = count(BACKBONE, *method(name, Path(folder, str(number))), SETTING)
            except Exception as error:  # a type that this peft lacks, or that starts from the weights' values
                reason = str(error) if isinstance(error, BenchError) else uncounted(error)
                yield Counted(experiment=name, published_step_time_s=seconds, not_counted=reason)
                continue
            assert counts.traffic_bytes is not None
            yield Counted(
                experiment=name, published_step_time_s=seconds, flops=counts.flops.forward + counts.flops.backward,
                traffic_bytes=counts.traffic_bytes.step, estimated_step_seconds=DEVICE.seconds(counts.work),
            )  # fmt: skip


def orders(rows: list[Counted]) -> dict[str, float]:
    """Spearman's correlation of each counted figure with the published step times, over what is counted."""
    held = [row for row in rows if not row.not_counted]
    times = [row.published_step_time_s for row in held]
    names = ("flops", "traffic_bytes", "estimated_step_seconds")
    return {name: float(stats.spearmanr([getattr(row, name) for row in held], times).statistic) for name in names}


if __name__ == "__main__":
    found = list(counted())
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as written:
        table = csv.DictWriter(written, [field.name for field in dataclasses.fields(Counted)])
        table.writeheader()
        table.writerows(map(dataclasses.asdict, found))
    for figure, order in orders(found).items():
        print(f"{figure:<24}{order:6.3f}")

"""What a probe has found out about one method so far, failures included."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from bench.count.isolation import Lost
from bench.errors import BenchError, message, traced
from bench.schema.forms import Status


@dataclasses.dataclass
class Findings:
    """Figures of one method, filled stage by stage."""

    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of ``CostRecord`` by name."""
    warnings: list[str] = dataclasses.field(default_factory=list)
    status: Status = "ok"
    reason: str | None = None
    traceback: str | None = None
    disturbs: tuple[str, ...] = ()
    """What the method changed for the whole process and left changed, each in a few words."""
    held_bytes: int = 0
    """Weights and optimizer state: what the method holds between two steps."""

    def note(self, notes: Iterable[str]) -> None:
        """Take down what a reader must know, each sentence once."""
        self.figures["notes"] = tuple(dict.fromkeys((*self.figures.get("notes", ()), *notes)))

    @property
    def ok(self) -> bool:
        """Nothing has failed so far."""
        return self.status == "ok"

    def fail(self, error: BaseException) -> None:
        """Take down what ended this method's part of the probe; figures taken before stay."""
        from bench.count.fake import limit
        from bench.training.blame import reason_of

        self.status = _status(error)
        self.reason = reason_of(error) if isinstance(error, BenchError) else limit(error) or reason_of(error)
        self.traceback = traced(error)

    def lose(self, lost: Lost) -> None:
        """Take down how the method's process ended; figures taken before stay."""
        self.status, self.reason, self.traceback = lost.status, lost.reason, lost.trace


def _status(error: BaseException) -> Status:
    import torch

    from bench.training.loop import NonFiniteLoss

    if isinstance(error, NonFiniteLoss):
        return "nan"
    # The CPU allocator has no exception class of its own.
    full = isinstance(error, RuntimeError) and "can't allocate memory" in message(error)
    return "oom" if full or isinstance(error, MemoryError | torch.OutOfMemoryError) else "failed"

"""The budget at which a suite compares its methods, and the words for it."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MatchTable(BaseModel):
    """One budget for every method that has a size: the harness chooses ranks, widths and lengths."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    trainable_parameters: int | None = Field(default=None, ge=1)
    """Of the method at most, the head left out."""
    peak_memory_bytes: int | None = Field(default=None, ge=1)
    """Of one training step at most, as predicted on the suite's first cost shape."""

    @model_validator(mode="after")
    def _one_budget(self) -> "MatchTable":
        if (self.trainable_parameters is None) == (self.peak_memory_bytes is None):
            raise ValueError("match takes exactly one of trainable_parameters and peak_memory_bytes")
        return self

    @property
    def budget(self) -> int:
        """The most that a method may reach."""
        found = self.trainable_parameters or self.peak_memory_bytes
        assert found is not None, "a match has exactly one budget"
        return found

    @property
    def figure(self) -> str:
        """What the budget is counted in, for people."""
        return "bytes of peak memory" if self.trainable_parameters is None else "trainable parameters"

    def __str__(self) -> str:
        return f"{self.budget:,} {self.figure}"


def check_match(match: MatchTable | None, shapes: int) -> None:
    """A budget of memory needs a shape to predict it on.

    Args:
        match: The suite's budget, where it has one.
        shapes: How many cost shapes it has.

    Raises:
        ValueError: It has none; a sentence for the suite's reader.
    """
    if match is not None and match.peak_memory_bytes is not None and not shapes:
        raise ValueError("match.peak_memory_bytes is predicted on the first [[cost]] shape; give one")

"""The record of a trial, and what a run folder may hold with it; readers of scores do not know it."""

from typing import Annotated, Literal

from pydantic import Field

from bench.schema.record import CostRecord, CountRecord, Scored, ScoreRecord


class TrialRecord(Scored):
    """What one trial of a search for rates scored on rows cut from train: it chooses and is never a result."""

    kind: Literal["trial"] = "trial"


Stored = Annotated[ScoreRecord | CostRecord | CountRecord | TrialRecord, Field(discriminator="kind")]
"""What a run folder may hold; trials lie in folders of their own."""

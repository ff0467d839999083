"""A run as users load it: its results with the verdicts on the suite's claims."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from bench.analysis.results import Results
from bench.store.store import Run
from bench.verdicts.claims import Judgement, judge

COLUMNS = ["claim", "says", "metric", "versus", "kind", "verdict", "method", "value", "low", "high", "why"]


class JudgedResults(Results):
    """Results with their claims judged."""

    @cached_property
    def judgements(self) -> list[Judgement]:
        """The suite's claims in its order, each with its verdict."""
        return judge(self)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """One row per claim and method.

        ``claim says metric versus kind verdict method value low high why``: ``verdict`` is the claim's, ``low`` and
        ``high`` are the 95 % interval of ``value``, missing where it is counted and exact.
        """
        rows = [
            (
                judged.claim.name, judged.claim.says, judged.claim.metric, judged.claim.versus, judged.kind,
                judged.verdict, outcome.method, outcome.value, *(outcome.interval or (None, None)), outcome.why,
            )
            for judged in self.judgements
            for outcome in judged.outcomes
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=COLUMNS)


def load_results(run: Run | Path | str) -> JudgedResults:
    """Read a run folder into tables.

    Args:
        run: A run folder as string or path, or a run that was read already.

    Returns:
        ``costs`` (one row per method and shape), ``scores`` (per method and task) and ``claims`` (per claim and
        method) as pandas tables, scores in points of 100, everything else in SI base units; and what they are made of.

    Raises:
        BenchError: It is no run folder, or a file in it is damaged.
    """
    return JudgedResults(run)

"""Counts the rows of a task before anything is trained: balance, duplicates, lengths, what is cut off."""

from collections import Counter
from typing import Any, Protocol

from bench.schema.record import RowFigures
from bench.tasks.rows import Rows, TaskData

QUANTILES = (50, 95, 99, 100)
"""In percent of rows."""


class _Tokenizer(Protocol):
    def __call__(
        self, *columns: list[str], truncation: bool, max_length: int, add_special_tokens: bool = True
    ) -> Any: ...


def row_figures(data: TaskData, tokenizer: _Tokenizer, max_length: int) -> RowFigures:
    """What a record holds of the rows that it trains and scores on.

    Args:
        data: The rows.
        tokenizer: The backbone's own.
        max_length: Tokens of a row at most, as the recipe has it.
    """
    lengths = sorted(_lengths(data, tokenizer))
    return RowFigures(
        labels=_by_class(data, data.train), test_labels=_by_class(data, data.test),
        duplicates=len(data.train) - len(set(data.train.texts)),
        tokens={str(share): lengths[max(0, -(-share * len(lengths) // 100) - 1)] for share in QUANTILES},
        truncated=sum(length > max_length for length in lengths) / len(lengths),
    )  # fmt: skip


def _lengths(data: TaskData, tokenizer: _Tokenizer) -> list[int]:
    """Tokens of each training row; of text those of the prompt, of what is to be written, and its end."""
    columns = [list(column) for column in zip(*data.train.texts, strict=True)]
    ids = tokenizer(*columns, truncation=False, max_length=0)["input_ids"]
    if data.spec.kind != "text":
        return [len(row) for row in ids]
    written = tokenizer(list(data.train.labels), truncation=False, max_length=0, add_special_tokens=False)["input_ids"]
    return [len(prompt) + len(target) + 1 for prompt, target in zip(ids, written, strict=True)]


def _by_class(data: TaskData, rows: Rows) -> dict[str, int]:
    if data.spec.kind != "classes":
        return {}
    found = Counter(rows.labels)
    return {name: found[place] for place, name in enumerate(data.spec.labels)}

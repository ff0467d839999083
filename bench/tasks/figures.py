"""Counts the rows of a task before anything is trained: balance, duplicates, lengths, what is cut off."""

from collections import Counter
from typing import Any, Protocol

from bench.errors import BenchError
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


def check_room(data: TaskData, tokenizer: _Tokenizer, max_length: int, *, shifted: bool) -> None:
    """Hold the longest target of a task of text against the tokens of a row.

    Args:
        data: The rows.
        tokenizer: The backbone's own.
        max_length: Tokens of a row at most, as the recipe has it.
        shifted: Whether prompt and target are one row, as a decoder reads them.

    Raises:
        BenchError: A target leaves no room for a prompt; cells would end with that reason, one by one.
    """
    for name, rows in (("train", data.train), ("selection", data.selection), ("test", data.test)):
        longest = max(_targets(rows, tokenizer), default=0) if rows is not None else 0
        if longest + shifted > max_length:
            raise BenchError(
                f"recipe of {data.spec.name}: a {name} row has a target of {longest} tokens with its end, which leaves "
                f"no room for a prompt in max_length = {max_length}; raise it"
            )


def _targets(rows: Rows, tokenizer: _Tokenizer) -> list[int]:
    """Tokens of what is to be written, its end included."""
    written = tokenizer(list(rows.labels), truncation=False, max_length=0, add_special_tokens=False)["input_ids"]
    return [len(target) + 1 for target in written]


def _lengths(data: TaskData, tokenizer: _Tokenizer) -> list[int]:
    """Tokens of each training row; of text those of the prompt, of what is to be written, and its end."""
    columns = [list(column) for column in zip(*data.train.texts, strict=True)]
    ids = tokenizer(*columns, truncation=False, max_length=0)["input_ids"]
    if data.spec.kind != "text":
        return [len(row) for row in ids]
    return [len(prompt) + target for prompt, target in zip(ids, _targets(data.train, tokenizer), strict=True)]


def _by_class(data: TaskData, rows: Rows) -> dict[str, int]:
    if data.spec.kind != "classes":
        return {}
    found = Counter(rows.labels)
    return {name: found[place] for place, name in enumerate(data.spec.labels)}

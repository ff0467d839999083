"""Tokens of the rows that a user trains on: the longest of them, and what batches of random rows are padded to."""

import dataclasses
import os
from pathlib import Path

from bench.errors import BenchError
from bench.schema.record import RowLengths

LONGEST = 80
"""Characters of a line that an error shows."""


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of each row, rising."""

    tokens: tuple[int, ...]
    file: str
    """Where they are from, for an error."""
    line: int
    """Of the longest."""

    def expected_longest(self, batch: int) -> float:
        """Mean over all batches of ``batch`` rows, drawn without replacement, of the longest row: exact."""
        rows = len(self.tokens)
        share, total = batch / rows, 0.0  # of batches whose longest is the row at this place
        for place in range(rows, batch - 1, -1):
            total += share * self.tokens[place - 1]
            share *= (place - batch) / (place - 1) if place > 1 else 0.0
        return total

    def of_batches(self, batch: int, devices: int = 1) -> RowLengths:
        """What a record says of them.

        Args:
            batch: Rows of one device in a step.
            devices: How many there are.

        Raises:
            BenchError: A step has more rows than there are.
        """
        rows = len(self.tokens)
        if batch * devices > rows:
            raise BenchError(f"{self.file}: {rows} rows make no batch of {batch * devices}; lower --batch")
        mean, padded = sum(self.tokens) / rows, self.expected_longest(batch)
        return RowLengths(
            rows=rows, shortest=self.tokens[0], longest=self.tokens[-1], mean=mean, mean_longest=padded,
            padding_share=min(max(1 - mean / padded, 0.0), 1.0),
        )  # fmt: skip


def read_lengths(option: str, path: Path) -> Lengths:
    """Read a file of whole numbers, one a line: the tokens of one row each.

    Args:
        option: The option that it was given to, for the error.
        path: The file.

    Raises:
        BenchError: It cannot be read, is empty, or a line is no whole number above 0.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise BenchError(
            f"{option} {path}: no such file; give one with the tokens of each row, one whole number a line (a task's "
            "name is no file: its tokens depend on the tokenizer)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is no text"
        raise BenchError(f"{option} {path}: cannot be read ({why}); give one whole number a line") from error
    lines = lines[:-1] if lines[-1].strip() == "" else lines
    if not lines:
        raise BenchError(f"{option} {path}: holds no row; write the tokens of each row, one whole number a line")
    tokens = [_tokens(f"{option} {path}, line {number}", line) for number, line in enumerate(lines, 1)]
    return Lengths(tuple(sorted(tokens)), f"{option} {path}", tokens.index(max(tokens)) + 1)


def _tokens(where: str, line: str) -> int:
    text = line.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        raise BenchError(f"{where}: {shown!r} is no whole number of tokens; write one a line")
    if (tokens := int(text)) < 1:
        raise BenchError(f"{where}: {tokens} tokens are no row; a row has 1 at least")
    return tokens

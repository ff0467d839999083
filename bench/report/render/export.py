"""Writes a table for other programs: CSV, parquet or markdown; it knows no figure by name."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import typer

from bench.errors import unwritable
from bench.report.format import markdown as text


def emit(content: bytes, path: Path | None) -> None:
    """Print ``content``, a text, or write a file whole or not at all and print its name.

    Raises:
        BenchError: The file cannot be written.
    """
    if path is None:
        typer.echo(content.decode(), nl=False)
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(path, error, "give another -o") from error
    typer.echo(path)


def encoded(table: pd.DataFrame, form: str) -> bytes:
    """``table`` as ``csv``, ``parquet`` or ``markdown``; every column must be of one type."""
    if form == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form == "csv":
        return str(table.to_csv(index=False, lineterminator="\n")).encode()
    rows = ([_cell(value) for value in row] for row in table.itertuples(index=False))
    return (markdown_table([text(name) for name in table.columns], rows) + "\n").encode()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; cells must be escaped already."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
    return text(value) or "-"

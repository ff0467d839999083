"""Predicts every row of a file with an exported delta and writes the answers, a row each."""

import contextlib
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from bench.errors import BenchError, unwritable
from bench.schema.delta import Delta
from bench.schema.forms import inert
from bench.tasks.files import open_rows, text_of
from bench.training.adapted import AT_ONCE, Adapted, Predicted, describe, load_adapted

ENDINGS = (".csv", ".jsonl")


def answer(folder: Path, data: Path, out: Path | None, backbone: str | None = None) -> None:
    """Write the label, or the score in the unit of the task, of every row of ``data``.

    Args:
        folder: Folder of a delta, in any form.
        data: Its columns are those of the task's texts; others are passed over.
        out: File to write, ``.csv`` or ``.jsonl``; CSV on standard output where None.
        backbone: Name or folder of the backbone, where it does not lie where it lay.

    Raises:
        BenchError: A file is missing, damaged or of another kind, a column is missing, or ``out`` cannot be written.
    """
    if out is not None and out.suffix not in ENDINGS:
        raise BenchError(f"-o {out}: its ending is neither {' nor '.join(ENDINGS)}; rename it")
    about = describe(folder)
    # before a backbone is loaded: bad rows are said at once
    table = open_rows(data, about.text)
    rows = [tuple(text_of(data, place, fields, name) for name in about.text) for place, fields in table]
    adapted = load_adapted(folder, backbone)
    try:
        with _open(out) as file:
            _write(file, out is not None and out.suffix == ".jsonl", about, _answered(adapted, rows))
    except OSError as error:
        raise unwritable(out or "standard output", error, "give another -o") from error


def _answered(adapted: Adapted, rows: list[tuple[str, ...]]) -> Iterator[Predicted]:
    for start in range(0, len(rows), AT_ONCE):
        yield from adapted.answers(rows[start : start + AT_ONCE])


def _write(file: TextIO, as_json: bool, about: Delta, answers: Iterable[Predicted]) -> None:
    names = ("row", "prediction", "probability") if about.labels else ("row", "prediction")
    table = csv.writer(file, lineterminator="\n")
    if not as_json:
        table.writerow(names)
    for row, found in enumerate(answers):
        values: tuple[Any, ...] = (row, *found)[: len(names)]
        if as_json:
            file.write(json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False) + "\n")
        else:
            table.writerow([inert(value) for value in values])


@contextlib.contextmanager
def _open(out: Path | None) -> Iterator[TextIO]:
    """``out`` written aside, or standard output."""
    if out is None:
        yield sys.stdout
        return
    aside = out.with_name(f"{out.name}.partial")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)

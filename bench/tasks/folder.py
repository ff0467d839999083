"""Reads a task from a folder of official TSV files, JSONL or parquet; errors name file, line and remedy."""

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.tasks.glue import TASKS, TaskSpec
from bench.tasks.rows import Rows

FEW = 3
"""Lines cut short that a file of any size may have, where the official one has some."""
SHARE = 0.001
"""Their share of the rows of a large file."""
_FORMATS = ("tsv", "jsonl", "parquet")
_HALVES = re.compile("[\\ud800-\\udfff]")
"""Halves of surrogate pairs, as JSON can spell them: no tokenizer takes one alone."""
_DIGITS = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

Row = tuple[str, Mapping[str, Any]]
"""Where the row stands ("line 7"), and its fields."""


def task_folder(root: Path, spec: TaskSpec) -> Path | None:
    """The folder of task ``spec`` under ``root``: its official or its hub name, in any case.

    Raises:
        BenchError: Two folders fit.
    """
    names = {spec.folder.casefold(), spec.name.casefold()}
    found = sorted(path for path in root.iterdir() if path.is_dir() and path.name.casefold() in names)
    if len(found) > 1:
        raise BenchError(f"{root}: {found[0].name} and {found[1].name} both hold {spec.name}; keep one of them")
    return found[0] if found else None


def tasks_in(root: Path) -> list[str]:
    """Names of the GLUE tasks that have a folder under ``root``."""
    return [name for name, spec in TASKS.items() if task_folder(root, spec) is not None]


def read_folder(root: Path, spec: TaskSpec) -> tuple[Rows, Rows]:
    """Read the training and the test split of task ``spec`` from ``root``.

    Raises:
        BenchError: A file is missing, doubled, empty, not UTF-8, or a row of it does not fit the task.
    """
    test_stems = dict.fromkeys((spec.tsv_test, spec.test_split, "dev", "validation"))
    return read_train(root, spec), _read_split(_present(root, spec), spec, tuple(test_stems))


def read_train(root: Path, spec: TaskSpec) -> Rows:
    """Read the training split alone; the test split is not opened.

    Raises:
        BenchError: As ``read_folder``.
    """
    return _read_split(_present(root, spec), spec, ("train",))


def _present(root: Path, spec: TaskSpec) -> Path:
    folder = task_folder(root, spec)
    if folder is None:
        raise BenchError(
            f"{root}: no folder {spec.folder} or {spec.name}; found: {', '.join(tasks_in(root)) or 'no task'}"
        )
    return folder


def _files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """Files of one split, all of the same name and format; several only as shards of one parquet split."""
    whole = [folder / f"{stem}.{suffix}" for stem in stems for suffix in _FORMATS]
    groups = [[path] for path in whole if path.is_file()]
    groups += [shards for stem in stems if (shards := sorted(folder.glob(f"{stem}-*-of-*.parquet")))]
    if not groups:
        raise BenchError(f"{folder}: no {stems[0]}.tsv; write one of {', '.join(path.name for path in whole)}")
    if len(groups) > 1:
        raise BenchError(f"{folder}: {groups[0][0].name} and {groups[1][0].name} hold the same split; keep one of them")
    return groups[0]


def _read_split(folder: Path, spec: TaskSpec, stems: tuple[str, ...]) -> Rows:
    texts: list[tuple[str, ...]] = []
    labels: list[int | float] = []
    notes: list[str] = []
    files = _files(folder, stems)
    for path in files:
        cut: list[int] = []
        before = len(texts)
        rows, text_columns, label_column = _open(path, spec, cut)
        for place, fields in rows:
            texts.append(tuple(_text(path, place, fields, column) for column in text_columns))
            labels.append(parse_label(spec, fields.get(label_column), f"{path}: {place}, column {label_column!r}"))
        if empty := sum(not all(map(str.strip, row)) for row in texts[before:]):
            notes.append(f"{path.name}: {empty:,} {'row' if empty == 1 else 'rows'} with an empty text")
        if cut:
            _check_cut(path, cut, len(labels))
            notes.append(f"{path.name}: {len(cut)} {'line' if len(cut) == 1 else 'lines'} cut short, left out")
    if not labels:
        raise BenchError(f"{files[0]}: the file has no rows; put the rows of {spec.name} into it")
    return Rows(tuple(texts), tuple(labels), tuple(notes))


def _check_cut(path: Path, cut: list[int], rows: int) -> None:
    if len(cut) > max(FEW, SHARE * rows):
        raise BenchError(
            f"{path}: {len(cut)} of {len(cut) + rows} lines are cut short, the first is line {cut[0]}; the official "
            "file has a few: fetch it again"
        )


def _open(path: Path, spec: TaskSpec, cut: list[int]) -> tuple[Iterator[Row], tuple[str, ...], str]:
    """Rows of one file, and the columns that hold its texts and its label; ``cut`` takes the lines left out."""
    if path.suffix == ".tsv":
        return _tsv(path, spec, cut), spec.tsv_text, spec.tsv_label
    columns = (*spec.text, "label")
    return (_jsonl(path, columns) if path.suffix == ".jsonl" else _parquet(path, columns)), spec.text, "label"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty, split at line feeds alone: texts may hold other Unicode line separators."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = path.read_bytes()[: error.start].count(b"\n") + 1
        raise BenchError(f"{path}: line {number} is not UTF-8; convert the file to UTF-8") from error
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            yield number, line


def _tsv(path: Path, spec: TaskSpec, cut: list[int]) -> Iterator[Row]:
    """Rows of an official GLUE file: tabs part the fields, quotes mean nothing."""
    lines = _lines(path)
    header = spec.tsv_header
    if not header:
        _, first = next(lines, (1, ""))
        header = tuple(first.split("\t"))
        if not first:
            raise BenchError(f"{path}: the file is empty; put the rows of {spec.name} into it")
        _each_once(path, header, "line 1, ")
        _require(path, header, (*spec.tsv_text, spec.tsv_label))
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) == len(header):
            yield f"line {number}", dict(zip(header, fields, strict=True))
        elif spec.tsv_skip_broken:
            cut.append(number)
        else:
            raise BenchError(
                f"{path}: line {number} has {len(fields)} tab-separated fields, expected {len(header)} "
                f"({', '.join(header)}); fix or remove the line"
            )


def _jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    for number, line in _lines(path):
        place = f"line {number}, "
        try:
            fields = json.loads(line, object_pairs_hook=functools.partial(_object, path, place))
        except json.JSONDecodeError as error:
            raise BenchError(f"{path}: line {number} is not JSON ({error}); write one object per line") from error
        except ValueError as error:  # Python's limit on digits
            raise BenchError(f"{path}: line {number} holds a number of too many digits; shorten it") from error
        except RecursionError as error:
            raise BenchError(f"{path}: line {number} is not JSON ({error}); write one object per line") from error
        if not isinstance(fields, dict):
            raise BenchError(f"{path}: line {number} is not a JSON object; write one object per line")
        _require(path, tuple(fields), columns, place)
        yield f"line {number}", fields


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
    except Exception as error:  # a damaged byte may hit a name, a size or a type: each fails in its own way
        raise BenchError(f"{path}: not a parquet file ({_first_line(error)}); write it again") from error
    with file:
        _each_once(path, names)
        _require(path, names, columns)
        number = 0
        batches = file.iter_batches(columns=list(columns))
        while True:
            try:  # pages are read as they are reached
                rows = next(batches).to_pylist()
            except StopIteration:
                return
            except Exception as error:
                raise BenchError(
                    f"{path}: damaged after row {number} ({_first_line(error)}); fetch or write it again"
                ) from error
            for fields in rows:
                number += 1
                yield f"row {number}", fields


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _object(path: Path, place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _each_once(path, tuple(key for key, _ in pairs), place)
    return dict(pairs)


def _each_once(path: Path, found: tuple[str, ...], place: str = "") -> None:
    """A column that stands twice leaves open which one counts; columns without a name are nobody's."""
    if len(set(found)) == len(found):
        return
    twice = next((column for column in found if column and found.count(column) > 1), None)
    if twice is not None:
        raise BenchError(f"{path}: {place}column {twice!r} stands {found.count(twice)} times; keep one of them")


def _require(path: Path, found: tuple[str, ...], wanted: tuple[str, ...], place: str = "") -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        raise BenchError(
            f"{path}: {place}missing column {missing[0]!r}; needed: {', '.join(wanted)}; found: {', '.join(found)}"
        )


def _text(path: Path, place: str, fields: Mapping[str, Any], column: str) -> str:
    value = fields[column]
    if not isinstance(value, str):
        raise BenchError(f"{path}: {place}, column {column!r}: {_shown(value)} is not text; write a string")
    if _HALVES.search(value):
        raise BenchError(f"{path}: {place}, column {column!r}: half of a surrogate pair; write whole characters")
    return value


def parse_label(spec: TaskSpec, value: object, where: str) -> int | float:
    """Turn a label as files spell it (id, digits or class name; a number for a regression) into the task's form.

    Raises:
        BenchError: The value is no label of the task; ``where`` locates it.
    """
    if spec.regression:
        score = _number(value)
        if score is None or not 0.0 <= score <= 5.0:
            raise BenchError(f"{where}: {_shown(value)} is not a score of {spec.name}: must be a number from 0 to 5")
        return round(score, 3)  # published with three decimals; the hub stores them as float32
    if value in spec.labels:
        return spec.labels.index(str(value))
    number = _number(value)
    if number is not None and number.is_integer() and 0 <= number < len(spec.labels):
        return int(number)
    allowed = ", ".join(f"{i} or {name}" for i, name in enumerate(spec.labels))
    raise BenchError(f"{where}: unknown label {_shown(value)}; allowed: {allowed}")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _number(value: object) -> float | None:
    """The finite number that ``value`` is or spells, else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and not _DIGITS.fullmatch(value.strip()):
        return None  # Python also takes 0_0 and the digits of other scripts
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None

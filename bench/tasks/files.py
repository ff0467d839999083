"""Reads rows from csv, tsv, jsonl, json and parquet files; errors name file, line, column and remedy."""

import csv
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.schema.task import ENDINGS, TaskSpec

_HALVES = re.compile("[\\ud800-\\udfff]")
"""Halves of surrogate pairs, as JSON can spell them: no tokenizer takes one alone."""
_DIGITS = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MOST_JSON_BYTES = 1 << 30
"""A ``.json`` file is held whole while it is read; larger ones are asked for as ``.jsonl``, which is not."""

Row = tuple[str, Mapping[str, Any]]
"""Where the row stands ("line 7"), and its fields."""


def open_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a file of one's own, as they are read.

    Args:
        path: Its ending says what it is: csv, tsv, jsonl, json or parquet.
        columns: Those that every row must have.

    Raises:
        BenchError: The file is missing, of another form, damaged, or lacks a column.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ENDINGS:
        raise BenchError(
            f"{path}: its ending is none of {', '.join(f'.{name}' for name in ENDINGS)}; rename or convert it"
        )
    _check_readable(path)
    wanted = tuple(columns)
    readers = {"jsonl": read_jsonl, "json": _json, "parquet": read_parquet}
    return readers[kind](path, wanted) if kind in readers else _separated(path, wanted)


def column_names(path: Path) -> list[str]:
    """Columns of a file of one's own, those of its first row where rows name their own.

    Raises:
        BenchError: As ``open_rows``; or the file has no rows.
    """
    if path.suffix.lower() in {".csv", ".tsv"}:
        _check_readable(path)
        return list(_header(path, _delimiter(path, ())))
    _, fields = next(open_rows(path, ()), ("", {}))
    return list(fields)


def _check_readable(path: Path) -> None:
    if path.is_dir():
        raise BenchError(f"{path}: is a folder; name a file with rows to read")
    if not path.is_file():
        raise BenchError(f"{path}: no such file; name one with rows to read")
    try:
        path.open("rb").close()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from error


def _delimiter(path: Path, wanted: tuple[str, ...]) -> str:
    """What parts the fields: tabs in a tsv; in a csv what gives the header the wanted columns, else most columns."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    headers = {mark: header for mark in _DELIMITERS if (header := _tried(path, mark)) is not None}
    if not headers:
        _header(path, ",")  # says what is wrong with it
    fitting = [mark for mark, header in headers.items() if wanted and set(wanted) <= set(header)]
    return fitting[0] if fitting else max(headers, key=lambda mark: len(headers[mark]))


def _tried(path: Path, delimiter: str) -> tuple[str, ...] | None:
    """The header by this delimiter; None where the quotes do not fit it."""
    try:
        return _header(path, delimiter)
    except BenchError:
        return None


def _header(path: Path, delimiter: str) -> tuple[str, ...]:
    for _, fields in _records(path, delimiter):
        return tuple(field.strip() for field in fields)
    raise BenchError(f"{path}: the file is empty; put a line of column names and rows into it")


def _separated(path: Path, wanted: tuple[str, ...]) -> Iterator[Row]:
    """Rows below a header line; quotes are read as in csv (RFC 4180), in a tsv only where all of it can be."""
    mark = _delimiter(path, wanted)
    header = _header(path, mark)
    each_once(path, header, "line 1, ")
    if not set(wanted) <= set(header):
        check_parted(path, header)
    require(path, header, wanted)
    plain = path.suffix.lower() == ".tsv" and not _is_quoted(path, mark, len(header))
    records = ((number, line.split(mark)) for number, line in numbered_lines(path)) if plain else _records(path, mark)
    next(records)
    for number, fields in records:
        if len(fields) != len(header):
            raise BenchError(
                f"{path}: line {number} has {len(fields)} fields, expected {len(header)} ({', '.join(header)}) parted "
                f"by {_DELIMITERS[mark]}; fix or remove the line, or put texts with {_DELIMITERS[mark]} into double "
                "quotes"
            )
        yield f"line {number}", dict(zip(header, fields, strict=True))


def check_parted(path: Path, header: Sequence[str]) -> None:
    """A file of texts and labels has two columns at least.

    Args:
        path: A csv or tsv file.
        header: The names of its columns.

    Raises:
        BenchError: It has one, which no mark parts.
    """
    if len(header) > 1:
        return
    tabs = "tabs, or name the file .csv"
    commas = "commas, or by semicolons, tabs or vertical bars throughout"
    marks = tabs if path.suffix.lower() == ".tsv" else commas
    raise BenchError(f"{path}: line 1 holds one column, {header[0]!r}; part columns by {marks}")


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records of a file with quotes, each with the number of its first line; empty lines are left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise _not_utf8(path) from error
            except csv.Error as error:
                raise BenchError(
                    f"{path}: line {number} is no record of fields parted by {_DELIMITERS[delimiter]} ({error}); "
                    "double the quotes inside a quoted text and close each quoted text"
                ) from error
            if fields:
                yield number, fields


def _is_quoted(path: Path, delimiter: str, width: int) -> bool:
    """Whether all of a tab-separated file can be read with quotes; else they are part of its texts."""
    try:
        return all(len(fields) == width for _, fields in _records(path, delimiter))
    except BenchError:
        return False


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty, split at line feeds alone: texts may hold other Unicode line separators.

    Raises:
        BenchError: A line is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                line = line.removesuffix("\n").removesuffix("\r")
                if line:
                    yield number, line
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error


def _not_utf8(path: Path) -> BenchError:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return BenchError(f"{path}: line {number} is not UTF-8; convert the file to UTF-8")
    return BenchError(f"{path}: its last line is not UTF-8; convert the file to UTF-8")


def read_jsonl(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a file with one JSON object a line.

    Raises:
        BenchError: A line is no such object, or lacks a column.
    """
    for number, line in numbered_lines(path):
        place = f"line {number}, "
        fields = _parsed(line, f"{path}: line {number}", "one object per line", path, place)
        if not isinstance(fields, dict):
            raise BenchError(f"{path}: line {number} is not a JSON object; write one object per line")
        require(path, tuple(fields), columns, place)
        yield f"line {number}", fields


def _json(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a file that is one list of objects, or one object whose only list holds them."""
    if path.stat().st_size > MOST_JSON_BYTES:
        raise BenchError(
            f"{path}: over {MOST_JSON_BYTES >> 30} GiB in one JSON value; write one object a line as .jsonl"
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    rows = _parsed(content, str(path), "a list of objects", path, "")
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else rows
    if not isinstance(rows, list):
        raise BenchError(f"{path}: not a JSON list of objects; write one, or one object a line as .jsonl")
    for number, fields in enumerate(rows, start=1):
        if not isinstance(fields, dict):
            raise BenchError(f"{path}: row {number} is not a JSON object; write a list of objects")
        require(path, tuple(fields), columns, f"row {number}, ")
        yield f"row {number}", fields


def _parsed(content: str, where: str, remedy: str, path: Path, place: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=functools.partial(_object, path, place))
    except json.JSONDecodeError as error:
        raise BenchError(f"{where} is not JSON ({error}); write {remedy}") from error
    except ValueError as error:  # Python's limit on digits
        raise BenchError(f"{where} holds a number of too many digits; shorten it") from error
    except RecursionError as error:
        raise BenchError(f"{where} is not JSON ({error}); write {remedy}") from error


def read_parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a parquet file, a batch at a time; all columns where none is named.

    Raises:
        BenchError: The file is damaged or lacks a column.
    """
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
    except Exception as error:  # a damaged byte may hit a name, a size or a type: each fails in its own way
        raise BenchError(f"{path}: not a parquet file ({_first_line(error)}); write it again") from error
    with file:
        each_once(path, names)
        require(path, names, columns)
        number = 0
        batches = file.iter_batches(columns=list(columns) or None)
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
    each_once(path, tuple(key for key, _ in pairs), place)
    return dict(pairs)


def each_once(path: Path, found: tuple[str, ...], place: str = "") -> None:
    """A column that is there twice leaves open which one counts; columns without a name are nobody's.

    Raises:
        BenchError: One is.
    """
    if len(set(found)) == len(found):
        return
    twice = next((column for column in found if column and found.count(column) > 1), None)
    if twice is not None:
        raise BenchError(f"{path}: {place}column {twice!r} stands {found.count(twice)} times; keep one of them")


def require(path: Path, found: tuple[str, ...], wanted: tuple[str, ...], place: str = "") -> None:
    """Every wanted column is there.

    Raises:
        BenchError: One is missing.
    """
    missing = [column for column in wanted if column not in found]
    if missing:
        raise BenchError(
            f"{path}: {place}missing column {missing[0]!r}; needed: {', '.join(wanted)}; found: {', '.join(found)}"
        )


def is_empty(value: object) -> bool:
    """Whether a field holds nothing: no value, NaN, or blanks."""
    return (
        value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value)
    )


def text_of(path: Path, place: str, fields: Mapping[str, Any], column: str) -> str:
    """A text of a row, verbatim.

    Raises:
        BenchError: It is of another type, or holds half of a character.
    """
    value = fields[column]
    if not isinstance(value, str):
        raise BenchError(f"{path}: {place}, column {column!r}: {_shown(value)} is not text; write a string")
    if _HALVES.search(value):
        raise BenchError(f"{path}: {place}, column {column!r}: half of a surrogate pair; write whole characters")
    return value


def class_name(value: object) -> str:
    """A class as files spell it: ``"refund"``; ``3`` and ``3.0`` as ``"3"``, ``true`` as ``"true"``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value).strip()


def check_class(value: object, where: str) -> None:
    """A class is one value, not several.

    Raises:
        BenchError: It is a list, an object or bytes; ``where`` locates it.
    """
    if is_nested(value):
        raise BenchError(f"{where}: {_shown(value)} is not a class; write one name or number in each row")


def is_nested(value: object) -> bool:
    """Whether a field is no single text or number: a list, an object, bytes."""
    return isinstance(value, list | tuple | dict | bytes)


def parse_label(spec: TaskSpec, value: object, where: str) -> int | float:
    """Turn a label as files spell it (a class, its id where the task has it so, a number) into the task's form.

    Raises:
        BenchError: The value is no label of the task; ``where`` locates it.
    """
    if spec.regression:
        return _score(spec, value, where)
    check_class(value, where)
    name = class_name(value)
    if name in spec.labels:
        return spec.labels.index(name)
    number = number_of(value)
    if spec.label_ids and number is not None and number.is_integer() and 0 <= number < len(spec.labels):
        return int(number)
    classes = [f"{i} or {name}" for i, name in enumerate(spec.labels)] if spec.label_ids else list(spec.labels)
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    raise BenchError(f"{where}: unknown label {_shown(value)}; allowed: {', '.join(classes[:10])}{more}")


def _score(spec: TaskSpec, value: object, where: str) -> float:
    score = number_of(value)
    if score is None:
        wanted = "a number from {:g} to {:g}".format(*spec.range) if spec.range else "a finite number"
        point = ", with a decimal point" * has_decimal_comma(value)
        raise BenchError(f"{where}: {_shown(value)} is not a score of {spec.name}: must be {wanted}{point}")
    if spec.range is not None:
        if not spec.range[0] <= score <= spec.range[1]:
            raise BenchError(
                f"{where}: {_shown(value)} is not a score of {spec.name}: must be a number from {spec.range[0]:g} to "
                f"{spec.range[1]:g}"
            )
    return score if spec.decimals is None else round(score, spec.decimals)


def has_decimal_comma(value: object) -> bool:
    """Whether ``value`` spells a number as spreadsheets of many countries write it, such as ``"3,5"``."""
    return isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value.strip()) is not None


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def number_of(value: object) -> float | None:
    """The finite number that ``value`` is or spells, else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str) and not _DIGITS.fullmatch(value.strip()):
        return None  # Python also takes 0_0 and the digits of other scripts
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None

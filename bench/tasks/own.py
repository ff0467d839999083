"""Rows of a task in files of the user's own: its classes, its splits, and draws that hold no more than they give."""

import heapq
import math
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError
from bench.schema.task import TaskSpec
from bench.tasks.files import check_class, class_name, is_empty, number_of, open_rows, parse_label, text_of
from bench.tasks.rows import Rows, is_test, row_digest

Split = Literal["train", "test"]
MOST_CLASSES = 1000
"""Distinct values of a label column beyond which it is taken for a number, a text or a key."""
Parsed = tuple[tuple[str, ...], int | float | str]
"""Texts and label of a row."""


def settled(spec: TaskSpec) -> TaskSpec:
    """``spec`` with the classes of its training file, sorted, where it names none; numbers are sorted as numbers.

    Raises:
        BenchError: The file cannot be read, or its label column holds one value or far too many.
    """
    if spec.kind != "classes" or spec.labels:
        return spec
    assert spec.train is not None, "a task of one's own has a training file"
    path = Path(spec.train)
    found: Counter[str] = Counter()
    for place, fields in open_rows(path, (*spec.text, spec.label)):
        if not is_empty(value := fields[spec.label]):
            check_class(value, f"{path}: {place}, column {spec.label!r}")
            found[class_name(value)] += 1
        if len(found) > MOST_CLASSES:
            raise BenchError(
                f"{path}: column {spec.label!r} holds over {MOST_CLASSES:,} different values; name the column of the "
                "class as label, or take kind = 'score' for a number, kind = 'text' for a text"
            )
    if len(found) < 2:
        held = f"one class alone, {next(iter(found))!r}" if found else "no class"
        raise BenchError(f"{path}: column {spec.label!r} holds {held}; give rows of two classes at least")
    changed = spec.model_copy(update={"labels": tuple(sorted(found, key=_in_order))})
    try:
        changed.check_f1()
    except ValueError as error:
        raise BenchError(f"task {spec.name}: {error}") from error
    return changed


def _in_order(name: str) -> tuple[bool, float, str]:
    number = number_of(name)
    return number is None, number or 0.0, name


def read_split(spec: TaskSpec, split: Split, count: int | None) -> Rows:
    """The rows of one split, in the order of their hashes; no more than ``count`` are held at any time.

    Args:
        spec: A settled task with files of its own.
        split: Which rows. With ``test_share`` both come from one file, parted by the hash of their texts, so that
            rows with the same texts are in one split.
        count: Rows drawn by content hash; all where None.

    Raises:
        BenchError: A file is missing, empty, or a row of it does not fit the task.
    """
    path = Path(spec.train if split == "train" or spec.test is None else spec.test)  # type: ignore[arg-type]
    tally: Counter[str] = Counter()
    drawn: list[tuple[int, int, Parsed]] = []
    for number, row in enumerate(_parsed(path, spec, split, tally)):
        entry = (-int.from_bytes(row_digest(*row)), -number, row)
        if count is None or len(drawn) < count:
            heapq.heappush(drawn, entry)
        else:
            heapq.heappushpop(drawn, entry)
    if not drawn:
        raise _none_left(path, spec, split, tally)
    rows = [row for _, _, row in sorted(drawn, reverse=True)]
    return Rows(tuple(texts for texts, _ in rows), tuple(label for _, label in rows), tuple(_notes(path, tally)))


def _none_left(path: Path, spec: TaskSpec, split: Split, tally: Counter[str]) -> BenchError:
    if tally["read"]:
        why = f"none of its {tally['read']:,} rows is left for {split}"
        return BenchError(f"{path}: {why}; raise or lower test_share, or give complete rows")
    return BenchError(f"{path}: the file has no rows; put the rows of {spec.name} into it")


def _notes(path: Path, tally: Counter[str]) -> Iterator[str]:
    for key, what in (("empty", "with an empty text"), ("text", "with an empty text left out"),
                      ("label", "without a label left out")):  # fmt: skip
        if tally[key]:
            yield f"{path.name}: {tally[key]:,} {'row' if tally[key] == 1 else 'rows'} {what}"


def _parsed(path: Path, spec: TaskSpec, split: Split, tally: Counter[str]) -> Iterator[Parsed]:
    """Rows of one split in the form of the task; ``tally`` counts those that are read, empty or left out."""
    for place, fields in open_rows(path, (*spec.text, spec.label)):
        tally["read"] += 1
        if _left_out(path, place, fields, spec, tally):
            continue
        texts = tuple("" if is_empty(fields[c]) else text_of(path, place, fields, c) for c in spec.text)
        if spec.test_share is not None and (split == "test") != is_test(texts, spec.test_share):
            continue
        where = f"{path}: {place}, column {spec.label!r}"
        if spec.kind == "text":
            yield (prompted(spec, texts),), text_of(path, place, fields, spec.label)
        else:
            yield texts, _label(spec, fields[spec.label], where)


def _label(spec: TaskSpec, value: Any, where: str) -> int | float:
    if spec.regression and isinstance(value, float) and not math.isfinite(value):
        raise BenchError(f"{where}: {value} is not a score of {spec.name}: must be a finite number")
    return parse_label(spec, value, where)


def _left_out(path: Path, place: str, fields: Any, spec: TaskSpec, tally: Counter[str]) -> bool:
    """Whether the row is incomplete and dropped; refuses it where the task says so."""
    empty = next((column for column in spec.text if is_empty(fields[column])), None)
    without = is_empty(fields[spec.label])
    if empty is None and not without:
        return False
    if spec.incomplete == "drop":
        tally["label" if without else "text"] += 1
        return True
    if without or spec.incomplete == "refuse":
        column = spec.label if without else empty
        raise BenchError(
            f'{path}: {place}, column {column!r} is empty; fill it, remove the row, or set incomplete = "drop" for '
            f"{spec.name}"
        )
    tally["empty"] += 1
    return False


def prompted(spec: TaskSpec, texts: tuple[str, ...]) -> str:
    """What a language model continues: the task's template with the texts of a row, else one text a line."""
    if spec.prompt is None:
        return "".join(f"{text}\n" for text in texts)
    of = dict(zip(spec.text, texts, strict=True))  # by whole names: `format` would take a dot for an attribute
    parts = string.Formatter().parse(spec.prompt)
    return "".join(words + (of[field] if field is not None else "") for words, field, _, _ in parts)

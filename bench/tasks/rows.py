"""Rows of a task as plain data, with content hashes, stable subsets and overlaps."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.errors import BenchError
from bench.schema.task import TaskSpec

RUN = 8
"""Words in a row that two texts must share to count as overlapping."""


@dataclass(frozen=True)
class Rows:
    """Texts and labels, one entry per row."""

    texts: tuple[tuple[str, ...], ...]
    """One or two texts per row, verbatim."""
    labels: tuple[Any, ...]
    """Label id, the score of a regression, or the text that is to be written."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What of the file is not among them."""

    def __len__(self) -> int:
        return len(self.labels)


def _canonical(texts: tuple[str, ...], label: int | float | str) -> bytes:
    return json.dumps([texts, label], ensure_ascii=True, separators=(",", ":")).encode()


def row_digest(texts: tuple[str, ...], label: int | float | str) -> bytes:
    """Hash of a row's content, by which rows are drawn; 32 bytes."""
    return hashlib.sha256(_canonical(texts, label)).digest()


def is_test(texts: tuple[str, ...], share: float) -> bool:
    """Whether a row with ``texts`` is among the ``share`` of rows that score, by a hash of its texts alone."""
    digest = hashlib.sha256(b"test\n" + json.dumps(texts, ensure_ascii=True, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def subset(rows: Rows, count: int | None) -> Rows:
    """Draw ``count`` rows by content hash, in hash order; ``None`` or too large a count gives all rows.

    The draw depends on the set of rows alone, not on their order in a file; a smaller one is the head of a larger one.
    """
    keyed = sorted(
        (row_digest(texts, label), texts, label) for texts, label in zip(rows.texts, rows.labels, strict=True)
    )[:count]
    return Rows(tuple(texts for _, texts, _ in keyed), tuple(label for _, _, label in keyed))


def content_sha256(splits: Iterable[Rows]) -> str:
    """Hash the rows of all splits in the order given; hex."""
    digest = hashlib.sha256()
    for rows in splits:
        digest.update(b"split\n")
        for texts, label in zip(rows.texts, rows.labels, strict=True):
            digest.update(_canonical(texts, label) + b"\n")
    return digest.hexdigest()


def cut_selection(rows: Rows, count: int, name: str) -> tuple[Rows, Rows]:
    """Part the drawn ``rows`` of task ``name`` into those to train on and the first ``count``, which choose.

    Rows come in the order of their hashes, so the cut depends on content alone. A row that shares its texts with one
    that chooses is in neither part.

    Raises:
        BenchError: Nothing is left to train on.
    """
    chosen = Rows(rows.texts[:count], rows.labels[:count])
    seen = set(chosen.texts)
    left = [(texts, label) for texts, label in zip(rows.texts, rows.labels, strict=True) if texts not in seen]
    if len(chosen) < count or not left:
        raise BenchError(
            f"{name}: {count} selection rows leave none of the {len(rows)} rows for training; lower "
            "selection_rows or raise train_rows"
        )
    return Rows(tuple(texts for texts, _ in left), tuple(label for _, label in left)), chosen


def check_labels(data: "TaskData") -> None:
    """Refuse a split whose rows all have one label: nothing is learned from it, and no score tells methods apart.

    Raises:
        BenchError: One has; the sentence names it.
    """
    splits = {"training": data.train, "selection": data.selection, "test": data.test}
    if data.selection is data.test:
        del splits["test"]  # of a trial, which opens no test split
    for split, rows in splits.items():
        if rows is not None and len(set(rows.labels)) == 1:
            what = f"the {'score' if data.spec.regression else 'label'} {_spelled(data.spec, rows.labels[0])}"
            count = f"all {len(rows)} {split} rows have" if len(rows) > 1 else f"the one {split} row has"
            key = {"training": "train_rows", "selection": "selection_rows", "test": "test_rows"}[split]
            kinds = "scores" if data.spec.regression else "labels"
            raise BenchError(f"{data.spec.name}: {count} {what}; give rows of two {kinds} at least, or raise {key}")


def _spelled(spec: TaskSpec, label: int | float | str) -> str:
    if isinstance(label, str):
        return repr(label)
    return f"{label:g}" if spec.regression else spec.labels[int(label)]


def overlap(train: Rows, test: Rows) -> int:
    """Count test rows whose texts occur verbatim among the training texts."""
    seen = set(train.texts)
    return sum(texts in seen for texts in test.texts)


def overlap_ngrams(train: Rows, test: Rows) -> int:
    """Count test rows of which any text shares a run of ``RUN`` words with any training text.

    Words are compared in lower case without punctuation. A text of fewer words counts where it is, whole, the whole
    of a training text: inside longer ones, short phrases turn up by chance.
    """
    of_rows = [{run for text in texts for run in runs(text)} for texts in test.texts]
    wanted = set().union(*of_rows)  # runs of test, the smaller side, are held; those of train stream by
    seen = {run for texts in train.texts for text in texts for run in runs(text) if run in wanted}
    return sum(not seen.isdisjoint(runs) for runs in of_rows)


def runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every ``RUN`` words in a row of ``text``, in lower case without punctuation; of a shorter text all its words."""
    words = re.findall(r"\w+", text.lower())
    for start in range(max(1, len(words) - RUN + 1) if words else 0):
        yield tuple(words[start : start + RUN])


@dataclass(frozen=True)
class TaskData:
    """The rows that a cell trains and scores on."""

    spec: TaskSpec
    source: str
    """Kind of the source."""
    train: Rows
    test: Rows
    content_sha256: str
    """Hash of the rows used, train, selection where there is one, and test; independent of the order in files."""
    selection: Rows | None = None
    """Rows cut from train that choose between states or rates; None: nothing is chosen."""
    notes: tuple[str, ...] = ()
    """What of the files is not among the rows."""

    @cached_property
    def overlap(self) -> int:
        """Test rows whose texts occur verbatim among the training rows used."""
        return overlap(self.train, self.test)

    @cached_property
    def overlap_ngrams(self) -> int:
        """Test rows that share a run of 8 words with a training row used; some seconds for the largest tasks."""
        return overlap_ngrams(self.train, self.test)

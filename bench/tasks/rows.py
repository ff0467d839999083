"""Rows of a task as plain data, with content hashes and stable subsets; knows neither files nor the hub."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """Texts and labels, one entry per row."""

    texts: tuple[tuple[str, ...], ...]
    """One or two texts per row, verbatim."""
    labels: tuple[int | float, ...]
    """Label id, or the score of a regression."""

    def __len__(self) -> int:
        return len(self.labels)


def _canonical(texts: tuple[str, ...], label: int | float) -> bytes:
    return json.dumps([texts, label], ensure_ascii=True, separators=(",", ":")).encode()


def subset(rows: Rows, count: int | None) -> Rows:
    """Draw ``count`` rows by content hash, in hash order; ``None`` or too large a count gives all rows.

    The draw depends on the set of rows alone, not on their order in a file; a smaller one is the head of a larger one.
    """
    keyed = sorted(
        (hashlib.sha256(_canonical(texts, label)).digest(), texts, label)
        for texts, label in zip(rows.texts, rows.labels, strict=True)
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


def overlap(train: Rows, test: Rows) -> int:
    """Count test rows whose texts occur verbatim among the training texts."""
    seen = set(train.texts)
    return sum(texts in seen for texts in test.texts)

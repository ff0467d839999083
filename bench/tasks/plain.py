"""Plain texts that show what a language model forgets, or are mixed in against it: known ones, or the user's files."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.schema.forms import Hold
from bench.schema.jobs import PlainText
from bench.tasks import index
from bench.tasks.rows import RUN, runs

KNOWN: dict[str, Callable[[], str]] = {"editorials": index.editorials, "product-reviews": index.product_reviews}
"""Texts that this project knows, by the name that a suite gives."""


def in_folder(name: str, folder: Path) -> str:
    """``name`` of a known text as it is, that of a file as an absolute path; relative ones lie below ``folder``."""
    return name if name in KNOWN else str((folder / Path(name).expanduser()).resolve())


def shown(name: str) -> str:
    """What tables call a text: its name, or that of its file."""
    return name if name in KNOWN else Path(name).name


def found(names: Sequence[str], most_bytes: int, where: str) -> tuple[PlainText, ...]:
    """The texts that a suite names, each read once.

    Args:
        names: Names of known texts and absolute paths of files.
        most_bytes: Of each text, from its beginning.
        where: What names them, for error messages.

    Raises:
        BenchError: A text cannot be had or is none, or two have one name.
    """
    texts: list[PlainText] = []
    for name in names:
        path = None if name in KNOWN else name
        called = shown(name)
        if any(text.name == called for text in texts):
            raise BenchError(f"{where}: {called} is listed twice; give each text once, and each file a name of its own")
        try:
            content = _content(name, path, most_bytes)
        except BenchError as error:
            raise BenchError(f"{where}: {error}") from error
        texts.append(PlainText(name=called, sha256=_sha256(content), bytes=len(content), path=path))
    return tuple(texts)


def apart(text: str, read: Sequence[str]) -> str:
    """``text`` without each paragraph that has a run of ``RUN`` words in common with one of the texts ``read``.

    Paragraphs lie between empty lines. Brown et al., NeurIPS 2020, appendix C, tell contamination so, by runs of 13:
    training on what retention is read on would pass for remembering.
    """
    seen = {run for one in read for run in runs(one)}
    return "\n\n".join(part for part in re.split(r"\n\s*\n", text) if part.strip() and seen.isdisjoint(runs(part)))


def general(name: str, most_bytes: int, read: Sequence[PlainText], where: str) -> PlainText:
    """The text that a suite mixes in, of which something is left `apart` from the texts of ``[retention]``.

    Raises:
        BenchError: It cannot be had, is none, or nothing of it is left.
    """
    (found_text,) = found([name], most_bytes, where)
    if not apart(_of(found_text), [_of(one) for one in read]):
        names = ", ".join(one.name for one in read)
        raise BenchError(
            f"{where}: every paragraph of {found_text.name} has a run of {RUN} words in common with what [retention] "
            f"reads ({names}); separate paragraphs by empty lines, raise most_bytes, or name another text"
        )
    return found_text


class MixedRows(NamedTuple):
    """What a mix comes to."""

    steps: int
    domain: int
    """Rows of the task."""
    general: int
    """Rows of general text."""


def mixed_rows(steps: int, batch_size: int, share: float, hold: Hold) -> MixedRows:
    """Rows of task and of general text, whose share is that of all rows, to the nearest row.

    Args:
        steps: Of the recipe without a mix.
        batch_size: Rows of a step at most.
        share: Of general text, between 0 and 1.
        hold: ``total`` keeps steps and rows; ``domain`` keeps the rows of the task and adds steps.

    Raises:
        ValueError: No row of general text comes of it, or none of the task is left; a sentence for the suite's reader.
    """
    rows = steps * batch_size
    added = round(rows * share if hold == "total" else rows * share / (1 - share))
    if not added:
        raise ValueError(f"a share of {share:g} is no row of {rows}; raise it, or steps")
    if hold == "total" and added == rows:
        raise ValueError(f"a share of {share:g} leaves no row of the task among {rows}; lower it")
    if hold == "total":
        return MixedRows(steps, rows - added, added)
    return MixedRows(-(-(rows + added) // batch_size), rows, added)


def read(text: PlainText) -> str:
    """The text that a run was planned with.

    Raises:
        BenchError: It has changed since, or cannot be had.
    """
    content = _of(text)
    if _sha256(content.encode()) != text.sha256:
        raise BenchError(f"the text {text.name} changed since the run was planned; begin with --fresh")
    return content


def _of(text: PlainText) -> str:
    return _content(text.name, text.path, text.bytes).decode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _content(name: str, path: str | None, most_bytes: int) -> bytes:
    """The first ``most_bytes`` of a text, less a character that they would cut."""
    if path is None:
        return _whole(KNOWN[name]().encode()[:most_bytes], name)
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes)
    except OSError as error:
        names = ", ".join(KNOWN)
        raise BenchError(
            f"{path} cannot be read ({error.strerror}); name a file of plain text, or one of: {names}"
        ) from error
    return _whole(content, path)


def _whole(content: bytes, name: str) -> bytes:
    """``content`` without the beginning of a character at its end.

    Raises:
        BenchError: It is not UTF-8, or is empty.
    """
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise BenchError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        content = content[: error.start]
    if not content.strip():
        raise BenchError(f"{name} has no text in the bytes that are read; name another file, or raise most_bytes")
    return content

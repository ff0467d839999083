"""Plain texts that show what a language model forgets: from the package index, or files of the user's own."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.schema.jobs import PlainText
from bench.tasks import index

KNOWN: dict[str, Callable[[], str]] = {"editorials": index.editorials}
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


def read(text: PlainText) -> str:
    """The text that a run was planned with.

    Raises:
        BenchError: It has changed since, or cannot be had.
    """
    content = _content(text.name, text.path, text.bytes)
    if _sha256(content) != text.sha256:
        raise BenchError(f"the text {text.name} changed since the run was planned; begin with --fresh")
    return content.decode()


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

"""Files that travel to other machines: known by their content, landed whole in the user's cache, checked by sha256."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from bench.errors import BenchError, unwritable
from bench.store.sidecars import sync

_REMEDY = "free space, fix permissions, or set XDG_CACHE_HOME on that machine"


class Packed(NamedTuple):
    """A file of a parcel."""

    name: str
    """Relative to the root, with ``/``."""
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Parcel:
    """Files below one folder, as they were when they were packed."""

    root: str
    """The folder, an absolute path of the machine that packed them."""
    files: tuple[Packed, ...]

    @functools.cached_property
    def id(self) -> str:
        """Hash of names and contents: the same wherever the files lie."""
        return hashlib.sha256(json.dumps(self.files).encode()).hexdigest()


def pack(root: Path, names: Iterable[str]) -> Parcel:
    """The files ``names`` below ``root``.

    Raises:
        BenchError: One cannot be read.
    """
    files = []
    for name in sorted(names):
        try:
            size, sha256 = _looked_at(root / name)
        except OSError as error:
            why = f"cannot be read ({error.strerror}), and jobs on other nodes need it"
            raise BenchError(f"{root / name}: {why}") from error
        files.append(Packed(name, size, sha256))
    return Parcel(str(root.absolute()), tuple(files))


def standing(parcel: Parcel) -> Path | None:
    """The folder of this machine that holds the files of ``parcel``, each with its hash; None where none does.

    That is the folder they were packed in, where this is the same machine or shares its disk, or the one they have
    landed in. A file is read once in a process for as long as its size and the time of its last change stay.
    """
    return next((folder for folder in (Path(parcel.root), _place(parcel)) if _holds(folder, parcel)), None)


def land(parcel: Parcel, read: Callable[[str], Iterable[bytes]]) -> Path:
    """Write the files of ``parcel`` into the user's cache, once a machine: others that land it meanwhile wait.

    They are written aside and put in their place together, once each has its size and its hash.

    Args:
        parcel: What travels.
        read: Gives the content of the file of a name in parts.

    Returns:
        The folder that holds them.

    Raises:
        BenchError: The cache cannot be written, or what ``read`` gives has another hash.
    """
    place = _place(parcel)
    aside = place.with_name(f".{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{place.name}.lock")):
            if (folder := standing(parcel)) is not None:
                return folder
            for left in (aside, place):  # of one that was killed, or damaged since
                shutil.rmtree(left, ignore_errors=True)
            for file in parcel.files:
                _write(aside / file.name, read(file.name))
                _check(aside / file.name, file)
            aside.replace(place)
            sync(place.parent)
    except OSError as error:
        raise unwritable(place, error, _REMEDY) from error
    return place


def _place(parcel: Parcel) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "peft-ledger" / "parcels" / parcel.id[:32]


def _write(path: Path, parts: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _check(path: Path, file: Packed) -> None:
    if _looked_at(path) != (file.size, file.sha256):
        raise BenchError(
            f"{path.name}: arrived with another sha256 than it was sent with; it was changed meanwhile, or the disk is "
            "damaged: run the same command again"
        )


def _holds(folder: Path, parcel: Parcel) -> bool:
    try:
        for file in parcel.files:
            path = folder / file.name
            if path.stat().st_size != file.size or _looked_at(path)[1] != file.sha256:
                return False
    except OSError:
        return False
    return True


def _looked_at(path: Path) -> tuple[int, str]:
    """Size and hash of a file."""
    state = path.stat()
    return state.st_size, _sha256(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

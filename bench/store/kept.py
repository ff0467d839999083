"""Trained deltas of a run folder, ``kept/<id>/``: written aside by a worker, put in place before the record says so."""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError

from bench.errors import BenchError, first_fault, unwritable
from bench.schema.delta import VERSION, Delta
from bench.store.sidecars import sync
from bench.store.store import strict_json

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "kept"
"""Below a run folder."""
ABOUT, TENSORS = "delta.json", "delta.safetensors"
BESIDE, HEAD_FILE = "bench.json", "head.safetensors"
"""In an exported folder of another form: the description, and the weights of the task head."""
BODY, HEAD = "body.", "head."
"""Beginnings of the names of tensors: of the method, and of the task head."""
_ASIDE, _OLD = ".partial", ".old"


@dataclass(frozen=True)
class Keep:
    """What ``--keep`` asks of a run."""

    folder: Path
    """The run folder."""
    which: Literal["best", "all"]
    """``best``: of each method and task the seed with the best score alone."""
    suite_sha256: str
    """Hash of the resolved suite."""


class NotWritten(BenchError):
    """A delta could not be written: the run ends, and its cell is trained again by the same command."""


class Kept(NamedTuple):
    """A kept delta."""

    folder: Path
    about: Delta


def write_aside(folder: Path, about: Delta, tensors: "Mapping[str, Tensor]") -> str:
    """Write a delta beside its place, whole and durable.

    Args:
        folder: The run folder.
        about: What it is; its ``files`` are filled in.
        tensors: By names that begin with ``body.`` or ``head.``.

    Returns:
        Hash of the file of tensors.

    Raises:
        NotWritten: The disk is full or the folder cannot be written.
    """
    aside = aside_of(folder, about.cell)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)  # a run folder that is gone is not made again
        aside.mkdir()
        digest = write_tensors(aside / TENSORS, tensors)
        write_about(aside / ABOUT, about.model_copy(update={"files": {TENSORS: digest}}))
    except OSError as error:
        raise NotWritten(str(unwritable(aside, error, "free space or fix permissions, then run again"))) from error
    return digest


def aside_of(folder: Path, identity: str) -> Path:
    """Where `write_aside` writes the delta of a cell."""
    return folder / FOLDER / f"{identity}{_ASIDE}"


def copy_aside(folder: Path, identity: str, files: "Mapping[str, memoryview]") -> None:
    """Write a delta that came from another machine beside its place, whole and durable.

    Args:
        folder: The run folder.
        identity: Of the cell.
        files: Content by name, as `write_aside` wrote them there.

    Raises:
        NotWritten: The disk is full or the folder cannot be written.
        BenchError: What came has another hash than was written.
    """
    aside = aside_of(folder, identity)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        aside.mkdir()
        for name in (TENSORS, ABOUT):
            (aside / name).write_bytes(files[name])
            sync(aside / name)
    except OSError as error:
        raise NotWritten(str(unwritable(aside, error, "free space or fix permissions, then run again"))) from error
    check_files(aside, read_about(aside / ABOUT))


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> str:
    """Write a file of safetensors durably; returns its hash.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # copies on the CPU: the format has no views and no two names for one storage
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(None, str(error)) from error
    sync(path)
    return file_sha256(path)


def write_about(path: Path, about: Delta) -> None:
    """Write what a folder of tensors is, durably.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    path.write_text(about.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
    sync(path)


def land(folder: Path, identity: str) -> None:
    """Put what ``write_aside`` wrote in its place, in place of an older delta of the same cell.

    Raises:
        OSError: The folder cannot be written.
    """
    place = folder / FOLDER / identity
    old = place.with_name(identity + _OLD)
    if place.exists():
        place.replace(old)
    place.with_name(identity + _ASIDE).replace(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what a killed run has left half-written; the caller holds the folder's lock."""
    for path in (folder / FOLDER).glob("*"):
        if path.suffix == _OLD and not path.with_suffix("").exists():
            path.replace(path.with_suffix(""))
        elif path.suffix in (_ASIDE, _OLD):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path) -> None:
    """Keep earlier deltas under another name, as ``--fresh`` does with records."""
    if (folder / FOLDER).exists():
        (folder / FOLDER).replace(folder / f"{FOLDER}-{time.time_ns()}")


def is_kept(folder: Path, identity: str) -> bool:
    """Whether the delta of a cell lies in a run folder."""
    return (folder / FOLDER / identity / ABOUT).exists()


def leave_best(folder: Path) -> None:
    """Remove the deltas of all seeds but the best of each method and task; of equal ones the first seed stays.

    Raises:
        BenchError: A kept delta is damaged.
    """
    best: dict[tuple[str, str], Kept] = {}
    for kept in kept_in(folder):
        place = kept.about.method.label, kept.about.task
        standing = best.setdefault(place, kept)
        if standing is kept:
            continue
        worse = kept
        if (-kept.about.score.value, kept.about.seed) < (-standing.about.score.value, standing.about.seed):
            best[place], worse = kept, standing
        shutil.rmtree(worse.folder, ignore_errors=True)


def kept_in(folder: Path) -> Iterator[Kept]:
    """The kept deltas of a run folder, whole ones alone, in the order of method, task and seed.

    Raises:
        BenchError: One is damaged.
    """
    found = [
        Kept(path.parent, read_about(path))
        for path in (folder / FOLDER).glob(f"*/{ABOUT}")
        if path.parent.suffix not in (_ASIDE, _OLD)
    ]
    yield from sorted(found, key=lambda kept: (kept.about.method.label, kept.about.task, kept.about.seed))


def read_about(path: Path) -> Delta:
    """Read what a folder of tensors is; the tensors are not looked at.

    Raises:
        BenchError: It cannot be read, has another version, or does not hold together; one sentence.
    """
    try:
        values = strict_json(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); give a folder that export wrote") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path}: damaged, not JSON ({error}); train or export it again") from error
    if not isinstance(values, dict) or values.get("format") != "peft-ledger":
        raise BenchError(f"{path}: not the description of a delta; give a folder that export wrote")
    if values.get("version") != VERSION:
        raise BenchError(f"{path}: version {values.get('version')!r}; this program reads version {VERSION}")
    try:
        return Delta.model_validate(values)
    except ValidationError as error:
        fault = first_fault(error, values)
        raise BenchError(f"{path}: {fault.place or 'damaged'}: {fault.message}; train or export it again") from error


def check_files(folder: Path, about: Delta) -> None:
    """Hold the files of tensors against their hashes.

    Raises:
        BenchError: One is missing or is not the one that was written.
    """
    for name, expected in about.files.items():
        path = folder / name
        if not path.is_file():
            raise BenchError(f"{path}: missing; train or export it again")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise BenchError(f"{path}: cannot be read ({error.strerror}); train or export it again") from error
        if found != expected:
            raise BenchError(f"{path}: damaged or changed, its sha256 is another; train or export it again")


def read_tensors(path: Path, prefix: str) -> "dict[str, Tensor]":
    """The tensors of a file whose names begin with ``prefix``, without it.

    Raises:
        BenchError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise BenchError(f"{path}: damaged ({' '.join(str(error).split())}); train or export it again") from error


def file_sha256(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files beside the records of a run: predictions and singular vectors of its cells, too large for a record.

While a run is measured each cell writes files of its own, ``predictions/<id>.parquet`` and
``directions/<id>.safetensors``. `pack` joins them into ``predictions.parquet`` and ``directions.safetensors``, one file
a run, which is how runs are published. Readers take either; a cell's own file goes before the joint one.
"""

import errno
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from bench.errors import BenchError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    Vectors = NDArray[Any]

Content = TypeVar("Content")
PREDICTIONS, DIRECTIONS = "predictions.parquet", "directions.safetensors"
"""Joint files of a run folder."""


@dataclass(frozen=True)
class Sidecars:
    """What a cell leaves beside its record."""

    predictions: Mapping[str, Sequence[Any]]
    """Columns by test row: ``row``, ``label``, ``prediction`` and, for classes, ``probability``."""
    directions: "Mapping[str, Vectors]" = field(default_factory=dict)
    """By map, the leading left singular vectors of what training added to it; empty where the recipe asks for none."""

    def write(self, folder: Path, identity: str) -> None:
        """Write each whole or not at all, named after the record's identity.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        _write(predictions_path(folder, identity), self._write_predictions)
        if self.directions:
            _write(directions_path(folder, identity), self._write_directions)

    def _write_predictions(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(dict(self.predictions)), path)

    def _write_directions(self, path: Path) -> None:
        from safetensors.numpy import save

        path.write_bytes(save(dict(self.directions)))


def predictions_path(folder: Path, identity: str) -> Path:
    """Path of the predictions that one cell writes below a run folder."""
    return folder / "predictions" / f"{identity}.parquet"


def directions_path(folder: Path, identity: str) -> Path:
    """Path of the singular vectors that one cell writes below a run folder."""
    return folder / "directions" / f"{identity}.safetensors"


def directions_sha256(vectors: "Mapping[str, Vectors]") -> str:
    """Hash of a cell's singular vectors, by which a reader knows that a file is the record's."""
    import numpy as np

    found = hashlib.sha256()
    for name in sorted(vectors):
        found.update(f"{name} {vectors[name].shape} ".encode() + np.ascontiguousarray(vectors[name]).tobytes())
    return found.hexdigest()


def predictions_sha256(prediction: Sequence[Any]) -> str:
    """Hash of a cell's predictions in the order of its test rows: the same whichever file holds them."""
    return hashlib.sha256(repr(list(prediction)).encode()).hexdigest()


class Predictions(NamedTuple):
    """Predictions of one cell."""

    path: Path
    """The file that holds them."""
    table: "pa.Table"
    """The columns of `Sidecars.predictions`."""


class Directions(NamedTuple):
    """Singular vectors of one cell."""

    path: Path
    """The file that holds them."""
    vectors: "dict[str, Vectors]"
    """By map, ``[out, leading]``."""


def read_predictions(folder: Path, identity: str) -> Predictions | None:
    """Predictions of one cell, None where the run folder has none of it.

    Raises:
        BenchError: The file is damaged.
    """
    own, joint = predictions_path(folder, identity), folder / PREDICTIONS
    if own.exists():
        import pyarrow.parquet as pq

        return Predictions(own, _readable(own, "predictions", pq.read_table))
    if not joint.exists():
        return None
    cells = _readable(joint, "predictions", lambda path: _cells(path, path.stat().st_mtime_ns))
    return Predictions(joint, cells[identity]) if identity in cells else None


def read_directions(folder: Path, identity: str) -> Directions | None:
    """Singular vectors of one cell, None where the run folder has none of it.

    Raises:
        BenchError: The file is damaged.
    """
    own, joint = directions_path(folder, identity), folder / DIRECTIONS
    if own.exists():
        return Directions(own, _readable(own, "vectors", lambda path: _vectors(path, "")))
    if not joint.exists():
        return None
    vectors = _readable(joint, "vectors", lambda path: _vectors(path, f"{identity}/"))
    return Directions(joint, vectors) if vectors else None


def pack(folder: Path, identities: Sequence[str], into: Path) -> dict[str, int]:
    """Join the sidecars of a run folder, of either form, into the two files of ``into``; a kind without any is no file.

    Args:
        folder: The run folder.
        identities: Of the records, in their order.
        into: An existing folder.

    Returns:
        Cells in each file that was written, by its name.

    Raises:
        BenchError: A sidecar is damaged.
        OSError: ``into`` cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    tables = {name: predicted.table for name in identities if (predicted := read_predictions(folder, name))}
    vectors = {name: added.vectors for name in identities if (added := read_directions(folder, name))}
    if tables:
        parts = (table.add_column(0, "id", pa.array([name] * len(table))) for name, table in tables.items())
        pq.write_table(
            pa.concat_tables(parts, promote_options="permissive"), into / PREDICTIONS, compression="zstd",
            compression_level=19, use_dictionary=["id", "label", "prediction"],
            column_encoding={"row": "DELTA_BINARY_PACKED", **_of_probabilities(tables.values())},
        )  # fmt: skip
    if vectors:
        joined = {f"{name}/{place}": held for name, own in vectors.items() for place, held in own.items()}
        (into / DIRECTIONS).write_bytes(save(joined))
    return {name: len(cells) for name, cells in ((PREDICTIONS, tables), (DIRECTIONS, vectors)) if cells}


def _of_probabilities(tables: "Iterable[pa.Table]") -> dict[str, str]:
    """Doubles that were single precision: byte by byte half of them are zeros."""
    return {"probability": "BYTE_STREAM_SPLIT"} if any("probability" in one.column_names for one in tables) else {}


@functools.lru_cache(maxsize=1)  # a report asks for each cell of one run
def _cells(path: Path, changed: int) -> "dict[str, pa.Table]":
    """The tables that `pack` joined, by identity; ``changed`` keeps a file that was written anew from being missed."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path).combine_chunks()
    runs = pc.run_end_encode(table["id"].combine_chunks())
    names, ends = runs.values.to_pylist(), runs.run_ends.to_pylist()
    if len(set(names)) < len(names):
        raise ValueError("a cell is in it twice")
    rest = table.drop_columns("id")
    return {name: _as_written(rest[low:high]) for name, low, high in zip(names, [0, *ends], ends, strict=False)}


def _as_written(table: "pa.Table") -> "pa.Table":
    """A cell's columns with their own types: classes and scores of a regression share columns in a joint file."""
    import pyarrow as pa

    if "probability" not in table.column_names:
        return table
    if table["probability"].null_count:
        return table.drop_columns("probability")
    for at, name in enumerate(table.column_names):
        if name in ("label", "prediction"):
            table = table.set_column(at, name, table[name].cast(pa.int64()))
    return table


def _vectors(path: Path, prefix: str) -> "dict[str, Vectors]":
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as held:
        return {name.removeprefix(prefix): held.get_tensor(name) for name in held.keys() if name.startswith(prefix)}


def _readable(path: Path, what: str, read: Callable[[Path], Content]) -> Content:
    import pyarrow as pa
    from safetensors import SafetensorError

    try:
        return read(path)
    except (OSError, KeyError, ValueError, pa.ArrowException, SafetensorError) as error:
        raise BenchError(f"{path}: not readable {what} ({error}); restore or remove the file") from error


def _write(path: Path, write: Callable[[Path], None]) -> None:
    if not path.parent.exists():
        path.parent.mkdir(exist_ok=True)
        sync(path.parent.parent)
    write_whole(path, write)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path`` and put it in its place once it is on the disk: whole or not at all.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    partial = path.with_suffix(".partial")
    write(partial)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have what a file holds, or which files a folder holds, on the disk before going on.

    Raises:
        OSError: The disk says that it cannot.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # some file systems sync no folders
            raise
    finally:
        os.close(number)

"""Files beside the records of a run, one per cell: data too large for a record."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.stats.subspaces import Vectors


@dataclass(frozen=True)
class Sidecars:
    """What a cell leaves beside its record."""

    predictions: Mapping[str, Sequence[Any]]
    """Columns by test row: ``row``, ``label``, ``prediction`` and, for classes, ``probability``."""
    directions: Mapping[str, Vectors] = field(default_factory=dict)
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
    """Of the predictions of one cell below a run folder."""
    return folder / "predictions" / f"{identity}.parquet"


def directions_path(folder: Path, identity: str) -> Path:
    """Of the singular vectors of one cell below a run folder."""
    return folder / "directions" / f"{identity}.safetensors"


def _write(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    write(partial)
    partial.replace(path)

"""Keeps records in a run folder: append and fsync, one writer, no record twice; it judges nothing."""

import contextlib
import json
import os
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.errors import BenchError
from bench.record import SCHEMA, Record

_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass(frozen=True)
class Run:
    """A run folder as readers see it."""

    folder: Path
    suite: dict[str, Any]
    """The resolved suite."""
    records: tuple[Record, ...]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        BenchError: It is no run folder, or a file in it is damaged; the sentence names file and line.
    """
    path = folder / "suite.toml"
    try:
        suite = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path}: not a readable suite; give the folder of a run ({error})") from error
    if missing := [key for key in ("name", "methods", "baseline", "backbone") if key not in suite]:
        raise BenchError(f"{path}: {missing[0]} is missing; this is not the resolved suite of a run")
    shapes: dict[str, type] = {"name": str, "methods": list, "baseline": str, "backbone": dict}
    if wrong := [key for key, kind in shapes.items() if not isinstance(suite[key], kind)]:
        raise BenchError(
            f"{path}: {wrong[0]} = {suite[wrong[0]]!r} is damaged; this is not the resolved suite of a run"
        )
    return Run(folder, suite, tuple(read_records(folder / "records.jsonl")))


def read_records(path: Path) -> list[Record]:
    """Read records; a torn last line, as a killed run leaves it, is passed over.

    Raises:
        BenchError: A line before the last is no record, or an identity stands twice.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    torn = lines.pop() if lines else b""  # what follows the last line break was never finished
    del torn
    records, seen = [], set()
    for number, line in enumerate(lines, start=1):
        record = _parse(line, f"{path}:{number}")
        if record.id in seen:
            raise BenchError(f"{path}:{number}: record {record.id[:12]} stands twice; remove one of the lines")
        seen.add(record.id)
        records.append(record)
    return records


def _parse(line: bytes, where: str) -> Record:
    try:
        values = json.loads(line)
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise BenchError(f"{where}: schema {schema!r}; this version reads schema {SCHEMA}")
        return _RECORD.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BenchError(f"{where}: {place}: {first['msg']}; {len(error.errors())} fields do not fit") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{where}: not a JSON record ({error})") from error


class Store:
    """The one writer of a run folder."""

    def __init__(self, folder: Path, records: Sequence[Record]) -> None:
        self.folder = folder
        self.records = list(records)
        self._done = {record.id for record in records}

    def __contains__(self, identity: str) -> bool:
        return identity in self._done

    def append(self, record: Record, predictions: Mapping[str, Sequence[Any]] | None = None) -> None:
        """Write ``record`` durably, its per-example predictions first.

        Raises:
            BenchError: The disk is full or the folder cannot be written; nothing that stands is lost.
        """
        if record.id in self._done:
            return
        line = record.model_dump_json(by_alias=True) + "\n"
        try:
            if predictions is not None:
                _write_predictions(self.folder / "predictions" / f"{record.id}.parquet", predictions)
            _append_line(self.folder / "records.jsonl", line.encode())
        except OSError as error:
            raise BenchError(
                f"{self.folder}: cannot write ({error.strerror}); free space or mend permissions, then repeat"
            ) from error
        self._done.add(record.id)
        self.records.append(record)


def _append_line(path: Path, line: bytes) -> None:
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # a half-written line would be joined by the next one
            os.truncate(path, size)
        raise


def _write_predictions(path: Path, predictions: Mapping[str, Sequence[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(dict(predictions)), partial)
    partial.replace(path)


@contextlib.contextmanager
def open_store(folder: Path, suite: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Store]:
    """Lock ``folder`` (made where it is missing), mend a torn last line and write the resolved suite.

    Args:
        folder: The run folder.
        suite: The resolved suite of the plan.
        fresh: Set earlier records aside as ``records-<time>.jsonl`` and begin anew.

    Raises:
        BenchError: Another run holds the folder, it holds another suite, or it cannot be written.
    """
    import filelock
    import tomli_w

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise BenchError(f"{folder}: another run is writing here; wait for it or give another --out") from error
    except OSError as error:
        raise BenchError(f"{folder}: cannot be written ({error.strerror}); give another --out") from error
    try:
        records = folder / "records.jsonl"
        if fresh and records.exists():
            records.replace(folder / f"records-{time.time_ns()}.jsonl")
        _check_same_suite(folder / "suite.toml", suite, fresh)
        (folder / "suite.toml").write_text(tomli_w.dumps(suite), encoding="utf-8")
        _mend(records)
        store = Store(folder, read_records(records))
    except OSError as error:
        lock.release()
        raise BenchError(f"{folder}: cannot be written ({error.strerror}); give another --out") from error
    except BenchError:
        lock.release()
        raise
    try:
        yield store  # what fails in the caller's hands is not this folder's fault
    finally:
        lock.release()


def _check_same_suite(path: Path, suite: Mapping[str, Any], fresh: bool) -> None:
    if fresh or not path.exists() or not (path.parent / "records.jsonl").exists():
        return
    try:
        standing = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchError(f"{path}: not a readable suite ({error}); give another --out") from error
    if standing != suite:
        keys = sorted(key for key in {*standing, *suite} if standing.get(key) != suite.get(key))
        raise BenchError(f"{path}: holds another suite ({', '.join(keys)} differ); give another --out or --fresh")


def _mend(path: Path) -> None:
    """Cut a torn last line off, as a killed run leaves it."""
    if path.exists():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)

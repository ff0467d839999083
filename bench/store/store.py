"""Keeps records in a run folder: append and fsync, one writer, each record once."""

import contextlib
import gc
import json
import os
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from bench.errors import BenchError, first_fault, said, shortened, unwritable
from bench.schema.record import SCHEMA, Record, Stored, TrialRecord
from bench.schema.resolved import ResolvedSuite
from bench.store.sidecars import Sidecars, sync, write_whole

_RECORD: TypeAdapter[Stored] = TypeAdapter(Stored)
RETRIED = "retried.jsonl"
"""Below a run folder: records that ``run --retry`` has repeated."""


@dataclass(frozen=True)
class Run:
    """A run folder as readers see it."""

    folder: Path
    suite: ResolvedSuite
    records: tuple[Record, ...]

    @classmethod
    def of(cls, folder: Path, suite: Mapping[str, Any], records: Iterable[Record]) -> "Run":
        """A run of the plain values of a resolved suite."""
        return cls(folder, ResolvedSuite.model_validate(suite), tuple(records))

    @property
    def command(self) -> str:
        """What fills the folder, but for options that narrow the suite; quoted for a shell."""
        costs = self.suite.cost
        counted = costs and not self.suite.tasks and not any(cost.timed for cost in costs)
        words = ["run", "--suite", self.suite.name, "--out", str(self.folder), *(["--counts"] if counted else [])]
        return shlex.join(["python", "-m", "bench", *words])


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        BenchError: It is no run folder, it holds a search for rates, or a file in it is damaged; the sentence names
            file and line.
    """
    suite = read_suite(folder)
    records = read_records(folder / "records.jsonl")
    kept = tuple(record for record in records if not isinstance(record, TrialRecord))
    if suite.tuning is not None or len(kept) < len(records):
        raise BenchError(f"{folder}: this is a search for learning rates, not a run; bench report shows its tables")
    return Run(folder, suite, kept)


def read_suite(folder: Path) -> ResolvedSuite:
    """Read the resolved suite of a run folder.

    Raises:
        BenchError: It is no run folder, or the file is damaged.
    """
    path = folder / "suite.toml"
    try:
        suite = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        make = f"python -m bench run --suite NAME --out {folder}"
        raise BenchError(f"{path}: not a readable suite; give the folder of a run, or make one: {make}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        shown = shortened(str(path), 200)
        reason = error.strerror if isinstance(error, OSError) else said(error)
        raise BenchError(f"{shown}: not a readable suite; give the folder of a run ({reason})") from error
    try:
        return ResolvedSuite.model_validate(suite)
    except ValidationError as error:
        fault = first_fault(error, suite)
        wrong = "is missing" if fault.kind == "missing" else f"= {str(fault.given)[:80]} is damaged"
        raise BenchError(f"{path}: {fault.place} {wrong}; this is not the resolved suite of a run") from error


def read_records(path: Path) -> list[Stored]:
    """Read records; a torn last line, as a killed run leaves it, is passed over.

    Raises:
        BenchError: A line before the last is no record, or an identity stands twice.
    """
    try:
        with path.open("rb") as lines, _no_collection():
            return list(_read(lines, path).values())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error


def _read(lines: Iterable[bytes], path: Path) -> dict[str, Stored]:
    records: dict[str, Stored] = {}
    held: dict[tuple[str, str], Any] = {}
    for number, line in enumerate(lines, start=1):
        if line.endswith(b"\n"):  # what follows the last line break was never finished
            record = _parse(line, f"{path}:{number}", held)
            if record.id in records:
                raise BenchError(f"{path}:{number}: record {record.id[:12]} is listed twice; remove one of the lines")
            records[record.id] = record
    return records


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Hold the cyclic collector back: it would look again and again at records that are all kept, half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _parse(line: bytes, where: str, held: dict[tuple[str, str], Any]) -> Stored:
    """The record of a line; ``held`` keeps what records share from line to line."""
    try:
        values = strict_json(line)
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise BenchError(f"{where}: schema {schema!r}; this version reads schema {SCHEMA}")
        return _share(_RECORD.validate_python(values), values, held)
    except ValidationError as error:
        fault = first_fault(error, values)
        more = f"; {fault.faults} fields do not fit" if fault.faults > 1 else ""
        raise BenchError(f"{where}: {fault.place or 'record'}: {fault.message}{more}") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{where}: not a JSON record ({error})") from error


_REPEATED = ("backbone", "method", "environment", "task", "recipe", "shape", "trainable_parameters", "trained_dtypes")
"""Fields whose values most records of a run have in common."""


def _share(record: Stored, values: Mapping[str, Any], held: dict[tuple[str, str], Any]) -> Stored:
    """Hold what is equal in many records once: most of their memory would be copies."""
    fields = record.__dict__
    for name in _REPEATED:
        if values.get(name):
            fields[name] = held.setdefault((name, repr(values[name])), fields[name])
    given = record.model_fields_set
    object.__setattr__(record, "__pydantic_fields_set__", held.setdefault(("", repr(tuple(values))), given))
    return record


class Store:
    """The one writer of a run folder."""

    def __init__(self, folder: Path, records: Sequence[Stored]) -> None:
        self.folder = folder
        self.records = list(records)
        self._done = {record.id for record in records}
        self._seen = _seen(folder)

    def __contains__(self, identity: str) -> bool:
        return identity in self._done

    def append(self, record: Stored, sidecars: Sidecars | None = None) -> None:
        """Write ``record`` durably, the files beside it first.

        Raises:
            BenchError: The disk is full or the folder cannot be written; nothing that stands is lost. Or the folder is
                no longer the one that was opened.
        """
        if record.id in self._done:
            return
        line = record.model_dump_json(by_alias=True) + "\n"
        with self._written():
            if sidecars is not None:
                sidecars.write(self.folder, record.id)
            _append(self.folder / "records.jsonl", line.encode())
        self._done.add(record.id)
        self.records.append(record)

    def set_aside(self, identities: Set[str]) -> None:
        """Move records to ``retried.jsonl``: their jobs are owed again.

        Raises:
            BenchError: As `append`.
        """
        path = self.folder / "records.jsonl"
        with self._written():
            lines = list(zip(self.records, path.read_bytes().split(b"\n"), strict=False))
            kept = [(record, line) for record, line in lines if record.id not in identities]
            moved = [line + b"\n" for record, line in lines if record.id in identities]
            _append(path.with_name(RETRIED), b"".join(moved))  # a kill here leaves them in both files, and loses none
            write_whole(path, lambda aside: _fill(aside, b"".join(line + b"\n" for _, line in kept)))
        self._done -= identities
        self.records = [record for record, _ in kept]

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            if not _is(self._seen, _seen(self.folder)):
                raise BenchError(
                    f"{self.folder}: the folder or its records.jsonl was removed, replaced or changed while this run "
                    "wrote there; put it back, or give another --out, and run again"
                )
            yield
            self._seen = _seen(self.folder)
        except OSError as error:
            raise unwritable(self.folder, error, "free space or fix permissions, then run again") from error


class _Seen(NamedTuple):
    """By what a run folder is known again."""

    folder: tuple[int, int] | None
    """Device and number; None: there is none."""
    records: tuple[int, int] | None = None
    """Number and size of its file of records; None: there is none."""


def _seen(folder: Path) -> _Seen:
    try:
        at = folder.stat()
    except FileNotFoundError:
        return _Seen(None)
    try:
        records = (folder / "records.jsonl").stat()
    except FileNotFoundError:
        return _Seen((at.st_dev, at.st_ino))
    return _Seen((at.st_dev, at.st_ino), (records.st_ino, records.st_size))


def _is(before: _Seen, now: _Seen) -> bool:
    """Whether a run folder is as it was left; a first line that could not be written leaves an empty file."""
    begun = before.records is None and now.records is not None and now.records[1] == 0
    return before.folder == now.folder and (begun or before.records == now.records)


def _append(path: Path, lines: bytes) -> None:
    new = not path.exists()
    size = 0 if new else path.stat().st_size
    try:
        with path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # a half-written line would be joined by the next one
            os.truncate(path, size)
        raise


def _fill(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@contextlib.contextmanager
def open_store(
    folder: Path, suite: ResolvedSuite, *, fresh: bool = False, wanted: Set[str] = frozenset()
) -> Iterator[Store]:
    """Lock ``folder`` (made where it is missing), mend a torn last line and write the resolved suite.

    Args:
        folder: The run folder.
        suite: The resolved suite of the plan.
        fresh: Set earlier records aside as ``records-<time>.jsonl`` and begin anew.
        wanted: Identities of the plan's records: where all that stand are among them, a suite that a kill has cut short
            is made anew.

    Raises:
        BenchError: Another run holds the folder, it holds another suite, or it cannot be written.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise BenchError(f"{folder}: another run is writing here; wait for it or give another --out") from error
    except OSError as error:
        raise unwritable(folder, error, "give another --out") from error
    try:
        store = _opened(folder, suite.plain(), fresh, wanted)
    except OSError as error:
        lock.release()
        raise unwritable(folder, error, "give another --out") from error
    except BenchError:
        lock.release()
        raise
    try:
        yield store  # what fails in the caller's hands is not this folder's fault
    finally:
        lock.release()


def _opened(folder: Path, values: Mapping[str, Any], fresh: bool, wanted: Set[str]) -> Store:
    """Everything is read before anything is written: what is refused stays as it is."""
    import tomli_w

    path, records, whole = folder / "suite.toml", folder / "records.jsonl", tomli_w.dumps(values).encode()
    standing = _standing(path, values, whole, fresh)
    held = [] if fresh else read_records(records)
    if standing is None and any(record.id not in wanted for record in held):
        raise BenchError(
            f"{path}: cut short or missing, and records beside it are not of this suite as it is now; give another "
            "--out or --fresh"
        )
    if fresh and records.exists():
        records.replace(folder / f"records-{time.time_ns()}.jsonl")
    if standing != values:
        if fresh and standing is not None:
            path.replace(path.with_name(f"suite-{time.time_ns()}.toml"))
        write_whole(path, lambda aside: _fill(aside, whole))
    _mend(records)
    return Store(folder, held)


def _standing(path: Path, suite: Mapping[str, Any], whole: bytes, fresh: bool) -> Mapping[str, Any] | None:
    """The suite in a folder that may go on with ``suite``; None where there is none, or its file was cut short.

    Another one is refused, also without records: its file may be a suite that a person wrote.

    Args:
        path: Of the file.
        suite: The resolved suite of the plan.
        whole: What its file holds; a part of that, from the start, is what a kill has left of it.
        fresh: A run's own file may be set aside.
    """
    with_records = any(path.parent.glob("records*.jsonl"))
    try:
        content = path.read_bytes()
        if whole.startswith(content) and content != whole:
            return None
        standing = tomllib.loads(content.decode())
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        if fresh and with_records:
            return {}
        remedy = "give another --out" + (" or --fresh" if with_records else "")
        raise BenchError(f"{path}: not a readable suite ({error}); {remedy}") from error
    resolved = "methods" in standing or with_records  # a run's own, not a person's
    if standing == suite or (not fresh and _widens(standing, suite)) or (fresh and resolved):
        return standing
    keys = sorted(key for key in {*standing, *suite} if standing.get(key) != suite.get(key))
    remedy = "give another --out" + (" or --fresh" if resolved else "")
    had = _counted(standing)
    begun = "" if had == _counted(suite) else f"; it was begun {'with' if had else 'without'} --counts"
    raise BenchError(f"{path}: holds a different suite ({', '.join(keys)} differ{begun}); {remedy}")


def _counted(suite: Mapping[str, Any]) -> bool:
    """Whether a resolved suite has shapes that are counted alone, as ``--counts`` asks."""
    shapes = suite.get("cost")
    return isinstance(shapes, list) and any(isinstance(one, dict) and one.get("timed") is False for one in shapes)


def _widens(standing: Mapping[str, Any], suite: Mapping[str, Any]) -> bool:
    """Whether ``suite`` is the search that stands in a folder, over more rates: its trials stay trials of it."""
    old, new = standing.get("tuning"), suite.get("tuning")
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    grid = ("learning_rates", "head_learning_rates")
    rest = [{**one, "tuning": {**one["tuning"], **dict.fromkeys(grid)}} for one in (standing, suite)]
    had = {rates: old.get(rates) for rates in grid}
    grown = (isinstance(tried, list) and all(rate in new[rates] for rate in tried) for rates, tried in had.items())
    return rest[0] == rest[1] and all(grown)


def _mend(path: Path) -> None:
    """Move a torn last line, as a killed run leaves it, to ``records.torn``: no byte is lost, whosever it was."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if torn := content[whole:]:
        with path.with_name("records.torn").open("ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        os.truncate(path, whole)


_LARGEST = 1e100
"""Numbers beyond it are no figure, and arithmetic on them would overflow."""


def strict_json(text: bytes) -> Any:
    """Parse JSON that holds no key twice, as a bad merge leaves it, no NaN and no number that overflows.

    Raises:
        ValueError: ``text`` is no such JSON.
        RecursionError: It is nested too deeply.
    """
    encoding = json.detect_encoding(text)
    decoder = _QUICK if encoding == "utf-8" and not _may_overflow(text) else _CAREFUL
    return decoder.decode(text.decode(encoding, "surrogatepass"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is listed twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number in JSON")


def _number(kind: type[int] | type[float]) -> Callable[[str], int | float]:
    def parse(digits: str) -> int | float:
        if len(digits) > 400 or abs(value := kind(digits)) > _LARGEST:
            raise ValueError(f"{digits[:20]} is too large")
        return value

    return parse


_OUTLINE = bytes(
    48 if byte in b"0123456789" else 101 if byte in b"eE" else 44 if byte in b",]} \t\r\n" else 46
    for byte in range(256)
)
"""Every digit as 0, every end of a number as a comma; what is left of a text is enough to see how long numbers are."""
_EXPONENT = re.compile(rb"0e00+(?:,|$)")


def _may_overflow(text: bytes) -> bool:
    """Whether a number may have 90 digits or an exponent of two: to ask each one of a run's millions takes seconds."""
    outline = text.translate(_OUTLINE, b"+")
    return b"0" * 90 in outline or _EXPONENT.search(outline) is not None


_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_refuse, parse_int=_number(int), parse_float=_number(float)
)
_QUICK = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)
"""Looks at no single number."""

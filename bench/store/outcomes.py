"""What jobs of specs leave in files, and how a run folder gathers it.

A job leaves ``<any name>.jsonl``, its records, and the sidecars of a cell beside it, in the folders that a run has for
them. All is put in place whole, the records last: where they are there, everything is.
"""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError, unwritable
from bench.schema.jobs import Job, record_ids
from bench.schema.record import Stored
from bench.store.sidecars import (
    Sidecars,
    directions_path,
    directions_sha256,
    predictions_path,
    predictions_sha256,
    read_directions,
    read_predictions,
)
from bench.store.specs import Spec, check_file, land, read_specs, suite_of
from bench.store.store import Store, open_store, read_records

ENDING = ".jsonl"
"""Of the files that jobs leave, by which they are told from specs."""
MOST_BYTES = 2**28
"""Of such a file; the records of a probe of thirty methods, with every sample, take some 10 MB."""


def check_writable(path: Path) -> None:
    """Refuse, before a job is run, a place that it could not leave its records in.

    Raises:
        BenchError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="."):
            return
    except OSError as error:
        raise unwritable(path, error, "give another --out") from error


def write_outcome(path: Path, results: Sequence[tuple[Stored, Sidecars | None]]) -> None:
    """Write the records of a job, the files beside them first: where ``path`` is there, all of them are.

    Raises:
        BenchError: The disk is full or the folder cannot be written; then ``path`` is not there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as aside:
            for record, sidecars in results:
                if sidecars is not None:
                    sidecars.write(Path(aside), record.id)
            for file in sorted(file for file in Path(aside).rglob("*") if file.is_file()):
                land(file, path.parent / file.relative_to(aside))
            lines = "".join(record.model_dump_json(by_alias=True) + "\n" for record, _ in results)
            (partial := Path(aside) / path.name).write_text(lines, encoding="utf-8")
            land(partial, path)
    except OSError as error:
        raise unwritable(path, error, "free space or fix permissions, then run the job again") from error


def read_outcome(path: Path, job: Job) -> list[Stored] | None:
    """The records that ``job`` has left in ``path``; None where no file is there.

    Raises:
        BenchError: The file is damaged, holds another job's records or not all of this one's, or lacks a sidecar.
    """
    if not path.exists():
        return None
    records, owed = _records(path), {*record_ids(job)}
    held = {record.id for record in records}
    if others := sorted(held - owed):
        raise BenchError(f"{path}: holds the record {others[0][:12]} of another job; give another --out")
    _check_whole(path, records, len(owed))
    if missing := _lacking(path.parent, records):
        raise BenchError(f"{missing}: is missing beside {path.name}; remove {path} and run the job again")
    return records


def _records(path: Path) -> list[Stored]:
    check_file(path, MOST_BYTES)
    if records := read_records(path):
        return records
    raise BenchError(f"{path}: holds no whole record; remove it and run its job again")


def _check_whole(path: Path, records: Sequence[Stored], owed: int) -> None:
    """A job leaves all its records or none, and all of one machine.

    Raises:
        BenchError: Some are missing, or they were taken on several machines.
    """
    if len(records) < owed:
        raise BenchError(f"{path}: holds {len(records)} of the {owed} records of its job; remove it and run it again")
    nodes = {str(record.environment.get("node")) for record in records}
    if len(nodes) > 1:
        raise BenchError(
            f"{path}: its records are of {len(nodes)} machines ({', '.join(sorted(nodes))}), and a probe is timed on "
            "one; remove it and run the job again"
        )


def _lacking(folder: Path, records: Iterable[Stored]) -> Path | None:
    """The first sidecar that a record names and that is not there."""
    return next((path for record in records for path in _sidecars(folder, record) if not path.exists()), None)


def _sidecars(folder: Path, record: Stored) -> list[Path]:
    hashes = (("predictions_sha256", predictions_path), ("directions_sha256", directions_path))
    return [path(folder, record.id) for name, path in hashes if getattr(record, name, None) is not None]


class Gathered(NamedTuple):
    """What became of the jobs of a folder of specs."""

    jobs: int
    new: int
    """Records that this call has put into the run folder."""
    records: int
    """Records of the run folder."""
    missing: list[str]
    """Names of the specs of jobs that have left nothing whole yet, with the file that is awaited beside a record."""
    failed: list[str]
    """Of each record that is not ok: name of the spec, method, status and reason."""


def gather(folder: Path, out: Path, *, fresh: bool = False) -> Gathered:
    """Put what jobs have left in a folder of specs into a run folder, each record once; it may be called again.

    Args:
        folder: Of ``plan --specs``, with what its jobs have left.
        out: The run folder.
        fresh: Archive the records of the run folder and begin anew.

    Raises:
        BenchError: A file is damaged or belongs to another plan, or the run folder has another record of a job.
    """
    if out.resolve() == folder.resolve():
        raise BenchError(f"--out {out}: is the folder of specs itself; give another one")
    suite = suite_of(folder)
    specs = read_specs(folder, suite)
    left = _outcomes(folder, specs)
    found = [(spec, records) for spec in specs if (records := _whole(folder, spec, left)) is not None]
    for _, records in found:
        for record in records:
            _check_sidecars(folder, record)
    with open_store(out, suite, fresh=fresh) as store:
        gathered = [record for _, records in found for record in records]
        _check_standing(store, gathered)
        new = [record for record in gathered if record.id not in store]
        for record in new:
            _copy_sidecars(folder, out, record)
            store.append(record)
        there = {spec.job.id for spec, _ in found}
        return Gathered(
            jobs=len(specs), new=len(new), records=len(store.records),
            missing=[_awaited(folder, spec, left) for spec in specs if spec.job.id not in there],
            failed=[
                f"{spec.name}: {record.method.label}: {record.status}: {record.reason}"
                for spec, records in found for record in records if record.status != "ok"
            ],
        )  # fmt: skip


Left = dict[str, tuple[Path, Stored]]
"""By identity, a record and the file that holds it."""


def _outcomes(folder: Path, specs: Sequence[Spec]) -> Left:
    """What the files of a folder hold.

    Raises:
        BenchError: A file is damaged, a record is in two, or is one of no spec.
    """
    owed = {identity for spec in specs for identity in record_ids(spec.job)}
    found: Left = {}
    for path in sorted(folder.glob(f"*{ENDING}")):
        for record in _records(path):
            if record.id not in owed:
                raise BenchError(f"{path}: the record {record.id[:12]} is of no spec of {folder}; remove the file")
            if record.id in found:
                raise BenchError(
                    f"{path}: the record {record.id[:12]} is in {found[record.id][0].name} as well; remove one of them"
                )
            found[record.id] = path, record
    return found


def _awaited(folder: Path, spec: Spec, left: Left) -> str:
    """A job that is not whole, and the file that its records lack beside them, where it has left records."""
    records = [left[identity][1] for identity in record_ids(spec.job) if identity in left]
    lacking = _lacking(folder, records)
    return spec.name if lacking is None else f"{spec.name}: its record is there, {lacking.relative_to(folder)} is not"


def _whole(folder: Path, spec: Spec, left: Left) -> list[Stored] | None:
    """The records of a job; None where it has left none, or where a file beside them is still on its way."""
    held = [left[identity] for identity in record_ids(spec.job) if identity in left]
    if not held:
        return None
    files = {path for path, _ in held}
    if len(files) > 1:
        raise BenchError(f"{min(files)}: shares a job with {max(files).name}; remove both and run {spec.name} again")
    records = [record for _, record in held]
    _check_whole(files.pop(), records, len(record_ids(spec.job)))
    return None if _lacking(folder, records) else records


def _check_sidecars(folder: Path, record: Stored) -> None:
    """Files beside a record are those that it was written with.

    Raises:
        BenchError: One is damaged, or is another cell's.
    """
    predicted, added = getattr(record, "predictions_sha256", None), getattr(record, "directions_sha256", None)
    if predicted is not None and (predictions := read_predictions(folder, record.id)) is not None:
        columns = predictions.table.column_names
        held = predictions.table["prediction"].to_pylist() if "prediction" in columns else []
        if predictions_sha256(held) != predicted:
            raise BenchError(f"{predictions.path}: holds other predictions than its record names; run the job again")
    if added is not None and (directions := read_directions(folder, record.id)) is not None:
        if directions_sha256(directions.vectors) != added:
            raise BenchError(f"{directions.path}: holds other vectors than its record names; run the job again")


def _check_standing(store: Store, gathered: Sequence[Stored]) -> None:
    """A record of the run folder is the one that the job has left.

    Raises:
        BenchError: The job was run again since.
    """
    standing = {record.id: record for record in store.records}
    for record in gathered:
        if (old := standing.get(record.id)) is not None and old != record:
            raise BenchError(
                f"{store.folder}: has an earlier record of {record.method.label} ({record.id[:12]}, {old.status}) than "
                "its job has left since; add --fresh to gather all of them anew"
            )


def _copy_sidecars(folder: Path, out: Path, record: Stored) -> None:
    try:
        for path in _sidecars(folder, record):
            target = out / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            partial = target.with_suffix(".partial")
            shutil.copyfile(path, partial)
            land(partial, target)
    except OSError as error:
        raise unwritable(out, error) from error

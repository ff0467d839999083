"""Jobs as files, for schedulers of any kind: a folder with ``suite.toml`` and ``<kind>-<id>.json``, a spec of each."""

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, first_fault, unwritable
from bench.schema.jobs import Cell, Job, Probe, Sweep, sha256_of
from bench.schema.ranges import MOST_SECONDS, check_recipe
from bench.schema.resolved import ResolvedSuite
from bench.store.store import read_suite, strict_json

VERSION: Final = 1
"""Of the format of a spec."""
KINDS: dict[str, type[Job]] = {"sweep": Sweep, "probe": Probe, "cell": Cell}
MOST_BYTES = 2**24
"""Of a spec; that of a probe of thirty methods takes some 50 kB."""
_SHA256 = r"^[0-9a-f]{64}$"


class _About(BaseModel):
    """What a spec says beside its job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["peft-ledger job"] = "peft-ledger job"
    version: Literal[1] = VERSION
    kind: Literal["sweep", "probe", "cell"]
    position: int = Field(ge=0, lt=10**9)
    """In the order in which a run starts its jobs."""
    suite_sha256: str = Field(pattern=_SHA256)
    """Hash of the resolved suite."""
    versions: dict[str, str | None]
    """Versions of Python and of the packages that the job's identity holds."""
    sources_sha256: str = Field(pattern=_SHA256)
    """Hash of this project's code that the job's identity holds."""


class _File(_About):
    job: dict[str, Any]


class Spec(NamedTuple):
    """A job, and what it was planned with."""

    about: _About
    job: Job

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.about.kind}-{self.job.id}.json"

    def text(self) -> str:
        """Content of its file."""
        content = self.about.model_dump() | {"job": json.loads(self.job.model_dump_json())}
        return json.dumps(content, indent=1) + "\n"


def spec_of(
    job: Job, position: int, suite_sha256: str, versions: Mapping[str, str | None], sources_sha256: str
) -> Spec:
    """The spec of a planned job."""
    kind: Any = next(kind for kind, cls in KINDS.items() if isinstance(job, cls))
    about = _About(
        kind=kind, position=position, suite_sha256=suite_sha256, versions=dict(versions), sources_sha256=sources_sha256
    )
    return Spec(about, job)


def write_specs(folder: Path, suite: ResolvedSuite, specs: Sequence[Spec]) -> None:
    """Write the specs of a plan and its suite, each whole or not at all; the same plan may be written again.

    Raises:
        BenchError: The folder holds a run or another plan, or cannot be written.
    """
    import tomli_w

    if (folder / "records.jsonl").exists():
        raise BenchError(f"{folder}: is the folder of a run; give another --specs")
    if (folder / "suite.toml").exists() and read_suite(folder).plain() != suite.plain():
        raise BenchError(f"{folder}: holds the jobs of another suite; give another --specs")
    names = {spec.name for spec in specs}
    if others := sorted(path.name for path in folder.glob("*.json") if path.name not in names):
        raise BenchError(
            f"{folder / others[0]}: is no job of this plan, which other versions, code or options have made; give "
            "another --specs"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            _write_whole(folder / spec.name, spec.text())
        _write_whole(folder / "suite.toml", tomli_w.dumps(suite.plain()))
    except OSError as error:
        raise unwritable(folder, error, "give another --specs") from error


def read_spec(path: Path) -> Spec:
    """Read the spec of a job.

    Raises:
        BenchError: It cannot be read, is too large, or is no spec of this version.
    """
    inside = ""
    try:
        check_file(path, MOST_BYTES)
        values = strict_json(path.read_bytes())
        version = values.get("version") if isinstance(values, dict) else None
        if version != VERSION:
            raise BenchError(f"{path}: version {version!r}; this program reads specs of version {VERSION}")
        file = _File.model_validate(values)
        values, inside = file.job, "job."
        job = KINDS[file.kind].model_validate_json(json.dumps(file.job))
        _check_values(job)
    except ValidationError as error:
        fault = first_fault(error, values)
        raise BenchError(
            f"{path}: {inside}{fault.place}: {fault.message}; write the specs again: plan --specs"
        ) from error
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path}: is no spec of a job ({error}); write the specs again: plan --specs") from error
    about = {name: value for name, value in file if name != "job"}
    return Spec(_About.model_validate(about), job)


def _check_values(job: Job) -> None:
    """What a plan holds of a job that the types of its fields do not.

    Raises:
        ValueError: A value is none that a plan gives.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", job.id):
        raise ValueError("id: is no sha256")
    if not 0 < job.timeout_seconds <= MOST_SECONDS:
        raise ValueError(f"timeout_seconds = {job.timeout_seconds!r}: must be above 0, {MOST_SECONDS:g} at most")
    if job.device not in ("cpu", "cuda"):
        raise ValueError(f"device = {job.device!r}: must be cpu or cuda")
    if isinstance(job, Cell):
        check_recipe(job.recipe)


def check_file(path: Path, most: int) -> None:
    """Refuse what is no file, or larger than any of its kind.

    Raises:
        BenchError: It is; the sentence says how large it may be.
    """
    if not path.is_file():
        raise BenchError(f"{path}: {'is a folder; give one of its files' if path.is_dir() else 'no such file'}")
    if (size := path.stat().st_size) > most:
        raise BenchError(f"{path}: has {size:,} bytes, and {most:,} at most are read of such a file")


def _write_whole(path: Path, text: str) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as aside:
        partial = Path(aside) / path.name
        partial.write_text(text, encoding="utf-8")
        land(partial, path)


def land(partial: Path, path: Path) -> None:
    """Put a whole file in its place; what stands there is replaced.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    path.parent.mkdir(exist_ok=True)
    partial.replace(path)


def suite_of(folder: Path) -> ResolvedSuite:
    """The resolved suite of a folder of specs.

    Raises:
        BenchError: It has none, or it is damaged.
    """
    if not (folder / "suite.toml").is_file():
        raise BenchError(f"{folder / 'suite.toml'}: is not there; give the folder that plan --specs has written")
    return read_suite(folder)


def read_specs(folder: Path, suite: ResolvedSuite) -> list[Spec]:
    """The specs of a folder, in the order in which a run starts their jobs.

    Args:
        folder: The folder.
        suite: The resolved suite that lies there.

    Raises:
        BenchError: There is none, or one is damaged, renamed or of another suite.
    """
    specs, suite_sha256 = [], sha256_of(suite.plain())
    for path in sorted(folder.glob("*.json")):
        spec = read_spec(path)
        if spec.about.suite_sha256 != suite_sha256:
            raise BenchError(f"{path}: is a job of another suite than {folder / 'suite.toml'}; remove it")
        if path.name != spec.name:
            raise BenchError(f"{path}: is the spec {spec.name[:-5]}; give it its name back, or remove it")
        specs.append(spec)
    if not specs:
        raise BenchError(f"{folder}: holds no spec; write them with plan --specs {folder}")
    return sorted(specs, key=lambda spec: spec.about.position)

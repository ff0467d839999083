"""The identity of a job: a hash of all that decides its result, the sources of this package included."""

from bench.models import backbone
from bench.schema.fingerprint import sha256_of, source_hash
from bench.schema.jobs import Cell, Probe, Sweep
from bench.schema.record import SCHEMA
from bench.store.environment import versions

_SHARED = ("method.py", "anatomy.py", "models", "training/loop.py")
SOURCES: dict[type[Cell | Probe | Sweep], tuple[str, ...]] = {
    Cell: (*_SHARED, "stats/subspaces.py", "training", "tasks"),
    Probe: (*_SHARED, "stats/intervals.py", "stats/noise.py", "schema/claims.py", "timing", "count"),
    Sweep: (*_SHARED, "count"),
}
"""Files of this package that decide the result of a job beside those of its methods."""


def identity(job: Cell | Probe | Sweep) -> str:
    """Hash of all that decides the result: never paths, never git state, never time limits."""
    decided = job.model_dump(mode="json", exclude={"id", "timeout_seconds", "backbone", "source"})
    key = {
        "schema": SCHEMA, "job": decided, "weights": [job.backbone.name, job.backbone.weights, job.backbone.sha256],
        "backbone_files": backbone.files_sha256(job.backbone),
        "versions": versions(), "sources": source_hash(SOURCES[type(job)]),
    }  # fmt: skip
    return sha256_of(key)

"""Holds a job that was planned elsewhere against this machine: it must have the identity here that it has there."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from bench import registry
from bench.count.isolation import guarded
from bench.errors import BenchError
from bench.models import backbone
from bench.models.folder import weight_files, weights_sha256
from bench.plan.planner import SOURCES, identity
from bench.schema.jobs import (
    BackboneSpec,
    Cell,
    Job,
    MethodSpec,
    Plan,
    Sweep,
    is_path,
    method_sources,
    sha256_of,
    source_hash,
)
from bench.store.environment import check_devices, versions
from bench.store.specs import Spec, spec_of
from bench.tasks import plain
from bench.tasks.sources import rows_of


def specs_of(plan: Plan) -> tuple[Spec, ...]:
    """A spec of each job of ``plan``."""
    suite = sha256_of(plan.suite.plain())
    return tuple(spec_of(job, i, suite, versions(), source_hash(SOURCES[type(job)])) for i, job in enumerate(plan.jobs))


def located(spec: Spec, where: str) -> Job:
    """The job of ``spec`` with its backbone where this machine has it.

    Args:
        spec: What was planned.
        where: Its file, for error messages.

    Raises:
        BenchError: This machine has other versions or other code, or the backbone's files are not here.
    """
    check_versions(type(spec.job), spec.about.versions, spec.about.sources_sha256, where)
    try:
        return spec.job.model_copy(update={"backbone": _backbone(spec.job.backbone)})
    except BenchError as error:
        raise BenchError(f"{where}: {error}") from error


def family(job: Job) -> str:
    """The family of the job's backbone, as transformers names it, such as ``bert``."""
    name: str = backbone.configuration(job.backbone).model_type
    return name


def check_here(job: Job, where: str) -> None:
    """Hold what decides the result of ``job`` against what this machine has, before anything is run.

    Args:
        job: From `located`.
        where: The file of its spec, for error messages.

    Raises:
        BenchError: The device, a method, the rows or the texts are not here or are others.
    """
    try:
        _check_device(job)
        for method in (job.method,) if isinstance(job, Cell) else job.methods:
            guarded(method.name, functools.partial(_check_method, method))
        if identity(job) != job.id:
            raise BenchError(
                "gives another identity here: the file was changed, or the backbone's configuration or tokenizer was; "
                "plan again where the jobs run"
            )
        if isinstance(job, Cell):
            rows_of(job)
            for text in job.retention.texts if job.retention else ():
                plain.read(text)
    except BenchError as error:
        raise BenchError(f"{where}: {error}") from error


def check_versions(kind: type[Job], theirs: Mapping[str, str | None], sources_sha256: str, where: str) -> None:
    """Hold what a job was planned with against what is installed here.

    Args:
        kind: Of the job.
        theirs: Versions of Python and of the packages that its identity holds.
        sources_sha256: Hash of this project's code that its identity holds.
        where: What names the job, for error messages.

    Raises:
        BenchError: This machine has other versions or other code.
    """
    ours = versions()
    for name in {**theirs, **ours}:
        if ours.get(name) != theirs.get(name):
            raise BenchError(
                f"{where}: was planned with {name} {theirs.get(name) or '(none)'}, and this machine has "
                f"{ours.get(name) or 'none'}; install the same versions on both, or plan where the jobs run"
            )
    if source_hash(SOURCES[kind]) != sources_sha256:
        raise BenchError(f"{where}: was planned with other code than is installed here; take the same commit on both")


def _backbone(spec: BackboneSpec) -> BackboneSpec:
    """``spec`` with the folder of this machine, whose weights are those that were planned with."""
    if spec.folder is None:
        return spec
    if Path(spec.folder).is_dir():
        found = spec
        if spec.weights == "pretrained":
            found = dataclasses.replace(spec, sha256=weights_sha256(weight_files(Path(spec.folder))))
    elif is_path(spec.name):
        raise BenchError(f"backbone {spec.name}: {spec.folder} is not on this machine; share it under the same path")
    else:
        found = backbone.resolve(spec.name, spec.weights, spec.revision)
    if found.sha256 != spec.sha256:
        raise BenchError(
            f"backbone {spec.name}: the weights in {found.folder} are not those that it was planned with (sha256 is "
            f"{str(found.sha256)[:12]}, was {str(spec.sha256)[:12]}); share one folder"
        )
    return found


def _check_device(job: Job) -> None:
    import torch

    if job.device == "cuda" and not isinstance(job, Sweep) and not torch.cuda.is_available():
        raise BenchError("was planned for a GPU, and torch finds none here; run it on a node with one")
    if isinstance(job, Cell):
        check_devices(job.devices, job.device)


def _check_method(spec: MethodSpec) -> None:
    method, _ = registry.make(spec.name, spec.config)
    if method_sources(type(method).__module__) != spec.source_sha256:
        raise BenchError(f"method {spec.label}: has other code here than where it was planned; install the same one")

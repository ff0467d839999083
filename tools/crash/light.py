"""A plan of light jobs, and the worker that carries them out: it sleeps and hands back records, without torch.

The fork server preloads this module in place of ``bench.execute.warm``.
"""

import hashlib
import os
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

from bench.execute import fork_server, runner
from bench.schema.delta import Base, Delta, HeadLayout, KeptScore
from bench.schema.jobs import (
    BackboneSpec,
    Cell,
    Job,
    MethodSpec,
    Plan,
    Probe,
    Source,
    Sweep,
    cost_id,
    count_id,
    sha256_of,
)
from bench.schema.record import CostRecord, CountRecord, MethodUsed, ScoreRecord, Shape, Stored, TaskUsed
from bench.schema.resolved import ResolvedSuite
from bench.schema.task import TaskSpec
from bench.store import kept
from bench.store.environment import now
from bench.store.kept import Keep
from bench.store.sidecars import Sidecars, predictions_sha256, sync

METHODS = ("full", "head", "bitfit")
SEEDS = 4
BATCHES = (4, 8, 16)
ROWS = 64
"""Test rows of a cell."""
SECONDS = 0.06
"""A job sleeps up to so long before each of its records."""
_TASK: dict[str, Any] = {
    "name": "letters",
    "kind": "classes",
    "text": "text",
    "labels": ("a", "b"),
    "train": "rows.csv",
    "test_share": 0.5,
}
_RECIPE = {"steps": 1, "learning_rate": 1e-3, "head_learning_rate": 1e-3}
_COMMON: dict[str, Any] = {
    "suite": "crash", "backbone": BackboneSpec(name="tiny", weights="random"), "timeout_seconds": 600.0,
}  # fmt: skip


def plan() -> Plan:
    """One sweep, one probe and a dozen cells: each way in which a job hands back records."""
    methods = tuple(MethodSpec(label=name, name=name, config={}, source_sha256="0" * 64) for name in METHODS)
    sweep = Sweep(
        **_COMMON, id=sha256_of("sweep"), title="batches", methods=methods, vary="batch", values=BATCHES, batch=None,
        length=8, device="cpu",
    )  # fmt: skip
    probe = Probe(
        **_COMMON, id=sha256_of("probe"), methods=methods, baseline="full", device="cpu", blocks=1, rounds=1, batch=4,
        length=8, latency_batches=(), latency_length=8, learning_rate=1e-3, head_learning_rate=1e-3, outputs=2,
    )  # fmt: skip
    used = TaskUsed(name="letters", version=1, source="files", content_sha256="0" * 64, train_rows=ROWS,
                    test_rows=ROWS, overlap=0, floor=0.5)  # fmt: skip
    cells = tuple(
        Cell(
            **_COMMON, id=sha256_of(["cell", method.label, seed]), method=method, spec=TaskSpec(**_TASK), task=used,
            source=Source("files", None, "made up"), recipe=_RECIPE, seed=seed, device="cpu", threads=1,
        )
        for seed in range(SEEDS) for method in methods
    )  # fmt: skip
    suite = ResolvedSuite(
        name="crash", baseline="full", backbone={"name": "tiny"}, methods=list(METHODS), tasks=["letters"],
        seeds=list(range(SEEDS)),
    )  # fmt: skip
    return Plan(suite=suite, probes=(probe,), cells=cells, sweeps=(sweep,))


def records(job: Job, status: str = "ok", reason: str | None = None, started: str = "") -> list[Stored]:
    """All records of a job, the same ones each time but for their times."""
    common = {
        "suite": job.suite, "status": status, "reason": reason, "backbone": None, "environment": {},
        "started": started or now(), "ended": now(),
    }  # fmt: skip
    if isinstance(job, Cell):
        found = (1 + int(job.id[:4], 16)) / 2**17
        hashes = {
            "predictions_sha256": predictions_sha256(predicted(job)),
            "kept_sha256": hashlib.sha256(_trained(job)).hexdigest(),
        }
        ended = {"score": found, "metrics": {"accuracy": found}, **hashes} if status == "ok" else {}
        about = {"id": job.id, "task": job.task, "task_name": job.task.name, "recipe": job.recipe, "seed": job.seed}
        return [ScoreRecord(**common, **about, **ended, method=_used(job.method))]
    if isinstance(job, Probe):
        shape = Shape(**job.step(), device="cpu", threads=1)
        return [CostRecord(**common, id=cost_id(job, method), method=_used(method), shape=shape, baseline=job.baseline,
                           delta_bytes=int(job.id[:4], 16)) for method in job.methods]  # fmt: skip
    return [
        CountRecord(
            **common, id=count_id(job, method, value), method=_used(method), sweep=job.title, vary=job.vary,
            value=value, shape=Shape(**job.shape_at(value).step(), device="cpu", threads=1), delta_bytes=value,
        )
        for value in job.values for method in job.methods
    ]  # fmt: skip


def _used(method: MethodSpec) -> MethodUsed:
    values = {"label": method.label, "name": method.name, "config": method.config, "class": "tools.crash:Light",
              "distribution": "peft-ledger", "version": "0"}  # fmt: skip
    return MethodUsed.model_validate(values)


def predicted(cell: Cell) -> list[int]:
    """What the cell predicts of its test rows."""
    drawn = random.Random(cell.id)
    return [drawn.randrange(2) for _ in range(ROWS)]


def _trained(cell: Cell) -> bytes:
    """What the cell trains: a file of safetensors that names the cell and has no tensor."""
    header = b'{"__metadata__":{"cell":"' + cell.id.encode() + b'"}}'
    return len(header).to_bytes(8, "little") + header


def _write_tensors(path: Path, tensors: Any) -> str:
    """In place of the store's own, which takes torch: ``tensors`` are the bytes of the file."""
    path.write_bytes(tensors)
    sync(path)
    return kept.file_sha256(path)


def keep_trained(cell: Cell, keep: Keep) -> None:
    """Write what a cell trains aside of its place, as a run with ``--keep`` does."""
    about = Delta(
        cell=cell.id, suite="crash", suite_sha256=keep.suite_sha256, method=_used(cell.method), task="letters",
        base=Base(name="tiny", weights="random", seed=0), head=HeadLayout(pooling="mean", dense=False, outputs=2),
        text=("text",), labels=("a", "b"), max_length=8, seed=cell.seed, recipe=cell.recipe,
        score=KeptScore(metric="accuracy", value=0.5, rows="test", test=0.5),
    )  # fmt: skip
    with mock.patch.object(kept, "write_tensors", _write_tensors):
        kept.write_aside(keep.folder, about, _trained(cell))  # type: ignore[arg-type]


def sidecars(cell: Cell) -> Sidecars:
    """What a cell leaves beside its record."""
    return Sidecars({"row": list(range(ROWS)), "label": [0] * ROWS, "prediction": predicted(cell)})


def run(kind: str, spec: str, threads: int, keep: Keep | None, given: runner.Gpus, messages: Connection) -> None:
    """In the worker, in place of the runner's own: hand back the records of a job, one after the other."""
    job = runner._KINDS[kind].model_validate_json(spec)
    messages.send(("progress", f"worker {os.getpid()}", None))
    if isinstance(job, Cell) and keep is not None:
        try:
            keep_trained(job, keep)
        except kept.NotWritten as error:
            messages.send(("refused", str(error), None))
            return
    for record in records(job):
        time.sleep(random.Random(record.id).uniform(0, SECONDS))
        beside = sidecars(job) if isinstance(job, Cell) else None
        messages.send((kind, record.model_dump_json(by_alias=True), beside))


runner._run = run
fork_server.outlive_the_run()

"""Runs one job in a Ray worker: a process of its own forked from a warm server, as on one machine.

A Ray worker runs many jobs, and a method may change its process: so a worker never runs one itself. It keeps a fork
server, hands on what the forked process says, and imports no torch.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.errors import BenchError
from bench.execute.fork_server import SOCKET, folder_for_sockets, let_server_end, warm_context
from bench.execute.runner import Job, NoWorker, Result, job_of, run_jobs
from bench.store.environment import node
from bench.store.kept import ABOUT, TENSORS, Keep, aside_of
from bench.store.parcels import Parcel, land, standing

LINE_SECONDS = 1.0
"""A job sends at most one line of progress in this time."""
NUMERIC = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_", "TORCH_", "PYTORCH_", "CUBLAS_",
    "NVIDIA_TF32_",
)  # fmt: skip
"""Beginnings of environment variables that may change a figure: a job has those of the driver, and no others."""
QUIET = (
    "TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
"""Environment variables that a job has from the driver where it has them."""
Message = tuple[str, Any]
"""``began`` with the node, ``ready`` once the files that it reads are there, ``progress`` with a line, ``kept`` with
files by name, ``record`` with its JSON and sidecars, ``lacks`` with identities of parcels, ``lost`` with status and
reason where what runs jobs was killed below the Ray worker, or ``refused`` with a sentence."""
Parts = Mapping[str, Mapping[str, list[Any]]]
"""By parcel and by name of a file, references to its content in parts."""


class Setting(NamedTuple):
    """What all jobs of a run share."""

    family: str
    """Of the backbone, e.g. ``bert``."""
    cells: bool
    """Whether cells will run."""
    around: dict[str, str]
    """Environment variables of the driver, from `variables`."""
    folder: str
    """The driver's working directory, which a job has too where it is there."""
    versions: dict[str, str | None]
    """Of Python and of the packages that a job's identity holds."""


class Order(NamedTuple):
    """A job as it is sent to a node."""

    setting: Setting
    kind: str
    job: str
    """As JSON."""
    sources_sha256: str
    """Hash of this project's code that the job was planned with."""
    checked: str
    """Equal for jobs that ask the same of a node."""
    parcels: dict[str, Parcel]
    """Files that it reads, by what they are to it."""
    keep: tuple[Literal["best", "all"], str] | None
    """What is kept, and the hash of the resolved suite."""


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of ``environment`` that jobs on other nodes have too."""
    return {name: value for name, value in environment.items() if name.startswith(NUMERIC) or name in QUIET}


def survey(setting: Setting) -> dict[str, Any]:
    """In a Ray worker: this machine's environment, as records have it; warms the worker's fork server.

    Raises:
        BenchError: The environment cannot be told.
    """
    with contextlib.suppress(EOFError, OSError):  # the server was killed: there is another
        return _told(setting)
    let_server_end()
    try:
        return _told(setting)
    except (EOFError, OSError) as error:
        raise BenchError("torch cannot be imported there; install the same environment on every node") from error


def _told(setting: Setting) -> dict[str, Any]:
    context = _served(setting)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs,))
    try:
        process.start()
    finally:
        theirs.close()
    try:
        told: dict[str, Any] = ours.recv()
        return told
    finally:
        process.join()


def _tell(answer: Connection) -> None:
    if not os.environ.get("CUDA_VISIBLE_DEVICES"):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides the GPUs of a node from what asks for none
    from bench.store.environment import environment

    os.dup2(2, 1)
    answer.send(environment(1))


def carry(order: Order, parts: Parts) -> Iterator[Message]:
    """In a Ray worker: run one job and say what comes of it; what this node lacks is asked for, and nothing is run.

    Args:
        order: The job.
        parts: What has been sent to nodes of the files that jobs read.
    """
    try:
        yield "began", node()
        folders = {name: _folder(parcel, parts) for name, parcel in order.parcels.items()}
        lacking = [order.parcels[name].id for name, folder in folders.items() if folder is None]
        if lacking:
            yield "lacks", lacking
            return
        yield "ready", None  # from here on it is the job's own time
        yield from _carried(order, {name: folder for name, folder in folders.items() if folder is not None})
    except NoWorker as error:
        yield "lost", ("crashed", str(error).partition(";")[0])
    except BenchError as error:
        yield "refused", f"node {node()}: {error}"


def _folder(parcel: Parcel, parts: Parts) -> Path | None:
    if (folder := standing(parcel)) is not None or parcel.id not in parts:
        return folder
    sent = parts[parcel.id]
    return land(parcel, lambda name: _received(sent[name]))


def _received(references: list[Any]) -> Iterable[bytes]:
    import ray

    for reference in references:
        yield ray.get(reference)


def _carried(order: Order, folders: dict[str, Path]) -> Iterator[Message]:
    job = job_of(order.kind, order.job)
    first = order.checked not in _checked
    prepare = Prepared(order, folders, first, os.environ.get("CUDA_VISIBLE_DEVICES"))
    last, context = time.monotonic(), _served(order.setting)
    with tempfile.TemporaryDirectory() as aside:  # in the folder that this Ray worker has by now
        keep = None if order.keep is None else Keep(Path(aside), *order.keep)
        for event in run_jobs(context, [job], workers=1, keep=keep, prepare=prepare):
            if isinstance(event, Result):
                if getattr(event.record, "kept_sha256", None) is not None:
                    yield "kept", (event.record.id, _files(aside_of(Path(aside), event.record.id)))
                yield "record", (event.record.model_dump_json(by_alias=True), event.sidecars)
            elif time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                yield "progress", event.line
    _checked.add(order.checked)


def _files(folder: Path) -> dict[str, Any]:
    """Contents by name, as arrays: Ray hands those on without a copy."""
    import numpy as np

    return {name: np.fromfile(folder / name, np.uint8) for name in (TENSORS, ABOUT)}


_checked: set[str] = set()
"""What this node was held against, and has."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """In the process of a job: gives it the node's own paths, and holds the node against what was planned."""

    order: Order
    folders: dict[str, Path]
    """By what `bench.plan.needs` calls them."""
    check: bool
    """Whether no such job has run in this worker yet."""
    gpus: str | None
    """Those that Ray gives the job; the fork server may have been started for others."""

    def __call__(self, job: Job) -> Job:
        """The job as it is to be run here.

        Raises:
            BenchError: This node lacks something, or has another version of it.
        """
        if self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        if Path(self.order.setting.folder).is_dir():
            os.chdir(self.order.setting.folder)
        from bench.plan.here import check_here, check_versions
        from bench.plan.needs import placed

        if self.check:
            check_versions(type(job), self.order.setting.versions, self.order.sources_sha256, job.name)
        job = placed(job, self.folders)
        if self.check:
            check_here(job, job.name)
        return job


def _served(setting: Setting) -> ForkServerContext:
    """The fork server of this Ray worker; all its jobs are of one run."""
    if not _servers:
        for name in [name for name in os.environ if name.startswith(NUMERIC)]:
            del os.environ[name]  # Ray sets OMP_NUM_THREADS to the CPUs of a task
        os.environ.update(setting.around)
        # a fork server of Python 3.11 to 3.13 does not take over sys.path, to which Ray adds the driver's
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        vars(sys.modules["__main__"]).pop("__file__", None)  # else each process imports Ray's program, and Ray with it
        _own_folders()
        _servers.append(warm_context(setting.family, cells=setting.cells))
    return _servers[0]


_servers: list[ForkServerContext] = []


def _own_folders() -> None:
    """Give this Ray worker its temporary folder, and a second one for the socket where the first is too deep for it."""
    usual = tempfile.gettempdir()
    sockets = folder_for_sockets(len(f"/{_FOLDER}xxxxxxxx{SOCKET}"))
    own_folder(Path(sockets))
    if sockets != usual:
        util.get_temp_dir()  # `multiprocessing` makes it once, and in the folder that is the temporary one then
        own_folder(Path(usual))


def own_folder(temporary: Path) -> Path:
    """Give this Ray worker a temporary folder of its own, and remove those of Ray workers that are gone.

    Ray ends a worker, and what that has started, with a signal that leaves nobody to clean up. A worker holds its
    folder locked for as long as it lives, in whatever container it runs.
    """
    for path in temporary.glob(f"{_FOLDER}*"):
        if (handle := _locked(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)
    while True:
        path = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=temporary))
        # another worker may take it for one that is left, and remove it, before it is locked
        if _locked(path) is not None and path.exists():
            tempfile.tempdir = str(path)
            return path


def _locked(path: Path) -> int | None:
    """Lock a folder and hold it open; None where another process holds it, it is another user's, or gone."""
    import fcntl  # Windows has none, and no fork server either

    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            os.close(handle)
    return None


_FOLDER = "peft-ledger-ray-"

"""A trial on a Ray cluster: Ray workers are killed in the midst of a run, which ends as one of this machine does.

Its jobs are real ones of a tiny backbone, as a Ray worker imports what it runs: one sweep, and a dozen cells that each
train for a second or two.
"""

import contextlib
import importlib.util
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.errors import BenchError
from bench.schema.record import Stored
from bench.store.kept import check_files, kept_in
from bench.store.sidecars import read_predictions
from bench.store.store import RETRIED, read_records, read_run
from tools.crash.trial import (
    EXPECTED,
    LEAK_SECONDS,
    MOST_RESUMED,
    ROOT,
    SECONDS,
    TOKEN,
    Command,
    Outcome,
    end,
    shared_memory,
    vanished,
    waited,
    whole_lines,
)

SUITE = """
question = "Does a run on Ray lose anything where its processes are killed?"
tasks = ["sst2"]
seeds = [0, 1, 2]
data = "synthetic"
backbone = { name = "tiny", weights = "random" }
recipe = { steps = 150, batch_size = 8, max_length = 16, train_rows = 64, test_rows = 32 }
sweep = [{ name = "length", vary = "length", values = [8, 16], batch = 2, methods = ["head"] }]
method = [{ name = "full" }, { name = "head" }, { name = "bitfit" }, { name = "lora" }]
"""
KILLS = (3, 6)
"""Times that a run is disturbed, at least and at most: each one costs it the start of a server, and no more."""
DRIVER = 1 / 4
"""Share of runs whose driver is killed in the end."""
APART_SECONDS = 4.0
"""Longest wait between that a job is carried and a kill: some jobs, or half of what a server takes to start."""
CARRIES, FORKED = ("ray::carry", "ray::survey"), "from multiprocessing."
"""By what command lines are known: a Ray worker that does something for this project, and what it has started."""
MAY_STAY = ("ray", "torchinductor_")
"""What may stay in a temporary folder: Ray's own, and the cache of torch's compiler."""


@dataclass(frozen=True)
class Cluster:
    """One that runs, and what an undisturbed run of this machine gives."""

    address: str
    token: str
    """By which its processes are known."""
    place: Path
    """Has the suite, the undisturbed run and the temporary folder of the nodes."""

    @property
    def suite(self) -> Path:
        """The file of the suite."""
        return self.place / "crash.toml"

    @property
    def undisturbed(self) -> Path:
        """The folder of the run of this machine."""
        return self.place / "undisturbed"

    def processes(self) -> list[psutil.Process]:
        """All of the cluster that works for this project, in processes that lost their parent too."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                ours = one.environ().get(TOKEN) == self.token and one.status() != psutil.STATUS_ZOMBIE
                line = " ".join(one.cmdline())
                if ours and (line.startswith(CARRIES) or FORKED in line):
                    found.append(one)
        return found

    def litter(self) -> set[Path]:
        """What lies in the temporary folder of the nodes, such as folders of Ray workers that were killed."""
        return _litter(self.place / "tmp")


class OnRay(Command):
    """The command as it runs on a cluster."""

    def __init__(self, cluster: Cluster, run: Path, place: Path, token: str) -> None:
        self._cluster = cluster
        words = [*_run(cluster.suite, run), "--executor", "ray", "--address", cluster.address, "--retry", "crashed"]
        super().__init__(run, place / "tmp", place / "stderr.txt", token, words)

    def until(self, true: Callable[[], bool]) -> bool:
        """As everywhere, with longer naps: every look goes through all processes."""
        return waited(lambda: not self.runs or true(), SECONDS, tick=0.1) and self.runs

    def everyone(self) -> list[psutil.Process]:
        """All processes of the run, those of the nodes among them: the cluster has no other run."""
        return super().everyone() + self._cluster.processes()

    def carrying(self) -> list[psutil.Process]:
        """Ray workers that carry a job."""
        found = []
        for one in self._cluster.processes():
            with contextlib.suppress(psutil.Error):
                if " ".join(one.cmdline()).startswith(CARRIES[0]):
                    found.append(one)
        return found


def _run(suite: Path, run: Path) -> list[str]:
    return [sys.executable, "-m", "bench", "run", "--suite", str(suite), "--out", str(run), "--keep", "all"]


def _litter(temporary: Path) -> set[Path]:
    return {path for path in temporary.iterdir() if not path.name.startswith(MAY_STAY)}


def has_ray() -> bool:
    """Whether the extra is installed; says so where it is not."""
    if importlib.util.find_spec("ray") is None:
        how = "python -m pip install -c constraints.txt -e '.[ray]'"
        print(f"without trials of Ray workers: they take the extra ray ({how})")
        return False
    return True


@contextlib.contextmanager
def cluster(place: Path) -> Iterator[Cluster]:
    """A cluster for a campaign in ``place``, an existing folder that is empty; the undisturbed run is done first.

    Raises:
        BenchError: The undisturbed run fails, or the cluster does not start.
    """
    there = place / "tmp"
    there.mkdir()
    token = f"{os.getpid()} cluster"
    around = os.environ | {"TMPDIR": str(there), TOKEN: token, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    about = Cluster("", token, place)
    about.suite.write_text(SUITE)
    words = _run(about.suite, about.undisturbed)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"a run that nobody disturbs fails; nothing can be tried: {done.stderr[-300:]}")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.crash.ray_nodes"], cwd=ROOT, env=around, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None, "as asked"
        address = process.stdout.readline().strip()
        if not address:
            raise BenchError(f"no Ray cluster starts in {there}, whose path must be short; nothing can be tried on it")
        yield Cluster(address, token, place)
    finally:
        process.communicate()


def ray_trial(number: int, seed: int, place: Path, cluster: Cluster) -> Outcome:
    """Kill Ray workers of a run in ``place``, resume it until it is done and say what was wrong.

    Args:
        number: Of the trial; with ``seed`` it decides every random choice, though not what the machine makes of it.
        seed: Of the campaign.
        place: An existing folder that is empty.
        cluster: Where it runs.
    """
    drawn = random.Random(f"{seed} Ray worker {number}")
    outcome = Outcome("Ray worker", number)
    run, before, littered = place / "run", shared_memory(), cluster.litter()
    (place / "tmp").mkdir()

    def command() -> OnRay:
        return OnRay(cluster, run, place, token=f"{os.getpid()} Ray worker {number}")

    started = command()
    for _ in range(drawn.randint(*KILLS)):
        outcome.kills += _kill(started, drawn)
    if drawn.random() < DRIVER and started.until(lambda: bool(started.carrying())):
        outcome.kills += 1
        started.process.kill()
    end(started, outcome)
    if outcome.codes[-1] not in EXPECTED["Ray worker"]:
        heard = [*(place / "stderr.txt").read_text(errors="replace").splitlines(), ""]
        outcome.faults.append(f"exit code {outcome.codes[-1]} after Ray workers were killed: {heard[-2:][0][:300]}")
    seen = whole_lines(run)
    for _ in range(MOST_RESUMED):
        if outcome.codes[-1] == 0:
            break
        end(command(), outcome)
    if outcome.codes[-1]:
        outcome.faults.append(f"exit code {outcome.codes[-1]} of a resumed run that nobody disturbs")
    outcome.faults += unlike(run, cluster.undisturbed) + vanished(seen, run)
    outcome.sockets_left = len(cluster.litter())
    outcome.faults += [f"left behind: {path.name} of an earlier run" for path in littered & cluster.litter()]
    outcome.faults += [f"left behind: TMPDIR/{path.name}" for path in _litter(place / "tmp")]
    waited(lambda: not shared_memory() - before, LEAK_SECONDS, tick=0.05)
    outcome.faults += [f"leaked: /dev/shm/{name}" for name in sorted(shared_memory() - before)]
    return outcome


def _kill(command: OnRay, drawn: random.Random) -> bool:
    """Kill a Ray worker that carries a job, or what runs below it; whether the command was running then."""
    if not command.until(lambda: bool(command.carrying())):
        return False
    time.sleep(drawn.uniform(0, APART_SECONDS))
    found: list[psutil.Process] = []
    if not command.until(lambda: bool(found.extend(command.carrying()) or found)):
        return False
    worker, below = drawn.choice(found), drawn.random() < 1 / 2
    with contextlib.suppress(psutil.NoSuchProcess):
        victims = [one for one in worker.children(recursive=True) if "forkserver" in " ".join(one.cmdline())]
        (drawn.choice(victims) if below and victims else worker).kill()
        return command.runs
    return False


def unlike(run: Path, undisturbed: Path) -> list[str]:
    """What a run lacks of an undisturbed one, or has otherwise; both are folders of runs that are done."""
    due = {record.id: record for record in read_records(undisturbed / "records.jsonl")}
    try:
        read_run(run)
        found = {record.id: record for record in read_records(run / "records.jsonl")}
    except BenchError as error:
        return [f"corrupt: {error}"]
    faults = [f"lost: {identity[:12]}" for identity in due.keys() - found.keys()]
    faults += [f"strange: {identity[:12]}" for identity in found.keys() - due.keys()]
    if len(whole_lines(run)) != len(found):
        faults.append(f"doubled: {len(whole_lines(run))} lines hold {len(found)} records")
    both = due.keys() & found.keys()
    faults += [f"other figures: {name[:12]}" for name in sorted(both) if figures(due[name]) != figures(found[name])]
    cells = [record.id for record in due.values() if record.kind == "score"]
    return faults + _files(run, undisturbed, cells)


def figures(record: Stored) -> dict[str, Any]:
    """All that a record says but for moments, seconds, the load of the machine and the state of the checkout."""
    moments: dict[str, Any] = dict.fromkeys(("started", "ended", "train_seconds", "prepare_seconds"), True)
    return record.model_dump(mode="json", exclude=moments | {"environment": {"load_average", "commit", "dirty"}})


def _files(run: Path, undisturbed: Path, cells: Sequence[str]) -> list[str]:
    """What is wrong with the files beside the records: those of cells are compared, what else is there is named."""
    faults = []
    for cell in cells:
        with contextlib.suppress(BenchError):
            ours, theirs = (read_predictions(folder, cell) for folder in (run, undisturbed))
            if ours is not None and theirs is not None and ours.table.equals(theirs.table):
                continue
        faults.append(f"corrupt: predictions of {cell[:12]}")
    try:
        for kept in kept_in(run):
            check_files(kept.folder, kept.about)
    except BenchError as error:
        faults.append(f"corrupt: {error}")
    due = {path.relative_to(undisturbed) for path in undisturbed.rglob("*") if not path.is_dir()}
    there = {path.relative_to(run) for path in run.rglob("*") if not path.is_dir()}
    passing = {Path(name) for name in (".lock", "records.torn", RETRIED)}
    faults += [f"lost: {path}" for path in sorted(due - there - passing)]
    return faults + [f"left behind: {path}" for path in sorted(there - due - passing)]

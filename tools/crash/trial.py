"""One trial: a run is disturbed at a random moment, resumed until it is done, and looked at for what is wrong."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.errors import BenchError
from bench.execute.fork_server import SOCKET, folder_for_sockets
from bench.schema.jobs import Cell
from bench.schema.record import Stored
from bench.store.kept import ABOUT, TENSORS, check_files, kept_in
from bench.store.sidecars import predictions_path, read_predictions
from bench.store.store import RETRIED, read_records, read_run
from tools.crash import light

ROOT = Path(__file__).resolve().parents[2]
Kind = Literal[
    "driver", "worker", "fork server", "all of them", "SIGTERM", "SIGTERM to all", "Ctrl-C", "full disk", "Ray worker"
]
KILLED: tuple[Kind, ...] = ("driver", "worker", "fork server", "all of them")
"""What ``kill -9`` hits."""
SIGNALLED: tuple[Kind, ...] = ("SIGTERM", "SIGTERM to all", "Ctrl-C")
"""Polite signals: to the driver alone, or to every process of the job, as a batch system and a terminal send them."""
EXPECTED: dict[Kind, set[int]] = {
    "driver": {0, -9}, "all of them": {0, -9}, "worker": {0, 1}, "fork server": {0, 1}, "SIGTERM": {0, 143},
    "SIGTERM to all": {0, 143}, "Ctrl-C": {0, 130}, "full disk": {0, 2},
    "Ray worker": {0, 1, -9},
}  # fmt: skip
"""Exit codes of the disturbed command; 0 where all was done before the signal came, or a job began anew. A SIGTERM that
comes after that, as Python ends, ends it as any program."""
MOST_KILLS, MOST_RESUMED = 3, 2
"""Times that one run is disturbed, the resumed one again; then it is resumed until it is done, at once or it is not."""
TOKEN = "PEFT_LEDGER_CRASH"
"""Environment variable by which processes of a trial are known."""
SECONDS, ORPHAN_SECONDS = 600.0, 60.0
"""A command that takes longer hangs; a process that outlives its run by so much is an orphan. Both are generous: the
machine may be busy."""
LEAK_SECONDS = 10.0
"""Shared memory that nobody maps is leaked where it stays for so long: other programs may be about to map theirs."""
DISK, RUN_BYTES = 2**20, 240 * 1024
"""Bytes of the file system that runs full, and about what a run takes of them."""


@dataclass
class Outcome:
    """What became of a trial."""

    kind: Kind
    number: int
    kills: int = 0
    """Times that the run was disturbed while it ran; a signal that came too late is none."""
    codes: list[int] = field(default_factory=list)
    """Exit codes of the commands, one after the other."""
    faults: list[str] = field(default_factory=list)
    """What was wrong, a phrase each; empty: nothing was lost, doubled, corrupt, orphaned or left behind."""
    sockets_left: int = 0
    """Folders of the fork server's socket that stayed in the temporary folder, where every process was killed that
    could have removed them."""


class Command:
    """The driver as it runs."""

    def __init__(self, run: Path, temporary: Path, heard: Path, token: str, words: Sequence[str] = ()) -> None:
        around = os.environ | {"TMPDIR": str(temporary), TOKEN: token, "PYTHONPATH": str(ROOT)}
        self.run, self.token, self._heard = run, token, heard
        words = words or [sys.executable, "-m", "tools.crash.driver", str(run)]
        with heard.open("w") as stderr:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=around, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def until(self, true: Callable[[], bool]) -> bool:
        """Wait until something is true; whether it came to be while the command ran."""
        return waited(lambda: not self.runs or true(), SECONDS) and self.runs

    def answers_signals(self) -> bool:
        """Whether the command has begun to hear signals: what comes before is Python's own start."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def server(self) -> list[psutil.Process]:
        """The fork server, where it runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in psutil.Process(self.process.pid).children() if _is(one, "forkserver import main")]
        return []

    def workers(self) -> list[psutil.Process]:
        """Processes of jobs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child for one in self.server() for child in one.children()]
        return []

    def everyone(self) -> list[psutil.Process]:
        """All processes of the run, children of children that were left alone among them."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if one.environ().get(TOKEN) == self.token and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def ended(self) -> tuple[int, list[str]]:
        """Wait for the end of the command and of all that it started: exit code, and what was wrong."""
        faults = []
        if not waited(lambda: not self.runs, SECONDS):
            faults.append(f"hang: the command ran on for {SECONDS:g} s")
            self.process.kill()
        code = self.process.wait()
        waited(lambda: not self.everyone(), ORPHAN_SECONDS, tick=0.05)
        left = self.everyone()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                faults.append(f"orphan: {' '.join(one.cmdline())[:100]}")
                one.kill()
        said = self._heard.read_text(errors="replace")
        if "Traceback" in said:
            lines = said.strip().splitlines()
            where = next((line.strip() for line in reversed(lines) if line.startswith("  File ")), "")
            faults.append(f"traceback: {lines[-1][:200]} ({where})")
        return code, faults


def waited(true: Callable[[], bool], seconds: float, tick: float = 0.002) -> bool:
    """Whether something came to be true within as many naps as there are in ``seconds``.

    A clock would run on while all processes are stopped, as a machine that measures something else may do.
    """
    return any(true() or time.sleep(tick) for _ in range(round(seconds / tick)))


def _is(process: psutil.Process, words: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return words in " ".join(process.cmdline())
    return False


def trial(kind: Kind, number: int, seed: int, place: Path, startup: float) -> Outcome:
    """Disturb a run in ``place``, resume it until it is done and say what was wrong.

    Args:
        kind: What is done to it.
        number: Of the trial; with ``seed`` it decides every random choice, though not what the machine makes of it.
        seed: Of the campaign.
        place: An existing folder that is empty.
        startup: Seconds that a run takes to its first record.
    """
    drawn = random.Random(f"{seed} {kind} {number}")
    outcome, before = Outcome(kind, number), shared_memory()
    with temporary_folder() as temporary, _disk(kind, place) as disk:
        run, seen = disk / "run", list[bytes]()

        def command() -> Command:
            return Command(run, temporary, place / "stderr.txt", token=f"{os.getpid()} {kind} {number}")

        for _ in range(drawn.randint(1, MOST_KILLS)):
            with filled(disk, drawn) if kind == "full disk" else contextlib.nullcontext():
                started = command()
                outcome.kills += _disturb(started, kind, drawn, startup)
                end(started, outcome)
            done = len(whole_lines(run)) == len(light.plan().job_ids())
            if outcome.codes[-1] not in EXPECTED[kind] | ({-signal.SIGTERM} if done else set()):
                outcome.faults.append(f"exit code {outcome.codes[-1]} after {kind}")
            outcome.faults += vanished(seen, run)
            seen = whole_lines(run)
        for _ in range(MOST_RESUMED):
            if end(command(), outcome) == 0:
                break
        outcome.faults += wrong(run, seen)
        outcome.sockets_left = _sockets(temporary, outcome)
    waited(lambda: not shared_memory() - before, LEAK_SECONDS, tick=0.05)
    outcome.faults += [f"leaked: /dev/shm/{name}" for name in sorted(shared_memory() - before)]
    return outcome


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder of a run's own, with a path so short that the run puts its socket there and not elsewhere."""
    with tempfile.TemporaryDirectory(dir=folder_for_sockets(len(f"/tmpxxxxxxxx{SOCKET}"))) as folder:
        yield Path(folder)


def _disk(kind: Kind, place: Path) -> contextlib.AbstractContextManager[Path]:
    return small_disk(place / "disk") if kind == "full disk" else contextlib.nullcontext(place)


def end(command: Command, outcome: Outcome) -> int:
    """Wait for the end of a command and note what came of it; its exit code."""
    code, faults = command.ended()
    outcome.codes.append(code)
    outcome.faults += faults
    return code


def _disturb(command: Command, kind: Kind, drawn: random.Random, startup: float) -> bool:
    """Do what the trial is about at a random moment; whether the command was running then."""
    records, delay = drawn.choice([0, drawn.randrange(1, 24)]), drawn.random()
    if kind == "full disk":
        return waited(lambda: not command.runs, SECONDS) and command.process.returncode == 2
    if kind in SIGNALLED and not command.until(command.answers_signals):
        return False
    if records and not command.until(lambda: len(whole_lines(command.run)) >= records):
        return False
    time.sleep(delay * (0.1 if records else startup))
    return _hit(command, kind, drawn)


def _hit(command: Command, kind: Kind, drawn: random.Random) -> bool:
    victims: list[psutil.Process] = []
    if kind in ("worker", "fork server"):
        candidates = command.workers if kind == "worker" else command.server
        if not command.until(lambda: bool(victims.extend(candidates()) or victims)):
            return False
        victims = [drawn.choice(victims)]
    elif kind in ("driver", "SIGTERM"):
        victims = [psutil.Process(command.process.pid)]
    else:
        victims = command.everyone()
        drawn.shuffle(victims)
    number = {"Ctrl-C": signal.SIGINT}.get(kind, signal.SIGTERM if kind in SIGNALLED else signal.SIGKILL)
    running = command.runs
    for one in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)
    return running


def whole_lines(run: Path) -> list[bytes]:
    """Whole lines of records."""
    try:
        return (run / "records.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def vanished(seen: list[bytes], run: Path) -> list[str]:
    """What was on the disk and no longer is; a record that was repeated lies in another file."""
    held = {*whole_lines(run)}
    with contextlib.suppress(FileNotFoundError):
        held |= {*(run / RETRIED).read_bytes().split(b"\n")}
    return [f"lost: a record that was written ({line[:60].decode()})" for line in seen if line not in held]


def wrong(run: Path, seen: list[bytes]) -> list[str]:
    """What is wrong with a run that is done: records lost, doubled or corrupt, files damaged or left behind."""
    plan = light.plan()
    due = {record.id: record for job in plan.jobs for record in light.records(job)}
    try:
        read_run(run)
        found = {record.id: record for record in read_records(run / "records.jsonl")}
    except BenchError as error:
        return [f"corrupt: {error}"]
    faults = vanished(seen, run)
    faults += [f"lost: {identity[:12]}" for identity in due.keys() - found.keys()]
    faults += [f"strange: {identity[:12]}" for identity in found.keys() - due.keys()]
    if len(whole_lines(run)) != len(found):
        faults.append(f"doubled: {len(whole_lines(run))} lines hold {len(found)} records")
    faults += [f"corrupt: {name[:12]}" for name in due.keys() & found.keys() if _bare(due[name]) != _bare(found[name])]
    return faults + _files(run, [job for job in plan.jobs if isinstance(job, Cell)])


def _bare(record: Stored) -> dict[str, Any]:
    return record.model_dump(exclude={"started", "ended"})


def _files(run: Path, cells: list[Cell]) -> list[str]:
    """What is wrong with the files beside the records."""
    faults = []
    expected = {run / name for name in ("suite.toml", "records.jsonl", ".lock", "records.torn", RETRIED)}
    for cell in cells:
        trained = {run / "kept" / cell.id / name for name in (ABOUT, TENSORS)}
        expected |= {predictions_path(run, cell.id), *trained}
        faults += [f"lost: {path.relative_to(run)}" for path in sorted(trained) if not path.exists()]
        if _predicted(run, cell) != light.predicted(cell):
            faults.append(f"corrupt: predictions of {cell.id[:12]}")
    try:
        for kept in kept_in(run):
            check_files(kept.folder, kept.about)
    except BenchError as error:
        faults.append(f"corrupt: {error}")
    there = {path for path in run.rglob("*") if not path.is_dir()}
    return faults + [f"left behind: {path.relative_to(run)}" for path in sorted(there - expected)]


def _predicted(run: Path, cell: Cell) -> list[int] | None:
    with contextlib.suppress(BenchError):
        if predictions := read_predictions(run, cell.id):
            return predictions.table["prediction"].to_pylist()
    return None


def _sockets(temporary: Path, outcome: Outcome) -> int:
    """Count the folders of a socket that nobody was left to remove; all else in the temporary folder is a fault."""
    left = sorted(temporary.iterdir())
    sockets = [path for path in left if path.name.startswith("pymp-")]
    allowed = len(sockets) if outcome.kind == "all of them" else 0
    outcome.faults += [f"left behind: TMPDIR/{path.name}" for path in left if path not in sockets[:allowed]]
    return allowed


def shared_memory() -> set[str]:
    """Semaphores and shared memory of this machine that no process maps."""
    there = {path.name for path in Path("/dev/shm").glob("*")} if Path("/dev/shm").exists() else set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if not there:
            break
        with contextlib.suppress(OSError):
            text = maps.read_text(errors="replace")
            there = {name for name in there if f"/dev/shm/{name}" not in text}
    return there


@contextlib.contextmanager
def filled(disk: Path, drawn: random.Random) -> Iterator[None]:
    """Leave a random part of what a run takes free on a small disk."""
    filler = disk / "filler"
    stat = os.statvfs(disk)
    room = stat.f_bavail * stat.f_frsize - drawn.randrange(RUN_BYTES // 4096) * 4096
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own of ``DISK`` bytes in memory.

    Raises:
        BenchError: It cannot be mounted, as it takes root.
    """
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        raise BenchError(f"a disk that can run full takes a mount ({done.stderr.decode().strip()}); run as root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        shutil.rmtree(place)

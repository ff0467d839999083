"""What becomes of jobs, and of what they have started, where a process dies; the workers are light ones."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest

from bench.errors import BenchError
from bench.execute import fork_server, runner
from bench.execute.runner import Progress, Result, run_jobs
from bench.schema.jobs import Cell
from tests.factories.light_jobs import record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def context(monkeypatch):
    """A fork server of this test alone, which it may kill."""
    monkeypatch.chdir(ROOT)
    server = forkserver.ForkServer()
    server.set_forkserver_preload(["tests.factories.light_jobs"])
    monkeypatch.setattr(forkserver, "_forkserver", server)
    for name in ("ensure_running", "connect_to_new_process", "get_inherited_fds"):
        monkeypatch.setattr(forkserver, name, getattr(server, name))
    monkeypatch.setattr(
        runner, "failure", lambda job, status, reason, started, trace: record(job.id, status=status, reason=reason)
    )
    yield multiprocessing.get_context("forkserver")
    server._stop()


def jobs(*names, seconds=60.0, device="cpu", devices=1):
    about = {"timeout_seconds": seconds, "threads": 1, "device": device, "recipe": {"devices": devices}}
    return [Cell.model_construct(id=name, **about) for name in names]


def outcomes(events):
    """Status and reason by job."""
    return {
        event.record.id: (event.record.status, event.record.reason) for event in events if isinstance(event, Result)
    }


def lives(number, seconds=60.0):
    """Whether a process runs on for so long; one that is dead may wait for somebody to ask after it."""
    deadline = time.monotonic() + seconds
    try:
        while psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return True
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass
    return False


def test_jobs_of_a_fork_server_that_is_killed_are_carried_out_by_another(context):
    events, workers = [], set()
    for event in run_jobs(context, jobs("sleeps", "sleeps too", "third"), workers=2):
        events.append(event)
        if isinstance(event, Progress) and event.line.isdecimal():
            workers.add(int(event.line))
            if len(workers) == 2:
                os.kill(fork_server.server_number(), signal.SIGKILL)
    assert outcomes(events) == dict.fromkeys(("sleeps", "sleeps too", "third"), ("ok", None))
    anew = [event.job.id for event in events if isinstance(event, Progress) and "begins anew" in event.line]
    assert sorted(anew) == ["sleeps", "sleeps too"]
    assert len(workers) == 5
    assert not any(map(lives, workers))


def test_a_job_under_which_the_fork_server_dies_twice_has_crashed_and_the_others_go_on(context):
    found = outcomes(run_jobs(context, jobs("first", "ends its server", "last"), workers=1))
    reason = "the process that starts the workers was killed twice while it ran"
    assert found == {"first": ("ok", None), "ends its server": ("crashed", reason), "last": ("ok", None)}


def test_the_code_that_stands_for_a_lost_server_is_a_code_like_others_where_the_server_lives(context):
    found = outcomes(run_jobs(context, jobs("leaves with 255"), workers=1))
    assert found == {"leaves with 255": ("crashed", "the worker process ended without a record (exit code 255)")}


@pytest.mark.parametrize(
    ("name", "status"), [("starts a process", "ok"), ("starts a process, leaves with 255", "crashed"),
                         ("starts a process, hangs", "timeout")]
)  # fmt: skip
def test_what_a_method_has_started_ends_with_its_job(context, name, status):
    events = list(run_jobs(context, jobs(name, seconds=5.0 if status == "timeout" else 60.0), workers=1))
    (started,) = (int(event.line) for event in events if isinstance(event, Progress))
    assert outcomes(events)[name][0] == status
    assert not lives(started)


def test_what_a_method_has_started_ends_with_a_run_that_is_given_up(context):
    events = run_jobs(context, jobs("starts a process, hangs"), workers=1)
    started = int(next(events).line)
    assert lives(started, seconds=0.0)
    events.close()
    assert not lives(started)


STARTED_AND_KILLED = """
import os, signal
from multiprocessing import get_context, util
from bench.execute import fork_server
context = get_context("forkserver")
context.set_forkserver_preload(["tests.factories.light_jobs"])
fork_server.ensure_server()
process = context.Process(target=print)
process.start()
process.join()
print(util.get_temp_dir(), process.exitcode, flush=True)
os.kill(os.getpid(), signal.SIGKILL) if {killed} else None
"""


KILLED_AS_A_JOB_STARTS = """
import os, signal
from multiprocessing import forkserver, get_context
from bench.execute import fork_server
get_context("forkserver").set_forkserver_preload(["tests.factories.light_jobs"])
fork_server.ensure_server()
forkserver.connect_to_new_process([])  # a worker that waits for what it is to do
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_whose_run_is_killed_as_it_starts_ends_without_a_traceback():
    words = [sys.executable, "-c", KILLED_AS_A_JOB_STARTS]
    around = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=around, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == ""


FIRST_THREAD_ENDS = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
print("ends", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone has the call of that number")
def test_a_fork_server_has_ended_once_its_last_thread_has():
    process = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ends\n"
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not fork_server.has_ended(process.pid)
        process.kill()
        assert fork_server.has_ended(process.pid)
    finally:
        process.kill()
        process.communicate()


DEEP = "the-folder-of-a-job/" * 6
"""A path of as many characters as the socket's may have in all."""


@pytest.mark.parametrize("killed", [True, False])
@pytest.mark.parametrize("below", ["", DEEP])
def test_no_socket_of_a_fork_server_stays_in_the_temporary_folder(killed, below):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        temporary = Path(short, below)
        temporary.mkdir(exist_ok=True, parents=True)
        around = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", STARTED_AND_KILLED.format(killed=killed)]
        done = subprocess.run(words, env=around, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr
        assert not done.stderr
        folder, code = done.stdout.split()
        assert code == "0"
        assert Path(folder).parent == (Path("/tmp") if below else temporary)
        deadline = time.monotonic() + 60
        while (left := [*temporary.iterdir(), *Path(folder).parent.glob(Path(folder).name)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.05)
        assert not left


def test_a_socket_has_a_place_wherever_one_can_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    room = fork_server.SOCKET_PATH - len(str(tmp_path))
    assert fork_server.folder_for_sockets(room) == str(tmp_path)
    assert fork_server.folder_for_sockets(room + 1) == "/tmp"
    with pytest.raises(BenchError, match=f"^{tmp_path}: this temporary folder has too long a path for a socket; free"):
        fork_server.folder_for_sockets(fork_server.SOCKET_PATH)


@pytest.mark.parametrize("missing", ["folder", "any"])
def test_without_a_temporary_folder_a_run_ends_with_a_sentence(monkeypatch, tmp_path, missing):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    if missing == "any":
        monkeypatch.setattr(tempfile, "gettempdir", none)
    else:
        monkeypatch.setattr(fork_server, "folder_for_sockets", lambda below: str(tmp_path / "gone"))
        monkeypatch.setattr(multiprocessing.current_process(), "_config", {})
    with pytest.raises(BenchError, match="set TMPDIR to a folder that can be written and has a short path"):
        fork_server._make_folder()


@pytest.mark.parametrize(
    ("devices", "number", "given"),
    [(1, 2, {(0,), (1,)}), (2, 4, {(0, 1), (2, 3)}), (2, 5, {(0, 1), (2, 3)}), (2, 2, {()}), (1, 1, {()})],
)
def test_cells_on_gpus_have_their_own(context, monkeypatch, devices, number, given):
    monkeypatch.setattr(runner, "gpus", lambda: number)
    found = {}
    asked = jobs("sleeps", "sleeps too", "third", device="cuda", devices=devices)
    for event in run_jobs(context, asked, workers=2):
        if isinstance(event, Progress) and event.line.startswith("gpus "):
            found[event.job.id] = ast.literal_eval(event.line.removeprefix("gpus "))
    assert {found.get("sleeps", ()), found.get("sleeps too", ())} == given
    assert found.get("third", ()) in given


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["2", "3"]), ("4,5,6,7", ["6", "7"]), ("0, 1, GPU-a, GPU-b", ["GPU-a", "GPU-b"])]
)
def test_gpus_are_named_among_those_that_cuda_shows(visible, names):
    assert runner.seen_as((2, 3), visible) == names


@pytest.mark.parametrize(
    ("device", "number", "expected"), [("cpu", 0, 16), ("cuda", 1, 1), ("cuda", 2, 2), ("cuda", 32, 16)]
)
def test_as_many_cells_run_side_by_side_as_cores_carry_and_one_a_gpu(monkeypatch, device, number, expected):
    monkeypatch.setattr(runner, "gpus", lambda: number)
    monkeypatch.setattr(runner, "at_once", lambda cells, threads: min(cells, 16))
    assert runner._at_once(jobs(*map(str, range(20)), device=device)) == expected


@pytest.fixture
def dying(context, monkeypatch):
    """The context, and how often its server is to die as a job starts."""
    left, start = [0], ForkServerProcess.start

    def started(process):
        if left[0]:
            left[0] -= 1
            raise EOFError("unexpected EOF")
        start(process)

    monkeypatch.setattr(ForkServerProcess, "start", started)
    monkeypatch.setattr(fork_server, "has_ended", lambda server: True)
    monkeypatch.setattr(runner, "has_ended", lambda server: True)
    return context, left


def test_a_job_starts_again_where_the_fork_server_dies_as_it_starts(dying):
    context, left = dying
    left[0] = 1
    assert outcomes(run_jobs(context, jobs("only"), workers=1)) == {"only": ("ok", None)}


def test_a_fork_server_that_dies_at_every_start_ends_the_run_with_a_sentence(dying):
    context, left = dying
    left[0] = 2
    with pytest.raises(BenchError, match=r"no worker can be started .EOFError: unexpected EOF.; see what"):
        list(run_jobs(context, jobs("only"), workers=1))


def test_a_fork_server_is_spared_ctrl_c_while_it_still_imports(context, monkeypatch):
    monkeypatch.setattr(resource_tracker, "ensure_running", let_signals_through)  # as one that starts a process does
    fork_server.ensure_server()
    blocked = int(
        next(
            line.split()[1]
            for line in Path(f"/proc/{fork_server.server_number()}/status").read_text().splitlines()
            if line.startswith("SigBlk")
        ),
        16,
    )
    assert blocked >> (signal.SIGINT - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


tracked = []


def let_signals_through():
    """In place of what starts a resource tracker, which unblocks signals the first time that it is asked."""
    if not tracked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    tracked.append(True)

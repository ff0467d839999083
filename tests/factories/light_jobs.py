"""Preloaded by a fork server of a test: workers that do what the name of their job says, without torch."""

import json
import os
import signal
import subprocess
import sys
import time

from bench.execute import fork_server, runner
from bench.schema.record import ScoreRecord


def record(identity, **changes):
    """The record of a job."""
    method = {"label": "full", "name": "full", "config": {}, "class": "m:C", "distribution": "d", "version": "1"}
    values = {
        "id": identity, "suite": "s", "status": "ok", "backbone": None, "method": method, "environment": {},
        "started": "t", "ended": "t", "task": None, "task_name": "sst2", "recipe": {}, "seed": 0,
    }  # fmt: skip
    return ScoreRecord.model_validate(values | ({"score": 0.5} if "status" not in changes else {}) | changes)


def run(kind, spec, threads, keep, given, messages):
    """In the worker, in place of a cell: say a number of a process, do what the job is called, send a record."""
    identity = json.loads(spec)["id"]
    process = os.getpid()
    if "starts a process" in identity:
        program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-S", "-c", program]).pid
    messages.send(("progress", str(process), None))
    if given:
        messages.send(("progress", f"gpus {given}", None))
    if "ends its server" in identity:
        os.kill(os.getppid(), signal.SIGKILL)
    if "hangs" in identity or "ends its server" in identity:
        time.sleep(600)
    if "sleeps" in identity:
        time.sleep(1.5)
    if "leaves with 255" in identity:
        os._exit(255)
    messages.send((kind, record(identity).model_dump_json(by_alias=True), None))


runner._run = run
fork_server.outlive_the_run()

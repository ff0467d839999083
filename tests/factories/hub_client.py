"""What a user's process asks of the hub, each in a fork of one process: its libraries read their settings at import.

A fork knows nothing of what an earlier one was told; the cache on disk is theirs in common.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

OURS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE")
"""Settings of this machine that a user's process does not have."""


@dataclass(frozen=True)
class Done:
    """How a process ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Client:
    """One process with an empty cache under ``home`` and the hub at ``endpoint``, which forks for every question.

    It loads beforehand what most of them need, unless it is asked for little and is ``bare``.
    """

    def __init__(self, endpoint, home, *, bare=False, **extra):
        kept = {key: value for key, value in os.environ.items() if key not in OURS}
        settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1,localhost"}
        self._folder = Path(home).parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.factories.hub_client", *["bare"] * bare], env=kept | settings | extra,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def read(self, *tasks):
        """Rows of these tasks, as JSON: name -> [[texts, labels] of train, of test]."""
        return self._ask("read", tasks)

    def fail(self, what):
        """Ask for ``rows`` or the weights of a backbone from a hub that has a fault, with little patience."""
        return self._ask("fail", [what])

    def bench(self, *words):
        """``python -m bench`` with ``words``."""
        return self._ask("bench", words)

    def _ask(self, verb, words):
        printed = [self._folder / name for name in ("stdout", "stderr")]
        self._process.stdin.write(json.dumps([verb, list(map(str, words)), *map(str, printed)]) + "\n")
        self._process.stdin.flush()
        return Done(int(self._process.stdout.readline()), *(path.read_text() for path in printed))


# in the client's process


def _read(*tasks):
    from bench.tasks.catalogue import shipped
    from bench.tasks.hub import read_hub

    found = {name: [[rows.texts, rows.labels] for rows in read_hub(shipped()[name])] for name in tasks}
    sys.stdout.write(json.dumps(found))


def _fail(what):
    import time

    import bench.cli.app
    import bench.models.hub
    from bench.__main__ import main

    wait = time.sleep
    time.sleep = lambda seconds: wait(min(seconds, 0.01))  # the pauses between the library's tries
    bench.models.hub.SILENCE_SECONDS = bench.models.hub.PROBE_SECONDS = 0.3

    def asked():
        from bench.models.backbone import resolve
        from bench.tasks.catalogue import task
        from bench.tasks.hub import read_hub

        read_hub(task("sst2")) if what == "rows" else resolve(what, "pretrained")

    bench.cli.app.app = asked
    main()


def _bench(*words):
    from bench.__main__ import main

    sys.argv = ["bench", *words]
    main()


def _answer(verb, words, *printed):
    """In the fork: do what was asked and end with its exit code."""
    for number, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 1
    try:
        {"read": _read, "fail": _fail, "bench": _bench}[verb](*words)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _load():
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import sklearn.metrics  # noqa: F401

    import bench.count.predict
    import bench.execute.warm
    import bench.plan.planner  # noqa: F401


def _serve():
    from bench.execute.run import quiet_libraries

    quiet_libraries()
    if "bare" not in sys.argv:
        _load()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _answer(*json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()

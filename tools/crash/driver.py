"""The command ``run`` on a plan of light jobs: ``python -m tools.crash.driver FOLDER``.

All of it is the command's own, from signals and exit codes to the store, but for what takes torch and says nothing of
crashes: planning, the work of a job, and the report at the end.
"""

import multiprocessing
import runpy
import sys
from multiprocessing.context import ForkServerContext
from unittest import mock

from bench.execute import fork_server
from tools.crash import light


def warm_up(_: object) -> ForkServerContext:
    """A fork server whose workers do light jobs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.crash.light"])
    fork_server.ensure_server()
    return context


LIGHT = {
    "bench.cli.app.selected": lambda *_: None,
    "bench.execute.run.warm_up": warm_up,
    "bench.cli.app.planned": lambda *_: light.plan(),
    "bench.cli.app._report": lambda *_: None,
    "bench.execute.runner.failure": lambda job, *how: light.records(job, *how[:3])[0],
    "bench.execute.runner.cost_failures": light.records,
    "bench.execute.runner.count_failures": light.records,
}
"""What stands in for parts that take torch."""


if __name__ == "__main__":
    folder = sys.argv[1]
    sys.argv[1:] = ["run", "--suite", "any", "--out", folder, "--workers", "2", "--keep", "all", "--retry", "crashed"]
    for name, stand_in in LIGHT.items():
        mock.patch(name, stand_in).start()
    runpy.run_module("bench", run_name="__main__", alter_sys=True)

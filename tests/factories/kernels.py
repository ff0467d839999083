"""Kernels of notebooks that are forks of this process, which has loaded torch and all else that they import."""

import asyncio
import os
import subprocess
import sys
import threading
import traceback
import warnings
from unittest import mock


def forked_kernels():
    """Whoever starts a kernel here gets a fork."""
    return mock.patch("jupyter_client.provisioning.local_provisioner.launch_kernel", _launched)


def _launched(command, *, cwd=None, env=None, **options):
    import ipykernel.kernelapp  # noqa: F401

    import bench.count.count  # noqa: F401

    process = _Fork(command)
    if not process.pid:
        _serve(command, cwd, env)
    return process


class _Fork(subprocess.Popen):
    """A fork as a process that was started, for what waits for it or signals it."""

    def __init__(self, command):
        self.args, self.returncode, self._child_created = command, None, True
        self.stdin = self.stdout = self.stderr = None
        self._waitpid_lock = threading.Lock()
        self.pid = os.fork()
        os.setpgid(self.pid, self.pid)  # in both: who ends a kernel signals its whole group


def _serve(command, cwd, env):
    """In the fork: what ``python -m ipykernel_launcher`` does, with warnings, output and loop as at a start."""
    from ipykernel.kernelapp import IPKernelApp

    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update({name: value for name, value in env.items() if name != "PYTEST_CURRENT_TEST"})
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(asyncio.new_event_loop())
        IPKernelApp.clear_instance()
        IPKernelApp.launch_instance(argv=command[command.index("-f") :])
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)

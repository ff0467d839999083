#!/bin/sh
# Three ways of ray 2.60.0 that a caller would not guess:
#
#   1. A call such as ray.wait that a signal comes in ends with a SystemError where the handler raises anything but
#      KeyboardInterrupt: an exception of the program's own, by which many end in order on SIGTERM, is lost.
#   2. ray.init puts a handler of its compiled code for SIGTERM behind Python's: signal.getsignal still names the
#      caller's, and it stays so until signal.signal is called again.
#   3. A cluster of ray.init() asks for a token, which it writes to ~/.ray/auth_token. ray.init("HOST:PORT") of the same
#      user on the same machine does not show it unless RAY_AUTH_MODE=token is set, and fails after 20 s.
#
# Output seen with ray 2.60.0 and Python 3.11, the version of ray that is installed below:
#
#   a handler that raises KeyboardInterrupt: ray.wait raises KeyboardInterrupt
#   a handler that raises Stop: ray.wait raises SystemError
#   Python names the caller's handler of SIGTERM: True; the system has it: False; set again: True
#   a cluster that asks for a token: as it is: ConnectionError; with RAY_AUTH_MODE=token: yielded 1
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "ray==2.60.0"
export HOME="$folder"
unset RAY_AUTH_MODE RAY_ADDRESS
"$folder/venv/bin/python" - 2>"$folder/heard" <<'PYTHON'
import ctypes
import os
import signal
import subprocess
import sys

import ray


class Stop(BaseException):
    pass


class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("rest", ctypes.c_byte * 256)]


def of_system():
    action = Action()
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, ctypes.byref(action))
    return action.handler


def handler(number, frame):
    raise raised


def ended_by():
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        ray.wait([never], timeout=10)
    except BaseException as error:
        return type(error).__name__


START = """
import time, ray
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
print(ray.get_runtime_context().gcs_address, flush=True)
time.sleep(600)
"""
JOIN = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    sys.exit(print(type(error).__name__))

@ray.remote(num_returns="streaming")
def yields():
    yield 1

task = yields.remote()
print("yielded", ray.get(next(task)))
"""


def around(mode):
    return os.environ | ({} if mode is None else {"RAY_AUTH_MODE": mode})


def joined():
    """What a process that joins a cluster with a token hears, as it is and with RAY_AUTH_MODE=token."""
    start = [sys.executable, "-c", START]
    with subprocess.Popen(start, env=around("token"), stdout=subprocess.PIPE, text=True) as head:
        join = [sys.executable, "-c", JOIN, head.stdout.readline().strip()]
        heard = [
            subprocess.run(join, env=around(mode), stdout=subprocess.PIPE, text=True).stdout.strip()
            for mode in (None, "token")
        ]
        head.terminate()
    return tuple(heard)


asks = joined()
setting = ray._private.utils.set_sigterm_handler
ray._private.utils.set_sigterm_handler = lambda handler: None  # that one is Python's, and seen by signal.getsignal
signal.signal(signal.SIGTERM, handler)
signal.signal(signal.SIGALRM, handler)
before = of_system()
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
named, there = signal.getsignal(signal.SIGTERM) is handler, of_system() == before
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
again = of_system() == before
never = ray.remote(num_cpus=2)(lambda: None).remote()
ways = {}
for raised in (KeyboardInterrupt(), Stop()):
    name = type(raised).__name__
    ways[name] = ended_by()
    print(f"a handler that raises {name}: ray.wait raises {ways[name]}")
print(f"Python names the caller's handler of SIGTERM: {named}; the system has it: {there}; set again: {again}")
print(f"a cluster that asks for a token: as it is: {asks[0]}; with RAY_AUTH_MODE=token: {asks[1]}")
ray.shutdown()
as_said = [
    ways == {"KeyboardInterrupt": "KeyboardInterrupt", "Stop": "SystemError"},
    (named, there, again) == (True, False, True),
    asks == ("ConnectionError", "yielded 1"),
]
sys.exit(0 if all(as_said) else 1)
PYTHON

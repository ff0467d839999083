"""What a figure was measured on: versions, hardware, threads, commit."""

import contextlib
import datetime
import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.errors import BenchError

PACKAGES = ("torch", "transformers", "datasets", "evaluate", "tokenizers", "numpy", "scikit-learn", "scipy")
"""Packages whose version can change a built-in method's result; a plug-in's own version stands with the method."""


@functools.cache  # a plan asks once for each cell, and reading metadata takes 2 ms
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a result; None where one is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


ROOT = Path(__file__).parents[2]
"""The checkout; the folder of installed packages where the project comes from a wheel."""


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """GPUs that torch sees; to ask does not begin CUDA where ``PYTORCH_NVML_BASED_CUDA_CHECK`` is set."""
    import torch

    return torch.cuda.device_count()


def at_once(jobs: int, threads: int = 1) -> int:
    """Processes of ``threads`` threads, one for each of ``jobs`` at most, that the cores carry side by side."""
    return max(1, min(cores() // threads, jobs))


def check_devices(asked: int, device: str) -> None:
    """Hold the devices that one cell asks for against those that are here.

    Raises:
        BenchError: There are fewer, or this process is one of several that torchrun has started.
    """
    if asked == 1:
        return
    import torch
    import torch.distributed

    if torch.distributed.is_torchelastic_launched():
        raise BenchError(
            f"devices = {asked}: a cell starts a process for each device itself, and torchrun has started several of "
            "this command; run it without torchrun"
        )
    if device == "cuda" and (found := torch.cuda.device_count()) < asked:
        there = f"{found} GPU{'s' * (found != 1)}"
        raise BenchError(f"devices = {asked}: this machine has {there}; lower it, or run on one with more")


def checkout() -> tuple[str | None, bool]:
    """Commit of the checkout that this code runs from, and whether a tracked file differs from it.

    None and False where it comes from a wheel: a repository around the folder of packages is not the project's.
    """
    top, _, commit = (_git("rev-parse", "--show-toplevel", "HEAD") or "").partition("\n")
    if not commit or not ROOT.samefile(top):
        return None, False
    return commit, bool(_git("status", "--porcelain", "--untracked-files=no"))


def version_line() -> str:
    """Name, version, and from a checkout the commit: ``peft-ledger 0.1.0 (commit 0123456789ab, modified)``."""
    commit, modified = checkout()
    origin = f" (commit {commit[:12]}{', modified' if modified else ''})" if commit else ""
    return f"peft-ledger {_version('peft-ledger') or 'not installed'}{origin}"


@functools.cache
def hardware() -> dict[str, Any]:
    """CPU model, core count and memory; GPU name where torch sees one."""
    import psutil
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"cpu": _cpu_model(), "cores": cores(), "memory_bytes": psutil.virtual_memory().total, "gpus": gpus}


@functools.cache
def node() -> str | None:
    """Twelve hexadecimal digits that tell this machine from others and say nothing of it; None where it has no id.

    A hash of its name and of a random number of the system's own: of ``machine-id``, which is to be handed on hashed
    alone (machine-id(5) of systemd), or of the boot, so that nobody can find the name by trying names.
    """
    for path in (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")):
        with contextlib.suppress(OSError):
            if secret := path.read_bytes().strip():
                known = b"\0".join((b"peft-ledger node", secret, platform.node().encode()))
                return hashlib.sha256(known).hexdigest()[:12]
    return None


def fingerprint(compared: Mapping[str, Any]) -> str:
    """Hash of ``versions``, ``hardware`` and ``threads`` of an environment."""
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:12]


def environment(threads: int | None = None) -> dict[str, Any]:
    """Everything that a record keeps about where it was made.

    ``threads`` are torch's as the job was given them; those of this process where None.

    ``fingerprint`` hashes versions, hardware and threads: figures of different fingerprints are never pooled. The
    commit and the node stand beside it and are no part of it.
    """
    import torch

    compared = {"versions": versions(), "hardware": hardware(), "threads": threads or torch.get_num_threads()}
    commit, modified = checkout()
    return {
        **compared,
        "fingerprint": fingerprint(compared),
        "node": node(),
        "platform": platform.platform(),
        "commit": commit,
        "dirty": modified,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }

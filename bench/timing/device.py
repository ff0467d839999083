"""What a GPU or CPU says of itself beside its clock: the energy that it has taken, and who else uses it.

A GPU is asked through NVML (package ``nvidia-ml-py`` of the extra ``gpu``), a CPU through the counters of RAPL that
Linux shows below ``/sys/class/powercap``. Where neither is there, or may not be read, there is no figure.
"""

import contextlib
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import psutil
import torch

from bench.schema.record import Energy

POWERCAP = Path("/sys/class/powercap")
CHANGES = 8
"""Changes of a counter from which its resolution is told."""
SLOWEST_SECONDS = 1.0
"""A counter that stands still for longer is not read: it is broken, or too coarse for any step."""
UPDATES, LEAST_SECONDS, STRETCHES = 25, 0.5, 3
"""A stretch of steps lasts so many updates of the counter, which may be off by one at each end, and at least so long;
how many stretches each method has."""

T = TypeVar("T")


class Counter(Protocol):
    """A counter of energy that only rises."""

    source: Literal["nvml", "rapl"]
    covers: str
    """What of the machine it counts."""

    def joules(self) -> float:
        """Reading; differences alone have a meaning.

        Raises:
            OSError: It cannot be read any more.
        """


class Gpu:
    """One GPU through NVML."""

    source: Literal["nvml", "rapl"] = "nvml"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = nvml.nvmlDeviceGetName(handle)
        self.covers: str = name if isinstance(name, str) else name.decode()

    def joules(self) -> float:
        """Energy since the driver was loaded, of the whole board."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3  # it counts in mJ
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error

    @property
    def shared_out(self) -> bool:
        """Whether it is divided into instances (MIG), whose energy and processes it does not tell apart."""
        with contextlib.suppress(self._nvml.NVMLError):
            return bool(self._nvml.nvmlDeviceGetMigMode(self._handle)[0])
        return False

    def others(self) -> int:
        """Processes that compute on it beside this one, its ancestors and its children; 0 where it does not say.

        In a container a GPU may name processes by numbers of the machine around it. Then all count but one, where this
        process has begun to use CUDA: of a probe no other process does meanwhile.
        """
        try:
            running = {one.pid for one in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)}
        except self._nvml.NVMLError:
            return 0
        here = psutil.Process()
        family = {one.pid for one in (here, *here.parents(), *here.children(recursive=True))}
        return len(running - family) if running & family else max(0, len(running) - torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class Packages:
    """All processor packages through RAPL."""

    source: Literal["nvml", "rapl"] = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self.covers = " + ".join((zone / "name").read_text().strip() for zone in zones)
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._last = [_number(zone / "energy_uj") for zone in zones]
        self._sum = 0

    def joules(self) -> float:
        """Energy since this was made, of all packages; what a counter loses as it starts over is its range."""
        for place, zone in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            self._sum += (now - self._last[place]) % (self._ranges[place] + 1)
            self._last[place] = now
        return self._sum / 1e6


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except ValueError as error:
        raise OSError(f"{path} holds no number") from error


def gpu() -> Gpu | None:
    """The GPU that torch uses; None where NVML, or its package, is not there."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Gpu(pynvml, pynvml.nvmlDeviceGetHandleByUUID(_uuid()))
    except pynvml.NVMLError:
        return None


def _uuid() -> str:
    """By what NVML knows the GPU that torch uses, whatever ``CUDA_VISIBLE_DEVICES`` says."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def counter(device: str, powercap: Path = POWERCAP) -> Counter | None:
    """The counter of ``cuda`` or ``cpu``; None where there is none that may be read."""
    if device == "cuda":
        board = gpu()
        if board is not None and not board.shared_out:
            with contextlib.suppress(OSError):
                board.joules()
                return board
        return None
    zones = sorted(path for path in powercap.glob("*-rapl:*") if path.name.count(":") == 1)
    packages = [zone for zone in zones if _package(zone)]
    with contextlib.suppress(OSError):  # most systems let root alone read it
        return Packages(packages) if packages else None
    return None


def _package(zone: Path) -> bool:
    """Whether a zone is a processor package: one of the whole platform would count it again."""
    with contextlib.suppress(OSError):
        return (zone / "name").read_text().startswith("package")
    return False


def resolution(meter: Counter, now: Callable[[], float] = time.perf_counter) -> float | None:
    """Seconds between two changes of a counter, the longest of a few; None where it stands still.

    Raises:
        OSError: The counter cannot be read.
    """
    begun, last, changed = now(), meter.joules(), list[float]()
    while len(changed) <= CHANGES:
        if now() - begun > SLOWEST_SECONDS:
            return None
        if (read := meter.joules()) != last:
            last, begun = read, now()
            changed.append(begun)
    return max(later - sooner for sooner, later in itertools.pairwise(changed))


class Work(NamedTuple):
    """Steps of one method, as they are repeated."""

    seconds: float
    """Of one step, as it was timed."""
    run: Callable[[], object]
    """Takes one step."""
    wait: Callable[[], object]
    """Returns once all steps are done."""


def energies(
    meter: Counter, finest: float, works: Mapping[T, Work], now: Callable[[], float] = time.perf_counter
) -> dict[T, Energy | Exception]:
    """Energy of a step of each of ``works``, in stretches of steps one after the other, the works in random order.

    Args:
        meter: The counter.
        finest: Its resolution; a step that is shorter has no figure and is not among the results.
        works: By key.
        now: Seconds; passed by tests.

    Returns:
        By key, or what its steps raised.
    """
    order, failed = random.Random(0), dict[T, Exception]()
    taken: dict[T, list[tuple[float, float]]] = {key: [] for key, work in works.items() if work.seconds >= finest}
    for _ in range(STRETCHES):
        for key in order.sample(list(taken), len(taken)):
            if key not in failed:
                try:
                    taken[key].append(_stretch(meter, works[key], max(UPDATES * finest, LEAST_SECONDS), now))
                except Exception as error:  # a method's failure is its own
                    failed[key] = error
    return {key: failed[key] if key in failed else _reduced(meter, finest, readings) for key, readings in taken.items()}


def _reduced(meter: Counter, finest: float, readings: Sequence[tuple[float, float]]) -> Energy:
    joules, seconds = zip(*readings, strict=True)
    return Energy(
        median=statistics.median(joules), samples=joules, source=meter.source, covers=meter.covers,
        resolution_seconds=finest, stretch_seconds=min(seconds),
    )  # fmt: skip


def _stretch(meter: Counter, work: Work, least: float, now: Callable[[], float]) -> tuple[float, float]:
    """Joules of a step, and seconds of the stretch that they are a mean of."""
    steps = max(1, math.ceil(least / work.seconds))
    work.wait()
    begun, before = now(), meter.joules()
    for _ in range(steps):
        work.run()
    work.wait()
    return (meter.joules() - before) / steps, now() - begun

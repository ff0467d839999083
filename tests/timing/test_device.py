"""Joules of a step come from a counter of the device, with its resolution, or are missing; strangers on it are seen."""

import os
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from bench.analysis.results import Results
from bench.count.outcome import Findings
from bench.report.document import Document
from bench.report.format import joules
from bench.report.render import markdown
from bench.report.sections import costs
from bench.schema.record import CostRecord
from bench.timing import device
from bench.timing import session as timed
from bench.timing.device import Work, counter, energies, resolution
from bench.timing.session import Session
from tests.factories.records import cost, glue_small

WATTS = 40.0


class Clock:
    """Time that goes by as it is read, and while steps run."""

    def __init__(self, tick=1e-5):
        self.time, self.tick = 0.0, tick

    def __call__(self):
        self.time += self.tick
        return self.time


class Meter:
    """Counts ``WATTS`` and shows a new reading every ``updates`` seconds."""

    source, covers = "rapl", "package-0"

    def __init__(self, clock, updates):
        self.clock, self.updates = clock, updates

    def joules(self):
        return WATTS * (self.clock() // self.updates) * self.updates


def work(clock, seconds, run=None):
    def step():
        clock.time += seconds

    return Work(seconds, run or step, lambda: None)


def test_a_step_costs_what_the_counter_gains_while_it_runs():
    clock = Clock()
    found = energies(Meter(clock, 1e-3), 1e-3, {"full": work(clock, 0.05), "head": work(clock, 0.02)}, clock)
    for label, seconds in (("full", 0.05), ("head", 0.02)):
        assert found[label].median == pytest.approx(WATTS * seconds, rel=0.01)
        assert len(found[label].samples) == 3
        assert found[label].stretch_seconds >= 0.5
        assert found[label].resolution_seconds == 1e-3
    assert (found["full"].source, found["full"].covers) == ("rapl", "package-0")


@pytest.mark.parametrize("updates", [0.02, 0.1])
def test_what_a_coarse_counter_leaves_open_is_a_share_of_its_stretch(updates):
    clock = Clock()
    energy = energies(Meter(clock, updates), updates, {"full": work(clock, 0.13)}, clock)["full"]
    assert energy.stretch_seconds >= 25 * updates
    open_share = 2 * energy.resolution_seconds / energy.stretch_seconds
    assert energy.median == pytest.approx(WATTS * 0.13, rel=open_share)


def test_a_step_that_is_shorter_than_the_counters_resolution_has_no_figure():
    clock = Clock()
    works = {"short": work(clock, 0.009), "long": work(clock, 0.011)}
    assert energies(Meter(clock, 0.01), 0.01, works, clock).keys() == {"long"}


def test_a_method_that_fails_meanwhile_leaves_the_others_alone():
    clock = Clock()

    def fails():
        raise ValueError("no")

    found = energies(Meter(clock, 0.01), 0.01, {"bad": work(clock, 0.1, fails), "good": work(clock, 0.1)}, clock)
    assert isinstance(found["bad"], ValueError)
    assert found["good"].median == pytest.approx(WATTS * 0.1, rel=0.05)


@pytest.mark.parametrize("updates", [1e-3, 0.02, 0.1])
def test_the_resolution_of_a_counter_is_measured(updates):
    clock = Clock()
    assert resolution(Meter(clock, updates), clock) == pytest.approx(updates, rel=0.05)


def test_a_counter_that_stands_still_has_no_resolution():
    clock = Clock(tick=1e-3)
    assert resolution(Meter(clock, 1e9), clock) is None


def zone(powercap, name, called, energy, most=2**32):
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_their_parts_are_not(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 200)
    for name, called in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys")):
        zone(tmp_path, name, called, 10**9)
    meter = counter("cpu", tmp_path)
    assert (meter.source, meter.covers) == ("rapl", "package-0 + package-1")
    before = meter.joules()
    first.write_text("3000100\n")
    second.write_text("1000200\n")
    assert meter.joules() - before == pytest.approx(4.0)


def test_a_counter_that_starts_over_loses_nothing(tmp_path):
    energy = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, most=999_999)
    meter = counter("cpu", tmp_path)
    energy.write_text("100000\n")
    assert meter.joules() == pytest.approx(0.2)


@pytest.mark.parametrize("spoil", ["nothing there", "no number", "not readable"])
def test_without_a_counter_that_may_be_read_there_is_none(spoil, tmp_path):
    if spoil != "nothing there":
        energy = zone(tmp_path, "intel-rapl:0", "package-0", 5)
        energy.write_text("x")
        if spoil == "not readable":
            energy.unlink()
            energy.mkdir()  # as root reads files of every mode
    assert counter("cpu", tmp_path / "powercap" if spoil == "nothing there" else tmp_path) is None


class NVMLError(Exception):
    """As the library's own."""


def nvml(monkeypatch, *, mig=0, fails=(), uuid="GPU-abc", millijoules=5000, processes=1):
    """Put a module in the place of NVML's."""

    def refuse(*_):
        raise NVMLError("Not Supported")

    def by_uuid(asked):
        assert asked == uuid
        return "handle"

    calls = {
        "nvmlInit": lambda: None, "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetName": lambda handle: "Board 1", "nvmlDeviceGetMigMode": lambda handle: [mig, mig],
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: millijoules,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=n) for n in range(processes)],
    }  # fmt: skip
    module = SimpleNamespace(NVMLError=NVMLError, **calls | dict.fromkeys(fails, refuse))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(device, "_uuid", lambda: uuid)


def test_a_gpu_is_read_through_nvml(monkeypatch):
    nvml(monkeypatch)
    meter = counter("cuda")
    assert (meter.source, meter.covers, meter.joules()) == ("nvml", "Board 1", 5.0)


@pytest.mark.parametrize(
    "odds",
    [{"mig": 1}, {"fails": ["nvmlInit"]}, {"fails": ["nvmlDeviceGetTotalEnergyConsumption"]},
     {"fails": ["nvmlDeviceGetHandleByUUID"]}],
)  # fmt: skip
def test_a_gpu_that_cannot_say_or_is_shared_out_has_no_figure(monkeypatch, odds):
    nvml(monkeypatch, **odds)
    assert counter("cuda") is None


def test_a_gpu_without_the_package_has_no_figure(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert counter("cuda") is None


@pytest.mark.parametrize(
    ("pids", "begun", "expected"),
    [
        ([], False, 0),
        (["own"], True, 0),
        (["own", 10**9], True, 1),
        (["parent"], False, 0),
        ([10**9, 10**9 + 1], False, 2),  # numbers of another namespace, before this process uses CUDA
        ([10**9, 10**9 + 1], True, 1),
        (None, True, 0),
    ],
)
def test_processes_of_others_on_a_gpu_are_told_from_ones_own(monkeypatch, pids, begun, expected):
    nvml(monkeypatch, fails=() if pids is not None else ["nvmlDeviceGetComputeRunningProcesses"])
    known = {"own": os.getpid(), "parent": os.getppid()}
    if pids is not None:
        running = [SimpleNamespace(pid=known.get(pid, pid)) for pid in pids]
        monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetComputeRunningProcesses", lambda handle: running)
    monkeypatch.setattr(device.torch.cuda, "is_initialized", lambda: begun)
    assert device.gpu().others() == expected


class Board:
    """A GPU that one more process uses each time that it is asked."""

    def __init__(self, *others):
        self._others = list(others)

    def others(self):
        return self._others.pop(0)


def test_what_was_timed_beside_another_process_says_so():
    findings = {"full": Findings(), "head": Findings()}
    session = Session(None, findings, print, board=Board(0, 2, 1))
    session.look()
    session.doubt(["full"])
    assert findings["full"].figures == {}
    for _ in range(2):
        session.look()
    session.doubt(["head"])
    assert findings["head"].figures == {"flags": ("foreign_process",)}
    (warning,) = findings["head"].warnings
    assert warning.startswith("another process used the GPU while times were taken (2 at once)")


def test_the_energy_of_a_method_is_read_once_though_the_baseline_is_timed_in_every_group(monkeypatch):
    asked = []
    monkeypatch.setattr(timed, "counter", lambda device: None)
    monkeypatch.setattr(timed, "Work", lambda seconds, *run: asked.append(seconds))
    findings = {"full": Findings({"step_seconds": mock.Mock(median=2.0), "step_energy": 1}),
                "head": Findings({"step_seconds": mock.Mock(median=1.0)})}  # fmt: skip
    timed._take_energy(Session(mock.Mock(device="cuda"), findings, print), mock.Mock(), ["full", "head"])
    assert asked == [1.0]


ENERGY = {"median": 1.5, "samples": [1.4, 1.5, 1.6], "source": "rapl", "covers": "package-0",
          "resolution_seconds": 0.001, "stretch_seconds": 0.5}  # fmt: skip


def test_a_record_may_lack_it_and_a_report_names_the_counter(tmp_path):
    assert CostRecord.model_validate(cost("full").model_dump()).step_energy is None
    run = glue_small(tmp_path, labels=["full", "head"])
    values = [record.model_dump(by_alias=True) for record in run.records]
    with_energy = [value | ({"step_energy": ENERGY} if value["kind"] == "cost" else {}) for value in values]
    results = Results(
        type(run).of(
            run.folder,
            run.suite.plain(),
            [type(r).model_validate(v) for r, v in zip(run.records, with_energy, strict=True)],
        )
    )
    table = results.cost_table()
    assert set(table["step_joules"]) == {1.5}
    assert set(results.costs["step_joules"]) == {1.5}
    text = markdown.render(Document("x", "x", "x", (costs.section(results),)))
    assert "1.5 J" in text
    assert "Counter: RAPL of package-0" in text
    assert "Energy" not in markdown.render(Document("x", "x", "x", (costs.section(Results(run)),)))


@pytest.mark.parametrize(
    ("value", "said"), [(None, "-"), (2e-7, "0.2 µJ"), (0.0123, "12.3 mJ"), (2.1, "2.1 J"), (1500, "1.5 kJ")]
)
def test_joules_are_said_in_a_unit_that_fits(value, said):
    assert joules(value) == said

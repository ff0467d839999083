"""What a method does to its process moves no other's figures, and is named in its own record."""

from importlib.metadata import EntryPoint

import pytest
import torch

from bench import registry
from bench.schema.figures import exact_fields
from bench.schema.record import PeakMemory
from bench.timing.counted import _difference
from bench.timing.probe import run_probe
from tests.factories import faulty_plugin
from tests.factories.cost_steps import here
from tests.timing.test_probe import probe

REPLACED = "it changes what all methods of a process share (torch."
HARM = {
    # what it does: status, the end of its reason, the beginning of a note
    "PatchesLinear": ("ok", "", REPLACED + "nn.Linear.forward replaced)"),
    "PatchesDropout": ("ok", "", REPLACED + "nn.functional.dropout replaced)"),
    "PatchesTensors": ("ok", "", REPLACED + "Tensor.mean replaced)"),
    "PatchesTheOptimizer": ("ok", "", REPLACED + "optim.AdamW.step replaced)"),
    "DefaultType": (
        "ok",
        "",
        "it changes what all methods of a process share (torch's default type float32 -> float64)",
    ),
    "DefaultDevice": (None, "", "it changes what all methods of a process share (torch's default device cpu -> meta"),
    "Deterministic": ("ok", "", "it changes what all methods of a process share (deterministic algorithms False -> "),
    "NoGradients": ("failed", None, "it changes what all methods of a process share (gradients enabled True -> False)"),
    "Precision": ("ok", "", "it changes what all methods of a process share (precision of float32 products"),
    "HooksEverything": ("ok", "", "it changes what all methods of a process share (hooks on every module"),
    "NoFusedAttention": ("ok", "", "it changes what all methods of a process share (fused attention"),
    "WarningsAreErrors": ("ok", "", ""),
    "Raises": ("failed", "ValueError: this method is broken", ""),
    "OutOfMemory": ("oom", "OutOfMemoryError: no memory left", ""),
    "Killed": ("crashed", "its process ended without an answer (killed by SIGKILL)", ""),
    "Hangs": ("timeout", "ran longer than 6 s", ""),
    "Exits": ("crashed", "its process ended without an answer (exit code 0)", ""),
    "ExitsInThree": ("crashed", "its process ended without an answer (exit code 3)", ""),
    "LeavesAChild": ("crashed", "its process ended without an answer (exit code 4)", ""),
    "Leaves": ("failed", "SystemExit: nothing more to do", ""),
    "Interrupts": ("failed", "KeyboardInterrupt", ""),
}
LATE = {
    "ExitsLate": ("crashed", "its process ended without an answer (exit code 5)", ""),
    "HangsLate": ("timeout", "ran longer than 15 s", ""),
    "PatchesLate": ("ok", None, "no times: a method changes what the baseline computes ("),
    "PrecisionLate": ("ok", None, "no times: a method changes what all methods share (precision of float32 products "),
}
COUNTED = (*exact_fields(), "peak_memory_bytes", "notes")


@pytest.fixture(scope="module")
def plugins():
    """Every class of the faulty plug-in as an installed method ``faulty/Class``."""
    module = "tests.factories.faulty_plugin"
    points = {
        f"faulty/{name}": EntryPoint(name, f"{module}:{name}", "bench.methods") for name in (*HARM, *LATE, "Spins")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_plugins", lambda: points)
        yield points


def figures(record):
    return {name: getattr(record, name) for name in COUNTED}


def by_label(records):
    return {record.method.label: record for record in records}


SOUND = ("full", "lora", "head")


@pytest.fixture(scope="module")
def alone():
    """Records of the sound methods, counted without a plug-in."""
    with here():
        return by_label(run_probe(probe(*SOUND, timed=False, threads=1)))


@pytest.fixture(scope="module")
def beside(plugins):
    """Records of the same methods with every fault in between."""
    names = ["full", *(f"faulty/{name}" for name in HARM), "lora", "head"]
    return by_label(run_probe(probe(*names, timed=False, threads=1, method_timeout_seconds=6.0)))


@pytest.mark.parametrize("label", SOUND)
def test_counts_are_those_of_a_run_without_the_plug_in(alone, beside, label):
    assert beside[label].status == "ok", beside[label].traceback
    assert figures(beside[label]) == figures(alone[label])
    assert (beside[label].warnings, beside[label].shape) == (alone[label].warnings, alone[label].shape)


@pytest.mark.parametrize("name", HARM)
def test_a_method_is_named_for_what_it_does_to_its_process(beside, name):
    status, reason, note = HARM[name]
    record = beside[f"faulty/{name}"]
    assert status in (None, record.status), record.traceback
    assert reason is None or (record.reason or "").endswith(reason)
    assert not note or any(one.startswith(note) for one in record.notes), record.notes
    assert note or not record.notes


def test_a_method_that_spins_is_ended(plugins):
    (record,) = run_probe(probe("faulty/Spins", baseline="faulty/Spins", timed=False, method_timeout_seconds=0.5))
    assert (record.status, record.reason) == ("timeout", "ran longer than 0.5 s")


def test_this_process_stays_as_it_was(beside):
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.nn.Linear.forward.__module__ == "torch.nn.modules.linear"
    assert faulty_plugin._Sound.done == 0


@pytest.mark.parametrize("names", [("ExitsLate", "HangsLate"), ("PatchesLate", "PrecisionLate")], ids="-".join)
def test_what_methods_do_amid_timing_is_found_by_timing_again_one_by_one(alone, plugins, names):
    """Each name is told of its own fault; the first two end the process of all methods, the others change it."""
    lines = []
    labels = [f"faulty/{name}" for name in names]
    asked = probe("full", *labels, "lora", latency_batches=(), rebuild=True, blocks=5, method_timeout_seconds=15.0)
    found = by_label(run_probe(asked, lines.append))
    for name, label in zip(names, labels, strict=True):
        status, reason, said = LATE[name]
        culprit = found[label]
        assert culprit.status == status, culprit.traceback
        assert reason is None or culprit.reason == reason
        assert not said or any(line.startswith(said) for line in culprit.warnings), culprit.warnings
        assert culprit.flops is not None and culprit.step_seconds is None
    for sound in ("full", "lora"):
        assert (found[sound].status, found[sound].flops) == ("ok", alone[sound].flops)
        assert found[sound].merge_error == alone[sound].merge_error
        assert found[sound].step_seconds is not None
        assert "timed beside the baseline alone: in one process with all methods, " in found[sound].notes[0]
    assert any(line.startswith("timing again, method by method: ") for line in lines)


@pytest.mark.parametrize("timed", [False, True], ids=["counted", "timed"])
@pytest.mark.parametrize("names", [("full",), ("full", "lora"), ("lora", "faulty/WarningsAreErrors")], ids=len)
def test_few_methods_are_measured_like_many(alone, plugins, monkeypatch, names, timed):
    """Where few are counted the first optimizer is made in a fork, where torch then wraps its class's ``step``."""
    if "step" in vars(torch.optim.AdamW):  # as in a process that has made none: AdamW then inherits Adam's
        monkeypatch.delattr(torch.optim.AdamW, "step")
    found = list(run_probe(probe(*names, baseline=names[0], timed=timed, latency_batches=(), blocks=2)))
    for record in found:
        assert (record.status, record.notes, record.warnings) == ("ok", (), ())
        assert (record.step_seconds is not None) == timed
    assert [r.flops for r in found if r.method.label in SOUND] == [alone[n].flops for n in names if n in SOUND]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (41, 1_044, "saved 41 -> 1,044"),
        (PeakMemory(forward=1, backward=2, optimizer=3, step=3), PeakMemory(forward=1, backward=9, optimizer=3, step=9),
         "saved.backward 2 -> 9"),
    ],
)  # fmt: skip
def test_a_figure_that_moved_is_said_with_both_values(before, after, said):
    assert _difference("saved", before, after) == said


def test_a_method_that_is_known_to_change_the_process_is_never_timed_beside_others(alone, plugins):
    found = by_label(run_probe(probe("full", "faulty/PatchesLinear", "head", latency_batches=(1,))))
    assert found["faulty/PatchesLinear"].warnings == ("no times: what it changes would move the times of all methods",)
    assert found["full"].flops == alone["full"].flops
    assert found["head"].step_seconds is not None and not found["head"].notes

"""Peak memory: the tracker sees what the allocator sees, phase by phase."""

import gc
from typing import Any

import pytest
import torch
from torch import nn

from bench import registry
from bench.count.count import CUBLAS_WORKSPACE, count, with_workspace_seen
from bench.count.memory import Tracker, follow_step, make_state, measure_step, nbytes, workspace_bytes
from bench.count.step import TrainingStep
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from methods import BUILTIN
from tests.factories.cost_steps import training_step
from tests.factories.methods import METHODS, sized
from tests.methods.peft_types import suited

NAMES = ["full", "lora", "lst"]


def second_step(name: str) -> TrainingStep:
    step = training_step(name, **sized(name))
    step.backward(step.forward())
    step.optimize()
    step.zero()
    return step


def allocator_peak(step: TrainingStep) -> int:
    """Largest rise of torch's CPU allocator over one step, in bytes."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step.backward(step.forward())
        step.optimize()
    events, current, peak = [], 0, 0
    pending = list(profile.profiler.kineto_results.experimental_event_tree())
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.name == "[memory]":
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    for _, size in sorted(events, key=lambda event: event[0]):
        current += size
        peak = max(peak, current)
    return peak


@pytest.mark.parametrize("name", BUILTIN)
def test_the_tracker_equals_the_allocator(name: str) -> None:
    step = second_step(name)
    tracker = Tracker(rounding=1)
    tracker.seed([*step.model.parameters(), *step.model.buffers(), *step.batch.values()])
    tracker.seed(t for s in step.optimizer.state.values() for t in s.values())
    before = tracker.current
    with tracker:
        step.backward(step.forward())
        step.optimize()
    counted = tracker.peak - before
    step.zero()
    assert allocator_peak(step) - counted == METHODS[name].untracked


BETWEEN = [(name, sized(name)) for name in BUILTIN]
BETWEEN += [("peft", suited(kind, "bert")) for kind in ("ADALORA", "LORA", "VBLORA", "LILY", "BOFT")]


@pytest.mark.parametrize(("name", "config"), BETWEEN, ids=lambda given: given if isinstance(given, str) else "")
def test_all_that_lives_from_step_to_step_is_counted_before_a_step(name: str, config: dict[str, Any]) -> None:
    step = training_step(name, **config)
    tracker = Tracker(rounding=1)
    tracker.seed([*step.model.parameters(), *step.model.buffers(), *step.batch.values()])
    with tracker:
        make_state(step)
        step.backward(step.forward())
        step.optimize()
        step.zero()
    gc.collect()
    lives = tracker.current
    assert sum(event.size for event in follow_step(step).before) == lives


def test_the_tracker_forgets_what_is_freed_and_rounds_up() -> None:
    tracker = Tracker()
    with tracker:
        first = torch.zeros(10)
        view = first.view(5, 2)
        assert tracker.current == 512
        del first
        assert tracker.current == 512  # the view still holds it
        del view
    assert (tracker.current, tracker.peak) == (0, 512)


def test_bytes_of_full_fine_tuning_follow_from_its_parameters() -> None:
    step = second_step("full")
    held, peak, source = measure_step(step)
    parameters = sum(p.numel() for p in step.model.parameters())
    assert source == "tracker"
    counters = 4 * sum(1 for _ in step.model.parameters())  # Adam counts steps, one float a tensor
    assert held.optimizer_state == 8 * parameters + counters
    assert held.gradients == 4 * parameters
    assert held.weights == 4 * parameters + nbytes(step.model.buffers())
    assert peak.step == max(peak.forward, peak.backward, peak.optimizer)
    assert peak.optimizer >= held.weights + held.gradients + held.optimizer_state


@pytest.mark.parametrize("name", NAMES)
def test_repeats_are_identical(name: str) -> None:
    step = second_step(name)
    assert measure_step(step) == measure_step(step)


def test_the_ladder_peaks_below_lora_and_lora_below_full() -> None:
    full, lora, lst = (measure_step(second_step(name))[1].step for name in NAMES)
    assert lst < lora < full


def test_shared_storage_is_counted_once() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    assert nbytes([weight, weight.t()]) == 64


def test_the_workspaces_of_a_gpu_are_what_the_allocator_has_left_after_a_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch's allocator tells it where each of two threads takes 32 MiB, beside 7 bytes of others."""
    assert workspace_bytes("cpu", torch.float32) == 0
    told = iter([7, 7 + 2 * 2**25])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(told))
    assert workspace_bytes("cpu", torch.bfloat16) == 2 * 2**25


def test_a_peak_counted_for_cuda_takes_the_workspaces_that_were_seen_and_says_so() -> None:
    setting = Setting(batch=2, length=8, device="cuda")
    counts = count(BackboneSpec(name="tiny", weights="random"), *registry.make("lora", {}), setting)
    seen = with_workspace_seen(counts, 2 * 2**25)
    more = {phase: value - getattr(counts.peak, phase) for phase, value in seen.peak}
    assert set(more.values()) == {2 * 2**25 - CUBLAS_WORKSPACE}
    assert seen.notes == (*counts.notes, "the predicted peak holds 67.1 MB that cuBLAS keeps on this GPU")
    assert seen.flops == counts.flops and seen.bytes == counts.bytes

"""A probe: one record a method, failures included, every figure in its place."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from bench import registry
from bench.count.count import CUBLAS_WORKSPACE, count
from bench.count.outcome import Findings
from bench.errors import BenchError
from bench.method import Method, MethodConfig
from bench.models.objective import bare_for
from bench.schema.claims import Bounds, TimedBound
from bench.schema.jobs import BackboneSpec, MethodSpec, Probe
from bench.schema.record import CostRecord
from bench.schema.shape import Setting
from bench.timing import counted, session
from bench.timing.counted import Bench
from bench.timing.interleave import Pace
from bench.timing.models import copied_to
from bench.timing.probe import failures, run_probe
from methods import BUILTIN
from tests.factories.cost_steps import counted_once, here

TIMES = ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds")


def probe(*methods: str, **changes: Any) -> Probe:
    specs = tuple(MethodSpec(label=name, name=name, config={}, source_sha256="") for name in methods)
    values: dict[str, Any] = {
        "id": "probe", "suite": "test", "backbone": BackboneSpec(name="tiny", weights="random"), "methods": specs,
        "baseline": "full", "batch": 2, "length": 8, "dtype": "float32", "device": "cpu", "attention": "sdpa",
        "blocks": 2, "rounds": 1, "latency_batches": (1, 32), "latency_length": 8, "learning_rate": 1e-3,
        "head_learning_rate": 1e-3, "outputs": 2, "timeout_seconds": 900.0,
    }  # fmt: skip
    return Probe(**(values | changes))


@pytest.fixture(scope="module", autouse=True)
def shared_counts() -> Iterator[None]:
    """What probes of this file have in common is counted by the first, before it forks: the forks know it."""
    make = Bench.__init__

    def made(bench: Bench, probe: Probe, threads: int) -> None:
        make(bench, probe, threads)
        for spec in probe.methods:
            if spec.name in BUILTIN:
                with contextlib.suppress(BenchError):  # the fork says so again, in its record
                    counted.predicted(bench.models, spec, Findings())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "count", counted_once(counted.count))
        patch.setattr(Bench, "__init__", made)
        yield


@pytest.fixture
def unforked() -> Iterator[None]:
    """For tests of what is measured, whichever process does it."""
    with here():
        yield


class Broken(Method):
    """Raises what its configuration names."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(MethodConfig):
        """Which fault."""

    error: type[Exception] | None = None

    def apply(self, backbone: nn.Module, config: MethodConfig) -> nn.Module:
        if self.error:
            raise self.error("no room\nsecond line")
        with torch.no_grad():
            backbone.get_submodule("encoder.layer.0.output.dense").weight.fill_(float("nan"))
        return backbone.requires_grad_(True)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[Broken]:
    load = registry.load_method
    monkeypatch.setattr(registry, "load_method", lambda name, *a: Broken if name == "broken" else load(name, *a))
    return Broken


@pytest.fixture(scope="module")
def records() -> dict[str, CostRecord]:
    lines: list[str] = []
    found = {r.method.label: r for r in run_probe(probe("full", "head", "lora", "lst"), lines.append)}
    assert lines[:4] == ["counted 1/4", "counted 2/4", "counted 3/4", "counted 4/4"]
    assert any(line.startswith("timed block 2/2, about ") for line in lines)
    assert lines[-1].endswith("about 0 s left")
    return found


def test_every_method_has_a_record_of_its_own(records: dict[str, CostRecord]) -> None:
    assert list(records) == ["full", "head", "lora", "lst"]
    assert {r.status for r in records.values()} == {"ok"}
    assert len({r.id for r in records.values()}) == 4
    assert all(CostRecord.model_validate_json(r.model_dump_json(by_alias=True)) == r for r in records.values())


def test_every_figure_is_there(records: dict[str, CostRecord]) -> None:
    for record in records.values():
        assert None not in [getattr(record, name) for name in (*TIMES, "flops", "bytes", "peak_memory_bytes")]
        assert set(record.aa_control) == {
            "forward", "backward", "optimizer", "step", "latency", "latency_batch_1", "latency_batch_32",
        }  # fmt: skip
        assert record.step_seconds is not None
        assert [len(block) for block in record.step_seconds.samples] == [1, 1]
        assert record.latency_seconds is not None
        assert record.latency_seconds.unmerged.batch_1 is not None
        assert record.latency_seconds.base.batch_32 is not None
        assert record.peak_memory_source == "tracker"
        assert record.predicted_peak_memory_bytes == record.peak_memory_bytes
        assert record.largest_saved[0].bytes >= record.largest_saved[-1].bytes > 0
        assert record.inference is not None
        assert record.inference.base.operations > record.inference.base.depth > 0
        assert record.flags == ("random_weights",)


def test_the_baseline_is_its_own_reference(records: dict[str, CostRecord]) -> None:
    for name in TIMES:
        assert getattr(records["full"], name).ratio_to_baseline == 1.0


def test_counts_tell_the_methods_apart(records: dict[str, CostRecord]) -> None:
    flops = {label: r.flops for label, r in records.items()}
    assert flops["lst"].backbone.backward == flops["head"].backbone.backward == 0
    assert 0.4 < flops["lora"].backward / flops["full"].backward < 0.6
    assert records["head"].trainable_parameters.method == records["head"].delta_bytes == 0
    assert records["lora"].delta_bytes == 4 * records["lora"].trainable_parameters.method
    assert len({r.trainable_parameters.head for r in records.values()}) == 1


def test_merged_lora_is_the_base_and_the_ladder_cannot_be_merged(records: dict[str, CostRecord]) -> None:
    assert records["lora"].merged_equals_base.all
    assert records["lora"].merge_error["float32"] < 1e-5
    assert records["lora"].latency_seconds.merged.batch_1 is not None
    assert records["lst"].merged_equals_base is records["lst"].latency_seconds.merged is None
    assert records["lora"].switch_seconds > 0
    inference = {label: record.inference for label, record in records.items()}
    assert inference["lora"].merged == inference["lora"].base == inference["full"].unmerged
    assert inference["lst"].merged is None
    assert inference["lst"].unmerged.depth > inference["lst"].base.depth == inference["full"].base.depth


def test_latency_is_taken_at_every_batch_that_a_suite_may_ask_for(unforked: None) -> None:
    full, lora = run_probe(probe("full", "lora", latency_batches=(1, 3)))
    for record in (full, lora):
        assert [*record.latency_seconds.unmerged.by_batch] == [1, 3]
        assert {"latency_batch_1", "latency_batch_3"} < set(record.aa_control)
        assert record.warnings == ()


def test_what_has_no_figure_says_why(records: dict[str, CostRecord]) -> None:
    assert records["head"].switch_seconds is None
    assert "no switch time" in records["head"].warnings[0]


@torch.library.custom_op("peft_ledger_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    """A third party's kernel without a fake implementation."""
    return 2 * x


twice.register_autograd(lambda context, gradient: 2 * gradient)


class Opaque(Method):
    """Scales the last state by a learned vector and calls ``twice`` on it."""

    identity_at_init = False

    def apply(self, backbone: nn.Module, config: MethodConfig) -> nn.Module:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = backbone
                self.scale = nn.Parameter(torch.ones_like(next(backbone.parameters())[0]))

            def forward(self, **inputs: Any) -> Any:
                output = self.backbone(**inputs)
                output.last_hidden_state = twice(output.last_hidden_state * self.scale)
                return output

        return Scaled()


def test_an_operation_without_a_fake_form_is_said_and_the_measured_figures_stand(
    monkeypatch: pytest.MonkeyPatch, unforked: None
) -> None:
    load = registry.load_method
    monkeypatch.setattr(registry, "load_method", lambda name, *a: Opaque if name == "opaque" else load(name, *a))
    full, opaque = run_probe(probe("full", "opaque", latency_batches=(1,)))
    assert (full.status, opaque.status) == ("ok", "ok"), opaque.traceback
    assert opaque.predicted_peak_memory_bytes is None
    assert full.predicted_peak_memory_bytes is not None
    assert "no predicted peak" in opaque.warnings[0]
    assert "twice" in opaque.warnings[0]
    for figure in (*TIMES, "flops", "bytes", "peak_memory_bytes", "trainable_parameters", "latency_seconds"):
        assert getattr(opaque, figure) is not None, figure
    assert opaque.flops.backbone.backward == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16_autocast"},
        {"dtype": "bfloat16", "attention": "eager"},
        {"checkpointing": True, "optimizer": "adamw_foreach"},
        {"dropout": 0.1, "optimizer": "sgd"},
    ],
    ids=str,
)
def test_the_form_of_the_step_is_measured_and_stands_in_the_record(unforked: None, changes: dict[str, Any]) -> None:
    for record in run_probe(probe("full", "lora", "lst", latency_batches=(1,), **changes)):
        assert record.status == "ok", record.traceback
        assert {key: getattr(record.shape, key) for key in changes} == changes
        assert record.predicted_peak_memory_bytes == record.peak_memory_bytes
        assert (record.flops.backward_recompute > 0) == (record.method.label != "lst" and "checkpointing" in changes)


def test_a_claim_that_straddles_its_bound_asks_for_more_blocks_and_a_clear_one_does_not(unforked: None) -> None:
    def blocks(*, extra_seconds: float = 60.0, **values: Any) -> tuple[int, int]:
        asked = probe("full", "head", latency_batches=(1,), bounds=(TimedBound(**values),), extra_seconds=extra_seconds)
        _, head = run_probe(asked)
        return len(head.backward_seconds.samples), len(head.latency_seconds.unmerged.batch_1.samples)

    itself = {
        "phase": "backward",
        "method": "full",
        "versus": "full",
    }  # ratio 1 in every block, whatever the luck
    assert blocks(**itself, bounds=Bounds(min=1.0)) == (6, 2)
    assert blocks(**itself, bounds=Bounds(min=1.0), extra_seconds=0.0) == (2, 2)
    assert blocks(**itself, bounds=Bounds(min=1e-300)) == (2, 2)
    latency = {"phase": "latency", "batch": 1, "method": "head", "versus": "base"}
    assert blocks(**latency, bounds=Bounds(min=1e-300, max=1e300)) == (2, 2)


def test_a_probe_that_rebuilds_builds_anew_for_every_block(broken: type[Broken], unforked: None) -> None:
    def record(number: int, *, rebuild: bool) -> CostRecord:
        """Of ``broken``, which fails from its build ``number`` on."""
        builds = itertools.count(1)

        def apply(self: Broken, backbone: nn.Module, config: MethodConfig) -> nn.Module:
            if next(builds) >= number:
                raise MemoryError("no room")
            return backbone.requires_grad_(True)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(broken, "apply", apply)
            asked = probe("head", "broken", baseline="head", latency_batches=(1, 32), rounds=2, rebuild=rebuild)
            found = {record.method.label: record for record in run_probe(asked)}
        head, ours = found["head"], found["broken"]
        assert head.status == "ok"
        assert not any("varies" in line for line in head.warnings)
        assert [len(block) for block in head.step_seconds.samples] == [2, 2]
        assert [len(block) for block in head.latency_seconds.unmerged.batch_1.samples] == [8, 8]
        return ours

    counted = 4  # on fake tensors, a real step, deployed, its delta loaded
    assert record(counted + 2 + 1, rebuild=False).status == "ok"  # timed and deployed once each
    timed, deployed = counted + 2, 1 + 1 + 1  # a build for the switch of tasks, a renewal at each batch
    assert record(timed + deployed + 1, rebuild=True).status == "ok"
    for last in (counted, timed + 2, timed + deployed):  # a count, at batch 1, at batch 32
        assert record(last, rebuild=True).status == "oom"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, of torch's older parts
def test_a_compiled_model_is_timed_and_said_to_be() -> None:
    full, lora = run_probe(probe("full", "lora", compile=True, latency_batches=(1,)))
    for record in (full, lora):
        assert record.status == "ok", record.traceback
        assert record.shape.compiled
        assert record.step_seconds is not None


@pytest.mark.parametrize(("error", "status"), [(MemoryError, "oom"), (ValueError, "failed"), (None, "nan")])
def test_a_method_that_fails_gives_a_record_and_the_rest_go_on(
    broken: type[Broken], monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None, status: str
) -> None:
    monkeypatch.setattr(broken, "error", error)
    found = {r.method.label: r for r in run_probe(probe("full", "broken", "head", latency_batches=(1,)))}
    full, bad, head = (found[label] for label in ("full", "broken", "head"))
    assert (full.status, bad.status, head.status) == ("ok", status, "ok")
    assert bad.reason is not None
    assert "\n" not in bad.reason
    assert "Traceback" in str(bad.traceback)
    assert bad.step_seconds is None
    assert head.step_seconds is not None


def test_without_a_baseline_the_counts_stand_and_the_times_say_why(broken: type[Broken], unforked: None) -> None:
    bad, head = run_probe(probe("broken", "head", baseline="broken", latency_batches=(1,)))
    assert (bad.status, head.status) == ("nan", "ok")
    assert head.flops is not None
    assert head.step_seconds is None
    assert "the baseline broken failed" in head.warnings[0]


def test_a_shape_longer_than_the_positions_is_refused_with_one_sentence() -> None:
    (full,) = run_probe(probe("full", length=129))
    assert full.status == "failed"
    assert full.reason == "full: 129 tokens need 129 positions, the backbone has 128; length 128 is the longest"


def test_a_dead_process_leaves_a_record_for_each_method() -> None:
    dead = failures(probe("full", "lora"), "crashed", "killed by SIGKILL", "2026-01-01T00:00:00+00:00")
    alive = {record.id for record in run_probe(probe("full", "lora", latency_batches=()))}
    assert {record.id for record in dead} == alive
    assert {(record.status, record.reason) for record in dead} == {("crashed", "killed by SIGKILL")}


def test_two_probes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "count", count)
    first, second = (list(run_probe(probe("full", "lora", latency_batches=()))) for _ in range(2))
    for ours, theirs in zip(first, second, strict=True):
        assert (ours.flops, ours.bytes, ours.peak_memory_bytes) == (
            theirs.flops,
            theirs.bytes,
            theirs.peak_memory_bytes,
        )


@pytest.mark.parametrize(
    ("changes", "free", "peak", "expected"),
    [
        ({}, 600, 100, 2),
        ({}, 100_000, 100, 3),
        ({}, 10, 100, 1),
        ({}, 100_000, None, 1),
        ({"timed": False}, 10, None, 3),
    ],
    ids=["memory", "methods", "short of memory", "unknown memory", "counted without a real step"],
)
def test_as_many_methods_are_counted_at_once_as_fit(changes, free, peak, expected, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    bench = Bench.__new__(Bench)
    bench.probe = probe("full", "lora", "head", **changes)
    bench._known = {} if peak is None else {"full": mock.Mock(peak=mock.Mock(step=peak))}
    monkeypatch.setattr(counted.psutil, "virtual_memory", lambda: mock.Mock(available=free))
    monkeypatch.setattr(counted, "at_once", lambda jobs, threads: min(jobs, 4 // threads))
    assert bench._at_once(1) == expected
    assert bench._at_once(4) == 1


def test_room_on_a_gpu_is_asked_for_after_cached_blocks_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(7))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[-1], 9))
    assert session.free_bytes("cuda") == 7


def test_a_gpu_has_room_for_all_but_what_a_step_takes_beside_what_it_holds() -> None:
    """Full fine-tuning holds 20 of its 28 GB between two steps; the CPU's rule keeps the whole of it free again."""
    steps = [(28, 20), (13, 6)]
    assert session.room_of("cpu", 100, steps) == 60 - 28
    assert session.room_of("cuda", 100, steps) == 90 - 8


def test_a_backbone_goes_to_its_device_without_a_copy_in_main_memory() -> None:
    bare = bare_for(BackboneSpec(name="tiny", weights="random"), Setting(batch=1, length=4))
    bare.tied = next(bare.parameters())
    moved = copied_to("meta", bare)
    assert {held.device.type for held in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert {held.device.type for held in (*bare.parameters(), *bare.buffers())} == {"cpu"}
    assert [*moved.state_dict()] == [*bare.state_dict()] and moved.tied is next(moved.parameters())


def test_a_copied_backbone_has_weights_of_its_own() -> None:
    bare = bare_for(BackboneSpec(name="tiny", weights="random"), Setting(batch=1, length=4)).eval()
    next(bare.parameters()).requires_grad_(False)
    copied, ids = copied_to("cpu", bare), torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(copied(input_ids=ids).last_hidden_state, bare(input_ids=ids).last_hidden_state)
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in bare.parameters()]
    with torch.no_grad():
        next(copied.parameters()).fill_(7.0)
    assert not (next(bare.parameters()) == 7.0).any()


def test_a_probe_that_is_not_timed_counts_alone_and_still_compares_what_merges(unforked: None) -> None:
    counted = {r.method.label: r for r in run_probe(probe("full", "lora", "lst", timed=False))}
    timed = {r.method.label: r for r in run_probe(probe("full", "lora", "lst", latency_batches=(1,)))}
    for label, record in counted.items():
        assert record.status == "ok", record.traceback
        exact = ("flops", "bytes", "trainable_parameters", "delta_bytes", "largest_saved", "merged_equals_base")
        for figure in (*exact, "inference"):
            assert getattr(record, figure) == getattr(timed[label], figure), figure
        assert record.predicted_peak_memory_bytes == timed[label].peak_memory_bytes
        for figure in (*TIMES, "latency_seconds", "peak_memory_bytes", "switch_seconds"):
            assert getattr(record, figure) is None, figure


@pytest.mark.parametrize(("timed", "shift"), [(True, 2 * 2**25 - CUBLAS_WORKSPACE), (False, 0)])
def test_the_peak_of_a_step_that_a_gpu_runs_holds_the_workspaces_seen_there(
    timed: bool, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step itself needs the GPU; what is counted alone is the same on any machine."""
    asked = probe("head", timed=timed)
    setting = Setting(**asked.step(), device="cuda")
    models = mock.Mock(probe=asked, device="cuda", setting=setting, step=mock.Mock(side_effect=StopIteration))
    monkeypatch.setattr(counted, "workspace_bytes", lambda device, dtype: 2 * 2**25)
    found = Findings()
    with pytest.raises(StopIteration) if timed else contextlib.nullcontext():
        counted.count_training(models, asked.methods[0], found)
    alone = count(asked.backbone, *registry.make("head", {}), setting)
    assert found.figures["predicted_peak_memory_bytes"].step == alone.peak.step + shift
    assert any("cuBLAS" in note for note in found.figures["notes"]) is timed


def test_without_inference_a_step_is_counted_measured_and_timed_and_nothing_is_deployed(unforked: None) -> None:
    with mock.patch("bench.timing.models.Models.deployed", side_effect=AssertionError):
        found = list(run_probe(probe("full", "lora", inference=False, latency_batches=())))
    for record in found:
        assert record.status == "ok" and record.peak_memory_bytes and record.step_seconds and record.backward_seconds
        assert record.inference is record.latency_seconds is record.merged_equals_base is record.latency_length is None
        assert set(record.aa_control) == {"forward", "backward", "optimizer", "step"}


@pytest.mark.parametrize("energy", [True, False])
def test_energy_is_read_where_the_suite_does_not_spare_it(energy: bool, unforked: None) -> None:
    with mock.patch("bench.timing.session.counter", return_value=None) as asked:
        assert all(record.status == "ok" for record in run_probe(probe("full", energy=energy, latency_batches=())))
    assert asked.called is energy


def test_what_is_counted_alone_comes_method_by_method(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Findings] = []
    count = Bench.counted

    def noted(bench: Bench) -> Iterator[Findings]:
        for found in count(bench):
            counted.append(found)
            yield found

    monkeypatch.setattr(Bench, "counted", noted)
    records = run_probe(probe("full", "head", "lora", timed=False))
    for number, label in enumerate(("full", "head", "lora"), start=1):
        record = next(records)
        assert (record.method.label, record.status) == (label, "ok")
        assert record.inference is not None
        assert len(counted) == number


def test_records_of_a_timed_group_come_as_soon_as_it_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = tmp_path / "begun"  # the groups are timed in a process of their own
    timed = session.time_training

    def time_training(*args: Any) -> None:
        with begun.open("a") as lines:
            lines.write(f"{' '.join(args[1])}\n")
        timed(*args)

    monkeypatch.setattr(session, "time_training", time_training)
    monkeypatch.setattr(
        session, "groups", lambda sizes, baseline, room: [[baseline, m] for m in sizes if m != baseline]
    )
    records = run_probe(probe("full", "head", "lora", latency_batches=(1,)))
    first = [next(records), next(records)]
    assert [record.method.label for record in first] == ["full", "head"]
    last = list(records)
    assert [record.method.label for record in last] == ["lora"]
    assert begun.read_text().splitlines() == ["full head", "full lora"]
    for record in (*first, *last):
        assert record.step_seconds is not None
        assert record.latency_seconds is not None


def test_a_group_that_breaks_off_leaves_no_record_that_looks_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(session: object, labels: list[str], of: str) -> None:
        raise OSError("the machine is gone")

    monkeypatch.setattr(session, "time_inference", fail)
    for record in run_probe(probe("full", "head", latency_batches=(1,))):
        assert (record.status, record.reason) == ("failed", "OSError: the machine is gone")


def test_the_time_left_is_that_of_the_work_left_at_the_pace_so_far() -> None:
    clock = iter([0.0, 10.0, 30.0, 40.0])
    pace = Pace(4.0, lambda: next(clock))
    assert pace.left(1.0) == 30.0
    assert pace.left(2.0) == 10.0
    assert pace.left(2.0) == 0.0

"""What devices tell one another in a step, and what each holds: counted without them, against two that do."""

import functools
import json
from pathlib import Path

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FSDPModule

from bench import registry
from bench.count.collectives import communication, pretended
from bench.count.depth import counting
from bench.count.memory import follow_step, make_state, peak_memory
from bench.count.predict import predictions, setting_for
from bench.errors import BenchError
from bench.schema.shape import Setting, StepShape
from bench.training.devices import Replicas, joined, shard
from bench.training.ranks import side_by_side
from methods import BUILTIN
from tests.factories.command import bench
from tests.factories.cost_steps import real_step, tiny_shape
from tests.factories.methods import sized

SETTING = Setting(batch=2, length=8)
CANNOT_SHARE = ("adalora", "vera")
SHARED = [name for name in BUILTIN if name not in CANNOT_SHARE]


class Seen:
    """Writes down the bytes of whole tensors that a real FSDP2 step gathers or scatters, by its own hooks."""

    def __init__(self):
        self.all_gather, self.reduce_scatter = 0, 0

    def watch(self, module):
        from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

        seen = self

        class Gathers(DefaultAllGather):
            def __call__(self, output_tensor, input_tensor, group, async_op=False):
                seen.all_gather += output_tensor.nbytes
                return super().__call__(output_tensor, input_tensor, group, async_op)

        class Scatters(DefaultReduceScatter):
            def __call__(self, output_tensor, input_tensor, group, op, async_op=False):
                seen.reduce_scatter += input_tensor.nbytes
                return super().__call__(output_tensor, input_tensor, group, op, async_op)

        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_custom_all_gather(Gathers())
                part.set_custom_reduce_scatter(Scatters())


def all_reduced(shape, name):
    """Bytes in the buckets that DDP hands out in one step."""
    step, team, sent = real_step(shape, name, SETTING, **sized(name)), Replicas(0, 2), []
    team.join(step.model, step.method)

    def hook(group, bucket):
        sent.append(bucket.buffer().nbytes)
        return allreduce_hook(group, bucket)

    team._loss.register_comm_hook(None, hook)
    team.loss(step.batch).backward()
    return sum(sent)


def shared_out(shape, name, mesh):
    """What a real step of two devices that share the weights gathers, scatters and holds."""
    step, seen = real_step(shape, name, SETTING, **sized(name)), Seen()
    shard(step.model, step.method, step.origin.layers, mesh)
    step.optimizer = torch.optim.AdamW([p for p in step.model.parameters() if p.requires_grad], fused=True)
    seen.watch(step.model)
    make_state(step)
    course = follow_step(step, begun=True)
    held = course.held.model_dump(exclude={"saved_activations"})
    return seen.all_gather, seen.reduce_scatter, held, peak_memory(course.peaks).model_dump()


def in_pair(meeting, folder, rank, send):
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(1)
    with joined(rank, 2, device="cpu", shard=False, meeting=Path(meeting), seconds=3600):
        mesh, shape = init_device_mesh("cpu", (2,)), tiny_shape("bert", Path(folder, str(rank)))
        for name in BUILTIN:
            sent = all_reduced(shape, name)
            shares = shared_out(shape, name, mesh) if name in SHARED else None
            if rank == 0:
                send((name, sent, shares))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for rank in "01":
        (folder / rank).mkdir()
    work = functools.partial(in_pair, str(folder / "meeting"), str(folder))
    return {name: found for _, (name, *found) in side_by_side(work, 2)}


@pytest.fixture(scope="module")
def shape(tmp_path_factory):
    return tiny_shape("bert", tmp_path_factory.mktemp("shape"))


@functools.cache
def counted(shape, name, **more):
    method, config = registry.make(name, sized(name))
    return counting(shape, method, config, Setting(**SETTING.model_dump() | {"devices": 2} | more)).counts


@pytest.mark.parametrize("name", BUILTIN)
def test_bytes_of_gradients_are_those_that_ddp_sends(pair, shape, name):
    found = counted(shape, name)
    assert found.communication_bytes.all_reduce == found.all_reduce_bytes == pair[name][0]
    assert found.all_reduce_bytes == 4 * (found.trainable.method + found.trainable.head)  # float32, nothing frozen


@pytest.mark.parametrize("name", SHARED)
def test_bytes_of_weights_and_gradients_are_those_that_fsdp_sends(pair, shape, name):
    found = counted(shape, name, shard=True).communication_bytes
    gathered, scattered, *_ = pair[name][1]
    assert (found.all_reduce, found.all_gather, found.reduce_scatter) == (0, gathered, scattered)


@pytest.mark.parametrize("name", SHARED)
def test_what_a_device_holds_of_shared_weights_is_what_a_real_one_holds(pair, shape, name):
    found, (_, _, held, peaks) = counted(shape, name, shard=True), pair[name][1]
    assert found.bytes.model_dump(exclude={"saved_activations"}) == held
    for phase, peak in found.peak:
        assert peaks[phase] >= peak  # gloo sends from a thread of its own, and may keep a buffer a moment longer


@pytest.mark.parametrize("name", SHARED)
def test_peaks_of_shared_weights_are_those_of_real_tensors_to_the_byte(shape, name):
    with pretended(2) as mesh:
        *_, peaks = shared_out(shape, name, mesh)
    assert counted(shape, name, shard=True).peak.model_dump() == peaks


def test_a_ring_sends_each_whole_tensor_nearly_once_and_sums_nearly_twice():
    assert communication(4, all_reduce=1000).sent == 1500
    assert communication(4, all_gather=1000).sent == communication(4, reduce_scatter=1000).sent == 750
    assert communication(3, all_reduce=100).sent == 134  # rounded up


def test_replicas_hold_a_copy_of_the_gradients_beside_what_one_device_holds(shape):
    one, two = counted(shape, "full", devices=1), counted(shape, "full")
    assert two.bytes == one.bytes
    copy = -(-two.all_reduce_bytes // 512) * 512
    assert two.peak.model_dump() == {phase: peak + copy for phase, peak in one.peak}


def test_full_fine_tuning_sends_most_of_its_bytes_whole_and_peft_gathers_what_is_frozen(shape):
    full, lora = (counted(shape, name) for name in ("full", "lora"))
    assert lora.communication_bytes.sent < full.communication_bytes.sent / 10
    shared = counted(shape, "lora", shard=True).communication_bytes
    assert shared.sent > 10 * lora.communication_bytes.sent


# On the command line


def asked(*words, batch=8, method="lora"):
    given = ["--backbone", "tiny", "--method", method, "--batch", batch, "--seq", "16", "--device", "cpu", *words]
    return bench("predict", *given).stdout


def test_figures_are_of_one_device_and_rows_of_all():
    (two,) = json.loads(asked("--devices", "2", "--json"))
    (half,) = json.loads(asked("--json", batch=4))
    assert (two["shape"]["batch"], two["shape"]["devices"]) == (4, 2)
    assert two["flops"] == half["flops"]
    assert two["communication_bytes"]["all_reduce"] == two["all_reduce_bytes"] == half["all_reduce_bytes"]
    assert "communication_bytes" not in half
    assert "sent" in asked("--devices", "2")


def test_the_largest_batch_is_that_of_all_devices():
    rows = {}
    for more in ((), ("--devices", "2")):
        (row,) = json.loads(asked(*more, "--device-memory", "4MB", "--json"))
        rows[more] = row["largest_batch"]
    alone, both = rows.values()
    assert both % 2 == 0
    assert alone < both <= 2 * alone


def test_sharing_the_weights_is_among_what_to_change():
    (known,) = json.loads(asked("--devices", "2", "--json", method="full"))
    memory = known["predicted_peak_memory_bytes"]["step"] - 1
    (row,) = json.loads(
        asked("--devices", "2", "--device-memory", f"{memory}B", "--reserve", "0", "--json", method="full")
    )
    assert not row["fits"]
    (change,) = [change for change in row["changes"] if change["options"] == "--shard"]
    assert change["same_gradients"]
    assert change["predicted_peak_memory_bytes"] < row["predicted_peak_memory_bytes"]["step"]


@pytest.mark.parametrize(("given", "words"), [
    ({"devices": 3}, "--batch 8 is that of all devices, and 3 of them cannot have the same rows"),
    ({"shard": True}, "--shard shares the weights out among several devices; give --devices N too"),
    ({"devices": 2, "shard": True, "weights": "nf4"}, "shard is counted of weights as they are, not of nf4"),
])  # fmt: skip
def test_what_cannot_be_shared_out_is_refused_in_a_sentence(given, words):
    with pytest.raises(BenchError, match=words):
        setting_for("tiny", StepShape(batch=8, length=16), **{"weights": "native", "device": "cpu"} | given)


def test_an_optimizer_without_shares_is_refused():
    form = StepShape(batch=8, length=16, optimizer="adafactor")
    with pytest.raises(BenchError, match="optimizer adafactor cannot update weights of which each device"):
        setting_for("tiny", form, weights="native", device="cpu", devices=2, shard=True)


def test_a_method_that_cannot_share_its_weights_is_refused_beside_one_that_can():
    setting = setting_for("tiny", StepShape(batch=8, length=16), weights="native", device="cpu", devices=2, shard=True)
    rows = predictions("tiny", ["lora", "vera"], setting)
    assert rows[0].flops is not None
    assert "stands in layer 1 and in layer 2" in rows[1].refused

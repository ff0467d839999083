"""The kit for a GPU: three suites, one command, and a table that says where memory was not counted right."""

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
import tomllib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import registry
from bench.count.attribution import Origin
from bench.count.count import count
from bench.count.predict import check_fit
from bench.count.step import TrainingStep, optimizer_groups, step_batch
from bench.errors import BenchError
from bench.models.head import TaskModel
from bench.models.objective import bare_for, make_objective
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from bench.store.store import read_run
from bench.training.loop import make_optimizer, optimizer_for
from methods import BUILTIN
from tests.factories.command import bench, module
from tests.factories.records import cost
from tools import gpu

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/gpu.md").read_text()
A100 = 85_000_000_000
"""Bytes of a GPU of 80 GB, as torch tells them."""
TINY = """
question = "Is the memory of a small step counted right?"
baseline = "full"
backbone = { name = "tiny", weights = "random" }
cost = [{ batch = 2, length = 8, blocks = 2, extra_seconds = 0.0, energy = false, inference = false }]
method = [{ name = "full" }, { name = "lst" }, { name = "head" }]

[[claim]]
name = "lst-never-enters-the-backbone"
says = "LST never enters the backbone's layers on the way back"
metric = "flops.backbone.backward"
method = "lst"
value = { max = 0 }
"""


# The suites


@pytest.mark.parametrize("name", gpu.SUITES)
def test_each_suite_measures_every_built_in_method_that_its_backbone_can_have(name):
    plan = make_plan(load_suite(name), name, "cuda")
    (probe,) = plan.probes
    check_fit(plan)  # each of them can be built
    assert probe.timed and not probe.inference and not probe.energy
    left_out = set(BUILTIN) - {spec.name for spec in probe.methods}
    assert left_out == (set() if "bert" in name else {"bitfit"})
    for method in left_out:
        with pytest.raises(BenchError, match="has no bias vectors to train"):
            check_fit(make_plan(select(load_suite(name), Selection(methods=("full", method))), name, "cuda"))


@pytest.mark.parametrize("name", gpu.SUITES)
def test_each_suite_bounds_the_time_of_the_ladder_s_backward(name):
    probe = gpu.planned(name)
    (bound,) = probe.bounds
    assert (bound.phase, bound.method, bound.versus, bound.bounds.max) == ("backward", "lst(reduction=8)", "full", 0.06)


@pytest.fixture(scope="module")
def sizes():
    """Full fine-tuning of each suite's backbone, counted."""
    found = {name: gpu.planned(name) for name in gpu.SUITES}
    return {name: (probe, gpu.size(probe)) for name, probe in found.items()}


def test_the_suites_take_twelve_minutes_as_the_page_estimates_them(sizes):
    minutes = [gpu.seconds(probe, found, A100) / 60 for probe, found in sizes.values()]
    assert sum(minutes) <= 12
    total, *parts = re.search(
        r"to take ([\d.]+) minutes on an A100 of 80 GB: ([\d.]+) for bert-base, ([\d.]+) for Llama-3.2-1B and ([\d.]+)",
        PAGE,
    ).groups()
    assert [f"{sum(minutes):.1f}", *(f"{each:.1f}" for each in minutes)] == [total, *parts]


def test_the_estimate_grows_with_what_there_is_to_do_and_where_memory_is_short(sizes):
    probe, found = sizes["cost-gpu-llama-3b"]
    asked = gpu.seconds(probe, found, A100)
    assert gpu.seconds(probe.model_copy(update={"blocks": 2 * probe.blocks}), found, A100) > asked + 20
    assert gpu.seconds(probe.model_copy(update={"methods": probe.methods[:4]}), found, A100) < asked / 2
    assert gpu.seconds(probe, found, 2 * A100) < asked - 20  # fewer groups, each with the baseline twice


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "houlsby_adapter", "dora"])
def test_no_other_method_has_more_work_than_the_estimate_allows_for(name, sizes):
    probe, full = sizes["cost-gpu-bert-base"]  # whose rows are the shortest, so that a prompt adds most
    setting = Setting(**probe.step(), device="cuda", outputs=probe.outputs)
    flops = count(probe.backbone, *registry.make(name, {}), setting).flops
    assert flops.forward + flops.backward <= gpu.OTHERS * full.flops


def test_the_page_names_the_memory_that_each_backbone_takes(sizes):
    bert, small, large = (f"{found.least / 1e9:.0f} GB" for _, found in sizes.values())
    assert f"takes {large} that way on Llama-3.2-3B, {small} on Llama-3.2-1B and {bert} on bert-base" in PAGE
    assert all(found.least <= gpu.USABLE * A100 for _, found in sizes.values())


# A device that is not the default


@pytest.fixture
def elsewhere(monkeypatch):
    """Let tensors without values stand for those of a GPU: an operation refuses to take them beside one on the CPU."""
    autocast, of_device, truth = torch.autocast, torch.is_autocast_enabled, torch.Tensor.__bool__
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *how, **more: nullcontext() if kind == "meta" else autocast(kind, *how, **more)
    )
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != ("meta",) and of_device(*kind))
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: tensor.is_meta or truth(tensor))


def trained_elsewhere(method, config, spec, dtype):
    """Take a step of ``method`` on another device than torch's default one; returns its model."""
    text = {"objective": "text", "loss": "target", "target_tokens": 4} if "llama" in spec.name else {}
    wide = {"adapter_dtype": "float32"} if dtype == "bfloat16" else {}
    setting = Setting(batch=2, length=8, dtype=dtype, **text, **wide)
    bare = bare_for(spec, setting, device="meta")
    origin, body = Origin(bare), method.apply(bare, config)
    model = TaskModel(body, make_objective(bare, setting).to("meta")).train()
    if wide and method.takes_float32:
        method.widen(body, [p for p in body.parameters() if p.requires_grad and p not in origin.parameters])
    make = partial(make_optimizer, form="adamw_foreach")  # the fused form has no kernel for tensors without values
    optimizer = optimizer_for(method, body, optimizer_groups(model, method), make=make, notes=[])
    batch = step_batch(bare.config, setting, device="meta")
    step = TrainingStep(method, config, model, origin, optimizer, batch, False, (), None, False)
    step.backward(step.forward())
    step.optimize()
    return model


BACKBONES = [("tiny", None), ("llama-3.2-1b", 2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("backbone", "layers"), BACKBONES, ids=["bert", "llama"])
@pytest.mark.parametrize("name", BUILTIN)
def test_a_step_leaves_no_tensor_of_a_method_on_the_cpu(name, backbone, layers, dtype, elsewhere):
    if (name, layers) == ("bitfit", 2):
        pytest.skip("Llama has no biases to train")
    spec = BackboneSpec(name=backbone, weights="random", layers=layers)
    model = trained_elsewhere(*registry.make(name, {}), spec, dtype)
    assert {held.device.type for held in (*model.parameters(), *model.buffers())} == {"meta"}


def test_a_method_that_forgets_the_device_is_found(elsewhere):
    class Forgetful(registry.load_method("lora")):
        def apply(self, backbone, config):
            body = super().apply(backbone, config)
            body.get_submodule("encoder.layer.0.attention.self.query").register_forward_hook(
                lambda module, inputs, output: output + torch.zeros(2, 8, 64)
            )
            return body

    spec = BackboneSpec(name="tiny", weights="random")
    with pytest.raises(RuntimeError, match=r"same device|device meta|not on the expected device"):
        trained_elsewhere(Forgetful(), registry.make("lora", {})[1], spec, "float32")


# The table


def one(label, counted, measured, **changes):
    """The record of a method on a GPU, with the peaks of its step."""
    peaks = {
        name: dict.fromkeys(("forward", "backward", "optimizer", "step"), value)
        for name, value in (("predicted_peak_memory_bytes", counted), ("peak_memory_bytes", measured))
    }
    return cost(label, peak_memory_source="cuda_allocated", **peaks, **changes)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (one("full", 1000, 1000), "| 1.000 | yes |"),
        (one("full", 1029, 1000), "| 1.029 | yes |"),
        (one("full", 971, 1000), "| 0.971 | yes |"),
        (one("full", 1031, 1000), "| 1.031 | no |"),
        (one("full", 969, 1000), "| 0.969 | no |"),
        (one("full", 1000, 1000, status="oom", reason="no room"), "| 1.000 | oom: no room |"),
        (one("full", 1000, 1000).model_copy(update={"peak_memory_source": "tracker"}),
         "| 1.000 | not measured on a GPU |"),
        (one("full", 1, 1000).model_copy(update={"predicted_peak_memory_bytes": None}), "| - | not counted |"),
    ],
)  # fmt: skip
def test_a_row_says_whether_the_peak_was_counted_within_three_percent(record, says):
    (row,) = gpu.rows(SimpleNamespace(labels=["full"], cost_records=[record]))
    assert str(row).startswith("| `full` | ") and str(row).endswith(says)
    assert row.near is says.endswith("yes |")


def test_a_method_of_the_suite_without_a_record_is_named():
    found = gpu.rows(SimpleNamespace(labels=["full", "head"], cost_records=[one("full", 10, 10)]))
    assert [(row.method, row.near, row.why) for row in found] == [("full", True, ""), ("head", False, "no record")]


# The command, on a small backbone and a CPU in place of a GPU


RUN = gpu.run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The folder that the command is given; its suites are two small ones, its runs take place in this process."""
    paths = [tmp_path / "suites" / f"{name}.toml" for name in ("first", "second")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(TINY)
    monkeypatch.setattr(gpu, "SUITES", tuple(map(str, paths)))
    monkeypatch.setattr(gpu, "gpu_memory", lambda: A100)
    ran = []
    monkeypatch.setattr(gpu, "run", lambda name, folder: ran.append(folder) or 0)
    return SimpleNamespace(out=tmp_path / "gpu", ran=ran)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of the small suite, on the CPU."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "first.toml").write_text(TINY)
    bench("run", "--suite", folder / "first.toml", "--out", folder / "run")
    return folder / "run"


def as_on_a_gpu(folder, out, **peaks):
    """A copy of a run whose records name a GPU, its peaks the counted ones times ``peaks``, by label."""
    shutil.copytree(folder, out)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    for record in records:
        factor = peaks.get(record["method"]["label"], 1.0)
        record["peak_memory_source"] = "cuda_allocated"
        record["peak_memory_bytes"] = {k: int(factor * v) for k, v in record["peak_memory_bytes"].items()}
        record["shape"]["device"] = "NVIDIA H100"
    (out / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return out


def test_the_command_runs_every_suite_in_a_folder_of_its_own_and_says_what_was_no_gpu(small, monkeypatch, capsys):
    def run(name, folder):
        bench("run", "--suite", name, "--out", folder)
        return 0

    monkeypatch.setattr(gpu, "run", run)
    assert gpu.main([str(small.out)]) == 1
    said = capsys.readouterr().out
    assert re.findall(r"^## (\w+)$", said, flags=re.MULTILINE) == ["first", "second"]
    assert said.count("not measured on a GPU |") == 6 and said.count("0 of 3 methods within 3 %.") == 2
    assert said.count(": about 1 minute, estimated") == 2
    assert len(read_run(small.out / "second").records) == 3


def test_what_a_gpu_has_measured_is_named_with_it_and_meets_the_targets(measured, small, capsys):
    as_on_a_gpu(measured, small.out / "first", full=1.01)
    assert gpu.main([str(small.out), "--read"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^tiny, 2 x 8 tokens, .*, NVIDIA H100; torch 2\..*; 0\.\d minutes\.$", said, flags=re.MULTILINE)
    assert "3 of 3 methods within 3 %." in said
    assert said.endswith("second: not measured\n")
    assert "- pass: LST never enters the backbone's layers on the way back: 0" in said
    assert small.ran == []


def test_one_peak_that_was_counted_wrong_fails_the_command(measured, small, capsys):
    as_on_a_gpu(measured, small.out / "first")
    as_on_a_gpu(measured, small.out / "second", lst=1.05)
    assert gpu.main([str(small.out), "--read"]) == 1
    assert "2 of 3 methods within 3 %." in capsys.readouterr().out


def test_one_claim_that_does_not_hold_fails_the_command(measured, small, capsys):
    folder = as_on_a_gpu(measured, small.out / "first")
    suite = (folder / "suite.toml").read_text()
    assert "flops.backbone.backward" in suite
    (folder / "suite.toml").write_text(suite.replace("flops.backbone.backward", "flops.backward"))
    assert gpu.main([str(small.out), "--read"]) == 1
    assert "- fail: LST never enters" in capsys.readouterr().out


def test_a_backbone_that_does_not_fit_is_left_out_with_a_line(small, monkeypatch, capsys):
    least = gpu.size(gpu.planned(gpu.SUITES[0])).least
    monkeypatch.setattr(gpu, "gpu_memory", lambda: least)
    assert gpu.main([str(small.out)]) == 1
    said = capsys.readouterr().out
    assert said.count(" is left out: timing full fine-tuning beside its A/A control") == 2
    assert "holds none of these runs" in said and small.ran == []
    monkeypatch.setattr(gpu, "gpu_memory", lambda: int(least / gpu.USABLE) + 1)
    gpu.main([str(small.out)])
    assert small.ran == [small.out / "first", small.out / "second"]


def test_without_a_gpu_it_says_so_and_runs_nothing(small, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_memory", lambda: None)
    assert gpu.main([str(small.out)]) == 2
    assert capsys.readouterr().err.startswith("no GPU: torch finds none here")
    assert small.ran == []


def test_a_run_that_is_refused_or_interrupted_ends_the_command(small, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "run", lambda name, folder: small.ran.append(folder) or 130)
    assert gpu.main([str(small.out)]) == 130
    assert len(small.ran) == 1

    def interrupted(name, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "run", interrupted)
    assert gpu.main([str(small.out)]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_sigterm_ends_the_run_in_order_before_the_command(small, monkeypatch, tmp_path):
    program = "import signal, sys, time; from pathlib import Path; "
    program += "signal.signal(signal.SIGTERM, lambda *_: (Path('ended').touch(), sys.exit(143))); "
    program += "Path('began').touch(); time.sleep(60)"
    (tmp_path / "bench.py").write_text(program)  # in the place of the command
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "run", RUN)

    def stop():
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    try:
        assert gpu.main([str(small.out)]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "ended").exists()


# The page


def documented():
    """Commands of the page, without their comments."""
    blocks = re.findall(r"^```\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [line.partition("  #")[0] for block in blocks for line in block.splitlines()]


def test_every_command_of_the_page_runs(measured, small, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    install, measures, reads, publishes, docs = documented()
    extra = re.search(r"'\.\[(\w+)\]'", install)[1]
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    given = "results/runs/gpu"
    assert gpu.main([str(small.out), *shlex.split(measures)[4:]]) == 1 and small.ran  # nothing ran in its place
    as_on_a_gpu(measured, small.out / "cost-gpu-bert-base")
    read = module(*shlex.split(reads.replace(given, str(small.out))))
    assert "3 of 3 methods within 3 %." in read
    published = str(small.out / "published")
    line = publishes.replace(given, str(small.out)).replace("results/published/gpu-bert-base", published)
    assert line != publishes
    assert "3 records" in module(*shlex.split(line))
    assert docs == "python -m tools.docs"  # of which every generated part is held to be current


def test_the_tests_that_the_page_names_are_marked():
    (path,) = re.findall(r"`python -m pytest -m gpu (\S+)`", PAGE)
    assert re.search(r"^@pytest\.mark\.gpu$", (ROOT / path).read_text(), flags=re.MULTILINE)


@pytest.mark.gpu
def test_a_gpu_measures_what_was_counted_for_it(tmp_path, monkeypatch):
    path = tmp_path / "first.toml"
    path.write_text(TINY)
    monkeypatch.setattr(gpu, "SUITES", (str(path),))
    gpu.main([str(tmp_path / "gpu")])
    for record in read_run(tmp_path / "gpu/first").records:
        assert record.status == "ok", record.reason
        assert record.peak_memory_source == "cuda_allocated" and record.shape.device != "cpu"
        counted, measured = record.predicted_peak_memory_bytes.step, record.peak_memory_bytes.step
        assert abs(counted - measured) < 2**21  # of a small step the workspaces of cuBLAS are nearly all

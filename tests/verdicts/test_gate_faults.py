"""A fault in a method's code, seeded one at a time, stops the gate with a sentence: figure, method, before and after.

Each faulty class stands in the registry under the sound one's name, is counted as ``run --suite smoke --counts`` does,
and its run is gated against the reference of the sound methods. What no count shows stands at the end.
"""

import contextlib
import dataclasses
import functools
import io
import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench import registry
from bench.__main__ import main
from bench.anatomy import anatomy
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.store.store import open_store
from bench.timing.probe import run_probe
from methods import BUILTIN
from methods.adapter import PfeifferAdapter
from methods.bitfit import BitFit
from methods.full import HeadOnly
from methods.ia3 import IA3
from methods.lora import LoRA, LoRAInitConfig
from methods.low_rank import LowRank
from methods.lst import LadderSideTuning
from methods.prefix import PrefixTuning
from tests.factories.cost_steps import here

LABELS = {
    "lora": "lora(rank=8)", "pfeiffer_adapter": "pfeiffer_adapter", "prefix_tuning": "prefix_tuning",
    "bitfit": "bitfit", "ia3": "ia3", "lst": "lst(reduction=8)", "head": "head",
}  # fmt: skip


def resized(method, **changes):
    """``method`` with other sizes than its configuration asks for."""

    class Resized(method):
        def apply(self, backbone, config):
            return super().apply(backbone, dataclasses.replace(config, **changes))

    return Resized


def branch(layer):
    """LoRA whose low-rank layers are of class ``layer``."""

    class Branched(LoRA):
        def apply(self, backbone, config):
            adapted = super().apply(backbone, config)
            for module in adapted.modules():
                if isinstance(module, LowRank):
                    module.__class__ = layer
            return adapted

    return Branched


class SavesOnes(LowRank):
    def forward(self, x):
        y = super().forward(x)
        return y * torch.ones_like(y)


class KeepsItsOutput(LowRank):
    def forward(self, x):
        y = super().forward(x)
        self.kept = y.detach().clone()
        return y


class MultipliesTwice(LowRank):
    def forward(self, x):
        self.base(x)
        return super().forward(x)


class DropsAlways(LowRank):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.1, training=True))


class ComputesInDouble(LowRank):
    def forward(self, x):
        return super().forward(x).double().cos().to(x.dtype)


class CopiesWhenDeployed(LowRank):
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else y.clone()


class Leaks(LoRA):
    def apply(self, backbone, config):
        adapted = super().apply(backbone, config)
        adapted.embeddings.LayerNorm.bias.requires_grad_(True)
        return adapted


class NeedsInputGradients(LoRA):
    def apply(self, backbone, config):
        backbone.enable_input_require_grads()
        return super().apply(backbone, config)


class TrainsFrozenWeights(LoRA):
    def param_groups(self, module, lr):
        module.encoder.layer[0].output.dense.weight.requires_grad_(True)
        return super().param_groups(module, lr)


class GivesFrozenWeights(LoRA):
    def param_groups(self, module, lr):
        return [{"params": list(module.parameters()), "lr": lr}]


class LeavesAModule(LoRA):
    def merge(self, module):
        merged = super().merge(module)
        merged.left_behind = nn.Identity()
        return merged


class LeavesAnOperation(LoRA):
    def merge(self, module):
        merged = super().merge(module)
        merged.embeddings.register_forward_hook(lambda module, inputs, output: output + 0)
        return merged


class MergesTwofold(LoRA):
    def merge(self, module):
        layers = [layer for layer in module.modules() if isinstance(layer, LowRank)]
        for layer in layers:
            layer.scale *= 2
        merged = super().merge(module)
        for layer in layers:
            layer.scale /= 2
        return merged


class CannotMergeAnyMore(IA3):
    def merge(self, module):
        return None


class StoresEverything(LoRA):
    def delta(self, module):
        return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


class StoresHalf(LoRA):
    def delta(self, module):
        return {name: tensor for name, tensor in super().delta(module).items() if ".A." in name}


class StoresInDouble(LoRA):
    def delta(self, module):
        return {name: tensor.double() for name, tensor in super().delta(module).items()}


class EntersTheBackbone(LadderSideTuning):
    def apply(self, backbone, config):
        backbone.enable_input_require_grads()
        ladder = super().apply(backbone, config)
        ladder.register_forward_hook(self._add, with_kwargs=True)
        return ladder

    @staticmethod
    def _add(ladder, inputs, keywords, output):
        output.last_hidden_state = output.last_hidden_state + ladder.backbone(*inputs, **keywords).last_hidden_state
        return output


class BringsAHead(HeadOnly):
    def apply(self, backbone, config):
        adapted = super().apply(backbone, config)
        adapted.classifier = nn.Linear(anatomy(backbone).hidden, 2, device=next(backbone.parameters()).device)
        adapted.register_forward_hook(classified)
        return adapted


def classified(adapted, args, output):
    logits = adapted.classifier(output.last_hidden_state)
    output.last_hidden_state = output.last_hidden_state + logits.mean(-1, keepdim=True)


class TrainsNorms(BitFit):
    def apply(self, backbone, config):
        adapted = super().apply(backbone, config)
        adapted.embeddings.LayerNorm.weight.requires_grad_(True)
        return adapted


class CarriesABuffer(IA3):
    def apply(self, backbone, config):
        adapted = super().apply(backbone, config)
        adapted.register_buffer("table", torch.zeros(100, device=next(backbone.parameters()).device))
        return adapted


class Louder(LoRA):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(LoRAInitConfig):
        alpha: float = 32


class Elsewhere(LoRA):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(LoRAInitConfig):
        targets: tuple[str, ...] = ("key", "value")


class Raises(LoRA):
    def apply(self, backbone, config):
        raise ValueError("this method is broken")


TRAINED, DELTA = "trainable_parameters.method", "delta_bytes"
INPUT_GRADIENT = "flops.backbone.backward_input_gradient"
FAULTS = {
    "another rank": ("lora", resized(LoRA, rank=16), TRAINED),
    "a target more": ("lora", resized(LoRA, targets=("query", "value", "key")), TRAINED),
    "a wider target": ("lora", resized(LoRA, targets=("query", "ffn_in")), "flops.method.forward"),
    "another bottleneck": ("pfeiffer_adapter", resized(PfeifferAdapter, bottleneck=49), TRAINED),
    "a longer prefix": ("prefix_tuning", resized(PrefixTuning, length=21), "flops.backbone.forward"),
    "a wider ladder": ("lst", resized(LadderSideTuning, reduction=4), "flops.method.backward"),
    "another default alpha": ("lora", Louder, "config.alpha"),
    "other default targets of the same size": ("lora", Elsewhere, "config.targets"),
    "a leaked requires_grad": ("lora", Leaks, TRAINED),
    "norms that train too": ("bitfit", TrainsNorms, "bytes.gradients"),
    "a head that counts as the method's": ("head", BringsAHead, TRAINED),
    "an extra saved tensor": ("lora", branch(SavesOnes), "bytes.saved_activations"),
    "an activation kept alive": ("lora", branch(KeepsItsOutput), "predicted_peak_memory_bytes.step"),
    "a product computed twice": ("lora", branch(MultipliesTwice), "flops.backbone.forward"),
    "dropout left on": ("lora", branch(DropsAlways), "bytes.saved_activations"),
    "a float64 copy": ("lora", branch(ComputesInDouble), "bytes.saved_activations"),
    "a copy that inference alone makes": ("lora", branch(CopiesWhenDeployed), "inference.unmerged.operations"),
    "a buffer more": ("ia3", CarriesABuffer, "bytes.weights"),
    "a backward that reaches the embeddings": ("lora", NeedsInputGradients, INPUT_GRADIENT),
    "a ladder that enters the backbone": ("lst", EntersTheBackbone, INPUT_GRADIENT),
    "optimizer state of a frozen weight": ("lora", TrainsFrozenWeights, "bytes.optimizer_state"),
    "a merge that leaves a module behind": ("lora", LeavesAModule, "merged_equals_base.modules"),
    "a merge that leaves an operation behind": ("lora", LeavesAnOperation, "merged_equals_base.op_trace"),
    "a merge that is off by a factor": ("lora", MergesTwofold, "merge_error.float32"),
    "a delta of everything": ("lora", StoresEverything, DELTA),
    "a delta of one half": ("lora", StoresHalf, DELTA),
    "a delta of twice the width": ("lora", StoresInDouble, DELTA),
}
"""Fault: method, its faulty class, the figure that shows it first."""


def counted(name, method=None):
    """The record of smoke's method ``name`` counted alone in a fork, or here with class ``method`` in its place."""
    where = contextlib.nullcontext() if method is None else here()
    own = mock.patch.multiple(
        registry, ours=lambda method: True, built_in=lambda method: True
    )  # faults of our own code
    place = {} if method is None else {name: f"{__name__}:planted"}
    with mock.patch.dict(BUILTIN, place), mock.patch.dict(globals(), planted=method), own:
        suite = select(load_suite("smoke"), Selection(methods=(LABELS[name],), counts=True))
        (probe,) = make_plan(suite, "smoke", "cpu").probes
        alone = tuple(spec for spec in probe.methods if spec.name == name)
        with where:
            # one thread: what a fork and this process can both have, whatever ran here before
            (record,) = run_probe(probe.model_copy(update={"methods": alone, "threads": 1}))
    return record


@functools.cache
def resolved_suite():
    """Smoke with the methods of this file, as a run folder keeps it."""
    suite = select(load_suite("smoke"), Selection(methods=tuple(LABELS.values()), counts=True))
    return make_plan(suite, "smoke", "cpu").suite.changed(methods=list(LABELS.values()))  # none of them is the baseline


def stored(folder, records):
    with open_store(folder, resolved_suite()) as store:
        for record in records:
            store.append(record)
    return folder


def bench(*arguments):
    """Exit code and screen of ``python -m bench``, in this process."""
    screen = io.StringIO()
    with mock.patch("sys.argv", ["bench", *map(str, arguments)]), contextlib.redirect_stdout(screen):
        with contextlib.redirect_stderr(screen), pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code or 0, screen.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Records of the sound methods by name, and their reference."""
    with here():
        records = {name: counted(name) for name in LABELS}  # a test counts one of them in a fork again
    folder = stored(tmp_path_factory.mktemp("sound"), records.values())
    code, shown = bench("reference", folder, "-o", folder / "reference.json")
    assert code == 0, shown
    return records, folder / "reference.json"


def gated(sound, name, record, folder):
    """Exit code and findings of the gate on the sound run with one record of another code."""
    records, reference = sound
    stored(folder, (records | {name: record}).values())
    code, shown = bench("gate", folder, "--reference", reference)
    return code, [line for line in shown.splitlines() if line.startswith(("fail", "error")) and " against " not in line]


def figure(record, name):
    """A figure of a record by its dotted name, as a finding writes it."""
    values = record.model_dump() | {"config": record.method.config}
    for part in name.split("."):
        values = values[part]
    return f"{values:.1e}" if isinstance(values, float) and "error" in name else (
        f"{values:,}" if type(values) is int else str(values)
    )  # fmt: skip


def test_the_sound_methods_counted_again_pass(sound, tmp_path):
    assert gated(sound, "lora", counted("lora"), tmp_path) == (0, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_code_stops_the_gate_which_names_it(sound, fault, tmp_path):
    name, method, named = FAULTS[fault]
    record = counted(name, method)
    assert record.status == "ok", record.traceback
    code, findings = gated(sound, name, record, tmp_path)
    assert code == 1
    assert all(re.match(rf"fail +{re.escape(LABELS[name])}: ", line) for line in findings), findings
    before, after = figure(sound[0][name], named), figure(record, named)
    assert before != after
    assert any(f" {named} was {before}, is {after}" in line for line in findings), findings


@pytest.mark.parametrize(
    ("method", "reason"), [(Raises, "this method is broken"), (GivesFrozenWeights, "param_groups")]
)
def test_a_method_that_ends_without_counts_stops_the_gate_with_its_reason(sound, method, reason, tmp_path):
    record = counted("lora", method)
    code, findings = gated(sound, "lora", record, tmp_path)
    assert code == 1
    assert any("lora(rank=8) ended failed: " in line and reason in line for line in findings), findings
    assert any("lora(rank=8): the run has no costs of it, the reference has" in line for line in findings)


def test_a_merge_that_is_given_up_stops_the_gate(sound, tmp_path):
    code, findings = gated(sound, "ia3", counted("ia3", CannotMergeAnyMore), tmp_path)
    assert code == 1
    assert any("ia3: merged_equals_base.modules is missing in the run, True in the reference" in f for f in findings)
    assert any("ia3: merge_error.float32 is missing in the run, " in f for f in findings)
    assert any("ia3: inference.merged.depth is missing in the run, " in f for f in findings)


@pytest.mark.parametrize("changes", [{"alpha": 32.0}, {"targets": ("key", "value")}], ids=str)
def test_another_function_of_the_same_size_under_the_same_settings_is_left_to_the_scores(sound, changes, tmp_path):
    assert gated(sound, "lora", counted("lora", resized(LoRA, **changes)), tmp_path) == (0, [])

"""What a third party's method says of itself is held against what its module does, on every path that counts it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench import registry
from bench.count.count import count
from bench.errors import BenchError
from bench.method import Method, MethodConfig, clone
from bench.schema.jobs import BackboneSpec, MethodSpec
from bench.schema.shape import Setting
from bench.timing.probe import run_probe
from bench.training.cell import run_cell
from tests.factories.faulty_plugin import GatedScale
from tests.timing.test_probe import probe
from tests.training.test_cell import cells


class Gated(Method):
    """Scales the last hidden state by one number; folds it into the last norm."""

    def apply(self, backbone: nn.Module, config: MethodConfig) -> nn.Module:
        return GatedScale(backbone).to(next(backbone.parameters()).device)

    def merge(self, module: Any) -> nn.Module:
        with torch.no_grad():
            merged = clone(module.backbone)
            norm = merged.encoder.layer[-1].output.LayerNorm
            norm.weight *= module.scale
            norm.bias *= module.scale
        return merged


def with_(**hooks: Any) -> type[Method]:
    return type("Lies", (Gated,), hooks)


def merged_in_place(self: Method, module: Any) -> nn.Module:
    module.scale.data.mul_(2)
    return Gated.merge(self, module)


STORES_NOTHING = "1 parameters of it train, but delta() of what finalize() returns stores 0 bytes"
EMPTY = {
    "delta": with_(delta=lambda self, module: {}),
    "finalize": with_(finalize=lambda self, module: module.backbone),
}
DEPLOYED: dict[str, tuple[type[Method], str]] = {
    "finalize": (
        with_(finalize=lambda self, module: GatedScale(module.backbone)),
        "what finalize() returns does not compute what the trained module computes",
    ),
    "delta": (
        with_(delta=lambda self, module: {"scale": torch.ones(())}),
        "load_delta() puts the stored delta onto a fresh backbone, and what comes out does not compute",
    ),
    "load_delta": (
        with_(load_delta=lambda self, backbone, config, delta: self.apply(backbone, config)),
        "load_delta() puts the stored delta onto a fresh backbone, and what comes out does not compute",
    ),
    "merge": (
        with_(merge=lambda self, module: clone(module.backbone)),
        "what merge() returns does not compute what the trained module computes",
    ),
    "merge in place": (with_(merge=merged_in_place), "merge() changes the module that it is given"),
}
SOUND = {
    "all": Gated,
    "no merge": with_(merge=lambda self, module: None),
    "merge gives itself": with_(merge=lambda self, module: module),
    "delta in half": with_(delta=lambda self, module: {"scale": module.scale.detach().half()}),
    "delta in bfloat16": with_(delta=lambda self, module: {"scale": module.scale.detach().bfloat16()}),
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Method]], str]:
    """Makes a class the method ``third/party``."""
    load = registry.load_method

    def install(kind: type[Method]) -> str:
        monkeypatch.setattr(registry, "load_method", lambda name, *a: kind if name == "third/party" else load(name, *a))
        return "third/party"

    return install


def counted(name: str) -> Any:
    (record,) = run_probe(probe(name, baseline=name, latency_batches=(1,), timed=False))
    return record


def trained(name: str, **recipe: Any) -> Any:
    (cell,) = cells(**recipe)
    spec = MethodSpec(label=name, name=name, config={}, source_sha256="")
    return run_cell(cell.model_copy(update={"method": spec}))[0]


@pytest.mark.parametrize("name", EMPTY)
def test_a_method_that_trains_and_stores_nothing_is_refused_everywhere(name: str, installed: Any) -> None:
    with pytest.raises(BenchError, match=re.escape(STORES_NOTHING)):
        count(BackboneSpec(name="tiny", weights="random"), EMPTY[name](), MethodConfig(), Setting(batch=2, length=8))
    plugin = installed(EMPTY[name])
    assert STORES_NOTHING in (counted(plugin).reason or "")
    record = trained(plugin)
    assert (record.status, record.score) == ("failed", None)
    assert STORES_NOTHING in (record.reason or "")


@pytest.mark.parametrize("name", DEPLOYED)
def test_what_is_stored_or_merged_computes_what_was_trained(name: str, installed: Any) -> None:
    kind, words = DEPLOYED[name]
    record = counted(installed(kind))
    assert record.status == "failed"
    assert words in (record.reason or "")
    assert record.merged_equals_base is None


SHAPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pooled": lambda hidden: hidden.mean(1, keepdim=True),
    "pooled whole": lambda hidden: hidden.mean(1),
    "longer": lambda hidden: torch.cat([hidden, hidden], 1),
    "wider": lambda hidden: torch.cat([hidden, hidden], -1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_states_of_another_shape_are_refused_everywhere(name: str, installed: Any) -> None:
    class Reshaped(GatedScale):
        def forward(self, **inputs: Any) -> Any:
            output = super().forward(**inputs)
            output.last_hidden_state = SHAPES[name](output.last_hidden_state)
            return output

    kind = with_(apply=lambda self, backbone, config: Reshaped(backbone).to(next(backbone.parameters()).device))
    words = "the module of a method gives an output whose last_hidden_state is [B, T, d]; this one gives ["
    with pytest.raises(BenchError, match=re.escape(words)):
        count(BackboneSpec(name="tiny", weights="random"), kind(), MethodConfig(), Setting(batch=2, length=8))
    plugin = installed(kind)
    for record in (counted(plugin), trained(plugin)):
        assert record.status == "failed"
        assert words in (record.reason or "")


def test_a_module_that_gives_a_tuple_is_refused(installed: Any) -> None:
    class Bare(GatedScale):
        def forward(self, **inputs: Any) -> Any:
            return (super().forward(**inputs).last_hidden_state,)

    record = trained(installed(with_(apply=lambda self, backbone, config: Bare(backbone))))
    assert "[B, T, d]; this one gives tuple, which has none" in (record.reason or "")


@pytest.mark.parametrize("name", ["finalize", "delta", "load_delta"])
def test_what_a_cell_stores_computes_what_was_trained(name: str, installed: Any) -> None:
    kind, words = DEPLOYED[name]
    record = trained(installed(kind))
    assert record.status == "failed"
    assert words in (record.reason or "")


@pytest.mark.parametrize("name", SOUND)
def test_a_method_that_keeps_its_word_passes(name: str, installed: Any) -> None:
    plugin = installed(SOUND[name])
    record = counted(plugin)
    assert record.status == "ok", record.traceback
    record = trained(plugin)
    assert record.status == "ok", record.traceback

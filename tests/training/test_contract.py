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
from methods.peft import Peft
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


def changing_delta(self: Method, module: Any) -> dict[str, torch.Tensor]:
    """Other names for the trained module than for a fresh one."""
    fresh = not module.scale.is_meta and float(module.scale) == 1
    return {"b" if fresh else "a": module.scale.detach()}


SETTING = Setting(batch=2, length=8)
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
    "delta of what load_delta does not know": (
        with_(delta=lambda self, module: {"scale": module.scale.detach(), "more": torch.ones(3)}),
        "load_delta() cannot put what delta() stores onto a fresh backbone (KeyError: 'more'); let them agree",
    ),
    "a load_delta that refuses": (
        with_(delta=changing_delta),
        "load_delta() cannot put what delta() stores onto a fresh backbone (delta lacks 'b' (1 missing); it was",
    ),
    "load_delta of none": (
        with_(load_delta=lambda self, backbone, config, delta: None),
        "load_delta() of the method gives None; let it return",
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


def unfrozen(self: Method, module: Any, step: int, total: int) -> None:
    module.backbone.requires_grad_(step >= 2)


def frozen(self: Method, module: Any, step: int, total: int) -> None:
    module.scale.requires_grad_(step < 2)


def written(self: Method, module: Any, step: int, total: int) -> None:
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


def one_number(self: Method, module: Any, step: int, total: int) -> None:
    with torch.no_grad():
        module.backbone.encoder.layer[1].output.dense.bias[3] += 1e-6


def halved(self: Method, backbone: nn.Module, config: MethodConfig) -> nn.Module:
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(0.5)
    return Gated.apply(self, backbone, config)


def tripled(self: Method, backbone: nn.Module, config: MethodConfig) -> nn.Module:
    body = Gated.apply(self, backbone, config)
    body.scale.data.fill_(3.0)
    return body


START = "identity_at_init of the method promises the backbone's outputs at the start, and the last hidden state differs"


def through_data(self: Method, module: Any, step: int, total: int) -> None:
    if step == 3:
        next(module.backbone.parameters()).data.mul_(1.5)


def another_storage(self: Method, module: Any, step: int, total: int) -> None:
    weight = next(module.backbone.parameters())
    weight.data = weight.data.clone() * 2


def another_parameter(self: Method, module: Any, step: int, total: int) -> None:
    norm = module.backbone.embeddings.LayerNorm
    norm.weight = nn.Parameter(2 * norm.weight.detach(), requires_grad=False)


def swapped(self: Method, module: Any, step: int, total: int) -> None:
    """Two rows change places: their sum stays."""
    weight = module.backbone.embeddings.word_embeddings.weight.data
    weight[:2] = weight[:2].flip(0).clone()


class Writing(torch.optim.AdamW):
    """Moves a weight that it holds beside those that train."""

    beside: Any = None

    def step(self, closure: Any = None) -> Any:
        self.beside.data.add_(0.01)
        return super().step(closure)


def writing(self: Method, module: Any, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    own = Writing(groups)
    own.beside = next(module.backbone.parameters())
    return own


class WritingForward(GatedScale):
    """Moves a frozen weight in every forward that trains."""

    def forward(self, **inputs: Any) -> Any:
        if self.training:
            next(self.backbone.parameters()).data.mul_(0.99)
        return super().forward(**inputs)


def forwarding(self: Method, backbone: nn.Module, config: MethodConfig) -> nn.Module:
    return WritingForward(backbone).to(next(backbone.parameters()).device)


def copied(self: Method, backbone: nn.Module, config: MethodConfig) -> nn.Module:
    return Gated.apply(self, clone(backbone), config)


BACKBONE: dict[str, tuple[type[Method], str]] = {
    "unfreezes": (with_(after_step=unfrozen), "' is set to train since a hook ran during training"),
    "freezes": (with_(after_step=frozen), "parameter 'scale' is frozen since a hook ran during training"),
    "writes": (with_(after_step=written), "of the backbone changed during training"),
    "writes one number": (
        with_(after_step=one_number),
        "frozen weight 'encoder.layer.1.output.dense.bias' of the backbone changed during training",
    ),
    "writes through .data": (with_(after_step=through_data), "of the backbone changed during training"),
    "gives a weight another storage": (with_(after_step=another_storage), "of the backbone changed during training"),
    "puts another parameter": (
        with_(after_step=another_parameter),
        "frozen weight 'embeddings.LayerNorm.weight' of the backbone changed during training",
    ),
    "swaps rows": (
        with_(after_step=swapped),
        "frozen weight 'embeddings.word_embeddings.weight' of the backbone changed during training",
    ),
    "writes in the optimizer": (with_(optimizer=writing), "of the backbone changed during training"),
    "writes in forward": (with_(apply=forwarding), "of the backbone changed during training"),
    "writes into a copy": (with_(apply=copied, after_step=written), "of the backbone changed during training"),
    "halves the weights": (with_(apply=halved), START),
    "starts at 3": (with_(apply=tripled), START),
}


IN_TYPES = [
    *((name, "float32") for name in BACKBONE),
    *((name, "bfloat16_autocast") for name in ("unfreezes", "writes one number", "swaps rows", "halves the weights")),
]


@pytest.mark.parametrize(("name", "dtype"), IN_TYPES)
def test_what_a_method_does_to_the_frozen_backbone_is_named(name: str, dtype: str, installed: Any) -> None:
    kind, words = BACKBONE[name]
    record = trained(installed(kind), dtype=dtype)
    assert record.status == "failed"
    assert words in (record.reason or "")


HOOKS = {
    "unfreezes": "is set to train since after_step() ran",
    "freezes": "is frozen since after_step() ran",
    "writes": ": after_step() of the method writes",
    "writes one number": ": after_step() of the method writes",
    "writes through .data": ": after_step() of the method writes",
    "swaps rows": ": after_step() of the method writes",
    "writes in the optimizer": ": the optimizer of the method writes",
    "writes in forward": ": a forward or backward pass of the method writes",
    "writes into a copy": ": after_step() of the method writes",
}
UNSEEN = {"halves the weights", "starts at 3"}
"""Starts that only values tell."""


@pytest.mark.parametrize(("name", "dtype"), IN_TYPES)
def test_no_cost_of_a_method_that_changes_the_frozen_backbone(name: str, dtype: Any, installed: Any) -> None:
    kind, words = BACKBONE[name]
    (record,) = run_probe(
        probe(plugin := installed(kind), baseline=plugin, latency_batches=(1,), timed=False, dtype=dtype)
    )
    assert (record.status, record.flops) == ("failed", None)
    assert words in (record.reason or "") or "since after_step() ran during training" in (record.reason or "")
    assert HOOKS.get(name, "") in (record.reason or "")


@pytest.mark.parametrize("name", sorted(BACKBONE.keys() - UNSEEN))
def test_without_values_the_same_is_seen(name: str) -> None:
    kind, _ = BACKBONE[name]
    with pytest.raises(BenchError, match=re.escape(HOOKS.get(name, "of the backbone changed during training"))):
        count(BackboneSpec(name="tiny", weights="random"), kind(), MethodConfig(), Setting(batch=2, length=8))


def test_without_values_a_start_that_writes_is_noted() -> None:
    found = count(BackboneSpec(name="tiny", weights="random"), with_(apply=halved)(), MethodConfig(), SETTING)
    assert any(note.startswith("apply() writes into frozen weights of the backbone: ") for note in found.notes)
    assert not count(BackboneSpec(name="tiny", weights="random"), Gated(), MethodConfig(), SETTING).notes


@pytest.mark.parametrize("name", ["swaps rows", "halves the weights"])
def test_no_times_of_a_method_that_changes_the_frozen_backbone(name: str, installed: Any) -> None:
    kind, words = BACKBONE[name]
    found = {r.method.name: r for r in run_probe(probe("full", installed(kind), latency_batches=(), blocks=2))}
    other, record = found["full"], found["third/party"]
    assert (other.status, record.status, record.step_seconds) == ("ok", "failed", None)
    assert words in (record.reason or "")


def test_a_merge_that_computes_something_else_ends_a_cell(installed: Any) -> None:
    for name in ("merge", "merge in place"):
        kind, words = DEPLOYED[name]
        record = trained(installed(kind))
        assert (record.status, record.score) == ("failed", None)
        assert words in (record.reason or "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16_autocast"])
def test_a_bridged_method_is_held_to_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = cells(dtype=dtype)
    lora = {"peft_type": "LORA", "r": 2, "target_modules": ["query", "value"]}
    cell = cell.model_copy(update={"method": MethodSpec(label="peft", name="peft", config=lora, source_sha256="")})
    record, _ = run_cell(cell)
    assert record.status == "ok", record.traceback
    if dtype != "float32":
        return  # five steps move less than its rounding
    monkeypatch.setattr(Peft, "load_delta", lambda self, backbone, config, delta: self.apply(backbone, config))
    record, _ = run_cell(cell)
    assert record.status == "failed"
    assert "load_delta() puts the stored delta onto a fresh backbone, and what comes out" in (record.reason or "")


def test_a_start_elsewhere_that_is_said_is_no_fault(installed: Any) -> None:
    record = trained(installed(with_(apply=tripled, identity_at_init=False)))
    assert record.status == "ok", record.traceback


OPTIMIZER: dict[str, tuple[Callable[..., Any], str]] = {
    "forgets the head": (
        lambda groups: torch.optim.AdamW(groups[:1]),
        "does not hold exactly the trainable",
    ),
    "forgets the method": (lambda groups: torch.optim.SGD(groups[1:], lr=1.0), "does not hold exactly the trainable"),
    "is a name": (lambda groups: "adamw", "optimizer() of the method gives str; it takes a torch.optim.Optimizer"),
}


@pytest.mark.parametrize("name", OPTIMIZER)
def test_an_optimizer_of_the_method_holds_what_trains(name: str, installed: Any) -> None:
    make, words = OPTIMIZER[name]
    kind = with_(optimizer=lambda self, module, groups, weight_decay: make(groups))
    with pytest.raises(BenchError, match=re.escape(words)):
        count(BackboneSpec(name="tiny", weights="random"), kind(), MethodConfig(), Setting(batch=2, length=8))
    plugin = installed(kind)
    for record in (counted(plugin), trained(plugin)):
        assert record.status == "failed"
        assert words in (record.reason or "")


def test_an_optimizer_of_the_method_is_named_in_its_records(installed: Any) -> None:
    plugin = installed(with_(optimizer=lambda self, module, groups, weight_decay: torch.optim.SGD(groups, lr=1e-2)))
    for record in (counted(plugin), trained(plugin)):
        assert record.status == "ok", record.traceback
        assert record.notes == ("trains with an optimizer of its own, SGD, in place of the recipe's",)


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "notes as text": (
        {"notes": lambda self, module: "a sentence"},
        "notes() of the method gives 'a sentence'; it takes",
    ),
    "notes of numbers": ({"notes": lambda self, module: [1]}, "notes() of the method gives [1]; it takes a list of"),
    "no notes": ({"notes": lambda self, module: None}, "notes() of the method gives None; it takes a list of"),
    "a broken rank": (
        {"ranks": lambda self, module: {"q": -5.5}},
        "ranks() of the method gives -5.5 for 'q'; it",
    ),
    "a negative rank": ({"ranks": lambda self, module: {"q": -1}}, "ranks() of the method gives -1 for 'q'; it takes"),
    "a list of ranks": (
        {"ranks": lambda self, module: [3]},
        "ranks() of the method gives [3]; it takes a rank",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_a_hook_says_in_another_form_is_refused_by_its_name(name: str, installed: Any) -> None:
    hooks, words = SAID[name]
    plugin = installed(with_(**hooks))
    record = trained(plugin)
    assert record.status == "failed"
    assert words in (record.reason or "")
    if "notes" in hooks:
        assert words in (counted(plugin).reason or "")


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


def faster(self: Method, module: Any, groups: list[dict[str, Any]], weight_decay: float) -> None:
    for group in groups:
        group["lr"] = 1.0


def test_rates_are_the_recipe_s_where_a_method_has_no_optimizer(installed: Any) -> None:
    assert trained(installed(with_(optimizer=faster))).losses == trained(installed(Gated)).losses


@pytest.mark.parametrize("said", [{"zero_gradient": "scale"}, {"zero_gradient": ("",)}])
def test_a_gradient_is_declared_zero_by_whole_names(said: dict[str, Any], installed: Any) -> None:
    record = trained(installed(with_(**said)))
    assert (record.reason or "").startswith("zero_gradients() of the method gives ")


@pytest.mark.parametrize("positions", [-5, "many", 2.0])
def test_reserved_positions_are_a_whole_number(positions: Any, installed: Any) -> None:
    plugin = installed(with_(reserved_positions=lambda self, config: positions))
    for record in (counted(plugin), trained(plugin)):
        assert (record.reason or "").startswith(f"reserved_positions() of the method gives {positions!r}; it takes")


def raising(*args: Any, **kwargs: Any) -> Any:
    raise LookupError("no such thing\nand more")


class Mixed(GatedScale):
    """Hands float64 to a product with the backbone's type."""

    def forward(self, **inputs: Any) -> Any:
        output = super().forward(**inputs)
        states = output.last_hidden_state
        output.last_hidden_state = states.double() @ torch.eye(states.shape[-1], device=states.device)
        return output


@pytest.mark.parametrize("hook", ["apply", "param_groups", "regularizer", "after_step", "finalize", "delta", "notes"])
def test_a_hook_that_raises_is_named(hook: str, installed: Any) -> None:
    def own(self: Method, *args: Any, **kwargs: Any) -> Any:
        return raising()

    plugin = installed(with_(**{hook: own}))
    for record in (counted(plugin), trained(plugin)):
        assert record.status == "failed"
        assert record.reason == f"{hook}() of the method raises LookupError: no such thing"
        assert "and more" in (record.traceback or "")


def test_a_step_of_several_types_is_a_sentence(installed: Any) -> None:
    plugin = installed(with_(apply=lambda self, backbone, config: Mixed(backbone), identity_at_init=False))
    record = trained(plugin)
    assert record.status == "failed"
    assert (record.reason or "").startswith("an operation of the step takes tensors of one type and gets several")


OF_ANOTHER_KIND: dict[str, tuple[dict[str, Any], str]] = {
    "apply": ({"apply": lambda self, backbone, config: None}, "apply() of the method gives None"),
    "optimizer": (
        {"optimizer": lambda self, module, groups, decay: "adamw"},
        "optimizer() of the method gives str; it takes a torch.optim.Optimizer",
    ),
    "closure": (
        {"optimizer": lambda self, module, groups, decay: torch.optim.LBFGS([p for g in groups for p in g["params"]])},
        "optimizer() of the method gives LBFGS, whose step() needs a closure",
    ),
    "regularizer": (
        {"regularizer": lambda self, module: module.scale.expand(3)},
        "regularizer() of the method gives a tensor of shape [3]",
    ),
    "number": ({"regularizer": lambda self, module: 0.1}, "regularizer() of the method gives a value of type float"),
    "finalize": (
        {"finalize": lambda self, module: None},
        "finalize() of the method gives None; let it return a torch module",
    ),
    "groups that are spent": (
        {"param_groups": lambda self, module, lr: ({"params": [p]} for p in module.parameters())},
        "param_groups() of the method gives no list of groups; let each be a dict with its params",
    ),
    "groups without parameters": (
        {"param_groups": lambda self, module, lr: [{"lr": lr}]},
        "param_groups() of the method gives no list of groups",
    ),
    "groups that lack one": (
        {"param_groups": lambda self, module, lr: []},
        "param_groups() of the method does not hold exactly the trainable parameters, each once; give every",
    ),
    "a delta in a list": (
        {"delta": lambda self, module: [module.scale]},
        "delta() of the method gives [",
    ),
    "a delta of numbers": (
        {"delta": lambda self, module: {"scale": 1.0}},
        "delta() of the method gives {'scale': 1.0}; it takes a tensor for each name",
    ),
    "merge": (
        {"merge": lambda self, module: "merged"},
        "merge() of the method gives a value of type str; let it return a torch module, or None where it cannot",
    ),
}


@pytest.mark.parametrize("name", OF_ANOTHER_KIND)
def test_a_hook_that_gives_something_of_another_kind_is_named_everywhere(name: str, installed: Any) -> None:
    hooks, words = OF_ANOTHER_KIND[name]
    kind = with_(**hooks)
    plugin = installed(kind)
    records = [counted(plugin)]
    if name != "merge":  # which neither figures nor scores ask for
        with pytest.raises(BenchError, match=re.escape(words)):
            count(BackboneSpec(name="tiny", weights="random"), kind(), MethodConfig(), Setting(batch=2, length=8))
        records.append(trained(plugin))
    for record in records:
        assert record.status == "failed"
        assert (record.reason or "").startswith(words)

"""No figure of a method that does not train: every trainable parameter is shown to get a gradient, or is named."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import account, registry
from bench.count.count import count
from bench.count.outcome import Findings
from bench.count.predict import predictions
from bench.errors import BenchError
from bench.method import Method, MethodConfig
from bench.models.head import TaskModel, make_head
from bench.schema.jobs import BackboneSpec, MethodSpec, Probe
from bench.schema.shape import Setting
from bench.timing.counted import count_training
from bench.timing.models import Models
from bench.timing.probe import run_probe
from bench.training.loop import PROOF, Recipe, train
from tests.factories.cost_steps import tiny_shape
from tests.methods.families import batch, tiny

TINY = BackboneSpec(name="tiny", weights="random")
SETTING = Setting(batch=2, length=8)


class Stray(nn.Module):
    """A backbone with a scale and a spare parameter, which ``use`` puts to work on the last state or does not."""

    def __init__(self, backbone: nn.Module, use: Callable[["Stray", Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        self.use = use
        weight = next(backbone.parameters())
        self.scale = nn.Parameter(torch.ones_like(weight[0]))
        self.spare = nn.Linear(weight.shape[1], weight.shape[1], device=weight.device)

    def forward(self, **inputs: Any) -> Any:
        output = self.backbone(**inputs)
        output.last_hidden_state = self.use(self, output.last_hidden_state, inputs["attention_mask"])
        return output


def method_of(use: Callable[[Stray, Tensor, Tensor], Tensor], **attributes: Any) -> Method:
    def apply(self: Method, backbone: nn.Module, config: MethodConfig) -> nn.Module:
        return Stray(backbone, use)

    return type("Strayed", (Method,), {"apply": apply, "identity_at_init": False, **attributes})()


def scaled(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    return body.spare(hidden) * body.scale


def without_graph(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        changed = body.spare(hidden)
    return hidden * body.scale + changed


def thrown_away(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    body.spare(hidden)
    return hidden * body.scale


def in_place_of_data(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden + body.spare(hidden).data) * body.scale


def unpadded(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    if not bool(mask.bool().all()):
        raise ValueError("a mask with zeros in it\nand more")
    return scaled(body, hidden, mask)


def idle_on_padding(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    return scaled(body, hidden, mask) if bool(mask.bool().all()) else hidden * body.scale


def zeroed(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden + 0 * scaled(body, hidden, mask)


DISCONNECTED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "unused": (lambda body, hidden, mask: hidden * body.scale, "spare.weight"),
    "no_grad": (without_graph, "spare.weight"),
    "thrown away": (thrown_away, "spare.weight"),
    "through .data": (in_place_of_data, "spare.weight"),
    "detached": (lambda body, hidden, mask: body.spare(hidden) * body.scale.detach(), "scale"),
    "argmax": (lambda body, hidden, mask: body.spare(hidden) + (hidden * body.scale).argmax(-1, keepdim=True), "scale"),
    "rounded to a number": (lambda body, hidden, mask: body.spare(hidden) * (body.scale > 0), "scale"),
    "bias alone left out": (lambda body, hidden, mask: hidden @ body.spare.weight * body.scale, "spare.bias"),
}
CONNECTED: dict[str, Callable[..., Tensor]] = {
    "used": scaled,
    "zero factor at the start": lambda body, hidden, mask: hidden + (body.scale - 1) * body.spare(hidden),
    "twice": lambda body, hidden, mask: scaled(body, scaled(body, hidden, mask), mask),
    "by chance": lambda body, hidden, mask: scaled(body, hidden, mask) if torch.rand(1) > -1 else hidden,
    "of padded places alone": lambda body, hidden, mask: scaled(body, hidden, mask) * mask.unsqueeze(-1),
}


def trained(use: Callable[..., Tensor], steps: int, **attributes: Any) -> list[float]:
    method = method_of(use, **attributes)
    body = method.apply(tiny("bert"), MethodConfig())
    model = TaskModel(body, make_head(tiny("bert"), 2))
    recipe = Recipe(
        steps=steps, batch_size=3, max_length=12, learning_rate=1e-3, head_learning_rate=1e-3, warmup=0.0,
        weight_decay=0.0, gradient_clip=1.0,
    )  # fmt: skip
    rows = (batch(pad=2, seed=step) | {"labels": torch.tensor([0, 1, 1])} for step in range(steps))
    return train(model, method, body, rows, recipe)


def probe_of(monkeypatch: pytest.MonkeyPatch, method: Method, timed: bool) -> Probe:
    load = registry.load_method
    monkeypatch.setattr(registry, "load_method", lambda name, *a: type(method) if name == "stray" else load(name, *a))
    return Probe(
        id="probe", suite="test", backbone=TINY, baseline="full", batch=2, length=8, dtype="float32", device="cpu",
        methods=(MethodSpec(label="stray", name="stray", config={}, source_sha256=""),), attention="sdpa", rounds=1,
        blocks=2 if timed else 0, latency_batches=(1,), latency_length=8, learning_rate=1e-3, head_learning_rate=1e-3,
        outputs=2, timeout_seconds=60.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", DISCONNECTED)
def test_a_parameter_outside_the_graph_is_named_by_the_count_without_data(name: str) -> None:
    use, parameter = DISCONNECTED[name]
    with pytest.raises(BenchError, match=f"parameter '{parameter}'.* gets no gradient"):
        count(TINY, method_of(use), MethodConfig(), SETTING)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (unpadded, "it cannot train on a row with padding (ValueError: a mask with zeros in it)"),
        (idle_on_padding, "parameter 'spare.weight' (and 1 more of 5) is set to train but gets no gradient"),
    ],
    ids=["refuses padding", "idle on padding"],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_count_without_data_proves_it_on_a_padded_row_too(
    use: Callable[..., Tensor], words: str, device: str
) -> None:
    with pytest.raises(BenchError, match=re.escape(words)):
        count(TINY, method_of(use), MethodConfig(), SETTING.model_copy(update={"device": device}))


@pytest.mark.parametrize("name", DISCONNECTED)
def test_a_parameter_outside_the_graph_is_named_by_the_cell(name: str) -> None:
    use, parameter = DISCONNECTED[name]
    with pytest.raises(BenchError, match=f"parameter '{parameter}'.* gets no gradient"):
        trained(use, 2)


@pytest.mark.parametrize("name", CONNECTED)
def test_a_parameter_in_the_graph_passes_everywhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of(CONNECTED[name])
    assert count(TINY, method, MethodConfig(), SETTING).trainable.method
    assert len(trained(CONNECTED[name], 2)) == 2
    found = Findings()
    probe = probe_of(monkeypatch, method, timed=True)
    count_training(Models(probe), probe.methods[0], found)
    assert found.figures["peak_memory_bytes"].step


@pytest.mark.parametrize("timed", [False, True], ids=["counted", "timed"])
def test_a_probe_has_no_figure_of_a_method_outside_the_graph(timed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = run_probe(probe_of(monkeypatch, method_of(thrown_away), timed))
    assert record.status == "failed"
    assert "parameter 'spare.weight' (and 1 more of 5)" in record.reason
    assert (record.flops, record.trainable_parameters, record.peak_memory_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (unpadded, "cannot train on a row with padding (ValueError: a mask with zeros in it)"),
        (zeroed, "the gradient of 'scale' and of every other parameter of the method is zero"),
    ],
    ids=["refuses padding", "times zero"],
)
def test_a_timed_probe_proves_it_on_values_with_a_padded_row(
    use: Callable[..., Tensor], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = run_probe(probe_of(monkeypatch, method_of(use), timed=True))
    assert record.status == "failed"
    assert words in record.reason
    assert (record.flops, record.trainable_parameters, record.peak_memory_bytes) == (None, None, None)


def test_a_cell_whose_gradients_are_all_zero_has_no_score() -> None:
    with pytest.raises(BenchError, match="the gradient of 'scale' and of every other parameter"):
        trained(zeroed, 2)
    assert len(trained(zeroed, 2, zero_gradient=("scale", "weight", "bias"))) == 2  # declared


def test_a_layer_that_is_dropped_in_some_steps_is_reached_in_others() -> None:
    calls = iter(range(100))
    assert len(trained(lambda body, hidden, mask: hidden if next(calls) % 4 else scaled(body, hidden, mask), 6)) == 6
    seen: list[int] = []

    def late(body: Stray, hidden: Tensor, mask: Tensor) -> Tensor:
        seen.append(1)
        return hidden * body.scale

    with pytest.raises(BenchError, match=r"spare\.weight"):
        trained(late, 3 * PROOF)
    assert len(seen) == PROOF


def test_an_update_within_backward_counts_as_a_gradient() -> None:
    class Fused(Method):
        def apply(self, backbone: nn.Module, config: MethodConfig) -> nn.Module:
            body = Stray(backbone, scaled)
            for parameter in (body.scale, *body.spare.parameters()):
                parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
            return body

    method = Fused()
    body = method.apply(tiny("bert"), MethodConfig())
    recipe = Recipe(
        steps=2, batch_size=3, max_length=12, learning_rate=1e-3, head_learning_rate=1e-3, warmup=0.0,
        weight_decay=0.0, gradient_clip=1.0,
    )  # fmt: skip
    rows = (batch(seed=step) | {"labels": torch.tensor([0, 1, 1])} for step in range(2))
    assert len(train(TaskModel(body, make_head(tiny("bert"), 2)), method, body, rows, recipe)) == 2


BRIDGED = [
    ("t5", "peft(peft_type='PREFIX_TUNING', num_virtual_tokens=5)", "which this backbone does not read"),
    ("t5_gated", "peft(peft_type='CARTRIDGE', num_virtual_tokens=5)", "which this backbone does not read"),
    ("modernbert", "peft(peft_type='PREFIX_TUNING', num_virtual_tokens=5)", "which this backbone does not read"),
    ("modernbert", "peft(peft_type='CARTRIDGE', num_virtual_tokens=5)", "which this backbone does not read"),
    ("t5", "peft(peft_type='LORA', target_modules=['shared'])", "shared.lora_embedding_A.default' (and 1 more of 4)"),
    ("t5", "peft(peft_type='LORA', r=2, target_modules=['shared', 'q'])", "shared.lora_embedding_A.default'"),
    (
        "t5",
        "peft(peft_type='TRAINABLE_TOKENS', token_indices=[5], target_modules=['shared'])",
        "",
    ),  # peft ties it to the table that is read
    ("bert", "peft(peft_type='PREFIX_TUNING', num_virtual_tokens=5)", ""),
    ("llama", "peft(peft_type='CARTRIDGE', num_virtual_tokens=5)", ""),
    ("t5", "peft(peft_type='PROMPT_TUNING', num_virtual_tokens=5)", ""),
    ("t5", "prefix_tuning(length=5)", ""),
    ("modernbert", "prefix_tuning(length=5)", ""),
    ("bert", "peft(peft_type='LOHA', r=4, target_modules=['query'], module_dropout=0.1)", ""),
    ("llama", "peft(peft_type='LOKR', r=4, target_modules=['q_proj'])", ""),
    ("bert", "peft(peft_type='SHADOW', r=4, target_modules='.*encoder.layer.[0-9]+')", ""),
]


@pytest.mark.parametrize(("family", "spec", "words"), BRIDGED, ids=[f"{f}-{s[5:40]}" for f, s, _ in BRIDGED])
def test_a_prediction_is_refused_where_a_bridged_method_is_never_called(
    family: str, spec: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shape = tiny_shape(family, tmp_path)
    _, row = predictions(shape.name, ["head", spec], SETTING)
    assert words in (row.refused or "")
    assert (row.flops is None) == bool(words)
    assert row.not_counted is None
    assert "Traceback" not in capfd.readouterr().err


def test_account_names_what_trains_without_a_gradient() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.pooler = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, rows: Tensor) -> Tensor:
            return self.map(rows).sum()

    module = Pooled()
    with pytest.raises(BenchError, match=r"account: parameter 'pooler.weight' \(and 1 more of 4\) is set to train"):
        account(module, torch.zeros(2, 4))
    module.pooler.requires_grad_(False)
    assert account(module, torch.zeros(2, 4)).flops.forward == 2 * 2 * 4 * 4


def test_torch_prints_no_traceback_of_an_operation_that_fails_without_data(capfd: pytest.CaptureFixture[str]) -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows: Tensor) -> Tensor:
            return (rows + self.weight).sum()

    with pytest.raises(BenchError, match=r"account: the step does not run on this batch \(RuntimeError: .*broadcast"):
        account(Wrong(), torch.zeros(2, 4))
    assert capfd.readouterr().err == ""

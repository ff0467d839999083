"""Counting without data: fake tensors give what real ones give, to the byte, in every form of a step."""

import pytest

from bench.count.count import CUBLAS_WORKSPACE, Counts, count, peak_of
from bench.errors import BenchError
from bench.models.backbone import attention_of
from bench.registry import make
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Flops, Owners
from bench.schema.shape import Setting
from methods import BUILTIN
from tests.factories.cost_steps import (
    FFN,
    HEADS,
    LAYERS,
    LENGTH,
    ROWS,
    WIDTH,
    fake_counts,
    real_counts,
    real_step,
    tiny_shape,
)
from tests.factories.methods import METHODS, NOWHERE, sized
from tests.methods.adapted import ONE_OF_EACH
from tests.methods.families import EVERY, OF_ANOTHERS_LAYOUT

PLAIN = Setting(batch=ROWS, length=LENGTH)
FORMS: dict[str, dict[str, object]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "autocast": {"dtype": "bfloat16_autocast"},
    "eager": {"attention": "eager"},
    "checkpointing": {"checkpointing": True},
    "dropout": {"dropout": 0.1},
}
TOGETHER: dict[str, dict[str, object]] = {
    "autocast": FORMS["autocast"],
    "checkpointing": FORMS["checkpointing"],
    "bfloat16, eager, dropout": FORMS["bfloat16"] | FORMS["eager"] | FORMS["dropout"],
}
"""Every form; those that change a type, the attention and what is kept do not touch each other, and go together."""
OPTIMIZERS = ["adamw_foreach", "adamw_loop", "sgd", "adafactor"]
FEW = ["full", "lora", "lst", "prefix_tuning", "prompt_tuning"]
MECHANISMS = [*FEW, "head", "bitfit", "houlsby_adapter", "p_tuning", "dora", "ia3"]
"""One method of each way to change a step; the others differ from one of these in sizes, starts or scales."""
RELATIVES = [name for name in BUILTIN if name not in MECHANISMS]
ELSEWHERE = ("lora", "prompt_tuning", "lst")
"""What finds its places in all families that are built alike, and adds the same operations there."""
IN_EVERY_FORM = [*MECHANISMS, *(pytest.param(name, marks=pytest.mark.slow) for name in RELATIVES)]


def tried_at_once(family: str, name: str) -> bool:
    """Whether the pair is no slow test."""
    return family in ONE_OF_EACH or (family not in OF_ANOTHERS_LAYOUT and name not in ELSEWHERE)


BERT_BASE = BackboneSpec(name="bert-base", weights="random")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneSpec]:
    folder = tmp_path_factory.mktemp("shapes")
    return {family: tiny_shape(family, folder) for family in EVERY}


def form(**fields: object) -> Setting:
    return Setting.model_validate(PLAIN.model_dump() | fields)


def counts_of_both(shape: BackboneSpec, name: str, setting: Setting) -> tuple[Counts, Counts]:
    config = sized(name)
    setting = setting.model_copy(update={"attention": attention_of(shape, setting.attention)})
    return fake_counts(shape, name, setting, **config), real_counts(real_step(shape, name, setting, **config))


# Fake equals real


@pytest.mark.parametrize("name", BUILTIN)
def test_fake_equals_real_to_the_byte(name: str, shapes: dict[str, BackboneSpec]) -> None:
    fake, real = counts_of_both(shapes["bert"], name, PLAIN)
    assert fake == real


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, marks=[] if tried_at_once(family, name) else [pytest.mark.slow])
        for family in EVERY
        if family != "bert"
        for name in FEW
        if family not in METHODS[name].refused
    ]
    + [
        pytest.param(family, name, marks=[pytest.mark.slow] if name in RELATIVES else [])
        for family in ONE_OF_EACH
        if family != "bert"
        for name in BUILTIN
        if name not in FEW and family not in METHODS[name].refused
    ],
)
def test_fake_equals_real_in_every_family(family: str, name: str, shapes: dict[str, BackboneSpec]) -> None:
    fake, real = counts_of_both(shapes[family], name, PLAIN)
    assert fake == real


@pytest.mark.parametrize("name", IN_EVERY_FORM)
@pytest.mark.parametrize("fields", TOGETHER.values(), ids=TOGETHER)
def test_fake_equals_real_in_every_form_and_parts_sum_to_backward(
    fields: dict[str, object], name: str, shapes: dict[str, BackboneSpec]
) -> None:
    fake, real = counts_of_both(shapes["bert"], name, form(**fields))
    assert fake == real
    for part in (fake.flops, fake.flops.backbone, fake.flops.method, fake.flops.head, *fake.flops.by_layer.values()):
        assert part.backward == sum(kinds(part)[1:]) + part.backward_recompute


@pytest.mark.parametrize("name", ["full", "lora"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fake_equals_real_under_every_optimizer(optimizer: str, name: str, shapes: dict[str, BackboneSpec]) -> None:
    fake, real = counts_of_both(shapes["bert"], name, form(optimizer=optimizer))
    assert fake == real


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in EVERY for name in FEW if family not in METHODS[name].refused],
)
@pytest.mark.parametrize("fields", FORMS.values(), ids=FORMS)
def test_fake_equals_real_in_every_form_of_every_family(
    fields: dict[str, object], family: str, name: str, shapes: dict[str, BackboneSpec]
) -> None:
    if family == "mpnet" and "checkpointing" in fields:
        with pytest.raises(
            BenchError, match="checkpointing: MPNetModel has no layers that transformers can checkpoint"
        ):
            counts_of_both(shapes[family], name, form(**fields))
        return
    fake, real = counts_of_both(shapes[family], name, form(**fields))
    assert fake == real


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["full", "lst"])
def test_fake_equals_real_on_bert_base(name: str) -> None:
    setting = Setting(batch=32, length=128)
    fake, real = fake_counts(BERT_BASE, name, setting), real_counts(real_step(BERT_BASE, name, setting))
    assert fake == real


def test_peaks_alone_are_those_of_the_whole_count(shapes: dict[str, BackboneSpec]) -> None:
    counted = fake_counts(shapes["bert"], "lora", PLAIN, rank=2)
    assert peak_of(shapes["bert"], *make("lora", {"rank": 2}), PLAIN) == counted.peak


# The large shape, by count alone


def bert_base(name: str) -> Counts:
    return fake_counts(BERT_BASE, name, Setting(batch=32, length=128))


def test_a_ladder_saves_less_than_a_quarter_of_full_fine_tuning() -> None:
    assert bert_base("lst").bytes.saved_activations < 0.25 * bert_base("full").bytes.saved_activations


def test_backward_of_a_ladder_is_its_side_network_and_nothing_else() -> None:
    rows, width, layers, reduction = 32 * 128, 768, 12, 8
    narrow, narrow_ffn = width // reduction, 4 * width // reduction
    downs = (layers + 1) * 2 * rows * width * narrow  # weight gradients alone: the taps want none
    linear = layers * 2 * 2 * rows * (4 * narrow**2 + 2 * narrow * narrow_ffn)
    attention = layers * 2.5 * 4 * rows * 128 * narrow
    up = 2 * 2 * rows * narrow * width
    flops = bert_base("lst").flops
    assert flops.method.backward == downs + linear + attention + up
    assert flops.backbone.backward == 0
    assert flops.backward < 0.05 * bert_base("full").flops.backward


def test_lora_spares_weight_gradients_and_hardly_any_input_gradient() -> None:
    full, lora = bert_base("full").flops, bert_base("lora").flops
    assert lora.backward_input_gradient > 0.9 * full.backward_input_gradient
    assert lora.backward_weight_gradient < 0.02 * full.backward_weight_gradient


# Kinds of backward FLOPs


def kinds(part: Owners) -> tuple[int, ...]:
    return (part.forward, part.backward_weight_gradient, part.backward_input_gradient, part.backward_attention)


@pytest.mark.parametrize("name", IN_EVERY_FORM)
def test_autocast_changes_no_kind_and_no_owner(name: str, shapes: dict[str, BackboneSpec]) -> None:
    config = sized(name)
    plain = fake_counts(shapes["bert"], name, PLAIN, **config).flops
    cast = fake_counts(shapes["bert"], name, form(dtype="bfloat16_autocast"), **config).flops
    for owner in ("backbone", "method", "head"):
        assert kinds(getattr(cast, owner)) == kinds(getattr(plain, owner)), owner


def of_both(family: str, name: str, shapes: dict[str, BackboneSpec]) -> tuple[Flops, Flops]:
    """FLOPs without checkpointing and with it."""
    forms = (PLAIN, form(checkpointing=True))
    plain, again = (fake_counts(shapes[family], name, setting, **sized(name)).flops for setting in forms)
    return plain, again


def kinds_by_layer(flops: Flops) -> dict[str, tuple[int, ...]]:
    return {layer: kinds(part) for layer, part in flops.by_layer.items()}


@pytest.mark.parametrize("name", IN_EVERY_FORM)
def test_checkpointing_runs_each_layer_again_that_backward_enters_and_changes_no_kind(
    name: str, shapes: dict[str, BackboneSpec]
) -> None:
    plain, again = of_both("bert", name, shapes)
    assert kinds_by_layer(again) == kinds_by_layer(plain)
    enters = METHODS[name].reach != NOWHERE
    for layer, part in again.by_layer.items():
        expected = part.forward if layer.startswith("layer") and enters else 0
        assert part.backward_recompute == expected, layer


@pytest.mark.parametrize(("family", "name"), [("gpt2", "lora"), ("llama", "houlsby_adapter")])
def test_checkpointing_changes_no_kind_of_other_families(
    family: str, name: str, shapes: dict[str, BackboneSpec]
) -> None:
    plain, again = of_both(family, name, shapes)
    assert kinds_by_layer(again) == kinds_by_layer(plain)


def test_checkpointing_stops_once_it_has_what_backward_needs(shapes: dict[str, BackboneSpec]) -> None:
    """A pre-norm layer ends with a product whose result only enters a sum: torch leaves it out the second time."""
    flops = fake_counts(shapes["gpt2"], "full", form(checkpointing=True)).flops
    last = 2 * ROWS * LENGTH * FFN * WIDTH
    for layer in ("layer_1", "layer_2"):
        assert flops.by_layer[layer].backward_recompute == flops.by_layer[layer].forward - last


def test_autocast_under_checkpointing_changes_no_kind(shapes: dict[str, BackboneSpec]) -> None:
    plain = fake_counts(shapes["gpt2"], "lora", PLAIN, rank=2).flops
    both = fake_counts(shapes["gpt2"], "lora", form(dtype="bfloat16_autocast", checkpointing=True), rank=2).flops
    assert kinds(both) == kinds(plain)


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        # inner map d x h of the learned embedding [p, d]: both gradients are of parameters; outer map h x d
        ("p_tuning", {"length": 3, "encoder": "mlp", "hidden": 7}, (2 * 3 * WIDTH * 7 * 3, 2 * 3 * WIDTH * 7)),
        # down d x h, up h x 2 L d
        (
            "prefix_tuning",
            {"length": 3, "reparametrise": True, "hidden": 7},
            (2 * 3 * 7 * (2 * WIDTH + 2 * LAYERS * WIDTH), 2 * 3 * 7 * 2 * LAYERS * WIDTH),
        ),
    ],
)  # fmt: skip
def test_the_gradient_of_a_learned_embedding_is_a_weight_gradient(
    name: str, config: dict[str, object], expected: tuple[int, int], shapes: dict[str, BackboneSpec]
) -> None:
    flops = fake_counts(shapes["bert"], name, PLAIN, **config).flops.method
    assert (flops.backward_weight_gradient, flops.backward_input_gradient) == expected


# What no fake tensor shows


def test_eight_bit_state_follows_its_formula(shapes: dict[str, BackboneSpec]) -> None:
    counted = fake_counts(shapes["bert"], "full", form(optimizer="adamw_8bit"))
    step = real_step(shapes["bert"], "full", PLAIN)
    sizes = [p.numel() for p in step.model.parameters()]
    small, large = [n for n in sizes if n < 4096], [n for n in sizes if n >= 4096]
    assert small
    assert large == []  # all of the tiny shape is below the limit of the library
    assert counted.bytes.optimizer_state == 2 * 4 * sum(small)


def test_eight_bit_state_of_a_large_matrix_is_two_bytes_an_element_and_two_scales_a_block() -> None:
    tiny = BackboneSpec(name="tiny", weights="random")
    setting = form(optimizer="adamw_8bit")
    sizes = [p.numel() for p in real_step(tiny, "full", PLAIN).model.parameters()]
    large = [n for n in sizes if n >= 4096]
    expected = sum(2 * n + 2 * 4 * -(-n // 256) for n in large) + 8 * sum(n for n in sizes if n < 4096)
    assert large
    assert fake_counts(tiny, "full", setting).bytes.optimizer_state == expected


def test_cuda_adds_the_workspace_of_its_products(shapes: dict[str, BackboneSpec]) -> None:
    cpu, cuda = (fake_counts(shapes["bert"], "full", form(device=device)) for device in ("cpu", "cuda"))
    assert cuda.peak.step - cpu.peak.step == CUBLAS_WORKSPACE
    assert (cuda.flops, cuda.bytes) == (cpu.flops, cpu.bytes)


def test_cuda_keeps_a_byte_for_an_element_that_may_drop(shapes: dict[str, BackboneSpec]) -> None:
    fields = {"dropout": 0.1, "attention": "eager"}
    cpu, cuda = (fake_counts(shapes["bert"], "full", form(device=device, **fields)) for device in ("cpu", "cuda"))
    hidden, scores = ROWS * LENGTH * WIDTH, ROWS * HEADS * LENGTH**2
    dropped = hidden + LAYERS * (2 * hidden + scores) + ROWS * WIDTH  # embeddings, layers, head
    assert cpu.bytes.saved_activations - cuda.bytes.saved_activations == (4 - 1) * dropped


def test_cuda_keeps_fused_attention_under_dropout(shapes: dict[str, BackboneSpec]) -> None:
    cpu, cuda = (fake_counts(shapes["bert"], "full", form(dropout=0.1, device=d)).flops for d in ("cpu", "cuda"))
    attention = LAYERS * 4 * ROWS * LENGTH**2 * WIDTH
    assert (cpu.backward_attention, cuda.backward_attention) == (2 * attention, 2.5 * attention)


# Refusals, and what counting leaves alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16_autocast"])
def test_checkpointing_runs_cudas_forms_again(dtype: str, shapes: dict[str, BackboneSpec]) -> None:
    """Under dropout the CPU's attention takes another path: its form in a second forward fits no first one of CUDA."""
    fields = {"dropout": 0.1, "dtype": dtype, "device": "cuda"}
    plain, again = (fake_counts(shapes["bert"], "full", form(checkpointing=c, **fields)).flops for c in (False, True))
    assert kinds(again) == kinds(plain)
    assert again.backward_recompute == plain.forward - plain.head.forward


def test_a_family_without_a_switch_for_checkpointing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    monkeypatch.setattr(BertModel, "supports_gradient_checkpointing", False)
    shape = BackboneSpec(name="tiny", weights="random")
    with pytest.raises(BenchError, match="BertModel has no layers that transformers can checkpoint; leave it off"):
        count(shape, *make("full", {}), form(checkpointing=True))


def test_counting_twice_gives_the_same(shapes: dict[str, BackboneSpec]) -> None:
    method, config = make("p_tuning", {"length": 3})
    assert count(shapes["bert"], method, config, PLAIN) == count(shapes["bert"], method, config, PLAIN)

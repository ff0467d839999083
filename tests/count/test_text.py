"""Counts under the objective text: fake equals real, closed forms of the LM head, and the three forms of the loss."""

import functools

import pytest

from bench.count.count import Counts, peak_of
from bench.count.memory import measure_step
from bench.models import backbone
from bench.registry import make
from bench.schema.jobs import BackboneSpec
from bench.schema.record import PeakMemory
from bench.schema.shape import Setting
from methods import BUILTIN
from tests.factories.cost_steps import fake_counts, real_counts, real_step, tiny_shape
from tests.factories.methods import METHODS, sized

ROWS, LENGTH, WIDTH, VOCABULARY = 4, 16, 32, 96
LOSSES = ("full", "target", "chunked")
TEXT = Setting(batch=ROWS, length=LENGTH, objective="text")
OTHER = {
    "autocast": {"dtype": "bfloat16_autocast"},
    "bfloat16": {"dtype": "bfloat16", "target_tokens": 5},
    "checkpointing": {"checkpointing": True},
}
WHOLE = {"llama": "full", "t5_whole": "chunked", "t5_gated_whole": "full", "bart": "target"}
"""A decoder, and encoders with their decoders, each with a loss of its own: those see all three."""
FEW = ("full", "head", "lora", "lst", "prompt_tuning")


def form(**fields: object) -> Setting:
    return Setting.model_validate(TEXT.model_dump() | fields)


@pytest.fixture(scope="module")
def llama(shapes: dict[str, BackboneSpec]) -> BackboneSpec:
    return shapes["llama"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneSpec]:
    return {family: tiny_shape(family, tmp_path_factory.mktemp(family)) for family in WHOLE}


PAIRS = [
    pytest.param(name, family, marks=[pytest.mark.slow] if family in ("t5_gated_whole", "bart") else [])
    if name not in FEW
    else (name, family)
    for name in BUILTIN
    for family in WHOLE
    if family not in METHODS[name].refused
]


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_fake_equals_real_to_the_byte_for_every_method(name: str, family: str, shapes: dict[str, BackboneSpec]) -> None:
    shape, config = shapes[family], sized(name)
    setting = form(loss=WHOLE[family], target_tokens=6)  # which is the length of rows of a decoder beside an encoder
    assert fake_counts(shape, name, setting, **config) == real_counts(real_step(shape, name, setting, **config))


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("fields", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("family", ["llama", pytest.param("t5_whole", marks=pytest.mark.slow)])
def test_fake_equals_real_in_every_loss_and_form(
    family: str, loss: str, fields: dict[str, object], name: str, shapes: dict[str, BackboneSpec]
) -> None:
    shape, setting, config = shapes[family], form(loss=loss, **fields), sized(name)
    assert fake_counts(shape, name, setting, **config) == real_counts(real_step(shape, name, setting, **config))


def counted(llama: BackboneSpec, name: str, **fields: object) -> Counts:
    return fake_counts(llama, name, form(**fields), **sized(name))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_frozen_lm_head_takes_two_products_and_no_weight_gradient(loss: str, llama: BackboneSpec) -> None:
    rows = ROWS * (LENGTH if loss == "full" else LENGTH - 1)  # the last logits of each row have no target
    head = counted(llama, "lora", loss=loss).flops.head
    product = 2 * rows * WIDTH * VOCABULARY
    assert (head.forward, head.backward_input_gradient, head.backward_weight_gradient) == (product, product, 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_full_fine_tuning_takes_its_weight_gradient_too(loss: str, llama: BackboneSpec) -> None:
    head = counted(llama, "full", loss=loss).flops.head
    assert head.backward_weight_gradient == head.backward_input_gradient == head.forward


def test_logits_at_targets_alone_take_as_many_products_as_there_are_targets(llama: BackboneSpec) -> None:
    head = counted(llama, "lora", loss="target", target_tokens=3).flops.head
    assert head.forward == 2 * ROWS * 3 * WIDTH * VOCABULARY


@pytest.mark.parametrize("loss", LOSSES)
def test_ladder_side_tuning_enters_no_layer_in_backward_under_any_loss(loss: str, llama: BackboneSpec) -> None:
    flops = counted(llama, "lst", loss=loss).flops
    assert flops.backbone.backward == 0
    assert flops.head.backward_input_gradient > 0  # the floor that the logits set


def test_head_on_text_trains_an_untied_copy_of_the_matrix(llama: BackboneSpec) -> None:
    counts = counted(llama, "head")
    assert (counts.trainable.method, counts.trainable.head) == (VOCABULARY * WIDTH, 0)
    assert counts.flops.backbone.backward == 0


def test_a_tied_matrix_trains_once_and_full_trains_the_lm_head(tmp_path_factory: pytest.TempPathFactory) -> None:
    tied = fake_counts(tiny_shape("gpt2", tmp_path_factory.mktemp("tied")), "full", TEXT)
    shape = tiny_shape("llama", tmp_path_factory.mktemp("untied"))
    untied = fake_counts(shape, "full", TEXT)
    bare = backbone.load(shape, device="meta")
    assert untied.trainable.method == sum(p.numel() for p in bare.parameters()) + VOCABULARY * WIDTH
    whole = backbone.load(tiny_shape("gpt2", tmp_path_factory.mktemp("again")), device="meta", objective="text")
    assert tied.trainable.method == sum({p: p.numel() for p in whole.parameters()}.values())


LLAMA_3B = functools.partial(Setting, batch=4, length=2048, dtype="bfloat16", objective="text", device="cuda")


@pytest.mark.parametrize(("fields", "most"), [({}, 0.75), ({"checkpointing": True}, 0.45)])
def test_the_chunked_loss_spares_the_logits_of_a_large_vocabulary(fields: dict[str, object], most: float) -> None:
    spec, (method, config) = backbone.shape_of("llama-3.2-3b"), make("lora", {})
    whole = peak_of(spec, method, config, LLAMA_3B(loss="full")).step
    assert peak_of(spec, method, config, LLAMA_3B(loss="chunked", **fields)).step / whole <= most


SMOLLM2 = functools.partial(Setting, batch=4, length=64, objective="text")


@functools.cache
def smollm2_peak(name: str, loss: str) -> PeakMemory:
    return peak_of(backbone.shape_of("smollm2-135m"), *make(name, {}), SMOLLM2(loss=loss))


@pytest.mark.parametrize("loss", ["full", "target"])
def test_a_step_of_lora_on_smollm2_peaks_at_0_45_of_full_at_most(loss: str) -> None:
    assert smollm2_peak("lora", loss).step <= 0.45 * smollm2_peak("full", loss).step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_real_step_of_smollm2_peaks_where_it_was_counted(name: str) -> None:
    step = real_step(backbone.shape_of("smollm2-135m"), name, SMOLLM2(loss="full"))
    _, peak, source = measure_step(step)
    assert (peak, source) == (smollm2_peak(name, "full"), "tracker")

"""Frozen linear maps in 4 bits: bytes by their closed forms, products as those of whole weights, refusals."""

import re
from pathlib import Path

import pytest
from torch import nn

from bench.count.count import Adapted, Counts
from bench.count.fake import without_data
from bench.count.ledger import count_step
from bench.count.memory import Tracker, nbytes
from bench.count.predict import setting_for
from bench.count.step import TrainingStep
from bench.errors import BenchError
from bench.registry import make
from bench.schema.forms import Weights
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting, StepShape
from methods import BUILTIN
from tests.count.test_memory import allocator_peak
from tests.factories.cost_steps import FFN, LAYERS, LENGTH, ROWS, WIDTH, fake_counts, real_step, tiny_shape
from tests.factories.methods import sized

MAPS = [WIDTH * WIDTH] * 4 + [WIDTH * FFN] * 2
"""Weights of the maps of a layer of the tiny BERT and GPT-2."""
FORMS: tuple[Weights, ...] = ("nf4", "nf4-dq")
EVERY = ("bert", "gpt2", "llama", "t5")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BackboneSpec]:
    folder: Path = tmp_path_factory.mktemp("shapes")
    return {family: tiny_shape(family, folder) for family in EVERY}


def counts(shape: BackboneSpec, name: str, weights: str, **fields: object) -> Counts:
    setting = Setting.model_validate({"batch": ROWS, "length": LENGTH, "weights": weights} | fields)
    return fake_counts(shape, name, setting, **sized(name))


def held(weights: int, form: str) -> int:
    """Bytes of a map of this many weights."""
    scales = -(-weights // 64)
    books = 16 * 4 + (256 * 4 + 4) * (form == "nf4-dq")
    return weights // 2 + books + (scales + 4 * -(-scales // 256) if form == "nf4-dq" else 4 * scales)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_bytes_fall_by_the_closed_form(form: str, family: str, shapes: dict[str, BackboneSpec]) -> None:
    plain, packed = (counts(shapes[family], "lora", kind) for kind in ("native", form))
    maps = [3 * WIDTH * WIDTH, WIDTH * WIDTH, WIDTH * FFN, WIDTH * FFN] if family == "gpt2" else MAPS
    assert plain.bytes.weights - packed.bytes.weights == LAYERS * sum(4 * n - held(n, form) for n in maps)


def test_a_million_weights_take_half_a_byte_each_and_a_float_for_64() -> None:
    assert held(1024 * 1024, "nf4") == 524_288 + 16_384 * 4 + 64
    assert held(1024 * 1024, "nf4-dq") == 524_288 + 16_384 + 64 * 4 + 64 + 1024 + 4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["lora", "lst", "houlsby_adapter", "bitfit"])
def test_products_and_what_is_kept_are_those_of_whole_weights(
    name: str, form: str, checkpointing: bool, shapes: dict[str, BackboneSpec]
) -> None:
    plain, packed = (counts(shapes["bert"], name, kind, checkpointing=checkpointing) for kind in ("native", form))
    assert packed.flops == plain.flops
    assert packed.bytes.saved_activations == plain.bytes.saved_activations
    assert packed.trainable == plain.trainable
    assert packed.notes == plain.notes  # no operation without a formula


@pytest.mark.parametrize("form", FORMS)
def test_every_product_moves_the_packed_weight_and_its_copy(form: str, shapes: dict[str, BackboneSpec]) -> None:
    plain, packed = (counts(shapes["bert"], "lora", kind).traffic_bytes for kind in ("native", form))
    assert plain is not None
    assert packed is not None
    moved = 0
    for weights in MAPS:
        scales = -(-weights // 64)
        moved += weights // 2 + 4 * scales + 16 * 4 + 4 * weights  # read packed, written whole
        if form == "nf4-dq":  # scales unpacked, then the mean added
            moved += scales + 4 * -(-scales // 256) + 256 * 4 + 4 * scales + 4 * scales + 4 + 4 * scales
    assert packed.forward - plain.forward == LAYERS * moved
    assert packed.optimizer == plain.optimizer


def test_one_unpacked_matrix_lives_at_a_time(shapes: dict[str, BackboneSpec]) -> None:
    plain, packed = (counts(shapes["bert"], "lora", kind) for kind in ("native", "nf4"))
    rise = packed.peak.backward - packed.peak.optimizer - (plain.peak.backward - plain.peak.optimizer)
    assert 0 <= rise <= 4 * WIDTH * FFN


@pytest.mark.parametrize("name", [name for name in BUILTIN if name not in ("full", "bitfit")])
def test_every_method_stands_on_packed_weights(name: str, shapes: dict[str, BackboneSpec]) -> None:
    plain, packed = (counts(shapes["llama"], name, kind, objective="text") for kind in ("native", "nf4"))
    assert packed.bytes.weights < plain.bytes.weights
    assert packed.trainable == plain.trainable


def test_training_of_packed_weights_is_refused(shapes: dict[str, BackboneSpec]) -> None:
    with pytest.raises(BenchError, match=r"weights = nf4: the method trains every linear map .* take native"):
        counts(shapes["bert"], "full", "nf4")


def test_a_map_that_transformers_leaves_in_float32_stays_whole(shapes: dict[str, BackboneSpec]) -> None:
    """T5's ``wo``, by ``_keep_in_fp32_modules``."""
    plain, packed = (counts(shapes["t5"], "lora", kind, objective="classes") for kind in ("native", "nf4"))
    saved = plain.bytes.weights - packed.bytes.weights
    maps = [WIDTH * WIDTH] * 4 + [WIDTH * FFN]  # of an encoder's layer, without wo
    assert saved == LAYERS * sum(4 * n - held(n, "nf4") for n in maps)


@pytest.mark.parametrize(("version", "more"), [("0.42.0", WIDTH + FFN), ("0.43.1", WIDTH + FFN),
                                                ("0.43.2", 0), ("0.50.2", 0)])  # fmt: skip
def test_before_0_43_2_every_product_keeps_its_input(version: str, more: int, shapes: dict[str, BackboneSpec]) -> None:
    """Those of the FFN and of its last map; LoRA keeps that of query, key and value, attention that of the output."""
    lean, kept = (counts(shapes["llama"], "lora", "nf4", objective="text", bitsandbytes=of) for of in (None, version))
    assert kept.peak.forward - lean.peak.forward == 4 * LAYERS * ROWS * LENGTH * more
    assert kept.flops == lean.flops
    assert kept.bytes == lean.bytes


def test_hooks_of_checkpointing_do_not_see_kept_inputs(shapes: dict[str, BackboneSpec]) -> None:
    form = {"objective": "text", "checkpointing": True}
    lean, kept = (counts(shapes["llama"], "lora", "nf4", bitsandbytes=of, **form) for of in (None, "0.42.0"))
    assert kept.peak.forward - lean.peak.forward >= 4 * LAYERS * ROWS * LENGTH * (2 * WIDTH + FFN)


@pytest.mark.parametrize(
    ("weights", "version", "words"),
    [
        ("native", "0.42.0", "--bitsandbytes 0.42.0 is of 4-bit weights; give --weights nf4 too, or omit it"),
        ("nf4", "old", "--bitsandbytes 'old' is no version; give one such as 0.42.0"),
    ],
)
def test_a_version_that_says_nothing_is_refused(weights: Weights, version: str, words: str) -> None:
    form = StepShape(batch=1, length=8)
    with pytest.raises(BenchError, match=re.escape(words)):
        setting_for("tiny", form, weights=weights, device="cpu", bitsandbytes=version)


# Against bitsandbytes itself


def bitsandbytes_step(shape: BackboneSpec, setting: Setting, double: bool) -> TrainingStep:
    """A real step of LoRA on the CPU with bitsandbytes' maps in place of the frozen ones."""
    bnb = pytest.importorskip("bitsandbytes")
    step = real_step(shape, "lora", setting, **sized("lora"))
    for module, place in step.origin.modules.items():
        if place.startswith("layer_") and type(module) is nn.Linear:
            own = bnb.nn.Linear4bit(
                module.in_features, module.out_features, module.bias is not None,
                compress_statistics=double, quant_type="nf4",
            )  # fmt: skip
            own.weight = bnb.nn.Params4bit(module.weight.data, False, compress_statistics=double, quant_type="nf4")
            own.bias = module.bias
            module.__class__, module.__dict__ = own.__class__, own.to("cpu").__dict__
            step.origin.parameters[module.weight] = place
    return step


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_packed_maps_equal_bitsandbytes_to_the_byte(
    family: str, form: str, dtype: str, shapes: dict[str, BackboneSpec]
) -> None:
    objective = "text" if family == "llama" else "classes"
    setting = Setting.model_validate(
        {"batch": ROWS, "length": LENGTH, "dtype": dtype, "weights": form, "objective": objective}
    )
    step = bitsandbytes_step(shapes[family], setting, form == "nf4-dq")
    states = [m.weight.quant_state for m in step.origin.modules if hasattr(m, "quant_state")]
    beside = [t for s in states for t in (s.absmax, s.code)]
    beside += [t for s in states if s.nested for t in (s.state2.absmax, s.state2.code, s.offset)]
    fake = fake_counts(shapes[family], "lora", setting, **sized("lora"))
    ledger = count_step(step.model, step.origin, step.forward, step.backward, step.optimize)
    assert nbytes([*step.model.parameters(), *step.model.buffers(), *beside]) == fake.bytes.weights
    assert ledger.saved_activations == fake.bytes.saved_activations
    assert ledger.flops == fake.flops
    assert ledger.uncounted == ()


@pytest.mark.parametrize("form", FORMS)
def test_the_peak_is_that_of_the_allocator_under_bitsandbytes(form: str, shapes: dict[str, BackboneSpec]) -> None:
    setting = Setting.model_validate(
        {"batch": ROWS, "length": LENGTH, "weights": form, "objective": "text", "optimizer": "sgd"}
    )
    step = bitsandbytes_step(shapes["llama"], setting, form == "nf4-dq")
    step.backward(step.forward())  # twice, so that nothing is made for the first time
    step.zero()
    assert allocator_peak(step) == tracked(shapes["llama"], setting)


def tracked(shape: BackboneSpec, setting: Setting) -> int:
    """Largest rise of the bytes that live over a step without data, unrounded."""
    with without_data(setting.device):
        step = Adapted(shape, *make("lora", sized("lora")), setting).step()
        tracker = Tracker(rounding=1)
        tracker.seed([*step.model.parameters(), *step.model.buffers(), *step.batch.values()])
        before = tracker.current
        with tracker:
            step.backward(step.forward())
            step.optimize()
        return tracker.peak - before

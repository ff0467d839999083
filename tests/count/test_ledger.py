"""The ledger: FLOPs equal the textbook's, every backward FLOP has a kind, an owner and a layer."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bench.count.attribution import Origin
from bench.count.count import count
from bench.count.ledger import Ledger, count_step, forward_flops
from bench.count.step import TrainingStep
from bench.models.head import TaskModel, make_head
from bench.registry import make
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Owners, PathCounts
from bench.schema.shape import Setting
from tests.factories.cost_steps import FFN, HEADS, LAYERS, LENGTH, ROWS, WIDTH, ledger, training_step
from tests.factories.methods import MAPS, METHODS, sized
from tests.methods.families import tiny

TOKENS = ROWS * LENGTH
SQUARE = 2 * TOKENS * WIDTH**2
"""FLOPs of the query's, key's, value's or output's map of one layer."""
FFN_MAPS = 2 * 2 * TOKENS * WIDTH * FFN
LAYER = 4 * SQUARE + FFN_MAPS
LINEAR = LAYERS * LAYER
SCORES = 2 * ROWS * LENGTH**2 * WIDTH
"""FLOPs of one layer's Q K^T, or of P V."""
ATTENTION = LAYERS * 2 * SCORES
HEAD = 2 * ROWS * WIDTH * 2
PROMPT, BOTTLENECK, RANK = 3, 5, 2
"""As in ``METHODS``."""
LONGER = (LENGTH + PROMPT) / LENGTH


def counted(name: str, family: str = "bert", attention: str = "sdpa", **config: object) -> Ledger:
    return ledger(name, family, attention, **(config or sized(name)))


def test_full_fine_tuning_equals_the_textbook_count() -> None:
    flops = counted("full").flops
    assert flops.forward == LINEAR + ATTENTION + HEAD
    assert flops.backward_weight_gradient == LINEAR + HEAD
    assert flops.backward_input_gradient == LINEAR + HEAD
    assert flops.backward_attention == 2.5 * ATTENTION  # the fused kernel computes the scores again
    assert flops.backward == 2 * (LINEAR + HEAD) + 2.5 * ATTENTION


def test_eager_attention_costs_twice_its_forward() -> None:
    assert counted("full", attention="eager").flops.backward_attention == 2 * ATTENTION


@pytest.mark.parametrize("name", ["full", "lora", "lst", "houlsby_adapter"])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "llama"])
def test_totals_equal_torchs_counter_with_the_missing_formulas(name: str, family: str) -> None:
    def forward(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    aten = torch.ops.aten
    missing = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    config = sized(name)
    step = training_step(name, family, **config)
    with FlopCounterMode(display=False, custom_mapping=missing) as first:
        loss = step.forward()
    with FlopCounterMode(display=False, custom_mapping=missing) as second:
        step.backward(loss)
    flops = counted(name, family).flops
    assert (flops.forward, flops.backward) == (first.get_total_flops(), second.get_total_flops())


@pytest.mark.parametrize("name", ["full", "lora", "lst", "bitfit", "ia3", "parallel_adapter"])
def test_kinds_owners_and_layers_each_sum_to_the_whole(name: str) -> None:
    flops = counted(name).flops
    assert flops.backward == (flops.backward_weight_gradient + flops.backward_input_gradient + flops.backward_attention)
    for split in ([flops.backbone, flops.method, flops.head], list(flops.by_layer.values())):
        assert sum(part.forward for part in split) == flops.forward
        assert sum(part.backward for part in split) == flops.backward
        assert sum(part.backward_weight_gradient for part in split) == flops.backward_weight_gradient
    assert set(flops.by_layer) <= {"embeddings", "layer_1", "layer_2", "head", "other"}
    assert list(flops.backbone_by_layer) == ["embeddings", "layer_1", "layer_2"]
    for figure in ("forward", "backward", "backward_weight_gradient", "backward_input_gradient"):
        share = sum(getattr(part, figure) for part in flops.backbone_by_layer.values())
        assert share == getattr(flops.backbone, figure)


# How far down backward reaches (BERT): what of layer 1 still needs an input gradient, and what of a layer above it

GRADIENT = dict.fromkeys(MAPS, SQUARE) | dict.fromkeys(("ffn_in", "ffn_out"), FFN_MAPS / 2)
"""FLOPs of the input gradient of each map."""
FUSED = 2.5 * 2 * SCORES


def in_backbone(name: str, kind: str) -> tuple[int, ...]:
    by_layer = counted(name).flops.backbone_by_layer
    return tuple(getattr(by_layer[layer], f"backward_{kind}") for layer in ("embeddings", "layer_1", "layer_2"))


@pytest.mark.parametrize("name", METHODS)
def test_input_gradients_reach_down_to_the_lowest_trainable_point(name: str) -> None:
    reach = METHODS[name].reach
    rows = LONGER if reach.more_rows else 1
    expected = [rows * sum(GRADIENT[place] for place in layer.maps) for layer in (reach.lower, reach.upper)]
    assert in_backbone(name, "input_gradient") == (0, *expected)


@pytest.mark.parametrize("name", METHODS)
def test_attention_runs_back_where_something_below_it_trains(name: str) -> None:
    reach = METHODS[name].reach
    products = (LONGER if reach.more_rows else 1) * (LONGER if reach.more_keys else 1) * FUSED
    assert in_backbone(name, "attention") == (0, reach.lower.attention * products, reach.upper.attention * products)


@pytest.mark.parametrize("name", METHODS)
def test_the_backbone_has_weight_gradients_where_its_own_weights_train(name: str) -> None:
    assert in_backbone(name, "weight_gradient") == ((0, LAYER, LAYER) if METHODS[name].trains_backbone else (0, 0, 0))


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_eager_attention_leaves_out_the_product_whose_map_wants_no_gradient(name: str) -> None:
    """Layer 1 of LoRA has no gradient for its keys, that of IA3 none for its queries: three products of four."""
    assert counted(name, attention="eager", **sized(name)).flops.backward_attention == 2 * ATTENTION - SCORES


_ADAPTER = 2 * TOKENS * WIDTH * BOTTLENECK
_LOW_RANK = 2 * TOKENS * WIDTH * RANK
OWN: dict[str, tuple[int, int]] = {
    "houlsby_adapter": (2 * LAYERS * 2 * _ADAPTER, (2 * LAYERS * 2 - 1) * _ADAPTER),  # the lowest W_down ends it
    "pfeiffer_adapter": (LAYERS * 2 * _ADAPTER, (LAYERS * 2 - 1) * _ADAPTER),
    "parallel_adapter": (LAYERS * 2 * _ADAPTER, (LAYERS * 2 - 1) * _ADAPTER),
    "lora": (2 * LAYERS * 2 * _LOW_RANK, (2 * LAYERS * 2 - 2) * _LOW_RANK),  # the lowest two A end it
} | dict.fromkeys(["full", "head", "bitfit", "ia3", "p_tuning_v2", "prompt_tuning"], (0, 0))


@pytest.mark.parametrize("name", OWN)
def test_a_methods_own_gradients_follow_from_its_shapes(name: str) -> None:
    own = counted(name).flops.method
    assert (own.backward_weight_gradient, own.backward_input_gradient) == OWN[name]


# What autograd keeps of a layer above the first (BERT, dropout 0), in units of one state [B, T, d]

_WIDE, _INNER = FFN / WIDTH, BOTTLENECK / WIDTH
# query, key, value, attention's result, what enters the two norms; what enters GELU
_FROZEN = 6 + _WIDE
STATES: dict[str, float] = {
    "full": _FROZEN + 2 + _WIDE,  # what enters query, key and value together, and both maps of the FFN
    "head": 0,
    "bitfit": _FROZEN,
    "houlsby_adapter": _FROZEN + 2 * (1 + 2 * _INNER),  # twice what enters W_down, GELU and W_up
    "pfeiffer_adapter": _FROZEN + 2 + _INNER + 2 / WIDTH,  # W_down's and the second norm's input; ReLU keeps its result
    "parallel_adapter": _FROZEN + 1 + _INNER,
    "prefix_tuning": _FROZEN + 2 * (LONGER - 1),  # longer keys and values
    "p_tuning_v2": _FROZEN + 2 * (LONGER - 1),
    "prompt_tuning": LONGER * _FROZEN,
    "p_tuning": LONGER * _FROZEN,
    "lora": _FROZEN + 1 + 2 * RANK / WIDTH,  # what enters both A, and what enters each B
    "ia3": _FROZEN + 2 + _WIDE,  # keys, values and the FFN's inner state before they are scaled
}


@pytest.mark.parametrize("name", STATES)
def test_saved_bytes_of_a_layer_are_what_the_theory_says(name: str) -> None:
    kept = sum(tensor.bytes for tensor in counted(name).saved if "encoder.layer.1." in tensor.module)
    longer = LONGER if name in {"prompt_tuning", "p_tuning"} else 1
    statistics = longer * (4 * TOKENS + ROWS * HEADS * LENGTH)  # mean and deviation of two norms, log-sum-exp
    assert kept == 4 * (TOKENS * WIDTH * STATES[name] + (statistics if name != "head" else 0))


def linear_inputs(name: str) -> set[str]:
    """Linear maps of the second layer that keep their input."""
    step = training_step(name, **sized(name))
    maps = {path for path, module in step.model.body.named_modules() if isinstance(module, nn.Linear)}
    found = {tensor.module for tensor in counted(name).saved if tensor.module in maps}
    return {path.partition("encoder.layer.1.")[2] for path in found if "encoder.layer.1." in path}


def test_which_linear_inputs_are_kept() -> None:
    # query, key and value share theirs; attention's output map reads what attention itself keeps
    assert linear_inputs("full") == {"attention.self.query", "intermediate.dense", "output.dense"}
    adapters = {f"{end}.dropout.adapter.{which}" for end in ("attention.output", "output") for which in ("down", "up")}
    assert linear_inputs("houlsby_adapter") == adapters
    # LoRA's own branches keep x; the frozen maps beside them do not
    for name in ("bitfit", "lora", "ia3", "prefix_tuning", "prompt_tuning"):
        assert linear_inputs(name) == set(), name


def test_a_ladder_keeps_of_the_backbone_what_its_down_projections_read() -> None:
    saved = counted("lst").saved
    assert {tensor.owner for tensor in saved} == {"method", "head"}
    wide = [tensor for tensor in saved if tensor.bytes == 4 * TOKENS * WIDTH]
    assert sorted(tensor.module for tensor in wide) == [f"downs.{i}" for i in range(LAYERS + 1)]


def test_the_fused_scaled_product_of_lora_is_counted() -> None:
    rank = 3
    assert counted("lora", rank=rank).flops.method.forward == 2 * LAYERS * 2 * ROWS * LENGTH * 2 * WIDTH * rank


@pytest.mark.parametrize("name", ["head", "lst"])
def test_head_and_ladder_never_enter_the_backbone_on_the_way_back(name: str) -> None:
    ledger = counted(name)
    assert ledger.flops.backbone.forward == LINEAR + ATTENTION
    assert ledger.flops.backbone.backward == 0
    assert ledger.saved_by_owner.get("backbone", 0) == 0


def test_a_ladder_spreads_over_the_layers_it_reads() -> None:
    by_layer = counted("lst").flops.by_layer
    assert by_layer["layer_1"].backward > 0
    assert by_layer["layer_2"].backward > 0
    assert by_layer["layer_1"].backward_attention == by_layer["layer_2"].backward_attention > 0


def test_saved_bytes_are_those_of_the_head_alone() -> None:
    # pooled states [B, d] and their softmax [B, 2] in float32, labels [B] in int64, and one float32 weight sum
    assert counted("head").saved_activations == ROWS * (WIDTH + 2) * 4 + ROWS * 8 + 4


def test_saved_bytes_shrink_from_full_over_lora_to_the_ladder() -> None:
    full, lora, lst = (counted(name).saved_activations for name in ("full", "lora", "lst"))
    assert lst < lora < full


def test_two_counts_are_identical() -> None:
    first, second = training_step("lora"), training_step("lora")
    assert count_step(first.model, first.origin, first.forward) == count_step(
        second.model, second.origin, second.forward
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_head_does_the_same_whatever_the_method(name: str) -> None:
    head = counted(name).flops.head
    assert head == counted("full").flops.head.model_copy(
        update={} if head.backward_input_gradient else {"backward_input_gradient": 0, "backward": HEAD}
    )


def own(step: TrainingStep, read: Callable[[list[Tensor]], Tensor]) -> Ledger:
    """The ledger of ``step`` with a regularizer over the method's matrices."""

    class Regularized(type(step.method)):  # type: ignore[misc]
        def regularizer(self, module: nn.Module) -> Tensor:
            return read([matrix for matrix in module.parameters() if matrix.requires_grad and len(matrix) == RANK])

    step = replace(step, method=Regularized())
    return count_step(step.model, step.origin, step.forward, step.backward)


@pytest.mark.parametrize(
    ("read", "layer"),
    [
        (lambda matrices: sum((a @ a.T).square().sum() for a in matrices), "layer_2"),
        (lambda matrices: sum((a.abs() @ a.abs().T).sum() for a in matrices), "other"),
        (lambda matrices: (torch.stack(matrices) @ torch.stack(matrices).mT).square().sum(), "other"),
        (lambda matrices: nn.functional.linear(torch.cat(matrices).abs(), torch.cat(matrices).abs()).sum(), "other"),
    ],
)
def test_a_regularizer_is_the_methods_own_work(read: Callable[[list[Tensor]], Tensor], layer: str) -> None:
    plain, ledger = counted("lora", rank=RANK), own(training_step("lora", rank=RANK), read)
    before, flops = plain.flops, ledger.flops
    assert (flops.head, flops.backbone) == (before.head, before.backbone)
    assert (flops.by_layer["head"], flops.backbone_by_layer) == (before.by_layer["head"], before.backbone_by_layer)
    for phase in ("forward", "backward"):
        more = getattr(flops, phase) - getattr(before, phase)
        assert more > 0
        assert getattr(flops.method, phase) == getattr(before.method, phase) + more
        at = before.by_layer.get(layer, Owners())
        assert getattr(flops.by_layer[layer], phase) > getattr(at, phase)
    saved = {owner: ledger.saved_by_owner[owner] - plain.saved_by_owner[owner] for owner in plain.saved_by_owner}
    assert (saved["head"], saved["backbone"]) == (0, 0)


def test_backward_of_an_lstm_costs_twice_its_forward() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = tiny("bert")
            self.prompt = nn.Parameter(torch.randn(1, 5, WIDTH))
            self.lstm = nn.LSTM(WIDTH, 8, num_layers=2, bidirectional=True, batch_first=True)

    body = Encoder()
    model = TaskModel(body, make_head(body.backbone, 2, dropout=0.0).requires_grad_(False))
    origin = Origin(body.backbone)
    flops = count_step(model, origin, lambda: body.lstm(body.prompt)[0].sum()).flops
    weights = 2 * 4 * 8 * (WIDTH + 8) + 2 * 4 * 8 * (16 + 8)  # two directions; the second layer reads both
    assert flops.method.forward == 2 * 5 * weights
    assert flops.method.backward_weight_gradient == flops.method.backward_input_gradient == flops.method.forward
    assert flops.by_layer["other"].forward == flops.method.forward


def test_the_trace_names_every_operation_and_counts_like_the_ledger() -> None:
    step = training_step("head")
    flops, operations = forward_flops(lambda: step.model(step.batch))
    assert flops == LINEAR + ATTENTION + HEAD
    assert sum(name == "aten.addmm.default" for name, _ in operations) == 6 * LAYERS + 1


def path(name: str, layers: int, **config: object) -> PathCounts:
    """Backward's path on a tiny BERT of ``layers`` layers."""
    shape = BackboneSpec(name="tiny", weights="random", layers=layers)
    return count(shape, *make(name, config), Setting(batch=2, length=8)).backward_path


@pytest.mark.parametrize(
    ("name", "operations", "depth"),
    [
        ("full", 26, 12),  # six maps: input gradients, weight gradients, sums for biases; 4 kernels and 4 sums between
        ("bitfit", 20, 12),  # without the six weight gradients, none of which lies on the path
        ("prompt_tuning", 14, 12),  # without the six sums as well
        ("lora", 28, 16),
        ("houlsby_adapter", 30, 20),
        ("head", 0, 0),
    ],
)
def test_each_layer_lengthens_backward_s_path_as_much_without_weight_gradients(
    name: str, operations: int, depth: int
) -> None:
    config = sized(name)
    shallow, deep = path(name, 2, **config), path(name, 4, **config)
    assert (deep.operations - shallow.operations, deep.depth - shallow.depth) == (2 * operations, 2 * depth)


def test_a_ladder_s_own_backward_is_as_long_as_full_s_though_none_of_it_lies_in_the_backbone() -> None:
    ladder, full = path("lst", 4, reduction=4), path("full", 4)
    assert ladder.depth > full.depth
    assert ledger("lst", reduction=4).flops.backbone.backward == 0

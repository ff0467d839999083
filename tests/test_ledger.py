"""The ledger: FLOPs equal the textbook's, every backward FLOP has a kind, an owner and a layer."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bench.cost.ledger import Ledger, count_step, forward_flops
from bench.cost.places import Origin
from bench.head import TaskModel, make_head
from tests.cost_steps import FFN, LAYERS, LENGTH, ROWS, WIDTH, training_step
from tests.methods.families import tiny

LINEAR = LAYERS * 2 * ROWS * LENGTH * (4 * WIDTH**2 + 2 * WIDTH * FFN)
ATTENTION = LAYERS * 4 * ROWS * LENGTH**2 * WIDTH
HEAD = 2 * ROWS * WIDTH * 2


def counted(name: str, family: str = "bert", attention: str = "sdpa", **config: object) -> Ledger:
    step = training_step(name, family, attention, **config)
    return count_step(step.model, step.origin, step.forward, step.backward)


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
    config = {"reduction": 4} if name == "lst" else {}
    step = training_step(name, family, **config)
    with FlopCounterMode(display=False, custom_mapping=missing) as first:
        loss = step.forward()
    with FlopCounterMode(display=False, custom_mapping=missing) as second:
        step.backward(loss)
    flops = counted(name, family, **config).flops
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


def test_lora_spares_the_weight_gradient_and_keeps_the_input_gradient() -> None:
    full, lora = counted("full").flops, counted("lora", rank=1).flops
    assert lora.backward_weight_gradient < 0.05 * full.backward_weight_gradient
    assert lora.backbone.backward_weight_gradient == 0
    query_key_value_of_layer_1 = 3 * 2 * ROWS * LENGTH * WIDTH**2  # nothing below them wants a gradient
    assert lora.backbone.backward_input_gradient == full.backbone.backward_input_gradient - query_key_value_of_layer_1


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
    assert counted("lora") == counted("lora")


def test_backward_of_an_lstm_costs_twice_its_forward() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = tiny("bert")
            self.prompt = nn.Parameter(torch.randn(1, 5, WIDTH))
            self.lstm = nn.LSTM(WIDTH, 8, num_layers=2, bidirectional=True, batch_first=True)

    body = Encoder()
    model = TaskModel(body, make_head(body.backbone, 2, dropout=0.0))
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

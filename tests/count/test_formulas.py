"""FLOPs of every operation that multiplies, against closed forms: one multiply-add is two."""

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.flex_attention import flex_attention_backward
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import flop_registry, register_flop_formula
from transformers import AutoConfig, AutoModelForCausalLM

from bench import account
from bench.count.count import Counts
from bench.count.ledger import forward_flops
from bench.count.operations import _CONVOLUTIONS, _PRODUCTS, product

ATEN = torch.ops.aten


class Of(nn.Module):
    """The sum of a function of parameters, its only tensors."""

    def __init__(self, run: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.run = run
        self.given = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def forward(self, _: Tensor) -> Tensor:
        return self.run(*self.given).sum()


def of(run: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Counts:
    return account(Of(run, shapes), torch.zeros(1))


@dataclasses.dataclass(frozen=True)
class Form:
    """A function of tensors of these shapes, and what it must count."""

    run: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    forward: int
    backward: int | None = None
    """Twice the forward where None: a gradient of either factor costs one forward."""


def starts(*places: int) -> Tensor:
    return torch.tensor(places, dtype=torch.int32)


def attention(**options: Any) -> Callable[..., Tensor]:
    return lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, **options)


BAG = torch.arange(6).view(2, 3)
CONV: dict[str, Form] = {
    "dense": Form(functional.conv1d, ((2, 4, 16), (6, 4, 3)), 2 * 2 * 14 * 6 * 4 * 3),
    "depthwise": Form(
        lambda x, w: functional.conv1d(x, w, padding=1, groups=32), ((2, 32, 16), (32, 1, 3)), 2 * 2 * 16 * 32 * 3
    ),
    "grouped": Form(
        lambda x, w: functional.conv2d(x, w, groups=2), ((2, 8, 6, 6), (12, 4, 3, 3)), 2 * 2 * 16 * 12 * 4 * 9
    ),
    "strided and dilated": Form(
        lambda x, w: functional.conv1d(x, w, stride=2, dilation=2, padding=2, groups=2),
        ((3, 4, 16), (4, 2, 3)),
        2 * 3 * 8 * 4 * 2 * 3,
    ),
    "three dimensions": Form(
        lambda x, w: functional.conv3d(x, w, groups=4), ((1, 4, 4, 4, 4), (8, 1, 2, 2, 2)), 2 * 27 * 8 * 8
    ),
    "transposed": Form(
        lambda x, w: functional.conv_transpose2d(x, w, stride=2), ((2, 8, 6, 6), (8, 4, 3, 3)), 2 * 2 * 36 * 8 * 4 * 9
    ),
    "transposed and grouped": Form(
        lambda x, w: functional.conv_transpose1d(x, w, groups=4), ((2, 8, 6), (8, 2, 3)), 2 * 2 * 6 * 8 * 2 * 3
    ),
    "without a batch": Form(functional.conv1d, ((4, 16), (6, 4, 3)), 2 * 14 * 6 * 4 * 3),
    "frozen weight": Form(
        lambda x, w: functional.conv1d(x, w.detach() + 0 * w, groups=2), ((2, 4, 9), (4, 2, 2)), 2 * 2 * 8 * 4 * 4
    ),
}
MATRICES: dict[str, Form] = {
    "mm": Form(torch.mm, ((3, 4), (4, 5)), 2 * 3 * 4 * 5),
    "complex mm": Form(
        lambda a, b: torch.view_as_real(torch.view_as_complex(a) @ torch.view_as_complex(b)),
        ((3, 4, 2), (4, 5, 2)),
        8 * 3 * 4 * 5,
    ),
    "mv": Form(torch.mv, ((5, 7), (7,)), 2 * 5 * 7),
    "linear of a vector": Form(functional.linear, ((7,), (5, 7)), 2 * 5 * 7),
    "addmm": Form(torch.addmm, ((5,), (3, 4), (4, 5)), 2 * 3 * 4 * 5),
    "addmv": Form(torch.addmv, ((5,), (5, 7), (7,)), 2 * 5 * 7),
    "dot": Form(torch.dot, ((7,), (7,)), 2 * 7, 0),  # backward scales a vector
    "baddbmm": Form(torch.baddbmm, ((2, 3, 4), (2, 3, 5), (2, 5, 4)), 2 * 2 * 3 * 5 * 4),
    "addbmm": Form(torch.addbmm, ((3, 4), (2, 3, 5), (2, 5, 4)), 2 * 2 * 3 * 5 * 4),
    "matmul over a batch": Form(torch.matmul, ((2, 1, 4, 5), (3, 5, 6)), 2 * 6 * 4 * 5 * 6),
    "einsum of three": Form(
        lambda a, b, c: torch.einsum("bij,bjk,kl->bil", a, b, c),
        ((2, 3, 4), (2, 4, 5), (5, 6)),
        2 * 2 * 3 * 5 * (4 + 6),
    ),
    "tensordot": Form(lambda a, b: torch.tensordot(a, b, dims=2), ((3, 4, 5), (4, 5, 6)), 2 * 3 * 20 * 6),
    "bilinear": Form(
        functional.bilinear,
        ((6, 3), (6, 4), (5, 3, 4)),
        2 * 6 * 5 * 3 * 4 + 2 * 6 * 5 * 4,
        # of the left input as forward with the roles of j and o exchanged; of the weight one product; of the right one
        (2 * 360 + 2 * 6 * 3 * 4) + 2 * 360 + (2 * 360 + 2 * 6 * 5 * 4),
    ),
    "grouped rows": Form(
        lambda a, b: torch._grouped_mm(a, b, offs=starts(3, 7, 12)), ((12, 8), (3, 8, 4)), 2 * 12 * 8 * 4
    ),
    "grouped batches": Form(torch._grouped_mm, ((3, 4, 8), (3, 8, 4)), 2 * 3 * 4 * 8 * 4),
    "bag": Form(lambda table: functional.embedding_bag(BAG, table, mode="sum"), ((10, 4),), 0, 0),
    "weighted bag": Form(
        lambda table, weights: functional.embedding_bag(BAG, table, mode="sum", per_sample_weights=weights),
        ((10, 4), (2, 3)),
        2 * 6 * 4,
    ),
    "outer product": Form(torch.outer, ((3,), (4,)), 0, 0),  # elementwise
}
PAIR = 2 * 2 * 4 * 6 * 7 * 8
ATTENTION: dict[str, Form] = {
    "scores of all heads": Form(attention(), ((2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 8)), 2 * PAIR, 5 * PAIR),
    "grouped queries": Form(attention(enable_gqa=True), ((2, 4, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8)), 2 * PAIR, 5 * PAIR),
    "one key for all": Form(attention(enable_gqa=True), ((2, 4, 6, 8), (2, 1, 7, 8), (2, 1, 7, 8)), 2 * PAIR, 5 * PAIR),
    "causal": Form(  # the half that is masked is not taken off
        attention(is_causal=True),
        ((2, 4, 6, 8), (2, 4, 6, 8), (2, 4, 6, 8)),
        2 * 2 * 2 * 4 * 6 * 6 * 8,
        5 * 2 * 2 * 4 * 6 * 6 * 8,
    ),
    "other width of values": Form(attention(), ((2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 5)), 2 * 2 * 4 * 6 * 7 * (8 + 5)),
}


@pytest.mark.parametrize("name", [*CONV, *MATRICES, *ATTENTION])
def test_forward_and_backward_count_their_closed_form(name: str) -> None:
    form = (CONV | MATRICES | ATTENTION)[name]
    found = of(form.run, *form.shapes).flops
    assert found.forward == form.forward
    assert found.backward == (2 * form.forward if form.backward is None else form.backward)


@pytest.mark.parametrize("name", CONV)
def test_a_convolution_with_a_frozen_weight_costs_one_forward_in_backward(name: str) -> None:
    form = CONV[name]
    found = of(lambda x: form.run(x, torch.zeros(form.shapes[1])), form.shapes[0]).flops
    assert (found.forward, found.backward_input_gradient, found.backward_weight_gradient) == (form.forward,) * 2 + (0,)


def test_a_depthwise_layer_costs_in_backward_twice_its_forward() -> None:
    layer = nn.Sequential(nn.Conv1d(32, 32, 3, padding=1, groups=32))
    rows = torch.zeros(2, 32, 16, requires_grad=True)
    flops = account(layer, rows, loss=torch.sum).flops
    assert (flops.forward, flops.backward) == (5_376 + 768, 10_752 + 1_536)
    assert flops.backward_weight_gradient == flops.backward_input_gradient == flops.forward


@pytest.mark.parametrize(
    ("layer", "gates", "first"),
    [
        (nn.LSTM(4, 5, batch_first=True), 4, False),  # one kernel, which takes both gradients of every step
        (nn.LSTM(4, 5, num_layers=1, bidirectional=True, batch_first=True), 8, False),
        (nn.GRU(4, 5, batch_first=True), 3, True),
        (nn.RNN(4, 5, batch_first=True), 1, True),
        (nn.GRU(4, 5, bidirectional=True, batch_first=True), 6, True),
    ],
    ids=["lstm", "two-way lstm", "gru", "rnn", "two-way gru"],
)
def test_a_recurrent_layer_multiplies_every_step_by_both_matrices(layer: nn.Module, gates: int, first: bool) -> None:
    rows = torch.zeros(2, 3, 4, requires_grad=True)
    flops = account(layer, rows, loss=lambda out: out[0].sum()).flops
    assert flops.forward == 2 * 2 * 3 * gates * 5 * (4 + 5)
    unasked = 2 * 2 * gates * 5 * 5 if first else 0  # of the state before the first step, which is a constant
    assert flops.backward == 2 * flops.forward - unasked


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


Q, K, V, O = empty(2, 4, 6, 8), empty(2, 2, 7, 8), empty(2, 2, 7, 5), empty(2, 4, 6, 5)  # noqa: E741
ROWS, KEYS, VALUES = empty(2, 6, 4, 8), empty(2, 7, 2, 8), empty(2, 7, 2, 5)
LONG, SHORT = empty(10, 4, 8), empty(12, 2, 8)
FORWARD, BACKWARD = 2 * 2 * 4 * 6 * 7 * (8 + 5), 2 * 2 * 4 * 6 * 7 * (3 * 8 + 2 * 5)
FUSED = ("flash", "efficient", "cudnn")
KERNELS: list[tuple[Any, tuple[Any, ...], int]] = [
    *((getattr(ATEN, f"_scaled_dot_product_{kind}_attention"), (Q, K, V), FORWARD) for kind in FUSED),
    *((getattr(ATEN, f"_scaled_dot_product_{kind}_attention_backward"), (O, Q, K, V), BACKWARD) for kind in FUSED),
    (flex_attention_backward, (Q, K, V, O, Q, O), BACKWARD),
    (ATEN._flash_attention_forward, (ROWS, KEYS, VALUES, None, None, 6, 7, 0.0, False, False), FORWARD),
    (ATEN._flash_attention_backward, (ROWS, ROWS, KEYS, VALUES, ROWS, Q, None, None, 6, 7), BACKWARD),
    (ATEN._efficient_attention_forward, (ROWS, KEYS, VALUES, None, None, None, 6, 7, 0.0, 0), FORWARD),
    (ATEN._efficient_attention_backward, (ROWS, ROWS, KEYS, VALUES, None, ROWS, None, None, 6, 7), BACKWARD),
    # rows of 4 and 6 queries on 5 and 7 keys, one after the other
    (
        ATEN._flash_attention_forward,
        (LONG, SHORT, SHORT, starts(0, 4, 10), starts(0, 5, 12), 6, 7, 0.0, False, False),
        2 * 4 * (4 * 5 + 6 * 7) * (8 + 8),
    ),
    (
        ATEN._efficient_attention_forward,
        (LONG[None], SHORT[None], SHORT[None], None, starts(0, 4, 10), starts(0, 5, 12), 6, 7, 0.0, 0),
        2 * 4 * (4 * 5 + 6 * 7) * (8 + 8),
    ),
    (ATEN._scaled_mm, (empty(3, 4), empty(4, 5), empty(), empty()), 2 * 3 * 4 * 5),
    (ATEN._int_mm, (empty(3, 4, dtype=torch.int8), empty(4, 5, dtype=torch.int8)), 2 * 3 * 4 * 5),
    (ATEN._grouped_mm, (empty(3, 4, 8), empty(8, 12), starts(3, 7, 12)), 2 * 4 * 8 * 12),
    (ATEN._grouped_mm, (empty(4, 12), empty(12, 8), starts(3, 7, 12)), 2 * 4 * 12 * 8),
    (ATEN._cudnn_rnn, (empty(10, 4), [empty(20, 4), empty(20, 5), empty(20)], 3), 2 * 10 * 20 * (4 + 5)),  # packed
    (ATEN._cudnn_rnn_backward, (empty(3, 2, 4), [empty(20, 4), empty(20, 5)], 2), 2 * 2 * 6 * 20 * (4 + 5)),
    *(
        (op, (empty(2, 8, 6), empty(4, 2, 3), None, [1], [0], [1], False, [0], 4), 2 * 2 * 4 * 4 * 2 * 3)
        for op in (ATEN._convolution, ATEN.cudnn_convolution, ATEN.convolution_overrideable, ATEN._slow_conv2d_forward)
    ),
]


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: str(case[0]))
def test_a_kernel_that_this_machine_may_lack_counts_its_closed_form(case: tuple[Any, tuple[Any, ...], int]) -> None:
    operation, given, flops = case
    found = product(getattr(operation, "default", operation), given, {}, empty(2, 4, 4))
    assert found is not None
    assert found.flops == flops


def test_every_formula_that_torch_has_is_replaced_by_one_that_is_tested_here() -> None:
    of_torch = {op for op in flop_registry if str(op).startswith(("aten.", "flex_attention"))}
    assert of_torch <= {*_PRODUCTS, *_CONVOLUTIONS}
    tested = {case[0] for case in KERNELS}
    seen = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}  # by the tables above
    assert {str(op) for op in of_torch - tested} == {f"aten.{name}" for name in seen} | {"flex_attention"}


def test_flexible_attention_and_the_layers_of_torch_count_at_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["torch.nn.attention.flex_attention"]
    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # a compiler sees no mode that counts
    states, heads = torch.zeros(2, 3, 16), torch.zeros(2, 4, 16, 16)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    attended, _ = forward_flops(lambda: flex_attention(heads, heads[:, :2], heads[:, :2], enable_gqa=True))
    assert attended == 2 * 2 * 2 * 4 * 16 * 16 * 16
    whole, operations = forward_flops(lambda: layer(states))
    assert any("_transformer_encoder_layer_fwd" in name for name, _ in operations)
    assert whole == 2 * 6 * (4 * 16 * 16 + 2 * 16 * 32) + 4 * 2 * 3 * 3 * 16
    fused, _ = forward_flops(lambda: nn.MultiheadAttention(16, 4, batch_first=True).eval()(*[states] * 3))
    assert fused == 2 * 6 * 4 * 16 * 16 + 4 * 2 * 3 * 3 * 16


LEFT_OUT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "inverse": (torch.linalg.inv, "linalg_inv_ex"),
    "solve": (lambda a: torch.linalg.solve(a, torch.ones(4, 3)), "_linalg_solve_ex, linalg_lu_solve"),
    "qr": (lambda a: torch.linalg.qr(a)[0], "linalg_qr, linalg_solve_triangular"),
    "cholesky": (torch.linalg.cholesky, "linalg_cholesky_ex, linalg_solve_triangular"),
    "exponential": (torch.linalg.matrix_exp, "linalg_matrix_exp"),
    "singular values": (lambda a: torch.linalg.svd(a)[1], "_linalg_svd"),
    "Fourier": (lambda a: torch.fft.rfft(a).abs(), "_fft_c2c, _fft_r2c"),
    "distances": (lambda a: torch.cdist(a, torch.zeros(30, 4)), "_euclidean_dist"),
    "few distances": (lambda a: torch.cdist(a, torch.zeros(3, 4), p=1.0), "_cdist_backward, _cdist_forward"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_stays_uncounted_is_said_and_methodology_lists_its_kind(name: str) -> None:
    run, operations = LEFT_OUT[name]
    (note,) = of(run, (4, 4)).notes
    assert note.startswith(f"FLOPs leave out {operations}: ")
    kinds = {"linalg": "factorizations", "fft": "Fourier", "dist": "distances"}
    text = Path("METHODOLOGY.md").read_text()
    assert next(word for key, word in kinds.items() if key in operations) in text


@torch.library.custom_op("tests::doubled_rows", mutates_args=())
def doubled_rows(rows: Tensor) -> Tensor:
    """A third party's kernel."""
    return 2 * rows


doubled_rows.register_fake(torch.empty_like)
doubled_rows.register_autograd(lambda context, gradient: 2 * gradient)


def test_an_operation_of_a_package_counts_by_the_formula_that_it_registers() -> None:
    (note,) = of(lambda rows: doubled_rows(rows), (4, 5)).notes
    assert note.startswith("FLOPs leave out tests::doubled_rows: ")

    @register_flop_formula(torch.ops.tests.doubled_rows)
    def flops(shape: tuple[int, ...], *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 7 * math.prod(shape)

    try:
        counts = of(lambda rows: doubled_rows(rows), (4, 5))
    finally:
        del flop_registry[torch.ops.tests.doubled_rows]
    assert (counts.flops.forward, counts.notes) == (7 * 20, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_counts_the_experts_that_each_token_takes(family: str, dtype: torch.dtype) -> None:
    sizes = {"num_local_experts": 4} if family == "mixtral" else {"num_experts": 4, "moe_intermediate_size": 48}
    config = AutoConfig.for_model(
        family, vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_experts_per_tok=2, head_dim=8, **sizes,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    ids = torch.zeros(2, 16, dtype=torch.int64)
    counts = account(model, {"input_ids": ids, "labels": ids})
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32
    layer = attention + 32 * 4 + 2 * 3 * 32 * 48  # two of the experts, each with three maps
    assert counts.flops.forward == 2 * 32 * (2 * layer + 32 * 96) + 2 * (2 * 2 * 2 * 4 * 16 * 16 * 8)
    assert counts.flops.backward_weight_gradient == 2 * 32 * (2 * layer + 32 * 96)
    assert counts.notes == ()

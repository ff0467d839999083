"""Memory traffic: what operations read and write equals closed forms, each element once, by phase and owner."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench import account
from bench.count.traffic import traffic
from bench.schema.forms import Optimizer
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Traffic
from bench.schema.shape import Setting
from bench.training.loop import make_optimizer
from tests.factories.cost_steps import (
    FFN,
    LAYERS,
    LENGTH,
    ROWS,
    WIDTH,
    fake_counts,
    ledger,
    real_counts,
    real_step,
    tiny_shape,
)  # fmt: skip
from tests.factories.methods import sized

F = 4
"""Bytes of a float32."""
B, T, D, N = 3, 5, 8, 6
"""Rows, tokens, input and output features of the operations below."""
X, W = B * T * D, D * N
"""Elements of a batch of states and of a weight."""


class Moved(TorchDispatchMode):
    """Bytes by the name of every operation that moves any."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if size := traffic(func, args, kwargs or {}, out):
            name = func._overloadpacket.__name__
            self.by_name[name] = self.by_name.get(name, 0) + size
        return out


def moved(run: Callable[[], object]) -> dict[str, int]:
    with Moved() as mode:
        run()
    return mode.by_name


def states(*shape: int, grad: bool = False) -> Tensor:
    return torch.randn(*(shape or (B, T, D)), requires_grad=grad)


def test_a_linear_map_reads_input_weight_and_bias_and_writes_its_output() -> None:
    layer = nn.Linear(D, N)
    x = states()
    assert moved(lambda: layer(x)) == {"addmm": (X + W + N + B * T * N) * F}


def test_backward_of_a_linear_map_is_two_products_and_a_sum() -> None:
    x, layer = states(grad=True), nn.Linear(D, N)
    out, gradient = layer(x), states(B, T, N)
    y = B * T * N
    assert moved(lambda: out.backward(gradient)) == {
        "mm": ((y + W + X) + (y + X + W)) * F,  # dX = G W, dW = G' X
        "sum": (y + N) * F,
    }


def test_a_frozen_weight_spares_its_gradient() -> None:
    x, layer = states(grad=True), nn.Linear(D, N, bias=False).requires_grad_(False)
    out, gradient = layer(x), states(B, T, N)
    assert moved(lambda: out.backward(gradient)) == {"mm": (B * T * N + W + X) * F}


def test_a_layer_norm_reads_its_input_twice_in_a_step() -> None:
    x, norm = states(grad=True), nn.LayerNorm(D)
    assert moved(lambda: norm(x)) == {"native_layer_norm": (X + 2 * D + X + 2 * B * T) * F}
    out, gradient = norm(x), states()
    # reads gradient, input, mean, deviation and weight; writes three gradients
    assert moved(lambda: out.backward(gradient)) == {
        "native_layer_norm_backward": (2 * X + 2 * B * T + D + X + 2 * D) * F
    }


def test_an_embedding_reads_the_rows_that_it_looks_up_and_no_more_than_the_table() -> None:
    ids = torch.randint(0, 4, (B, T))
    for rows in (1000, 4):
        table = nn.Embedding(rows, D)
        looked_up = min(B * T, rows) * D
        assert moved(lambda table=table: table(ids)) == {"embedding": B * T * 8 + (looked_up + X) * F}
    out, gradient = table(ids), states()
    # every row of the gradient of the table is written
    assert moved(lambda: out.backward(gradient)) == {"embedding_dense_backward": B * T * 8 + (X + 4 * D) * F}


def test_softmax_reads_scores_in_forward_and_probabilities_and_gradient_in_backward() -> None:
    scores = states(B, T, T, grad=True)
    assert moved(lambda: scores.softmax(-1)) == {"_softmax": 2 * B * T * T * F}
    out, gradient = scores.softmax(-1), states(B, T, T)
    assert moved(lambda: out.backward(gradient)) == {"_softmax_backward_data": 3 * B * T * T * F}


def test_fused_attention_leaves_its_scores_where_they_are_and_eager_attention_moves_them() -> None:
    heads = [states(B, 2, T, 4) for _ in range(3)]
    q, scores = B * 2 * T * 4, B * 2 * T * T
    fused = moved(lambda: functional.scaled_dot_product_attention(*heads))
    assert fused == {"_scaled_dot_product_flash_attention_for_cpu": (4 * q + B * 2 * T) * F}  # log-sum-exp beside
    eager = moved(lambda: (heads[0] @ heads[1].mT).softmax(-1) @ heads[2])
    assert eager == {"bmm": 2 * (3 * q + scores) * F - 2 * q * F, "_softmax": 2 * scores * F}


def test_a_loss_reads_the_logits_of_its_targets_alone_and_its_gradient_is_whole() -> None:
    logits, target = states(B, N, grad=True), torch.randint(0, N, (B,))
    forward = moved(lambda: functional.cross_entropy(logits, target))
    assert forward == {"_log_softmax": 2 * B * N * F, "nll_loss_forward": B * F + B * 8 + 2 * F}
    loss = functional.cross_entropy(logits, target)
    backward = moved(loss.backward)
    assert backward["nll_loss_backward"] == (1 + 1) * F + B * 8 + B * N * F  # gradient and total weight
    assert backward["_log_softmax_backward_data"] == 3 * B * N * F


@pytest.mark.parametrize(
    ("run", "elements"),
    [
        (lambda x: x.t(), 0),
        (lambda x: x.view(-1)[2:], 0),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: x[0, 0].item(), 0),
        (lambda x: x.clone().t_().squeeze_(), 2 * 64),
        (lambda x: x + 1, 2 * 64),
        (lambda x: x * x, 2 * 64),  # the same tensor twice
        (lambda x: x * x.t(), 2 * 64),  # and two views of one storage
        (lambda x: x[:4] * x[4:], 64 + 32),
        (lambda x: x + x[0].expand(8, 8), 2 * 64),
        (lambda x: x[0].expand(8, 8) + 1, 8 + 64),  # each addressed element once
        (lambda x: x.view(-1).unfold(0, 4, 1) + 1, 64 + 61 * 4),
        (lambda x: x.add_(1), 2 * 64),  # read and written
        (lambda x: x[0].mul_(2), 2 * 8),
        (lambda x: x.zero_(), 64),  # written alone
        (lambda x: x[:4].copy_(x[4:]), 64),
        (lambda x: x.normal_(), 64),
        (lambda x: torch.zeros_like(x), 64),
        (lambda x: torch.add(x, 1, out=torch.empty_like(x)), 2 * 64),
        (lambda x: x.new_zeros(3), 3),
        (lambda x: torch.cat([x, x[:2]]), 64 + 80),
        (lambda x: torch._foreach_add([x, x[0]], 1.0), 64 + 64 + 8),
        (lambda x: torch._foreach_mul_([x], 2.0), 2 * 64),
    ],
)  # fmt: skip
def test_what_an_operation_addresses_counts_once(run: Callable[[Tensor], object], elements: int) -> None:
    x = torch.ones(8, 8)
    assert sum(moved(lambda: run(x)).values()) == elements * F


ROWS_OF = [[1.0] * 8] * 3
"""Three rows for a table of eight columns."""


@pytest.mark.parametrize(
    ("run", "size"),
    [
        (lambda x, at: x[at], 3 * 8 + 2 * 3 * 8 * F),
        (lambda x, at: x.index_select(0, at), 3 * 8 + 2 * 3 * 8 * F),
        (lambda x, at: x.gather(1, at[None]), 3 * 8 + 2 * 3 * F),
        (lambda x, at: x.index_put_((at,), torch.tensor(ROWS_OF)), 3 * 8 + 2 * 3 * 8 * F),
        (lambda x, at: x.index_add_(0, at, torch.tensor(ROWS_OF)), 3 * 8 + 3 * 3 * 8 * F),
        (lambda x, at: x.index_copy_(0, at, torch.tensor(ROWS_OF)), 3 * 8 + 2 * 3 * 8 * F),
        (lambda x, at: x.scatter_add_(1, at[None], torch.tensor([[1.0, 2.0, 3.0]])), 3 * 8 + 3 * 3 * F),
    ],
)  # fmt: skip
def test_what_is_looked_up_or_scattered_moves_its_rows_and_its_indices(
    run: Callable[[Tensor, Tensor], object], size: int
) -> None:
    x, at = torch.ones(100, 8), torch.tensor([1, 2, 5])
    assert sum(moved(lambda: run(x, at)).values()) == size


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> BackboneSpec:
    return tiny_shape("bert", tmp_path_factory.mktemp("shape"))


P = 64
"""Elements of the parameter that an optimizer updates."""


def updated(form: Optimizer) -> int:
    parameter = nn.Parameter(torch.ones(P))
    optimizer = make_optimizer([{"params": [parameter], "lr": 1e-3}], form=form)
    for _ in range(2):
        parameter.grad = torch.ones(P)
        sizes = moved(optimizer.step)
    return sum(sizes.values())


def test_fused_adamw_reads_four_tensors_and_writes_three() -> None:
    assert updated("adamw_fused") == 7 * P * F + 3 * F  # its step number: read, and counted up


def test_adamw_in_a_loop_moves_every_temporary() -> None:
    # decay 2, first moment 3, second moment 2 and 3, root 2, division 2, epsilon 2, update 4; lr and step number beside
    assert 20 * P * F <= updated("adamw_loop") < 21 * P * F
    assert updated("adamw_loop") > 2.5 * updated("adamw_fused")
    assert 20 * P * F <= updated("adamw_foreach") < 22 * P * F


def test_sgd_reads_parameter_and_gradient_and_its_decay_once_more() -> None:
    assert updated("sgd") == 6 * P * F  # g + 0.01 p, then p -= lr g


def test_clipping_reads_each_gradient_for_its_norm_and_scales_it() -> None:
    parameters = [nn.Parameter(torch.ones(P)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.ones(P)
    size = sum(moved(lambda: nn.utils.clip_grad_norm_(parameters, 1.0)).values())
    assert 3 * P * 3 * F <= size < 3 * P * 3 * F + 40 * F  # a few scalars


@pytest.mark.parametrize("optimizer", ["adamw_fused", "adamw_foreach"])
def test_a_step_that_clips_moves_each_gradient_three_times_more(optimizer: Optimizer, tiny_bert: BackboneSpec) -> None:
    setting = Setting(batch=ROWS, length=LENGTH, optimizer=optimizer, clipping=True)
    plain = fake_counts(tiny_bert, "full", setting.model_copy(update={"clipping": False}))
    fake, real = fake_counts(tiny_bert, "full", setting), real_counts(real_step(tiny_bert, "full", setting))
    assert fake.traffic_bytes == real.traffic_bytes
    assert plain.traffic_bytes is not None
    assert fake.traffic_bytes is not None
    more = fake.traffic_bytes.optimizer - plain.traffic_bytes.optimizer
    trained = (fake.trainable.method + fake.trainable.head) * 3 * F
    assert trained <= more < 1.1 * trained  # norms and the factor beside
    assert fake.traffic_bytes.backward == plain.traffic_bytes.backward


def counted(name: str, **config: object) -> Traffic:
    found = ledger(name, **(config or sized(name))).traffic_bytes
    assert found is not None
    return found


def test_backward_moves_nothing_in_a_backbone_that_no_gradient_enters() -> None:
    assert counted("head").backbone.backward == counted("lst").backbone.backward == 0
    assert counted("head").backbone.forward == counted("full").backbone.forward > 0


def test_what_a_method_adds_is_its_own_traffic() -> None:
    full, lora = counted("full"), counted("lora", rank=2)
    assert full.method.forward == full.method.backward == 0
    # query and value of each layer: x A', times B', added to the frozen output
    assert lora.method.forward > 0
    assert lora.head == full.head
    saved = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * FFN) * F
    assert full.backward - lora.backward > saved  # the weight gradients of the backbone, written


def test_a_larger_batch_moves_more_activations_and_the_same_weights(tiny_bert: BackboneSpec) -> None:
    one, two, three = (
        fake_counts(tiny_bert, "lora", Setting(batch=rows, length=LENGTH), rank=2).traffic_bytes for rows in (2, 3, 4)
    )
    assert one is not None
    assert two is not None
    assert three is not None
    assert three.forward - two.forward == two.forward - one.forward
    assert one.optimizer == two.optimizer


@pytest.mark.parametrize("name", ["full", "lora", "lst"])
@pytest.mark.parametrize("optimizer", ["adamw_fused", "adamw_foreach", "adamw_loop", "sgd", "adafactor"])
def test_fake_tensors_move_what_real_ones_do(name: str, optimizer: Optimizer, tiny_bert: BackboneSpec) -> None:
    setting = Setting(batch=ROWS, length=LENGTH, optimizer=optimizer)
    fake = fake_counts(tiny_bert, name, setting, **sized(name))
    real = real_counts(real_step(tiny_bert, name, setting, **sized(name)))
    assert fake.traffic_bytes == real.traffic_bytes
    assert fake.work == real.work


def test_eight_bit_adamw_moves_a_byte_for_each_moment(tiny_bert: BackboneSpec) -> None:
    big, small = (
        fake_counts(tiny_bert, "full", Setting(batch=ROWS, length=LENGTH, optimizer=form)).traffic_bytes
        for form in ("adamw_fused", "adamw_8bit")
    )
    assert big is not None
    assert small is not None
    assert small.optimizer <= big.optimizer
    assert small.forward == big.forward


def test_account_counts_a_users_module() -> None:
    net = nn.Sequential(nn.Linear(D, N, bias=False), nn.Linear(N, 1, bias=False))
    counts = account(net, torch.ones(B, D), loss=lambda out: out.sum(), optimizer="sgd")
    moved = counts.traffic_bytes
    assert moved is not None
    assert moved.forward == (B * D + W + B * N) * F + (B * N + N + B) * F + (B + 1) * F
    assert moved.optimizer == 6 * (W + N) * F


def test_work_holds_every_operation_with_its_flops_and_bytes() -> None:
    found = ledger("lora", rank=2)
    assert found.traffic_bytes is not None
    assert sum(load.bytes * times for load, times in found.work.items()) == found.traffic_bytes.step
    flops = sum(load.flops * times for load, times in found.work.items())
    assert flops == found.flops.forward + found.flops.backward
    assert {load.dtype for load in found.work if load.flops} == {"float32"}

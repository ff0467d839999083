"""``account``: the ledger of a user's own module, on any kind of batch, without touching either."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench import account
from bench.count.count import CUBLAS_WORKSPACE
from bench.errors import BenchError
from bench.models.head import TaskModel
from bench.schema.forms import Optimizer
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from tests.factories.cost_steps import LENGTH, ROWS, fake_counts, real_step

TINY = BackboneSpec(name="tiny", weights="random")
SETTING = Setting(batch=ROWS, length=LENGTH)


class Classifier(nn.Module):
    """A user's own module: keyword arguments in, an object with a loss out."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> object:
        class Output:
            loss = self.model.loss(batch)

        return Output


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def total(output: Tensor) -> Tensor:
    return output.sum()


@pytest.mark.parametrize("optimizer", ["adamw_fused", "adamw_loop", "sgd"])
@pytest.mark.parametrize("name", ["full", "lora"])
def test_it_equals_the_count_of_a_method(name: str, optimizer: str) -> None:
    step = real_step(TINY, name, SETTING)
    counted = fake_counts(TINY, name, Setting(batch=ROWS, length=LENGTH, optimizer=optimizer))
    found = account(Classifier(step.model), step.batch, optimizer=optimizer)
    assert (found.bytes, found.peak) == (counted.bytes, counted.peak)
    assert found.trainable.method == counted.trainable.method + counted.trainable.head
    parts = ("forward", "backward", "backward_weight_gradient", "backward_input_gradient", "backward_attention")
    for part in parts:
        assert getattr(found.flops, part) == getattr(counted.flops, part)
        for layer in ("layer_1", "layer_2"):
            assert getattr(found.flops.by_layer[layer], part) == getattr(counted.flops.by_layer[layer], part)
    assert [t.bytes for t in found.largest_saved] == [t.bytes for t in counted.largest_saved]


def test_a_perceptron_costs_what_its_shapes_say() -> None:
    found = account(perceptron(), torch.zeros(5, 8), loss=total)
    first, second = 2 * 5 * 8 * 16, 2 * 5 * 16 * 4
    assert found.flops.forward == first + second
    assert found.flops.backward_weight_gradient == first + second
    assert found.flops.backward_input_gradient == second
    assert {layer: part.forward for layer, part in found.flops.by_layer.items() if part.forward} == {
        "layer_1": first,
        "layer_3": second,
    }
    assert found.trainable.method == 8 * 16 + 16 + 16 * 4 + 4
    assert found.delta_bytes == found.bytes.gradients == 4 * found.trainable.method
    assert found.bytes.saved_activations == 4 * (5 * 8 + 5 * 16)  # the batch, and what ReLU gives


def test_frozen_parameters_are_the_backbones_and_the_rest_the_methods() -> None:
    module = perceptron()
    module[0].requires_grad_(False)
    flops = account(module, torch.zeros(5, 8), loss=total).flops
    assert (flops.backbone.forward, flops.backbone.backward) == (2 * 5 * 8 * 16, 0)
    assert (flops.method.forward, flops.method.backward) == (2 * 5 * 16 * 4, 2 * 5 * 16 * 4)


def test_module_and_batch_stay_as_they_are() -> None:
    module, batch = perceptron().eval(), {"input": torch.randn(5, 8)}
    before = {name: (id(p), p._version, p.clone()) for name, p in module.named_parameters()}
    given = batch["input"].clone()
    account(module, batch, loss=total)
    for name, parameter in module.named_parameters():
        identity, version, value = before[name]
        assert (id(parameter), parameter._version) == (identity, version)
        assert torch.equal(parameter, value)
        assert parameter.grad is None
        assert not isinstance(parameter, FakeTensor)
    assert not module.training
    assert torch.equal(batch["input"], given)
    assert not module._forward_hooks


def test_a_module_without_data_counts_alike() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    batch = torch.zeros(5, 8)
    assert account(empty, batch.to("meta"), loss=total) == account(perceptron(), batch, loss=total)


@pytest.mark.parametrize(
    "wrap",
    [lambda t: {"input": t}, lambda t: (t,), lambda t: [t], lambda t: t],
    ids=["mapping", "tuple", "list", "tensor"],
)
def test_a_batch_comes_in_any_form(wrap: Callable[[Tensor], object]) -> None:
    batch = torch.zeros(5, 8)
    assert account(perceptron(), wrap(batch), loss=total) == account(perceptron(), batch, loss=total)


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.out = nn.Linear(4, 10, bias=False)
            self.out.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.table(ids)).sum()

    found = account(Tied(), torch.zeros(3, dtype=torch.int64))
    assert (found.trainable.method, found.bytes.weights, found.bytes.gradients) == (40, 160, 160)


class Composed(nn.Module):
    """A map whose weight ``[8, 16]`` is a product of two parameters."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again
        self.down, self.up = nn.Parameter(torch.zeros(8, 3)), nn.Parameter(torch.zeros(3, 16))

    def inner(self, input: Tensor) -> Tensor:
        return torch.tanh(input @ (self.down @ self.up))

    def forward(self, input: Tensor) -> Tensor:
        return checkpoint(self.inner, input, use_reentrant=False) if self.again else self.inner(input)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "checkpointed"])
def test_a_computed_weight_counts_as_a_weight(again: bool) -> None:
    flops = account(nn.Sequential(nn.Linear(4, 8), Composed(again)), torch.zeros(5, 4), loss=total).flops
    first, composing, second = 2 * 5 * 4 * 8, 2 * 8 * 3 * 16, 2 * 5 * 8 * 16
    assert flops.forward == first + composing + second
    assert flops.backward_weight_gradient == first + 2 * composing + second
    assert flops.backward_input_gradient == second
    assert flops.backward_recompute == (composing + second if again else 0)


def test_autocast_of_cuda_normalises_in_float32() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

        def forward(self, input: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.second(self.norm(self.first(input)))

    cpu, cuda = (
        account(Normed(), torch.zeros(5, 8), loss=total, device=d).bytes.saved_activations for d in ("cpu", "cuda")
    )
    assert cuda - cpu == (4 - 2) * 5 * 16  # the norm keeps its input, which the product made in bfloat16


def test_a_tensor_given_twice_stays_one() -> None:
    """Attention of one tensor to itself projects it once for queries, keys and values."""
    module, given = nn.MultiheadAttention(16, 4, batch_first=True), torch.zeros(2, 5, 16)
    own = account(module, (given, given, given), loss=first_sum)
    other = account(module, (given, given.clone(), given.clone()), loss=first_sum)
    assert own.bytes.saved_activations < other.bytes.saved_activations


def first_sum(output: tuple[Tensor, ...]) -> Tensor:
    return output[0].sum()


def test_a_batch_that_wants_a_gradient_gets_one() -> None:
    flops = account(perceptron(), torch.zeros(5, 8, requires_grad=True), loss=total).flops
    assert flops.backward_input_gradient == flops.forward


def test_a_tensor_that_is_neither_parameter_nor_buffer_may_lie_in_the_module() -> None:
    class Shifted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 4)
            self.shift = torch.ones(4)

        def forward(self, input: Tensor) -> Tensor:
            return (super().forward(input) + self.shift).sum()

    assert account(Shifted(), torch.zeros(5, 8)).flops.forward == 2 * 5 * 8 * 4


@pytest.mark.parametrize("frozen", [False, True])
def test_a_convolution_splits_into_its_two_gradients(frozen: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
    module[1].requires_grad_(not frozen)
    flops = account(module, torch.zeros(2, 3, 8, 8), loss=total).flops
    first, second = 2 * 2 * 6 * 6 * 8 * 3 * 9, 2 * 2 * 4 * 4 * 2 * 8 * 9
    assert flops.forward == first + second
    assert flops.backward_weight_gradient == first + (0 if frozen else second)
    assert flops.backward_input_gradient == second


def test_cuda_is_counted_without_one() -> None:
    dropped = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    cpu, cuda = (
        account(dropped, torch.zeros(5, 8), loss=total, device=d).bytes.saved_activations for d in ("cpu", "cuda")
    )
    assert cpu - cuda == 3 * 5 * 16  # a mask of bytes in place of one of float32


def test_a_module_that_trains_nothing_is_refused() -> None:
    with pytest.raises(BenchError, match="no trainable parameter; set requires_grad"):
        account(perceptron().requires_grad_(False), torch.zeros(5, 8))


@pytest.mark.parametrize(
    ("option", "message"),
    [({"optimizer": "adamw_fuse"}, "unknown optimizer.*'adamw_fused'"), ({"device": "tpu"}, "unknown device 'tpu'")],
    ids=["optimizer", "device"],
)
def test_an_unknown_form_is_refused_and_never_counted_as_another(option: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError, match=f"account: {message}"):
        account(perceptron(), torch.zeros(5, 8), loss=lambda output: output.sum(), **option)


@pytest.mark.parametrize("loss", [None, lambda output: output, lambda output: 1.0], ids=["none", "matrix", "number"])
def test_an_output_without_a_scalar_loss_is_refused(loss: Callable[[Tensor], Tensor] | None) -> None:
    with pytest.raises(BenchError, match=r"no scalar loss comes out of the module; give loss="):
        account(perceptron(), torch.zeros(5, 8), loss=loss)


def test_a_loss_that_nothing_trainable_enters_is_refused() -> None:
    with pytest.raises(BenchError, match="no trainable parameter enters the loss"):
        account(perceptron(), torch.zeros(5, 8), loss=lambda output: output.detach().sum())


@torch.library.custom_op("peft_ledger_tests::opaque", mutates_args=())
def opaque(values: Tensor) -> Tensor:
    return values.clone()


class Opaque(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return opaque(super().forward(input))


class Selecting(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[input[:, 0] > 0])


@pytest.mark.parametrize("kind", [Opaque, Selecting])
def test_an_operation_without_a_fake_form_is_named(kind: type[nn.Linear]) -> None:
    with pytest.raises(BenchError, match=r"account: .* cannot run without data .*(opaque|nonzero|index)"):
        account(kind(8, 4), torch.zeros(5, 8), loss=total)


def test_on_cuda_the_workspace_of_its_products_is_added() -> None:
    module, batch = nn.Linear(4, 1), torch.ones(2, 4)
    peaks = {device: account(module, batch, loss=torch.sum, device=device).peak for device in ("cpu", "cuda")}
    assert peaks["cuda"].step - peaks["cpu"].step == CUBLAS_WORKSPACE


def ones(*shape: int, of: torch.dtype) -> Tensor:
    return torch.ones(*shape, dtype=of, requires_grad=True)


INDEX = torch.tensor([1])
PAIRS: dict[str, Callable[[Tensor, torch.dtype], Tensor]] = {
    "linear": lambda x, other: functional.linear(x, ones(8, 8, of=other)),
    "bias": lambda x, other: functional.linear(x, ones(8, 8, of=x.dtype), ones(8, of=other)),
    "batched": lambda x, other: torch.bmm(x[None], ones(1, 8, 8, of=other)),
    "vector": lambda x, other: x @ ones(8, of=other),
    "added": lambda x, other: torch.addmm(ones(8, of=other), x, ones(8, 8, of=x.dtype)),
    "outer": lambda x, other: torch.addr(ones(8, 8, of=x.dtype), x[0], ones(8, of=other)),
    "convolution": lambda x, other: functional.conv1d(x[None], ones(8, 4, 3, of=other)),
    "transposed": lambda x, other: functional.conv_transpose1d(x[None], ones(4, 2, 3, of=other)),
    "layer norm": lambda x, other: functional.layer_norm(x, (8,), ones(8, of=other), ones(8, of=other)),
    "norm's bias": lambda x, other: functional.layer_norm(x, (8,), ones(8, of=x.dtype), ones(8, of=other)),
    "group norm": lambda x, other: functional.group_norm(x, 2, ones(8, of=other), ones(8, of=other)),
    "batch norm": lambda x, other: functional.batch_norm(x, None, None, ones(8, of=other), ones(8, of=other), True),
    "attention": lambda x, other: functional.scaled_dot_product_attention(x, x, ones(4, 8, of=other)),
    "bag": lambda x, other: functional.embedding_bag(
        INDEX[None], x, per_sample_weights=ones(1, 1, of=other), mode="sum"
    ),
    "weighted loss": lambda x, other: functional.cross_entropy(x, INDEX.expand(4), weight=ones(8, of=other).detach()),
    "loss": lambda x, other: functional.huber_loss(x, torch.ones(4, 8, dtype=other)),
    "put": lambda x, other: x.index_put((INDEX,), ones(1, 8, of=other)),
    "add": lambda x, other: x.index_add(0, INDEX, ones(1, 8, of=other)),
    "sum": lambda x, other: x + ones(4, 8, of=other),
}
FLOATS = (torch.float32, torch.float64, torch.bfloat16)


class Applied(nn.Module):
    """``operation`` on a parameter of one type and operands of another."""

    def __init__(self, operation: Callable[[Tensor, torch.dtype], Tensor], of: torch.dtype, other: torch.dtype) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.rand(4, 8).to(of))
        self.operation, self.other = operation, other

    def forward(self, scale: Tensor) -> Tensor:
        return self.operation(self.values * scale.to(self.values.dtype), self.other).float().sum()


@pytest.mark.parametrize("other", FLOATS)
@pytest.mark.parametrize("of", FLOATS)
@pytest.mark.parametrize("name", PAIRS)
def test_types_that_a_real_step_refuses_are_refused_and_no_others(
    name: str, of: torch.dtype, other: torch.dtype
) -> None:
    module = Applied(PAIRS[name], of, other)
    try:
        module(torch.ones(())).backward()
    except RuntimeError:
        with pytest.raises(BenchError, match=r"^account: .*(cast one of them|does not run on this batch)"):
            account(module, torch.ones(()))
    else:
        account(module, torch.ones(()))


def test_in_autocast_types_may_differ() -> None:
    class Cast(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(values).float().sum()

    assert account(Cast(8, 8), torch.ones(4, 8, dtype=torch.bfloat16)).flops.forward == 2 * 4 * 8 * 8


class Complex(nn.Module):
    """A map of complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8, 8, dtype=torch.complex64))

    def forward(self, values: Tensor) -> Tensor:
        return (values.to(torch.complex64) @ self.weight).abs().sum()


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
def test_complex_parameters_are_counted_or_the_optimizers_that_take_them_are_named(optimizer: Optimizer) -> None:
    made = {"adamw_fused": {"fused": True}, "adamw_foreach": {"foreach": True}, "adamw_loop": {"foreach": False}}
    if optimizer in made or optimizer == "sgd":
        takes = True
        module = Complex()
        module(torch.ones(4, 8)).backward()
        kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
        try:
            kind(module.parameters(), lr=0.1, **made.get(optimizer, {})).step()
        except RuntimeError:
            takes = False
    else:
        takes = False  # Adafactor refuses them in its step, bitsandbytes has no kernel for them
    if takes:
        assert account(Complex(), torch.ones(4, 8), optimizer=optimizer).bytes.gradients == 8 * 8 * 8
    else:
        sentence = (
            rf"^account: optimizer {optimizer} takes no complex parameters, and one of \[8, 8\] trains in complex64"
        )
        with pytest.raises(BenchError, match=sentence):
            account(Complex(), torch.ones(4, 8), optimizer=optimizer)


class Sparse(nn.Embedding):
    """An embedding with a sparse gradient."""

    def __init__(self) -> None:
        super().__init__(10, 8, sparse=True)

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.long()).sum()


class SparseBag(nn.EmbeddingBag):
    """As ``Sparse``, with its rows added."""

    def __init__(self) -> None:
        super().__init__(10, 8, sparse=True)

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.long()).sum()


class MadeSparse(nn.Linear):
    """Makes its input sparse."""

    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, values: Tensor) -> Tensor:
        return torch.sparse.mm(values.to_sparse(), self.weight).sum()


class Inner(nn.Linear):
    """Takes a gradient inside forward."""

    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, values: Tensor) -> Tensor:
        found = torch.func.grad(lambda given: super(Inner, self).forward(given).square().sum())(values)
        return found.sum()


class Allowed(Inner):
    """As ``Inner``, by what its refusal advises."""

    def forward(self, values: Tensor) -> Tensor:
        given = values.detach().requires_grad_()
        out = nn.Linear.forward(self, given).square().sum()
        return torch.autograd.grad(out, given, create_graph=True)[0].sum()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [(Sparse, "make it dense"), (SparseBag, "make it dense"), (MadeSparse, "make it dense"), (Inner, "create_graph")],
)
def test_what_cannot_be_counted_is_said_with_what_works(kind: type[nn.Module], sentence: str) -> None:
    with pytest.raises(BenchError, match=rf"^account: [a-z].*{sentence}") as refused:
        account(kind(), torch.ones(4, 8))
    assert not any(raw in str(refused.value) for raw in ("Error", "Impl", "open an issue"))


def test_what_the_refusal_of_an_inner_gradient_advises_is_counted() -> None:
    assert account(Allowed(), torch.ones(4, 8)).flops.forward == 2 * (2 * 4 * 8 * 8)

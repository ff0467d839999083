"""The critical path: closed forms on nets built by hand, on real and on fake tensors."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.count.fake import without_data
from bench.count.operations import CriticalPath

WIDTH, RANK, ROWS = 6, 2, 3


def followed(run: Callable[[], object]) -> tuple[int, int]:
    """Operations and depth of ``run``."""
    with torch.no_grad(), CriticalPath() as path:
        run()
    return path.operations, path.depth


def stack(layers: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))


@pytest.fixture(params=["real", "fake"])
def x(request: pytest.FixtureRequest) -> Iterator[Tensor]:
    """``[ROWS, WIDTH]``; modules that a test makes are fake as well."""
    if request.param == "real":
        yield torch.randn(ROWS, WIDTH)
    else:
        with without_data():
            yield torch.randn(ROWS, WIDTH)


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_a_chain_is_as_deep_as_it_has_operations(x, layers):
    net = stack(layers)
    assert followed(lambda: net(x)) == (layers, layers)


def test_branches_side_by_side_add_operations_but_no_depth(x):
    branches = [stack(2) for _ in range(4)]
    assert followed(lambda: sum(branch(x) for branch in branches[1:]) + branches[0](x)) == (8 + 4, 2 + 4)
    assert followed(lambda: torch.stack([branch(x) for branch in branches])) == (8 + 1, 2 + 1)


def test_the_longer_branch_decides(x):
    long, short = stack(5), stack(1)
    assert followed(lambda: long(x) + short(x)) == (7, 6)


def test_a_residual_costs_its_sum(x):
    net, norm = stack(1), nn.LayerNorm(WIDTH)
    assert followed(lambda: norm(x + net(x))) == (3, 3)


def test_a_constant_of_python_is_no_operation(x):
    """On fake tensors alone it makes a new one: figures of a checkpointed Falcon were not those of a real step."""
    assert followed(lambda: x * torch.tensor(2.0)) == (1, 1)


def test_operations_that_lead_nowhere_count_but_do_not_lengthen_the_path(x):
    net = stack(3)

    def run():
        x.sum()
        return net(x)

    assert followed(run) == (4, 3)


class Adapted(nn.Module):
    """``layers`` linear maps, each with what ``beside`` or ``behind`` adds."""

    def __init__(self, layers: int, kind: str) -> None:
        super().__init__()
        self.maps, self.kind = stack(layers), kind
        self.down = nn.ModuleList(nn.Linear(WIDTH, RANK, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(RANK, WIDTH, bias=False) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for frozen, down, up in zip(self.maps, self.down, self.up, strict=True):
            if self.kind == "serial":
                y = frozen(x)
                x = y + up(functional.relu(down(y)))
            elif self.kind == "parallel":
                x = torch.addmm(frozen(x), down(x), up.weight.T)
            else:
                x = functional.linear(x, frozen.weight + up.weight @ down.weight, frozen.bias)
        return x


@pytest.mark.parametrize("layers", [1, 3])
def test_a_serial_bottleneck_adds_four_to_both_a_parallel_one_two_operations_and_one_step(x, layers):
    bare, serial, parallel = stack(layers), Adapted(layers, "serial"), Adapted(layers, "parallel")
    assert followed(lambda: bare(x)) == (layers, layers)
    assert followed(lambda: serial(x)) == (5 * layers, 5 * layers)  # down, relu, up, sum: each waits for the one before
    assert followed(lambda: parallel(x)) == (3 * layers, 2 * layers)  # down waits for nothing but the layer's input


def test_a_weight_summed_at_each_call_needs_no_input_so_only_its_last_step_lies_on_the_path(x):
    computed = Adapted(3, "computed")  # product, sum, map; both of the first need parameters alone
    assert followed(lambda: computed(x)) == (9, 2 + 3)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.T, lambda x: x[1:, ::2], lambda x: x.view(-1), lambda x: x.expand(2, *x.shape),
        lambda x: x.detach(), lambda x: x.split(1), lambda x: x.unsqueeze(0).squeeze(0),
        lambda x: functional.dropout(x, 0.5, training=False),
        lambda x: torch.ops.aten._unsafe_view(x, [WIDTH, ROWS]),
        lambda x: torch.empty(3), lambda x: torch.empty_like(x), lambda x: x.new_empty(3), lambda x: x.shape,
    ],
)  # fmt: skip
def test_a_look_at_a_tensor_and_a_bare_allocation_compute_nothing(x, look):
    assert followed(lambda: look(x)) == (0, 0)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.T.contiguous(), lambda x: x.T.reshape(-1), lambda x: x.clone(), lambda x: x.double(),
        lambda x: torch.cat([x, x]), lambda x: torch.arange(3), lambda x: x.new_zeros(3), lambda x: x.topk(1),
        lambda x: torch.add(x, x, out=torch.empty_like(x)), lambda x: x.mul_(2), lambda x: x[0].fill_(1),
    ],
)  # fmt: skip
def test_copies_joins_constants_and_writes_are_operations(x, work):
    assert followed(lambda: work(x)) == (1, 1)


def test_a_question_for_a_value_is_none_but_what_it_asks_about_is(x):
    assert followed(lambda: bool((x == x).all())) == (2, 2)


def test_a_view_is_as_deep_as_what_it_shows(x):
    net = stack(2)

    def run():
        view = net[0](x)[1:, :].T
        return net[1](view.T)

    assert followed(run) == (2, 2)


def test_a_write_through_a_view_makes_the_whole_tensor_wait_for_it(x):
    def run():
        whole = torch.zeros(ROWS, WIDTH)  # 1
        whole[:, :1] = x[:, :1].exp().exp().exp()  # 1 to 3, then the copy, 4
        return whole.relu()  # 5

    assert followed(run) == (6, 5)


def test_a_write_into_an_input_is_seen_by_who_reads_it_later(x):
    def run():
        x.copy_(x.sin().cos())
        return x.relu()

    assert followed(run) == (4, 4)


def test_writes_into_one_tensor_wait_for_each_other(x):
    def run():
        x.add_(1).mul_(2).clamp_(0)

    assert followed(run) == (3, 3)


def test_an_address_that_is_used_again_inherits_no_depth():
    """Freed tensors leave their places to later ones, so that some of many fresh ones would seem deep."""

    def run():
        deep = torch.zeros(ROWS)
        for _ in range(4):
            deep = deep + 1
        last = [deep * 2 for _ in range(500)]
        last.clear()
        fresh = [torch.empty(ROWS) for _ in range(500)]
        for tensor in fresh:
            tensor.fill_(1.0)

    assert followed(run) == (1 + 4 + 500 + 500, 1 + 4 + 1)


def test_nothing_that_is_done_with_stays_in_memory():
    small = torch.ones(1)
    sizes = []
    with torch.no_grad(), CriticalPath():
        for _ in range(3):
            large = torch.zeros(1000)
            storage = large.untyped_storage()
            reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
            del large, storage
            sizes.append(reference.expired())
            small.add_(1)
    assert all(sizes)


def test_multiplications_are_counted_as_the_ledger_counts_them(x):
    net = stack(2)
    with torch.no_grad(), CriticalPath() as path:
        net(x)
    assert path.flops == 2 * 2 * ROWS * WIDTH * WIDTH


def test_more_of_the_same_rows_change_the_flops_alone():
    net = stack(2)
    found = []
    for rows in (1, 5):
        with torch.no_grad(), CriticalPath() as path:
            net(torch.randn(rows, WIDTH))
        found.append((path.operations, path.depth, path.flops // rows))
    assert found[0] == found[1]


def test_backward_of_a_chain_is_a_chain_of_input_gradients_with_weight_gradients_beside_it():
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)))
    out = net(torch.randn(ROWS, WIDTH)).sum()
    with CriticalPath() as path:
        out.backward()
    assert path.operations == 1 + 4 + 3  # the seed of ones; weight gradients; no input gradient at the first layer
    assert path.depth == 1 + 4

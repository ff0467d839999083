"""Each start of LoRA does to the first forward and the first gradients what its definition says."""

import math

import pytest
import torch

from bench.errors import BenchError
from bench.models.head import TaskModel, make_head
from bench.registry import make, resolved
from bench.training.loop import Recipe, train
from methods.lora import start
from methods.low_rank import low_rank
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, shape_of, states, trained
from tests.methods.families import batch, tiny

STARTS = ["kaiming", "gaussian", "zero_a", "zero", "random", "orthogonal"]
MOVES = {"random"}
"""Starts whose first forward is not the backbone's."""
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def lora(init, family="bert", seed=0, **config):
    """LoRA on a tiny backbone, its matrices drawn from ``seed``."""
    backbone = tiny(family) if isinstance(family, str) else family
    torch.manual_seed(seed)
    return adapt("lora", backbone, init=init, **config)


def norms(module):
    """Norm of the gradient of all A and of all B after one backward pass."""
    module.zero_grad()
    loss(module).backward()
    parts = {"A": [], "B": []}
    for name, parameter in trained(module).items():
        parts["A" if ".A." in name else "B"].append(parameter.grad.norm())
    return {name: torch.stack(found).norm().item() for name, found in parts.items()}


def after_a_step(module, rate=1e-2):
    optimizer = torch.optim.SGD(trained(module).values(), rate)
    optimizer.step()
    return norms(module)


def matrices(module, name):
    return [matrix for _, layer in low_rank(module) for matrix in getattr(layer, name).values()]


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize("init", STARTS)
def test_the_first_forward_is_the_backbones_unless_both_matrices_are_random(init, family):
    before, after = states(tiny(family)), states(lora(init, family)[1])
    if init in MOVES:
        assert not after.allclose(before, atol=1e-2)
    elif init == "orthogonal":
        torch.testing.assert_close(after, before, atol=2e-6, rtol=0)
    else:
        assert after.equal(before)


def test_the_default_is_the_start_of_the_authors_code_bit_for_bit():
    default, named = (adapt("lora", tiny("bert"), **config)[1] for config in ({}, {"init": "kaiming"}))
    torch.manual_seed(0)
    tiny("bert")  # the draws of the backbone come first, those of A follow module by module
    for layer in (layer for _, layer in low_rank(default)):
        for a, b in zip(layer.A.values(), layer.B.values(), strict=True):
            wanted = torch.empty_like(a)
            torch.nn.init.kaiming_uniform_(wanted, a=math.sqrt(5))
            assert a.equal(wanted) and not b.any()
    assert all(one.equal(other) for one, other in zip(default.parameters(), named.parameters(), strict=True))
    assert make("lora", {})[1] == make("lora", {"init": "kaiming"})[1]


@pytest.mark.parametrize(("init", "drawn"), [("gaussian", "A"), ("zero_a", "B"), ("zero", ""), ("random", "AB")])
def test_a_drawn_matrix_is_gaussian_of_deviation_one_over_rank_and_the_other_is_zero(init, drawn):
    _, module = lora(init, rank=16, targets=["query", "key", "value", "output", "ffn_in", "ffn_out"])
    for name in "AB":
        values = torch.cat([matrix.flatten() for matrix in matrices(module, name)])
        if name not in drawn:
            assert not values.any()
            continue
        assert values.std().item() == pytest.approx(1 / 16, rel=0.05)
        assert abs(values.mean().item()) < 0.05 / 16
        kurtosis = (values / values.std()).pow(4).mean().item()
        assert kurtosis == pytest.approx(3, abs=0.3)  # a uniform draw has 1.8


@PEFT_WARNS
def test_gaussian_is_pefts_gaussian():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, target_modules=["query", "value"], init_lora_weights="gaussian")
    peft = get_peft_model(tiny("bert"), config)
    theirs = {name: p for name, p in trained(peft).items()}
    drawn = torch.cat([p.flatten() for name, p in theirs.items() if "lora_A" in name])
    _, module = lora("gaussian", rank=16)
    ours = torch.cat([matrix.flatten() for matrix in matrices(module, "A")])
    assert len(drawn) == len(ours)
    assert drawn.std().item() == pytest.approx(ours.std().item(), rel=0.1)
    assert not any(p.any() for name, p in theirs.items() if "lora_B" in name)


@PEFT_WARNS
@pytest.mark.parametrize("rank", [2, 8])
def test_orthogonal_gives_pefts_matrices_from_the_same_seed(rank):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, target_modules=["query"], init_lora_weights="orthogonal")
    theirs = get_peft_model(tiny("bert"), config).base_model.model.encoder.layer[0].attention.self.query
    _, module = lora("kaiming", rank=rank, targets=["query"])
    ours = module.encoder.layer[0].attention.self.query
    torch.manual_seed(5)
    theirs.orthogonal_init("default")
    torch.manual_seed(5)
    start(ours, "orthogonal")
    torch.testing.assert_close(ours.A["query"], theirs.lora_A["default"].weight, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(ours.B["query"], theirs.lora_B["default"].weight, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize("rank", [2, 8])
def test_orthogonal_matrices_have_half_the_rank_each_and_their_product_is_zero(family, rank):
    _, module = lora("orthogonal", family, rank=rank)
    for _, layer in low_rank(module):
        for role in layer.rows:
            a, b = layer.A[role].double(), layer.B[role].double()
            assert torch.linalg.matrix_rank(a, rtol=1e-5) == torch.linalg.matrix_rank(b, rtol=1e-5) == rank // 2
            assert (b @ a).norm() < 1e-6 * b.norm() * a.norm()
            assert a.norm() > 0.1


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_with_both_at_zero_no_gradient_ever_comes_and_nothing_moves(family):
    _, module = lora("zero", family)
    optimizer = torch.optim.AdamW(trained(module).values(), 1e-1)
    for _ in range(5):
        assert norms(module) == {"A": 0.0, "B": 0.0}
        optimizer.step()
    assert not any(p.any() for p in trained(module).values())
    assert states(module).equal(states(tiny(family)))


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("init", "first", "second"), [("gaussian", "B", "A"), ("kaiming", "B", "A"), ("zero_a", "A", "B")]
)
def test_the_matrix_that_is_zero_moves_first_and_the_other_one_step_later(init, first, second, family):
    _, module = lora(init, family)
    before = norms(module)
    assert before[second] == 0.0
    assert before[first] > 0
    after = after_a_step(module)
    assert after[first] > 0
    assert after[second] > 0


@pytest.mark.parametrize("init", ["random", "orthogonal"])
def test_both_matrices_move_at_once_where_neither_is_zero(init):
    assert all(norm > 0 for norm in norms(lora(init)[1]).values())


@pytest.mark.parametrize("init", STARTS[1:])
def test_the_seed_decides_the_start(init):
    one, same, other = (trained(lora(init, seed=seed)[1]) for seed in (3, 3, 4))
    assert all(one[name].equal(same[name]) for name in one)
    assert all(one[name].equal(other[name]) for name in one) == (init == "zero")


@pytest.mark.parametrize("init", STARTS)
def test_a_start_changes_neither_count_nor_merging_nor_the_stored_delta(init):
    assert count(lora(init, bert_base())[1]) == 294_912
    method, module = lora(init, "gpt2", targets=["query", "value", "ffn_in"])
    randomise(module)
    delta, merged = method.delta(module), method.merge(module)
    assert shape_of(merged) == shape_of(tiny("gpt2"))
    torch.testing.assert_close(states(merged), states(module), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(method.unmerge(merged, delta).state_dict(), tiny("gpt2").state_dict(), atol=1e-5, rtol=0)
    config = make("lora", {"init": init, "targets": ["query", "value", "ffn_in"]})[1]
    torch.manual_seed(99)
    assert states(method.load_delta(tiny("gpt2"), config, delta)).equal(states(module))


@pytest.mark.parametrize("init", STARTS)
def test_a_start_keeps_the_type_of_a_half_precision_backbone(init):
    _, module = lora(init, tiny("bert").to(torch.bfloat16))
    assert {p.dtype for p in trained(module).values()} == {torch.bfloat16}


def test_weight_decay_moves_no_zero_start():
    """AdamW decays towards zero, where both matrices already are."""
    method, module = lora("zero")
    model = TaskModel(module, make_head(module, 2))
    recipe = Recipe(
        steps=4, batch_size=3, max_length=10, learning_rate=1e-1, head_learning_rate=1e-2, warmup=0.0,
        weight_decay=0.5, gradient_clip=1.0,
    )  # fmt: skip
    rows = [{**batch(), "labels": torch.tensor([0, 1, 0])}] * 4
    losses = train(model, method, module, rows, recipe)
    assert losses[-1] != losses[0]  # the head trains
    assert not any(p.any() for p in trained(module).values())


def test_the_configuration_names_its_start():
    assert resolved(make("lora", {"init": "zero_a"})[1])["init"] == "zero_a"
    with pytest.raises(BenchError, match=r"init = 'zeros' has the wrong type; it takes 'kaiming' or 'gaussian' or"):
        make("lora", {"init": "zeros"})
    with pytest.raises(BenchError, match=r"init = 'orthogonal' halves the rank, rank = 3 is odd; it takes an even one"):
        make("lora", {"init": "orthogonal", "rank": 3})


@pytest.mark.parametrize("name", ["rslora", "lora_plus", "lora_fa", "dora", "pissa"])
def test_relatives_of_lora_have_one_start(name):
    assert "init" not in resolved(make(name, {})[1])
    with pytest.raises(BenchError, match="unknown key 'init'"):
        make(name, {"init": "zero"})


def test_a_budget_chooses_among_ranks_that_the_start_allows():
    method, config = make("lora", {"init": "orthogonal"})
    assert list(method.sizes(tiny("bert"), config)[:3]) == [2, 4, 6]
    assert list(method.sizes(tiny("bert"), make("lora", {})[1])[:3]) == [1, 2, 3]

"""peft's optimizers for LoRA under the bridge: whose rates and frozen parts they are, and that they are peft's own."""

import pytest
import torch
from torch import nn

from bench.count.step import set_dropout
from bench.errors import BenchError
from bench.models.head import TaskModel, make_head
from bench.registry import make
from bench.schema.shape import Setting
from bench.training.loop import Recipe, check_groups, head_groups, optimizer_for, train
from tests.factories.cost_steps import FFN, LAYERS, WIDTH, fake_counts, real_counts, real_step, tiny_shape
from tests.methods.adapted import adapt, trained
from tests.methods.families import batch, tiny

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query", "value"]}
PLUS = {"optimizer_type": "lora+", "loraplus_lr_ratio": 4}
FA = {"optimizer_type": "lora-fa"}
RIEMANNIAN = {"optimizer_type": "riemannian", "riemannian_reg": 0.05}
RECIPE = Recipe(
    steps=3, batch_size=2, max_length=12, learning_rate=1e-2, head_learning_rate=1e-3, warmup=0.1, weight_decay=0.01,
    gradient_clip=0.0,
)  # fmt: skip
ROWS = batch(rows=2) | {"labels": torch.tensor([0, 1])}
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def trained_by_the_harness(name, **config):
    """The parameters that training moved, by name, in the order of their modules."""
    method, module = adapt(name, "bert", **config)
    model = with_head(module)
    train(model, method, module, [ROWS] * RECIPE.steps, RECIPE)
    return {name: p.detach() for name, p in trained(model).items()}


def trained_by_hand(model, pairs, dense):
    """What a plain loop over the recipe's steps makes of ``model``; ``pairs`` steps its body, ``dense`` its head."""
    for step in range(RECIPE.steps):
        for group, peak in [(pairs.param_groups[0], 1e-2), *((group, 1e-3) for group in dense.param_groups)]:
            group["lr"] = peak * (RECIPE.steps - step) / RECIPE.steps
        model.loss(ROWS).backward()
        pairs.step()
        dense.step()
        model.zero_grad()
    return [p.detach() for p in trained(model).values()]


def with_head(module):
    """``module`` under a head; A of every LoRA from one stream, B zero, and nothing is dropped."""
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "lora_A" in name or ".A." in name:
                p.copy_(torch.randn(p.shape, generator=stream))
    model = TaskModel(module, make_head(module, 2, seed=0))
    set_dropout(model, 0.0)
    return model


def test_lora_plus_of_peft_trains_as_ours():
    theirs = trained_by_the_harness("peft", **LORA, **PLUS)
    ours = trained_by_the_harness("lora_plus", rank=4, alpha=16, ratio=4)
    assert len(ours) == len(theirs) == 2 * 4 + 2
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(mine, other)


@PEFT_WARNS
def test_lora_fa_is_what_peft_s_own_loop_does():
    """Bit by bit what its factory does with peft's own model; the head takes AdamW's step, as beside any method."""
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_lorafa_optimizer

    found = trained_by_the_harness("peft", **LORA, **FA)
    model = get_peft_model(tiny("bert"), LoraConfig(**{k: v for k, v in LORA.items() if k != "peft_type"}))
    whole = with_head(model)
    optimizer = create_lorafa_optimizer(model, r=4, lora_alpha=16, lr=1e-2, weight_decay=0.01)
    dense = torch.optim.AdamW(head_groups(whole.head, 1e-3), weight_decay=0.01)
    expected = trained_by_hand(whole, optimizer, dense)
    *pairs, weight, bias = found.values()
    torch.testing.assert_close(pairs, expected[:-2], atol=0, rtol=0)
    torch.testing.assert_close([weight, bias], expected[-2:], atol=1e-6, rtol=1e-5)


@PEFT_WARNS
def test_the_riemannian_optimizer_is_what_peft_s_own_loop_does():
    """Bit by bit what its factory does with peft's own model, whose head takes AdamW's step; and it is no AdamW."""
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_riemannian_optimizer

    found = trained_by_the_harness("peft", **LORA, **RIEMANNIAN)
    model = get_peft_model(tiny("bert"), LoraConfig(**{k: v for k, v in LORA.items() if k != "peft_type"}))
    whole = with_head(model)
    pairs = create_riemannian_optimizer(model, torch.optim.AdamW, lr=1e-2, reg=0.05, weight_decay=0.01, fused=True)
    dense = torch.optim.AdamW(head_groups(whole.head, 1e-3), weight_decay=0.01, fused=True)
    expected = trained_by_hand(whole, pairs, dense)
    torch.testing.assert_close(list(found.values()), expected, atol=0, rtol=0)
    plain = trained_by_the_harness("peft", **LORA).values()
    assert not any(torch.equal(one, other) for one, other in zip(found.values(), plain, strict=True))


def test_the_riemannian_optimizer_takes_peft_s_damping_where_none_is_given():
    moved = [
        trained_by_the_harness("peft", **LORA, **RIEMANNIAN | {"riemannian_reg": reg}) for reg in (None, 0.01, 0.05)
    ]
    weights = [torch.cat([p.flatten() for p in one.values()]) for one in moved]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])


def test_the_riemannian_optimizer_without_a_pair_is_refused():
    with pytest.raises(BenchError, match="did not find any trainable lora_A/lora_B"):
        adapt("peft", "bert", **LORA | RIEMANNIAN | {"target_modules": ["word_embeddings"]})


def test_lora_fa_trains_every_b_and_no_a():
    _, module = adapt("peft", "bert", **LORA, **FA)
    names = list(trained(module))
    assert names and all("lora_B" in name for name in names)
    assert not any(p.requires_grad for name, p in module.named_parameters() if "lora_A" in name)


@pytest.mark.parametrize(
    "more",
    [{"use_dora": True}, {"lora_bias": True}, {"target_modules": ["word_embeddings", "query"]}],
    ids=lambda more: next(iter(more)),
)
def test_lora_fa_of_more_than_pairs_is_refused(more):
    """The library's optimizer would pair the wrong tensors, or train an embedding's zeros by zero gradients."""
    with pytest.raises(BenchError, match="'lora-fa' takes pairs of A and B alone"):
        adapt("peft", "bert", **LORA | FA | more)


def decays(method, module):
    """Weight decay and rate of each trained tensor under the recipe, by name."""
    groups = [*method.param_groups(module, 1e-2), *head_groups(make_head(module, 2), 1e-3)]
    check_groups(groups, nn.ModuleList([module, nn.ParameterList(p for group in groups[-2:] for p in group["params"])]))
    names = {id(p): name for name, p in module.named_parameters()}
    made = optimizer_for(method, module, groups, weight_decay=0.5)
    return {
        names.get(id(p), "head"): (group["weight_decay"], group["lr"])
        for group in made.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("optimizer", [PLUS, FA, RIEMANNIAN], ids=["lora+", "lora-fa", "riemannian"])
def test_vectors_take_no_decay_and_rates_are_the_recipes(optimizer):
    method, module = adapt("peft", "bert", **LORA, **optimizer, bias="all")
    found, ndim = decays(method, module), {name: p.ndim for name, p in trained(module).items()}
    assert found.keys() >= ndim.keys()
    for name, wide in ndim.items():
        fast = 4 if optimizer is PLUS and (wide == 1 or "lora_B" in name) else 1
        assert found[name] == (0.5 * (wide > 1), 1e-2 * fast), name
    assert found["head"][1] == 1e-3


def test_lora_plus_trains_an_embedding_at_the_recipes_rate():
    method, module = adapt("peft", "bert", **LORA | PLUS | {"target_modules": ["word_embeddings", "query"]})
    rates = {rate for name, (_, rate) in decays(method, module).items() if "embedding" in name}
    assert rates == {1e-2}


@pytest.mark.parametrize("optimizer", [FA, RIEMANNIAN], ids=["lora-fa", "riemannian"])
def test_a_step_with_them_is_counted_without_weights_as_with_them(optimizer, tmp_path):
    shape, setting = tiny_shape("bert", tmp_path), Setting(batch=2, length=8)
    config = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear", **optimizer}
    counted = fake_counts(shape, "peft", setting, **config)
    assert counted == real_counts(real_step(shape, "peft", setting, **config))
    maps = 2 * (4 * WIDTH + WIDTH + FFN)  # sides that a B of rank 2 reaches: four square maps and two of the FFN
    assert counted.bytes.optimizer_state >= 2 * 4 * LAYERS * maps


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer_type": "lora-plus"}, r"optimizer_type = 'lora-plus'; it takes 'lora\+', 'lora-fa' or 'riem"),
        ({"optimizer_type": "lora+"}, "optimizer_type = 'lora\\+' needs loraplus_lr_ratio"),
        ({"optimizer_type": "lora-fa", "loraplus_lr_ratio": 4}, "loraplus_lr_ratio goes with"),
        ({"loraplus_lr_ratio": 4}, "loraplus_lr_ratio goes with"),
        ({"riemannian_reg": 0.01}, "riemannian_reg goes with optimizer_type = 'riemannian' alone"),
        (RIEMANNIAN | {"riemannian_reg": -1}, "riemannian_reg = -1; it takes a number above 0"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": 0}, "loraplus_lr_ratio = 0; it takes a number above 0"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": True}, "loraplus_lr_ratio = True; it takes a number above 0"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": 10**400}, "takes a number above 0, a million at most"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": float("inf")}, "loraplus_lr_ratio = inf; it takes"),
        ({"optimizer_type": ["lora+"]}, "it takes 'lora"),
        ({"peft_type": "OFT", "optimizer_type": "lora-fa"}, "unknown key 'optimizer_type'"),
    ],
)
def test_what_makes_no_optimizer_is_refused_by_one_sentence(values, words):
    with pytest.raises(BenchError, match=words):
        make("peft", {"peft_type": "LORA"} | values)

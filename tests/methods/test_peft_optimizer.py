"""peft's optimizers for LoRA under the bridge: whose rates and frozen parts they are, and that they are peft's own."""

import pytest
import torch

from bench.cost.setting import Setting
from bench.cost.step import set_dropout
from bench.errors import BenchError
from bench.head import TaskModel, make_head
from bench.registry import make
from bench.train import Recipe, train
from tests.cost_steps import FFN, LAYERS, WIDTH, fake_counts, real_counts, real_step, tiny_shape
from tests.methods.adapted import adapt, trained
from tests.methods.families import batch, tiny

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query", "value"]}
PLUS = {"optimizer_type": "lora+", "loraplus_lr_ratio": 4}
FA = {"optimizer_type": "lora-fa"}
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
    """Bit by bit what its factory does with peft's own model; the head takes the step of the same class beside it."""
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_lorafa_optimizer

    found = trained_by_the_harness("peft", **LORA, **FA)
    model = get_peft_model(tiny("bert"), LoraConfig(**{k: v for k, v in LORA.items() if k != "peft_type"}))
    whole = with_head(model)
    optimizer = create_lorafa_optimizer(model, r=4, lora_alpha=16, lr=1e-2, weight_decay=0.01)
    dense = type(optimizer)([head_group(name, p) for name, p in whole.head.named_parameters()])
    for step in range(RECIPE.steps):
        for group, peak in [(optimizer.param_groups[0], 1e-2), *((group, 1e-3) for group in dense.param_groups)]:
            group["lr"] = peak * (RECIPE.steps - step) / RECIPE.steps
        whole.loss(ROWS).backward()
        optimizer.step()
        dense.step()
        whole.zero_grad()
    expected = [p.detach() for p in trained(whole).values()]
    torch.testing.assert_close(list(found.values()), expected, atol=0, rtol=0)


def head_group(name, p):
    """A tensor of the head with weight decay where it is a matrix."""
    return {"params": [p], "names": [name], "scaling_factors": [None], "weight_decay": 0.01 * (p.ndim > 1)}


def test_lora_fa_trains_every_b_and_no_a():
    _, module = adapt("peft", "bert", **LORA, **FA)
    names = list(trained(module))
    assert names and all("lora_B" in name for name in names)
    assert not any(p.requires_grad for name, p in module.named_parameters() if "lora_A" in name)


def test_lora_fa_is_counted_without_weights_as_with_them(tmp_path):
    shape, setting = tiny_shape("bert", tmp_path), Setting(batch=2, length=8)
    config = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear", **FA}
    counted = fake_counts(shape, "peft", setting, **config)
    assert counted == real_counts(real_step(shape, "peft", setting, **config))
    maps = 2 * (4 * WIDTH + WIDTH + FFN)  # sides that a B of rank 2 reaches: four square maps and two of the FFN
    assert counted.bytes.optimizer_state >= 2 * 4 * LAYERS * maps


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer_type": "lora-plus"}, r"optimizer_type = 'lora-plus'; it takes 'lora\+' or 'lora-fa'"),
        ({"optimizer_type": "lora+"}, "loraplus_lr_ratio goes with optimizer_type = 'lora\\+'"),
        ({"optimizer_type": "lora-fa", "loraplus_lr_ratio": 4}, "loraplus_lr_ratio goes with"),
        ({"loraplus_lr_ratio": 4}, "loraplus_lr_ratio goes with"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": 0}, "loraplus_lr_ratio = 0; it takes a number above 0"),
        ({"optimizer_type": "lora+", "loraplus_lr_ratio": True}, "loraplus_lr_ratio = True; it takes a number above 0"),
        ({"peft_type": "OFT", "optimizer_type": "lora-fa"}, "unknown key 'optimizer_type'"),
    ],
)
def test_what_makes_no_optimizer_is_refused_by_one_sentence(values, words):
    with pytest.raises(BenchError, match=words):
        make("peft", {"peft_type": "LORA"} | values)

"""LoRA's relatives: counts, rates, what they save and store, equality with peft, and what each refuses."""

import copy

import pytest
import torch
from torch import nn

from bench.errors import BenchError
from bench.registry import make
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, states, trained
from tests.methods.families import FAMILIES, tiny

RELATIVES = ["rslora", "lora_plus", "lora_fa", "dora", "pissa"]
ALL_LINEAR = ["query", "key", "value", "output", "ffn_in", "ffn_out"]
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
MODULES = {
    "bert": (["query", "value"], ["query", "value"]),
    "llama": (["query", "value"], ["q_proj", "v_proj"]),
    "t5": (["query", "value"], ["q", "v"]),
    "gpt2": (["output", "ffn_in", "ffn_out"], ["c_proj", "c_fc"]),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rslora", 294_912), ("lora_plus", 294_912), ("lora_fa", 147_456), ("dora", 313_344), ("pissa", 294_912)],
)
def test_count_on_bert_base(name, expected):
    assert count(adapt(name, bert_base())[1]) == expected


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("lora_fa", 147_456), ("dora", 313_344), ("pissa", 2 * 294_912)],
)
def test_stored_bytes_on_bert_base(name, numbers):
    method, module = adapt(name, bert_base())
    seed = 8 if name == "lora_fa" else 0
    assert sum(t.nbytes for t in method.delta(module).values()) == 4 * numbers + seed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", RELATIVES)
def test_all_linear_maps_merge(name, family):
    method, module = adapt(name, family, rank=3, targets=ALL_LINEAR)
    torch.testing.assert_close(states(module), states(tiny(family)), atol=1e-5, rtol=0)
    randomise(module)
    assert not states(module).allclose(states(tiny(family)), atol=1e-3)
    torch.testing.assert_close(states(method.merge(module)), states(module), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize("name", ["rslora", "lora_plus", "lora_fa", "pissa"])
def test_unmerging_gives_the_weights_back(name, family):
    method, module = adapt(name, family, rank=3, alpha=7, targets=ALL_LINEAR)
    plain = method.unmerge(method.merge(randomise(module)), method.delta(module))
    torch.testing.assert_close(plain.state_dict(), tiny(family).state_dict(), atol=1e-5, rtol=0)


def test_dora_is_not_unmerged():
    method, module = adapt("dora", "bert")
    with pytest.raises(BenchError, match="DoRA cannot be unmerged"):
        method.unmerge(method.merge(module), method.delta(module))


def test_rslora_is_lora_at_another_alpha():
    ours, theirs = adapt("rslora", "bert", rank=4, alpha=8)[1], adapt("lora", "bert", rank=4, alpha=16)[1]
    assert states(randomise(ours)).allclose(states(_copied(ours, theirs)), atol=1e-6)


def test_lora_plus_rates():
    method, module = adapt("lora_plus", "gpt2", ratio=5)
    slow, fast = method.param_groups(module, 1e-3)
    assert (slow["lr"], fast["lr"]) == (1e-3, pytest.approx(5e-3))
    names = {id(p): name for name, p in trained(module).items()}
    assert all(".A." in names[id(p)] for p in slow["params"]) and all(".B." in names[id(p)] for p in fast["params"])
    assert len(slow["params"]) + len(fast["params"]) == len(names)


@PEFT_WARNS
def test_lora_plus_groups_equal_pefts():
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    method, module = adapt("lora_plus", "bert", ratio=4)
    peft = get_peft_model(tiny("bert"), LoraConfig(r=8, target_modules=["query", "value"]))
    theirs = create_loraplus_optimizer(peft, torch.optim.SGD, lr=1e-2, loraplus_lr_ratio=4)
    rates = {(g["lr"], sum(p.numel() for p in g["params"])) for g in theirs.param_groups if g["params"]}
    assert rates == {(g["lr"], sum(p.numel() for p in g["params"])) for g in method.param_groups(module, 1e-2)}


def saved_bytes(name):
    """Bytes that one target of BERT keeps for backward, each storage once, its parameters left out."""
    module = adapt(name, "bert")[1].encoder.layer[0].attention.self.query
    own, kept = {p.untyped_storage().data_ptr() for p in module.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(3, 10, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    del out
    return sum(kept.values())


def test_lora_fa_saves_the_narrow_input_alone():
    narrow, wide = 4 * 30 * 8, 4 * 30 * 32
    assert saved_bytes("lora") == narrow + wide
    assert saved_bytes("lora_fa") == narrow


def test_lora_fa_draws_by_seed_and_name():
    def drawn(seed, targets):
        backbone = tiny("gpt2")  # seeds too
        torch.manual_seed(seed)
        return adapt("lora_fa", backbone, targets=targets)[1].h[0].attn.c_attn

    first, alone, other = drawn(1, ["query", "value"]), drawn(1, ["value"]), drawn(2, ["value"])
    assert first.A["value"].equal(alone.A["value"]) and not first.A["value"].equal(first.A["query"])
    assert not other.A["value"].equal(alone.A["value"])
    assert alone.A["value"].abs().max() <= 32**-0.5 and not alone.A["value"].requires_grad


@pytest.mark.parametrize("niter", [0, 16])
def test_pissa_moves_the_principal_part(niter):
    weight = tiny("bert").encoder.layer[0].attention.self.query.weight
    module = adapt("pissa", "bert", rank=4, niter=niter)[1].encoder.layer[0].attention.self.query
    product = module.scale * module.B["query"] @ module.A["query"]
    torch.testing.assert_close(module.base.weight + product, weight, atol=1e-6, rtol=0)
    # Eckart-Young: nothing of rank 4 leaves less than the remaining singular values
    least = torch.linalg.svdvals(weight)[4:].norm()
    left = (weight - product).norm()
    assert least * (1 - 1e-5) <= left <= least * (1.001 if niter else 1 + 1e-5)


def test_pissa_takes_no_weight_decay():
    method, module = adapt("pissa", "bert")
    assert [group["weight_decay"] for group in method.param_groups(module, 1e-3)] == [0.0]


def test_dora_keeps_the_length_of_rows():
    method, module = adapt("dora", "bert", rank=4)
    with torch.no_grad():
        for name, p in trained(module).items():
            if ".m." not in name:
                p += 0.1 * torch.randn_like(p)
    before, after = (m.encoder.layer[0].attention.self.query.weight for m in (tiny("bert"), method.merge(module)))
    assert not after.allclose(before, atol=1e-3)
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))


def test_dora_of_a_row_of_zeros_is_finite():
    backbone = tiny("bert")
    backbone.encoder.layer[0].attention.self.query.weight.data[0] = 0
    method, module = adapt("dora", backbone)
    loss(module).backward()
    assert states(module).isfinite().all() and states(method.merge(module)).isfinite().all()
    assert all(p.grad.isfinite().all() for p in trained(module).values())


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        *((name, {"rank": 0}, f"{name}: rank = 0 is too small") for name in RELATIVES),
        ("lora_plus", {"ratio": 0}, "ratio = 0 would stop B; it takes more than 0"),
        ("pissa", {"dropout": 0.1}, "dropout = 0.1 would drop principal parts of the weights; pissa takes 0"),
        ("pissa", {"niter": -1}, "niter = -1 is too small"),
    ],
)
def test_bad_values_are_refused(name, config, sentence):
    with pytest.raises(BenchError, match=sentence):
        make(name, config)


@pytest.mark.parametrize("name", RELATIVES)
def test_rank_beyond_the_map_is_refused(name):
    with pytest.raises(BenchError, match=f"{name}: rank = 17 exceeds the 16 x 32 map"):
        adapt(name, "llama", rank=17)


@PEFT_WARNS
@pytest.mark.parametrize("family", MODULES)
@pytest.mark.parametrize("name", RELATIVES)
def test_equals_peft(name, family):
    from peft import LoraConfig, get_peft_model

    targets, modules = MODULES[family]
    options = {
        "rslora": {"use_rslora": True}, "dora": {"use_dora": True}, "pissa": {"init_lora_weights": "pissa"},
    }.get(name, {})  # fmt: skip
    exact = {"niter": 0} if name == "pissa" else {}
    _, module = adapt(name, family, targets=targets, **exact)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=modules, fan_in_fan_out=family == "gpt2", **options)
    peft = get_peft_model(tiny(family), config)
    randomise(module)
    ours = {key: p for key, p in module.named_parameters() if ".A." in key or ".B." in key or ".m." in key}
    theirs = {_our_name(key, ours): p for key, p in trained(peft).items()}
    _load(theirs, ours)
    torch.testing.assert_close(states(peft), states(module), atol=2e-6, rtol=1e-5)
    loss(module).backward()
    loss(peft).backward()
    for key, parameter in trained(module).items():
        torch.testing.assert_close(theirs[key].grad, parameter.grad, atol=2e-6, rtol=1e-5)


@PEFT_WARNS
def test_dora_drops_as_peft_does():
    from peft import LoraConfig, get_peft_model

    _, module = adapt("dora", "llama", dropout=0.5)
    modules = MODULES["llama"][1]
    peft = get_peft_model(
        tiny("llama"), LoraConfig(r=8, lora_alpha=16, target_modules=modules, lora_dropout=0.5, use_dora=True)
    )
    ours = trained(randomise(module))
    _load({_our_name(key, ours): p for key, p in trained(peft).items()}, ours)
    outputs = []
    for model in (module, peft):
        torch.manual_seed(0)
        outputs.append(states(model.train()))
    torch.testing.assert_close(*outputs, atol=2e-6, rtol=1e-5)
    assert not outputs[0].allclose(states(module.eval()), atol=1e-3)


def _copied(source: nn.Module, into: nn.Module) -> nn.Module:
    into.load_state_dict(copy.deepcopy(source.state_dict()))
    return into


def _our_name(name: str, ours: dict) -> str:
    path, _, matrix = name.removeprefix("base_model.model.").removesuffix(".weight").partition(".lora_")
    kind = {"A": ".A.", "B": ".B.", "magnitude_vector": ".m."}[matrix.removesuffix(".default")]
    (match,) = [key for key in ours if key.startswith(f"{path}.") and kind in key]
    return match


def _load(theirs: dict, ours: dict) -> None:
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in ours.items():
            theirs[name].copy_(parameter)

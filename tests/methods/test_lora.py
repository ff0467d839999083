"""LoRA adds a low-rank branch, equals peft on equal weights, and folds into the backbone and out again."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.anatomy import anatomy
from bench.errors import BenchError
from bench.registry import make
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, shape_of, states, trained
from tests.methods.families import FAMILIES, key_width, tiny

ALL_LINEAR = ["query", "key", "value", "output", "ffn_in", "ffn_out"]
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 294_912),
        ({"rank": 1}, 36_864),
        ({"rank": 4}, 147_456),
        ({"rank": 16}, 589_824),
        ({"rank": 64}, 2_359_296),
        ({"targets": ALL_LINEAR[:4]}, 589_824),
        ({"targets": ALL_LINEAR}, 1_327_104),
    ],
)
def test_count_on_bert_base(config, expected):
    assert count(adapt("lora", bert_base(), **config)[1]) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_count_is_rank_times_both_sides_of_each_target(family):
    _, module = adapt("lora", family, rank=4)
    value_width = key_width(family)
    assert count(module) == 2 * 4 * (32 + 32 + 32 + value_width)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_forward_is_the_backbones(family):
    assert states(adapt("lora", family, targets=ALL_LINEAR)[1]).equal(states(tiny(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_branches_alone(family):
    _, module = adapt("lora", family, targets=ALL_LINEAR)
    loss(randomise(module)).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any().item()) == parameter.requires_grad, name


def test_b_moves_first():
    _, module = adapt("lora", "bert")
    loss(module).backward()
    assert all(p.grad.any().item() == (".B." in name) for name, p in trained(module).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_a_backbone_with_the_same_output(family):
    method, module = adapt("lora", family, targets=ALL_LINEAR)
    before = copy.deepcopy(randomise(module)).state_dict()
    merged = method.merge(module)
    assert shape_of(merged) == shape_of(tiny(family))
    assert count(merged) == 0
    torch.testing.assert_close(states(merged), states(module), atol=1e-5, rtol=0)
    assert not states(merged).allclose(states(tiny(family)), atol=1e-3)
    assert all(module.state_dict()[key].equal(value) for key, value in before.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_unmerging_gives_the_weights_back(family):
    method, module = adapt("lora", family, rank=3, alpha=7, targets=ALL_LINEAR)
    merged = method.merge(randomise(module))
    plain = method.unmerge(merged, method.delta(module))
    assert shape_of(plain) == shape_of(tiny(family))
    torch.testing.assert_close(plain.state_dict(), tiny(family).state_dict(), atol=1e-6, rtol=0)
    assert not states(merged).allclose(states(plain), atol=1e-3)


def test_unmerging_asks_for_what_merge_returned():
    method, module = adapt("lora", "bert")
    with pytest.raises(BenchError, match="takes a module that merge returned"):
        method.unmerge(tiny("bert"), method.delta(module))
    with pytest.raises(BenchError, match=r"delta has 'h.0.attn.c_attn.A.query', which is no LoRA update"):
        method.unmerge(method.merge(module), method.delta(adapt("lora", "gpt2")[1]))


def test_merging_half_precision_folds_in_single():
    backbone = tiny("bert").to(torch.bfloat16)
    weight = backbone.encoder.layer[0].attention.self.query.weight.float()
    method, module = adapt("lora", backbone)
    branch = randomise(module).encoder.layer[0].attention.self.query
    assert branch.A["query"].dtype == torch.bfloat16
    merged = method.merge(module).encoder.layer[0].attention.self.query.weight
    assert merged.equal((weight + 2 * branch.B["query"].float() @ branch.A["query"].float()).to(torch.bfloat16))


def test_a_copy_is_of_its_own():
    _, module = adapt("lora", "gpt2")
    twin = copy.deepcopy(module)
    randomise(twin)
    assert states(module).equal(states(tiny("gpt2")))
    assert not states(twin).equal(states(module))


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_runs_and_merges_on_fake_tensors(family):
    with FakeTensorMode():
        method, module = adapt("lora", family)
        loss(module).backward()
        assert states(method.merge(module)).shape == states(module).shape
    assert all(isinstance(p.grad, FakeTensor) for p in trained(module).values())


def test_dropout_acts_on_the_branch_in_training_alone():
    _, module = adapt("lora", tiny("llama"), dropout=0.5)
    assert states(module.train()).equal(states(tiny("llama")))
    randomise(module)
    assert not states(module.train()).equal(states(module))
    assert states(module.eval()).equal(states(module))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"rank": 0}, "lora: rank = 0 is too small; it takes at least 1"),
        ({"alpha": 0}, "lora: alpha = 0 leaves nothing to train"),
        ({"dropout": 1.0}, "lora: dropout = 1.0 drops everything"),
        ({"targets": ["query", "query"]}, "names a role twice"),
    ],
)
def test_bad_values_are_refused(config, sentence):
    with pytest.raises(BenchError, match=sentence):
        make("lora", config)


def test_rank_beyond_the_map_is_refused():
    with pytest.raises(BenchError, match=r"rank = 17 exceeds the 16 x 32 map 'layers.0.self_attn.v_proj' \(value\)"):
        adapt("lora", "llama", rank=17)
    with pytest.raises(BenchError, match="rank = 33 exceeds the 32 x 32 map"):
        adapt("lora", "gpt2", rank=33)
    adapt("lora", "llama", rank=16)


def test_a_target_that_matches_nothing_is_refused():
    with pytest.raises(BenchError, match="'ffn_gate' matches nothing in family 'gpt2'"):
        adapt("lora", "gpt2", targets=["ffn_gate"])


@PEFT_WARNS
@pytest.mark.parametrize(
    ("family", "targets", "modules"),
    [
        ("bert", ["query", "value"], ["query", "value"]),
        ("llama", ["query", "value"], ["q_proj", "v_proj"]),
        ("t5", ["query", "value"], ["q", "v"]),
        ("gpt2", ["output", "ffn_in", "ffn_out"], ["c_proj", "c_fc"]),
    ],
)
def test_equals_peft(family, targets, modules):
    from peft import LoraConfig, get_peft_model

    _, module = adapt("lora", family, targets=targets)
    ours = trained(randomise(module))
    config = LoraConfig(r=8, lora_alpha=16, target_modules=modules, fan_in_fan_out=family == "gpt2")
    peft = get_peft_model(tiny(family), config)
    theirs = {_our_name(name, ours): p for name, p in trained(peft).items()}
    _load(theirs, ours)
    torch.testing.assert_close(states(peft), states(module), atol=1e-6, rtol=0)
    loss(module).backward()
    loss(peft).backward()
    for name, parameter in ours.items():
        torch.testing.assert_close(theirs[name].grad, parameter.grad, atol=1e-6, rtol=0)


@PEFT_WARNS
@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox", "bloom", "falcon", "falcon_grouped"])
def test_fused_slices_equal_peft_on_the_whole_map(family):
    """Wherever the rows of a role lie: one after the other, in unequal parts, head by head, group by group."""
    from peft import LoraConfig, get_peft_model

    roles = ("query", "key", "value")
    maps = [layer.projections for layer in anatomy(tiny(family)).layers]
    _, module = adapt("lora", family, targets=roles)
    name = maps[0]["query"].path.rpartition(".")[2]
    peft = get_peft_model(
        tiny(family), LoraConfig(r=8, lora_alpha=16, target_modules=[name], fan_in_fan_out=family == "gpt2")
    )
    pairs = [(module.get_submodule(at["query"].path), peft.base_model.model.get_submodule(at["query"].path))
             for at in maps]  # fmt: skip
    randomise(module)
    outputs = pairs[0][1].out_features
    rows = {role: maps[0][role].rows(outputs) for role in roles}
    with torch.no_grad():
        for ours, theirs in pairs:  # peft has one A for the three slices
            theirs.lora_A["default"].weight.copy_(ours.A["query"])
            for role in roles:
                ours.A[role].copy_(ours.A["query"])
                theirs.lora_B["default"].weight[rows[role]] = ours.B[role]
    torch.testing.assert_close(states(peft), states(module), atol=1e-5, rtol=0)
    loss(module).backward()
    loss(peft).backward()
    for ours, theirs in pairs:
        torch.testing.assert_close(
            theirs.lora_A["default"].weight.grad, sum(ours.A[role].grad for role in roles), atol=1e-6, rtol=0
        )
        for role in roles:
            found = theirs.lora_B["default"].weight.grad[rows[role]]
            torch.testing.assert_close(found, ours.B[role].grad, atol=1e-6, rtol=0)


def _our_name(name: str, ours: dict) -> str:
    path, _, matrix = name.removeprefix("base_model.model.").removesuffix(".default.weight").rpartition(".lora_")
    (match,) = [key for key in ours if key.startswith(f"{path}.{matrix}.")]
    return match


def _load(theirs: dict, ours: dict) -> None:
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in ours.items():
            theirs[name].copy_(parameter)

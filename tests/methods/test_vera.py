"""VeRA trains two vectors a target around one frozen pair a shape, equals peft, and folds in and out again."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.errors import BenchError
from bench.registry import make
from methods.vera import Pair, Scaled
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, shape_of, states, trained
from tests.methods.families import FAMILIES, key_width, tiny

ALL_LINEAR = ["query", "key", "value", "output", "ffn_in", "ffn_out"]
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def pairs(module):
    return [part for part in module.modules() if isinstance(part, Pair)]


@pytest.mark.parametrize(("config", "expected"), [({}, 24_576), ({"rank": 1024}, 43_008), ({"rank": 1}, 18_456)])
def test_count_on_bert_base(config, expected):
    assert count(adapt("vera", bert_base(), **config)[1]) == expected


def test_frozen_matrices_count_once_a_shape():
    plain = sum(p.numel() for p in bert_base().parameters())
    _, module = adapt("vera", bert_base())
    assert sum(p.numel() for p in module.parameters()) - plain - count(module) == 393_216
    _, module = adapt("vera", bert_base(), targets=ALL_LINEAR, rank=2)  # d x d, d x f and f x d
    assert sum(p.numel() for p in module.parameters()) - plain - count(module) == 2 * (2 * 768 + 2 * (768 + 3072))


@pytest.mark.parametrize("family", FAMILIES)
def test_count_is_rank_and_output_of_each_target(family):
    _, module = adapt("vera", family, rank=5)
    value_width = key_width(family)
    assert count(module) == 2 * (5 + 32 + 5 + value_width)
    assert len(pairs(module)) == (1 if value_width == 32 else 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_forward_is_the_backbones(family):
    assert states(adapt("vera", family, targets=ALL_LINEAR)[1]).equal(states(tiny(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_vectors_alone(family):
    _, module = adapt("vera", family, targets=ALL_LINEAR)
    loss(randomise(module)).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any().item()) == parameter.requires_grad, name


def test_b_moves_first():
    _, module = adapt("vera", "bert")
    loss(module).backward()
    assert all(p.grad.any().item() == (".b." in name) for name, p in trained(module).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_a_backbone_with_the_same_output_and_unmerges(family):
    method, module = adapt("vera", family, rank=40, projection_seed=3, targets=ALL_LINEAR)
    merged = method.merge(randomise(module))
    assert shape_of(merged) == shape_of(tiny(family))
    assert count(merged) == 0
    torch.testing.assert_close(states(merged), states(module), atol=1e-5, rtol=1e-5)
    assert not states(merged).allclose(states(tiny(family)), atol=1e-3)
    plain = method.unmerge(merged, method.delta(module))
    torch.testing.assert_close(plain.state_dict(), tiny(family).state_dict(), atol=1e-6, rtol=0)


def test_unmerging_asks_for_what_merge_returned_and_for_a_delta_of_this_backbone():
    method, module = adapt("vera", "bert")
    delta = method.delta(module)
    with pytest.raises(BenchError, match="takes a module that merge returned"):
        method.unmerge(tiny("bert"), delta)
    del delta["encoder.layer.1.attention.self.value.b.value"]
    with pytest.raises(BenchError, match=r"layer.1.attention.self.value.d.value.*no VeRA update"):
        method.unmerge(method.merge(module), delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_is_vectors_alone_and_the_seed_gives_the_rest(dtype):
    method, module = adapt("vera", tiny("gpt2").to(dtype), projection_seed=11)
    delta = method.delta(randomise(module))
    assert {t.ndim for t in delta.values()} == {1} and len(delta) == 8
    _, config = make("vera", {"projection_seed": 11})
    torch.manual_seed(123)
    assert states(method.load_delta(tiny("gpt2").to(dtype), config, delta)).equal(states(module))
    _, other = make("vera", {"projection_seed": 12})
    assert not states(method.load_delta(tiny("gpt2").to(dtype), other, delta)).equal(states(module))


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    backbone = tiny("bert")
    torch.manual_seed(5)
    adapt("vera", backbone)
    assert torch.rand(1).equal(expected)


def test_copies_moves_and_casts_keep_one_pair():
    _, module = adapt("vera", "bert")
    for other in (copy.deepcopy(module), copy.deepcopy(module).to(torch.float64)):
        assert len(pairs(other)) == 1
        layers = [m for m in other.modules() if isinstance(m, Scaled)]
        assert len(layers) == 4 and len({pair.A.data_ptr() for m in layers for pair in m.pairs.values()}) == 1
        assert pairs(other)[0] is not pairs(module)[0]
    assert pairs(other)[0].A.dtype == torch.float64


def test_a_state_round_trip_restores_every_bit():
    _, module = adapt("vera", "t5")
    saved = {name: tensor.clone() for name, tensor in randomise(module).state_dict().items()}
    expected = states(module)
    randomise(module, seed=8)
    assert not states(module).equal(expected)
    module.load_state_dict(saved)
    assert states(module).equal(expected)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_runs_and_merges_on_fake_tensors(family):
    with FakeTensorMode():
        method, module = adapt("vera", family)
        loss(module).backward()
        assert states(method.merge(module)).shape == states(module).shape
    assert all(isinstance(p.grad, FakeTensor) for p in trained(module).values())


def test_dropout_acts_on_the_branch_in_training_alone():
    _, module = adapt("vera", tiny("llama"), dropout=0.5)
    assert states(module.train()).equal(states(tiny("llama")))
    randomise(module)
    assert not states(module.train()).equal(states(module))
    assert states(module.eval()).equal(states(module))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"rank": 0}, "vera: rank = 0 is too small; it takes at least 1"),
        ({"d_initial": 0}, "d_initial = 0 trains nothing"),
        ({"dropout": 1.0}, "dropout = 1.0 drops everything"),
        ({"projection_seed": -1}, "projection_seed = -1 is too small"),
        ({"targets": ["query", "query"]}, "names a role twice"),
    ],
)
def test_bad_values_are_refused(config, sentence):
    with pytest.raises(BenchError, match=sentence):
        make("vera", config)


def peft_of(family, modules, rank):
    from peft import VeraConfig, get_peft_model

    config = VeraConfig(r=rank, target_modules=modules, fan_in_fan_out=family == "gpt2")
    return get_peft_model(tiny(family), config)


@PEFT_WARNS
@pytest.mark.parametrize(
    ("family", "targets", "modules"),
    [
        ("bert", ["query", "value"], ["query", "value"]),
        ("bert", ALL_LINEAR, ["query", "key", "value", "dense"]),
        ("llama", ["query", "value"], ["q_proj", "v_proj"]),
        ("t5", ["query", "value"], ["q", "v"]),
        ("gpt2", ["output", "ffn_in", "ffn_out"], ["c_proj", "c_fc"]),
    ],
)
def test_equals_peft(family, targets, modules):
    _, module = adapt("vera", family, targets=targets, rank=12)
    ours = trained(randomise(module))
    peft = peft_of(family, modules, rank=12)
    shared = peft.base_model
    theirs = {}
    with torch.no_grad():
        for pair in pairs(module):  # peft slices one pair of the largest size
            pair.A.copy_(shared.vera_A["default"][:, : pair.A.shape[1]])
            pair.B.copy_(shared.vera_B["default"][: pair.B.shape[0]])
        for name, parameter in trained(peft).items():
            path, _, vector = (
                name.removeprefix("base_model.model.").removesuffix(".default").rpartition(".vera_lambda_")
            )
            (match,) = [key for key in ours if key.startswith(f"{path}.{vector}.")]
            theirs[match] = parameter
            parameter.copy_(ours[match])
    assert theirs.keys() == ours.keys()
    torch.testing.assert_close(states(peft), states(module), atol=1e-6, rtol=1e-5)
    loss(module).backward()
    loss(peft).backward()
    for name, parameter in ours.items():
        torch.testing.assert_close(theirs[name].grad, parameter.grad, atol=1e-6, rtol=1e-5)


@PEFT_WARNS
def test_the_pair_of_a_seed_is_pefts_where_all_targets_have_one_shape():
    _, module = adapt("vera", "bert", rank=12)
    (pair,), shared = pairs(module), peft_of("bert", ["query", "value"], rank=12).base_model
    assert pair.A.equal(shared.vera_A["default"]) and pair.B.equal(shared.vera_B["default"])


def test_fused_slices_equal_separate_maps():
    """The middle slice untouched, the other two moved by their own vectors."""
    _, module = adapt("vera", "gpt2")
    layer = randomise(module).h[0].attn.c_attn
    x = torch.randn(2, 3, 32)
    query, key, value = (layer(x) - layer.base(x)).chunk(3, dim=-1)
    for found, role in ((query, "query"), (value, "value")):
        pair = layer.pairs[role]
        expected = ((x @ pair.A.t()) * layer.d[role]) @ pair.B.t() * layer.b[role]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not key.any()

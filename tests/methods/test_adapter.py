"""Serial and parallel bottleneck adapters: counts, places, starts, and the identities that their papers state."""

import copy
import re

import pytest
import torch
from torch import nn

from bench.anatomy import anatomy
from bench.errors import BenchError
from bench.registry import make
from methods.adapter import Bottleneck, Hand, Tap
from tests.methods.adapted import adapt, bert_base, count, randomise, states, trained
from tests.methods.families import COMMON, FAMILIES, tiny

NAMES = ["houlsby_adapter", "pfeiffer_adapter", "parallel_adapter"]
POST_NORM = ["bert", "roberta", "electra", "distilbert"]


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("houlsby_adapter", {}, 2_379_264),
        ("houlsby_adapter", {"bottleneck": 8}, 313_536),
        ("houlsby_adapter", {"bottleneck": 48}, 1_789_056),
        ("houlsby_adapter", {"bottleneck": 256}, 9_461_760),
        ("houlsby_adapter", {"train_layer_norm": True}, 2_417_664),
        ("pfeiffer_adapter", {}, 894_528),
        ("pfeiffer_adapter", {"bottleneck": 64}, 1_189_632),
        ("parallel_adapter", {}, 894_528),
        ("parallel_adapter", {"bottleneck": 64}, 1_189_632),
        ("parallel_adapter", {"bottleneck": 384}, 7_091_712),
        ("parallel_adapter", {"bottleneck": 512}, 9_452_544),
    ],
)
def test_count_on_bert_base(name, config, expected):
    assert count(adapt(name, bert_base(), **config)[1]) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "each_layer"), [(NAMES[0], 2), (NAMES[1], 1), (NAMES[2], 1)])
def test_count_in_every_family(name, each_layer, family):
    assert count(adapt(name, family, bottleneck=5)[1]) == 2 * each_layer * (2 * 32 * 5 + 5 + 32)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_of_its_own(name):
    _, module = adapt(name, "bert")
    before = states(module)
    twin = copy.deepcopy(module)
    assert states(twin).equal(before)
    randomise(twin)
    assert states(module).equal(before)
    assert not states(twin).equal(before)


@pytest.mark.parametrize("name", NAMES)
def test_layers_without_an_adapter_stay_as_they_are_and_see_no_gradient(name):
    _, module = adapt(name, "bert", layers=(1,))
    assert {re.search(r"layer\.(\d)", path)[1] for path in trained(module)} == {"1"}
    assert count(module) * 2 == count(adapt(name, "bert")[1])
    below = module.encoder.layer[0].register_forward_hook(lambda m, x, y: seen.append(y))
    seen = []
    states(module)
    below.remove()
    (state,) = seen
    assert not (state[0] if isinstance(state, tuple) else state).requires_grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((), r"layers = \[\] must name at least one layer"),
        ((1, 0), r"layers = \[1, 0\] must name at least one layer, each once, in rising order"),
        ((0, 2), "layers names 2, but the backbone has layers 0 to 1; name some of these"),
    ],
)
def test_layers_that_are_not_there_are_refused(name, layers, sentence):
    with pytest.raises(BenchError, match=sentence):
        adapt(name, "bert", layers=layers)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_bottleneck_is_refused(name):
    with pytest.raises(BenchError, match=f"{name}: bottleneck = 0 is too small"):
        make(name, {"bottleneck": 0})


# Houlsby


@pytest.mark.parametrize("family", FAMILIES)
def test_houlsby_starts_near_the_backbone(family):
    _, module = adapt("houlsby_adapter", family)
    matrices = [p for p in trained(module).values() if p.ndim == 2]
    assert max(p.abs().max() for p in matrices) <= 2e-3
    assert 0.7e-3 < torch.cat([p.flatten() for p in matrices]).std() < 1e-3
    difference = (states(module) - states(tiny(family))).abs().max()
    assert 0 < difference < 1e-3


def test_houlsby_stands_between_dropout_and_residual():
    _, module = adapt("houlsby_adapter", "bert")
    output = randomise(module).encoder.layer[0].attention.output
    hidden, residual = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    h = output.dense(hidden)
    adapter = output.dropout.adapter
    by_hand = h + adapter.up(nn.functional.gelu(adapter.down(h)))
    torch.testing.assert_close(output(hidden, residual), output.LayerNorm(by_hand + residual))


@pytest.mark.parametrize("family", FAMILIES)
def test_houlsby_trains_every_norm_on_request(family):
    _, module = adapt("houlsby_adapter", family, train_layer_norm=True)
    norms = [m for m in module.modules() if "Norm" in type(m).__name__ and len(list(m.parameters()))]
    assert norms and all(p.requires_grad for norm in norms for p in norm.parameters())
    adapters = 4 * (2 * 32 * 64 + 64 + 32)
    assert count(module) == adapters + sum(p.numel() for norm in norms for p in norm.parameters())


# Pfeiffer


@pytest.mark.parametrize("family", FAMILIES)
def test_pfeiffer_with_an_empty_up_map_is_the_backbone(family):
    _, module = adapt("pfeiffer_adapter", family)
    before = states(module)
    with torch.no_grad():
        for name, parameter in trained(module).items():
            if name.endswith("up.weight"):
                parameter.zero_()
    torch.testing.assert_close(states(module), states(tiny(family)), atol=1e-6, rtol=0)
    assert not before.equal(states(module))


@pytest.mark.parametrize("family", POST_NORM)
def test_pfeiffer_uses_the_frozen_norm_twice(family):
    _, module = adapt("pfeiffer_adapter", family)
    (wrapped, *_) = [m.base for m in randomise(module).modules() if hasattr(m, "adapter")]
    calls = []
    wrapped.register_forward_hook(lambda *_: calls.append(1))
    states(module)
    assert isinstance(wrapped, nn.LayerNorm) and len(calls) == 2
    assert not any(p.requires_grad for p in wrapped.parameters())


def test_pfeiffer_is_seq_bn_of_adapterhub():
    _, module = adapt("pfeiffer_adapter", "bert")
    output = randomise(module).encoder.layer[0].output
    norm, adapter = output.LayerNorm.base, output.LayerNorm.adapter
    hidden, a = torch.randn(2, 5, 64), torch.randn(2, 5, 32)
    h = output.dense(hidden)
    z = adapter.up(torch.relu(adapter.down(norm(h + a)))) + h
    torch.testing.assert_close(output(hidden, a), norm(z + a))


# Parallel


def test_parallel_is_a_wider_ffn():
    from transformers import AutoModel, BertConfig

    m, scale = 6, 4.0
    _, module = adapt("parallel_adapter", "bert", bottleneck=m, activation="gelu", scale=scale)
    randomise(module)
    config = BertConfig(**{**COMMON, "intermediate_size": 64 + m})
    wide = AutoModel.from_config(config, add_pooling_layer=False).eval()
    wide.load_state_dict(tiny("bert").state_dict() | _widened(module, scale))
    assert not states(wide).allclose(states(tiny("bert")), atol=1e-2)
    torch.testing.assert_close(states(wide), states(module), atol=1e-5, rtol=0)


def _widened(module: nn.Module, scale: float) -> dict[str, torch.Tensor]:
    """``W1' = [W1; W_down]``, ``W2' = [W2, s W_up]``, ``b2' = b2 + s b_up`` (He et al., section 3)."""
    found = {}
    for index, layer in enumerate(module.encoder.layer):
        adapter: Bottleneck = layer.output.dropout.adapter
        first, second, path = layer.intermediate.base.dense, layer.output.dense, f"encoder.layer.{index}"
        found[f"{path}.intermediate.dense.weight"] = torch.cat([first.weight, adapter.down.weight])
        found[f"{path}.intermediate.dense.bias"] = torch.cat([first.bias, adapter.down.bias])
        found[f"{path}.output.dense.weight"] = torch.cat([second.weight, scale * adapter.up.weight], dim=1)
        found[f"{path}.output.dense.bias"] = second.bias + scale * adapter.up.bias
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_takes_the_input_of_the_ffn(family):
    backbone = tiny(family)
    layer = anatomy(backbone).layers[0]
    _, module = adapt("parallel_adapter", backbone)
    seen = {}
    module.get_submodule(layer.ffn_end).adapter.register_forward_hook(lambda _m, args, _o: seen.update(adapter=args[0]))
    tap = next(m for m in module.get_submodule(layer.path).modules() if isinstance(m, Tap))
    tap.base.register_forward_hook(lambda _m, args, _o: seen.update(ffn=args[0]))
    states(module)
    assert seen["adapter"] is seen["ffn"]


@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_holds_no_tensor_after_the_forward(family):
    _, module = adapt("parallel_adapter", family)
    states(module)
    hands = {id(m.hand): m.hand for m in module.modules() if hasattr(m, "hand")}
    assert len(hands) == 2
    assert all(vars(hand) == vars(Hand()) for hand in hands.values())


def test_parallel_copies_tie_their_own_ends():
    _, module = adapt("parallel_adapter", "bert")
    twin = copy.deepcopy(module)
    layer, other = module.encoder.layer[0], twin.encoder.layer[0]
    assert other.intermediate.hand is other.output.dropout.hand
    assert other.intermediate.hand is not layer.intermediate.hand


def test_parallel_without_scale_is_refused():
    with pytest.raises(BenchError, match="scale = 0 leaves nothing to train"):
        make("parallel_adapter", {"scale": 0.0})

"""(IA)^3 scales keys, values and FFN activations, equals peft at the same sites, and folds into the backbone."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.errors import BenchError
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, shape_of, states, trained
from tests.methods.families import FAMILIES, ffn_width, key_width, tiny


def test_count_on_bert_base():
    assert count(adapt("ia3", bert_base())[1]) == 55_296


@pytest.mark.parametrize("family", FAMILIES)
def test_count_is_keys_values_and_ffn(family):
    width = key_width(family)
    assert count(adapt("ia3", family)[1]) == 2 * (2 * width + ffn_width(family))


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_merged_is_a_backbone_with_the_same_output(family):
    method, module = adapt("ia3", family)
    before = copy.deepcopy(randomise(module)).state_dict()
    merged = method.merge(module)
    assert shape_of(merged) == shape_of(tiny(family))
    assert count(merged) == 0
    torch.testing.assert_close(states(merged), states(module), atol=1e-5, rtol=0)
    assert not states(merged).equal(states(tiny(family)))
    assert all(module.state_dict()[key].equal(value) for key, value in before.items())


def test_merging_scales_the_bias_too():
    backbone = tiny("bert")
    with torch.no_grad():
        backbone.encoder.layer[0].attention.self.value.bias.fill_(1.0)
    method, module = adapt("ia3", backbone)
    vector = randomise(module).encoder.layer[0].attention.self.value.scale["value"]
    assert method.merge(module).encoder.layer[0].attention.self.value.bias.equal(vector.detach())


def test_a_fused_map_keeps_its_query():
    _, module = adapt("ia3", "gpt2")
    fused = randomise(module).h[0].attn.c_attn
    x = torch.randn(2, 5, 32)
    query, key, value = (fused(x) / fused.base(x)).chunk(3, dim=-1)
    torch.testing.assert_close(query, torch.ones_like(query))
    torch.testing.assert_close(key[0, 0], fused.scale["key"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(value[0, 0], fused.scale["value"], atol=1e-5, rtol=1e-5)


def test_vectors_take_no_weight_decay():
    method, module = adapt("ia3", "bert")
    (group,) = method.param_groups(module, 1e-3)
    assert group["weight_decay"] == 0 and len(group["params"]) == 6


def test_unmerging_is_refused():
    method, module = adapt("ia3", "bert")
    with pytest.raises(BenchError, match="cannot be unmerged"):
        method.unmerge(method.merge(module), method.delta(module))


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_runs_and_merges_on_fake_tensors(family):
    with FakeTensorMode():
        method, module = adapt("ia3", family)
        loss(module).backward()
        assert states(method.merge(module)).shape == states(module).shape
    assert all(isinstance(p.grad, FakeTensor) for p in trained(module).values())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("family", "output", "ffn"),
    [
        ("bert", r".*\.(key|value)", r".*layer\.\d+\.output\.dense"),
        ("llama", r".*\.(k_proj|v_proj)", r".*\.down_proj"),
        ("t5_gated", r".*\.(k|v)", r".*\.wo"),
    ],
)
def test_equals_peft_at_the_same_sites(family, output, ffn):
    from peft import IA3Config, get_peft_model

    _, module = adapt("ia3", family)
    peft = get_peft_model(tiny(family), IA3Config(target_modules=f"({output})|({ffn})", feedforward_modules=ffn))
    ours = trained(randomise(module))
    theirs = {name.removeprefix("base_model.model.").partition(".ia3_l")[0]: p for name, p in trained(peft).items()}
    pairs = [(theirs.pop(name.partition(".scale")[0]), parameter) for name, parameter in ours.items()]
    assert theirs == {}
    with torch.no_grad():
        for their, our in pairs:
            their.copy_(our.view_as(their))
    torch.testing.assert_close(states(peft), states(module), atol=1e-6, rtol=0)
    loss(module).backward()
    loss(peft).backward()
    for their, our in pairs:
        torch.testing.assert_close(their.grad.flatten(), our.grad, atol=1e-6, rtol=0)

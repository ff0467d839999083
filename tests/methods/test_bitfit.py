"""BitFit trains biases and nothing else, and says so where a family has none."""

import pytest

from bench.errors import BenchError
from tests.methods.adapted import adapt, bert_base, count, loss, randomise, states, trained
from tests.methods.families import tiny

WITH_BIASES = ["bert", "roberta", "electra", "distilbert", "gpt2", "opt", "qwen2"]
WITHOUT_BIASES = ["llama", "qwen3", "modernbert", "t5", "t5_gated"]


@pytest.mark.parametrize(("biases", "expected"), [("all", 102_144), ("query+ffn", 46_080)])
def test_count_on_bert_base(biases, expected):
    assert count(adapt("bitfit", bert_base(), biases=biases)[1]) == expected


@pytest.mark.parametrize("family", WITH_BIASES)
def test_trains_exactly_the_biases(family):
    _, module = adapt("bitfit", family)
    biases = {name for name, _ in module.named_parameters() if name.endswith(".bias")}
    assert trained(module).keys() == biases
    loss(module).backward()
    assert {name for name, p in module.named_parameters() if p.grad is not None} == biases


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "opt"])
def test_query_and_ffn_trains_two_biases_a_layer(family):
    _, module = adapt("bitfit", family, biases="query+ffn")
    assert sorted(p.numel() for p in trained(module).values()) == [32, 32, 64, 64]


@pytest.mark.parametrize("family", WITHOUT_BIASES)
def test_a_family_without_biases_is_refused(family):
    with pytest.raises(BenchError, match=f"family '{family.partition('_')[0]}' has no bias vectors"):
        adapt("bitfit", family)


@pytest.mark.parametrize(("family", "reason"), [("gpt2", "bias of query fused"), ("qwen2", "no bias at ffn_in")])
def test_query_and_ffn_is_refused_where_it_cannot_be(family, reason):
    with pytest.raises(BenchError, match=reason):
        adapt("bitfit", family, biases="query+ffn")


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "opt"])
def test_only_the_declared_key_biases_have_no_gradient(family):
    method, module = adapt("bitfit", family)
    loss(randomise(module)).backward()
    scale = max(p.grad.abs().max() for p in trained(module).values())
    silent = {name for name, p in trained(module).items() if p.grad.abs().max() < 1e-5 * scale}
    assert silent == {name for name in trained(module) if name.endswith(method.zero_gradient)}
    assert len(silent) == 2


def test_a_fused_key_bias_is_silent_in_its_slice_alone():
    _, module = adapt("bitfit", "gpt2")
    loss(randomise(module)).backward()
    query, key, value = module.h[0].attn.c_attn.bias.grad.chunk(3)
    assert key.abs().max() < 1e-5 * min(query.abs().max(), value.abs().max())


def test_rotary_positions_give_the_key_bias_a_gradient():
    _, module = adapt("bitfit", "qwen2")
    loss(randomise(module)).backward()
    assert module.layers[0].self_attn.k_proj.bias.grad.abs().max() > 1e-6


def test_delta_is_the_biases_and_loads_exactly():
    method, module = adapt("bitfit", "bert")
    delta = method.delta(randomise(module))
    assert delta.keys() == trained(module).keys()
    assert states(method.load_delta(tiny("bert"), method.Config(), delta)).equal(states(module))


def test_merging_returns_the_module_itself():
    method, module = adapt("bitfit", "bert")
    assert method.merge(module) is module

"""Full fine-tuning trains everything, the head alone nothing of the backbone."""

import pytest

from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, randomise, states, trained
from tests.methods.families import tiny


@pytest.mark.parametrize(("name", "expected"), [("full", 108_891_648), ("head", 0)])
def test_count_on_bert_base(name, expected):
    assert count(adapt(name, bert_base())[1]) == expected


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_full_delta_carries_the_whole_model(family):
    method, module = adapt("full", family)
    randomise(module)
    loaded = method.load_delta(tiny(family, seed=5), method.Config(), method.delta(module))
    assert states(loaded).equal(states(module))


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_head_leaves_the_backbone_as_it_is(family):
    backbone = tiny(family)
    method, module = adapt("head", backbone)
    assert module is backbone
    assert trained(module) == {}
    assert method.delta(module) == {}
    assert not states(module).requires_grad


@pytest.mark.parametrize("name", ["full", "head"])
def test_merging_returns_the_module_itself(name):
    method, module = adapt(name, "bert")
    assert method.merge(module) is module

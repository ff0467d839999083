"""A method on a whole language model is the method on its bare backbone: what holds for the one holds for the other."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.anatomy import causal
from bench.models.head import TaskModel
from bench.models.text import TextHead, text_backbone, with_targets
from bench.registry import make
from bench.training.frozen import mark, weights_in
from methods import BUILTIN
from tests.factories.methods import METHODS, sized
from tests.methods.families import CONFIGS, EVERY, OF_ANOTHERS_LAYOUT, batch, tiny

DECODERS = [f for f in EVERY if f not in OF_ANOTHERS_LAYOUT and CONFIGS[f][0] != "t5" and causal(CONFIGS[f][0])]
ON_ALL = ("lora", "prefix_tuning", "lst", "houlsby_adapter", "prompt_tuning")
"""One of each way to find its places; the others are tried on one decoder."""
PAIRS = [
    (family, name)
    for family in DECODERS
    for name in BUILTIN
    if name not in ("full", "head") and family not in METHODS[name].refused
    if name in ON_ALL or family in ("llama", "gpt2")
]


def whole(family: str) -> torch.nn.Module:
    """The tiny language model of ``family`` whose backbone is ``tiny(family)``."""
    model_type, values = CONFIGS[family]
    config = AutoConfig.for_model(model_type, **values, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=tiny(family).config._attn_implementation)
    getattr(model, model.base_model_prefix).load_state_dict(tiny(family).state_dict())
    return text_backbone(model.eval()).requires_grad_(False)


def seeded(build: Callable[..., torch.nn.Module], *given: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(*given).eval()


def trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_states_and_the_delta_are_those_of_the_method_on_the_bare_backbone(family: str, name: str) -> None:
    method, config = make(name, sized(name))
    backbones = tiny(family), whole(family)
    bare, adapted = (seeded(method.apply, one, config) for one in backbones)
    stream = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one, other in zip(trained(bare), trained(adapted), strict=True):
            assert one.shape == other.shape
            other.copy_(one.add_(0.02 * torch.randn(one.shape, generator=stream)))
    given = batch(2, 7, pad=2)
    seen = given["attention_mask"].bool()
    expected = bare(**given).last_hidden_state[seen]
    if name == "lora_fa":  # draws its A by the names of its maps, which a whole model begins otherwise
        expected = adapted(**given).last_hidden_state[seen]
    torch.testing.assert_close(adapted(**given).last_hidden_state[seen], expected, rtol=0, atol=1e-5)
    final = method.finalize(adapted)
    reloaded = seeded(method.load_delta, whole(family), config, method.delta(final))
    torch.testing.assert_close(reloaded(**given).last_hidden_state[seen], expected, rtol=0, atol=1e-5)
    if (merged := method.merge(final)) is not None:
        torch.testing.assert_close(merged(**given).last_hidden_state[seen], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in BUILTIN if "llama" not in METHODS[name].refused])
def test_the_loss_reaches_what_trains_and_no_gradient_of_the_frozen_lm_head_is_computed(name: str) -> None:
    method, config = make(name, sized(name))
    backbone = whole("llama")
    body = method.apply(backbone, config)
    model = TaskModel(body, TextHead(backbone.config, "target"))
    given = batch(2, 7)
    with torch.no_grad():
        for parameter in trained(body):
            parameter.add_(0.01)
    model.train().loss(with_targets(given | {"labels": given["input_ids"]}, shifted=True)).backward()
    zero = method.zero_gradients(body)
    reached = [n for n, p in body.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert reached == [n for n, p in body.named_parameters() if p.requires_grad and not n.endswith(tuple(zero) or "\0")]
    if name not in ("full", "head"):
        assert not any(n.endswith("lm_head.weight") for n in reached)


OF_THE_BACKBONE = {"full", "head", "bitfit", "pissa"}
"""They train weights of the backbone itself, an LM head that is not tied among them, or, PiSSA, take a part of each."""


@pytest.mark.parametrize("name", [name for name in BUILTIN if "llama" not in METHODS[name].refused])
def test_switched_off_a_delta_leaves_the_backbone_bit_for_bit(name: str) -> None:
    method, config = make(name, sized(name))
    backbone, given = whole("llama"), batch(2, 7)
    own, bare = dict(backbone.named_parameters()), backbone(**given).last_hidden_state
    before = {parameter: mark(weight) for parameter, weight in own.items()}
    body = method.apply(backbone, config)
    with torch.no_grad():
        for parameter in trained(body):
            parameter.add_(0.01)
    left = weights_in(method.finalize(body), own)
    kept = left.keys() == own.keys() and all(mark(left[parameter]) == before[parameter] for parameter in own)
    assert kept == (name not in OF_THE_BACKBONE)
    if kept:  # what is off is left out: the weights that are there, in the backbone as it came
        off = whole("llama")
        off.load_state_dict(left, strict=False)
        assert torch.equal(off(**given).last_hidden_state, bare)

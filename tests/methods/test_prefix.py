"""Prefix tuning and P-tuning v2 put learned keys and values in front of every attention and change nothing else."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.anatomy import anatomy
from bench.errors import BenchError
from bench.registry import make
from tests.methods.adapted import adapt, bert_base, count, loss, states, trained
from tests.methods.families import EVERY, OF_ANOTHERS_LAYOUT, batch, tiny

PARTS = {family: anatomy(tiny(family)) for family in EVERY}
FAMILIES = [family for family in EVERY if PARTS[family].hands_on and family not in OF_ANOTHERS_LAYOUT - {"mistral"}]
LEARNED = [family for family in FAMILIES if PARTS[family].positions]
CAUSAL = [family for family in FAMILIES if PARTS[family].causal]
METHODS = ("prefix_tuning", "p_tuning_v2")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("config", "trains", "stores"),
    [
        ({}, 368_640, 368_640),
        ({"length": 128}, 2_359_296, 2_359_296),
        ({"reparametrise": True}, 9_864_704, 368_640),
    ],
)
def test_counts_on_bert_base(name, config, trains, stores):
    method, module = adapt(name, bert_base(), **config)
    delta = sum(tensor.numel() for tensor in method.delta(module).values())
    assert (count(module), delta, count(method.finalize(module))) == (trains, stores, stores)


def test_grouped_heads_and_narrow_keys_store_their_own_width():
    assert count(adapt("prefix_tuning", "llama", length=4)[1]) == 2 * 2 * 4 * 16  # two of four heads, 8 wide
    assert count(adapt("prefix_tuning", tiny("t5", d_kv=16), length=4)[1]) == 2 * 2 * 4 * 64


@pytest.mark.parametrize(
    ("family", "implementation"),
    [(family, kind) for family in FAMILIES for kind in ("sdpa", "eager") if (family, kind) != ("gemma2", "sdpa")],
)
def test_padding_changes_nothing(family, implementation):
    _, module = adapt("prefix_tuning", tiny(family, attn_implementation=implementation), length=4)
    alone = states(module, **batch())
    torch.testing.assert_close(states(module, **batch(pad=5))[:, :10], alone, atol=3e-6, rtol=0)
    torch.testing.assert_close(states(module, input_ids=batch()["input_ids"]), alone, atol=3e-6, rtol=0)


@pytest.mark.parametrize("family", LEARNED)
def test_padding_changes_nothing_with_shifted_positions(family):
    _, module = adapt("prefix_tuning", family, length=4, position_shift=True)
    alone = states(module, **batch())
    torch.testing.assert_close(states(module, **batch(pad=5))[:, :10], alone, atol=3e-6, rtol=0)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])
def test_eager_and_sdpa_agree(family):
    outputs = []
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(3)
        _, module = adapt("prefix_tuning", tiny(family, attn_implementation=implementation), length=4)
        outputs.append(states(module, **batch()))
    torch.testing.assert_close(*outputs, atol=3e-6, rtol=0)


@pytest.mark.parametrize("family", CAUSAL)
def test_unpadded_causal_batches_see_the_past_up_to_the_last_token_and_no_future(family):
    _, module = adapt("prefix_tuning", family, length=4)
    before = states(module, **batch())
    changed = batch()
    changed["input_ids"][:, 9] += 1
    after = states(module, **changed)
    torch.testing.assert_close(after[:, :9], before[:, :9])
    assert (after[:, 9] - before[:, 9]).abs().amax(dim=1).min() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_sees_the_prefix_in_every_layer(family):
    """Moving one layer's prefix moves every position, beyond ModernBERT's local window of four too."""
    _, module = adapt("prefix_tuning", tiny(family, local_attention=8) if family == "modernbert" else family, length=4)
    before = states(module, **batch(length=20))
    for layer in range(2):
        changed = copy.deepcopy(module)
        with torch.no_grad():
            changed.prefix.table[layer] *= 2
        moved = (states(changed, **batch(length=20)) - before).abs().amax(dim=-1)
        assert moved.min() > 1e-6, layer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_prefix_gives_the_backbone_back(family):
    """A 4-D mask over p + T keys is the caller's own word about the prefix."""
    length = (
        4 if family in {"gemma2", "gemma3_text", "mistral", "modernbert"} else 10
    )  # within the local window, which a 4-D mask leaves out
    inputs = batch(length=length)["input_ids"]
    see = torch.ones(3, 1, length, length, dtype=torch.bool)
    see = see.tril() if family in CAUSAL else see
    mask = torch.cat([torch.zeros(3, 1, length, 5, dtype=torch.bool), see], dim=-1)
    if family == "gemma2":  # eager attention adds its mask
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    _, module = adapt("prefix_tuning", family, length=5)
    # OPT counts positions in a 2-D mask, so it needs them with a 4-D one.
    extra = {"position_ids": torch.arange(length)[None]} if family == "opt" else {}
    masked = states(module, input_ids=inputs, attention_mask=mask, **extra)
    torch.testing.assert_close(masked, states(tiny(family), input_ids=inputs), atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prefix_moves_the_output(family):
    _, module = adapt("prefix_tuning", family, length=4)
    assert (states(module) - states(tiny(family))).abs().max() > 1e-3


def test_one_bert_layer_computes_the_papers_formula():
    _, module = adapt("prefix_tuning", tiny("bert", num_hidden_layers=1), length=4)
    layer = module.backbone.encoder.layer[0]
    attention = layer.attention.self
    hidden = module.backbone.embeddings(input_ids=batch()["input_ids"])

    def heads(linear):
        return linear(hidden).view(3, 10, 4, 8).transpose(1, 2)

    past_key, past_value = (part[None].expand(3, -1, -1, -1) for part in module.prefix.table[0])
    key = torch.cat([past_key, heads(attention.key)], dim=2)
    value = torch.cat([past_value, heads(attention.value)], dim=2)
    weights = (heads(attention.query) @ key.transpose(2, 3) / 8**0.5).softmax(dim=-1)
    assert weights.shape == (3, 4, 10, 14)
    mixed = layer.attention.output((weights @ value).transpose(1, 2).reshape(3, 10, 32), hidden)
    expected = layer.output(layer.intermediate(mixed), mixed)
    torch.testing.assert_close(states(module, **batch()), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_keys_and_values_of_every_layer(family):
    _, module = adapt("prefix_tuning", family, length=4)
    loss(module).backward()
    assert module.prefix.table.grad.flatten(2).any(dim=-1).all()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_all_layers_keep_one_mask_for_backward(family):
    kept = set()

    def pack(tensor):
        if tensor.ndim == 4 and tensor.shape[1] == 1 and tensor.shape[-2:] == (10, 14):
            kept.add(tensor.untyped_storage()._cdata)
        return tensor

    _, module = adapt("prefix_tuning", tiny(family, num_hidden_layers=4), length=4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = states(module, **batch())
    assert output.requires_grad
    assert len(kept) == 1


def test_runs_under_autocast():
    for family in ("bert", "llama", "t5"):
        _, module = adapt("prefix_tuning", family, length=4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss(module).backward()
        assert module.prefix.table.grad.isfinite().all()


def test_gradients_survive_checkpointing():
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(3)
        backbone = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        _, module = adapt("prefix_tuning", backbone, length=4, reparametrise=True)
        if checkpointed:
            backbone.activation_checkpointing_enable()
        module.train()
        loss(module).backward()
        grads.append(module.prefix.up.weight.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("family", ["bert", "qwen3", "t5"])
def test_finalized_output_is_exactly_that_of_training_form(family, mode):
    method, module = adapt("prefix_tuning", family, length=4, reparametrise=True, hidden=16)
    module.eval()
    with mode():
        final = method.finalize(module)
        assert states(final).equal(states(module))
    assert list(trained(final)) == ["prefix.table"]
    assert {name.split(".")[1] for name in trained(module)} == {"embedding", "down", "up"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("config", [{}, {"reparametrise": True, "hidden": 16}, {"position_shift": True}])
def test_delta_restores_the_output_on_a_fresh_backbone(name, config):
    method, module = adapt(name, "roberta", length=4, **config)
    restored = method.load_delta(tiny("roberta"), make(name, {"length": 4, **config})[1], method.delta(module))
    assert states(restored.eval()).equal(states(module.eval()))


def test_two_adapted_backbones_their_copies_and_a_bare_one_live_side_by_side():
    from transformers import BertModel

    bare = tiny("bert")
    twin = BertModel(bare.config, add_pooling_layer=False).eval()  # shares the configuration object
    before = states(bare)
    _, first = adapt("prefix_tuning", twin, length=4)
    _, second = adapt("p_tuning_v2", "bert", length=7)
    outputs = [states(first), states(second)]
    assert states(bare).equal(before)
    assert bare.config._attn_implementation == "sdpa"
    copied = copy.deepcopy(first)
    with torch.no_grad():
        first.prefix.table.add_(1)
    assert states(copied).equal(outputs[0])
    assert not states(first).allclose(outputs[0])
    assert states(second).equal(outputs[1])


def test_the_two_methods_differ_in_their_start():
    std = {name: adapt(name, "bert", length=50)[1].prefix.table.std().item() for name in METHODS}
    assert std == {"prefix_tuning": pytest.approx(1, rel=0.03), "p_tuning_v2": pytest.approx(0.02, rel=0.03)}


def test_dropout_falls_on_the_prefix_of_each_example_in_training_alone():
    frozen = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    _, module = adapt("p_tuning_v2", tiny("bert", **frozen), length=4, dropout=0.5)
    same = {name: tensor[:1].expand(3, -1) for name, tensor in batch().items()}
    assert states(module.eval(), **same).equal(states(module, **same))
    rows = states(module.train(), **same)
    assert not rows[0].allclose(rows[1])


def test_position_shift_moves_tokens_behind_the_prefix():
    _, module = adapt("prefix_tuning", "bert", length=4, position_shift=True)
    seen = []
    module.backbone.embeddings.position_embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states(module, **batch())
    assert seen[0][0].tolist() == list(range(4, 14))
    for config, expected in [({"length": 9}, 0), ({"length": 9, "position_shift": True}, 9)]:
        method, parsed = make("prefix_tuning", config)
        assert method.reserved_positions(parsed) == expected


def test_no_weight_decay_falls_on_any_trained_parameter():
    for name in METHODS:
        method, module = adapt(name, "bert", length=4, reparametrise=True)
        groups = method.param_groups(module, lr=0.01)
        assert {group["weight_decay"] for group in groups} == {0.0}
        assert sum(p.numel() for group in groups for p in group["params"]) == count(module)


def test_prefix_follows_the_dtype_of_the_backbone():
    for family in ("bert", "t5", "llama"):
        _, module = adapt("prefix_tuning", tiny(family).bfloat16(), length=4)
        assert module.prefix.table.dtype == states(module).dtype == torch.bfloat16


@pytest.mark.parametrize("config", [{}, {"reparametrise": True}])
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_runs_and_finalizes_on_fake_tensors(family, config):
    with FakeTensorMode():
        method, module = adapt("prefix_tuning", family, length=4, **config)
        states(module).sum().backward()
        assert states(method.finalize(module)).shape == (3, 13, 32)


@pytest.mark.parametrize(
    ("backbone", "config", "sentence"),
    [
        ({"family": "bert"}, {"length": 0}, "length = 0 is too small; it takes at least 1"),
        ({"family": "bert"}, {"hidden": 0}, "hidden = 0 is too small"),
        ({"family": "bert"}, {"dropout": 1.0}, "dropout = 1.0 is too large; it takes less than 1"),
        ({"family": "bert"}, {"length": 64, "position_shift": True}, "leaves no position for a token"),
        ({"family": "llama"}, {"position_shift": True}, "needs learned positions, which family 'llama' lacks"),
        ({"family": "bert", "attn_implementation": "flex_attention"}, {}, "'flex_attention' cannot carry a prefix"),
        (
            {"family": "gpt2", "attn_implementation": "eager", "reorder_and_upcast_attn": True},
            {},
            "reorder_and_upcast_attn bypasses the attention interface",
        ),
    ],
)
def test_what_cannot_be_is_refused(backbone, config, sentence):
    with pytest.raises(BenchError, match=sentence):
        adapt("prefix_tuning", tiny(**backbone), **config)


def test_a_second_prefix_on_the_same_backbone_is_refused():
    _, module = adapt("prefix_tuning", "bert", length=4)
    with pytest.raises(BenchError, match="cannot carry a prefix"):
        adapt("prefix_tuning", module.backbone, length=4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("reparametrise", [False, True])
@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "gpt2", "opt"])
def test_equals_peft_on_the_same_prefix(family, reparametrise):
    """peft passes the prefix as a cache, which advances positions by p."""
    from peft import PrefixTuningConfig, get_peft_model

    options = {"reparametrise": reparametrise, "hidden": 16, "position_shift": True}
    _, module = adapt("prefix_tuning", family, length=4, **options)
    config = PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=4, prefix_projection=reparametrise, encoder_hidden_size=16
    )
    theirs = get_peft_model(tiny(family), config).eval()
    encoder = theirs.prompt_encoder["default"]

    def flat(table):  # [L, 2, heads, p, d_h] -> peft's [p, L 2 heads d_h]
        return table.permute(3, 0, 1, 2, 4).reshape(4, -1)

    with torch.no_grad():
        if reparametrise:
            pairs = [(module.prefix.embedding, encoder.embedding.weight)]
            pairs += [(module.prefix.down.weight, encoder.transform[0].weight)]
            pairs += [(module.prefix.up.weight, encoder.transform[2].weight)]
            encoder.transform[0].bias.copy_(module.prefix.down.bias)
            encoder.transform[2].bias.copy_(module.prefix.up.bias)
        else:
            pairs = [(module.prefix.table, encoder.embedding.weight)]
        for mine, other in pairs:
            other.copy_(mine if reparametrise else flat(mine))
    weights = torch.randn(3, 10, 32, generator=torch.Generator().manual_seed(5))
    ours, reference = (states(m, **batch(pad=3))[:, :10] for m in (module, theirs))
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)
    for output in (ours, reference):
        (output * weights).mean().backward()
    for mine, other in pairs:
        gradient = mine.grad if reparametrise else flat(mine.grad)
        torch.testing.assert_close(gradient, other.grad, atol=1e-6, rtol=0)
        assert other.grad.abs().max() > 1e-5

"""Ladder Side-Tuning: its count, its silence in the backbone, its gates and its pruned start."""

import copy

import pytest
import torch
from torch import nn

from bench.anatomy import anatomy
from bench.errors import BenchError
from methods.lst import LadderSideTuning, LSTConfig
from tests.methods.families import FAMILIES as ALL
from tests.methods.families import batch, tiny

FAMILIES = [family for family in ALL if family != "deberta-v3"]  # which no side block can follow
PRUNABLE = [
    *("bert", "camembert", "deberta-v2", "distilbert", "electra", "mpnet", "opt", "roberta", "t5", "xlm-roberta"),
]
ROTARY = [family for family in FAMILIES if anatomy(tiny(family)).rotary]


def ladder(family="bert", reduction=4, seed=0, overrides=None, **config):
    torch.manual_seed(seed)
    backbone = tiny(family, **(overrides or {}))
    module = LadderSideTuning().apply(backbone, LSTConfig(reduction=reduction, **config)).train()
    nn.init.normal_(module.up.weight, std=0.2)  # as after a few steps: at zero it would hide the side state
    nn.init.zeros_(module.up.bias)
    return module


def trained(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def bert_shape(**values):
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        return BertModel(BertConfig(**values), add_pooling_layer=False).requires_grad_(False)


def test_bert_base_trains_what_the_closed_form_says():
    assert trained(LadderSideTuning().apply(bert_shape(), LSTConfig())) == 2_376_492


def test_minilm_shape_trains_what_the_closed_form_says():
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    d, width, ffn, layers = 384, 48, 192, 6
    block = 4 * (width**2 + width) + (width * ffn + ffn) + (ffn * width + width) + 4 * width
    expected = layers * block + (layers + 1) * (d * width + width) + layers + 2 * width + width * d + d
    assert trained(LadderSideTuning().apply(bert_shape(**shape), LSTConfig())) == expected


def test_t5_base_encoder_trains_what_the_closed_form_says():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=768, d_kv=64, num_heads=12, d_ff=3072, num_layers=12)
    with torch.device("meta"):
        backbone = T5EncoderModel(config).requires_grad_(False)
    kept = (1, 2, 3, 5, 6, 7, 9, 10, 11)
    d, width, inner, ffn, n = 768, 96, 96, 384, len(kept)
    expected = n * (4 * width * inner + 2 * width * ffn + 2 * width + d * width + width) + (d * width + width)
    expected += 32 * 12 + n + width + (width * d + d)
    assert trained(LadderSideTuning().apply(backbone, LSTConfig(layers=kept))) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_autograd_keeps_nothing_of_the_backbone_but_its_taps(family):
    module = ladder(family, layers=(1,))
    owned = {p.untyped_storage()._cdata for p in module.backbone.parameters()}
    owned |= {b.untyped_storage()._cdata for b in module.backbone.buffers()}
    produced, taps, saved, alive = set(), set(), [], []
    blocks = module.backbone.get_submodule(module.layers_path)

    def note(inner, inputs, output):
        state = output[0] if isinstance(output, tuple) else output
        if isinstance(state, torch.Tensor):
            alive.append(state)
            (taps if inner is blocks[1] else produced).add(state.untyped_storage()._cdata)

    def enter(inner, inputs):
        alive.append(inputs[0])
        taps.add(inputs[0].untyped_storage()._cdata)

    # a module that returns its input unchanged (dropout at rate 0, the last residual) does not make a new tensor
    handles = [m.register_forward_hook(note) for m in module.backbone.modules()]
    handles.append(blocks[0].register_forward_pre_hook(enter))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output = module(**batch(pad=2)).last_hidden_state
    for handle in handles:
        handle.remove()
    kept = {t.untyped_storage()._cdata for t in saved}
    assert kept & taps, "the down-projections need their taps"
    assert not kept & owned
    assert not kept & (produced - taps)
    output.square().mean().backward()
    assert all(p.grad is None for p in module.backbone.parameters())


def test_backbone_runs_without_gradients():
    module = ladder()
    seen = []
    module.backbone.register_forward_hook(lambda m, i, o: seen.append((torch.is_grad_enabled(), o.last_hidden_state)))
    assert module(**batch()).last_hidden_state.requires_grad
    assert not seen[0][0] and not seen[0][1].requires_grad


def test_side_state_is_added_to_the_backbones_last_state():
    module = ladder().eval()
    alone = ladder(add_backbone_output=False).eval()
    bare = tiny("bert")(**batch()).last_hidden_state
    side = alone(**batch()).last_hidden_state
    torch.testing.assert_close(module(**batch()).last_hidden_state, bare + side)


def test_training_starts_from_the_backbones_output_unless_it_is_left_out():
    bare = tiny("bert")(**batch()).last_hidden_state
    for added in (True, False):
        module = LadderSideTuning().apply(tiny("bert"), LSTConfig(reduction=4, add_backbone_output=added))
        start = module.eval()(**batch()).last_hidden_state
        assert torch.equal(start, bare) == added and start.std() > 0


def test_a_closed_gate_hides_every_tap():
    module = ladder().eval()
    with torch.no_grad():
        module.gates.fill_(100.0)  # mu = 1: the side state alone goes on
        before = module(**batch()).last_hidden_state
        for down in module.downs[1:]:
            down.weight.zero_()
    torch.testing.assert_close(module(**batch()).last_hidden_state, before)
    with torch.no_grad():
        module.downs[0].weight.zero_()
    assert not torch.allclose(module(**batch()).last_hidden_state, before)


def test_dropped_layers_have_no_block_and_no_projection():
    module = ladder(layers=(1,))
    assert (len(module.blocks), len(module.downs), module.gates.numel()) == (1, 2, 1)
    assert module(**batch()).last_hidden_state.shape == (3, 10, 32)


@pytest.mark.parametrize("family", ROTARY)
def test_side_heads_turn_by_the_familys_own_angles_at_their_width(family):
    module = ladder(family, reduction=8 if family == "falcon" else 4).eval()
    seen = []
    module.blocks[0].register_forward_pre_hook(lambda m, i, k: seen.append(k["position_embeddings"]), with_kwargs=True)
    module(**batch())
    # head width 2 has the one frequency theta^0 = 1: cos(position), twice
    positions = torch.arange(10.0)
    torch.testing.assert_close(seen[0][0][0], positions.cos()[:, None].expand(10, 2))


def test_t5_side_blocks_share_a_bias_that_starts_as_the_backbones():
    module = ladder("t5", layers=(1,))
    side = module.blocks[0].layer[0].SelfAttention.relative_attention_bias
    own = module.backbone.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    assert torch.equal(side.weight, own.weight) and side.weight.requires_grad
    module(**batch()).last_hidden_state.square().mean().backward()
    assert side.weight.grad.abs().max() > 0


def test_a_copy_and_a_failed_call_leave_no_hook():
    module = ladder()
    with pytest.raises(IndexError):
        module(input_ids=torch.full((1, 4), 1000))
    layers = [*module.backbone.encoder.layer]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    twin = copy.deepcopy(module.eval())
    assert torch.equal(twin(**batch()).last_hidden_state, module(**batch()).last_hidden_state)


@pytest.mark.parametrize(
    ("family", "reduction", "allowed"), [("bert", 3, "1, 2, 4, 8"), ("llama", 8, "1, 2, 4"), ("t5", 16, "1, 2, 4, 8")]
)
def test_reduction_must_leave_whole_heads(family, reduction, allowed):
    with pytest.raises(BenchError, match=rf"reduction = {reduction} does not divide.*use one of {allowed}$"):
        ladder(family, reduction=reduction)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": [2]}, "layers names 2, but the backbone has layers 0 to 1"),
        ({"layers": []}, "must name at least one layer"),
        ({"layers": [1, 0]}, "in rising order"),
        ({"gate_temperature": 0}, "must be above 0"),
        ({"reduction": 0}, "at least 1"),
        ({"init": "zero"}, "wrong type"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(BenchError, match=message):
        LadderSideTuning().apply(tiny("bert"), LSTConfig.parse({"reduction": 4} | values))


def prepared(family, samples=4, rows=6, **config):
    module = ladder(family, init="pruned", fisher_samples=samples, **config)
    head, drawn = nn.Linear(32, 2), []

    def examples():
        for seed in range(rows):
            drawn.append(seed)
            yield batch(rows=1, seed=seed)

    def loss(one):
        pooled = module(**one).last_hidden_state.mean(1)
        return nn.functional.cross_entropy(head(pooled), one["input_ids"][:, 0] % 2)

    LadderSideTuning().prepare(module, loss, examples())
    return module, drawn


@pytest.mark.parametrize("family", PRUNABLE)
def test_pruned_start_copies_rows_and_columns_of_the_backbone(family):
    from bench.anatomy import anatomy

    module, drawn = prepared(family)
    assert module.prepare_note == "" and len(drawn) == 4
    layer = anatomy(module.backbone).layers[1]
    for role, projection in layer.projections.items():
        side = module.blocks[1].get_submodule(projection.path.removeprefix(f"{layer.path}.")).weight
        full = module.backbone.get_submodule(projection.path).weight
        rows = [next(r for r, row in enumerate(full) if torch.isin(part, row).all()) for part in side]
        assert rows == sorted(set(rows)), role


def test_pruning_leaves_backbone_frozen_and_mode_and_gradients_untouched():
    module, _ = prepared("bert")
    assert module.training and module.backbone.training and not module.backbone_alone
    assert not any(p.requires_grad or p.grad is not None for p in module.backbone.parameters())
    assert all(p.requires_grad for p in module.blocks.parameters())
    assert all(torch.equal(a, b) for a, b in zip(module.backbone.parameters(), tiny("bert").parameters(), strict=True))


def test_pruning_keeps_the_rows_with_the_largest_importance():
    module = ladder("bert", init="pruned", fisher_samples=1, layers=(0,))
    layer = module.backbone.encoder.layer[0]
    important = torch.tensor([1, 2, 5, 11, 17, 23, 29, 31])

    def loss(one):
        weights = [module.backbone.embeddings.word_embeddings.weight, *layer.parameters()]
        maps = [getattr(layer.attention.self, name).weight for name in ("query", "key", "value")]
        return sum(w.sum() for w in weights) * 1e-3 + sum(w[important].sum() for w in maps)

    LadderSideTuning().prepare(module, loss, [batch(rows=1)])
    kept, query = module.blocks[0].attention.self.query.weight, layer.attention.self.query.weight
    assert all(torch.isin(part, query[row]).all() for part, row in zip(kept, important.tolist(), strict=True))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(PRUNABLE)))
def test_families_without_a_pruning_rule_start_at_random_and_say_why(family):
    module, drawn = prepared(family)
    assert "random start" in module.prepare_note and not drawn
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), ladder(family).parameters(), strict=True))


def test_pruning_without_examples_is_refused():
    with pytest.raises(BenchError, match="found no training example"):
        prepared("bert", rows=0)


def test_random_start_draws_no_example():
    module = ladder("bert")
    LadderSideTuning().prepare(module, lambda one: pytest.fail("loss was asked for"), [batch(rows=1)])
    assert module.prepare_note == ""

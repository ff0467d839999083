"""The anatomy names existing modules of every family, and refuses what it does not know."""

import json

import pytest
import torch
from torch import nn

from bench.anatomy import anatomy, oriented
from bench.errors import BenchError
from bench.models.backbone import load
from bench.models.head import inputs_of
from bench.schema.jobs import BackboneSpec
from tests.methods.families import ENCODER_DECODERS, EVERY, MIXTURES, batch, beside_decoder, ffn_width, tiny


@pytest.mark.parametrize("family", EVERY)
def test_every_path_names_a_module(family):
    backbone = tiny(family)
    parts = anatomy(backbone)
    assert len(parts.layers) == 2
    assert isinstance(backbone.get_submodule(parts.layers_path), nn.ModuleList)
    for path in (parts.embeddings, parts.word_embeddings):
        backbone.get_submodule(path)
    for layer in parts.layers:
        for path in (layer.path, layer.attention, layer.attention_end, layer.ffn_start, layer.ffn_end, layer.ffn_norm):
            backbone.get_submodule(path)
        for projection in layer.projections.values():
            assert backbone.get_submodule(projection.path).weight.ndim == 2


@pytest.mark.parametrize("family", EVERY)
def test_sizes(family):
    backbone = tiny(family)
    parts = anatomy(backbone)
    assert (parts.hidden, parts.heads, parts.ffn) == (32, backbone.config.num_attention_heads, ffn_width(family))


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_decoders_layers_follow_the_encoders_and_have_a_second_attention(family):
    backbone = tiny(family)
    parts = anatomy(backbone)
    assert [len(layer.attentions) for layer in parts.layers] == [1, 1, 2, 2]
    assert parts.decoder_path and parts.layers[2].path == f"{parts.decoder_path}.0"
    assert backbone.get_submodule(parts.lm_head) is backbone.get_output_embeddings()
    for layer in parts.layers:
        paths = (layer.attention_end, layer.ffn_start, layer.ffn_end, layer.ffn_norm, *layer.attentions)
        for path in (*paths, *(one.path for one in layer.maps)):
            backbone.get_submodule(path)
        inside = {backbone.get_submodule(one.path) for one in layer.cross.values()}
        assert inside == set(backbone.get_submodule(layer.attentions[-1]).children()) or not layer.cross
    at = [(index, one.path) for index, one in parts.projections(["query", "ffn_in"])]
    assert len(set(at)) == len(at) == 2 * 2 + 2 * 3
    assert [one.role for index, one in parts.projections(["query", "ffn_in"]) if index == 3] == [
        "query",
        "ffn_in",
        "query",
    ]


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_cross_attention_takes_keys_and_values_from_the_encoder(family):
    backbone = tiny(family)
    held = {}
    for role, one in anatomy(backbone).layers[3].cross.items():
        module = backbone.get_submodule(one.path)
        module.register_forward_pre_hook(lambda m, inputs, role=role: held.update({role: inputs[0]}))
    with torch.no_grad():
        output = backbone(**inputs_of(beside_decoder(batch(length=7), length=4)))
    for role in ("key", "value"):
        assert torch.equal(held[role], output.encoder_last_hidden_state)
    assert held["query"].shape == held["output"].shape == (3, 4, 32)


def test_a_bart_whose_stacks_differ_is_refused():
    with pytest.raises(BenchError, match=r"encoder_ffn_dim = 64 and decoder_ffn_dim = 48 is not supported; give both"):
        anatomy(tiny("bart", decoder_ffn_dim=48))


class Moved:
    """What the first block makes of a nudge to some outputs of one of its maps, at one position of ten."""

    POSITION = 4

    def __init__(self, family):
        self.backbone = tiny(family)
        self.parts = anatomy(self.backbone)
        self.maps = self.parts.layers[0].projections
        self.still = {role: self.seen(role) for role in ("output", "ffn_out") if role in self.maps}

    def rows(self, role):
        """Outputs of the map that are the role's."""
        weight = oriented(self.backbone.get_submodule(self.maps[role].path))
        return torch.arange(len(weight))[self.maps[role].rows(len(weight))]

    def seen(self, reader, nudged=None, outputs=None, size=1.0):
        """What the map ``reader`` is given ``[3, 10, width]``, with ``outputs`` of ``nudged`` moved."""
        held = []

        def nudge(module, inputs, out):
            if out.shape[:-1].numel() != 30:  # DeBERTa maps its relative positions by the same modules
                return out
            noise = torch.randn(len(outputs), generator=torch.Generator().manual_seed(5))
            moved = out.clone()
            moved.view(3, 10, -1)[:, self.POSITION, outputs] += size * noise  # OPT's FFN takes [30, width]
            return moved

        module = self.backbone.get_submodule(self.maps[reader].path)
        hooks = [module.register_forward_pre_hook(lambda m, inputs: held.append(inputs[0].clone()))]
        if nudged:
            hooks.append(self.backbone.get_submodule(self.maps[nudged].path).register_forward_hook(nudge))
        with torch.no_grad():
            self.backbone(**batch())
        for hook in hooks:
            hook.remove()
        return held[0].view(3, 10, -1)

    def by(self, role, reader, outputs=None, size=1.0):
        """The move of what ``reader`` is given."""
        outputs = self.rows(role) if outputs is None else outputs
        return self.seen(reader, role, outputs, size) - self.still[reader]

    def linear(self, role, reader):
        twice, once = self.by(role, reader, size=2.0), self.by(role, reader)
        return torch.allclose(twice, 2 * once, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_every_projection_feeds_what_its_role_says(family):
    """Queries decide their own position alone, keys others too, and values others in proportion."""
    moved = Moved(family)
    elsewhere = [position for position in range(10) if position != moved.POSITION]
    for role in ("query", "key", "value"):
        change = moved.by(role, "output")
        assert change[:, moved.POSITION].abs().max() > 1e-6
        assert (change[:, elsewhere].abs().max() > 1e-6) == (role != "query"), role
        assert moved.linear(role, "output") == (role == "value"), role
    if "ffn_gate" in moved.maps:
        assert moved.linear("ffn_in", "ffn_out") and not moved.linear("ffn_gate", "ffn_out")
    elif family not in MIXTURES:
        assert moved.by("ffn_in", "ffn_out").abs().max() > 1e-6


@pytest.mark.parametrize("family", EVERY)
def test_the_roles_of_a_map_share_its_outputs_out(family):
    moved = Moved(family)
    for path in {projection.path for projection in moved.maps.values()}:
        held = torch.cat([moved.rows(role) for role, own in moved.maps.items() if own.path == path])
        assert sorted(held.tolist()) == list(range(len(oriented(moved.backbone.get_submodule(path)))))


@pytest.mark.parametrize("family", sorted({*EVERY} - {"olmo2"}))  # whose norms of queries and keys mix the heads
@pytest.mark.parametrize("role", ["query", "value"])
def test_the_rows_of_a_projection_go_head_by_head(role, family):
    moved = Moved(family)
    rows, heads = moved.rows(role), moved.parts.heads
    width = len(moved.rows("query")) // heads
    serves = heads * width // len(rows)
    last = moved.by(role, "output", rows[-width:])
    assert last[..., (heads - serves) * width :].abs().max() > 1e-6
    assert not last[..., : (heads - serves) * width].abs().gt(1e-6).any()


def test_unknown_target_names_those_that_exist():
    with pytest.raises(BenchError, match=r"unknown target 'querry'.*Did you mean 'query'"):
        list(anatomy(tiny("bert")).projections(["querry"]))
    with pytest.raises(BenchError, match="'ffn_gate' matches nothing in family 'bert'"):
        list(anatomy(tiny("bert")).projections(["ffn_gate"]))


def test_foreign_family_is_refused():
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("deberta", vocab_size=32, hidden_size=16, num_hidden_layers=1,
                                  num_attention_heads=2, intermediate_size=16)  # fmt: skip
    with pytest.raises(BenchError, match="unknown backbone family 'deberta'"):
        anatomy(AutoModel.from_config(config))


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [("albert", "one block that runs many times.*; take bert or electra"), ("gemma3", "name its text part")],
)
def test_a_family_that_cannot_be_measured_says_why_and_what_works(model_type, sentence, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BenchError, match=f"backbone family '{model_type}' cannot be measured: .*{sentence}"):
        load(BackboneSpec(name=str(path), weights="random"), device="meta")


def test_mpnet_counts_positions_from_its_own_padding_alone():
    with pytest.raises(BenchError, match="set pad_token_id = 1"):
        anatomy(tiny("mpnet", pad_token_id=0))


@pytest.mark.parametrize(
    ("family", "fields", "sentence"),
    [
        ("falcon_grouped", {"parallel_attn": False}, "set parallel_attn = true"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, "leave num_ln_in_parallel_attn out"),
    ],
)
def test_a_falcon_that_cannot_run_is_refused(family, fields, sentence):
    with pytest.raises(BenchError, match=sentence):
        anatomy(tiny(family, **fields))


OTHERS = ("mpt", "deberta", "pegasus", "xlnet", "mamba")


@pytest.mark.parametrize("model_type", OTHERS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_family_that_is_not_supported_is_refused_for_that_reason(model_type, attention, tmp_path):
    """Not by what transformers says of its attention, nor with advice to report it elsewhere."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BenchError) as refusal:
        load(BackboneSpec(name=str(path), weights="random"), device="meta", attention=attention)
    assert str(refusal.value).startswith(f"unknown backbone family '{model_type}'; known: bart, bert, bloom, ")
    assert "http" not in str(refusal.value)

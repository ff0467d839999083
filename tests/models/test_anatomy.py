"""The anatomy names existing modules of every family, and refuses what it does not know."""

import json

import pytest
from torch import nn

from bench.anatomy import anatomy
from bench.errors import BenchError
from bench.models.backbone import load
from bench.schema.jobs import BackboneSpec
from tests.methods.families import EVERY, tiny


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
    assert (parts.hidden, parts.heads, parts.ffn) == (32, backbone.config.num_attention_heads, 64)


def test_unknown_target_names_those_that_exist():
    with pytest.raises(BenchError, match=r"unknown target 'querry'.*Did you mean 'query'"):
        list(anatomy(tiny("bert")).projections(["querry"]))
    with pytest.raises(BenchError, match="'ffn_gate' matches nothing in family 'bert'"):
        list(anatomy(tiny("bert")).projections(["ffn_gate"]))


def test_foreign_family_is_refused():
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("deberta-v2", vocab_size=32, hidden_size=16, num_hidden_layers=1,
                                  num_attention_heads=2, intermediate_size=16)  # fmt: skip
    with pytest.raises(BenchError, match="unknown backbone family 'deberta-v2'"):
        anatomy(AutoModel.from_config(config))


OTHERS = ("gemma2", "bloom", "mpt", "deberta", "deberta-v2", "mixtral", "bart", "xlnet", "falcon", "phi3")


@pytest.mark.parametrize("model_type", OTHERS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_family_that_is_not_supported_is_refused_for_that_reason(model_type, attention, tmp_path):
    """Not by what transformers says of its attention, nor with advice to report it elsewhere."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BenchError) as refusal:
        load(BackboneSpec(name=str(path), weights="random"), device="meta", attention=attention)
    assert str(refusal.value).startswith(f"unknown backbone family '{model_type}'; known: bert, camembert, cohere, ")
    assert "http" not in str(refusal.value)

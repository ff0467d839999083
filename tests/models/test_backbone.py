"""Backbones are found by name, checked by hash, and loaded bare and frozen."""

import json

import pytest

from bench.errors import BenchError
from bench.models import backbone


def test_minilm_comes_with_the_pinned_hash():
    spec = backbone.resolve(backbone.MINILM, "pretrained")
    assert spec.sha256 == backbone.PRETRAINED[backbone.MINILM].sha256
    described = backbone.describe(spec)
    assert described.parameters == 22_565_376
    assert any("QQP" in note for note in described.notes)


def test_a_wrong_weight_hash_stops_the_run(monkeypatch):
    pinned = backbone.PRETRAINED[backbone.MINILM]
    wrong = backbone.Pinned(revision=pinned.revision, sha256="0" * 64, wheel=pinned.wheel)
    monkeypatch.setitem(backbone.PRETRAINED, backbone.MINILM, wrong)
    with pytest.raises(BenchError, match=r"model.safetensors: sha256 is 53aa\w+, expected 0000"):
        backbone.resolve(backbone.MINILM, "pretrained")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert-base", 108_891_648), ("roberta-base", 124_055_040), ("minilm-l6", 22_565_376), ("gpt2", 124_439_808)],
)
def test_named_shapes_have_their_published_counts(name, parameters):
    assert backbone.describe(backbone.resolve(name, "random")).parameters == parameters


def test_a_loaded_backbone_is_frozen_bare_and_in_eval_mode():
    module = backbone.load(backbone.resolve("tiny", "random"))
    assert not any(p.requires_grad for p in module.parameters())
    assert not module.training
    assert module.pooler is None


EAGER = {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 96}
"""A family that has no fused attention in transformers."""


@pytest.fixture
def eager(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(EAGER))
    return str(path)


def test_a_family_without_fused_attention_takes_the_eager_one_and_its_record_says_so(eager):
    spec = backbone.resolve(eager, "random")
    assert backbone.load(spec, device="meta").config._attn_implementation == "eager"
    note = "attention is eager, since family 'bloom' has no fused one in transformers"
    assert note in backbone.describe(spec).notes
    with pytest.raises(BenchError, match=f"{note}; set attention = 'eager'"):
        backbone.load(spec, device="meta", attention="sdpa")


def test_the_shape_of_every_figure_names_the_attention_that_is_taken(eager):
    from bench.count.predict import predictions
    from bench.plan.load import parse_suite
    from bench.plan.planner import make_plan
    from bench.report.sections.overview import shape_line
    from bench.schema.shape import Setting

    (row,) = predictions(eager, ["full"], Setting(batch=1, length=8))
    assert "float32, eager, adamw_fused" in shape_line(row.shape)
    suite = {
        "name": "s", "question": "q", "backbone": {"name": eager, "weights": "random"}, "method": [{"name": "full"}],
        "cost": [{"batch": 2, "length": 8}], "sweep": [{"vary": "length", "values": [8, 16], "batch": 1}],
    }  # fmt: skip
    plan = make_plan(parse_suite(suite, "s.toml"), "s.toml", "cpu")
    assert [job.attention for job in (*plan.probes, *plan.sweeps)] == ["eager", "eager"]
    assert [cost.attention for cost in plan.suite.cost] == ["eager"]


def test_a_mixture_counts_the_experts_that_a_token_is_routed_to(tmp_path):
    from bench.count.predict import predictions
    from bench.schema.shape import Setting

    path = tmp_path / "config.json"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 96, "num_local_experts": 8, "num_experts_per_tok": 3}  # fmt: skip
    path.write_text(json.dumps({"model_type": "mixtral", **sizes}))
    (row,) = predictions(str(path), ["full"], Setting(batch=2, length=8))
    attention = 2 * (2 * 32 * 32 + 2 * 32 * 16) + 2 * 2 * 8 * 32
    experts = 2 * 3 * 3 * 32 * 64 + 2 * 32 * 8  # three maps of three experts, and the router's scores of eight
    head = 2 * 2 * 32 * 2
    assert row.flops.forward == 2 * 8 * 2 * (attention + experts) + head
    assert any("the 3 of 8 that each token is routed to" in note for note in row.notes)


@pytest.mark.parametrize(
    ("family", "whole"),
    [("llama", ""), ("falcon", "FalconLinear"), ("mixtral", "MixtralExperts, MixtralTopKRouter")],
)
def test_what_four_bits_do_not_hold_is_said_and_not_counted_as_packed(tmp_path, family, whole):
    from bench.count.predict import predictions
    from bench.schema.shape import Setting

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96,
             "num_key_value_heads": 4, "intermediate_size": 64}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": family, **sizes}))
    (plain,), (packed,) = (
        predictions(str(path), ["lora(rank=2)"], Setting(batch=1, length=8, weights=kind)) for kind in ("native", "nf4")
    )
    assert any(f"4-bit storage leaves {whole} as they are" in note for note in packed.notes) == bool(whole)
    assert (packed.bytes.weights == plain.bytes.weights) == (family == "falcon")


def test_random_weights_depend_on_the_seed_alone():
    spec = backbone.resolve("tiny", "random")
    first, again, other = (backbone.load(spec, seed=seed) for seed in (0, 0, 1))
    weight = "encoder.layer.0.intermediate.dense.weight"
    assert first.get_parameter(weight).equal(again.get_parameter(weight))
    assert not first.get_parameter(weight).equal(other.get_parameter(weight))


def test_unknown_shape_and_unreachable_weights_are_named():
    with pytest.raises(BenchError, match=r"unknown backbone shape 'bert-bse'.*Did you mean 'bert-base'"):
        backbone.resolve("bert-bse", "random")
    with pytest.raises(BenchError, match="'nobody/nothing' at main is not cached and cannot be fetched"):
        backbone.resolve("nobody/nothing", "pretrained")
    with pytest.raises(BenchError, match="is a shape without weights"):
        backbone.resolve("bert-base", "pretrained")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("bert-bse", "did you mean 'bert-base' or "),
        ("BERT-Large", "did you mean 'bert-large'"),
        ("qwen3-7b", "did you mean 'qwen3-8b'"),
        ("all-MiniLM-L6-v2", f"did you mean '{backbone.MINILM}'"),
        ("xyz", "no known name is close to it (named shapes: `list backbones`; hub ids: owner/model)"),
    ],
)
@pytest.mark.parametrize(
    "take", [backbone.shape_of, lambda name: backbone.resolve(name, "pretrained")], ids=["shape", "weights"]
)
def test_a_name_that_cannot_be_a_hub_id_is_answered_by_its_nearest_names_without_the_network(
    no_network, take, name, near
):
    with pytest.raises(BenchError, match=f"unknown backbone '{name}'") as raised:
        take(name)
    assert near in str(raised.value)


def test_a_local_config_is_a_shape(tmp_path):
    path = tmp_path / "config.json"
    values = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    path.write_text(json.dumps(values))
    assert backbone.load(backbone.resolve(str(path), "random"), device="meta").config.hidden_size == 32
    path.write_text("{}")
    with pytest.raises(BenchError, match=r"config.json: not a readable config.json"):
        backbone.configuration(backbone.resolve(str(path), "random"))


@pytest.mark.parametrize("content", ["[]", "1", '{"model_type": "no"}'])
def test_a_config_that_does_not_fit_is_one_sentence(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(BenchError, match=r"config.json: not a readable config.json") as raised:
        backbone.configuration(backbone.resolve(str(path), "random"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a/b/c", "a//b", ""])
def test_what_is_no_hub_id_is_named(name):
    with pytest.raises(BenchError, match="is not a hub id; give owner/model"):
        backbone.resolve(name, "pretrained")


def test_tasks_near_the_pretraining_objective_are_marked():
    assert backbone.task_notes(backbone.MINILM, "mrpc") == ("near pretraining objective",)
    assert backbone.task_notes(backbone.MINILM, "sst2") == ()


def cached_on_this_machine(root, name, config, *, revision="main"):
    """Lay a hub cache that holds the configuration of ``name`` and nothing else."""
    folder = root / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text("0123abcd")
    (folder / "snapshots" / "0123abcd").mkdir(parents=True)
    (folder / "snapshots" / "0123abcd" / "config.json").write_text(json.dumps(config))


def test_the_shape_of_a_hub_id_needs_its_cached_configuration_alone(tmp_path, monkeypatch):
    config = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    cached_on_this_machine(tmp_path, "somebody/small-bert", config)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = backbone.shape_of("somebody/small-bert")
    assert spec.weights == "random"
    assert backbone.configuration(spec).hidden_size == 32
    with pytest.raises(BenchError, match=r"model\.safetensors: is missing; safetensors weights are required"):
        backbone.resolve("somebody/small-bert", "pretrained")


def test_of_a_hub_id_that_is_not_cached_the_configuration_alone_is_fetched(tmp_path, monkeypatch):
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 64, "n_head": 4}))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert backbone.configuration(backbone.shape_of("somebody/small-gpt")).n_embd == 64
    assert asked == {"name": "somebody/small-gpt", "revision": "main", "allow_patterns": ["config.json"]}


def test_a_name_close_to_a_shape_is_told_so():
    with pytest.raises(BenchError, match=r"cannot be fetched .*; did you mean 'bert-base' or "):
        backbone.shape_of("google-bert/bert-bse")

"""Every field of a configuration that decides a step is set by the harness, kept and recorded, or refused."""

import ast
import dataclasses
import importlib
import inspect
import json
import re

import pytest
from transformers import AutoConfig, PreTrainedConfig

from bench.anatomy import _FAMILIES
from bench.errors import BenchError
from bench.models import backbone
from bench.models.configuration import CHOSEN, DERIVED, KEPT, QUANTISED, REFUSED, SET, UNREAD

GROUPS = {"SET": SET, "CHOSEN": CHOSEN, "UNREAD": UNREAD, "REFUSED": REFUSED, "KEPT": KEPT, "DERIVED": DERIVED,
          "QUANTISED": QUANTISED}  # fmt: skip
METHODS = {"get_text_config", "standardize_rope_params", "validate_rope", "get_mtp_config", "save_pretrained",
           "to_dict", "sub_configs", "__class__", "is_heterogeneous", "base_model_tp_plan", "base_model_pp_plan",
           "_attn_implementation_internal", "_experts_implementation_internal", "nested_rope_parameter_keys",
           "extra_files", "_is_quantized"}  # fmt: skip
"""What is read of a configuration and is no field of a file: its methods, and what its class holds."""
ELSEWHERE = {
    "attention_chunk_size": "chunked attention", "is_causal": "masks", "mtp_hidden_states_first": "draft heads",
    "chain_hidden_post_norm": "draft heads", "logits_mup_width_multiplier": "draft heads",
    "token_classification_bias": "heads", "vision_config": "images", "text_config": "images",
    "image_token_id": "images", "mm_tokens_per_image": "images",
}  # fmt: skip
"""Fields that the shared code of transformers reads for families and heads that are not loaded here, with whose."""
BERT = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}  # fmt: skip
TINY = {
    "bert": BERT, "roberta": BERT, "llama": {**BERT, "num_key_value_heads": 2},
    "gpt2": {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"vocab_size": 100, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "qwen3": {**BERT, "num_key_value_heads": 2, "head_dim": 8}, "modernbert": {**BERT, "pad_token_id": 0},
    "t5": {"vocab_size": 100, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4,
           "is_encoder_decoder": False},
}  # fmt: skip


def shape(folder, family="bert", **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": family, **TINY[family], **fields}))
    return backbone.shape_of(str(path))


def test_no_field_is_in_two_groups():
    names = [name for group in GROUPS.values() for name in group]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", _FAMILIES)
def test_every_field_of_a_supported_family_has_its_group(family):
    fields = {field.name for field in dataclasses.fields(type(AutoConfig.for_model(family)))}
    fields |= {field.name for field in dataclasses.fields(PreTrainedConfig)}
    assert fields - {name for group in GROUPS.values() for name in group} == set()


def reads(module):
    """Names that the source of ``module`` reads of a configuration, also by ``getattr``."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] == "config":
            yield node.attr
        called = isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr"}
        if (
            called
            and ast.unparse(node.args[0]).rpartition(".")[2] == "config"
            and isinstance(node.args[1], ast.Constant)
        ):
            yield node.args[1].value


FOLDERS = [family.replace("-", "_").removesuffix("_text") for family in _FAMILIES]
MODELING = [f"models.{name}.modeling_{name}" for name in FOLDERS]
SHARED = ["modeling_utils", "modeling_layers", "modeling_rope_utils", "masking_utils", "utils.generic",
          "utils.output_capturing", "integrations.moe"]  # fmt: skip


@pytest.mark.parametrize("module", [*MODELING, *SHARED])
def test_every_field_that_transformers_reads_has_its_group(module):
    found = set(reads(importlib.import_module(f"transformers.{module}")))
    assert found, "the reader of the source finds nothing"
    known = {name for group in GROUPS.values() for name in group}
    assert found - known - METHODS - ELSEWHERE.keys() == set()


# set, whatever the file says

ODD = [
    ("bert", "gradient_checkpointing", True),
    ("llama", "gradient_checkpointing", True),
    ("bert", "use_cache", True),
    ("llama", "use_cache", True),
    ("bert", "output_attentions", True),
    ("bert", "output_hidden_states", True),
    ("llama", "output_hidden_states", True),
    ("bert", "return_dict", False),
    ("bert", "use_return_dict", False),
    ("bert", "chunk_size_feed_forward", 4),
    ("bert", "torch_dtype", "bfloat16"),
    ("bert", "dtype", "float16"),
    ("bert", "attn_implementation", "eager"),
    ("bert", "_attn_implementation", "flash_attention_2"),
    ("opt", "layerdrop", 0.9),
    ("bert", "problem_type", "single_label_classification"),
    ("bert", "num_labels", 1),
    ("bert", "id2label", {"0": "a", "1": "b", "2": "c"}),
    ("t5", "is_gated_act", True),
    ("t5", "is_encoder_decoder", True),
    ("bert", "is_encoder_decoder", True),
    ("llama", "pretraining_tp", 4),
    ("bert", "distributed_config", {"tp_size": 2}),
    ("bert", "fusion_config", {"x": 1}),
    ("bert", "quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
]


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Figures of a full step of a family with these fields in its file; each is counted once."""
    from bench import registry
    from bench.count.count import count
    from bench.schema.shape import Setting

    known = {}

    def figures(family, **fields):
        key = json.dumps([family, fields])
        if key not in known:
            spec = shape(tmp_path_factory.mktemp("config"), family, **fields)
            counts = count(spec, *registry.make("full", {}), Setting(batch=1, length=8))
            known[key] = counts.flops, counts.bytes, counts.peak
        return known[key]

    return figures


@pytest.mark.parametrize(("family", "field", "value"), ODD)
def test_a_step_is_the_same_whatever_a_file_says_of_it(counted, family, field, value):
    assert counted(family, **{field: value}) == counted(family)


def test_a_file_that_asks_for_checkpoints_is_counted_without_and_as_the_record_says(tmp_path):
    module = backbone.load(shape(tmp_path, gradient_checkpointing=True), device="meta")
    assert not any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


# refused

STRANGE = [
    ("bert", "is_decoder", True),
    ("roberta", "is_decoder", True),
    ("bert", "add_cross_attention", True),
    ("gpt2", "add_cross_attention", True),
    ("llama", "is_causal", False),
    ("bert", "is_causal", True),
    ("bert", "pruned_heads", {"0": [1]}),
    ("bert", "position_embedding_type", "relative_key"),
    ("roberta", "position_embedding_type", "relative_key_query"),
    ("llama", "per_layer_config", {"0": {"intermediate_size": 16}}),
    ("gpt2", "tie_last_hidden_states", False),
]


@pytest.mark.parametrize(("family", "field", "value"), STRANGE)
def test_a_field_that_would_change_what_is_measured_is_refused_by_name(tmp_path, family, field, value):
    with pytest.raises(BenchError, match=rf"config\.json: {field} = .*; remove the field$"):
        backbone.configuration(shape(tmp_path, family, **{field: value}))


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_what_asks_for_nothing_is_taken(tmp_path, field):
    for value in REFUSED[field][0]:
        backbone.configuration(shape(tmp_path, **{field: value}))


FAULTS = [
    ('{"model_type": "bert", "hidden_size": 32, "hidden_size": 64}', "the key 'hidden_size' is listed twice"),
    ('{"model_type": "bert", "x": {"a": 1, "a": 2}}', "the key 'a' is listed twice"),
    ('{"model_type": "gpt2", "n_embd": 32, "hidden_size": 64}', "hidden_size and n_embd are one field with two values"),
    ('{"model_type": "t5", "d_model": 32, "hidden_size": 64}', "hidden_size and d_model are one field with two values"),
    ('{"hidden_size": 32}', "it has no model_type"),
    ('{"model_type": ["bert"]}', r"does not know \['bert'\]"),
    ('{"model_type": "falcon9"}', "does not know 'falcon9'"),
    ('{"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}', "'mine', and code of its own .auto_map. is never"),
    ('{"auto_map": {"AutoConfig": "c.C"}}', "it has no model_type, and code of its own .auto_map. is never run"),
    ('{"model_type": "bert", "quantization_config": 4}', "quantization_config holds no table of fields"),
    ("[" * 100_000, "recursion"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), FAULTS)
def test_a_file_that_says_two_things_or_asks_for_code_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=sentence) as raised:
        backbone.configuration(backbone.shape_of(str(path)))
    assert "\n" not in str(raised.value)


# noted and recorded

NOTED = [
    ("llama", {"quantization_config": {"quant_method": "aqlm", "load_in_4bit": True}}, "(aqlm, 4 bits)"),
    ("llama", {"quantization_config": {"quant_method": "mine", "load_in_8bit": True}}, "(mine, 8 bits)"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "(gptq, 4 bits)"),
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, "(fp8)"),
    ("llama", {"quantization_config": {"load_in_4bit": True}}, "(a method that is not named, 4 bits)"),
    ("llama", {"compression_config": {"quant_method": "compressed-tensors"}}, "(compressed-tensors)"),
    ("opt", {"layerdrop": 0.1}, "layerdrop = 0.1 is set to 0"),
    ("bert", {"auto_map": {"AutoModel": "mine.Model"}}, "auto_map"),
    ("bert", {"hiden_size": 64}, "not read by transformers for bert: hiden_size"),
    ("gpt2", {"n_ctx": 64, "attn_heads": 2}, "not read by transformers for gpt2: attn_heads, n_ctx"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields", "note"), NOTED)
def test_what_is_done_otherwise_than_the_file_says_is_noted_in_record_and_prediction(tmp_path, family, fields, note):
    spec = shape(tmp_path, family, **fields)
    (found,) = backbone.describe(spec).notes
    assert note in found


def test_a_prediction_says_what_is_not_applied(tmp_path):
    from bench.count.predict import predictions
    from bench.schema.shape import Setting

    path = shape(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4}).name
    (row,) = predictions(path, ["head"], Setting(batch=1, length=8))
    assert any("quantization_config (gptq, 4 bits) is not applied" in note for note in row.notes)


@pytest.mark.parametrize("family", TINY)
def test_what_comes_from_the_file_is_recorded_and_nothing_is_noted(tmp_path, family):
    described = backbone.describe(shape(tmp_path, family, torch_dtype="bfloat16", max_length=20, use_cache=True))
    assert described.notes == ()
    assert described.configuration == TINY[family]


def test_fields_of_old_that_transformers_turns_into_others_are_known(tmp_path):
    old = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    spec = shape(tmp_path, "llama", **old)
    assert backbone.describe(spec).notes == ()
    assert backbone.configuration(spec).rope_parameters["factor"] == 2.0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"model_type": "mistral", "num_attention_heads": 4},
            "4 num_attention_heads cannot share 8 num_key_value_heads",
        ),
        (
            {"model_type": "falcon", "hidden_size": 32, "num_attention_heads": 4, "num_kv_heads": 3},
            "4 num_attention_heads cannot share 3 num_kv_heads evenly; give a number that divides 4",
        ),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "num_experts_per_tok = 9 is above num_local_experts = 8"),
        ({"model_type": "bloom", "n_embed": 30, "n_head": 4}, "hidden_size = 30 is no multiple of n_head = 4"),
        ({"model_type": "deberta-v2", "attention_head_size": 8}, "attention_head_size = 8 gives heads a width"),
    ],
)
def test_what_a_file_says_fits_what_its_family_says_where_it_is_silent(tmp_path, fields, sentence):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(BenchError, match=sentence):
        backbone.configuration(backbone.shape_of(str(path)))


IMPOSSIBLE = [
    ("bert", '"layer_norm_eps": NaN', "NaN is no finite number"),
    ("bert", '"initializer_range": Infinity', "Infinity is no finite number"),
    ("bert", '"layer_norm_eps": 1e999', "1e999 is no finite number"),
    ("llama", '"rope_scaling": {"rope_type": "linear", "factor": -Infinity}', "-Infinity is no finite number"),
    ("llama", '"num_key_value_heads": 3', "4 num_attention_heads cannot share 3 num_key_value_heads evenly; give"),
    ("llama", '"num_key_value_heads": 8', "4 num_attention_heads cannot share 8 num_key_value_heads evenly; give"),
    *(
        (family, f'"{field}": {value}', f"{field} = {value}; it takes a whole number from 1 to ")
        for family, field, *values in (
            ("bert", "num_hidden_layers", "0", "-1", "10001", "1000000000000", "2.5", "true", '"2"', "null"),
            ("bert", "vocab_size", "0", "-1", "1000000000000", '"100"'), ("bert", "num_attention_heads", "0", "-1"),
            ("bert", "hidden_size", "0", "-64", "null"), ("bert", "intermediate_size", "0"),
            ("bert", "max_position_embeddings", "0", "-1"), ("bert", "type_vocab_size", "0"),
            ("llama", "num_key_value_heads", "0", "-1"), ("llama", "head_dim", "0", "-8"),
            ("llama", "max_position_embeddings", "0"), ("qwen3", "sliding_window", "0", "-1", "2.5", "true"),
            ("gpt2", "n_embd", "0"), ("gpt2", "n_head", "-1"), ("gpt2", "n_inner", "0"), ("gpt2", "n_layer", "-1"),
            ("opt", "ffn_dim", "0"), ("opt", "word_embed_proj_dim", "-1"), ("t5", "d_kv", "0"),
            ("t5", "num_heads", "0"), ("t5", "relative_attention_max_distance", "0"),
            ("modernbert", "local_attention", "0"),
        )
        for value in values
    ),
    *(
        (family, f'"{field}": {value}', f"{field} = {value}; it takes an activation of transformers, such as '{near}'")
        for family, field, value, near in (
            ("bert", "hidden_act", '"banana"', "gelu"), ("bert", "hidden_act", '"swosh"', "swish"),
            ("llama", "hidden_act", "5", "gelu"), ("llama", "hidden_act", "null", "gelu"),
            ("gpt2", "activation_function", '"gelu_nwe"', "gelu_new"), ("t5", "feed_forward_proj", '"gated-"', "gelu"),
            ("opt", "activation_function", '""', "gelu"),
        )
    ),
    *(
        (family, f'"{field}": {value}', f"{field} = {value}; it takes {takes}")
        for family, field, value, takes in (
            ("bert", "hidden_dropout_prob", "-1.0", "a probability"), ("opt", "dropout", "2.0", "a probability"),
            ("llama", "attention_dropout", "null", "a probability"), ("t5", "dropout_rate", "true", "a probability"),
            ("bert", "layer_norm_eps", "-1.0", "a number of at least 0"), ("bert", "initializer_range", '"x"', "a n"),
            ("bert", "layer_norm_eps", "0", "a number with a point"),
            ("t5", "relative_attention_num_buckets", "3", "a whole number from 4"),
            ("llama", "rope_theta", "0", "a number above 0"), ("llama", "rope_theta", "null", "a number above 0"),
            ("llama", "tie_word_embeddings", '"banana"', "true or false"), ("qwen3", "layer_types", "5", "a list"),
            ("llama", "rope_scaling", '"banana"', "a table, such as"),
            ("llama", "rope_scaling", '{"rope_type": "banana"}', "a rope_type of default, linear"),
            ("llama", "rope_scaling", '{"rope_type": "linear"}', "a factor with rope_type 'linear'"),
            ("llama", "rope_scaling", '{"type": "yarn"}', "a factor with rope_type 'yarn'"),
            ("llama", "rope_scaling", '{"rope_type": "linear", "factor": -1}', "a factor of at least 1, not -1"),
            ("llama", "rope_scaling", '{"type": "dynamic", "factor": "x"}', "a factor of at least 1, not 'x'"),
            ("llama", "rope_parameters", '{"rope_type": "default", "rope_theta": -1.0}', "a rope_theta above 0"),
            ("bert", "torch_dtype", '"banana"', "float32, float16"), ("bert", "dtype", "5", "float32, float16"),
            ("llama", "torch_dtype", '"int8"', "float32, float16"), ("bert", "pad_token_id", "500", "a token below"),
        )
    ),
    ("bert", '"hidden_size": 31', "hidden_size = 31 is no multiple of num_attention_heads = 4; change one of the two"),
    ("gpt2", '"n_head": 5', "n_embd = 32 is no multiple of n_head = 5"),
    ("llama", '"num_attention_heads": 6', "hidden_size = 32 is no multiple of num_attention_heads = 6"),
    ("llama", '"head_dim": 7', "rotary positions turn pairs, so make it even"),
    ("qwen3", '"layer_types": ["banana", "banana"]', 'layer_types = ["banana", "banana"] does not fit'),
    ("qwen3", '"layer_types": ["full_attention"]', 'layer_types = ["full_attention"] does not fit'),
]  # fmt: skip


@pytest.mark.parametrize(("family", "field", "words"), IMPOSSIBLE)
def test_a_shape_that_cannot_be_is_refused_before_it_is_counted(tmp_path, family, field, words):
    name = field.partition('"')[2].partition('"')[0]
    rest = json.dumps({key: value for key, value in TINY[family].items() if key != name})
    path = tmp_path / "config.json"
    path.write_text(f'{{"model_type": "{family}", {field}, {rest[1:]}')
    with pytest.raises(BenchError, match=re.escape(words)) as refusal:
        backbone.load(backbone.shape_of(str(path)), device="meta")
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    assert not re.search(r"\w+Error", str(refusal.value).removeprefix(str(path))), "a library's class name"


ODD_BUT_RIGHT = [
    ("bert", {"torch_dtype": "torch.float16"}), ("bert", {"dtype": "auto"}), ("bert", {"dtype": None}),
    ("bert", {"hidden_dropout_prob": 0}), ("bert", {"layer_norm_eps": 0.0}), ("llama", {"head_dim": None}),
    ("llama", {"num_key_value_heads": None}), ("llama", {"pad_token_id": -1}), ("qwen3", {"sliding_window": None}),
    ("qwen3", {"sliding_window": 131072, "max_window_layers": 0}), ("gpt2", {"n_inner": None}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2}}),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                                "original_max_position_embeddings": 32}}), ("llama", {"rope_scaling": None}),
    ("t5", {"num_heads": 3}), ("t5", {"feed_forward_proj": "gated-gelu"}), ("opt", {"dropout": 0.1}),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8192}}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "fields"), ODD_BUT_RIGHT, ids=str)
def test_what_files_hold_that_looks_odd_is_built(tmp_path, family, fields):
    assert backbone.load(shape(tmp_path, family, **fields), device="meta").config.vocab_size == 100

"""Names in a configuration of peft's: each matches something on the bare backbone, or is refused, or is noted."""

import json
import re

import pytest
import torch

from bench.errors import BenchError
from bench.registry import make
from tests.methods.adapted import adapt, states, trained
from tests.methods.families import tiny
from tests.methods.peft_types import suited

LORA = {"peft_type": "LORA", "r": 4}
DEAD = {
    "a target beside a live one": ("bert", {"target_modules": ["query", "valu"]}, "'valu' is not .* mean 'value'"),
    "every target": ("bert", {"target_modules": ["nowhere"]}, "'nowhere' is not found in the base model"),
    "an expression": ("bert", {"target_modules": "que"}, "'que' is not found in the base model; it has"),
    "no expression": ("bert", {"target_modules": "(query"}, "is no regular expression"),
    "nothing but the head": ("llama", {"target_modules": ["lm_head"]}, "holds nothing of the backbone, lm_head alone"),
    "a rank": ("bert", {"rank_pattern": {"^valu": 2}}, "rank_pattern: '^valu' is not found"),
    "a rank of what is not adapted": ("bert", {"rank_pattern": {"key": 2}}, "rank_pattern: 'key' is adapted nowhere"),
    "a rank behind another": ("bert", {"rank_pattern": {"query": 2, ".*0.*query": 3}}, "query' is adapted nowhere"),
    "an alpha": ("bert", {"alpha_pattern": {"quer": 2}}, "alpha_pattern: 'quer' is not found"),
    "an exclusion": ("bert", {"exclude_modules": ["layer.7"]}, "exclude_modules: 'layer.7' is not found"),
    "an exclusion of what is not adapted": ("bert", {"exclude_modules": ["key"]}, "'key' takes nothing away"),
    "a target that is excluded": ("bert", {"exclude_modules": ["value"]}, "'value' is adapted nowhere"),
    "a layer": ("bert", {"layers_to_transform": [0, 2]}, "names 2; the backbone has layers 0 to 1"),
    "a layer from behind": ("bert", {"layers_to_transform": [-1]}, "names -1; the backbone has layers 0 to 1"),
    "no layer": ("bert", {"layers_to_transform": []}, "layers_to_transform is empty"),
    "a list of layers": (
        "bert", {"layers_to_transform": [0], "layers_pattern": ["layer", "block"]}, "'block' is not found",
    ),
    "a saved module": ("bert", {"modules_to_save": ["poooler"]}, "modules_to_save: 'poooler' is not found"),
    "a parameter": ("bert", {"target_parameters": ["dense.weigh"]}, "'dense.weigh' is not found"),
    "a token": ("bert", {"trainable_token_indices": [96]}, "names token 96; the vocabulary has 96"),
    "an embedding": ("bert", {"trainable_token_indices": {"wte": [1]}}, "trainable_token_indices: 'wte' is not found"),
    "a token twice": ("bert", {"trainable_token_indices": [5, 5]}, "names a token twice"),
    "a part of IA3": (
        "bert", {"peft_type": "IA3", "feedforward_modules": ["dens"]}, "'dens' is not among target_modules",
    ),
    "a block size": ("bert", {"peft_type": "C3A", "block_size": 8, "block_size_pattern": {"keyy": 4}}, "'keyy' is not"),
    "a frequency": (
        "bert", {"peft_type": "FOURIERFT", "n_frequency": 9, "n_frequency_pattern": {"key": 4}}, "'key' is adapted",
    ),
    "a token of its own type": (
        "bert", {"peft_type": "TRAINABLE_TOKENS", "token_indices": [99], "target_modules": ["word_embeddings"]}, "99",
    ),
    "a whole name of many": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]}, "as well"),
    "a layer of a decoder": ("llama", {"target_modules": ["q_proj"], "layers_to_transform": 5}, "names 5; the"),
    "an index of layers where none is adapted": (
        "bert", {"target_modules": ["layer.1.attention.self.query"], "layers_to_transform": [0, 1]},
        "names 0, where no layer is adapted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DEAD)
def test_a_name_that_matches_nothing_is_refused(case):
    family, values, words = DEAD[case]
    base = LORA if "peft_type" not in values else {}
    with pytest.raises(BenchError, match=words.replace("^", r"\^")) as refusal:
        adapt("peft", family, **{"target_modules": ["query", "value"], **base, **values})
    assert "\n" not in str(refusal.value)


BLOCKS = {"target_modules_bd_a": ["query"], "target_modules_bd_b": ["value"], "nblocks": 2}
UNFIT = {
    "a block": ("llama", {"target_modules": ["self_attn"]}, "'self_attn' is a LlamaAttention, which LORA has no layer"),
    "a list of layers": ("gpt2", {"target_modules": ["h"]}, "below it, such as c_attn, c_proj, c_fc"),
    "a norm": ("bert", {"target_modules": ["LayerNorm"]}, "is a LayerNorm, .*; name linear maps, such as query, key"),
    "a norm by an expression": ("t5", {"target_modules": ".*0.layer_norm"}, "layer.0.layer_norm' is a T5LayerNorm"),
    "a map of another class": ("gpt2", {"peft_type": "C3A", "block_size": 8}, "'c_attn' is a Conv1D, .* another peft_"),
    "layers from the end": ("bert", {"layer_replication": [[-1, 2]]}, r"holds \[-1, 2\]; each pair is a first layer"),
    "layers beyond the last": ("gpt2", {"layer_replication": [[0, 5]]}, "the end behind the last one, within 0 and 2"),
    "no layers": ("llama", {"layer_replication": [[0, 1], [1, 1]]}, r"layer_replication holds \[1, 1\]"),
    "layers of another build": ("t5", {"layer_replication": [[0, 2]]}, "layer_replication repeats layers of backbones"),
    "blocks of no target": ("bert", {"use_bdlora": {}}, "use_bdlora: '.*query' matches no name of target_modules_bd_a"),
    "blocks that do not divide": ("bert", {"use_bdlora": {**BLOCKS, "nblocks": 3}}, "nblocks = 3 does not divide both"),
    "blocks of a transposed map": ("gpt2", {"use_bdlora": {"target_modules_bd_a": ["c_attn"]}}, "use_bdlora works on"),
    "KaSA of a transposed map": ("gpt2", {"kasa_config": {}}, "kasa_config works on torch.nn.Linear alone"),
    "OLoRA of a transposed map": ("gpt2", {"init_lora_weights": "olora"}, "'h.0.attn.c_attn' is 32 x 96; take another"),
    "parameters of a transposed map": ("gpt2", {"target_parameters": ["c_fc.weight"]}, "target_parameters works on"),
    "parameters that are vectors": ("bert", {"target_parameters": ["dense.bias"]}, "parameters of 1 dimension; name"),
    "a parameter named twice": ("llama", {"target_parameters": ["q_proj.weight"]}, "which target_modules adapt"),
    "more ranks than singular vectors": ("bert", {"init_lora_weights": "pissa", "r": 33}, "r = 33 is above 32, the"),
    "more ranks than OLoRA has": ("llama", {"init_lora_weights": "olora", "r": 17}, "r = 17 is above 16, the smaller"),
    "more ranks than MiCA has": ("bert", {"init_lora_weights": "mica", "r": 33}, "r = 33 is above 32, .* 'mica' takes"),
    "as many ranks as KaSA cuts off": ("bert", {"kasa_config": {}, "r": 32}, "r = 32 is not below 32, .* kasa_config"),
    "an odd rank": ("bert", {"init_lora_weights": "orthogonal", "r": 3}, "r = 3 is odd, .* needs an even rank"),
    "two forms": ("bert", {"use_dora": True, "kasa_config": {}}, "kasa_config and use_dora exclude each other"),
    "a form of an embedding": (
        "bert", {"target_modules": ["word_embeddings"], "velora_config": {}}, "velora_config has no form for one of",
    ),
    "a bias of an embedding": (
        "bert", {"target_modules": ["word_embeddings"], "lora_bias": True}, "no form for a target of class Embedding",
    ),
    "tokens of an adapted embedding": (
        "bert", {"target_modules": ["word_embeddings"], "trainable_token_indices": [5]}, "name it in one of the two",
    ),
    "targets that are all saved": ("bert", {"modules_to_save": ["attention"]}, "'attention'.* leaves nothing of"),
    "targets that are all excluded": ("bert", {"exclude_modules": ".*"}, "exclude_modules = '..' leaves nothing of"),
    "a target of no name": ("bert", {"target_modules": ["zzz"]}, "called query, key, value, dense"),
}  # fmt: skip
"""Family, fields and words of the refusal, where a name stands for something that cannot be adapted as it is asked."""


def test_a_block_of_bdlora_that_is_adapted_nowhere_is_noted():
    """peft's own experiments name maps that they do not adapt."""
    blocks = {**BLOCKS, "target_modules_bd_b": ["value", "key"]}
    method, module = adapt("peft", "bert", target_modules=["query", "value"], use_bdlora=blocks, **LORA)
    assert "use_bdlora.target_modules_bd_b: 'key' is adapted nowhere, so that it says nothing" in method.notes(module)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_a_backbone_is_a_sentence_with_its_field_with_and_without_values(case, device):
    family, values, words = UNFIT[case]
    targets = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "t5": ["q", "v"]}[family]
    base = LORA if "peft_type" not in values else {}
    with torch.device(device):
        backbone = tiny(family)
    with pytest.raises(BenchError, match=words) as refusal:
        adapt("peft", backbone, **{"target_modules": targets, **base, **values})
    message = str(refusal.value)
    assert "\n" not in message and "does not fit this backbone" not in message and message.startswith("peft: ")


def test_what_an_embedding_reads_over_is_said():
    values = {"target_modules": ["word_embeddings"], "init_lora_weights": "pissa", "lora_dropout": 0.1}
    method, module = adapt("peft", "bert", **LORA, **values)
    (note,) = method.notes(module)
    assert note.startswith("init_lora_weights = 'pissa' and lora_dropout = 0.1 does nothing on an embedding")


def test_a_bias_that_cannot_be_folded_is_said_and_not_merged():
    method, module = adapt("peft", "llama", **LORA, target_modules=["q_proj"], lora_bias=True)
    assert method.merge(module) is None
    assert "merging LoRA weights won't be possible" in method.notes(module)[0]


NAMED = {
    "whole names": ("llama", ["model.layers.0.self_attn.q_proj", "layers.1.self_attn.v_proj"], {}, 256 + 192),
    "names of peft's own wrapper": ("llama", ["base_model.model.model.layers.0.self_attn.q_proj"], {}, 256),
    "a whole expression": ("llama", r"model\.layers\.\d\.self_attn\.(q|v)_proj", {}, 2 * (256 + 192)),
    "of BERT under its head": ("bert", ["bert.encoder.layer.1.attention.self.query"], {}, 256),
    "of GPT-2 under its head": ("gpt2", ["transformer.h.1.attn.c_attn"], {}, 512),
    "a rank by a whole name": (
        "llama", ["q_proj"], {"rank_pattern": {"model.layers.1.self_attn.q_proj": 8}}, 256 + 512,
    ),
    "a rank by a whole expression": ("llama", ["q_proj"], {"rank_pattern": {r"^model\.layers\.\d.*q_proj": 8}}, 1024),
    "an exclusion by a whole name": (
        "llama", ["q_proj"], {"exclude_modules": ["model.layers.0.self_attn.q_proj"]}, 256,
    ),
    "an exclusion by a whole expression": ("llama", ["q_proj"], {"exclude_modules": r"model\.layers\.1\..*"}, 256),
    "a saved module by a whole name": (
        "llama", ["q_proj"], {"modules_to_save": ["model.layers.1.input_layernorm"]}, 512 + 32,
    ),
    "tokens by a whole name": ("llama", ["q_proj"], {"trainable_token_indices": {"model.embed_tokens": [7]}}, 512 + 32),
}  # fmt: skip
"""Family, targets, other fields and how many parameters train."""


@pytest.mark.parametrize("case", NAMED)
def test_names_of_a_whole_model_are_understood_and_said(case):
    family, targets, more, count = NAMED[case]
    method, module = adapt("peft", family, **LORA, target_modules=targets, **more)
    assert sum(p.numel() for p in trained(module).values()) == count
    (note,) = method.notes(module)
    assert note.startswith("names of the whole model are read without their beginning")


HEADS = {
    "a target": {"target_modules": ["q_proj", "lm_head"]},
    "a whole target": {"target_modules": ["q_proj", "base_model.model.lm_head"]},
    "a saved module": {"target_modules": ["q_proj"], "modules_to_save": ["score"]},
    "two saved modules": {"target_modules": ["q_proj"], "modules_to_save": ["classifier", "score"]},
    "an exclusion": {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
    "an exclusion in one word": {"target_modules": "all-linear", "exclude_modules": "lm_head"},
    "an exclusion by an expression": {"target_modules": "all-linear", "exclude_modules": r".*\.(lm_head|score)"},
    "a rank": {"target_modules": ["q_proj"], "rank_pattern": {"lm_head": 2}},
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_that_the_backbone_lacks_is_left_out_and_said(case):
    values = HEADS[case]
    method, module = adapt("peft", "llama", **LORA, **values)
    plain = {
        "target_modules": [n for n in values["target_modules"] if "head" not in n]
        if "target" in case
        else values["target_modules"]
    }
    _, without = adapt("peft", "llama", **LORA, **plain)
    assert [(n, p.shape) for n, p in trained(module).items()] == [(n, p.shape) for n, p in trained(without).items()]
    (note,) = method.notes(module)
    assert "which the bare backbone lacks and which is left out" in note


@pytest.mark.parametrize(
    ("family", "target"), [("llama", "q_proj"), ("gpt2", "c_attn"), ("bert", "query"), ("t5", "q")]
)
def test_layers_are_found_on_a_backbone_that_begins_with_them(family, target):
    _, module = adapt("peft", family, **LORA, target_modules=[target], layers_to_transform=[1])
    layers = {re.search(r"\.(?:layers|h|layer|block)\.(\d)\.", name)[1] for name in trained(module)}
    assert layers == {"1"}


def test_what_was_left_out_loads_again():
    method, module = adapt("peft", "llama", **LORA, **HEADS["a target"])
    method_again, config = make("peft", LORA | HEADS["a target"])
    again = method_again.load_delta(tiny("llama"), config, method.delta(module))
    assert torch.equal(states(again.eval()), states(module.eval()))


ELSEWHERE = {"num_layers": 24, "num_attention_heads": 32, "token_dim": 2048, "num_transformer_submodules": 2}
PROMPTS = {
    "PREFIX_TUNING": {"encoder_hidden_size": 2048, "prefix_projection": False},
    "PROMPT_TUNING": {},
    "MULTITASK_PROMPT_TUNING": {},
    "P_TUNING": {"encoder_hidden_size": 8},
    "CARTRIDGE": {},
}


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("kind", PROMPTS)
def test_a_saved_prompt_takes_the_dimensions_of_the_backbone_here_and_says_so(kind, family, tmp_path):
    saved = {"peft_type": kind, "num_virtual_tokens": 5, "task_type": "SEQ_2_SEQ_LM", **PROMPTS[kind]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved | ELSEWHERE))
    method, module = adapt("peft", family, adapter_config=str(tmp_path))
    own = {key: saved[key] for key in ("peft_type", "num_virtual_tokens", *PROMPTS[kind])}
    _, plain = adapt("peft", family, **own)
    assert [(n, p.shape) for n, p in trained(module).items()] == [(n, p.shape) for n, p in trained(plain).items()]
    assert states(module).shape == (3, 13, 32)
    assert "token_dim = 2048, num_layers = 24" in next(note for note in method.notes(module) if "another" in note)


OF_A_TYPE = {
    "SHADOW on a map": ("bert", "SHADOW", {"target_modules": ["query"]}, r"'.*query' is no block, .* expression '.*en"),
    "SHADOW on a part of a block": ("llama", "SHADOW", {"target_modules": ["mlp"]}, "'layers.0.mlp' is no block"),
    "SHADOW on nothing": ("t5", "SHADOW", {"target_modules": None}, "target_modules is left out, .* name the blocks,"),
    "LILY on a Conv1D": ("gpt2", "LILY", {}, "'c_attn' is a Conv1D, which LILY has no layer for"),
    "PEANUT on a Conv1D": ("gpt2", "PEANUT", {}, "'c_attn' is a Conv1D, which PEANUT has no layer for"),
    "LOHA on a Conv1D": ("gpt2", "LOHA", {}, "'c_attn' is a Conv1D, which LOHA has no layer for"),
    "GLORA on a Conv1D": ("gpt2", "GLORA", {}, "'c_attn' is a Conv1D, which GLORA has no layer for"),
    "a family without a form": ("bert", "ADAPTION_PROMPT", {}, "ADAPTION_PROMPT has no form for bert"),
    "more layers than there are": ("llama", "ADAPTION_PROMPT", {"adapter_layers": 3}, "adapter_layers = 3 is above 2"),
    "attention of another name": ("gpt2", "ADAPTION_PROMPT", {"target_modules": "attn2"}, "is the name of no attentio"),
    "no default targets": ("bert", "LN_TUNING", {"target_modules": None}, "peft knows none for LN_TUNING"),
    "blocks of a width": ("bert", "BOFT", {"boft_block_size": 5}, "boft_block_size = 5 does not divide a side"),
    "blocks of a circulant": ("bert", "C3A", {"block_size": 7}, "block_size = 7 does not divide a side"),
    "parts of GraLoRA": ("bert", "GRALORA", {"r": 6, "gralora_k": 3}, "gralora_k = 3 does not divide a side"),
    "groups of RoAd": ("bert", "ROAD", {"group_size": 6}, "group_size = 6 does not divide a side"),
    "vectors of a length": ("bert", "VBLORA", {"vector_length": 7}, "vector_length = 7 does not divide a side"),
    "splits": ("bert", "POLY", {"n_splits": 3}, "n_splits = 3 does not divide 32 and 32, the sides of"),
    "more frequencies than entries": ("llama", "FOURIERFT", {"n_frequency": 600}, "n_frequency = 600 is more than"),
    "more vectors than columns": ("bert", "PSOFT", {"r": 40}, "r = 40 is more than the smallest"),
    "more entries than there are": ("bert", "SHIRA", {"r": 100}, "r = 100 is more than the smallest"),
    "ranks that DEFT cuts": ("bert", "DEFT", {"r": 40}, "r = 40 is above 32, the smaller side of"),
    "ranks that TinyLoRA cuts": ("bert", "TINYLORA", {"r": 40}, "r = 40 is above 32, the smaller side of"),
    "every direction kept": ("bert", "OSF", {"effective_rank": 32}, "OSF finds nothing to train in .* is too large"),
    "a row that is not there": (
        "bert", "TRAINABLE_TOKENS", {"target_modules": ["position_embeddings"], "token_indices": [90]}, "has 64 rows",
    ),
}  # fmt: skip
"""Family, type, fields beside the suited ones and words of the refusal, which is the same without values."""


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", OF_A_TYPE)
def test_what_a_type_cannot_do_on_a_backbone_is_a_sentence_with_its_field_with_and_without_values(case, device):
    family, kind, values, words = OF_A_TYPE[case]
    method, config = make("peft", suited(kind, "bert" if family == "t5" else family) | values)
    with torch.device(device):
        backbone = tiny(family)
    with pytest.raises((BenchError, NotImplementedError)) as refusal:
        method.apply(backbone, config)
    if device == "meta" and isinstance(refusal.value, NotImplementedError):
        return  # a type that starts from values is counted by no prediction
    assert re.search(words, str(refusal.value)) and "does not fit this backbone" not in str(refusal.value)

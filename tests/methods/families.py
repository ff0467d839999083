"""Tiny randomly initialised backbones, one a family, that the method tests run over."""

import torch
from torch import nn

from bench.models.text import text_backbone
from bench.models.weights import without_pooler

COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_DISTIL = {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
_GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 64}
_OPT = {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32}
_OPT.pop("intermediate_size")
_BART = {
    "vocab_size": 96, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
_T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}

_GROUPED = {**COMMON, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WIDE_HEADS = {"num_attention_heads": 2, "partial_rotary_factor": 0.5}
_FALCON = {**COMMON, "ffn_hidden_size": 64}
_FALCON.pop("intermediate_size")
_DEBERTA_V3 = {
    "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict]] = {
    "bert": ("bert", COMMON),
    "roberta": ("roberta", {**COMMON, "max_position_embeddings": 66}),
    "xlm-roberta": ("xlm-roberta", {**COMMON, "max_position_embeddings": 66}),
    "camembert": ("camembert", {**COMMON, "max_position_embeddings": 66}),
    "electra": ("electra", {**COMMON, "embedding_size": 32}),
    "distilbert": ("distilbert", _DISTIL),
    "modernbert": ("modernbert", {**COMMON, "pad_token_id": 0, "local_attention": 8}),
    "gpt2": ("gpt2", _GPT2),
    "opt": ("opt", _OPT),
    "llama": ("llama", {**COMMON, "num_key_value_heads": 2}),
    "qwen2": ("qwen2", {**COMMON, "num_key_value_heads": 2}),
    "qwen3": ("qwen3", {**COMMON, "num_key_value_heads": 2, "head_dim": 8}),
    "mistral": ("mistral", {**_GROUPED, "sliding_window": 8}),
    "gemma": ("gemma", {**_GROUPED, "head_dim": 8}),
    "gemma3_text": (
        "gemma3_text",
        {**_GROUPED, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    ),
    "granite": ("granite", {**_GROUPED, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "smollm3": ("smollm3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    "stablelm": ("stablelm", {**_GROUPED, **_WIDE_HEADS, "num_key_value_heads": 1}),
    "olmo2": ("olmo2", _GROUPED),
    "cohere": ("cohere", _GROUPED),
    "starcoder2": ("starcoder2", _GROUPED),
    "phi": ("phi", {**COMMON, **_WIDE_HEADS, "pad_token_id": 0}),
    "phi3": ("phi3", _GROUPED),
    "gpt_neox": ("gpt_neox", {**COMMON, "num_attention_heads": 2, "rotary_pct": 0.5}),
    "bloom": ("bloom", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", {**_FALCON, "num_attention_heads": 2}),
    "falcon_grouped": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_rw": ("falcon", {**_FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "gemma2": (
        "gemma2",
        {**_GROUPED, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    ),
    "mpnet": ("mpnet", {**COMMON, "max_position_embeddings": 66}),
    "deberta-v2": ("deberta-v2", {**COMMON, "type_vocab_size": 2}),
    "deberta-v3": ("deberta-v2", {**COMMON, **_DEBERTA_V3}),
    "mixtral": ("mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "qwen3_moe",
        {**_GROUPED, "head_dim": 8, "moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "t5": ("t5", _T5),
    "t5_gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "t5_whole": ("t5", _T5),
    "t5_gated_whole": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5_whole": ("mt5", _T5),
    "bart": ("bart", _BART),
}
ENCODER_DECODERS = ["bart", "t5_gated_whole", "t5_whole"]
"""Whole models whose decoder reads beside an encoder; the objective text alone stands on them."""
MIXTURES = {"mixtral", "qwen3_moe"}
"""Families whose FFN is a mixture of experts, which no role names: what asks for roles of an FFN leaves them out."""
OF_ANOTHERS_LAYOUT = {"camembert", "gemma", "gemma3_text", "granite", "mistral", "smollm3", "xlm-roberta"}
"""Families whose blocks are laid out as another's: what follows from the layout alone is tried on that one."""
EVERY = sorted(CONFIGS.keys() - {*ENCODER_DECODERS, "mt5_whole"})
FAMILIES = [family for family in EVERY if family not in OF_ANOTHERS_LAYOUT | MIXTURES]


def tiny(family: str, seed: int = 0, frozen: bool = True, **overrides: object) -> nn.Module:
    """Build the tiny backbone of ``family`` in eval mode; equal seeds give equal weights."""
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding

    model_type, values = CONFIGS[family]
    config = AutoConfig.for_model(model_type, **{**values, **overrides})
    torch.default_generator.manual_seed(seed)  # torch.manual_seed notes its whole stack for each kind of device
    if family in ENCODER_DECODERS:
        config.use_cache = False
        return text_backbone(AutoModelForSeq2SeqLM.from_config(config).eval()).requires_grad_(not frozen)
    auto = AutoModelForTextEncoding if model_type == "t5" else AutoModel
    backbone = auto.from_config(config, **without_pooler(auto._model_mapping[type(config)])).eval()
    return backbone.requires_grad_(not frozen)


def key_width(family: str) -> int:
    """Width of keys and values, half of the states' where two heads share them."""
    return 16 if "num_key_value_heads" in CONFIGS[family][1] or family in {"falcon", "falcon_grouped"} else 32


def ffn_width(family: str) -> int:
    """Width of the FFN."""
    return 128 if family == "bloom" else 64


def batch(
    rows: int = 3, length: int = 10, pad: int = 0, vocabulary: int = 96, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Random token ids ``[rows, length]`` with right padding of ``pad`` columns; ids avoid the special first five."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    ids = torch.cat([ids, torch.zeros(rows, pad, dtype=torch.long)], dim=1)
    mask = torch.cat([mask, torch.zeros(rows, pad, dtype=torch.long)], dim=1)
    return {"input_ids": ids, "attention_mask": mask}


def beside_decoder(given: dict[str, torch.Tensor], length: int = 10, vocabulary: int = 96) -> dict[str, torch.Tensor]:
    """``given`` with tokens ``[B, length]`` for a decoder, the same whatever the encoder reads, and its targets."""
    rows = len(given["input_ids"])
    told = torch.randint(5, vocabulary, (3, length + 1), generator=torch.Generator().manual_seed(7))[:rows]
    labels = told[:, 1:].contiguous()
    every = {"positions": torch.arange(labels.numel()), "targets": labels.flatten()}
    return given | {"decoder_input_ids": told[:, :-1], "labels": labels} | every

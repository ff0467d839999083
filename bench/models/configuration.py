"""Reads a backbone's configuration: every field that decides a step is set here, kept and recorded, or refused."""

import difflib
import functools
import importlib.metadata
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError

SET: dict[str, Any] = {
    "use_cache": False, "return_dict": True, "output_hidden_states": False, "output_attentions": False,
    "gradient_checkpointing": False, "chunk_size_feed_forward": 0, "layerdrop": 0.0, "output_router_logits": False,
    "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
}  # fmt: skip
"""Fields that decide how a step computes, with the value that every step has here, whatever a file says."""
CHOSEN = ("dtype", "torch_dtype", "attn_implementation", "_attn_implementation", "experts_implementation",
          "_experts_implementation", "transformers_weights", "fusion_config", "distributed_config", "kernel_config",
          "deterministic_flash_attn")  # fmt: skip
"""Fields that choose types, kernels and files: the shape of a step says them, or the hash of the weights does."""
UNREAD = (
    *("architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
    *("model_type", "task_specific_params", "tokenizer_class", "finetuning_task", "prefix", "torchscript"),
    "use_return_dict",  # return_dict, by the name that files of old give it
    *("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"),
    "forced_eos_token_id",
    *("num_labels", "id2label", "label2id", "problem_type", "classifier_dropout", "classifier_pooling"),
    *("classifier_bias", "classifier_activation", "decoder_bias", "sparse_prediction", "sparse_pred_ignore_index"),
    *("seq_classif_dropout", "qa_dropout", "summary_type", "summary_use_proj", "summary_activation"),
    *("summary_proj_to_labels", "summary_first_dropout", "summary_last_dropout", "pretraining_tp"),
    *("pad_token", "model_max_length", "unpadded_vocab_size"),
    *("pooler_dropout", "pooler_hidden_act", "pooler_hidden_size", "cls_dropout", "legacy", "router_aux_loss_coef"),
    "slow_but_exact",  # with pretraining_tp alone, which is 1
)
"""Fields that nothing in a bare backbone reads: heads, generation, where a file came from."""
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "is_decoder": ((None, False), "makes a decoder of the family, with other attention than the harness counts on"),
    "add_cross_attention": ((None, False), "adds attention to a second model, which is not there"),
    "is_causal": ((None,), "changes which tokens attend to which; each family is measured with its own attention"),
    "use_bidirectional_attention": ((None, False), "changes which tokens attend to which"),
    "pruned_heads": ((None, {}, []), "names heads to take out, which transformers no longer does"),
    "position_embedding_type": ((None, "absolute"), "names positions that transformers no longer has"),
    "per_layer_config": ((None, {}, []), "gives layers shapes of their own, and the harness counts on equal ones"),
    "tie_last_hidden_states": ((None,), "changes which states a backbone returns"),
    "attention_head_size": ((None,), "gives heads a width that does not follow from hidden_size"),
}
"""Fields that would change what is measured, with the values that ask for nothing and the reason."""
KEPT = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "hidden_act", "hidden_activation", "activation_function", "activation", "embedding_size"),
    *("max_position_embeddings", "type_vocab_size", "pad_token_id", "initializer_range", "initializer_cutoff_factor"),
    *(
        "init_std",
        "initializer_factor",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "rms_norm_eps",
        "norm_eps",
        "norm_bias",
    ),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "dropout_rate"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout", "tie_word_embeddings"),
    *("n_layers", "n_heads", "dim", "hidden_dim", "sinusoidal_pos_embds", "n_positions", "n_embd", "n_layer", "n_head"),
    *("n_inner", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
    *("ffn_dim", "do_layer_norm_before", "_remove_final_layer_norm", "word_embed_proj_dim", "enable_bias"),
    *("layer_norm_elementwise_affine", "attention_bias", "mlp_bias", "rope_parameters", "layer_types"),
    *("local_attention", "sliding_window", "use_sliding_window", "max_window_layers"),
    *("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets"),
    *("relative_attention_max_distance", "feed_forward_proj", "num_decoder_layers", "is_encoder_decoder"),
    *("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim"),
    *("decoder_ffn_dim", "scale_embedding", "activation_dropout"),
    *("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"),
    *("no_rope_layers", "no_rope_layer_interval", "norm_epsilon", "qk_layernorm", "use_qk_norm", "use_bias"),
    *("use_qkv_bias", "use_parallel_residual", "residual_dropout", "hidden_dropout"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("original_max_position_embeddings", "rotary_pct", "rotary_emb_base", "n_embed"),
    *("apply_residual_connection_post_layernorm", "alibi", "bias", "ffn_hidden_size", "multi_query", "num_kv_heads"),
    *("new_decoder_architecture", "num_ln_in_parallel_attn", "parallel_attn"),
    *("relative_attention", "pos_att_type", "position_biased_input", "max_relative_positions", "position_buckets"),
    *("share_att_key", "norm_rel_ebd", "conv_kernel_size", "conv_act", "conv_groups"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"),
    *("mlp_only_layers", "norm_topk_prob", "router_jitter_noise"),
)
"""Fields that are the backbone's own: sizes, activations, dropouts, starts. They come from the file."""
DERIVED = ("is_gated_act", "dense_act_fn", "scale_decoder_outputs")
"""Fields that transformers makes of ``feed_forward_proj`` or ``tie_word_embeddings``, whatever a file says beside."""
PAIRED = ("t5", "mt5", "bart")
"""Families of an encoder with a decoder; a file without ``is_encoder_decoder`` has both."""
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "n_layers", "n_heads"),
    *("dim", "hidden_dim", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "ffn_dim", "word_embed_proj_dim"),
    *("sliding_window", "local_attention", "global_attn_every_n_layers", "d_model", "d_kv", "d_ff", "num_layers"),
    *("num_decoder_layers", "num_heads", "relative_attention_num_buckets", "relative_attention_max_distance"),
    *("original_max_position_embeddings", "n_embed", "ffn_hidden_size", "num_kv_heads", "num_experts"),
    *("num_local_experts", "num_experts_per_tok", "moe_intermediate_size", "decoder_sparse_step"),
    *("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim"),
    "decoder_ffn_dim",
)
"""Whole numbers of at least 1."""
_MAY_BE_NULL = ("n_inner", "head_dim", "num_key_value_heads", "sliding_window", "word_embed_proj_dim",
                "ffn_hidden_size", "num_kv_heads", "num_decoder_layers")  # fmt: skip
_LEAST = {
    ("t5", "relative_attention_num_buckets"): 4,
    ("mt5", "relative_attention_num_buckets"): 4,
    ("deberta-v2", "type_vocab_size"): 0,
}
"""Sizes that begin elsewhere: T5 halves its buckets twice, DeBERTa has no token types where it has none of them."""
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_decoder_layers",
           "encoder_layers", "decoder_layers")  # fmt: skip
MOST_LAYERS = 10_000
"""Layers of a backbone: each is built as modules, also without values."""
MOST_SIZE = 2**31
"""Any other size: beyond it products of sizes overflow, and nothing of it fits anywhere."""
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "activation", "feed_forward_proj")
_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "dropout_rate"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout", "activation_dropout"),
)
_FROM_ZERO = (
    *("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "initializer_range", "init_std"),
    *("initializer_factor", "initializer_cutoff_factor", "max_window_layers"),
)
_ABOVE_ZERO = ("rope_theta", "global_rope_theta", "local_rope_theta", "partial_rotary_factor")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "auto")
"""What a file may say of the type of its weights; a step has that of its shape."""
_ROTARY = ("rope_scaling", "rope_parameters")
QUANTISED = ("quantization_config", "compression_config")
"""Fields that say how a file stores its weights: noted for a shape, refused with the weights."""
_OF_OLD = ("rope_theta", "rope_scaling", "partial_rotary_factor", "global_rope_theta", "local_rope_theta",
           "global_attn_every_n_layers", "tie_word_embeddings", "rotary_pct", "rotary_emb_base", "n_embed",
           "position_buckets", "share_att_key", "norm_rel_ebd", "conv_kernel_size", "conv_act",
           "conv_groups")  # fmt: skip
"""Fields that a family reads though it does not list them, or that transformers turns into others of its own."""


class Read(NamedTuple):
    """A configuration as the harness takes it."""

    model_type: str
    values: dict[str, Any]
    """Fields that come from the file."""
    quantised: str
    """How the weights are stored, as the file says it; empty: as they are computed with."""
    remote: bool
    """Whether the file asks for code of its own."""
    notes: tuple[str, ...]
    """What is done otherwise than the file says, for the record."""


def read(given: Mapping[str, Any], where: str) -> Read:
    """Part the fields of a configuration by who decides them.

    Args:
        given: Fields by name, as a ``config.json`` holds them.
        where: The file, for error messages.

    Raises:
        BenchError: It has no family that transformers knows, or a field would change what is measured.
    """
    family, remote = given.get("model_type"), bool(given.get("auto_map"))
    _check_family(family, remote, where)
    for field, (allowed, reason) in REFUSED.items():
        if field in given and given[field] not in allowed:
            raise BenchError(f"{where}: {field} = {json.dumps(given[field])} {reason}; remove the field")
    for field in ("dtype", "torch_dtype"):
        asked = given.get(field)
        if asked is not None and (not isinstance(asked, str) or asked.removeprefix("torch.") not in _DTYPES):
            raise BenchError(f"{where}: {field} = {json.dumps(asked)}; it takes {', '.join(_DTYPES)}, or leave it out")
    quantised = next((_stored(given[field], f"{where}: {field}") for field in QUANTISED if given.get(field)), "")
    ours = {*SET, *CHOSEN, *UNREAD, *DERIVED, *REFUSED, *QUANTISED, *_generation()}.difference(KEPT)
    if family not in PAIRED:
        ours.add("is_encoder_decoder")  # it chooses among classes that such a family does not have
    values = {field: value for field, value in given.items() if field not in ours}
    notes = []
    if quantised:
        notes.append(
            f"quantization_config ({quantised}) is not applied: weights have the type of the shape; "
            "predict counts 4-bit ones with --weights nf4"
        )
    for field in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if given.get(field):
            notes.append(f"{field} = {given[field]} is set to 0: every layer takes part in every step")
    if remote:
        notes.append("code of its own (auto_map) is not run: the family's own class of transformers stands in")
    return Read(str(family), values, quantised, remote, tuple(notes))


def _check_family(family: Any, remote: bool, where: str) -> None:
    from transformers import CONFIG_MAPPING

    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        reason = "it has no model_type" if family is None else f"transformers {_version()} does not know {family!r}"
        code = ", and code of its own (auto_map) is never run" if remote else ""
        raise BenchError(f"{where}: not a readable config.json with a model_type ({reason}{code})")


def _stored(values: Any, where: str) -> str:
    """How weights are stored quantised, in words: ``bitsandbytes, 4 bits``."""
    if not isinstance(values, dict):
        raise BenchError(f"{where} holds no table of fields; remove it")
    bits = [f"{values['bits']} bits"] if values.get("bits") else []
    bits += [f"{count} bits" for count in (4, 8) if values.get(f"load_in_{count}bit")]
    return ", ".join([str(values.get("quant_method", "a method that is not named")), *bits])


@functools.cache
def _generation() -> frozenset[str]:
    """Fields of generation, which configurations of old hold as well."""
    from transformers import GenerationConfig as untyped

    made: Any = untyped
    return frozenset(vars(made()))


def _version() -> str:
    return importlib.metadata.version("transformers")


def parse(path: Path) -> dict[str, Any]:
    """Fields of a ``config.json``.

    Raises:
        BenchError: It cannot be read, is no table of fields, or holds one twice.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_float=_finite,
                           parse_constant=_finite)  # fmt: skip
        if not isinstance(found, dict):
            raise ValueError("it holds no table of fields")
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path}: not a readable config.json with a model_type ({reason})") from error
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key {twice[0]!r} is listed twice")
    return dict(pairs)


def build(found: Read, where: str) -> tuple[Any, tuple[str, ...]]:
    """The transformers configuration of what was read, and the names of fields that its family does not have.

    Raises:
        BenchError: A value does not fit, or one field is given under two names.
    """
    from transformers import AutoConfig

    for name, value in found.values.items():
        if takes := _taken(name, value, found.model_type):
            raise BenchError(f"{where}: {name} = {json.dumps(value)}; it takes {takes}")
    _check_together(found, where)
    try:
        config = AutoConfig.for_model(found.model_type, **found.values)
    except Exception as error:  # strict configurations have error types of their own for a value that does not fit
        raise BenchError(f"{where}: {_sentence(error, found.values)}") from error
    for field, value in SET.items():
        if hasattr(config, field):
            setattr(config, field, value)
    known = {*type(config).__dataclass_fields__, *config.attribute_map, *_OF_OLD}
    return config, tuple(sorted(name for name in found.values if name in vars(config) and name not in known))


def _taken(name: str, value: Any, family: str) -> str:
    """What the field takes in words, where ``value`` is not that; empty where it is, or where transformers checks."""
    if name in _SIZES:
        least = _LEAST.get((family, name), 1)
        most = MOST_LAYERS if name in _LAYERS else MOST_SIZE
        fits = type(value) is int and least <= value <= most
        return "" if fits or (value is None and name in _MAY_BE_NULL) else f"a whole number from {least} to {most:,}"
    if name in _ACTIVATIONS:
        return _activation(name, value)
    if name in _ROTARY:
        return _rotary(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _DROPOUTS:
        return "" if number and 0 <= value < 1 else "a probability of at least 0 and below 1"
    if name in _FROM_ZERO:
        return "" if number and value >= 0 else "a number of at least 0"
    if name in _ABOVE_ZERO:
        return "" if number and value > 0 else "a number above 0"
    return ""


def _activation(name: str, value: Any) -> str:
    from transformers.activations import ACT2FN

    asked = value.removeprefix("gated-") if isinstance(value, str) and name == "feed_forward_proj" else value
    known: tuple[str, ...] = tuple(ACT2FN)
    if isinstance(asked, str) and asked in known:
        return ""
    near = difflib.get_close_matches(str(asked), known, n=1)
    return f"an activation of transformers, such as {near[0] if near else 'gelu'!r}"


def _rotary(value: Any) -> str:
    """Rotary positions: one table, or one for each kind of layer."""
    if value is None:
        return ""
    if not isinstance(value, dict):
        return 'a table, such as {"rope_type": "linear", "factor": 2.0}, or null'
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    known = ("default", *(kind for kind in ROPE_INIT_FUNCTIONS if kind != "default"))
    for table in (value, *(part for part in value.values() if isinstance(part, dict))):
        kind = table.get("rope_type", table.get("type", "default"))
        if kind not in known:
            return f"a rope_type of {', '.join(known)}, not {kind!r}"
        if kind in ("linear", "dynamic", "yarn", "llama3") and "factor" not in table:
            return f"a factor with rope_type {kind!r}"
        for field, least in (("factor", 1), ("rope_theta", 0), ("partial_rotary_factor", 0)):
            number = table.get(field, 1)
            if isinstance(number, bool) or not isinstance(number, int | float) or number < least or number == 0:
                return f"a {field} {'of at least 1' if least else 'above 0'}, not {number!r}"
    return ""


def _check_together(found: Read, where: str) -> None:
    """Sizes that have to fit each other, with the family's defaults for those that the file leaves out.

    Raises:
        BenchError: Two do not fit.
    """
    from transformers import AutoConfig

    usual = AutoConfig.for_model(found.model_type)
    for alias, field in usual.attribute_map.items():
        if {alias, field} <= found.values.keys() and found.values[alias] != found.values[field]:
            raise BenchError(f"{where}: {alias} and {field} are one field with two values; keep one of them")
    names = {field: usual.attribute_map.get(field, field) for field in ("hidden_size", "num_attention_heads")}

    def value(field: str) -> Any:
        alias = names.get(field, field)
        return found.values.get(alias, found.values.get(field, getattr(usual, field, None)))

    width = found.values.get("n_embed") or value("hidden_size")  # BLOOM and Falcon of old
    heads = value("num_attention_heads")
    sharing = "num_kv_heads" if found.model_type == "falcon" else "num_key_value_heads"

    def listed(field: str) -> Any:  # as the family lists it: where it lists none, it divides the width or the heads
        own = type(usual).__dataclass_fields__.get(field)
        return found.values.get(field, own.default if own else None)

    shared, size = listed(sharing), listed("head_dim")
    if found.model_type not in ("t5", "mt5") and size is None and isinstance(heads, int) and width % heads:
        raise BenchError(
            f"{where}: {names['hidden_size']} = {width} is no multiple of {names['num_attention_heads']} = {heads}; "
            "change one of the two"
        )
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise BenchError(
            f"{where}: {heads} num_attention_heads cannot share {shared} {sharing} evenly; give a number that divides "
            f"{heads}"
        )
    experts = next((name for name in ("num_local_experts", "num_experts") if hasattr(usual, name)), None)
    if experts and value("num_experts_per_tok") > value(experts):
        raise BenchError(
            f"{where}: num_experts_per_tok = {value('num_experts_per_tok')} is above {experts} = {value(experts)}; "
            "lower it"
        )
    pad, vocabulary = found.values.get("pad_token_id"), value("vocab_size")
    if pad is not None and not (type(pad) is int and -vocabulary <= pad < vocabulary):
        raise BenchError(f"{where}: pad_token_id = {json.dumps(pad)}; it takes a token below vocab_size = {vocabulary}")


_EXPECTED = re.compile(r"[Ff]ield '(\w+)'.*?expected (a list|\w+)")
_SPELLED = {
    "int": "a whole number",
    "str": "a word",
    "bool": "true or false",
    "float": "a number with a point, such as 1.0",
    "dict": "a table",
}


def _sentence(error: Exception, values: Mapping[str, Any]) -> str:
    """What transformers says of a value, as a sentence with the field."""
    reason = " ".join(str(error).split())
    if (match := _EXPECTED.search(reason)) and match[1] in values:
        return f"{match[1]} = {json.dumps(values[match[1]])}; it takes {_SPELLED.get(match[2], match[2])}"
    if "RoPE requires an even rotary dimension" in reason:
        return "head_dim, or hidden_size by num_attention_heads, is odd; rotary positions turn pairs, so make it even"
    for name in values:  # a check of several fields names them
        if re.search(rf"\b{name}\b", reason):
            return f"{name} = {json.dumps(values[name])} does not fit the other fields ({_without_kind(reason)})"
    return f"transformers does not take these values ({_without_kind(reason)})"


def _without_kind(reason: str) -> str:
    """The words of an error behind the names of its classes and validators."""
    return re.sub(r"^(Class validation error for validator '\w+': )?(\w*Error: )?", "", reason).rstrip(".")


_IN_PROPORTION = (
    *("num_attention_heads", "num_key_value_heads"),
    *("num_kv_heads", "intermediate_size", "hidden_dim", "d_ff", "n_inner", "ffn_dim", "ffn_hidden_size"),
    *("moe_intermediate_size", "embedding_size", "word_embed_proj_dim"),
    *("decoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim"),
)
"""What grows with the width, as the families spell it: heads (each keeps its size), FFN, embeddings."""
_DERIVED = ("layer_types",)
"""What transformers derives again from the depth."""
_OF_DECODER = ("num_decoder_layers", "decoder_layers")
"""The depth of a decoder beside an encoder, which is that of the encoder at another depth."""


def resize(config: Any, name: str, layers: int | None, width: int | None) -> Any:
    """A configuration like ``config`` with another depth or width.

    Args:
        config: A transformers configuration; untouched.
        name: Of the backbone, for error messages.
        layers: Number of layers, of each stack of an encoder-decoder; as it is where None.
        width: Hidden size; number of heads, FFN width and embedding width change in proportion. As it is where None.

    Raises:
        BenchError: A number of heads or a width would not be whole.
    """
    if layers is None and width is None:
        return config
    values = config.to_dict()
    spelled = config.attribute_map

    def key(field: str) -> str:
        return str(spelled.get(field, field))

    if layers is not None:
        if layers > MOST_LAYERS:
            raise BenchError(f"{layers:,} layers of {name!r} are more than {MOST_LAYERS:,}; give fewer")
        values[key("num_hidden_layers")] = layers
        values = {field: value for field, value in values.items() if field not in _DERIVED}
        values |= {field: layers for field in _OF_DECODER if field in values}
    if width is not None:
        hidden: int = config.hidden_size
        present = {key(field): getattr(config, field, None) for field in _IN_PROPORTION}
        scaled: dict[str, int] = {field: value for field, value in present.items() if isinstance(value, int)}
        step = math.lcm(*(hidden // math.gcd(hidden, value) for value in scaled.values()))
        if width % step:
            raise BenchError(
                f"width {width} cannot be divided among the heads of {name!r} ({hidden} wide, "
                f"{config.num_attention_heads} heads); give multiples of {step}"
            )
        values |= {field: value * width // hidden for field, value in scaled.items()}
        values[key("hidden_size")] = width
    return type(config)(**values)

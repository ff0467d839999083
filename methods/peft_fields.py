"""Which fields of peft's configurations act, and under which choice of others; all else is refused before it runs."""

import dataclasses
import enum
import functools
import importlib.util
import json
import math
import operator
import re
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bench.errors import unknown

Values = Mapping[str, Any]


class Needs(NamedTuple):
    """A field acts where ``holds`` does."""

    words: str
    """End of the sentence ``... does nothing``."""
    holds: Callable[[Values], bool] = lambda values: False


def _goes_with(field: str, *choices: Any) -> Needs:
    wanted = " or ".join(map(repr, choices)) if choices else "that is set"
    return Needs(
        f"without {field} = {wanted}" if choices else f"without {field}",
        lambda values: values.get(field) in choices if choices else bool(values.get(field)),
    )


def _never(words: str) -> Needs:
    return Needs(words)


_TEXT = _goes_with("prompt_tuning_init", "TEXT")
_ASA = _goes_with("use_asa")
_LSTM = _goes_with("encoder_reparameterization_type", "LSTM")
_CAYLEY = _goes_with("use_cayley_neumann")
_OF_LORA = "in AdaLoRA, which has a start, a scale and ranks of its own"
_CONVOLUTIONS = _never("here: it is for convolutions, and linear maps are what is adapted")
_VALUES_FIRST = "here: it reads data before the first step, which this bridge does not do"

NEEDS: Mapping[str, Mapping[str, Needs]] = {
    "": {
        "layers_pattern": Needs("without layers_to_transform", lambda values: _given(values, "layers_to_transform")),
        "tokenizer_kwargs": _TEXT,
        "prompt_tuning_init_text": _TEXT,
        "use_effective_conv2d": _CONVOLUTIONS,
        "megatron_config": _never("here: it is for layers of Megatron, which no backbone has"),
        "megatron_core": _never("here: it names a package for layers of Megatron, which no backbone has"),
        "ensure_weight_tying": _never("here: the bare backbone has no output layer that shares its embedding"),
        "eva_config": _never(_VALUES_FIRST),
        "corda_config": _never(_VALUES_FIRST),
        "lora_ga_config": _never(_VALUES_FIRST),
        "use_qalora": _never("here: it is for weights that GPTQ packed, and these are whole"),
        "qalora_group_size": _never("here: it is for weights that GPTQ packed, and these are whole"),
        "arrow_config": _never("here: it routes between adapters that were trained before, and there is one"),
        "alora_invocation_tokens": _never("here: peft looks for these tokens in a language model's own call alone"),
    },
    "LORA": {"loftq_config": _goes_with("init_lora_weights", "loftq")},
    "ADALORA": {
        "r": _never("in AdaLoRA; give init_r and target_r"),
        **{name: _never(_OF_LORA) for name in (
            "use_rslora", "init_lora_weights", "alpha_pattern", "loftq_config", "velora_config", "monteclora_config",
            "lora_bias", "use_bdlora", "kasa_config", "use_dora",
        )},
    },
    "ADAMSS": {
        **{name: _ASA for name in (
            "asa_target_subspaces", "init_warmup", "final_warmup", "mask_interval", "asa_importance_beta",
            "asa_uncertainty_beta", "asa_schedule_exponent",
        )},
        "svd_threshold": _goes_with("use_dynamic_rank"),
    },
    "CPT": {
        "num_virtual_tokens": Needs(
            "beside cpt_token_ids, whose number decides",
            lambda values: values["num_virtual_tokens"] == len(values["cpt_token_ids"] or ()),
        ),
    },
    "DEFT": {"init_scale": _goes_with("init_weights", False)},
    "HIRA": {"rank_pattern": _never("in this peft, which reads it and builds every layer with r; give r")},
    "LOKR": {"rank_dropout_scale": _goes_with("rank_dropout")},
    "MISS": {"mini_r": _goes_with("init_weights", "mini")},
    "MULTITASK_PROMPT_TUNING": {
        name: _goes_with("prompt_tuning_init", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED")
        for name in ("prompt_tuning_init_state_dict_path", "prompt_tuning_init_task")
    },
    "OFT": {
        "eps": _goes_with("coft"), "num_cayley_neumann_terms": _CAYLEY,
        "module_dropout": _never("in this peft, whose layers make it and never call it"),
    },
    "OSF": {"target_svd_config": _never("in this peft, which makes its own; give rank_pattern")},
    "P_TUNING": {"encoder_num_layers": _LSTM, "encoder_dropout": _LSTM},
    "PSOFT": {
        "psoft_svd_lowrank_niter": _goes_with("psoft_svd", "lowrank"),
        "random_seed": _goes_with("psoft_svd", "lowrank"),
        "num_cayley_neumann_terms": _CAYLEY, "cayley_neumann_eps": _CAYLEY,
    },
    "SUPERTUNING": {"lora_alpha": _goes_with("r"), "lora_dropout": _goes_with("r")},
    "TINYLORA": {"init_v_bound": _goes_with("init_weights", "uniform")},
}  # fmt: skip
"""peft_type (empty: every type) -> field -> what it needs to act. A field that has not its default and does not act is
refused."""

_REPLACED = "the backbone's own stands in, and the record says so"
_OF_A_PROMPT = {
    "token_dim": _REPLACED, "num_layers": _REPLACED, "num_attention_heads": _REPLACED,
    "num_transformer_submodules": _REPLACED,
}  # fmt: skip
_LEFT_OUT = "its loss needs a head of peft's own; the record says that it is left out"
HARMLESS: Mapping[str, Mapping[str, str]] = {
    "": {
        "fan_in_fan_out": "peft sets it to the form of the layer's weight, whatever is asked",
        "tokenizer_name_or_path": "where a TEXT start finds its words; a saved file of any start holds it",
        **_OF_A_PROMPT,
    },
    "ADALORA": {"rank_pattern": "what an earlier training left; the record says that ranks are dealt out anew"},
    "CPT": {"opt_weighted_loss_type": _LEFT_OUT, "opt_loss_decay_factor": _LEFT_OUT},
    "FROD": {
        "progressbar": "a bar on the screen while the weights are decomposed",
        "runtime_offload_base_weight": "where weights lie between two uses, not what is computed",
    },
    "PREFIX_TUNING": {"encoder_hidden_size": "without prefix_projection it has no encoder; the record says so"},
    "SHADOW": {"auxiliary_loss_weight": _LEFT_OUT},
    "WAVEFT": {"proportional_parameters": "shares out by the size of layers; those of one size get the same"},
}
"""peft_type (empty: every type) -> fields that may have any value and do nothing, each with the reason."""

SCALES = (
    "lora_alpha", "alpha", "randlora_alpha", "psoft_alpha", "shadow_alpha", "scaling", "num_virtual_tokens", "r",
    "n_frequency", "adapter_len", "init_r", "d_initial", "delora_lambda", "u", "subspace_rank", "sparse_rate",
)  # fmt: skip
"""Fields that leave nothing to train where they are zero."""
SIZES = ("num_virtual_tokens", "adapter_len", "adapter_layers")
"""Fields without a default of use: numbers of positions and layers."""
COUNTED = (
    "asa_target_subspaces", "block_size", "boft_n_butterfly_factor", "encoder_hidden_size", "encoder_num_layers",
    "gralora_k", "group_size", "mask_interval", "mini_r", "n_skills", "n_splits", "n_tasks", "num_B", "num_ranks",
    "num_subspaces", "num_tasks", "num_vectors", "num_cayley_neumann_terms", "shadow_hidden_size",
    "shadow_intermediate_size", "shadow_num_attention_heads", "shadow_num_hidden_layers", "stride_A", "theta_d_length",
    "topk", "total_step", "update_hidden_size", "vector_length", "target_r", "deltaT", "num_samples", "buffer_size",
    "num_groups", "nblocks", "loftq_bits", "loftq_iter", "token_dim", "num_layers", "num_attention_heads",
    "num_transformer_submodules",
)  # fmt: skip
"""Whole numbers of at least 1, or the default where that is 0."""
SIGNED = ("decompose_factor", "scaling_pass_value", "layers_to_transform")
"""The only numbers that may lie below 0, or that are looked at elsewhere."""
SHARES = ("asa_importance_beta", "asa_uncertainty_beta", "sparsity")
"""Numbers of at least 0 and below 1, beside every dropout."""
PARTS = ("sparse_rate", "svd_threshold", "weight_tying")
"""Numbers of at most 1."""
POSITIVE = ("velora_config.scale", "monteclora_config.dirichlet_prior", "effective_rank", "init_theta_d_bound")
"""Numbers above 0."""
NOT_NULL = ("init_weights", "num_ranks", "num_tasks", "random_loc_seed", "prompt_tuning_init_task")
"""Fields whose null peft declares and does not take, beside a default that is none."""
LISTS = ("trainable_token_indices", "token_indices", "cpt_token_ids")
"""Fields that name nothing to train where they are empty."""
PATTERNS = {
    "rank_pattern": int, "n_frequency_pattern": int, "block_size_pattern": int, "alpha_pattern": float,
    "lambda_pattern": float,
}  # fmt: skip
"""Fields that hold a number for names of modules, with its kind."""
FROM_DATA = ("eva", "corda", "lora_ga")
"""Values of init_lora_weights that start from a pass over data."""
STARTS = ("gaussian", "olora", "orthogonal", "mica", "pissa", "loftq")
"""Words that init_lora_weights takes beside these, True, False and ``pissa_niter_N``."""


def check(kind: str, values: Values, defaults: Values, configuration: type) -> None:
    """Raise ``ValueError`` where a value is of the wrong kind or leaves nothing to train, or a field does nothing.

    Args:
        kind: The ``peft_type``.
        values: Every field.
        defaults: Those of peft.
        configuration: peft's dataclass, whose hints say what a field takes.
    """
    for name, value in values.items():
        if name in defaults and not (value is None and defaults[name] is None):
            _check_kind(name, value, defaults[name], configuration)
        _check_size(kind, name, value, defaults.get(name))
    changed = {name: value for name, value in values.items() if name in defaults and value != defaults[name]}
    if (start := values.get("init_lora_weights")) in FROM_DATA and kind == "LORA":
        raise ValueError(
            f"init_lora_weights = {start!r} starts from a pass over data, which this bridge does not make; take True, "
            "'orthogonal', 'olora' or 'pissa'"
        )
    if kind == "LORA":
        _check_start(start, values)
    if kind == "ADALORA":
        _check_schedule(values)
    file = values.get("prompt_tuning_init_state_dict_path")
    if file and not Path(str(file)).is_file():
        raise ValueError(f"prompt_tuning_init_state_dict_path = {file!r} is no file; give the prompt that was saved")
    _check_together(kind, values)
    for name, value in changed.items():
        needs = NEEDS.get(kind, {}).get(name) or NEEDS[""].get(name)
        if needs and not needs.holds(values):
            raise ValueError(f"{name} = {value!r} does nothing {needs.words}; leave it out")


def _of_kind(kind: str, values: Values) -> str:
    """What of a type's own fields do not go together, as a sentence; empty where all do."""
    pair = {"BOFT": ("boft_block_size", "boft_block_num"), "OFT": ("r", "oft_block_size")}.get(kind)
    if pair and bool(values[pair[0]]) == bool(values[pair[1]]):
        one, other = (f"{name} = {values[name]}" for name in pair)
        return f"{one} and {other}: one of them is 0 and the other above, since each follows from the other"
    if kind == "GRALORA" and values["r"] % values["gralora_k"]:
        return f"r = {values['r']} is no multiple of gralora_k = {values['gralora_k']}; change one of the two"
    targets, inner = values.get("target_modules"), values.get("feedforward_modules")
    if isinstance(targets, list) and isinstance(inner, list) and (more := [one for one in inner if one not in targets]):
        return f"feedforward_modules: {more[0]!r} is not among target_modules; name it there as well, or leave it out"
    if kind == "CPT" and values["cpt_token_ids"] is not None:
        for name in ("cpt_mask", "cpt_tokens_type_mask"):
            if values[name] is not None and len(values[name]) != len(values["cpt_token_ids"]):
                return f"{name} has {len(values[name])} numbers for {len(values['cpt_token_ids'])} of cpt_token_ids"
    if kind == "CARTRIDGE" and values["num_frozen_tokens"] >= values["num_virtual_tokens"]:
        return f"num_frozen_tokens = {values['num_frozen_tokens']} leaves none of num_virtual_tokens to train; lower it"
    if kind == "ROAD" and values["group_size"] % 2:
        return f"group_size = {values['group_size']} is odd, and RoAd turns pairs; give an even number"
    if kind == "VBLORA" and values["topk"] > values["num_vectors"]:
        return f"topk = {values['topk']} is above num_vectors = {values['num_vectors']}; lower it"
    if kind == "LOKR" and values["decompose_factor"] < 1 and values["decompose_factor"] != -1:
        return f"decompose_factor = {values['decompose_factor']}; it takes at least 1, or -1 for the most even factors"
    if kind == "HRA" and values["apply_GS"] and values["init_weights"] and values["r"] % 2 == 0:
        return (
            "apply_GS = true divides zero by zero where init_weights = true starts from equal pairs of vectors; set "
            "init_weights = false, or leave apply_GS out"
        )
    return ""


def _check_together(kind: str, values: Values) -> None:
    """Fields that peft does not take beside each other."""
    targets = values.get("target_modules")
    if targets == [] and not values.get("target_parameters"):
        raise ValueError(
            "target_modules = [] names nothing to adapt; leave it out, which gives peft's own, or name modules"
        )
    if isinstance(targets, str) and values.get("layers_to_transform") is not None:
        raise ValueError(
            f"layers_to_transform does not go with one expression as target_modules = {targets!r}; list names, or say "
            "the layers in the expression"
        )
    if values.get("lora_bias") and values.get("use_dora"):
        raise ValueError("lora_bias and use_dora exclude each other; leave one out")
    if values.get("lora_bias") and not isinstance(values.get("init_lora_weights"), bool):
        raise ValueError(
            f"init_lora_weights = {values['init_lora_weights']!r} does not go with lora_bias; leave one out"
        )
    if problem := _of_kind(kind, values):
        raise ValueError(problem)
    blocks = values.get("use_bdlora") or {}
    if both := {*(blocks.get("target_modules_bd_a") or ())} & {*(blocks.get("target_modules_bd_b") or ())}:
        raise ValueError(f"use_bdlora names {min(both)!r} in target_modules_bd_a and _bd_b; leave it out of one")


def _check_start(start: Any, values: Values) -> None:
    if not isinstance(start, bool) and start not in STARTS and not re.fullmatch(r"pissa_niter_[1-9]\d*", str(start)):
        raise ValueError(
            f"init_lora_weights = {start!r}; it takes true, false, {', '.join(map(repr, STARTS))} or 'pissa_niter_N' "
            "with a number of iterations"
        )
    if start != "loftq":
        return
    asked = values["loftq_config"] or {}
    if not {"loftq_bits", "loftq_iter"} <= asked.keys():
        raise ValueError(
            "init_lora_weights = 'loftq' needs loftq_config = {'loftq_bits': 4, 'loftq_iter': 1}, both keys"
        )
    if asked["loftq_bits"] not in (2, 4, 8):
        raise ValueError(f"loftq_config.loftq_bits = {asked['loftq_bits']}; it takes 2, 4 or 8")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "init_lora_weights = 'loftq' needs the package bitsandbytes, which is not installed; install it, or take "
            "another start"
        )


def _given(values: Values, name: str) -> bool:
    return values.get(name) not in (None, [], "")


def _check_kind(name: str, value: Any, default: Any, configuration: type) -> None:
    hint = _hints(configuration).get(name.rpartition(".")[2], Any)
    if value is None and (
        default == {}
        or (name in NOT_NULL and default is not None)
        or (type(None) not in get_args(hint) and hint is not Any)
    ):
        raise ValueError(f"{name} = None; leave it out, which gives {default!r}")
    if any(isinstance(number, float) and not math.isfinite(number) for number in _numbers(value)):
        raise ValueError(f"{name} = {value!r}; it takes no number that is infinite or none")
    if name == "bias" and value not in ("none", "all") and not str(value).endswith("_only"):
        raise ValueError(f"bias = {value!r}; it takes 'none', 'all' or the one of the type, such as 'lora_only'")
    if tables := [part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)]:
        return _check_table(name, value, tables[0])
    if name == "init_lora_weights":  # takes more than peft lists
        return
    hint = _closed(hint)
    takes = _taken(hint)
    if takes is not None and (value != default or type(value) is not type(default)):  # True equals 1
        try:
            _adapter(hint).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise ValueError(f"{name} = {value!r}; it takes {takes}") from error


def _check_table(name: str, value: Any, table: type) -> None:
    """A table of fields of its own, whose keys peft reads over where it does not know them."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"{name} = {value!r}; it takes a table of fields")
    known = {field.name: field.default for field in dataclasses.fields(table)}
    for key, inner in value.items():
        if key not in known:
            raise ValueError(str(unknown("key", str(key), known, name)))
        _check_kind(f"{name}.{key}", inner, known[key], table)
        _check_size("", f"{name}.{key}", inner, known[key])


def _closed(hint: Any) -> Any:
    """The hint without the plain word that peft puts beside its lists of choices."""
    parts = [part for part in get_args(hint) if part is not str]
    if get_origin(hint) in (Union, types.UnionType):
        if chosen := [part for part in parts if _lists(part)]:
            return functools.reduce(operator.or_, parts, chosen[0])
    return hint


def _lists(hint: Any) -> bool:
    """Whether it is a list of choices."""
    return get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum))


_hints = functools.cache(get_type_hints)


@functools.cache
def _adapter(hint: Any) -> "TypeAdapter[Any]":
    return TypeAdapter(hint)


def _numbers(value: Any) -> Iterator[Any]:
    """Every value in lists and tables of any depth."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    else:
        yield value


_SPELLED = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a word", list: "a list", tuple: "a list",
    set: "a list", dict: "a table",
}  # fmt: skip


def _taken(hint: Any) -> str | None:
    """What a type hint of peft's says in words; None where it says nothing that can be checked."""
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        within = [part for part in get_args(hint) if part is not type(None)]
        parts = [_taken(part) for part in within]
        return None if None in parts else " or ".join(dict.fromkeys(part for part in parts if part))
    if kind is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(repr(choice.value) for choice in hint)
    if kind in (list, set, tuple) and (inside := {_taken(part) for part in get_args(hint) if part is not ...}):
        return f"a list, each of {' or '.join(sorted(map(str, inside)))}"
    return _SPELLED.get(kind or hint)


def _check_size(kind: str, name: str, value: Any, default: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    last = name.rpartition(".")[2]
    if (isinstance(value, list) and "" in value) or (value == "" and name == "target_modules"):
        raise ValueError(f"{name} = {value!r} holds an empty name; name modules, or leave it out")
    if name in SIZES and not (number and value > 0) and (name, kind) != ("num_virtual_tokens", "CPT") and value != 0:
        raise ValueError(f"{name} = {value!r}; it takes a whole number of at least 1, and has no default")
    if name in LISTS and value in ([], {}):
        raise ValueError(f"{name} is empty and trains nothing; leave it out or name tokens")
    if name in PATTERNS and kind != "ADALORA":
        _check_pattern(name, value or {})
    if number and name in SCALES and value == 0 and default != 0:
        raise ValueError(f"{name} = 0 leaves nothing that trains; give a number above 0")
    least = 1 if last in COUNTED and default != 0 else 0
    if number and last not in SIGNED and value < least:
        raise ValueError(f"{name} = {value}; it takes {'a number above 0' if name in SCALES else f'at least {least}'}")
    if name == "alpha_pattern" and isinstance(value, dict):
        for key, alpha in value.items():
            if alpha == 0:
                raise ValueError(f"alpha_pattern: {key!r} = 0 leaves nothing that trains there; exclude the module")
    if number and name in PARTS and value > 1:
        raise ValueError(f"{name} = {value}; it takes a share of at most 1")
    if number and name in POSITIVE and value <= 0:
        raise ValueError(f"{name} = {value}; it takes a number above 0")
    if number and (name.endswith("dropout") or name in SHARES) and not 0 <= value < 1:
        raise ValueError(f"{name} = {value}; it takes a share of at least 0 and below 1")


def _check_pattern(name: str, pattern: Any) -> None:
    whole = PATTERNS[name] is int
    takes = "a whole number of at least 1" if whole else "a number"
    if not isinstance(pattern, dict):
        raise ValueError(f"{name} = {pattern!r}; it takes a table of numbers by names of modules")
    for key, value in pattern.items():
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or (whole and value < 1):
            raise ValueError(f"{name}: {key!r} = {value!r}; it takes {takes}")


def _check_schedule(values: Values) -> None:
    if values["target_r"] > values["init_r"]:
        raise ValueError(
            f"target_r = {values['target_r']} is above init_r = {values['init_r']}: AdaLoRA starts with init_r ranks a "
            "layer and takes away; lower target_r or raise init_r"
        )
    for name in ("beta1", "beta2"):
        if not 0 < values[name] < 1:
            raise ValueError(f"{name} = {values[name]}; it takes a share between 0 and 1")

"""What stands in place of peft's words where it refuses to build: a sentence with the field, the value and the fix."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

from bench.errors import BenchError
from methods.peft_config import PeftConfig, first_line
from methods.peft_names import Fitted

VALUES = re.compile(r"meta\b|\bMeta\b|fake|aten::|no data|data-dependent|data dependent")
"""What torch says where a tensor without data is asked for a value."""
SHAPES = re.compile(r"shapes? cannot be multiplied|must match|size mismatch|a and b must have same reduction dim")
"""What torch says where layers that were built for another form of weight meet a tensor."""

Words = Callable[["re.Match[str]", PeftConfig, Fitted], str]


def refusal(error: Exception, config: PeftConfig, fitted: Fitted | None, weightless: bool) -> Exception:
    """What is raised in place of peft's ``error``.

    Args:
        error: What peft raised while it built.
        config: The configuration.
        fitted: Its names on the backbone; None where they do not fit.
        weightless: Whether the backbone has no values.
    """
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return error
    if weightless and VALUES.search(str(error)):
        return NotImplementedError(
            f"peft {config.peft_type} starts from the values of the weights, which a backbone without them lacks; run "
            "counts it on real ones"
        )
    if fitted is not None:
        text = " ".join(str(error).split())
        for pattern, words in SENTENCES:
            if (match := pattern.search(text)) and (sentence := words(match, config, fitted)):
                return BenchError(f"peft: {sentence}")
    return BenchError(f"peft: {config.peft_type} does not fit this backbone: {first_line(error)}")


def _of_another_class(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    """A target of a class that the type has no layer for."""
    found = [name for name, kind in fitted.classes.items() if kind == match[1]]
    targets = fitted.targets(found)
    name = next((one for one in fitted.asked["target_modules"] if one in {*targets, *map(_last, targets)}), None)
    name = name or (targets or found or ["?"])[0]
    below = fitted.linear(targets, match[1])
    else_ = [] if below else fitted.linear([""], match[1])
    remedy = (
        f"name linear maps below it, such as {_listed(below)}" if below
        else f"name linear maps, such as {_listed(else_)}" if else_
        else "no linear map here is of another class, so take another peft_type, such as LORA"
    )  # fmt: skip
    return f"target_modules: {name!r} is a {match[1]}, which {config.peft_type} has no layer for; {remedy}"


def _outside_of_blocks(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return (
        f"use_bdlora: {match[1]!r} matches no name of target_modules_bd_a or target_modules_bd_b; name it in one of "
        "them, or set match_strict = false, which leaves it a plain LoRA"
    )


def _of_conv1d(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    """A form of LoRA for ``nn.Linear`` alone, on GPT-2."""
    forms = [
        name for name in ("kasa_config", "use_bdlora", "target_parameters") if getattr(config, name, None) is not None
    ]
    return f"{forms[0]} works on torch.nn.Linear alone, and this backbone has maps of class Conv1D; leave it out"


def _of_vectors(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    asked = getattr(config, "target_parameters", None)
    return f"target_parameters = {asked!r} names parameters of {match[1]} dimension; name matrices, or stacks of them"


def _named_twice(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return (
        f"target_parameters names a parameter of {match[1]!r}, which target_modules adapt as well; take it out of one "
        "of the two"
    )


def _not_repeated(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return "layer_replication repeats layers of backbones that are built as Llama or BERT are; leave it out on this one"


def _not_divided(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return (
        f"use_bdlora.nblocks = {match[3]} does not divide both sides of a factor, {match[1]} and {match[2]}; give a "
        "divisor of both"
    )


def _forms(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    """Forms of LoRA that do not go together, or with one of the layers."""
    names = re.findall(r"\w+", match[1])
    if len(names) > 1:
        return f"{' and '.join(names)} exclude each other; leave one out"
    return f"{names[0]} has no form for one of the target_modules; name linear maps alone, or leave it out"


def _tokens_of_adapted(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return "trainable_token_indices stands on a module that target_modules adapt as well; name it in one of the two"


def _all_saved(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    saved, excluded = getattr(config, "modules_to_save", None), getattr(config, "exclude_modules", None)
    taken = " and ".join(f"{name} = {value!r}" for name, value in
                         (("modules_to_save", saved), ("exclude_modules", excluded)) if value)  # fmt: skip
    return f"{taken or 'the configuration'} leaves nothing of target_modules to adapt; take less away"


def _no_bias(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return f"lora_bias = true has no form for a target of class {match[1]}; leave it out, or name linear maps alone"


def _few_directions(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return _beyond(int(match[1]), int(match[2]), config)


def _beyond(rank: int, side: int, config: PeftConfig) -> str:
    kasa = getattr(config, "kasa_config", None) is not None
    form = "kasa_config" if kasa else f"init_lora_weights = {getattr(config, 'init_lora_weights', None)!r}"
    return (
        f"r = {rank} is {'not below' if kasa else 'above'} {side}, the smaller side of an adapted map, and {form} "
        "takes as many singular vectors of it as ranks; lower r"
    )


def _odd_rank(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return f"r = {match[1]} is odd, and init_lora_weights = 'orthogonal' needs an even rank; give one"


def check_ranks(model: Any, config: PeftConfig) -> None:
    """A start from singular vectors has as many of them as ranks.

    Raises:
        BenchError: A map has fewer: peft would build less than ``r`` with values, and ``r`` without.
    """
    start, kasa = getattr(config, "init_lora_weights", None), getattr(config, "kasa_config", None) is not None
    if config.peft_type != "LORA" or not (kasa or str(start).startswith(("pissa", "olora", "mica"))):
        return
    for layer in (part for part in model.modules() if getattr(part, "lora_A", None)):  # an embedding starts otherwise
        (rank,), side = layer.r.values(), min(layer.get_base_layer().weight.shape)
        if rank > side - kasa:
            raise BenchError(f"peft: {_beyond(rank, side, config)}")


def _without_targets(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    known = f"modules, such as {_listed(fitted.linear([''], ''))}"
    such = f"the blocks, as by the expression {fitted.blocks!r}" if config.peft_type == "SHADOW" else known
    return f"target_modules is left out, and peft knows none for {config.peft_type} on this family; name {such}"


def _adaption_prompt(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return f"ADAPTION_PROMPT has no form for {match[1]}; take prefix_tuning, or a backbone of Llama, Mistral or GPT-2"


def _adapter_layers(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    if match[2] == "0":
        asked = getattr(config, "target_modules", None)
        return f"target_modules = {asked!r} is the name of no attention here; leave it out"
    return f"adapter_layers = {match[1]} is above {match[2]}, the layers of the backbone; lower it"


def _indivisible(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    """A size that has to divide a side of every layer."""
    names = [name for name in DIVISORS.get(config.peft_type, ()) if getattr(config, name, None)]
    if not names:
        return ""
    asked = " and ".join(f"{name} = {getattr(config, name)!r}" for name in names)
    verb = "do" if len(names) > 1 else "does"
    return f"{asked} {verb} not divide a side of one of the target_modules; give a number that divides all"


def _rows(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    return f"token_indices names token {match[1]}, and one of the target_modules has {match[2]} rows; lower it"


def _too_large(match: "re.Match[str]", config: PeftConfig, fitted: Fitted) -> str:
    names = [name for name in LARGEST.get(config.peft_type, ()) if getattr(config, name, None)]
    if not names:
        return ""
    asked = " and ".join(f"{name} = {getattr(config, name)!r}" for name in names)
    return f"{asked} is more than the smallest of the target_modules holds; lower it"


DIVISORS = {
    "BOFT": ("boft_block_size", "boft_block_num"), "C3A": ("block_size",), "GRALORA": ("gralora_k",),
    "MISS": ("r", "mini_r"), "ROAD": ("group_size",), "VBLORA": ("vector_length",), "OFT": ("r", "oft_block_size"),
}  # fmt: skip
"""peft_type -> fields that divide a side of a layer."""
LARGEST = {
    "ADAMSS": ("subspace_rank",), "FOURIERFT": ("n_frequency",), "WAVEFT": ("n_frequency",), "MISS": ("r",),
    "PSOFT": ("r",), "SHIRA": ("r",),
}  # fmt: skip
"""peft_type -> fields that a layer has a largest value for."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(dict.fromkeys(map(_last, names)))[:3])


def _last(name: str) -> str:
    return name.rpartition(".")[2]


SENTENCES: tuple[tuple["re.Pattern[str]", Words], ...] = (
    (re.compile(r"Target module (\w+)\b.* (?:is not supported|is not a plain torch\.nn\.Linear)"), _of_another_class),
    (re.compile(r"[Tt]arget modules? of type <class '[\w.]*?(\w+)'> "), _of_another_class),
    (re.compile(r"Please specify `target_modules`|Unable to automatically find a `nn.ModuleList`"), _without_targets),
    (re.compile(r"Unsupported model type for adaption prompt: '(\w+)'"), _adaption_prompt),
    (re.compile(r"more adapter layers '(\d+)' than the model has '(\d+)'"), _adapter_layers),
    (re.compile(r"divisible|a factor of the input size|a factor of the output size"), _indivisible),
    (re.compile(r"less than or equal to|cannot be multiplied|more shira params"), _too_large),
    (re.compile(r"index (\d+) is out of bounds for dimension 0 with size (\d+)"), _rows),
    (re.compile(r"Target (\S+) matches neither A nor B block-diagonal"), _outside_of_blocks),
    (re.compile(r"'Conv1D' object has no attribute|KaSA does not support|ParamWrapper .* fan_in_fan_out"), _of_conv1d),
    (re.compile(r"ParamWrapper was initialized with (\d+) dimensional"), _of_vectors),
    (re.compile(r"Trying to wrap an `nn\.Parameter` of layer '(\S+)' of type Linear"), _named_twice),
    (re.compile(r"in_features=(\d+) or self\.out_features=(\d+) not divisible by (\d+)"), _not_divided),
    (re.compile(r"unsupported variant combination: \((.*?)\)"), _forms),
    (re.compile(r"trainable_token_indices cannot be applied"), _tokens_of_adapted),
    (re.compile(r"No modules were targeted for adaptation|All modules were excluded"), _all_saved),
    (re.compile(r"lora_bias=True is not supported for (\w+)"), _no_bias),
    (re.compile(r"MiCA requires .* got r=(\d+) .*max usable r is (\d+)"), _few_directions),
    (re.compile(r"KaSA requires `r` \((\d+)\) .*features\) \((\d+)\)"), _few_directions),
    (re.compile(r"rank to be even, got (\d+)"), _odd_rank),
    (re.compile(r"Could not locate the layers attribute"), _not_repeated),
)
"""What peft says, by a pattern on one line of it, and the sentence that is made of it, empty where it is none of it."""

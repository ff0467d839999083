"""What must be known of an adapter of peft's beside its figures: found on the built module, or measured on it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.anatomy import anatomy
from bench.method import without_values
from methods.peft_config import DIMENSIONS

TOKENS = 8
"""Of the one row that two forms of a module are compared on."""
COUNTS_FROM_THE_LEFT = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "CPT")
"""Types that put their positions before the tokens' embeddings."""


def said_of(model: Any, config: Any, task: str) -> Iterator[str]:
    """What of ``config`` did something else than it says, or nothing, in peft's ``model``; ``task`` as `task_of`."""
    (used,) = model.peft_config.values()
    yield from _replaced(used, config)
    if config.task_type not in (None, "FEATURE_EXTRACTION", task):
        stands = "its own LM head" if task else "the harness's own head"
        yield f"task_type = {config.task_type!r} is not what is trained here: on this backbone stands {stands}"
    if getattr(used, "bias", "none") != "none" and not _trains_biases(model):
        yield f"bias = {used.bias!r} trains nothing more: no layer that it is about has a bias"
    if config.peft_type == "ADALORA" and config.rank_pattern:
        yield "rank_pattern, which an earlier training left, is not used: ranks are dealt out anew"
    if config.peft_type == "SHADOW" and config.auxiliary_loss_weight:
        yield "SHADOW's auxiliary loss is left out: it needs a head of peft's own"
    if config.peft_type == "CPT" and config.opt_weighted_loss_type != "none":
        yield f"opt_weighted_loss_type = {config.opt_weighted_loss_type!r} is left out: it needs a head of peft's own"
    if config.peft_type in COUNTS_FROM_THE_LEFT:
        yield "peft leaves position_ids out beside a prompt: a row padded on the left differs from the same row alone"
    yield from _of_windows(model, used)
    yield from _on_embeddings(model, used)
    yield from _beyond_linear(model, used)


def task_of(backbone: nn.Module) -> str:
    """What peft calls the task of a bare ``backbone``; empty where the harness's head stands on it."""
    if anatomy(backbone).lm_head is None:
        return ""
    return "SEQ_2_SEQ_LM" if backbone.config.is_encoder_decoder else "CAUSAL_LM"  # type: ignore[union-attr]


def _replaced(used: Any, config: Any) -> Iterator[str]:
    """Dimensions of another backbone in the configuration of a prompt."""
    asked = {name: getattr(config, name, None) for name in DIMENSIONS}
    changed = [name for name, value in asked.items() if value is not None and value != getattr(used, name)]
    if changed:
        theirs = ", ".join(f"{name} = {asked[name]}" for name in changed)
        ours = ", ".join(str(getattr(used, name)) for name in changed)
        yield (
            f"{theirs} are another backbone's; {ours} of this one stand in"
            if len(changed) > 1
            else (f"{theirs} is another backbone's; {ours} of this one stands in")
        )
    if config.peft_type == "PREFIX_TUNING" and config.encoder_hidden_size and not config.prefix_projection:
        yield f"encoder_hidden_size = {config.encoder_hidden_size} does nothing without prefix_projection"


def _trains_biases(model: Any) -> bool:
    return any(name.endswith("bias") and p.requires_grad for name, p in model.named_parameters())


def _on_embeddings(model: Any, used: Any) -> Iterator[str]:
    """What LoRA's layer for an embedding reads over."""
    start, dropout = getattr(used, "init_lora_weights", True), getattr(used, "lora_dropout", 0)
    named = [("init_lora_weights", start)] if start not in (True, False, "mica") else []
    named += [("lora_dropout", dropout)] if dropout else []
    if named and any(getattr(part, "lora_embedding_A", None) for part in model.modules()):
        asked = " and ".join(f"{name} = {value!r}" for name, value in named)
        yield f"{asked} does nothing on an embedding: peft starts it at zero there and drops nothing"


def _of_windows(model: Any, used: Any) -> Iterator[str]:
    """A prefix lies in the cache, which keeps a window in some layers."""
    window = getattr(model.config, "sliding_window", None)
    layers = getattr(model.config, "layer_types", None) or ()
    length = getattr(used, "num_virtual_tokens", None) or 0
    slides = "sliding_attention" in layers or not layers  # a family without kinds of layers slides in all
    if used.peft_type in ("PREFIX_TUNING", "CARTRIDGE") and window and slides:
        yield (
            f"in layers with a sliding window of {window} tokens peft's prefix lies in the window: at most "
            f"{window - 1} of its {length} positions are kept, fewer as a row goes on"
        )


def _beyond_linear(model: Any, used: Any) -> Iterator[str]:
    """Parameters of other modules than linear maps that were taken without being named."""
    named = getattr(model.base_model, "targeted_parameter_names", ())
    if not named:
        return
    ranks: dict[str, set[int]] = {}
    for name, part in model.named_modules():
        if type(part).__name__ == "ParamWrapper":
            held = name.rpartition(".layers.")[2].partition(".")[2].replace(".base_layer", "")
            ranks.setdefault(f"{held}.{part.parameter_name}", set()).update(part.r.values())
    held = ", ".join(f"{name} (rank {'/'.join(map(str, sorted(r)))})" for name, r in sorted(ranks.items()))
    yield f"parameters that are no linear layer are adapted as well: {held}"


def base_states(module: nn.Module) -> Tensor | None:
    """Last hidden state ``[1, T, d]`` of a fixed row, in eval mode; None on tensors without data."""
    if without_values(module):
        return None
    weight = next(module.parameters())
    vocabulary: int = module.config.vocab_size  # type: ignore[union-attr, assignment]
    row = torch.arange(TOKENS, device=weight.device)[None] % vocabulary
    modes = {part: part.training for part in module.modules()}
    # frozen matrices of bfloat16 beside parameters of float32 run under autocast alone
    mixed = {torch.bfloat16, torch.float32} <= {p.dtype for p in module.parameters()}
    try:
        with torch.no_grad(), torch.autocast(weight.device.type, torch.bfloat16, enabled=mixed):
            read = {"input_ids": row, "attention_mask": torch.ones_like(row)}
            if module.config.is_encoder_decoder:  # type: ignore[union-attr]
                read["decoder_input_ids"] = row
            states: Tensor = module.eval()(**read).last_hidden_state
    finally:
        for part, training in modes.items():
            part.training = training
    return states.bfloat16() if mixed else states


def moved(module: nn.Module, start: Tensor) -> tuple[str, ...]:
    """A note where ``module`` does not start as the backbone whose hidden states were ``start``."""
    found = base_states(module)
    if found is None or (error := difference(found, start)) is None:
        return ()
    return (f"the start is not the base model: hidden states differ by {error:.2g} of their largest",)


def folded(module: nn.Module, merged: nn.Module) -> tuple[str, ...]:
    """A note where ``merged`` does not compute what ``module`` computes."""
    before, after = base_states(module), base_states(merged)
    if before is None or after is None or (error := difference(after, before)) is None:
        return ()
    return (f"merging by peft is not exact: hidden states differ by {error:.2g} of their largest",)


def difference(one: Tensor, other: Tensor) -> float | None:
    """Largest difference as a share of the largest value of ``other``; None where rounding of its type explains it."""
    apart = float((one.float() - other.float()).abs().max() / other.float().abs().max())
    return None if apart <= torch.finfo(other.dtype).eps ** 0.5 else apart

"""The optimizers that the ``peft`` library has for its LoRA; it implements none and builds no module."""

from typing import Any

import torch
from torch import nn

FIELDS: dict[str, Any] = {"optimizer_type": None, "loraplus_lr_ratio": None}
"""What stands beside the fields of peft's own configuration, with its default. ``optimizer_type`` is ``"lora+"`` or
``"lora-fa"``, as in peft's published method comparison; None is the recipe's optimizer."""
KIND = "LORA"
"""The one ``peft_type`` whose parameters these optimizers know, by name."""


def check(optimizer_type: Any, loraplus_lr_ratio: Any) -> None:
    """Raise ``ValueError`` where the two do not make an optimizer."""
    if optimizer_type not in (None, "lora+", "lora-fa"):
        raise ValueError(f"optimizer_type = {optimizer_type!r}; it takes 'lora+' or 'lora-fa'")
    if (optimizer_type == "lora+") != (loraplus_lr_ratio is not None):
        raise ValueError("loraplus_lr_ratio goes with optimizer_type = 'lora+', which needs it (16, for one)")
    number = isinstance(loraplus_lr_ratio, int | float) and not isinstance(loraplus_lr_ratio, bool)
    if loraplus_lr_ratio is not None and not (number and loraplus_lr_ratio > 0):
        raise ValueError(f"loraplus_lr_ratio = {loraplus_lr_ratio!r}; it takes a number above 0")


def freeze(model: nn.Module, config: Any) -> None:
    """Freeze in peft's ``model`` what the optimizer of ``config`` leaves alone: every A under LoRA-FA."""
    if kind(config) == "lora-fa":
        _lora_fa(model, config, lr=0.0, weight_decay=0.0)  # peft freezes them where it makes the optimizer


def groups(model: nn.Module, config: Any, lr: float) -> list[dict[str, Any]]:
    """LoRA+'s groups over the parameters of peft's ``model`` that train: A at ``lr``, B at the ratio times it."""
    from peft.optimizers import create_loraplus_optimizer

    made = create_loraplus_optimizer(model, torch.optim.SGD, lr=lr, loraplus_lr_ratio=config.loraplus_lr_ratio)
    kept = [{"params": group["params"], "lr": group["lr"]} for group in made.param_groups if group["params"]]
    return [group | _no_decay(group) for group in kept]


def lora_fa(model: nn.Module, config: Any, given: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """LoRA-FA's optimizer over peft's ``model``, at the rate of its parameters in ``given``, and the other groups.

    It turns the gradient of B into the one whose update lies nearest to full fine-tuning's (Zhang et al., 2023,
    arXiv:2308.03303, as peft reads it); parameters outside LoRA take AdamW's step.
    """
    own = {id(p) for p in model.parameters()}
    rate = next(group["lr"] for group in given if any(id(p) in own for p in group["params"]))
    made = _lora_fa(model, config, lr=rate, weight_decay=weight_decay)
    for place, group in enumerate(given):
        if rest := [p for p in group["params"] if id(p) not in own]:
            named = [f"head.{place}.{number}" for number in range(len(rest))]  # its state is kept by name
            held = {"params": rest, "names": named, "scaling_factors": [None] * len(rest)}
            made.add_param_group({"weight_decay": weight_decay} | group | held)
    return made


def kind(config: Any) -> str | None:
    """Which optimizer ``config`` asks for; None: the recipe's."""
    return getattr(config, "optimizer_type", None)


def _lora_fa(model: nn.Module, config: Any, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    from peft.optimizers import create_lorafa_optimizer

    made: torch.optim.Optimizer = create_lorafa_optimizer(
        model, r=config.r, lora_alpha=config.lora_alpha, lr=lr, weight_decay=weight_decay
    )
    return made


def _no_decay(group: dict[str, Any]) -> dict[str, float]:
    return {"weight_decay": 0.0} if all(p.ndim <= 1 for p in group["params"]) else {}

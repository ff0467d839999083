"""The optimizers that the ``peft`` library has for its LoRA."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

FIELDS: dict[str, Any] = {"optimizer_type": None, "loraplus_lr_ratio": None, "riemannian_reg": None}
"""What stands beside the fields of peft's own configuration, with its default. ``optimizer_type`` is one of ``KINDS``;
None is the recipe's optimizer. ``loraplus_lr_ratio`` goes with LoRA+, which needs it; ``riemannian_reg``, the damping
of the preconditioner, with the Riemannian one, which takes peft's where it is None."""
KINDS = ("lora+", "lora-fa", "riemannian")
"""As peft's published method comparison spells them."""
OPTION = {"loraplus_lr_ratio": "lora+", "riemannian_reg": "riemannian"}
"""Number -> the optimizer that it goes with."""
ARGUMENT = {"loraplus_lr_ratio": "loraplus_lr_ratio", "riemannian_reg": "reg"}
"""Number -> what peft's factory and the comparison's files call it."""
KIND = "LORA"
"""The one ``peft_type`` whose parameters these optimizers know, by name."""
ADAMW_EPS = 1e-8
"""That of the recipe's AdamW; peft's optimizer has 1e-6, which its pairs keep."""
LARGEST = 1e6
"""Of a ratio of rates or a damping; more is a slip."""
PAIR = re.compile(r"\.lora_([AB])\.[^.]+\.weight$")


def check(values: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where those of ``FIELDS`` in ``values`` do not make an optimizer."""
    wanted = values["optimizer_type"]
    if wanted is not None and wanted not in KINDS:
        raise ValueError(f"optimizer_type = {wanted!r}; it takes {', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}")
    if wanted == "lora+" and values["loraplus_lr_ratio"] is None:
        raise ValueError("optimizer_type = 'lora+' needs loraplus_lr_ratio (16, for one)")
    for name, kind in OPTION.items():
        value = values[name]
        if value is not None and wanted != kind:
            raise ValueError(f"{name} goes with optimizer_type = {kind!r} alone; leave it out")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value <= LARGEST):
            raise ValueError(f"{name} = {value!r:.40}; it takes a number above 0, a million at most")


def of_experiment(training: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``FIELDS`` that an experiment of peft's method comparison sets.

    Args:
        training: Content of its ``training_params.json``.
        adapter: Content of its ``adapter_config.json``.

    Raises:
        ValueError: LoRA-FA's optimizer is told another rank or alpha than the adapter has.
    """
    wanted, arguments = training.get("optimizer_type"), training.get("optimizer_kwargs")
    if wanted not in KINDS:
        return {}
    arguments = arguments if isinstance(arguments, dict) else {}
    for name in ("r", "lora_alpha") if wanted == "lora-fa" else ():
        if name in arguments and arguments[name] != adapter.get(name):
            raise ValueError(
                f"optimizer_kwargs has {name} = {arguments[name]!r}, the adapter {adapter.get(name)!r}; make them equal"
            )
    numbers = {name: arguments.get(ARGUMENT[name]) for name, goes_with in OPTION.items() if goes_with == wanted}
    return {"optimizer_type": wanted} | numbers


def kind(config: Any) -> str | None:
    """Which optimizer ``config`` asks for; None: the recipe's."""
    return getattr(config, "optimizer_type", None)


def freeze(model: nn.Module, config: Any) -> None:
    """Freeze in peft's ``model`` what the optimizer of ``config`` leaves alone: every A under LoRA-FA.

    Raises:
        ValueError: The optimizer has no pair of A and B to work on; or LoRA-FA, and there is more to train than pairs:
            peft's tells them by their order, and neither freezes nor moves the A of an embedding.
    """
    if kind(config) == "riemannian":
        _riemannian(model, config, weight_decay=0.0)  # peft looks for its pairs where it makes the optimizer
    if kind(config) != "lora-fa":
        return
    found = [PAIR.search(name) for name, _ in model.named_parameters() if "lora" in name]
    ordered = "".join(match[1] if match else "?" for match in found)
    if ordered != "AB" * (len(ordered) // 2):
        raise ValueError(
            "optimizer_type = 'lora-fa' takes pairs of A and B alone: no use_dora, lora_bias or embeddings"
        )
    _lora_fa(model, config, lr=0.0, weight_decay=0.0)  # peft freezes them where it makes the optimizer


def groups(model: nn.Module, config: Any, lr: float) -> list[dict[str, Any]]:
    """LoRA+'s groups over the parameters of peft's ``model`` that train: all at ``lr``, B at the ratio times it.

    Vectors take no decay, as everywhere here. What adapts an embedding has ``lr`` too; peft's default for it, 1e-6, is
    no rate that a recipe could choose.
    """
    from peft.optimizers import create_loraplus_optimizer

    made = create_loraplus_optimizer(
        model, torch.optim.SGD, lr=lr, loraplus_lr_ratio=config.loraplus_lr_ratio, loraplus_lr_embedding=lr
    )
    found: list[dict[str, Any]] = []
    for group in made.param_groups:
        matrices, vectors = ([p for p in group["params"] if (p.ndim > 1) == wide] for wide in (True, False))
        found += [{"params": matrices, "lr": group["lr"]}, {"params": vectors, "lr": group["lr"], "weight_decay": 0.0}]
    return [group for group in found if group["params"]]


def lora_fa(model: nn.Module, config: Any, given: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """LoRA-FA's optimizer over the pairs of peft's ``model``; what else trains keeps its group of ``given``.

    It turns the gradient of B into the one whose update lies nearest to full fine-tuning's (Zhang et al., 2023,
    arXiv:2308.03303, as peft reads it); parameters outside LoRA, the head among them, take AdamW's step.
    """
    pairs = {id(p) for name, p in model.named_parameters() if "lora" in name}
    rate = next(group["lr"] for group in given if any(id(p) in pairs for p in group["params"]))
    made = _lora_fa(model, config, lr=rate, weight_decay=weight_decay)
    of_pairs = made.param_groups[0]
    kept = [at for at, p in enumerate(of_pairs["params"]) if id(p) in pairs]
    of_pairs |= {key: [of_pairs[key][at] for at in kept] for key in ("params", "names", "scaling_factors")}
    for place, group in enumerate(given):
        if rest := [p for p in group["params"] if id(p) not in pairs]:
            named = [f"{place}.{number}" for number in range(len(rest))]  # its state is kept by name
            held = {"params": rest, "names": named, "scaling_factors": [None] * len(rest)}
            made.add_param_group({"weight_decay": weight_decay, "eps": ADAMW_EPS} | group | held)
    return made


def riemannian(
    model: nn.Module, config: Any, given: list[dict[str, Any]], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over the groups of ``given``, which first preconditions the gradients of the pairs of peft's ``model``.

    ``g_A`` becomes ``(B^T B + reg I)^-1 g_A`` and ``g_B`` becomes ``g_B (A A^T + reg I)^-1`` (Zhang, Pilanci, 2024,
    arXiv:2402.02347, as peft reads it); the head and whatever else trains takes AdamW's step.
    """
    made = _riemannian(model, config, weight_decay=weight_decay)
    made.param_groups.clear()
    for group in given:
        made.add_param_group(group)
    return made


def _lora_fa(model: nn.Module, config: Any, *, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    from peft.optimizers import create_lorafa_optimizer

    made: torch.optim.Optimizer = create_lorafa_optimizer(
        model, r=config.r, lora_alpha=config.lora_alpha, lr=lr, weight_decay=weight_decay
    )
    return made


def _riemannian(model: nn.Module, config: Any, *, weight_decay: float) -> torch.optim.Optimizer:
    from peft.optimizers import create_riemannian_optimizer

    damping = {} if config.riemannian_reg is None else {ARGUMENT["riemannian_reg"]: config.riemannian_reg}
    made: torch.optim.Optimizer = create_riemannian_optimizer(
        model, torch.optim.AdamW, lr=0.0, weight_decay=weight_decay, fused=True, **damping
    )
    return made

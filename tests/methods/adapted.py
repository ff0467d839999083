"""Adapted backbones and the measures that method tests take of them."""

import torch
from torch import Tensor, nn

from bench.registry import make
from tests.methods.families import batch, tiny

ONE_OF_EACH = ["bert", "gpt2", "llama", "t5"]
"""One family of each build: post-LN, fused Conv1D, gated with grouped keys, without biases."""


def adapt(name: str, backbone: nn.Module | str, **config: object) -> tuple[object, nn.Module]:
    """Apply method ``name`` to ``backbone`` (or to the tiny one of that family); returns the method and the module."""
    method, parsed = make(name, config)
    return method, method.apply(tiny(backbone) if isinstance(backbone, str) else backbone, parsed)


def bert_base() -> nn.Module:
    """The published bert-base shape without pooler, frozen, without weights."""
    from transformers import AutoModel, BertConfig

    with torch.device("meta"):
        return AutoModel.from_config(BertConfig(), add_pooling_layer=False).requires_grad_(False)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters of ``module`` by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in trained(module).values())


def randomise(module: nn.Module, sigma: float = 0.1, seed: int = 7) -> nn.Module:
    """Move every trainable parameter of ``module`` by N(0, sigma), in place, so that a method's zeros hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(module).values():
            parameter += sigma * torch.randn(parameter.shape, generator=generator)
    return module


def states(module: nn.Module, **inputs: Tensor) -> Tensor:
    """Last hidden state ``[B, T, d]`` on a fixed batch with padding."""
    return module(**(inputs or batch(pad=3))).last_hidden_state


def loss(module: nn.Module) -> Tensor:
    """A scalar that gives every element of the last hidden state its own weight."""
    hidden = states(module)
    return (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).mean()


def shape_of(module: nn.Module) -> tuple[list[tuple[str, type]], list[tuple[str, torch.Size]]]:
    """Names and classes of all modules, names and sizes of all parameters."""
    return (
        [(name, type(m)) for name, m in module.named_modules()],
        [(name, p.shape) for name, p in module.named_parameters()],
    )

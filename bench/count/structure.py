"""What a model consists of as a list of items, so that models of several depths can be told apart or found alike."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.count.pattern import Item

_DIGITS = re.compile(r"\d+")
_OF_A_LAYER = re.compile(r"layer|idx|index")
"""Names of whole numbers that say which layer a module is, or how many there are."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TORCHS = frozenset(vars(nn.Module()))


def named(name: str) -> tuple[str, tuple[int, ...]]:
    """A dotted name without its numbers, and these."""
    return _DIGITS.sub("#", name), tuple(map(int, _DIGITS.findall(name)))


def structure(model: nn.Module) -> list[Item]:
    """Modules of ``model`` with all that they hold, one after another, and lists of its configurations entry by entry.

    Numbers of layers in names, and whole numbers that a module holds under the name of a layer, are numbers of items;
    shapes and other whole numbers are sizes.
    """
    items: list[Item] = []
    configs: dict[int, Any] = {}
    for path, module in model.named_modules():
        items += _of_module(path, module)
        config = getattr(module, "config", None)
        if hasattr(config, "to_dict"):
            configs.setdefault(id(config), config)
    for config in configs.values():
        for name, value in config.to_dict().items():
            items += _entries((type(config).__name__, name), value)
    return items


def _of_module(path: str, module: nn.Module) -> Iterator[Item]:
    template, numbers = named(path)
    key: list[Any] = [template, type(module)]
    sizes: list[int] = []
    more = list(numbers)
    listed = []
    for name, value in vars(module).items():
        if name in _TORCHS:
            continue
        if type(value) is int:
            (more if _OF_A_LAYER.search(name) else sizes).append(value)
            key.append(name)
        elif isinstance(value, str):
            spelled, numbers = named(value)
            key.append((name, spelled))
            more += numbers
        elif isinstance(value, bool | float | torch.dtype | None):
            key.append((name, value))
        elif isinstance(value, list | tuple):
            listed.append((name, value))
        else:
            key.append((name, getattr(value, "__qualname__", type(value).__qualname__)))
    key.append(module.training)
    for hooks in _HOOKS:
        key += [(hooks, _name(hook)) for hook in vars(module)[hooks].values()]
    held = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    for name, tensor in held:
        template, numbers = named(name)
        key.append((template, tensor.dtype, tensor.requires_grad, tensor.ndim, isinstance(tensor, nn.Parameter)))
        sizes += [*tensor.shape, *tensor.stride()]
        more += numbers
    yield Item(tuple(key), tuple(sizes), tuple(more))
    for name, value in listed:
        yield from _entries((template, name), value)


def _name(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # of a partial
    return str(getattr(hook, "__qualname__", type(hook).__qualname__))


def _entries(place: tuple[str, ...], value: Any) -> Iterator[Item]:
    """Entries of a list, in which only whole numbers grow, and those in names."""
    for entry in value if isinstance(value, list | tuple) else ():
        plain = isinstance(entry, bool | float | None)
        if type(entry) is int:
            yield Item(place, (), (entry,))
        elif isinstance(entry, str):
            spelled, numbers = named(entry)
            yield Item((*place, spelled), (), numbers)
        elif isinstance(entry, Tensor):
            yield Item((*place, entry.dtype, entry.ndim), (*entry.shape,))
        else:
            yield Item((*place, entry if plain else type(entry).__qualname__))

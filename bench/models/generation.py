"""Greedy decoding with a KV cache: prefill of prompts, then one token at a time, through any adapted decoder."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.anatomy import causal
from bench.errors import BenchError
from bench.models.head import TaskModel, check_shape
from bench.models.text import TextHead
from bench.schema.forms import Objective


class Told(NamedTuple):
    """What a language model says after what it has read."""

    logits: Tensor
    """Of the next token, ``[B, V]``."""
    cache: Any
    """Keys and values of what was read, whatever holds them: transformers' cache, or a method's own."""


def check_writes(config: Any, objective: Objective | None, where: str) -> None:
    """Refuse to measure generation of what is no decoder under its LM head.

    Args:
        config: The backbone's configuration.
        objective: What stands on it.
        where: Prefix of the error message.

    Raises:
        BenchError: It is an encoder, has one beside its decoder, or stands under another objective.
    """
    if objective != "text":
        family = config.model_type
        remedy = "set objective = 'text'" if causal(family) else f"family {family!r} is an encoder: name a decoder"
        raise BenchError(f"{where}: text is written under objective text, and this shape has {objective}; {remedy}")
    if config.is_encoder_decoder:
        raise BenchError(
            f"{where}: it is measured of decoders, and family {config.model_type!r} has an encoder beside its own; "
            "name a decoder such as gpt2"
        )


def prefill(model: TaskModel, ids: Tensor) -> Told:
    """Read prompts ``[B, T]`` of one length, none of it padding, and begin the cache.

    Rows are not padded: padding would move learned positions and sliding windows, for some methods and not for others.

    Raises:
        BenchError: The method gives no cache.
    """
    return _told(model, model.body(input_ids=ids, use_cache=True), ids)


def decode(model: TaskModel, ids: Tensor, cache: Any) -> Told:
    """Read one more token of each row, ``[B, 1]``; ``cache`` is what the step before it gave, and may change in place.

    Raises:
        BenchError: The method gives no cache.
    """
    return _told(model, model.body(input_ids=ids, past_key_values=cache, use_cache=True), ids)


def _told(model: TaskModel, output: Any, ids: Tensor) -> Told:
    head = model.head
    assert isinstance(head, TextHead), "generation stands on an LM head"
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise BenchError("the module of the method gives no past_key_values under use_cache, which decoding reads")
    hidden = output.last_hidden_state
    check_shape(hidden, (*ids.shape, head.width))
    return Told(head.logits(hidden[:, -1], model.body), cache)


def greedy(model: TaskModel, ids: Tensor, new_tokens: int, *, end: int | None = None) -> Tensor:
    """What follows prompts ``[B, T]`` of one length, the most likely token each time.

    Args:
        model: A decoder under its ``TextHead``, adapted or not.
        ids: Prompts, none of it padding.
        new_tokens: Tokens of an answer at most.
        end: Token that ends an answer; whatever would follow it is ``end`` again. None: nothing ends one.

    Returns:
        Tokens ``[B, n]``, n being ``new_tokens``, or fewer where every row has ended.
    """
    written: list[Tensor] = []
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    with torch.inference_mode():
        told = prefill(model, ids)
        while True:
            token = told.logits.argmax(dim=-1)
            if end is not None:
                token = token.masked_fill(ended, end)
                ended |= token == end
            written.append(token)
            if len(written) == new_tokens or (end is not None and bool(ended.all())):
                return torch.stack(written, dim=1)
            told = decode(model, token[:, None], told.cache)


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values that ``cache`` holds, those of a method's own network among them.

    Raises:
        BenchError: None are found: it is of a kind that cannot be counted.
    """
    held = sum(tensor.numel() * tensor.element_size() for tensor in _held(cache))
    if not held:
        raise BenchError(f"no keys and values are found in the method's KV cache ({type(cache).__name__})")
    return held


def _held(cache: Any) -> Iterator[Tensor]:
    """Keys and values of a cache of transformers, or of several that one object holds, as peft's Shadow has them."""
    slots = [name for kind in type(cache).__mro__ for name in getattr(kind, "__slots__", ())]
    parts = vars(cache) | {name: getattr(cache, name, None) for name in slots}
    for layer in parts.get("layers") or ():
        # beside keys and values a layer may hold a prefix apart, and the window's size as a tensor
        yield from (part for part in vars(layer).values() if isinstance(part, Tensor) and part.ndim == 4)
    for part in parts.values():
        if hasattr(part, "get_seq_length") and not isinstance(part, type):
            yield from _held(part)

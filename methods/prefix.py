"""Learned keys and values in front of every attention (prefix tuning, P-tuning v2)."""

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from bench.anatomy import Anatomy, Numbering, anatomy
from bench.errors import BenchError
from bench.method import Method, MethodConfig, at_least
from methods.prompt import check_length, copy_sharing_tensors, first_position, token_positions

_IMPLEMENTATION = {"sdpa": "peft_ledger_prefix_sdpa", "eager": "peft_ledger_prefix_eager"}
"""Attention of the bare backbone -> name of the one that puts the prefix in front and then calls it."""


def _attend(
    own: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix_states: list[Tensor] | None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over ``[P_K; K]`` and ``[P_V; V]``; a T5 bias, and a 4-D mask of the caller's, are widened by zeros.

    ``prefix_states`` travels with the forward call's keyword arguments, so that no module and no global holds it; it
    lists keys and values in turn, each ``[1 or B, kv heads, p, d_h]``. A 4-D mask that already spans ``p + T`` keys is
    the caller's own word about the prefix and stays. Without ``prefix_states`` the keys begin with the prefix already:
    they come out of a ``_PrefixCache``.
    """
    if prefix_states is None:
        return _delegate(own, module)(module, query, key, value, attention_mask, **kwargs)
    layer = module.prefix_layer
    past_key, past_value = (s.to(key.dtype).expand(len(key), -1, -1, -1) for s in prefix_states[2 * layer :][:2])
    length, tokens = past_key.shape[2], key.shape[2]
    key = torch.cat([past_key, key], dim=2)
    value = torch.cat([past_value, value], dim=2)
    if attention_mask is not None and attention_mask.shape[-1] == tokens:
        attention_mask = F.pad(attention_mask, (length, 0), value=attention_mask.dtype == torch.bool)
    if position_bias is not None:
        kwargs["position_bias"] = F.pad(position_bias, (length, 0))
    return _delegate(own, module)(module, query, key, value, attention_mask, **kwargs)


def _delegate(own: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    if own == "sdpa":
        return sdpa_attention_forward
    # The eager form is no registered function: each family's file has its own.
    return sys.modules[type(module).__module__].eager_attention_forward


def _mask(*args: Any, config: PreTrainedConfig, **kwargs: Any) -> Tensor | None:
    """Additive mask ``[B, 1, T, p + T]`` of the bare backbone, zeros over the prefix.

    It is never left out: without one, SDPA would cut an unpadded causal batch to ``T`` keys. Additive rather than
    boolean, since SDPA would turn a boolean one into a tensor of its own in each layer and keep all for backward.
    One query that sees all keys, as a step of decoding has, is no such batch: there it is left out, as without prefix.
    """
    window = kwargs.get("local_size")
    sees_all = kwargs["q_length"] == 1 and (window is None or kwargs["kv_length"] < window)
    if sees_all and kwargs.get("attention_mask") is None and kwargs.get("allow_is_causal_skip"):
        return None
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return F.pad(eager_mask(*args, **kwargs), (config.prefix_length, 0))


for _own, _name in _IMPLEMENTATION.items():
    AttentionInterface.register(_name, functools.partial(_attend, _own))
    AttentionMaskInterface.register(_name, _mask)


def _redirect(backbone: nn.Module, parts: Anatomy, length: int) -> None:
    """Let the attention modules of this backbone alone call ``_attend``: its configuration becomes its own copy."""
    own = backbone.config._attn_implementation
    if own not in _IMPLEMENTATION:
        raise BenchError(
            f"attention implementation {own!r} cannot carry a prefix; load the backbone with attn_implementation "
            f"= {' or '.join(map(repr, _IMPLEMENTATION))}"
        )
    if own == "eager" and getattr(backbone.config, "reorder_and_upcast_attn", False):
        raise BenchError("reorder_and_upcast_attn bypasses the attention interface; turn it off to use a prefix")
    if not parts.hands_on:
        raise BenchError(
            f"family {parts.family!r} hands its attention nothing beyond its own arguments, so that no prefix reaches "
            "it; take prompt_tuning or p_tuning"
        )
    copies: dict[int, tuple[PreTrainedConfig, PreTrainedConfig]] = {}
    for module in backbone.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            if id(config) not in copies:
                copies[id(config)] = config, copy.deepcopy(config)
                copies[id(config)][1]._attn_implementation = _IMPLEMENTATION[own]
                copies[id(config)][1].prefix_length = length
            module.config = copies[id(config)][1]
    for index, path in enumerate(_attentions(parts)):
        backbone.get_submodule(path).prefix_layer = index


def _attentions(parts: Anatomy) -> list[str]:
    """Every attention: of an encoder-decoder the encoder's, the decoder's and, behind each of those, its cross one."""
    return [path for layer in parts.layers for path in layer.attentions]


def _shape(backbone: nn.Module, parts: Anatomy, length: int) -> tuple[int, ...]:
    """Shape ``[L, 2, kv heads, p, d_h]`` of all keys and values, L being the number of attentions."""
    key = parts.layers[0].projections["key"]
    module = backbone.get_submodule(key.path)
    fused = module.weight.shape[0] if isinstance(module, nn.Linear) else module.weight.shape[1]
    heads = getattr(backbone.config, "num_key_value_heads", None) or parts.heads
    return len(_attentions(parts)), 2, heads, length, key.width(fused) // heads


class _PrefixLayer(DynamicLayer):
    """Keys and values of one layer that begin with the prefix, which is not counted among the tokens."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.prefix = (key, value)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start from the prefix, once a row, in the type of the tokens' keys."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (_of_rows(part, key_states) for part in self.prefix)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens that were read."""
        return int(self.keys.shape[-2]) - self.prefix[0].shape[-2] if self.is_initialized else 0  # type: ignore[union-attr]


class _PrefixWindow(DynamicSlidingWindowLayer):
    """The same of a layer with a sliding window, which does not slide over the prefix: it is held apart."""

    def __init__(self, key: Tensor, value: Tensor, window: int) -> None:
        super().__init__(window)
        self.prefix_keys, self.prefix_values = key, value

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Hold the prefix once a row, in the type of the tokens' keys, and no token."""
        super().lazy_initialization(key_states, value_states)
        self.prefix_keys, self.prefix_values = (
            _of_rows(part, key_states) for part in (self.prefix_keys, self.prefix_values)
        )
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values that the queries of ``key_states`` see; the last tokens of the window are kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        assert self.keys is not None and self.values is not None
        keys = torch.cat([self.prefix_keys, self.keys, key_states], dim=-2)
        values = torch.cat([self.prefix_values, self.values, value_states], dim=-2)
        kept = min(keys.shape[-2] - self.prefix_keys.shape[-2], self.sliding_window - 1)
        self.keys, self.values = (full[:, :, full.shape[-2] - kept :] for full in (keys, values))
        return keys, values


def _of_rows(prefix: Tensor, like: Tensor) -> Tensor:
    """``prefix [1, heads, p, d_h]`` for each row of ``like``."""
    return prefix.to(like.dtype).expand(len(like), -1, -1, -1)


def _cache(config: PreTrainedConfig, states: Tensor) -> DynamicCache:
    """A cache in which the prefix stands once, in front of the tokens that will be read.

    Args:
        config: The backbone's, which says what layers have a window.
        states: Keys and values in turn, ``[2 L, 1, kv heads, p, d_h]``.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        _PrefixWindow(key, value, layer.sliding_window)
        if isinstance(layer, DynamicSlidingWindowLayer)
        else _PrefixLayer(key, value)
        for layer, (key, value) in zip(cache.layers, states.unflatten(0, (-1, 2)), strict=True)
    ]
    return cache


class Prefix(nn.Module):
    """Keys and values themselves: ``table`` is ``[L, 2, kv heads, p, d_h]``."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self) -> Tensor:
        """Return the table."""
        return self.table


class PrefixEncoder(nn.Module):
    """The reparametrisation ``P = W2 tanh(W1 E + b1) + b2`` of all layers' keys and values."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int, **where: Any) -> None:
        super().__init__()
        self.shape = shape
        layers, two, heads, length, head_width = shape
        self.embedding = nn.Parameter(torch.empty(length, width, **where).normal_())
        self.down = nn.Linear(width, hidden, **where)
        self.up = nn.Linear(hidden, layers * two * heads * head_width, **where)

    def forward(self) -> Tensor:
        """Return the table ``[L, 2, kv heads, p, d_h]``."""
        layers, two, heads, length, head_width = self.shape
        flat = self.up(torch.tanh(self.down(self.embedding)))
        return flat.view(length, layers, two, heads, head_width).permute(1, 2, 3, 0, 4)


class Prefixed(nn.Module):
    """A backbone whose attention sees a learned prefix."""

    def __init__(
        self, backbone: nn.Module, prefix: nn.Module, shift: int, numbering: Numbering, dropout: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.prefix = prefix
        self.dropout = nn.Dropout(dropout)
        self.config = backbone.config
        self.shift = shift
        self.numbering = numbering

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the backbone; arguments and output are the bare backbone's.

        Args:
            input_ids: Tokens ``[B, T]``.
            attention_mask: ``[B, T]``, one where a token is real; a 4-D mask may cover ``T`` or ``p + T`` keys.
            **kwargs: Handed to the backbone; with ``use_cache`` the prefix of a decoder stands once in its cache.
        """
        if kwargs.get("use_cache") and not self.config.is_encoder_decoder:
            return self._cached(input_ids, attention_mask, **kwargs)
        states = self.prefix().flatten(0, 1)[:, None]
        if self.training and self.dropout.p > 0:
            # The reference draws a mask for each example of the batch, hence the expansion first.
            states = self.dropout(states.expand(-1, len(input_ids), -1, -1, -1))
        if self.shift and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = token_positions(self.config, self.numbering, input_ids, attention_mask, self.shift)
        return self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, prefix_states=list(states.unbind(0)), **kwargs
        )

    def _cached(
        self, input_ids: Tensor, attention_mask: Tensor | None, past_key_values: Any = None, **kwargs: Any
    ) -> Any:
        """Read tokens ``[B, T]`` behind those that ``past_key_values`` holds; a mask covers both."""
        if past_key_values is None:
            past_key_values = _cache(self.config, self.prefix().flatten(0, 1)[:, None])
        if self.shift and kwargs.get("position_ids") is None:
            past = past_key_values.get_seq_length()
            kwargs["position_ids"] = token_positions(
                self.config, self.numbering, input_ids, attention_mask, self.shift, past
            )
        return self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values, prefix_states=None,
            **kwargs,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixConfig(MethodConfig):
    """Configuration of prefix tuning and of P-tuning v2."""

    length: int = 20
    """Learned keys and values ``p`` of each layer, in positions."""
    reparametrise: bool = False
    """Train ``P = MLP(E)`` and store P alone. The prefix-tuning paper finds it steadier than the direct optimisation
    of P on generation, P-tuning v2 finds it helps some NLU tasks and hurts others; it trains 27 times as much on
    bert-base, so the direct form, which trains what it stores, is the default."""
    hidden: int = 512
    """Width of that MLP; unused without ``reparametrise``."""
    dropout: float = 0.0
    """Dropout probability on the keys and values. P-tuning v2's code takes the backbone's hidden dropout, 0.1."""
    position_shift: bool = False
    """Token positions start at p, as they do where the prefix is passed as a cache (GPT-2, and BERT in P-tuning v2's
    code); takes p positions from the tokens and needs learned positions."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        at_least(self, length=1, hidden=1, dropout=0.0)
        if self.dropout >= 1:
            raise ValueError(f"dropout = {self.dropout} is too large; it takes less than 1")


def _apply(backbone: nn.Module, config: PrefixConfig, std: float) -> Prefixed:
    parts = anatomy(backbone)
    if config.position_shift and (parts.positions is None or not parts.takes_positions):
        lacks = "lacks" if parts.positions is None else "numbers by itself alone"
        raise BenchError(
            f"position_shift = true needs learned positions, which family {parts.family!r} {lacks}; leave it false"
        )
    if config.position_shift:
        check_length(config.length, parts)
    _redirect(backbone, parts, config.length)
    shape = _shape(backbone, parts, config.length)
    words = backbone.get_submodule(parts.word_embeddings).weight
    where = {"device": words.device, "dtype": words.dtype}
    prefix = (
        PrefixEncoder(shape, parts.hidden, config.hidden, **where)
        if config.reparametrise
        else Prefix(torch.empty(shape, **where).normal_(std=std))
    )
    shift = config.length if config.position_shift else 0
    return Prefixed(backbone, prefix, shift, parts.numbering, config.dropout)


def _delta(module: Prefixed) -> dict[str, Tensor]:
    return {"prefix.table": module.prefix().detach().clone(memory_format=torch.contiguous_format)}


def _finalize(module: Prefixed) -> Prefixed:
    if isinstance(module.prefix, Prefix):
        return module
    final = copy_sharing_tensors(module)
    final.prefix = Prefix(_delta(module)["prefix.table"])
    return final


class PrefixTuning(Method):
    """``softmax(Q [P_K; K]^T / sqrt(d_h)) [P_V; V]`` in every layer, P learned, everything else frozen.

    P starts at N(0, 1), or from an MLP with torch's own start. The mask is always materialised (see ``_mask``), which
    keeps mask-free attention kernels out. The paper is on generation and reparametrises.

    Paper: Li, Liang, ACL 2021, arXiv:2101.00190.
    Trains: as many as it stores, ``2 L p d`` (bert-base, p = 20: 368,640), with the keys' and values' own width for
    ``d`` where heads are grouped; or with ``reparametrise`` ``p d + d h + h + 2 L d h + 2 L d`` (h = 512: 9,864,704),
    where ``finalize`` computes P once and leaves the MLP out. L counts attentions: an encoder-decoder has a prefix in
    the encoder's, the decoder's and the cross-attention, as the paper's has (t5-base, p = 20: 1,105,920).
    Backward: crosses the backbone down to layer 0's attention and saves nothing for weight gradients; scores grow by
    ``T p`` a head, linear maps not at all.
    Merging: none; but P does not depend on the input.
    Use: where a task is to be a tensor beside a backbone whose every module stays as it is; the paper finds it level
    with full fine-tuning on full data and ahead on little, in generation.
    """

    Config = PrefixConfig
    takes_float32 = True
    size = "length"
    identity_at_init = False
    _start_std = 1.0
    """Standard deviation of the keys and values at the start."""

    def apply(self, backbone: nn.Module, config: PrefixConfig) -> nn.Module:
        """Put a prefix in front of the keys and values of ``backbone``.

        Raises:
            BenchError: The attention implementation or the positions of the backbone cannot carry it.
        """
        return _apply(backbone, config, self._start_std)

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Groups without weight decay: neither the prefix nor what generates it is pulled towards zero."""
        return [group | {"weight_decay": 0.0} for group in super().param_groups(module, lr)]

    def finalize(self, module: nn.Module) -> nn.Module:
        """Compute keys and values once and leave the MLP out."""
        return _finalize(module)

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """Keys and values ``[L, 2, kv heads, p, d_h]``."""
        return _delta(module)

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's PREFIX_TUNING, which numbers tokens as ``position_shift`` does: without it positions are moved back.

        Raises:
            BenchError: The family's positions cannot be moved, or it has no cache.
        """
        import methods.to_peft as to_peft

        first = first_position(module.config, module.numbering)  # type: ignore[arg-type]
        table = _delta(module)["prefix.table"]  # type: ignore[arg-type]
        return to_peft.prefix(backbone, table, bool(module.shift), first)

    def reserved_positions(self, config: PrefixConfig) -> int:
        """Learned positions that the prefix takes from the tokens."""
        return config.length if config.position_shift else 0


class PTuningV2(PrefixTuning):
    """Deep prompts: keys and values as in prefix tuning, under a task head that starts at random.

    What differs from ``PrefixTuning`` is the start, N(0, 0.02), which is what the reference's loading code made of its
    embedding, and what the paper trains on: understanding with a new linear head, here the shared one. Its code shifts
    BERT's positions by p and drops out prefix entries with the backbone's own probability; both are options.

    Paper: Liu et al., ACL 2022, arXiv:2110.07602.
    Trains: as prefix tuning, ``2 L p d`` (bert-base, p = 20: 368,640; p = 128: 2,359,296).
    Backward: as prefix tuning.
    Merging: none, as prefix tuning.
    Use: as prefix tuning, on understanding: the paper reports it level with fine-tuning at 0.1 to 3 % of the
    parameters.
    """

    _start_std = 0.02

"""A frozen backbone with the side network of Ladder Side-Tuning beside it."""

import copy
import dataclasses
import functools
import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.cache_utils import Cache, DynamicCache

from bench.anatomy import T5, Anatomy
from bench.errors import BenchError
from bench.method import MethodConfig, at_least, each_once
from methods.sliced import alike

_SOURCE = "encoder_hidden_states"
"""Argument of a decoder's block that holds what its cross-attention reads."""
_BIASES = ("position_bias", "encoder_decoder_position_bias")
"""Arguments of a T5 block that the block before it returns, of self- and of cross-attention."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTConfig(MethodConfig):
    """Shape and start of the side network."""

    reduction: int = 8
    """Factor by which the side network is narrower than the backbone; divides the width of an attention head."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Indices of the backbone's layers that keep a side block; the others run without one (paper, section 3.3). Those
    of a decoder beside an encoder follow the encoder's: 12 is the first of t5-base's decoder."""
    init: Literal["random", "pruned"] = "random"
    """Start of the side blocks: each layer's own default, or the backbone's weights pruned by Fisher importance."""
    fisher_samples: int = 1024
    """Training examples that the Fisher importance is summed over; only read with ``init = "pruned"``."""
    gate_temperature: float = 0.1
    """Temperature T of the gates sigmoid(alpha / T)."""
    add_backbone_output: bool = True
    """Whether the backbone's last state is added to the up-projected side state; False is the paper's T5 setting."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        at_least(self, reduction=1, fisher_samples=1)
        if self.gate_temperature <= 0:
            raise ValueError(f"gate_temperature = {self.gate_temperature} must be above 0")
        each_once(self.layers)


@dataclasses.dataclass(frozen=True)
class LadderCache:
    """Keys and values of the tokens that were read: the backbone's, and those of the side network's own attention."""

    backbone: Cache
    side: Cache

    def get_seq_length(self) -> int:
        """Tokens that were read."""
        return self.backbone.get_seq_length()


@dataclasses.dataclass(frozen=True)
class _Tap:
    """What went into and came out of one backbone layer."""

    state: Tensor
    arguments: dict[str, Any]
    """Positional ones behind the state, in their order."""
    keywords: dict[str, Any]


class Ladder(nn.Module):
    """A frozen backbone with its side network; keeps the backbone's call contract."""

    def __init__(self, backbone: nn.Module, parts: Anatomy, config: LSTConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.kept = _kept_layers(parts, config)
        self.layers_path = parts.layers_path
        self.paths = [parts.layers[i].path for i in self.kept]
        self.entries = [f"{path}.0" for path in (parts.layers_path, parts.decoder_path) if path]
        """The blocks that begin a stack."""
        self.family, self.causal, self.rotary = parts.family, parts.causal, parts.rotary
        self.backbone_alone = False
        """While True the module is the bare backbone with gradients: the pass that Fisher importance is taken from."""
        self.prepare_note = ""
        """Why the side blocks did not start as the configuration asked; empty where they did."""
        self.below = sum(not parts.layers[i].cross for i in self.kept)
        """Kept layers of the first stack, which is all of them but beside an encoder-decoder."""
        width = parts.hidden // config.reduction
        weight = backbone.get_submodule(parts.layers[0].projections["query"].path).weight
        with torch.device(weight.device):
            self.downs = nn.ModuleList(nn.Linear(parts.hidden, width) for _ in range(len(self.kept) + 1))
            self.gates = nn.Parameter(torch.zeros(len(self.kept)))
            self.blocks = _side_blocks(backbone, parts, config, self.kept)
            relative = parts.layers[0].ffn_norm.removeprefix(f"{parts.layers[0].path}.")
            self.norm = copy.deepcopy(self.blocks[0].get_submodule(relative))
            self.up = nn.Linear(width, parts.hidden)
            self.decoder = nn.ModuleDict()
            if parts.decoder_path:
                self.decoder = nn.ModuleDict({"down": nn.Linear(parts.hidden, width), "norm": copy.deepcopy(self.norm)})
            if config.add_backbone_output:
                nn.init.zeros_(self.up.weight)
                nn.init.zeros_(self.up.bias)
        for part in (self.downs, self.blocks, self.norm, self.up, self.decoder):
            part.to(weight.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone without gradients, then the side network on its taps.

        With ``use_cache`` the cache of a decoder's output is a ``LadderCache``, which the next call takes.
        """
        if self.backbone_alone:
            return self.backbone(*args, **kwargs)
        cache = self._begun(kwargs) if self.causal and kwargs.get("use_cache") else None
        output, entries, taps = self._read(*args, **kwargs)
        rungs = list(zip(torch.sigmoid(self.gates / self.config.gate_temperature).unbind(), self.downs[1:], self.blocks,
                         taps, strict=True))  # fmt: skip
        entry, *more = (alike(state, self.up.weight) for state in entries)
        side = cache.side if cache else None
        state = self.norm(self._climb(self.downs[0](entry), rungs[: self.below], None, side))
        if self.decoder:
            beside = self._climb(self.decoder["down"](more[0]), rungs[self.below :], state)
            state = self.decoder["norm"](beside)
        state = alike(self.up(state), output.last_hidden_state)
        if self.config.add_backbone_output:
            state = state + output.last_hidden_state.detach()
        output.last_hidden_state = state
        if cache:
            output.past_key_values = cache
        return output

    def _begun(self, kwargs: dict[str, Any]) -> LadderCache:
        """The cache among ``kwargs``, whose backbone's part takes its place there; an empty one where there is none."""
        cache = kwargs.get("past_key_values")
        if cache is None:
            # of one kind, so that what lies in a sliding window, and with it the mask, is the same for both
            cache = LadderCache(*(DynamicCache(config=self.backbone.config) for _ in range(2)))  # type: ignore[arg-type]
        kwargs["past_key_values"] = cache.backbone
        return cache  # type: ignore[no-any-return]

    def _read(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor], list[_Tap]]:
        """Run the backbone; give its output, the state that enters each stack, and the kept layers' taps."""
        if self.causal and kwargs.get("past_key_values") is None:
            # left out, it may be on: a cache would keep every layer's keys and values alive
            kwargs["use_cache"] = False
        entries: list[Tensor] = []
        taps: list[_Tap] = []

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            entries.append(inputs[0].detach())

        def leave(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            taps.append(_Tap(state.detach(), self._arguments(module, inputs), keywords))

        # Hooks live for one call only: a copied or stored module holds none, and no tap outlives the call.
        handles = [self.backbone.get_submodule(path).register_forward_pre_hook(enter) for path in self.entries]
        blocks = [self.backbone.get_submodule(path) for path in self.paths]
        handles += [block.register_forward_hook(leave, with_kwargs=True) for block in blocks]
        try:
            with torch.no_grad():
                output = self.backbone(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return output, entries, taps

    def _arguments(self, block: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """Positional arguments of a block behind the state, by name, but for those that are the side network's own."""
        own = (_SOURCE, *_BIASES) if self.family in T5 else (_SOURCE,)
        return {
            name: None if name in own else value for name, value in zip(_names(type(block)), inputs[1:], strict=False)
        }

    def _climb(self, state: Tensor, rungs: list[Any], source: Tensor | None, side: Cache | None = None) -> Tensor:
        """Side state ``[B, T, d / r]`` after the last kept layer of a stack.

        Args:
            state: The narrow state that enters the stack.
            rungs: Gate, projection, side block and tap of each kept layer.
            source: What the cross-attention of a decoder reads.
            side: Keys and values of the side blocks, in place of the backbone's.
        """
        biases: tuple[Any, ...] = ()
        for share, down, block, tap in rungs:
            entering = down(alike(tap.state, self.up.weight))
            # lerp(a, b, w) = (1 - w) a + w b: one kernel for the gate; under autocast a norm gives another type
            state = torch.lerp(entering, state.to(entering.dtype), share)
            given = tap.arguments | dict(zip(_BIASES, biases, strict=False))
            if source is not None:
                given[_SOURCE] = source
            # a mask that is added to scores has the backbone's type
            given, keywords = tree_map_only(Tensor, self._own_type, (given, self._narrow_rotary(tap.keywords)))
            given, keywords = (
                {name: side if isinstance(value, Cache) else value for name, value in named.items()}
                for named in (given, keywords)
            )
            output = block(state, *given.values(), **keywords)
            state = output[0] if isinstance(output, tuple) else output
            if self.family in T5:
                biases = output[1:]
        return state

    def _own_type(self, tensor: Tensor) -> Tensor:
        return alike(tensor, self.up.weight) if tensor.is_floating_point() else tensor

    def _narrow_rotary(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Rotary angles for heads of d_h / r: theta^(-2j / (d_h / r)) is every r-th frequency of the backbone."""
        if not self.rotary:
            return keywords
        cos, sin = keywords["position_embeddings"]
        return keywords | {"position_embeddings": (self._every(cos), self._every(sin))}

    def _every(self, angles: Tensor) -> Tensor:
        """Every r-th frequency of ``[..., d_h]``, each of which stands there twice."""
        step = self.config.reduction
        if self.rotary == "halves":
            return angles[..., ::step].clone()
        return angles.unflatten(-1, (-1, 2))[..., ::step, :].flatten(-2).clone()


@functools.cache
def _names(block: type[nn.Module]) -> tuple[str, ...]:
    """Arguments of a block's forward behind itself and the state."""
    return tuple(inspect.signature(block.forward).parameters)[2:]


def _kept_layers(parts: Anatomy, config: LSTConfig) -> tuple[int, ...]:
    kept = parts.chosen(config.layers)
    if len({bool(parts.layers[i].cross) for i in kept}) < 1 + bool(parts.decoder_path):
        raise BenchError(
            f"layers = {list(kept)} keeps no layer of the encoder or of the decoder; name some of both, the "
            f"decoder's from {sum(not layer.cross for layer in parts.layers)} on"
        )
    return kept


def check_reduction(backbone: nn.Module, parts: Anatomy, reduction: int) -> None:
    """Refuse a reduction that leaves no whole head (rotary: no even head, its angles come in pairs)."""
    if parts.wide_positions:
        raise BenchError(
            f"family {parts.family!r} has every block map one table of relative positions as wide as the backbone, "
            "which narrower side blocks cannot read; take parallel_adapter or lora"
        )
    if "ffn_out" not in parts.roles():
        raise BenchError(
            f"the FFN of family {parts.family!r} is a mixture of experts, and a narrower mixture with a router of its "
            "own is no side block of the paper's; take lora on the attention or an adapter"
        )
    allowed = reductions(backbone, parts)
    if reduction not in allowed:
        raise BenchError(
            f"reduction = {reduction} does not divide the {_head_width(backbone.config)}-wide attention heads of "
            f"family {parts.family!r}{' into even widths' if parts.rotary else ''}; use one of "
            f"{', '.join(map(str, allowed))}"
        )


def reductions(backbone: nn.Module, parts: Anatomy) -> list[int]:
    """Reductions that leave whole heads, rising."""
    width, turned = _head_width(backbone.config), _turned(backbone.config) if parts.rotary else 0
    fits = [r for r in range(1, width + 1) if width % r == 0 and turned % (2 * r) == 0]
    return [r for r in fits if parts.hidden % r == 0 and parts.ffn >= r]


def _head_width(config: Any) -> int:
    if config.model_type in T5:
        return int(config.d_kv)
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _turned(config: Any) -> int:
    """Entries of a head that its position turns; some families turn a part of them alone."""
    rope = getattr(config, "rope_parameters", None) or {}
    return int(_head_width(config) * rope.get("partial_rotary_factor", 1.0))


def _side_config(own: Any, parts: Anatomy, reduction: int) -> Any:
    """The configuration of a stack at 1 / ``reduction`` of its widths, with the same number of heads."""
    config = copy.deepcopy(own)
    config.hidden_size = parts.hidden // reduction
    for field in {parts.ffn_field, "decoder_ffn_dim"} & vars(config).keys():
        setattr(config, field, parts.ffn // reduction)
    if parts.family in T5:
        config.d_kv = config.d_kv // reduction
    elif vars(config).get("head_dim"):  # else it follows from the width
        config.head_dim = config.head_dim // reduction
    return config


def _side_blocks(backbone: nn.Module, parts: Anatomy, config: LSTConfig, kept: tuple[int, ...]) -> nn.ModuleList:
    """One narrow block of the family a kept layer, stack by stack."""
    below = [i for i in kept if not parts.layers[i].cross]
    blocks = _side_stack(backbone, parts, config, parts.layers_path, below, backbone.config)
    if parts.decoder_path:
        decoder: Any = backbone.get_submodule(parts.decoder_path.rpartition(".")[0])
        above = [i for i in kept if parts.layers[i].cross]
        blocks += _side_stack(backbone, parts, config, parts.decoder_path, above, decoder.config)
    return nn.ModuleList(blocks)


def _side_stack(
    backbone: nn.Module, parts: Anatomy, config: LSTConfig, path: str, kept: list[int], own: Any
) -> list[nn.Module]:
    """The side blocks of one stack; T5's first gets the stack's relative attention bias."""
    first: Any = backbone.get_submodule(f"{path}.0")
    side = _side_config(own, parts, config.reduction)
    known = inspect.signature(type(first)).parameters
    blocks: list[Any] = []
    for position, index in enumerate(kept):
        arguments = {"layer_idx": index, "has_relative_attention_bias": position == 0}
        blocks.append(type(first)(side, **{k: v for k, v in arguments.items() if k in known}))
    if parts.family in T5:
        with torch.no_grad():
            source = first.layer[0].SelfAttention.relative_attention_bias.weight
            blocks[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(source)
    return blocks

"""A frozen backbone with the side network of Ladder Side-Tuning beside it."""

import copy
import dataclasses
import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.anatomy import Anatomy
from bench.errors import BenchError
from bench.method import MethodConfig, at_least

_T5_POSITION_BIAS = 2
"""Place of ``position_bias`` among the positional arguments of a T5 block."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LSTConfig(MethodConfig):
    """Shape and start of the side network."""

    reduction: int = 8
    """Factor by which the side network is narrower than the backbone; divides the width of an attention head."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Indices of the backbone's layers that keep a side block; the others run without one (paper, section 3.3)."""
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
        if self.layers != "all" and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise ValueError(f"layers = {list(self.layers)} must name at least one layer, each once, in rising order")


@dataclasses.dataclass(frozen=True)
class _Tap:
    """What went into and came out of one backbone layer."""

    state: Tensor
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]


class Ladder(nn.Module):
    """A frozen backbone with its side network; keeps the backbone's call contract."""

    def __init__(self, backbone: nn.Module, parts: Anatomy, config: LSTConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.kept = _kept_layers(parts, config)
        self.layers_path = parts.layers_path
        self.family, self.causal, self.rotary = parts.family, parts.causal, parts.rotary
        self.backbone_alone = False
        """While True the module is the bare backbone with gradients: the pass that Fisher importance is taken from."""
        self.prepare_note = ""
        """Why the side blocks did not start as the configuration asked; empty where they did."""
        width = parts.hidden // config.reduction
        weight = backbone.get_submodule(parts.layers[0].projections["query"].path).weight
        with torch.device(weight.device):
            self.downs = nn.ModuleList(nn.Linear(parts.hidden, width) for _ in range(len(self.kept) + 1))
            self.gates = nn.Parameter(torch.zeros(len(self.kept)))
            self.blocks = _side_blocks(backbone, parts, config, self.kept)
            relative = parts.layers[0].ffn_norm.removeprefix(f"{parts.layers[0].path}.")
            self.norm = copy.deepcopy(self.blocks[0].get_submodule(relative))
            self.up = nn.Linear(width, parts.hidden)
            if config.add_backbone_output:
                nn.init.zeros_(self.up.weight)
                nn.init.zeros_(self.up.bias)
        for part in (self.downs, self.blocks, self.norm, self.up):
            part.to(weight.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone without gradients, then the side network on its taps."""
        if self.backbone_alone:
            return self.backbone(*args, **kwargs)
        output, entry, taps = self._read(*args, **kwargs)
        state = self.up(self.norm(self._climb(entry, taps)))
        if self.config.add_backbone_output:
            state = state + output.last_hidden_state.detach()
        output.last_hidden_state = state
        return output

    def _read(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, list[_Tap]]:
        """Run the backbone; give its output, the state that enters its first layer, and the kept layers' taps."""
        if self.causal:
            # A cache would keep every layer's keys and values alive, and side blocks have none of their own.
            kwargs["use_cache"] = False
        entries: list[Tensor] = []
        taps: list[_Tap] = []

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            entries.append(inputs[0].detach())

        def leave(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            taps.append(_Tap(state.detach(), inputs[1:], keywords))

        # Hooks live for one call only: a copied or stored module holds none, and no tap outlives the call.
        layers = self.backbone.get_submodule(self.layers_path)
        handles = [layers[0].register_forward_pre_hook(enter)]
        handles += [layers[i].register_forward_hook(leave, with_kwargs=True) for i in self.kept]
        try:
            with torch.no_grad():
                output = self.backbone(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return output, entries[0], taps

    def _climb(self, entry: Tensor, taps: list[_Tap]) -> Tensor:
        """Side state ``[B, T, d / r]`` after the last kept layer."""
        state = self.downs[0](entry)
        shares = torch.sigmoid(self.gates / self.config.gate_temperature).unbind()
        position_bias = None
        for share, down, block, tap in zip(shares, self.downs[1:], self.blocks, taps, strict=True):
            entering = down(tap.state)
            # lerp(a, b, w) = (1 - w) a + w b: one kernel for the gate; under autocast a norm gives another type
            state = torch.lerp(entering, state.to(entering.dtype), share)
            output = block(state, *self._narrow(tap.inputs, position_bias), **self._narrow_rotary(tap.keywords))
            state = output[0] if isinstance(output, tuple) else output
            if self.family == "t5":
                position_bias = output[1]
        return state

    def _narrow(self, inputs: tuple[Any, ...], position_bias: Tensor | None) -> tuple[Any, ...]:
        """Put the side network's own position bias in the place of the backbone's (T5)."""
        if self.family != "t5":
            return inputs
        place = _T5_POSITION_BIAS - 1  # the state, first of the arguments, is not among ``inputs``
        return (*inputs[:place], position_bias, *inputs[place + 1 :])

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


def _kept_layers(parts: Anatomy, config: LSTConfig) -> tuple[int, ...]:
    count = len(parts.layers)
    if config.layers == "all":
        return tuple(range(count))
    if outside := [i for i in config.layers if not 0 <= i < count]:
        raise BenchError(f"layers names {outside[0]}, but the backbone has layers 0 to {count - 1}; name some of these")
    return config.layers


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
    if config.model_type == "t5":
        return int(config.d_kv)
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _turned(config: Any) -> int:
    """Entries of a head that its position turns; some families turn a part of them alone."""
    rope = getattr(config, "rope_parameters", None) or {}
    return int(_head_width(config) * rope.get("partial_rotary_factor", 1.0))


def _side_config(backbone: nn.Module, parts: Anatomy, reduction: int) -> Any:
    """The backbone's configuration at 1 / ``reduction`` of its widths, with the same number of heads."""
    config = copy.deepcopy(backbone.config)
    config.hidden_size = parts.hidden // reduction
    if parts.ffn_field:
        setattr(config, parts.ffn_field, parts.ffn // reduction)
    if parts.family == "t5":
        config.d_kv = config.d_kv // reduction
    elif vars(config).get("head_dim"):  # else it follows from the width
        config.head_dim = config.head_dim // reduction
    return config


def _side_blocks(backbone: nn.Module, parts: Anatomy, config: LSTConfig, kept: tuple[int, ...]) -> nn.ModuleList:
    """One narrow block of the family a kept layer; T5's first gets the backbone's relative attention bias."""
    layers = backbone.get_submodule(parts.layers_path)
    side = _side_config(backbone, parts, config.reduction)
    known = inspect.signature(type(layers[0])).parameters
    blocks = nn.ModuleList()
    for position, index in enumerate(kept):
        arguments = {"layer_idx": index, "has_relative_attention_bias": position == 0}
        blocks.append(type(layers[0])(side, **{k: v for k, v in arguments.items() if k in known}))
    if parts.family == "t5":
        source = backbone.get_submodule(parts.layers[0].attention).relative_attention_bias.weight
        with torch.no_grad():
            blocks[0].layer[0].SelfAttention.relative_attention_bias.weight.copy_(source)
    return blocks

"""Bottleneck adapters, serial (Houlsby, Pfeiffer) and parallel (He et al.); none of them merges into the backbone."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.anatomy import anatomy
from bench.method import Method, MethodConfig, at_least, each_once
from methods.sliced import alike, set_module

Activation = Literal["gelu", "relu", "silu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoulsbyConfig(MethodConfig):
    """Size and form of the two adapters of each layer."""

    bottleneck: int = 64
    """Inner width m of each adapter."""
    activation: Activation = "gelu"
    """Non-linearity between the two maps."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Indices of the layers that have adapters; without those of the lowest layers backward stops above them, as
    AdapterDrop does (Rücklé et al., EMNLP 2021, section 4). A decoder's follow those of the encoder beside it."""
    train_layer_norm: bool = False
    """Whether every norm of the backbone trains too, as in the paper; later libraries freeze them."""

    def __post_init__(self) -> None:
        at_least(self, bottleneck=1)
        each_once(self.layers)


class HoulsbyAdapter(Method):
    """``A(h) = h + W_up gelu(W_down h + b_down) + b_up``, two in each layer.

    One after attention and one after the FFN, on the sublayer's result after its dropout and before the residual sum. A
    decoder beside an encoder has none after its cross-attention, as in the code of the paper on Ladder Side-Tuning.
    Matrices start from a normal of 1e-3 truncated at two deviations, biases at zero: near the identity, not at it.

    Paper: Houlsby et al., ICML 2019, arXiv:1902.00751.
    Trains: ``2 L (2 d m + m + d)`` parameters (bert-base, m = 64: 2,379,264; 2,417,664 with its 25 norms; t5-base's 24
    layers, m = 48: 3,578,112).
    Backward: saves the adapters' inputs and bottlenecks and crosses every map above layer 0's attention.
    Merging: none; a non-linearity stands between the two maps.
    Use: where tasks are modules that plug into one untouched backbone and inference may take longer: two small maps in
    sequence behind each sublayer.
    """

    Config = HoulsbyConfig
    takes_float32 = True
    size = "bottleneck"
    identity_at_init = False

    def apply(self, backbone: nn.Module, config: HoulsbyConfig) -> nn.Module:
        """Put an adapter behind both sublayers of each layer.

        Raises:
            BenchError: The family is unknown.
        """
        if config.train_layer_norm:
            for norm in _norms(backbone):
                norm.requires_grad_(True)
        parts = anatomy(backbone)
        for layer in (parts.layers[i] for i in parts.chosen(config.layers)):
            weight = backbone.get_submodule(layer.projections["output"].path).weight
            for path in (layer.attention_end, layer.ffn_end):
                adapter = Bottleneck(weight, parts.hidden, config.bottleneck, config.activation)
                for matrix in (adapter.down.weight, adapter.up.weight):
                    _truncated_normal(matrix, 1e-3)
                set_module(backbone, path, Serial(backbone.get_submodule(path), adapter))
        return backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class PfeifferConfig(MethodConfig):
    """Size and form of the one adapter of each layer."""

    bottleneck: int = 48
    """Inner width m of the adapter; 48 is a sixteenth of bert-base's width."""
    activation: Activation = "relu"
    """Non-linearity between the two maps."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Indices of the layers that have adapters; without those of the lowest layers backward stops above them, as
    AdapterDrop does (Rücklé et al., EMNLP 2021, section 4). A decoder's follow those of the encoder beside it."""

    def __post_init__(self) -> None:
        at_least(self, bottleneck=1)
        each_once(self.layers)


class PfeifferAdapter(Method):
    """``u = LN(h + a)``, ``y = LN(h + a + W_up relu(W_down u + b_down) + b_up)``, one in each layer.

    h is the FFN's output, a its residual; LN is the layer's own norm, frozen and used twice, as in AdapterHub's
    ``seq_bn``. Pre-LN families have no norm there: ``h + W_up relu(W_down h + b_down) + b_up`` on the FFN's output.
    Matrices start from N(0, 0.02), biases at zero; with W_up at zero the output is the backbone's.

    Paper: Pfeiffer et al., AdapterFusion, EACL 2021, arXiv:2005.00247.
    Trains: ``L (2 d m + m + d)`` parameters (bert-base, m = 48: 894,528).
    Backward: saves the adapters' inputs and bottlenecks and crosses every map above layer 0's adapter.
    Merging: none; a non-linearity stands between the two maps.
    Use: as Houlsby's, with half the modules: at an equal bottleneck half the parameters and half the added depth.
    """

    Config = PfeifferConfig
    takes_float32 = True
    size = "bottleneck"
    identity_at_init = False

    def apply(self, backbone: nn.Module, config: PfeifferConfig) -> nn.Module:
        """Put one adapter into the FFN sublayer of each layer.

        Raises:
            BenchError: The family is unknown.
        """
        parts = anatomy(backbone)
        path_of, wrapper = ("ffn_norm", AroundNorm) if parts.post_norm else ("ffn_end", Serial)
        for layer in (parts.layers[i] for i in parts.chosen(config.layers)):
            weight = backbone.get_submodule(layer.projections["output"].path).weight
            adapter = Bottleneck(weight, parts.hidden, config.bottleneck, config.activation)
            for matrix in (adapter.down.weight, adapter.up.weight):
                nn.init.normal_(matrix, std=0.02)
            path = getattr(layer, path_of)
            set_module(backbone, path, wrapper(backbone.get_submodule(path), adapter))
        return backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig(MethodConfig):
    """Size, form and strength of the adapter beside each FFN."""

    bottleneck: int = 48
    """Inner width m of the adapter."""
    activation: Activation = "relu"
    """Non-linearity between the two maps; with the FFN's own one the adapter widens the FFN by m units."""
    scale: float = 4.0
    """Factor s of the adapter's output (He et al., section 4.5)."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Indices of the layers that have adapters; without those of the lowest layers backward stops above them, as
    AdapterDrop does (Rücklé et al., EMNLP 2021, section 4). A decoder's follow those of the encoder beside it."""

    def __post_init__(self) -> None:
        at_least(self, bottleneck=1)
        each_once(self.layers)
        if self.scale == 0:
            raise ValueError("scale = 0 leaves nothing to train; it takes any other number")


class ParallelAdapter(Method):
    """``y = FFN(x) + s (W_up relu(W_down x + b_down) + b_up)``, one in each layer.

    x is the FFN's input, behind the norm in pre-LN families; the sum stands before the residual. W_down starts
    Kaiming-uniform (a = sqrt 5), all else at zero: the first forward is the backbone's.

    Paper: He et al., ICLR 2022, arXiv:2110.04366.
    Trains: ``L (2 d m + m + d)`` parameters (bert-base, m = 48: 894,528).
    Backward: saves x and the bottlenecks and crosses every map above layer 0's FFN.
    Merging: none into the backbone's own structure: it is an FFN that is m units wider.
    Use: where an adapter is wanted that need not wait for the FFN: it reads what the FFN reads.
    """

    Config = ParallelConfig
    takes_float32 = True
    size = "bottleneck"

    def apply(self, backbone: nn.Module, config: ParallelConfig) -> nn.Module:
        """Put one adapter beside the FFN of each layer.

        Raises:
            BenchError: The family is unknown.
        """
        parts = anatomy(backbone)
        for layer in (parts.layers[i] for i in parts.chosen(config.layers)):
            weight = backbone.get_submodule(layer.projections["output"].path).weight
            adapter = Bottleneck(weight, parts.hidden, config.bottleneck, config.activation)
            nn.init.kaiming_uniform_(adapter.down.weight, a=math.sqrt(5))
            nn.init.zeros_(adapter.up.weight)
            hand = Hand()
            set_module(backbone, layer.ffn_start, Tap(backbone.get_submodule(layer.ffn_start), hand))
            end = backbone.get_submodule(layer.ffn_end)  # the tap itself where the FFN is one module
            set_module(backbone, layer.ffn_end, Beside(end, adapter, hand, config.scale))
        return backbone


class Bottleneck(nn.Module):
    """``W_up act(W_down x + b_down) + b_up`` on ``[..., d]``, without a skip; the biases start at zero."""

    def __init__(self, like: Tensor, width: int, bottleneck: int, activation: Activation) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(bottleneck, width, device=like.device, dtype=like.dtype)
        self.activation = activation
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., d]`` to ``[..., d]``."""
        return alike(self.up(_ACTIVATIONS[self.activation](self.down(alike(x, self.down.weight)))), x)


class Serial(nn.Module):
    """``h + adapter(h)`` on the output h of a frozen module."""

    def __init__(self, base: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """Run the frozen module on ``x`` and adapt its output ``[..., d]``."""
        h = self.base(x)
        return h + self.adapter(h)


class AroundNorm(nn.Module):
    """``LN(s + adapter(LN(s)))`` on the sum s that enters a frozen norm."""

    def __init__(self, base: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, s: Tensor) -> Tensor:
        """Map ``s [..., d]`` to ``[..., d]``."""
        return self.base(s + self.adapter(self.base(s)))


class Hand:
    """Carries one tensor from a ``Tap`` to its ``Beside`` within a forward, and lets go of it there.

    A plain object, no module: a deep copy of the backbone copies it once, so that both ends stay tied.
    """

    def __getstate__(self) -> dict[str, None]:
        # a checkpoint's recomputation may stop between start and end; copies never carry what it left here
        return {"_held": None}

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def give(self, tensor: Tensor) -> None:
        """Hold ``tensor`` for the one ``take`` that follows."""
        self._held = tensor

    def take(self) -> Tensor:
        """Return the held tensor and forget it."""
        held, self._held = self._held, None
        assert held is not None, "the FFN's end ran without its start"
        return held


class Tap(nn.Module):
    """A frozen module that hands on its input."""

    def __init__(self, base: nn.Module, hand: Hand) -> None:
        super().__init__()
        self.base = base
        self.hand = hand

    def forward(self, x: Tensor) -> Tensor:
        """Run the frozen module on ``x [..., d]``."""
        self.hand.give(x)
        return self.base(x)


class Beside(nn.Module):
    """``base(h) + scale * adapter(x)``, x being what a ``Tap`` handed on."""

    def __init__(self, base: nn.Module, adapter: Bottleneck, hand: Hand, scale: float) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.hand = hand
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """Run the frozen module on ``h`` and add the adapter's output ``[..., d]``."""
        y = self.base(h)
        return torch.add(y, self.adapter(self.hand.take()), alpha=self.scale)


def _norms(backbone: nn.Module) -> Iterator[nn.Module]:
    """Every LayerNorm or RMSNorm: the only modules of the supported families whose weight is a vector."""
    for module in backbone.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 1:
            yield module


@torch.no_grad()
def _truncated_normal(matrix: Tensor, sigma: float) -> None:
    """Fill ``matrix`` from N(0, sigma) truncated at two sigma, by its inverse distribution.

    ``nn.init.trunc_normal_`` decides by the values that it drew, which fake tensors do not have.
    """
    bound = math.erf(2 / math.sqrt(2))
    matrix.uniform_(-bound, bound).erfinv_().mul_(sigma * math.sqrt(2))

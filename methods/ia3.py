"""(IA)^3: rescales keys, values and FFN activations by learned vectors (Liu et al., NeurIPS 2022)."""

import dataclasses

import torch
from torch import Tensor, nn

from bench.anatomy import Projection, anatomy
from bench.errors import BenchError
from bench.method import Method, MethodConfig, clone
from methods.sliced import alike, oriented, set_module, spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class IA3Config(MethodConfig):
    """(IA)^3 has nothing to set."""


class IA3(Method):
    """``k = l_k * W_k x``, ``v = l_v * W_v x``, ``FFN(x) = W_2 (l_ff * act(W_1 x))``.

    All vectors start at one, so the first forward is the backbone's; they take no weight decay, which would pull them
    to zero. In a gated FFN ``l_ff`` scales the gated product.

    Paper: Liu et al. (T-Few), NeurIPS 2022, arXiv:2205.05638.
    Trains: ``L (d_k + d_v + f)`` parameters, d_k and d_v being the widths of keys and values (bert-base: ``L (2 d +
    f)`` = 55,296; t5-base, whose decoder has two attentions a layer: ``L (2 d + f) + L (4 d + f)`` = 129,024).
    Backward: saves the scaled activations for the vectors' gradients and crosses every map above layer 0's keys.
    Merging: rows of W_k, W_v and their biases, columns of W_2; dividing again would be inexact, so it is not unmerged.
    Use: where a task must be small and inference must not cost more. Not to save activations: it keeps those it scales.
    """

    Config = IA3Config
    takes_float32 = True

    def apply(self, backbone: nn.Module, config: IA3Config) -> nn.Module:
        """Wrap the key, value and second FFN map of each layer; in cross-attention too, where there is one.

        Raises:
            BenchError: The family is unknown, or its FFN is a mixture of experts.
        """
        parts = anatomy(backbone)
        if "ffn_out" not in parts.roles():
            raise BenchError(
                f"ia3: the FFN of family {parts.family!r} is a mixture of experts, whose activations have no place of "
                "their own to scale; take lora on the attention or an adapter"
            )
        for layer in parts.layers:
            at: dict[str, list[Projection]] = {}
            for projection in layer.maps:
                if projection.role in ("key", "value"):
                    at.setdefault(projection.path, []).append(projection)
            for path, projections in at.items():
                set_module(backbone, path, ScaledOutput(backbone.get_submodule(path), projections))
            path = layer.projections["ffn_out"].path
            set_module(backbone, path, ScaledInput(backbone.get_submodule(path)))
        return backbone

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each vector into its weight and bias, in at least float32, then cast to their type."""
        merged = clone(module)
        for path, layer in list(merged.named_modules()):
            if isinstance(layer, ScaledOutput | ScaledInput):
                layer.fold()
                set_module(merged, path, layer.base)
        return merged

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's IA3, with ones for the rows of a fused map that are not scaled."""
        import methods.to_peft as to_peft

        outputs = {path: layer.vector() for path, layer in module.named_modules() if isinstance(layer, ScaledOutput)}
        inputs = {path: layer.scale for path, layer in module.named_modules() if isinstance(layer, ScaledInput)}
        return to_peft.ia3(backbone, outputs, inputs)


class ScaledOutput(nn.Module):
    """A frozen linear map whose output, or some slices of it, is multiplied by learned vectors."""

    def __init__(self, base: nn.Module, projections: list[Projection]) -> None:
        super().__init__()
        weight = oriented(base)
        self.base = base
        self.projections = projections
        self.scale = nn.ParameterDict(
            {p.role: nn.Parameter(weight.new_ones(p.width(weight.shape[0]))) for p in projections}
        )

    def vector(self) -> Tensor:
        """Factor of every output ``[out]``; one where a slice is not learned."""
        return spread(self.scale, self.projections, self.base)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        y = self.base(x)
        return y * alike(self.vector(), y)

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the rows of the frozen weight and its bias by the vector, in place."""
        _multiply(oriented(self.base), self.vector()[:, None])
        if self.base.bias is not None:
            _multiply(self.base.bias, self.vector())


class ScaledInput(nn.Module):
    """A frozen linear map whose input is multiplied by a learned vector."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        weight = oriented(base)
        self.base = base
        self.scale = nn.Parameter(weight.new_ones(weight.shape[1]))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, whose type T5 asks for before it calls the map."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        return self.base(x * alike(self.scale, x))

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply the columns of the frozen weight by the vector, in place."""
        _multiply(oriented(self.base), self.scale)


def _multiply(target: Tensor, factor: Tensor) -> None:
    wide = torch.promote_types(target.dtype, torch.float32)
    target.copy_(target.to(wide) * factor.to(wide))

"""DoRA: LoRA on the direction of a weight, and a learned length a row (Liu et al., ICML 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.anatomy import Projection
from bench.method import Method, clone
from methods.low_rank import LoRAConfig, LowRank, factors
from methods.sliced import alike, oriented, part_of, places, set_module, spread


class DoRA(Method):
    """``y = (m / |V|) (x W^T + s x A^T B^T) + b``, ``V = W + s B A``, ``s = alpha / r``, |V| the norm of each row.

    m starts as the norms of W and B as zero, so the first forward is the backbone's; |V| follows the training but takes
    no gradient (section 4.3). Under dropout, as in peft, W x keeps its input and the change to it sees the dropped one:
    ``y = x W^T + b + (m / |V|) (x' W^T + s x' A^T B^T) - x' W^T``.

    Paper: Liu et al., ICML 2024, arXiv:2402.09353.
    Trains: ``r (in + out) + out`` parameters a target (bert-base, query and value, r = 8: 313,344).
    Backward: as LoRA, and saves each target's output for the gradient of m.
    Merging: ``(m / |V|) V``. Subtracting cannot undo it, since the norms of before are not in the delta.
    Use: at half of LoRA's rank; each step pays for the norms, which are found from W A^T without building V.
    """

    Config = LoRAConfig
    takes_float32 = True
    size = "rank"

    def apply(self, backbone: nn.Module, config: LoRAConfig) -> nn.Module:
        """Wrap each target with its low-rank branch and the lengths of its rows.

        Raises:
            BenchError: A target matches nothing, or the rank exceeds a side of one.
        """
        for path, projections in places(backbone, config.targets).items():
            set_module(backbone, path, Decomposed(backbone.get_submodule(path), projections, config))
        return backbone

    def parts(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """A, B and the lengths m."""
        layers = [layer for layer in module.modules() if isinstance(layer, Decomposed)]
        return {**factors(module), "m": [m for layer in layers for m in layer.m.values()]}

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold update and lengths into each weight, in at least float32, then cast to the weight's type."""
        merged = clone(module)
        for path, layer in list(merged.named_modules()):
            if isinstance(layer, Decomposed):
                layer.fold()
                set_module(merged, path, layer.branch.base)
        return merged

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's LORA with ``use_dora``; rows of a fused map that are not adapted keep their own length."""
        import methods.to_peft as to_peft

        layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Decomposed)}
        updates, lengths = {}, {}
        for path, layer in layers.items():
            branch = layer.branch
            updates[path] = to_peft.joined(branch.rows, branch.A, branch.B, branch.base)
            lengths[path] = oriented(branch.base).norm(dim=1)
            for role, rows in branch.rows.items():
                lengths[path][rows] = layer.m[role].detach()
        first = next(iter(layers.values())).branch
        return to_peft.lora(backbone, updates, first.scale, dropout=first.dropout, lengths=lengths)


class Decomposed(nn.Module):
    """A frozen linear map, its low-rank branches, and the length of each adapted output row."""

    def __init__(self, base: nn.Module, projections: list[Projection], config: LoRAConfig) -> None:
        super().__init__()
        self.branch = LowRank(base, projections, config, config.alpha / config.rank, "dora")
        self.m = nn.ParameterDict()
        self.squares = nn.Module()
        """|W|^2 of each adapted row, which no step changes."""
        weight = oriented(base)
        for role, rows in self.branch.rows.items():
            self.squares.register_buffer(role, weight[rows].float().square().sum(dim=1), persistent=False)
            self.m[role] = nn.Parameter(self.squares.get_buffer(role).sqrt().to(weight.dtype))

    @property
    def weight(self) -> Tensor:
        """The frozen weight, whose type T5 asks for before it calls the map."""
        return self.branch.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x [..., in]`` to ``[..., out]``."""
        weight, bias = oriented(self.branch.base), self.branch.base.bias
        factor = alike(self._factor(), weight)
        if self.training and self.branch.dropout:
            dropped = F.dropout(x, self.branch.dropout)
            plain = F.linear(dropped, weight)
            return self.branch.base(x) + torch.addcmul(-plain, self.branch.add(plain, dropped), factor)
        y = self.branch.add(F.linear(x, weight), x)
        return y * factor if bias is None else torch.addcmul(bias, y, factor)

    def _factor(self) -> Tensor:
        """``m / |V|`` of every output ``[out]``; one where a slice is not adapted."""
        projections = list(self.branch.projections.values())
        factors = {p.role: self.m[p.role] / self._norm(p) for p in projections}
        return spread(factors, projections, self.branch.base)

    def _norm(self, projection: Projection) -> Tensor:
        """|V| ``[out]`` by ``|W|^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>``, row by row."""
        role, weight = projection.role, part_of(oriented(self.branch.base), projection)
        # detached, not under no_grad: under checkpointing products without gradients would pass for those of backward
        a, b = self.branch.A[role].detach().to(weight.dtype), self.branch.B[role].detach().float()
        scale = self.branch.scale
        cross = (weight @ a.t()).float()
        own = b @ (a @ a.t()).float()
        squares = self.squares.get_buffer(role) + ((2 * scale * cross + scale**2 * own) * b).sum(dim=1)
        # a row of zeros has no direction: its length stays zero and its factor too, rather than 0 / 0
        return squares.clamp_min(torch.finfo(torch.float32).tiny).sqrt().to(self.m[role].dtype)

    @torch.no_grad()
    def fold(self) -> None:
        """Put ``(m / |V|) V`` in the place of the adapted rows of the frozen weight, in place."""
        for role, rows in self.branch.rows.items():
            weight = oriented(self.branch.base)
            wide = torch.promote_types(weight.dtype, torch.float32)
            v = weight[rows].to(wide) + self.branch.scale * (
                self.branch.B[role].to(wide) @ self.branch.A[role].to(wide)
            )
            norm = v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            weight[rows] = (self.m[role].to(wide)[:, None] / norm * v).to(weight.dtype)

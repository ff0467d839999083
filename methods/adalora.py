"""AdaLoRA: low-rank updates with ranks dealt out by importance (Zhang et al., ICLR 2023); plain LoRA is not here."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.anatomy import Projection
from bench.errors import BenchError
from bench.method import LARGEST_SIZE, Method, MethodConfig, at_least, clone, without_values
from methods.sliced import Factored, fold, oriented, places, set_module, slices, without_mark

SCALE = "adalora_scale"
"""Attribute of a merged backbone that keeps alpha / initial_rank, which the stored tensors alone do not tell."""
START = 0.02
"""Standard deviation of P and Q before training, as in the authors' code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaLoRAConfig(MethodConfig):
    """Size, strength and place of the updates, and how their ranks shrink."""

    initial_rank: int = 12
    """Triplets of each target before pruning, at most the smaller side of each target."""
    target_rank: int = 8
    """Triplets of a target after pruning, on average over the targets."""
    alpha: float = 16
    """Numerator of the scale alpha / initial_rank, which pruning does not change."""
    dropout: float = 0
    """Probability with which an element of the update's input is dropped in training; 0 <= dropout < 1."""
    targets: tuple[str, ...] = ("query", "value")
    """Roles of the adapted linear maps; the paper adapts all: query, key, value, output, ffn_in, ffn_gate, ffn_out."""
    orthogonality: float = 0.5
    """Weight of the regularizer that keeps P and Q orthogonal; the paper tunes it from 0.1 to 0.5."""
    beta1: float = 0.85
    """Decay of the smoothed sensitivity; 0 < beta1 < 1."""
    beta2: float = 0.85
    """Decay of the smoothed uncertainty; 0 < beta2 < 1."""
    initial_share: float = 0.1
    """Share of the steps before the first pruning (the paper's t_i / T)."""
    final_share: float = 0.3
    """Share of the steps after the last pruning (the paper's t_f / T)."""
    interval: int = 1
    """Steps from one pruning to the next."""

    def __post_init__(self) -> None:
        at_least(self, initial_rank=1, target_rank=1, dropout=0, orthogonality=0, initial_share=0, final_share=0)
        at_least(self, interval=1)
        if self.target_rank > self.initial_rank:
            raise ValueError(
                f"target_rank = {self.target_rank} exceeds initial_rank = {self.initial_rank}; ranks only shrink"
            )
        if self.dropout >= 1:
            raise ValueError(f"dropout = {self.dropout} drops everything; it takes less than 1")
        if self.alpha <= 0:
            raise ValueError(f"alpha = {self.alpha} leaves nothing to train; it takes more than 0")
        for name in ("beta1", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} smooths nothing; it takes more than 0, less than 1")
        if self.initial_share + self.final_share >= 1:
            raise ValueError(
                f"initial_share + final_share = {self.initial_share + self.final_share} leaves no step to prune in; "
                "together they take less than 1"
            )
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets = {list(self.targets)} names a role twice; name each once")

    def phases(self, total: int) -> tuple[int, int]:
        """Last step of the initial phase, and the step of the last pruning, of ``total`` steps counted from 1."""
        return int(self.initial_share * total), total - int(self.final_share * total)

    def budget(self, step: int, total: int, targets: int) -> int:
        """Triplets that stay after ``step``, over all ``targets``: from the initial to the target rank, cubically."""
        initial, last = self.phases(total)
        left = 1 - (step - initial) / (last - initial)
        spare = (self.initial_rank - self.target_rank) * targets
        return self.target_rank * targets + int(spare * min(1.0, max(0.0, left)) ** 3)

    def prunes(self, step: int, total: int) -> bool:
        """Whether the triplets are ranked after ``step``; after the last ranking its choice stands."""
        initial, last = self.phases(total)
        return step == last or (initial < step < last and step % self.interval == 0)


class AdaLoRA(Method):
    """``y = x W^T + (alpha / r) dropout(x) Q^T diag(L) P^T``, P ``[out, r]``, L ``[r]``, Q ``[r, in]``.

    A triplet is one column of P, its entry of L and its row of Q. Its importance is ``s(L_i) + mean_j s(P_ji) + mean_j
    s(Q_ij)``, s being smoothed ``|w dw|`` times its smoothed deviation. The least important triplets of all targets get
    ``L_i = 0`` until the budget holds; before the last pruning they keep training and can come back. P and Q start
    N(0, 0.02), L zero. As in ``peft``, w is the weight after the optimizer's step and dw the gradient before it, the
    regularizer is the mean of ``|P^T P - I|_F`` and ``|Q Q^T - I|_F`` over all P and Q (the paper sums squares), and r
    in the scale is the initial rank for good.

    Paper: Zhang et al., ICLR 2023, arXiv:2303.10512.
    Trains: ``r (in + out + 1)`` parameters a target at the initial rank r (bert-base, query and value, r = 12:
    442,656). Stored are L and of P and Q what training has not pruned, on average the target rank.
    Backward: as LoRA's, and the regularizer's; after each step a pass over all weights and gradients, which keeps two
    tensors of each weight's size until the last pruning.
    Merging: ``W + (alpha / r) P diag(L) Q`` is the backbone's own structure again, and unmerging subtracts it.
    Use: where many kinds of maps are adapted at one budget, so that there is something to deal out.
    """

    Config = AdaLoRAConfig
    takes_float32 = True
    size = "initial_rank"

    def apply(self, backbone: nn.Module, config: AdaLoRAConfig) -> nn.Module:
        """Wrap each target with its triplets.

        Raises:
            BenchError: A target matches nothing, or the initial rank exceeds a side of one.
        """
        for path, projections in places(backbone, config.targets).items():
            set_module(backbone, path, Adaptive(backbone.get_submodule(path), projections, config))
        return backbone

    def regularizer(self, module: nn.Module) -> Tensor | None:
        """``orthogonality`` times the mean distance of all P and Q from orthogonality, in at least float32."""
        triplets = list(_triplets(module))
        weight = triplets[0].settings.orthogonality
        if not weight:
            return None
        by_width: dict[int, list[Tensor]] = {}
        for matrix in [m for t in triplets for m in (t.P.t(), t.Q)]:
            by_width.setdefault(matrix.shape[1], []).append(matrix)
        distances = []
        with torch.autocast(triplets[0].L.device.type, enabled=False):
            for matrices in by_width.values():
                rows = torch.stack(matrices)
                rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
                gram = rows @ rows.mT
                identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
                distances.append(torch.linalg.matrix_norm(gram - identity))
        return weight * torch.cat(distances).mean()

    @torch.no_grad()
    def after_step(self, module: nn.Module, step: int, total: int) -> None:
        """Note the importance of every weight, and prune where the schedule says so."""
        triplets = list(_triplets(module))
        settings = triplets[0].settings
        _, last = settings.phases(total)
        if step > last:
            torch._foreach_mul_([t.L for t in triplets], [t.kept for t in triplets if t.kept is not None])
            return
        # at the last pruning the importance stands, as in peft; a run of a single step has none before it
        if step < last or not triplets[0].sensitivity:
            _note(triplets, settings)
        if settings.prunes(step, total):
            _prune(triplets, settings.budget(step, total, len(triplets)))
        if step == last:
            for t in triplets:
                t.sensitivity, t.uncertainty = [], []

    def state(self, module: nn.Module) -> Iterable[Tensor]:
        """Smoothed sensitivity and uncertainty of every weight, until the last pruning, and what it left."""
        for t in _triplets(module):
            yield from (*t.sensitivity, *t.uncertainty)
            if t.kept is not None:
                yield t.kept

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """L of each target and the columns of P and rows of Q whose L is not zero; of a fresh module the first ones."""
        stored = super().delta(module)
        paths = {path: part for path, part in module.named_modules() if isinstance(part, Triplets)}
        values = [stored[f"{path}.L"] for path in paths]
        target = next(_triplets(module)).settings.target_rank
        for path, standing in zip(paths, unpruned(module, values, target), strict=True):
            stored[f"{path}.P"] = stored[f"{path}.P"][:, standing].clone()
            stored[f"{path}.Q"] = stored[f"{path}.Q"][standing].clone()
        return stored

    def unpack(self, module: nn.Module, delta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Zeros where columns of P and rows of Q were pruned.

        Raises:
            BenchError: P or Q has not one column or row for each value of L that is not zero.
        """
        return _unpacked(delta)

    def parts(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """P, L and Q."""
        return {name: [getattr(t, name) for t in _triplets(module)] for name in "PLQ"}

    def ranks(self, module: nn.Module) -> dict[str, int]:
        """Triplets of each target that are not pruned, by layer path and role."""
        return {
            f"{path}.{role}": int(t.L.count_nonzero())
            for path, layer in module.named_modules() if isinstance(layer, Adaptive)
            for role, t in layer.triplets.items()
        }  # fmt: skip

    def sizes(self, backbone: nn.Module, config: AdaLoRAConfig) -> Sequence[int]:
        """Initial ranks from the target rank on: ranks only shrink."""
        return range(config.target_rank, LARGEST_SIZE + 1)

    def merge(self, module: nn.Module) -> nn.Module:
        """Fold each update into its weight, in at least float32, then cast to the weight's type."""
        merged = clone(module)
        for path, layer in [(path, m) for path, m in merged.named_modules() if isinstance(m, Adaptive)]:
            for role, t in layer.triplets.items():
                fold(layer.base, layer.rows[role], t.Q, _scaled(t.P, t.L), layer.scale)
            set_module(merged, path, layer.base)
            setattr(merged, SCALE, layer.scale)
        return merged

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Subtract the updates of ``delta``; returns the backbone of before, to rounding.

        Raises:
            BenchError: ``merged`` does not come from ``merge``, or ``delta`` is of another backbone.
        """
        plain, scale = without_mark(merged, SCALE, "AdaLoRA's scale")
        delta = _unpacked(delta)
        targets = {f"{path}.triplets.{role}": found for (path, role), found in slices(plain).items()}
        for name in delta:
            stem, _, matrix = name.rpartition(".")
            if stem not in targets or any(f"{stem}.{other}" not in delta for other in "PLQ"):
                raise BenchError(f"delta has {name!r}, which is no AdaLoRA update of this backbone")
            if matrix == "P":
                base = plain.get_submodule(targets[stem].path)
                rows = targets[stem].rows(oriented(base).shape[0])
                outer = _scaled(delta[f"{stem}.P"], delta[f"{stem}.L"])
                fold(base, rows, delta[f"{stem}.Q"], outer, -scale)
        return plain

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's ADALORA; pruned triplets stay, with the value zero."""
        import methods.to_peft as to_peft

        layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Adaptive)}
        updates, values = {}, {}
        for path, layer in layers.items():
            q, p = ({role: getattr(t, name) for role, t in layer.triplets.items()} for name in "QP")
            updates[path] = to_peft.joined(layer.rows, q, p, layer.base)
            values[path] = torch.cat([layer.triplets[role].L.detach() for role in layer.rows])  # type: ignore[arg-type]
        first = next(iter(layers.values()))
        settings = next(_triplets(module)).settings
        return to_peft.adalora(
            backbone, updates, values, first.scale, target_r=settings.target_rank, lora_dropout=first.dropout,
            beta1=settings.beta1, beta2=settings.beta2, orth_reg_weight=settings.orthogonality,
        )  # fmt: skip


class Triplets(nn.Module):
    """P, L and Q of one target, and what training notes of them."""

    def __init__(self, weight: Tensor, width: int, settings: AdaLoRAConfig) -> None:
        super().__init__()
        self.settings = settings
        self.Q = nn.Parameter(weight.new_empty(settings.initial_rank, weight.shape[1]))
        self.P = nn.Parameter(weight.new_empty(width, settings.initial_rank))
        self.L = nn.Parameter(weight.new_zeros(settings.initial_rank))
        nn.init.normal_(self.Q, std=START)
        nn.init.normal_(self.P, std=START)
        # of P, L and Q in this order; no buffers: they end with the last pruning and no inference needs them
        self.sensitivity: list[Tensor] = []
        self.uncertainty: list[Tensor] = []
        self.kept: Tensor | None = None

    def importance(self) -> Tensor:
        """Importance of each triplet ``[r]``."""
        p, value, q = [s * u for s, u in zip(self.sensitivity, self.uncertainty, strict=True)]
        return value + p.mean(dim=0) + q.mean(dim=1)


class Adaptive(Factored):
    """A frozen linear map with triplets for each of its adapted slices."""

    def __init__(self, base: nn.Module, projections: list[Projection], config: AdaLoRAConfig) -> None:
        super().__init__(base, projections, config.dropout, config.alpha / config.initial_rank)
        weight = oriented(base)
        out_features, in_features = weight.shape
        self.triplets = nn.ModuleDict()
        for projection in projections:
            width = projection.width(out_features)
            most = min(in_features, width)
            if config.initial_rank > most:
                raise BenchError(
                    f"adalora: initial_rank = {config.initial_rank} exceeds the {width} x {in_features} map "
                    f"{projection.path!r} ({projection.role}); it takes at most {most}"
                )
            self.triplets[projection.role] = Triplets(weight, width, config)

    def inner(self, role: str) -> Tensor:
        """``diag(L) Q [r, in]``: L scales these rows rather than the states ``[B T, r]``, kept once more if scaled."""
        own = self.triplets[role]
        return own.Q * own.L[:, None]

    def outer(self, role: str) -> Tensor:
        """P ``[out, r]``."""
        return self.triplets[role].P


def unpruned(module: nn.Module, values: Sequence[Tensor], target: int) -> list[Tensor | slice]:
    """Places of the triplets of each target that a delta holds, by their ``values [r]``.

    They are those whose value is not zero. Where no value tells, before the first step and on tensors without data,
    the first ``target`` stand for as many as training leaves a target on average.
    """
    if without_values(module) or not any(value.any() for value in values):
        return [slice(target)] * len(values)
    return [value.nonzero().flatten() for value in values]


def spread(name: str, packed: Tensor, values: Tensor, dim: int) -> Tensor:
    """``packed`` at the places of ``values [r]`` that are not zero along ``dim``, zeros at the others.

    Raises:
        BenchError: There are more or fewer of them; ``name`` says of which tensor.
    """
    size, count = values.numel(), packed.shape[dim]
    if count == size:
        return packed
    standing = values.flatten().nonzero().flatten()
    if not len(standing) and count <= size:
        standing = torch.arange(count, device=packed.device)
    if len(standing) != count:
        raise BenchError(f"delta {name!r} holds {count} triplets, and {len(standing)} have a value that is not zero")
    shape = [size if axis == dim else length for axis, length in enumerate(packed.shape)]
    return packed.new_zeros(shape).index_copy_(dim, standing.to(packed.device), packed)


def _unpacked(delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole = dict(delta)
    for name, values in delta.items():
        stem, _, matrix = name.rpartition(".")
        if matrix == "L":
            for other, dim in (("P", 1), ("Q", 0)):
                if (key := f"{stem}.{other}") in delta and delta[key].ndim == 2:
                    whole[key] = spread(key, delta[key], values, dim)
    return whole


def _triplets(module: nn.Module) -> Iterator[Triplets]:
    yield from [part for part in module.modules() if isinstance(part, Triplets)]


def _note(triplets: list[Triplets], settings: AdaLoRAConfig) -> None:
    """Update the smoothed ``|w dw|`` of every weight and its smoothed deviation (the paper's equations 9 and 10)."""
    parameters = [p for t in triplets for p in (t.P, t.L, t.Q)]
    for t in triplets:
        if not t.sensitivity:
            t.sensitivity = [torch.zeros_like(p) for p in (t.P, t.L, t.Q)]
            t.uncertainty = [torch.zeros_like(p) for p in (t.P, t.L, t.Q)]
    smooth = [s for t in triplets for s in t.sensitivity]
    deviation = [u for t in triplets for u in t.uncertainty]
    # many small tensors: one call over all of them, not one each
    now = torch._foreach_abs(torch._foreach_mul(parameters, [p.grad for p in parameters]))
    torch._foreach_lerp_(smooth, now, 1 - settings.beta1)
    apart = torch._foreach_abs(torch._foreach_sub(now, smooth))
    torch._foreach_lerp_(deviation, apart, 1 - settings.beta2)


def _prune(triplets: list[Triplets], budget: int) -> None:
    """Zero L of all but the ``budget`` most important triplets."""
    importance = torch.cat([t.importance() for t in triplets])
    kept = torch.zeros_like(importance).index_fill_(0, importance.topk(budget).indices, 1)
    masks = kept.split([len(t.L) for t in triplets])
    torch._foreach_mul_([t.L for t in triplets], list(masks))
    for t, mask in zip(triplets, masks, strict=True):
        t.kept = mask


def _scaled(p: Tensor, values: Tensor) -> Tensor:
    """``p @ diag(values)`` in at least float32."""
    wide = torch.promote_types(p.dtype, torch.float32)
    return p.to(wide) * values.to(wide)

"""Ladder Side-Tuning, a small network beside a frozen backbone (Sung et al., NeurIPS 2022)."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from bench.anatomy import Anatomy, Layer, anatomy
from bench.errors import BenchError
from bench.method import Batch, Method
from methods.ladder import Ladder, LSTConfig, check_reduction, reductions

_RULE = ("query", "key", "value", "output", "ffn_in", "ffn_out")
"""Roles that the pruning rule walks through; every one must be a linear map of its own."""


class LadderSideTuning(Method):
    """``s_0 = D_0 E(x)``; ``s_i = Block_i(mu_i s_{i-1} + (1 - mu_i) D_i b_i)``; ``y = U LN(s_L) [+ b_L]``.

    mu_i = sigmoid(alpha_i / T) is a learned gate, alpha_i = 0 at the start, and b_i the frozen backbone's state after
    layer i, read without gradients. The blocks are the family's own at width D = d / r and FFN width F = f / r, with
    the backbone's head count. Gates exist for kept layers only. The backbone's dropout stays active in training mode,
    as for every other method, so the taps are noisy there; after the norm there is none but the head's. U starts at
    zero where b_L is added, so that training starts from the backbone; the paper leaves it at its random start.

    Beside an encoder-decoder stand a side encoder and a side decoder, each with projections, gates and norm of its own;
    the side decoder attends to the side encoder's last state and U stands behind it alone, as in the authors' code.

    Paper: Sung, Cho, Bansal, NeurIPS 2022, arXiv:2206.06522, section 3.
    Trains: ``n (side block) + (n + 1)(d D + D) + n + norm + (D d + d)`` for n kept layers, where BERT's side block has
    ``4 (D^2 + D) + (D F + F) + (F D + D) + 4 D`` (bert-base, n = 12, r = 8: 2,376,492; t5-base, 9 + 9 kept: 3,878,706).
    Backward: stays in the side network; no FLOP of it is spent in the backbone.
    Merging: none; the side network runs at inference too.
    Use: where the memory of training decides: of the backbone only the states between layers are kept for backward. The
    price is latency.
    """

    Config = LSTConfig
    takes_float32 = True
    size = "reduction"
    identity_at_init = True  # with add_backbone_output, the default; without it y is the side state alone
    # softmax over keys is invariant to the shift q^T b_k; not under rotary positions (qwen2), whose names end alike
    zero_gradient = (
        "attention.self.key.bias",
        "attention.attn.k.bias",
        "attention.k_lin.bias",
        "self_attn.k_proj.bias",
        "encoder_attn.k_proj.bias",
    )

    def apply(self, backbone: nn.Module, config: LSTConfig) -> nn.Module:
        """Build the side network beside ``backbone``.

        Raises:
            BenchError: ``reduction`` does not divide the head width, or ``layers`` names a layer that is not there.
        """
        parts = anatomy(backbone)
        check_reduction(backbone, parts, config.reduction)
        return Ladder(backbone, parts, config)

    def sizes(self, backbone: nn.Module, config: LSTConfig) -> Sequence[int]:
        """Reductions that leave whole heads, falling: the side network grows."""
        return reductions(backbone, anatomy(backbone))[::-1]

    def prepare(self, module: nn.Module, loss: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> None:
        """With ``init = "pruned"`` copy the backbone's most important weights into the side blocks (section 3.2)."""
        assert isinstance(module, Ladder)
        if module.config.init == "pruned":
            module.prepare_note = _prune(module, loss, batches, module.config.fisher_samples)


def _prune(ladder: Ladder, loss: Callable[[Batch], Tensor], batches: Iterable[Batch], samples: int) -> str:
    """Start the side blocks from the rows and columns of the backbone that carry the largest Fisher importance.

    The importance of a weight is F = sum over examples of (dL / dw)^2, with true labels, batches of one example and
    dropout off. The walk starts from the d / r embedding dimensions with the largest importance; each map keeps the
    selected input columns and the rows with the largest importance over them (query, key and value together, by the
    product of their importances), and hands its rows on. Projections down and up, and gates, keep their start
    (Sung et al. 2022, section 3.2; the selection as in the authors' code).

    Args:
        ladder: The module whose side blocks are written.
        loss: Scalar task loss of ``ladder`` with its head on one batch.
        batches: Batches of one example each; at most ``samples`` are drawn.
        samples: Number of examples.

    Returns:
        Empty, or the reason why the family cannot be pruned and the blocks keep their random start.

    Raises:
        BenchError: ``batches`` is empty.
    """
    parts = anatomy(ladder.backbone)
    if reason := _undefined(ladder.backbone, parts):
        return reason
    importance = _fisher(ladder, parts, loss, islice(batches, samples))
    reduction = ladder.config.reduction
    kept = _top(importance[parts.word_embeddings], parts.hidden // reduction)
    with torch.no_grad():
        for index, block in zip(ladder.kept, ladder.blocks, strict=True):
            kept = _prune_block(ladder.backbone, parts.layers[index], block, importance, kept, reduction)
    return ""


def _undefined(backbone: nn.Module, parts: Anatomy) -> str:
    if parts.decoder_path:
        return f"init = 'pruned' has no rule for the cross-attention of family {parts.family!r}: random start"
    if "ffn_gate" in parts.layers[0].projections:
        return f"init = 'pruned' has no rule for the gated FFN of family {parts.family!r}: random start"
    if parts.parallel:
        return f"init = 'pruned' has no rule for attention beside the FFN of family {parts.family!r}: random start"
    paths = [parts.layers[0].projections[role].path for role in _RULE]
    if len(set(paths)) < len(paths) or not all(isinstance(backbone.get_submodule(p), nn.Linear) for p in paths):
        return f"init = 'pruned' has no rule for fused maps of family {parts.family!r}: random start"
    query, key = (backbone.get_submodule(parts.layers[0].projections[role].path) for role in ("query", "key"))
    if query.out_features != key.out_features:
        return f"init = 'pruned' has no rule for the grouped keys of family {parts.family!r}: random start"
    if parts.hidden != backbone.get_submodule(parts.word_embeddings).embedding_dim:
        return f"init = 'pruned' has no rule for factorised embeddings of family {parts.family!r}: random start"
    return ""


@contextlib.contextmanager
def _bare_backbone(ladder: Ladder, weights: list[nn.Parameter]) -> Iterator[None]:
    """Let ``ladder`` be its backbone alone, in eval mode, with gradients for ``weights``; put everything back after."""
    training = {module: module.training for module in ladder.modules()}
    ladder.backbone_alone = True
    ladder.eval()
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        ladder.backbone_alone = False
        for weight in weights:
            weight.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode


def _fisher(
    ladder: Ladder, parts: Anatomy, loss: Callable[[Batch], Tensor], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """Importance by path: ``[out, in]`` of each linear map, ``[d]`` of the word embedding."""
    paths = [parts.word_embeddings]
    paths += [parts.layers[index].projections[role].path for index in ladder.kept for role in _RULE]
    weights = [ladder.backbone.get_submodule(path).weight for path in paths]
    shapes = [weights[0].shape[1:], *(w.shape for w in weights[1:])]
    sums = [torch.zeros(shape, device=weights[0].device) for shape in shapes]
    seen = 0
    with _bare_backbone(ladder, weights), torch.enable_grad():
        for batch in batches:
            gradients = torch.autograd.grad(loss(batch), weights)
            sums[0] += gradients[0].float().square().sum(0)
            for total, gradient in zip(sums[1:], gradients[1:], strict=True):
                total += gradient.float().square()
            seen += 1
    if not seen:
        raise BenchError("init = 'pruned' found no training example to take the Fisher importance from; give it some")
    return dict(zip(paths, sums, strict=True))


def _prune_block(
    backbone: nn.Module, layer: Layer, block: nn.Module, importance: dict[str, Tensor], kept: Tensor, reduction: int
) -> Tensor:
    """Fill one side block; ``kept`` are the selected input dimensions, the result the selected output dimensions."""

    def copy(role: str, rows: Tensor, columns: Tensor) -> None:
        path = layer.projections[role].path
        _slice(backbone.get_submodule(path), block.get_submodule(_below(path, layer)), rows, columns)

    def rows_of(columns: Tensor, *roles: str) -> Tensor:
        # float64: products of three squared gradients leave float32's range
        product = torch.stack([importance[layer.projections[r].path][:, columns].double() for r in roles]).prod(0)
        return _top(product.sum(1), len(product) // reduction)

    heads = rows_of(kept, "query", "key", "value")
    for role in ("query", "key", "value"):
        copy(role, heads, kept)
    attended = rows_of(heads, "output")
    copy("output", attended, heads)
    hidden = rows_of(attended, "ffn_in")
    copy("ffn_in", hidden, attended)
    result = rows_of(hidden, "ffn_out")
    copy("ffn_out", result, hidden)
    _slice_norms(backbone, layer, block, {"before": kept, "between": attended, "after": result})
    return result


def _slice_norms(backbone: nn.Module, layer: Layer, block: nn.Module, selection: dict[str, Tensor]) -> None:
    """Slice both norms with the selection that runs where they stand: after each sublayer (post-LN) or before it."""
    post_norm = anatomy(backbone).post_norm
    for path, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim != 1:
            continue
        of_ffn = f"{layer.path}.{path}" == layer.ffn_norm
        place = ("after" if of_ffn else "between") if post_norm else ("between" if of_ffn else "before")
        _slice(backbone.get_submodule(f"{layer.path}.{path}"), module, selection[place])


def _below(path: str, layer: Layer) -> str:
    return path.removeprefix(f"{layer.path}.")


def _slice(source: nn.Module, target: nn.Module, rows: Tensor, columns: Tensor | None = None) -> None:
    """Copy selected rows (and columns) of ``source``'s weight and bias into the smaller ``target``."""
    weight = source.weight[rows] if columns is None else source.weight[rows][:, columns]
    target.weight.copy_(weight)
    if getattr(source, "bias", None) is not None:
        target.bias.copy_(source.bias[rows])


def _top(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, in rising order."""
    return scores.topk(count).indices.sort().values

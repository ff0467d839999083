"""Writing text as trained, merged and bare: what a prefill and one decode step take, counted and timed."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.count.operations import CriticalPath
from bench.errors import BenchError
from bench.models.generation import Told, cache_bytes, decode, prefill
from bench.models.head import TaskModel
from bench.schema.record import CacheSize, CacheSizes, GenerationCounts, Inference, context_key
from bench.timing.inference import Deployed
from bench.timing.interleave import Arm, Round, between, clock

ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
"""By which logits of a decode step may differ from those of a whole forward, as a share of the largest."""


class Counted(NamedTuple):
    """Counts of one row at one context."""

    prefill: Inference
    decode: Inference
    cache: CacheSize


def count_context(model: TaskModel, ids: Tensor) -> Counted:
    """Counts of reading ``ids [1, T]`` and of one decode step behind them; exact, on real and on fake tensors alike."""
    with torch.no_grad():
        first, told = _counted(lambda: prefill(model, ids))
        held = cache_bytes(told.cache)
        one, told = _counted(lambda: decode(model, ids[:, -1:], told.cache))
    return Counted(first, one, CacheSize(bytes=held, bytes_per_token=cache_bytes(told.cache) - held))


def _counted(work: Callable[[], Told]) -> tuple[Inference, Told]:
    with CriticalPath() as path:
        told = work()
    return Inference(operations=path.operations, depth=path.depth, flops=path.flops), told


def count_contexts(model: TaskModel, contexts: Iterable[int], row: Callable[[int], Tensor]) -> dict[int, Counted]:
    """`count_context` by number of tokens; ``row`` gives a row ``[1, T]`` of so many."""
    return {tokens: count_context(model, row(tokens)) for tokens in contexts}


def check_cache(model: TaskModel, ids: Tensor) -> None:
    """Hold the logits of a decode step against those of one forward over the whole of ``ids [1, T]``.

    Raises:
        BenchError: They differ by more than rounding: the method does not decode with a cache, and its figures would be
            those of something else.
    """
    with torch.no_grad():
        whole = prefill(model, ids).logits.float()
        cached = decode(model, ids[:, -1:], prefill(model, ids[:, :-1]).cache).logits.float()
    apart = float((whole - cached).abs().max() / whole.abs().max())
    if not apart <= ROUNDING[next(model.body.parameters()).dtype]:
        raise BenchError(
            f"with a KV cache the method computes something else than without: logits differ by {apart:.1e} of the "
            "largest"
        )


def generation_figures(base: dict[int, Counted], deployed: Deployed, row: Callable[[int], Tensor]) -> dict[str, Any]:
    """``prefill``, ``decode`` and ``kv_cache`` of a cost record.

    Args:
        base: Counts of the bare backbone at each context.
        deployed: The method.
        row: Gives a row ``[1, T]`` of so many tokens.

    Raises:
        BenchError: The method does not decode with a cache.
    """
    check_cache(deployed.unmerged, row(1 + min(base)))
    unmerged = count_contexts(deployed.unmerged, base, row)
    merged = None if deployed.merged is None else count_contexts(deployed.merged, base, row)

    def by_mode(take: Callable[[Counted], Any]) -> dict[str, Any]:
        modes = {"base": base, "unmerged": unmerged, "merged": merged}
        return {
            mode: counts and {context_key(tokens): take(one) for tokens, one in counts.items()}
            for mode, counts in modes.items()
        }

    return {
        "prefill": GenerationCounts(**by_mode(lambda one: one.prefill)),
        "decode": GenerationCounts(**by_mode(lambda one: one.decode)),
        "kv_cache": CacheSizes(**by_mode(lambda one: one.cache)),
    }


def generation_arm(
    key: Hashable, running: Callable[[], nn.Module | None], ids: Tensor, new_tokens: int, device: str
) -> Arm:
    """Greedy decoding of ``new_tokens`` behind the first, after prompts ``ids [B, T]``, under ``inference_mode``.

    ``decode`` is the time of one of them. What is written must be the same in every run, and its logits finite.
    """
    first: list[Tensor] = []

    def run() -> Round:
        model: Any = running()
        with torch.inference_mode():
            start = clock(device)
            told = prefill(model, ids)
            written = [told.logits.argmax(dim=-1, keepdim=True)]
            middle = clock(device)
            for _ in range(new_tokens):
                told = decode(model, written[-1], told.cache)
                written.append(told.logits.argmax(dim=-1, keepdim=True))
            end = clock(device)
            if not bool(told.logits.isfinite().all()):
                raise ArithmeticError(f"the logits of {key} are not finite")
            text = torch.cat(written, dim=1)
            if not first:
                first.append(text)
            if not torch.equal(text, first[0]):
                raise ArithmeticError(f"{key} writes another text in two runs on the same prompts")
        return {"prefill": between(start, middle), "decode": between(middle, end, new_tokens)}

    return Arm(key, run)

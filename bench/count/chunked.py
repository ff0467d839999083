"""torch's chunked cross-entropy (``linear_cross_entropy``), whose gradients are taken in forward, out of sight.

One custom operation runs over pieces of the rows, keeps the logits of one piece and gives the loss with the gradients
of states and weight. Dispatch sees the operation whole: its products need a formula, and its scratch is followed by
running what it runs.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import linear_cross_entropy

_OPERATION = "torch_nn::_linear_cross_entropy_batch_chunked"
_WEIGHT, _INPUT_GRADIENT, _WEIGHT_GRADIENT = 1, 12, 13
"""Places among the arguments of the operation: the matrix, and whether each gradient is asked for."""
_sealed: ContextVar[bool] = ContextVar("sealed", default=False)


class Taken(NamedTuple):
    """FLOPs of the operation by what they compute: each product is 2 N D V, one multiply-add two FLOPs."""

    forward: int
    input_gradient: int
    weight_gradient: int


def taken(function: Any, args: tuple[Any, ...]) -> Taken | None:
    """What a dispatched operation computes, where it is the chunked cross-entropy of ``[N, D]`` states."""
    if getattr(function, "namespace", "") != "torch_nn" or not function.name().startswith(_OPERATION):
        return None
    product = 2 * args[0].numel() * args[_WEIGHT].shape[0]
    return Taken(product, product * bool(args[_INPUT_GRADIENT]), product * bool(args[_WEIGHT_GRADIENT]))


def followed(function: Any) -> bool:
    """Whether a dispatched operation is the chunked cross-entropy, and no form of a device stands for its scratch."""
    return getattr(function, "namespace", "") == "torch_nn" and function.name().startswith(_OPERATION) and not sealed()


def inside(*args: Any) -> Any:
    """Run what the chunked cross-entropy runs, operation by operation, on its arguments."""
    return linear_cross_entropy._linear_cross_entropy_batch_chunked._init_fn(*args)


def sealed() -> bool:
    """Whether the form of a device stands for the scratch."""
    return _sealed.get()


def as_on_cuda(loss: Callable[..., Tensor], states: Tensor, matrix: Tensor, *rest: Any, **options: Any) -> Tensor:
    """The loss with the scratch that CUDA needs: the CPU casts where CUDA's products read one type and give another.

    In half precision logits of a piece stand in float32, and beside them once in the type of the weight for the
    product with it (``_ChunkContext`` of torch 2.13, policy ``compact``); the pieces are half as long as the CPU's.
    """
    summed = torch.float32 if states.dtype in (torch.bfloat16, torch.float16) else None
    chosen = nn.LinearCrossEntropyOptions(chunking_method="aspect_ratio:2", acc_policy="compact", acc_dtype=summed)
    (rows, width), vocabulary = states.shape, matrix.shape[0]
    piece = max(1, chosen._compute_batch_chunk_size(rows, width, vocabulary))
    scratch = [states.new_empty(piece, vocabulary, dtype=torch.float32)]
    scratch += [states.new_empty(piece, vocabulary)] if summed else []
    with _closed():
        found = loss(states, matrix, *rest, **options)
    del scratch
    return found


@contextlib.contextmanager
def _closed() -> Iterator[None]:
    token = _sealed.set(True)
    try:
        yield
    finally:
        _sealed.reset(token)

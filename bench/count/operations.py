"""Operations of a computation: FLOPs of each, their number, and the longest chain of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from bench.count.fake import asked_device

Kind = Literal["linear", "attention", "both", "weight", "input"]
"""The last three are backward operations that say themselves what they compute: the gradient of the weight, of the
input, or both in equal parts."""


@dataclasses.dataclass(frozen=True)
class Product:
    """The multiply-adds of one operation."""

    flops: int
    """One multiply-add is two FLOPs."""
    kind: Kind


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _cpu_attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = (gradient.shape, query.shape, key.shape, value.shape)
    return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


def _mkldnn_rnn(inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: Any, **__: Any) -> int:
    """One direction of one layer: each step ``[B, I] x [I, 4 H]`` and ``[B, H] x [H, 4 H]``; inputs ``[T, B, I]``."""
    return 2 * inputs.shape[0] * inputs.shape[1] * (weight_ih.numel() + weight_hh.numel())


def _cudnn_rnn(inputs: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    """All layers and directions at once; the matrices among ``weights`` multiply every one of the ``T B`` inputs."""
    return 2 * inputs.shape[0] * inputs.shape[1] * sum(w.numel() for w in weights if w.ndim > 1)


def _twice(formula: Callable[..., int]) -> Callable[..., int]:
    # A recurrent backward kernel computes the input gradient and the weight gradient: each as dear as the forward.
    return lambda *args, **kwargs: 2 * formula(*args, **kwargs)


_ATEN = torch.ops.aten
_ADDED: dict[Any, tuple[Callable[..., int], Kind]] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (_cpu_attention, "attention"),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (_cpu_attention_backward, "attention"),
    _ATEN.mkldnn_rnn_layer: (_mkldnn_rnn, "both"),
    _ATEN.mkldnn_rnn_layer_backward: (_twice(_mkldnn_rnn), "both"),
    _ATEN._cudnn_rnn: (_cudnn_rnn, "both"),
    _ATEN._cudnn_rnn_backward: (_twice(_cudnn_rnn), "both"),
}
"""CPU attention counts 0 in torch 2.13 (pytorch#195460) and so do the fused LSTM kernels."""

_LINEAR = {_ATEN.mm, _ATEN.addmm, _ATEN._scaled_mm, _ATEN.convolution}


def product(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Product | None:
    """FLOPs of one dispatched operation; None for one that multiplies no matrices (norms, softmax, elementwise).

    Batched products and fused attention are ``attention``: no family in the table of backbones has another use of
    them; a batched product that has a parameter as an operand is told apart by the caller.
    """
    packet = getattr(function, "_overloadpacket", function)
    if packet in _ADDED:
        formula, kind = _ADDED[packet]
        return Product(formula(*args, **kwargs), kind)
    if packet is _ATEN.convolution_backward:
        flops, (of_input, of_weight, _) = int(flop_registry[packet](*args, **kwargs, out_val=out)), args[-1]
        return Product(flops, "both" if of_input and of_weight else "weight" if of_weight else "input")
    if packet in flop_registry:
        flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
        return Product(flops, "linear" if packet in _LINEAR else "attention")
    return None


_FACTORS = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.addmm: 1, _ATEN.baddbmm: 1, _ATEN._scaled_mm: 0}
"""Matrix products -> place of the first factor among their arguments."""


def factors(function: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """The two factors of a dispatched matrix product, of a linear map the input and the weight; None for others."""
    at = _FACTORS.get(getattr(function, "_overloadpacket", function))
    return None if at is None else (args[at], args[at + 1])


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested arguments or outputs."""
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


_ATEN = torch.ops.aten
ALLOCATIONS = frozenset(
    {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_permuted, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}
)
"""Operations that make a tensor and put nothing into it."""

_Storages = set[StorageWeakRef]


class CriticalPath(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is dispatched while it is active, on real and on fake tensors alike.

    An operation **computes** where it fills a tensor of its own or writes into one that it was given. So views and
    other aliases, whose outputs lie in the storage of an input, do not; nor do bare allocations, and questions that no
    tensor answers (``item``). Copies, casts, joins and constants such as ``arange`` do: each moves memory and is a
    kernel of its own. A fused kernel is one operation, as it is one launch.

    The **depth** of a storage is the length of the longest chain of computing operations that its content needs. What
    was there before has depth 0: parameters, buffers, inputs. Views share it; a write raises it for the whole storage,
    so two writes into two parts of one buffer count as one after the other.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        """Operations that compute."""
        self.flops = 0
        self.depth = 0
        """Longest chain of operations that each need the one before: what remains with any number of processors."""
        # Kept weakly: no memory is held, and yet no storage gets the address of one that this knows.
        self._depths: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := asked_device(func, args)) is not None:
            return device
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = _storages((args, kwargs))
        filled = _storages(out) - given | _written(func, args, kwargs)
        if filled and func._overloadpacket not in ALLOCATIONS:
            self._add(func, args, kwargs, out, given, filled)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any, given: _Storages, filled: _Storages) -> None:
        found = product(func, args, kwargs, out)
        reached = 1 + max((self._depths.get(storage, 0) for storage in given), default=0)
        self.operations += 1
        self.flops += found.flops if found else 0
        self.depth = max(self.depth, reached)
        self._depths.update(dict.fromkeys(filled, reached))


def _storages(tree: Any) -> _Storages:
    """Storages of every tensor in nested arguments or outputs."""
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors(tree)}  # type: ignore[no-untyped-call]


def _written(func: Any, args: Any, kwargs: Any) -> _Storages:
    """Storages of the arguments that an operation writes into, by its schema."""
    if not func._schema.is_mutable:
        return set()
    declared = func._schema.arguments
    given = {argument.name: value for argument, value in zip(declared, args, strict=False)} | kwargs
    return _storages([given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write])

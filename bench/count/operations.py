"""Operations of a computation: FLOPs of each, their number, and the longest chain of them."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from bench.count.chunked import taken
from bench.count.fake import Mode, asked_device

Kind = Literal["linear", "attention", "both", "weight", "input"]
"""The last three are backward operations that say themselves what they compute: the gradient of the weight, of the
input, or both in equal parts."""


_ATEN = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class Product:
    """The multiply-adds of one operation."""

    flops: int
    """One multiply-add is two FLOPs."""
    kind: Kind


def _matrices(first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    """``[..., m, k] x [..., k, n]``, ``[m, k] x [k]`` or ``[k] x [k]``; a complex product is four real ones."""
    columns = second.shape[-1] if second.ndim > 1 else 1
    return 2 * first.numel() * columns * (4 if first.is_complex() else 1)


def _added(added: Tensor, *factors: Tensor, **__: Any) -> int:
    return _matrices(*factors)


def _grouped(first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    """Each row (or column) of the side that holds the groups one after the other meets the matrix of its own group."""
    groups = first.shape[0] if first.ndim == 3 and second.ndim == 2 else 1
    return _matrices(first, second) // groups


def _expert_rows(rows: Tensor, weights: Tensor, *_: Any, **__: Any) -> int:
    """``[S, K]`` rows, each through one of the ``[E, K, N]`` maps: what transformers falls back on."""
    return 2 * rows.numel() * weights.shape[-1]


def _four_bits(rows: Tensor, packed: Tensor, shape: Any, *_: Any, **__: Any) -> int:
    """``[..., K]`` through the ``[N, K]`` map that 4-bit weights stand for."""
    return 2 * rows.numel() * int(shape[0])


def _expert_rows_backward(rows: Tensor, weights: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _expert_rows(rows, weights)


def _trilinear(
    first: Tensor, second: Tensor, third: Tensor, expand1: Any, expand2: Any, expand3: Any, summed: Any, *_: Any
) -> int:
    """The first two are multiplied and summed where the third has no such dimension, then the third is brought in.

    ``nn.Bilinear`` ``[B, I], [O, I, J], [B, J]``: 2 B O I J + 2 B O J. A product without a sum is elementwise.
    """
    shapes = [_unsqueezed(t, e) for t, e in ((first, expand1), (second, expand2), (third, expand3))]
    pair = [*map(max, *shapes[:2])]
    early, late = [d for d in summed if d in expand3], [d for d in summed if d not in expand3]
    left = [1 if d in early else size for d, size in enumerate(pair)]
    whole = [*map(max, left, shapes[2])]
    return int(2 * (math.prod(pair) * bool(early) + math.prod(whole) * bool(late)))


def _unsqueezed(tensor: Tensor, places: Any) -> tuple[int, ...]:
    shape = list(tensor.shape)
    for place in sorted(places):
        shape.insert(place, 1)
    return tuple(shape)


def _convolved(input: Tensor, weight: Tensor, places: tuple[int, ...]) -> int:
    """Every weight meets every place once: places of the output, of the input where it is transposed.

    That holds for any stride, padding, dilation and number of groups; what meets padding counts.
    """
    return 2 * input.shape[0] * math.prod(places) * weight.numel() * (4 if weight.is_complex() else 1)


def _convolution(input: Tensor, weight: Tensor, *options: Any, out: Tensor) -> int:
    transposed = options[4]
    return _convolved(input, weight, (input if transposed else out).shape[2:])


def _convolution_backward(gradient: Tensor, input: Tensor, weight: Tensor, *options: Any, out: Any) -> int:
    """Each gradient that is asked for costs as much as forward; torch 2.13 takes a grouped weight as a dense one."""
    transposed, (of_input, of_weight, _) = options[4], options[-1]
    return [of_input, of_weight].count(True) * _convolved(input, weight, (input if transposed else gradient).shape[2:])


def _weighted_bag(table: Tensor, indices: Tensor, *_: Any, per_sample_weights: Any = None, **__: Any) -> int:
    """A sum of rows takes no product; with weights each of the rows that are looked up is multiplied."""
    weights = per_sample_weights if per_sample_weights is not None else next((t for t in _[4:5]), None)
    return 0 if weights is None else 2 * indices.numel() * table.shape[1]


def _bag_weights_backward(gradient: Tensor, table: Tensor, indices: Tensor, *_: Any, **__: Any) -> int:
    return 2 * indices.numel() * table.shape[1]


def _bag_backward(gradient: Tensor, indices: Tensor, *rest: Any, **__: Any) -> int:
    """A sum scatters rows; with weights, which stand ninth after the indices, each of the rows is multiplied."""
    weights = rest[8] if len(rest) > 8 else None
    return 0 if weights is None else 2 * indices.numel() * gradient.shape[1]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """``[B, H, S, D]``: scores and their product with the values; keys may have fewer heads, and serve several each."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """The scores again, then the gradients of scores, values, queries and keys."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[-2] * (3 * width + 2 * value.shape[-1])


def _flexible_backward(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return _attention_backward(query, query, key, value)


def _kernel(query: Tensor, key: Tensor, value: Tensor, starts: Any, lengths: Any, widths: tuple[int, int]) -> int:
    """Of a kernel that takes ``[B, S, H, D]``, or rows of all lengths one after the other with where each starts."""
    (of_queries, of_keys), (longest, longest_key) = starts, lengths
    if of_queries is None:
        pairs = query.shape[0] * query.shape[1] * key.shape[1]
    else:
        of_keys = of_queries if of_keys is None else of_keys
        rows = zip(_lengths(of_queries, longest), _lengths(of_keys, longest_key), strict=True)
        pairs = sum(of_query * of_key for of_query, of_key in rows)
    return 2 * query.shape[-2] * pairs * (widths[0] * query.shape[-1] + widths[1] * value.shape[-1])


def _lengths(starts: Tensor, longest: int) -> list[int]:
    """Without values each row counts as long as the longest."""
    if isinstance(starts, FakeTensor) or starts.device.type == "meta":
        return [longest] * (len(starts) - 1)
    return [int(length) for length in starts.diff()]


def _flash(query: Tensor, key: Tensor, value: Tensor, *r: Any, **__: Any) -> int:
    return _kernel(query, key, value, r[:2], r[2:4], (1, 1))


def _flash_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *r: Any, **__: Any) -> int:
    return _kernel(query, key, value, r[2:4], r[4:6], (3, 2))  # after the output and its log-sum


def _efficient(query: Tensor, key: Tensor, value: Tensor, bias: Any, *r: Any, **__: Any) -> int:
    return _kernel(query, key, value, r[:2], r[2:4], (1, 1))


def _efficient_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *r: Any, **__: Any) -> int:
    return _kernel(query, key, value, r[2:4], r[4:6], (3, 2))  # after bias and output


def _encoder_layer(states: Tensor, width: int, heads: int, qkv: Tensor, *rest: Any, **__: Any) -> int:
    """A whole layer in one operation, as ``nn.TransformerEncoderLayer`` has it at inference."""
    matrices = [qkv, *(t for t in rest if isinstance(t, Tensor) and t.ndim == 2)]
    return _layer(states, matrices[:4])


def _multi_head(query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *rest: Any, **__: Any) -> int:
    return _layer(query, [t for t in rest if isinstance(t, Tensor) and t.ndim == 2][:2])


def _layer(states: Tensor, matrices: list[Tensor]) -> int:
    batch, rows, width = states.shape
    return 2 * batch * rows * sum(m.numel() for m in matrices) + 4 * batch * rows * rows * width


def _mkldnn_rnn(inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, *_: Any, **__: Any) -> int:
    """One direction of one layer: each step ``[B, I] x [I, 4 H]`` and ``[B, H] x [H, 4 H]``; inputs ``[T, B, I]``."""
    return 2 * inputs.shape[0] * inputs.shape[1] * (weight_ih.numel() + weight_hh.numel())


def _cudnn_rnn(inputs: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    """All layers and directions at once; the matrices among ``weights`` multiply every one of the inputs."""
    return 2 * inputs.shape[:-1].numel() * sum(w.numel() for w in weights if w.ndim > 1)


def _twice(formula: Callable[..., int]) -> Callable[..., int]:
    # A recurrent backward kernel computes the input gradient and the weight gradient: each as dear as the forward.
    return lambda *args, **kwargs: 2 * formula(*args, **kwargs)


_PRODUCTS: dict[Any, tuple[Callable[..., int], Kind]] = {
    _ATEN.mm: (_matrices, "linear"),
    _ATEN.addmm: (_added, "linear"),
    _ATEN._addmm_activation: (_added, "linear"),
    _ATEN.bmm: (_matrices, "attention"),
    _ATEN.baddbmm: (_added, "attention"),
    _ATEN.addbmm: (_added, "attention"),
    _ATEN.mv: (_matrices, "linear"),
    _ATEN.addmv: (_added, "linear"),
    _ATEN.dot: (_matrices, "linear"),
    _ATEN.vdot: (_matrices, "linear"),
    _ATEN._int_mm: (_matrices, "linear"),
    _ATEN._scaled_mm: (_matrices, "linear"),
    _ATEN._grouped_mm: (_grouped, "linear"),
    _ATEN._scaled_grouped_mm: (_grouped, "linear"),
    _ATEN._trilinear: (_trilinear, "linear"),
    _ATEN._embedding_bag: (_weighted_bag, "linear"),
    _ATEN._embedding_bag_forward_only: (_weighted_bag, "linear"),
    _ATEN._embedding_bag_backward: (_bag_backward, "weight"),
    _ATEN._embedding_bag_per_sample_weights_backward: (_bag_weights_backward, "input"),
    _ATEN._scaled_dot_product_flash_attention: (_attention, "attention"),
    _ATEN._scaled_dot_product_efficient_attention: (_attention, "attention"),
    _ATEN._scaled_dot_product_cudnn_attention: (_attention, "attention"),
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (_attention, "attention"),
    _ATEN._scaled_dot_product_flash_attention_backward: (_attention_backward, "attention"),
    _ATEN._scaled_dot_product_efficient_attention_backward: (_attention_backward, "attention"),
    _ATEN._scaled_dot_product_cudnn_attention_backward: (_attention_backward, "attention"),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (_attention_backward, "attention"),
    flex_attention: (_attention, "attention"),
    flex_attention_backward: (_flexible_backward, "attention"),
    _ATEN._flash_attention_forward: (_flash, "attention"),
    _ATEN._flash_attention_backward: (_flash_backward, "attention"),
    _ATEN._efficient_attention_forward: (_efficient, "attention"),
    _ATEN._efficient_attention_backward: (_efficient_backward, "attention"),
    _ATEN._native_multi_head_attention: (_multi_head, "attention"),
    _ATEN._transformer_encoder_layer_fwd: (_encoder_layer, "attention"),
    _ATEN.mkldnn_rnn_layer: (_mkldnn_rnn, "both"),
    _ATEN.mkldnn_rnn_layer_backward: (_twice(_mkldnn_rnn), "both"),
    _ATEN._cudnn_rnn: (_cudnn_rnn, "both"),
    _ATEN._cudnn_rnn_backward: (_twice(_cudnn_rnn), "both"),
}
"""Operation -> its closed form. Torch's own counter (2.13) leaves half of them out (pytorch#195460)."""
_CONVOLUTIONS: dict[Any, Callable[..., int]] = {
    _ATEN.convolution: _convolution,
    _ATEN._convolution: _convolution,
    _ATEN.cudnn_convolution: _convolution,
    _ATEN.convolution_overrideable: _convolution,
    _ATEN._slow_conv2d_forward: _convolution,
    _ATEN.convolution_backward: _convolution_backward,
}
_OF_PACKAGES: dict[str, tuple[Callable[..., int], Kind]] = {
    "bitsandbytes::gemm_4bit": (_four_bits, "linear"),
    "transformers::grouped_mm_fallback": (_expert_rows, "linear"),
    "transformers::grouped_mm_fallback_backward": (_expert_rows_backward, "both"),
}
"""By name: packages make them where they are imported."""
_WITHOUT_PRODUCTS = frozenset({"bitsandbytes::dequantize_4bit", "bitsandbytes::dequantize_blockwise"})


def product(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Product | None:
    """FLOPs of one dispatched operation; None for one that multiplies no matrices (norms, softmax, elementwise).

    Batched products and fused attention are ``attention``: no family in the table of backbones has another use of
    them; a batched product that has a parameter as an operand is told apart by the caller. An operation of a package
    counts by the formula that it registers with ``torch.utils.flop_counter.register_flop_formula``.
    """
    packet = getattr(function, "_overloadpacket", function)
    if packet in _PRODUCTS:
        formula, kind = _PRODUCTS[packet]
        flops = formula(*args, **kwargs)
        return Product(flops, kind) if flops else None
    if packet in _CONVOLUTIONS:
        flops = _CONVOLUTIONS[packet](*args, **kwargs, out=out)
        if packet is not _ATEN.convolution_backward:
            return Product(flops, "linear")
        of_input, of_weight, _ = args[-1]
        return Product(flops, "both" if of_input and of_weight else "weight" if of_weight else "input")
    if isinstance(function, HigherOrderOperator) or function.namespace in _TORCHS:
        return None
    if (ahead := taken(function, args)) is not None:
        return Product(sum(ahead), "linear")
    if (name := function.name().partition(".")[0]) in _OF_PACKAGES:
        formula, kind = _OF_PACKAGES[name]
        return Product(formula(*args, **kwargs), kind)
    registered = flop_registry.get(packet)
    return Product(int(registered(*args, **kwargs, out_val=out)), "linear") if registered else None


_TORCHS = frozenset(
    {"aten", "prim", "prims", "inductor", "profiler", "_c10d_functional", "c10d", "rngprims", "debugprims", "bench"}
)
"""Namespaces whose products are all in the table; those of this harness have none."""
_NO_FORMULA = re.compile(
    r"_?linalg_(?!vector_norm|cross|diagonal|check_errors)|_fft_|cholesky|lu_|triangular_solve|geqrf|orgqr|ormqr|_?cdist"
    r"|_euclidean_dist|.*sparse.*mm|_weight_int\w*mm|_cslt|conv_tbc|_conv_depthwise|_thnn_conv|slow_conv|quantized"
)
"""Operations of torch that do more than elementwise work and count 0: factorizations, solutions, Fourier transforms,
distances, sparse and quantised products."""


def uncounted(function: Any) -> str | None:
    """Name of a dispatched operation that may do products and has no formula; asked where ``product`` gives None."""
    if isinstance(function, HigherOrderOperator):  # what it runs inside is not dispatched
        return str(function)
    if function.namespace in _TORCHS:
        return _of_torch(function)
    name: str = function.name().partition(".")[0]
    known = function._overloadpacket in flop_registry or name in _OF_PACKAGES or name in _WITHOUT_PRODUCTS
    return None if known else name


@functools.cache
def _of_torch(function: Any) -> str | None:
    name: str = function.name().partition(".")[0].partition("::")[2]
    return name if _NO_FORMULA.match(name) else None


_FACTORS = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.mv: 0, _ATEN._scaled_mm: 0, _ATEN._grouped_mm: 0}
_FACTORS |= {_ATEN.addmm: 1, _ATEN.baddbmm: 1, _ATEN.addbmm: 1, _ATEN.addmv: 1}
"""Matrix products -> place of the first factor among their arguments."""


def factors(function: Any, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """The two factors of a dispatched matrix product, of a linear map the input and the weight; None for others."""
    at = _FACTORS.get(getattr(function, "_overloadpacket", function))
    return None if at is None else (args[at], args[at + 1])


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested arguments or outputs."""
    found: list[Tensor] = []
    _gather(tree, found)
    return iter(found)


_LEAVES = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})


def _gather(tree: Any, found: list[Tensor]) -> None:
    kind = type(tree)
    if kind in _LEAVES:
        return
    if isinstance(tree, Tensor):
        found.append(tree)
    elif kind is tuple or kind is list:
        for part in tree:
            _gather(part, found)
    elif kind is dict:
        for part in tree.values():
            _gather(part, found)
    else:
        found += (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


ALLOCATIONS = frozenset(
    {
        *(_ATEN.empty, _ATEN.empty_like, _ATEN.empty_permuted, _ATEN.empty_strided, _ATEN.new_empty),
        *(_ATEN.new_empty_strided, _ATEN.lift_fresh),
    }
)
"""Operations that make a tensor and put nothing into it; the last makes one of a constant of Python's, which on fake
tensors alone is a new one."""

_Storages = set[StorageWeakRef]
Link = tuple[Any, tuple[int, ...]]
"""An operation that computes, and how many operations before it those stand whose content it needs, the last first."""


class CriticalPath(Mode):
    """Follows what is dispatched while it is active, on real and on fake tensors alike.

    An operation **computes** where it fills a tensor of its own or writes into one that it was given. So views and
    other aliases, whose outputs lie in the storage of an input, do not; nor do bare allocations, and questions that no
    tensor answers (``item``). Copies, casts, joins and constants such as ``arange`` do: each moves memory and is a
    kernel of its own. A fused kernel is one operation, as it is one launch.

    The **depth** of a storage is the length of the longest chain of computing operations that its content needs. What
    was there before has depth 0: parameters, buffers, inputs. Views share it; a write raises it for the whole storage,
    so two writes into two parts of one buffer count as one after the other.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        """Operations that compute."""
        self.flops = 0
        self.depth = 0
        """Longest chain of operations that each need the one before: what remains with any number of processors."""
        # Kept weakly: no memory is held, and yet no storage gets the address of one that this knows.
        self._depths: dict[StorageWeakRef, int] = {}
        self.chain: list[Link] = []
        self._fillers: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (device := asked_device(func, args)) is not None:
            return device
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = _storages((args, kwargs))
        filled = _storages(out) - given | _written(func, args, kwargs)
        if filled and getattr(func, "_overloadpacket", None) not in ALLOCATIONS:
            self._add(func, args, kwargs, out, given, filled)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any, given: _Storages, filled: _Storages) -> None:
        found = product(func, args, kwargs, out)
        reached = 1 + max((self._depths.get(storage, 0) for storage in given), default=0)
        self.operations += 1
        self.flops += found.flops if found else 0
        self.depth = max(self.depth, reached)
        self._depths.update(dict.fromkeys(filled, reached))
        number = len(self.chain)
        needed = {self._fillers[storage] for storage in given if storage in self._fillers}
        self.chain.append((func, tuple(sorted(number - filler for filler in needed))))
        self._fillers.update(dict.fromkeys(filled, number))


def _storages(tree: Any) -> _Storages:
    """Storages of every tensor in nested arguments or outputs."""
    return {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors(tree)}  # type: ignore[no-untyped-call]


def _written(func: Any, args: Any, kwargs: Any) -> _Storages:
    """Storages of the arguments that an operation writes into, by its schema."""
    if isinstance(func, HigherOrderOperator) or not func._schema.is_mutable:
        return set()
    declared = func._schema.arguments
    given = {argument.name: value for argument, value in zip(declared, args, strict=False)} | kwargs
    return _storages([given.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write])

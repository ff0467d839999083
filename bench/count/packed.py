"""Frozen linear maps in 4 bits on tensors without data, held and computed as bitsandbytes' ``Linear4bit`` does.

NF4 (Dettmers et al., NeurIPS 2023, arXiv:2305.14314): two weights a byte, one float32 scale for 64 weights (section 3);
with double quantisation one byte for each of those scales and one float32 for 256 of them. Beside them a map holds its
code book of 16 float32, with double quantisation also one of 256 and the mean of the scales.

A product unpacks the whole matrix and frees it after, forward and backward alike, which is what bitsandbytes (0.50,
``_gemm_4bit_default_impl``, ``MatMul4Bit.backward``) does with more rows than its fused kernels take (64 to 512 on
CUDA, by device and shape). Nothing is kept for backward, but before 0.43.2 the input of each product
(``MatMul4Bit.forward``: ``ctx.tensors = (A, B)``, until pull request 1270), as an attribute that no hook of
checkpointing sees and that lives as long as the graph.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from bench.count.attribution import Origin
from bench.errors import BenchError
from bench.schema.forms import Weights

BLOCK = 64
"""Weights that share a scale."""
SCALES = 256
"""Scales that share one of their own under double quantisation."""
CODES = {"code": 16, "code_of_scales": 256}
"""Entries of the two code books, each a float32."""


@torch.library.custom_op("bench::unpack_4bit", mutates_args=())
def _unpack(packed: Tensor, scales: Tensor, code: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    raise NotImplementedError("it stands for a kernel of bitsandbytes on tensors without data")


@_unpack.register_fake
def _dense(packed: Tensor, scales: Tensor, code: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    return scales.new_empty(shape, dtype=dtype)


def unpacks(function: Any) -> bool:
    """Whether a dispatched operation makes of a packed weight, its first argument, the matrix that it stands for."""
    if getattr(function, "namespace", "") not in ("bench", "bitsandbytes"):
        return False
    return function.name().partition(".")[0] in ("bench::unpack_4bit", "bitsandbytes::dequantize_4bit")


@torch.library.custom_op("bench::unpack_scales", mutates_args=())
def _unpack_scales(packed: Tensor, scales: Tensor, code: Tensor) -> Tensor:
    raise NotImplementedError("it stands for a kernel of bitsandbytes on tensors without data")


@_unpack_scales.register_fake
def _dense_scales(packed: Tensor, scales: Tensor, code: Tensor) -> Tensor:
    return scales.new_empty(packed.shape)


class Packed(nn.Linear):
    """A linear map ``[out, in]`` in 4 bits; of ``Conv1D`` too, which transformers transposes before it packs it.

    ``weight`` unpacks a new tensor: what a method reads of it, it reads in the type of computation, and pays for.
    """

    packed: Tensor
    """uint8 ``[in out / 2, 1]``, a frozen parameter."""
    scales: Tensor
    """float32 ``[in out / 64]``; under double quantisation one for 256 of ``packed_scales``."""
    packed_scales: Tensor | None
    """uint8 ``[in out / 64]`` under double quantisation."""
    code: Tensor
    code_of_scales: Tensor | None
    mean: Tensor | None
    keeps_inputs: bool
    """As bitsandbytes before 0.43.2."""
    form: tuple[tuple[int, int], torch.dtype, bool]
    """Shape ``[out, in]``, type, and whether ``weight`` is transposed as ``Conv1D`` has it."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight, unpacked."""
        whole = self.dense()
        return whole.t() if self.form[2] else whole

    def dense(self) -> Tensor:
        """Weight ``[out, in]``, unpacked."""
        scales = self.scales
        if self.packed_scales is not None:
            scales = _unpack_scales(self.packed_scales, scales, self.code_of_scales) + self.mean
        shape, dtype, _ = self.form
        whole: Tensor = _unpack(self.packed, scales, self.code, list(shape), dtype)
        return whole

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, in the type of the weight; the result has the type of ``x``."""
        whole = self.dense()
        bias = None if self.bias is None else self.bias.to(whole.dtype)
        rows = x.to(whole.dtype)
        with torch.autograd.graph.saved_tensors_hooks(self._dropped(whole), self._again):
            product = functional.linear(rows, whole, bias)
        if self.keeps_inputs and x.requires_grad:
            product = _Keeping.apply(product, rows.detach())  # type: ignore[no-untyped-call]
        return product.to(x.dtype)

    def _dropped(self, whole: Tensor) -> Any:
        """Makes what autograd keeps in place of ``whole`` or a view of it: its shape and strides."""
        storage = whole.untyped_storage()._cdata

        def keep(tensor: Tensor) -> Any:
            own = tensor.untyped_storage()._cdata == storage
            return (tensor.shape, tensor.stride()) if own else tensor

        return keep

    def _again(self, kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else self.dense().as_strided(*kept)


class _Keeping(torch.autograd.Function):
    """A product whose node of the graph holds the rows that it was made of, beside all that autograd saves."""

    @staticmethod
    def forward(ctx: Any, product: Tensor, rows: Tensor) -> Tensor:
        ctx.rows = rows
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def packable(module: nn.Module) -> bool:
    """Whether transformers stores the weight of ``module`` in 4 bits: that of a subclass or of experts it leaves."""
    return type(module) is nn.Linear or isinstance(module, Conv1D)


def left_whole(bare: nn.Module) -> frozenset[nn.Module]:
    """Modules that transformers neither loads in half precision nor packs, such as T5's ``wo``."""
    names = {name for part in bare.modules() for name in getattr(part, "_keep_in_fp32_modules", None) or ()}
    return frozenset(module for path, module in bare.named_modules() if names.intersection(path.split(".")))


def pack(origin: Origin, whole: frozenset[nn.Module], weights: Weights, *, keeps_inputs: bool = False) -> None:
    """Store the frozen linear maps of the backbone's layers in 4 bits, in place; those that train stay as they are.

    Args:
        origin: The backbone, after a method was applied; it follows its parameters.
        whole: Modules that stay as they are.
        weights: Form of the storage.
        keeps_inputs: Whether each product keeps its input for backward, as in bitsandbytes before 0.43.2.

    Raises:
        BenchError: All of them train.
    """
    maps: list[Any] = [
        module for module, place in origin.modules.items()
        if place.startswith("layer_") and packable(module) and module not in whole
    ]  # fmt: skip
    frozen = [module for module in maps if not module.weight.requires_grad]
    if maps and not frozen:
        raise BenchError(
            f"weights = {weights}: the method trains every linear map of the layers, and 4-bit weights cannot train; "
            "take native weights, or a method that leaves the maps frozen"
        )
    for module in frozen:
        label = origin.parameters.pop(module.weight)
        _pack(module, double=weights == "nf4-dq")
        module.keeps_inputs = keeps_inputs
        origin.parameters[module.packed] = label


def _pack(module: Any, *, double: bool) -> None:
    weight, transposed = module.weight, isinstance(module, Conv1D)
    shape = tuple(reversed(weight.shape)) if transposed else tuple(weight.shape)
    scales = -(-weight.numel() // BLOCK)

    def floats(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.float32, device=weight.device)

    def bytes_of(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=torch.uint8, device=weight.device)

    del module.weight
    module.__class__ = Packed
    module.form = (shape, weight.dtype, transposed)
    module.packed = nn.Parameter(bytes_of((weight.numel() + 1) // 2, 1), requires_grad=False)
    held = {
        "scales": floats(-(-scales // SCALES) if double else scales),
        "packed_scales": bytes_of(scales) if double else None,
        "code": floats(CODES["code"]),
        "code_of_scales": floats(CODES["code_of_scales"]) if double else None,
        "mean": floats() if double else None,
    }
    for name, tensor in held.items():
        module.register_buffer(name, tensor, persistent=False)

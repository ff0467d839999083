"""Runs a model on tensors without data (FakeTensorMode): shapes, types and storages alone."""

import contextlib
import functools
import re
import unittest.mock
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from transformers import masking_utils

from bench.count.chunked import as_on_cuda
from bench.count.memo import Memory
from bench.errors import BenchError, message, said
from bench.training.blame import hook_of, reason_of


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that torch dispatches while it is active, in a function that torch calls as it is.

    torch wraps that of other modes so that its compiler leaves it alone, which takes as long as the rest of the way;
    nothing is compiled here.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextlib.contextmanager
def without_data(device: str = "cpu", mode: FakeTensorMode | None = None) -> Iterator[FakeTensorMode]:
    """Let everything inside run on fake tensors of device cpu.

    A fake CUDA device needs a CUDA build of torch; with ``device = "cuda"`` the CPU's forms that keep other tensors
    for backward give way to CUDA's. What was made among the fake tensors of one ``mode`` goes on in the same alone.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True) if mode is None else mode
    forms = _cuda_forms() if device == "cuda" else contextlib.nullcontext()
    # transformers asks whether a mask masks anything, unless it sees fake tensors; then it always builds the mask.
    seen = unittest.mock.patch.object(masking_utils, "is_tracing", lambda tensor=None: False)
    with _unlogged(), mode, _Answers(mode), seen, forms:
        yield mode


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from printing the traceback of an operation that fails: it is raised as well."""
    before, fake_tensor.log.disabled = fake_tensor.log.disabled, True
    try:
        yield
    finally:
        fake_tensor.log.disabled = before


@contextlib.contextmanager
def _cuda_forms() -> Iterator[None]:
    """CUDA's forms; and no CPU library for the LSTM, which is chosen by what the processor at hand can do."""
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        with _CudaForms():
            yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def fakeify(module: nn.Module, device: str = "cpu") -> dict[Tensor, Tensor]:
    """Replace every parameter and buffer of ``module`` by a fake one of the same shape and type, ties kept.

    Call it inside ``without_data``. Tensors that a module holds as plain attributes stay behind where it moves to
    CUDA, and are copied in each step; on the CPU they are where the step is.

    Returns:
        Old tensor -> new tensor.
    """
    fakes: dict[Tensor, Tensor] = {}
    for part in module.modules():
        # setattr rather than the tables: recurrent modules keep a list of their weights beside them
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if tensor not in fakes:
                fakes[tensor] = fake_like(tensor)
            setattr(part, name, fakes[tensor])
        for holder in _plain(part) if device == "cpu" else ():
            holder |= {key: fake_like(value) for key, value in holder.items() if _left_behind(value)}
    return fakes


def _plain(part: nn.Module) -> list[dict[Any, Any]]:
    """Where a module holds attributes that are no parameters, buffers or modules."""
    return [vars(part), *(value for name, value in vars(part).items() if type(value) is dict and name[0] != "_")]


def _left_behind(value: Any) -> bool:
    return type(value) is Tensor and value.is_meta


def fake_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and type without data; a parameter stays one."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, tensor.requires_grad)
    return empty.requires_grad_(tensor.requires_grad)


def lacks_fake_form(error: BaseException) -> bool:
    """Whether ``error`` says that an operation cannot run without data, rather than that it was used wrongly."""
    known = UnsupportedOperatorException | DynamicOutputShapeException | DataDependentOutputException
    # a custom operation without one raises a plain RuntimeError, a compiled one names the backend that it lacks
    return isinstance(error, known) or any(words in message(error) for words in ("no fake impl", "'Meta' backend"))


_LIMITS = {
    "Cannot access storage of Sparse": "it holds or makes a sparse tensor, such as the gradient of an embedding with "
    "sparse=True, whose bytes are not counted; make it dense",
    "don't yet support saved tensor hooks": "torch.func.grad and its relatives refuse the hooks that count what is "
    "saved for backward; take torch.autograd.grad with create_graph=True",
    "NestedIntNode": "nested tensors are not counted; pad the rows to one length",
}
"""Words of an error of torch -> what cannot be counted and what works in its place."""


def limit(error: BaseException) -> str | None:
    """Which limit of counting ``error`` comes from, with what works in its place; None where it is none of them."""
    return next((sentence for words, sentence in _LIMITS.items() if words in message(error)), None)


_OPERATION = re.compile(r"\b[A-Za-z_]\w*::\w+(?:\.\w+)?|\baten\.\w+(?:\.\w+)?")
"""How torch spells an operation."""


def uncounted(error: BaseException) -> str:
    """Why a step is not counted on tensors without data, as a sentence that names the operation and what works."""
    line = said(error).rstrip(".")
    if (known := limit(error)) is not None:
        return known
    if isinstance(error, NotImplementedError) and not lacks_fake_form(error):
        return line or "it has no form without data"  # a method's own sentence
    if lacks_fake_form(error):
        named = _OPERATION.search(message(error))
        operation = f"the operation {named[0]}" if named else "one of its operations"
        return (
            f"{operation} has no form for tensors without data; give it one with torch.library.register_fake, or run "
            "a suite with it, which counts on real tensors"
        )
    if hook_of(error) is not None:
        return f"{reason_of(error).rstrip('.')}, on tensors without data"
    reason = f"{type(error).__name__}: {line}".rstrip(": ")
    return f"its step does not run on tensors without data ({reason})"


def asked_device(func: Any, args: Any) -> torch.device | None:
    """Answer to a dispatched question for a fake tensor's device; None for everything else.

    Autograd asks it twice an operation in backward: a mode that does not pass it on saves a fifth of the time.
    """
    asked = func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor)
    return args[0].fake_device if asked else None


class _Answers(Mode):
    """Answers the questions that code asks of a value: the rows have no padding, so every check of a mask says yes.

    Optimizers that read their step number get 1: no shape depends on it.
    """

    supports_higher_order_operators = True

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = Memory(mode)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:  # what it does with its share is asked in turn
            return NotImplemented
        if (places := _OF_ONE_TYPE.get(func)) is not None:
            _check_types(func, [args[at] for at in places if at < len(args) and args[at] is not None])
        if func is torch.ops.aten.mkldnn_rnn_layer.default:
            *states, scratch = func(*args, **(kwargs or {}))
            return (*states, scratch.new_empty(_scratch_bytes(func, *map(_as_key, args))))
        if func is torch.ops.aten.mkldnn_rnn_layer_backward.default:
            *others, bias, second, hidden, cell = func(*args, **(kwargs or {}))
            # its fake form may give one tensor for both biases, which autograd would then have to copy
            return (*others, bias, torch.empty_like(second), hidden, cell)
        if func is torch.ops.aten.native_layer_norm.default and args[2] is not None:
            normed, *statistics = func(*args, **(kwargs or {}))
            # the kernel keeps them in the type of the weight, its fake form in that of the input
            return (normed, *(s.to(args[2].dtype) for s in statistics))
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype in _GROUPED:
            options = dict(zip(("offs", "bias", "out_dtype"), args[2:], strict=False)) | (kwargs or {})
            return _grouped(args[0], args[1], options.get("offs"), options.get("out_dtype") or args[0].dtype)
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        return self._memory.ask(func, args, kwargs or {})


class _Like(NamedTuple):
    """All of a tensor that the size of a scratch depends on."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _as_key(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return _Like(tuple(argument.shape), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


@functools.cache
def _scratch_bytes(func: Any, *args: Any) -> int:
    """What the CPU library's LSTM keeps for backward beside its states: it knows, its fake form does not."""
    with unset_fake_temporarily():
        real = [torch.zeros(a.shape, dtype=a.dtype) if isinstance(a, _Like) else a for a in args]
        return int(func(*real)[-1].numel())


_ATEN = torch.ops.aten
_NORMS = frozenset({_ATEN.native_layer_norm.default, _ATEN.native_group_norm.default, _ATEN.native_batch_norm.default})
_OF_ONE_TYPE: dict[Any, tuple[int, ...]] = {
    _ATEN.mm.default: (0, 1),
    _ATEN.mv.default: (0, 1),
    _ATEN.addmm.default: (0, 1, 2),
    _ATEN.addmv.default: (0, 1, 2),
    _ATEN.convolution.default: (0, 1, 2),
    _ATEN.native_layer_norm.default: (0, 2, 3),
    _ATEN.native_group_norm.default: (0, 1, 2),
    _ATEN.native_batch_norm.default: (0, 1, 2),
    _ATEN._embedding_bag.default: (0, 6),
    _ATEN._cdist_forward.default: (0, 1),
    _ATEN.nll_loss_forward.default: (0, 2),
    _ATEN.binary_cross_entropy.default: (0, 1),
    _ATEN.huber_loss_backward.default: (0, 1, 2),
    _ATEN.index_put.default: (0, 2),
    _ATEN.index_put_.default: (0, 2),
    _ATEN.index_add.default: (0, 3),
    _ATEN.index_add_.default: (0, 3),
    _ATEN.index_copy.default: (0, 3),
    _ATEN.index_copy_.default: (0, 3),
}
"""Operations whose kernels take operands of one type and whose fake forms take any -> places of those operands."""


def _check_types(func: Any, operands: list[Tensor]) -> None:
    """Refuse operands of several types where the kernels do.

    Raises:
        BenchError: It names the operation and the two operands.
    """
    first, *others = operands
    if func in _NORMS and first.dtype in (torch.bfloat16, torch.float16) and others:
        if others[0].dtype == torch.float32:  # a norm of half precision may keep its parameters in float32
            first, *others = others
    for other in others:
        if other.dtype != first.dtype:
            raise BenchError(
                f"{func.name()} takes tensors of one type, here {_spelt(first)} and {_spelt(other)}; cast one of them"
            )


class Padded(Mode):
    """Answers, inside ``without_data``, as a batch with a padded row would: no check of its mask says yes.

    Args:
        mask: The attention mask, ``[B, T]``. What is made of it alone is a question about it, and so is any whole or
            truth value with a part in it; states of the backbone are not.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of_mask = WeakIdKeyDictionary({mask: None})  # not held: what a step frees must be freed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        masks = [value in self._of_mask for value in given]
        if func is torch.ops.aten._local_scalar_dense.default and any(masks) and given[0].dtype == torch.bool:
            return False
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result) if any(masks) else ():
            if isinstance(value, Tensor) and (all(masks) or not value.dtype.is_floating_point):
                self._of_mask[value] = None
        return result


_GROUPED = (torch.float32, torch.bfloat16, torch.float16)
"""Types that the kernels of a grouped product take."""


def _spelt(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def _grouped(first: Tensor, second: Tensor, offsets: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What a product of grouped matrices gives, such as the experts of a mixture; its fake form takes bfloat16 alone.

    Rows are padded to 16 bytes, as the kernels of CPU and CUDA do, which ask the same of what they read.
    """
    if first.shape[-1] != second.shape[-2] or first.dtype != second.dtype:
        raise RuntimeError(f"grouped_mm: {_spelt(first)} and {_spelt(second)} do not fit")
    if any(stride * t.element_size() % 16 for t in (first, second) for stride in t.stride()[-2:] if stride != 1):
        raise RuntimeError(f"grouped_mm: strides of {_spelt(first)} and {_spelt(second)} are no multiple of 16 bytes")
    groups = [] if offsets is None else [offsets.shape[0]]
    rows, columns = first.shape[-2], second.shape[-1]
    ragged = first.ndim != second.ndim  # one side lists the groups, the other holds them one after the other
    shape = [rows, columns] if ragged else [*(groups or first.shape[:1]), rows, columns]
    unit = 16 // dtype.itemsize
    padded = -(-columns // unit) * unit
    return torch.empty_strided(shape, [padded, 1] if ragged else [rows * padded, padded, 1], dtype=dtype)


_FLOAT32_ON_CUDA = {functional.layer_norm, functional.softmax}
"""Of the operations that CUDA's autocast runs in float32 and the CPU's does not, those with large outputs."""


class _CudaForms(TorchFunctionMode):
    """Dropout as CUDA's kernels do it, a mask of bytes and within fused attention none; norms float32 in autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is Tensor.backward:
            return self._backward(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        if func is functional.linear_cross_entropy:
            return as_on_cuda(func, *args, **kwargs)
        if func in _FLOAT32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return func(*args, **kwargs)

    def _backward(self, loss: Tensor, gradient: Tensor | None = None, **options: Any) -> None:
        """Backward inside the mode, which torch leaves for the call of a tensor: checkpointing runs forward there."""
        with self:  # an edge of the graph is no tensor, so that torch does not leave again
            torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss), gradient, **options)

    @staticmethod
    def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        dropped: Tensor = torch.native_dropout(input, p, True)[0]
        return dropped

"""Remembers what operations on tensors without data gave, so that no answer is worked out twice.

A fake tensor is worth its shape, strides, type and storage. torch has such a memory too, but its keys and what it makes
of an entry take most of the time of a step without data: they hold for any tensor. This one holds for fake tensors of
the CPU in strides, on operations of torch whose output their shapes decide; whatever else comes goes to torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

MOST = 1 << 17
"""Answers that are kept; a full memory begins anew."""
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Types of arguments that say all by their value."""
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_LIFTS = frozenset({_ATEN.lift_fresh.default, _ATEN.lift_fresh_copy.default})
_BY_VALUE = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view})
"""Of operations whose output follows from more than shapes, or that change the shape of what they are given."""


class _Given(NamedTuple):
    """An output that is one of the given tensors."""

    place: int


class _Fresh(NamedTuple):
    """An output in a storage of its own."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class _View(NamedTuple):
    """An output in the storage of one of the given tensors."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    place: int


_Output = _Given | _Fresh | _View | None


class _Answer(NamedTuple):
    outputs: tuple[_Output, ...]
    holder: type | None
    """Of several outputs; None where one comes alone."""


class _Unknown(Exception):
    """An argument or an output is of a kind that is not remembered."""


_answers: dict[tuple[Any, ...], _Answer | None] = {}
"""Of all modes: operation and all that it is given -> its answer; None where it is none to remember."""
_kinds: dict[Any, bool] = {}


class Memory:
    """What operations on the fake tensors of one mode give."""

    def __init__(self, mode: FakeTensorMode) -> None:
        with torch._C._DisableTorchDispatch():
            bare = torch.empty(0, device="meta")
        self._state = vars(FakeTensor(mode, bare, _CPU))
        """What torch notes beside a fake tensor of this mode that nobody has asked anything yet."""

    def ask(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """``func(*args, **kwargs)``, or what it would give."""
        if (known := _kinds.get(func)) is None:
            known = _kinds[func] = _known(func)
        if not known or torch.is_inference_mode_enabled():
            return func(*args, **kwargs)
        given: list[FakeTensor] = []
        key = [func, torch.get_default_dtype(), torch._C._get_mkldnn_enabled()]
        try:
            _describe(args, key, given)
            if kwargs:
                key += kwargs
                _describe(kwargs.values(), key, given)
        except _Unknown:
            return func(*args, **kwargs)
        question = tuple(key)
        answer = _answers.get(question, _Unknown) if given else None
        if isinstance(answer, _Answer):
            found = [self._made(output, given) for output in answer.outputs]
            return found[0] if answer.holder is None else answer.holder(found)
        out = func(*args, **kwargs)
        if answer is _Unknown:
            if len(_answers) >= MOST:
                _answers.clear()
            _answers[question] = self._noted(out, given)
        return out

    def _noted(self, out: Any, given: list[FakeTensor]) -> _Answer | None:
        """Of an operation that was asked; None where another could not be made from it."""
        holder = type(out) if type(out) in (list, tuple) else None
        storages = {tensor.untyped_storage()._cdata: place for place, tensor in reversed(list(enumerate(given)))}
        outputs: list[_Output] = []
        try:
            for value in out if holder else (out,):
                outputs.append(output := _output(value, given, storages))
                if isinstance(output, _Fresh | _View):
                    self._check(output, value, given)
                    storages.setdefault(value.untyped_storage()._cdata, -1)  # whoever shares it is not remembered
        except _Unknown:
            return None
        return _Answer(tuple(outputs), holder)

    def _check(self, output: _Output, value: Tensor, given: list[FakeTensor]) -> None:
        made = self._made(output, given)
        same_kernels = torch._C._dispatch_key_set(made) == torch._C._dispatch_key_set(value)
        if not same_kernels or made.untyped_storage().nbytes() != value.untyped_storage().nbytes():
            raise _Unknown

    def _made(self, output: _Output, given: list[FakeTensor]) -> Any:
        if output is None:
            return None
        if isinstance(output, _Given):
            return given[output.place]
        with torch._C._DisableTorchDispatch():
            if isinstance(output, _Fresh):
                bare = torch.empty_strided(output.shape, output.stride, dtype=output.dtype, device="meta")
            else:
                bare = torch.empty(0, dtype=output.dtype, device="meta")
                bare.set_(given[output.place].untyped_storage(), output.offset, output.shape, output.stride)
            made = Tensor._make_subclass(FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=_CPU)
        torch._C._set_throw_on_mutable_data_ptr(made)
        vars(made).update(self._state)
        return made


def _known(func: Any) -> bool:
    of_torch = isinstance(func, torch._ops.OpOverload) and func.namespace == "aten"
    return of_torch and func not in _LIFTS and not _BY_VALUE.intersection(func.tags)


def _describe(values: Iterable[Any], key: list[Any], given: list[FakeTensor]) -> None:
    """Add what an answer depends on to ``key``, and the tensors to ``given``.

    Raises:
        _Unknown: One of ``values`` is of another kind.
    """
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            dtype = value.dtype
            # a complex tensor may be conjugated by a mark that neither shape nor type shows
            if value.constant is not None or not _plain(value) or dtype.is_complex:
                raise _Unknown
            key += (value.shape, value.stride(), value.storage_offset(), dtype, value.requires_grad)
            given.append(value)
        elif kind in _PLAIN:
            key += (kind, value)
        elif kind is list or kind is tuple:
            key += (kind, len(value))
            _describe(value, key, given)
        else:
            raise _Unknown


def _plain(tensor: FakeTensor) -> bool:
    return bool(tensor.layout is torch.strided and tensor.fake_device == _CPU)


def _output(value: Any, given: list[FakeTensor], storages: Mapping[int, int]) -> _Output:
    if value is None:
        return None
    if type(value) is not FakeTensor:
        raise _Unknown
    if (place := next((place for place, tensor in enumerate(given) if tensor is value), None)) is not None:
        return _Given(place)
    if value.constant is not None or not _plain(value) or value.dtype.is_complex or value.requires_grad:
        raise _Unknown
    shape, stride, offset = tuple(value.shape), tuple(value.stride()), value.storage_offset()
    place = storages.get(value.untyped_storage()._cdata)
    if place is None and not offset:
        return _Fresh(shape, stride, value.dtype)
    if place is None or place < 0:
        raise _Unknown
    return _View(shape, stride, value.dtype, int(offset), place)

"""The plug-in interface of a fine-tuning method."""

import abc
import copy
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bench.errors import BenchError, unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of every method's configuration: frozen, keyword only, one docstring under each field."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> typing.Self:
        """Check names and types of ``values`` and build the configuration.

        Args:
            values: Plain field values, as a suite file or the command line gives them.
            where: Prefix of error messages, e.g. ``"suites/smoke.toml: methods[2]"``.

        Raises:
            BenchError: A key is unknown, a type is wrong or a value is out of range.
        """
        hints = typing.get_type_hints(cls)
        fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                raise unknown("key", key, fields, where)
            if not _fits(value, fields[key]):
                raise BenchError(f"{_at(where)}{key} = {value!r} has the wrong type; it takes {_spell(fields[key])}")
            if takes := _beyond(value):
                raise BenchError(f"{_at(where)}{key} = {value!r}; it takes {takes}")
        try:
            return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        except ValueError as error:
            raise BenchError(f"{_at(where)}{error}") from error


def at_least(config: MethodConfig, **bounds: float) -> None:
    """Raise ``ValueError`` where a size lies below its bound or beyond ``MOST``; for ``__post_init__``."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if value < bound:
            raise ValueError(f"{name} = {value} is too small; it takes at least {bound}")
        if value > MOST:
            raise ValueError(f"{name} = {value} is too large; it takes at most {MOST:,}")


def each_once(layers: Literal["all"] | tuple[int, ...]) -> None:
    """Raise ``ValueError`` where a choice of layers is empty or out of order; for ``__post_init__``."""
    if layers != "all" and (not layers or list(layers) != sorted(set(layers))):
        raise ValueError(f"layers = {list(layers)} must name at least one layer, each once, in rising order")


def _at(where: str) -> str:
    return f"{where}: " if where else ""


MOST = 1 << 24
"""The largest size: sizes multiply, and beyond it their products overflow."""


def _beyond(value: Any) -> str:
    """What a number takes, where ``value`` or one in its list is infinite, none, or beyond any machine; else empty."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            return "a finite number"
        if type(number) is int and abs(number) >= 2**63:
            return "whole numbers below 2**63"
    return ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the type ``hint``, a list where it asks for a tuple; 1 is a number, true is none."""
    try:
        taken = TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):  # of the second kind: what no file of plain data holds
        return hint is Any
    return _alike(value, taken)


def _alike(value: Any, taken: Any) -> bool:
    """Whether ``taken`` has the types of ``value``: pydantic takes 1 for ``Literal[True]``, true for ``Literal[1]``."""
    if isinstance(value, list | tuple):
        return all(map(_alike, value, taken))
    return type(value) is type(taken) or (type(value) is int and type(taken) is float)


def _spell(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spell(a) for a in args)
    if origin in (tuple, list):
        return f"a list of {_spell(args[0])}"
    return {int: "an integer", float: "a number", str: "a string", bool: "true or false"}.get(hint, str(hint))


Batch = dict[str, Tensor]
LARGEST_SIZE = 1 << 20
"""Where the search for a size ends."""


class Method(abc.ABC):
    """One way of fine-tuning. Only ``apply`` is required; every other hook has a working default.

    The harness seeds, loads and freezes the backbone, calls ``apply``, puts its own task head on top and gives the
    optimizer exactly the parameters that require a gradient. The module that ``apply`` returns keeps the bare
    backbone's call contract: ``module(input_ids=, attention_mask=, ...)`` gives an output whose
    ``last_hidden_state`` is ``[B, T, d]``, aligned with the caller's tokens. On a decoder it also decodes with a cache,
    as transformers does: given ``use_cache=True`` its output has ``past_key_values``, and given these it reads the
    ``input_ids`` behind them alone.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    identity_at_init: ClassVar[bool] = True
    """Whether the backbone's output is unchanged before the first step; a run holds a third party's method to it."""
    zero_gradient: ClassVar[tuple[str, ...]] = ()
    """Name endings of trainable parameters whose gradient is zero by theory, such as a key bias under softmax."""
    takes_float32: ClassVar[bool] = False
    """Whether what it adds may be float32 beside a backbone in bfloat16 without autocast: its layers cast what they
    read to the type of their own tensors, and give back the type that they were given, as peft's do."""
    size: ClassVar[str | None] = None
    """Whole-number field of ``Config`` that decides how much trains, such as a rank: what a budget chooses. None: the
    method has no size to choose."""

    @abc.abstractmethod
    def apply(self, backbone: nn.Module, config: Any) -> nn.Module:
        """Adapt ``backbone`` (it arrives frozen and may be changed in place) and set ``requires_grad`` on what trains.

        Raises:
            BenchError: The family cannot carry the method, or a target matches nothing.
        """

    def name_classes(self, module: nn.Module, names: Sequence[Sequence[int]]) -> None:  # noqa: B027
        """Start from the names of the task's classes, before ``prepare``; most methods have no use for them.

        Args:
            module: What ``apply`` returned.
            names: Token ids of each class's name, without special tokens, in the order of the labels; empty where the
                task has no classes.
        """

    def prepare(self, module: nn.Module, loss: Callable[[Batch], Tensor], batches: Iterable[Batch]) -> None:  # noqa: B027
        """Start from data, before training; ``loss(batch)`` is the scalar task loss of ``module`` with its head."""

    def widen(self, module: nn.Module, added: Sequence[nn.Parameter]) -> None:
        """Turn what the method adds to a backbone in bfloat16 into float32, in place, where it ``takes_float32``.

        Args:
            module: What ``apply`` returned.
            added: Its trainable parameters that are not the backbone's own, which stay as they are.
        """
        for parameter in added:
            parameter.data = parameter.data.to(torch.float32)

    def zero_gradients(self, module: nn.Module) -> Sequence[str]:
        """Name endings of parameters of the freshly adapted ``module`` that never move: ``zero_gradient``, or more."""
        return self.zero_gradient

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups over the trainable parameters of ``module``; vectors and norms take no weight decay."""
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim > 1]
        vectors = [p for p in trained if p.ndim <= 1]
        groups = [{"params": matrices, "lr": lr}, {"params": vectors, "lr": lr, "weight_decay": 0.0}]
        return [g for g in groups if g["params"]]

    def optimizer(
        self, module: nn.Module, groups: list[dict[str, Any]], weight_decay: float
    ) -> torch.optim.Optimizer | None:
        """Optimizer that is part of the method, over ``groups`` of delta and head, in place of the recipe's.

        Args:
            module: What ``apply`` returned.
            groups: Those of ``param_groups``, then the head's, with their rates; the schedule scales the rates later.
            weight_decay: For groups that set none.

        It holds all of ``groups``, and frozen parameters beside them at most; a note of the records names its class.
        """
        return None

    def parts(self, module: nn.Module) -> Mapping[str, Sequence[nn.Parameter]]:
        """Trainable parameters of ``module`` by the part of the delta that they belong to, each in one part.

        The norms of first gradients are told apart by part; one part by default, none where nothing trains.
        """
        trained = [p for p in module.parameters() if p.requires_grad]
        return {"delta": trained} if trained else {}

    def regularizer(self, module: nn.Module) -> Tensor | None:
        """Scalar that is added to the task loss, or None."""
        return None

    def after_step(self, module: nn.Module, step: int, total: int) -> None:  # noqa: B027
        """Run after ``optimizer.step()`` and before ``zero_grad()``; its time counts as optimizer time."""

    def state(self, module: nn.Module) -> Iterable[Tensor]:
        """Tensors that the method keeps from step to step beside parameters and buffers, such as running means.

        They count with the optimizer's state.
        """
        return ()

    def ranks(self, module: nn.Module) -> Mapping[str, int]:
        """Rank of the update of each adapted map, where training chose it; empty where the configuration gives it."""
        return {}

    def input_vectors(self, module: nn.Module) -> Tensor | None:
        """Learned vectors ``[p, d]`` that stand among the word embeddings of the input, detached; None without any.

        Those of the adapted ``module`` before and after training, and of the finalized one; a recipe that asks for
        ``nearest_words`` compares them with the words.
        """
        return None

    def notes(self, module: nn.Module) -> Sequence[str]:
        """What a reader of the figures of ``module`` must know, such as an option that does nothing on this backbone.

        Plain sentences without a full stop; each enters the records of the method, and stands once below the tables.
        """
        return ()

    def finalize(self, module: nn.Module) -> nn.Module:
        """Return a module without training-only parts (prefix MLP, P-tuning LSTM); by default ``module`` itself."""
        return module

    def merge(self, module: nn.Module) -> nn.Module | None:
        """Return a new module in the backbone's own structure, ``module`` untouched; None where it cannot be."""
        return None

    def unmerge(self, merged: nn.Module, delta: Mapping[str, Tensor]) -> nn.Module:
        """Take ``delta`` out of a merged module again; returns a new module.

        Raises:
            BenchError: The method cannot be unmerged.
        """
        raise BenchError(f"{type(self).__name__} cannot be unmerged")

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """Tensors that inference needs per task once ``module`` is finalized, head left out, detached copies."""
        return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}

    def unpack(self, module: nn.Module, delta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``delta`` in the shapes of the finalized ``module``, where it is stored in smaller ones.

        Raises:
            BenchError: The shapes of ``delta`` contradict each other.
        """
        return delta

    def load_delta(self, backbone: nn.Module, config: Any, delta: Mapping[str, Tensor]) -> nn.Module:
        """Put ``delta`` onto a fresh, frozen backbone; returns the finalized module.

        Raises:
            BenchError: The keys or shapes of ``delta`` are not exactly those that the method stores.
        """
        module = self.finalize(self.apply(backbone, config))
        copy_delta(dict(module.named_parameters()), self.delta(module).keys(), self.unpack(module, delta))
        return module

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """A model of the ``peft`` library that computes what ``module`` does, for folders that peft loads.

        Args:
            module: A finalized module.
            backbone: A fresh, frozen bare backbone, which the result takes over.

        Raises:
            BenchError: peft has no such method, or cannot have it in this configuration or on this backbone.
        """
        raise BenchError("peft has no method that computes the same")

    def reserved_positions(self, config: Any) -> int:
        """Positions that a prompt or prefix takes from the backbone's maximum length."""
        return 0

    def sizes(self, backbone: nn.Module, config: Any) -> Sequence[int]:
        """Values of the field ``size`` to choose from on the bare ``backbone``, from what trains least to most.

        A value that the configuration or ``apply`` refuses ends them; refusals in between have no place here.
        """
        return range(1, LARGEST_SIZE + 1)


def copy_delta(parameters: Mapping[str, Tensor], expected: Iterable[str], delta: Mapping[str, Tensor]) -> None:
    """Copy ``delta`` into ``parameters`` in place after an exact check of keys and shapes.

    Raises:
        BenchError: A key is missing, left over or has another shape.
    """
    expected = set(expected)
    if missing := sorted(expected - delta.keys()):
        raise BenchError(f"delta lacks {missing[0]!r} ({len(missing)} missing); it was stored by another configuration")
    if extra := sorted(delta.keys() - expected):
        raise BenchError(f"delta has {extra[0]!r} ({len(extra)} too many); it was stored by another configuration")
    for name in expected:
        if parameters[name].shape != delta[name].shape:
            raise BenchError(f"delta {name!r} is {list(delta[name].shape)}, expected {list(parameters[name].shape)}")
    with torch.no_grad():
        for name in expected:
            parameters[name].copy_(delta[name])


def clone(module: nn.Module) -> nn.Module:
    """Deep copy of ``module`` for ``merge``, so that the input stays untouched."""
    # tensors are copied here: deepcopy would also copy the mode that a fake tensor carries, and the two do not mix
    copies: dict[int, Any] = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in module.parameters()}
    copies |= {id(b): b.detach().clone() for b in module.buffers()}
    return copy.deepcopy(module, copies)


def without_values(module: nn.Module) -> bool:
    """Whether its tensors have no data."""
    weight = next(module.parameters())
    return weight.is_meta or isinstance(weight, FakeTensor)

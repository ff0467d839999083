"""Says whose an operation is (backbone, method, head) and at which depth."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bench.anatomy import anatomy
from bench.models.text import TextBackbone

Owner = Literal["backbone", "method", "head"]
OTHER = "other"
"""Depth of a method's modules that belong to no layer, such as a prompt encoder or a final up-projection."""


class Place(NamedTuple):
    """Whose an operation is and where."""

    owner: Owner
    layer: str
    """``embeddings``, ``layer_1`` ..., ``head`` or ``other``."""


class OwnWork(nn.Module):
    """What a method computes outside of the model, such as its regularizer.

    It is the method's, and belongs to no layer unless an operation reads a layer's parameter itself.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        """Of a function that a call runs."""
        super().__init__()
        self.forward = run


class Origin:
    """What the backbone consisted of before a method was applied; keeps its modules and parameters alive.

    Args:
        backbone: The bare backbone.
        blocks: Paths of its layers; by its anatomy where left out.
    """

    def __init__(self, backbone: nn.Module, blocks: Sequence[str] | None = None) -> None:
        blocks = [layer.path for layer in anatomy(backbone).layers] if blocks is None else blocks
        self.depth = len(blocks)
        self.layers = [backbone.get_submodule(block) for block in blocks]
        self.ladders: frozenset[str] | None = None
        """Paths of a method's lists with one entry a layer, where they are known: at a depth of 2 any pair looks like
        one."""
        self.modules: dict[nn.Module, str] = {}
        self.parameters: dict[Tensor, str] = {}
        for path, module in backbone.named_modules():
            label = next(
                (f"layer_{i}" for i, b in enumerate(blocks, 1) if f"{path}.".startswith(f"{b}.")), "embeddings"
            )
            self.modules[module] = label
            for parameter in module.parameters(recurse=False):
                self.parameters[parameter] = label
        output: Any = backbone.get_output_embeddings() if isinstance(backbone, TextBackbone) else None  # type: ignore[operator]
        if output is not None:  # the LM head; a tied matrix is looked up below it, which multiplies nothing
            self.modules[output] = "head"
            self.parameters |= dict.fromkeys(output.parameters(), "head")

    def replaced(self, tensors: Mapping[Tensor, Tensor]) -> None:
        """Follow the backbone's parameters into the tensors that took their places."""
        self.parameters = {tensors.get(parameter, parameter): label for parameter, label in self.parameters.items()}


class Places:
    """The map of one adapted model with its head.

    A parameter or module is the backbone's if it was in the backbone before ``apply``, the head's if it lies under the
    head, else the method's. A module of the method counts to the layer that it lies in or that calls it; outside the
    backbone's layers it counts to layer i if it lies in the entry of layer i in a list with one entry a layer (a
    ladder), else to ``other``.
    """

    def __init__(self, origin: Origin, body: nn.Module, head: nn.Module) -> None:
        self._modules: dict[nn.Module, Place] = {m: _own(layer) for m, layer in origin.modules.items()}
        self._storages: dict[int, Place] = {}
        added = [(path, module) for path, module in body.named_modules() if module not in origin.modules]
        known = origin.ladders
        ladders = {
            path: len(module) - origin.depth
            for path, module in added
            if (_is_ladder(module, origin.depth) if known is None else path in known)
        }
        self.ladders = frozenset(ladders)
        labels: dict[str, str] = {}
        for path, module in body.named_modules():
            labels[path] = origin.modules.get(module) or _rung(path, ladders, labels)
            self._modules.setdefault(module, Place("method", labels[path]))
        for path, parameter in body.named_parameters():
            layer = origin.parameters.get(parameter)
            place = Place("method", _rung(path, ladders, labels)) if layer is None else _own(layer)
            self._storages.setdefault(parameter.untyped_storage()._cdata, place)
        for module in head.modules():
            self._modules[module] = Place("head", "head")
        for parameter in head.parameters():
            self._storages[parameter.untyped_storage()._cdata] = Place("head", "head")
        self._paths = {id(module): path for path, module in body.named_modules()}
        self._paths |= {id(module): f"head.{path}".rstrip(".") for path, module in head.named_modules()}
        self.stack: list[nn.Module] = []
        """Modules whose forward runs now, outermost first."""

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep ``stack`` up to date while models run."""
        enter = register_module_forward_pre_hook(lambda module, _: self.stack.append(module))
        leave = register_module_forward_hook(lambda *_: self._leave(), always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()
            self.stack.clear()

    def _leave(self) -> None:
        self.stack.pop()

    def running(self) -> str:
        """Dotted path of the innermost module that runs now; empty outside of all."""
        return next((self._paths[id(m)] for m in reversed(self.stack) if id(m) in self._paths), "")

    def is_parameter(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is a parameter, a view of one or a cast copy of one."""
        return tensor.untyped_storage()._cdata in self._storages

    def follow_copy(self, sources: Sequence[Tensor], copy: Tensor) -> None:
        """Let ``copy``, parameters in another type or joined, count as the first of them.

        Autocast makes such copies; maps that read the same input are joined into one.
        """
        found = [self._storages.get(source.untyped_storage()._cdata) for source in sources]
        storage = copy.untyped_storage()
        if found and found[0] is not None and None not in found and storage._cdata not in self._storages:
            self._storages[storage._cdata] = found[0]
            # not held: what a step frees must be freed, and its address may be used again
            weakref.finalize(storage, self._storages.pop, storage._cdata, None).atexit = False

    def parameter(self, operands: Iterable[Tensor]) -> Place | None:
        """Place of the parameter among ``operands``, the method's first; None where none is a parameter."""
        found = [p for t in operands if (p := self._storages.get(t.untyped_storage()._cdata)) is not None]
        return min(found, key=lambda p: ("method", "head", "backbone").index(p.owner), default=None)

    def now(self, parameter: Place | None = None) -> Place:
        """Place of an operation in forward: the owner of its parameter operand, else of the innermost module."""
        known = [place for m in reversed(self.stack) if (place := self._place(m)) is not None]
        if not known:
            return parameter or Place("head", "head")
        owner = parameter.owner if parameter else known[0].owner
        if owner == "head":
            return Place("head", "head")
        # A wrapper of the method has no layer of its own; the layer that called it stands further out on the stack.
        layers = [p.layer for p in known if p.layer != OTHER and (p.owner == "method" or p.layer != "embeddings")]
        if layers:
            return Place(owner, layers[0])
        fallback = parameter.layer if parameter else OTHER if owner == "method" else "embeddings"
        return Place(owner, fallback)

    def _place(self, module: nn.Module) -> Place | None:
        return Place("method", OTHER) if isinstance(module, OwnWork) else self._modules.get(module)


def _own(layer: str) -> Place:
    """Place of what the backbone had; the LM head of a language model is what stands on it."""
    return Place("head" if layer == "head" else "backbone", layer)


def _is_ladder(module: nn.Module, depth: int) -> bool:
    lists = nn.ModuleList | nn.Sequential | nn.ParameterList
    return isinstance(module, lists) and len(module) in (depth, depth + 1)


def _rung(path: str, ladders: Mapping[str, int], labels: Mapping[str, str]) -> str:
    """Layer of a method's module; a ladder of one entry more than layers has the embeddings as its first.

    A module within a layer is that layer's: checkpointing runs it again without calling the layer's module.
    """
    for ladder, offset in ladders.items():
        index = path.removeprefix(f"{ladder}.").partition(".")[0]
        if path.startswith(f"{ladder}.") and index.isdigit():
            number = int(index) + 1 - offset
            return f"layer_{number}" if number else "embeddings"
    above = labels.get(path.rpartition(".")[0], OTHER)
    return above if above.startswith("layer_") else OTHER

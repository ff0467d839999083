"""What a method says of itself held against what its module does, as far as a run can tell."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench import registry
from bench.errors import BenchError
from bench.method import Batch, Method
from bench.models.head import TaskModel

TOKENS = 8
"""Of each of the two rows that outputs are compared on."""
_EXACT = 2.0**-7
"""Resolution of a stored tensor of whole numbers, such as a delta of 8 bits."""


def stored_bytes(method: Method, finalized: nn.Module, trained: int) -> int:
    """Bytes of the delta of a finalized module in which ``trained`` parameters were set to train.

    Raises:
        BenchError: Something trained and nothing is stored.
    """
    stored = sum(tensor.numel() * tensor.element_size() for tensor in method.delta(finalized).values())
    if trained and not stored:
        raise BenchError(
            f"{trained:,} parameters of it train, but delta() of what finalize() returns stores 0 bytes: all that "
            "trained would be lost; let them keep what inference needs"
        )
    return stored


Context = Callable[[], contextlib.AbstractContextManager[Any]]


class Contract:
    """Holds a third party's finalize, merge and load_delta against what its trained module computes.

    Methods of this project, the bridged among them, are held by its tests on every family: nothing is run for those.

    Args:
        method: The method.
        config: Its configuration.
        vocabulary: Of the backbone.
        fresh: Gives the bare backbone, as the method got it.
        context: Under which the module runs, such as autocast.
        form: Brings a fresh module into the types that the trained one has, in place.
    """

    def __init__(
        self, method: Method, config: Any, vocabulary: int, fresh: Callable[[], nn.Module],
        context: Context = contextlib.nullcontext,
        form: Callable[[nn.Module], None] = lambda module: None,
    ) -> None:  # fmt: skip
        self._method, self._config, self._fresh, self._context, self._form = method, config, fresh, context, form
        self._vocabulary = vocabulary
        self.asked = not registry.ours(method)
        """Whether anything is run."""
        self._computed: Tensor | None = None

    def trained(self, body: nn.Module) -> None:
        """Take down what the trained module computes."""
        if self.asked:
            self._computed = self._states(body)
            self.asked = bool(self._computed.isfinite().all())  # where it is not, timing and training say so

    def finalized(self, module: nn.Module) -> None:
        """Hold what finalize returned, and what load_delta makes of its delta, against the trained module.

        Raises:
            BenchError: One of them computes something else.
        """
        if not self.asked:
            return
        self._same(module, "what finalize() returns does not compute what the trained module computes")
        delta = self._method.delta(module)
        loaded = self._method.load_delta(self._fresh(), self._config, delta)
        self._form(loaded)
        self._same(
            loaded,
            "load_delta() puts the stored delta onto a fresh backbone, and what comes out does not compute what the "
            "trained module computes",
            4 * max((_resolution(tensor) for tensor in delta.values()), default=0.0),
        )

    def merged(self, module: nn.Module, merged: nn.Module | None) -> None:
        """Hold what merge returned against the trained module, and that module against what it was.

        Raises:
            BenchError: One of them computes something else.
        """
        if not self.asked or merged is None:
            return
        self._same(module, "merge() changes the module that it is given; let it return a new one (bench.method.clone)")
        self._same(merged, "what merge() returns does not compute what the trained module computes")

    def _states(self, module: nn.Module) -> Tensor:
        return states(module, self._vocabulary, self._context)

    def _same(self, module: nn.Module, otherwise: str, allowed: float = 0.0) -> None:
        assert self._computed is not None, "trained() comes first"
        found, expected = self._states(module), self._computed
        low = torch.bfloat16 if any(p.dtype == torch.bfloat16 for p in module.parameters()) else expected.dtype
        apart = difference(found, expected)
        if not apart <= max(allowed, torch.finfo(low).eps ** 0.5):
            raise BenchError(f"{otherwise}: the last hidden state differs by {apart:.2g} of its largest value")


def states(
    module: nn.Module,
    vocabulary: int,
    context: Context = contextlib.nullcontext,
) -> Tensor:
    """Last hidden states ``[2, T, d]`` of two fixed rows in eval mode; modes and random numbers stay as they were."""
    weight = next(module.parameters())
    rows = torch.arange(2 * TOKENS, device=weight.device).reshape(2, TOKENS) % vocabulary
    batch: Batch = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    modes = {part: part.training for part in module.modules()}
    model = TaskModel(module, nn.Identity())
    try:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []), torch.no_grad(), context():
            return model.eval().states(batch)
    finally:
        for part, training in modes.items():
            part.training = training


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value of ``other``."""
    return float((one.float() - other.float()).abs().max() / other.float().abs().max().clamp_min(1e-30))


def _resolution(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else _EXACT

"""What a method says of itself held against what its module does, as far as a run can tell."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench import registry
from bench.errors import BenchError, given, said
from bench.method import Batch, Method
from bench.models.head import TaskModel, check_shape
from bench.models.text import TextBackbone
from bench.training.frozen import Frozen

TOKENS = 8
"""Of each of the two rows that outputs are compared on."""
_EXACT = 2.0**-7
"""Resolution of a stored tensor of whole numbers, such as a delta of 8 bits."""


MODULE = "a torch module"


def finalize(method: Method, module: nn.Module) -> nn.Module:
    """What ``method`` makes of a trained module.

    Raises:
        BenchError: It is no module.
    """
    return given("finalize", method.finalize(module), nn.Module, MODULE)


def merge(method: Method, module: nn.Module) -> nn.Module | None:
    """What ``method`` folds a finalized module into; None where it cannot.

    Raises:
        BenchError: It is no module.
    """
    folded: Any = method.merge(module)
    return None if folded is None else given("merge", folded, nn.Module, f"{MODULE}, or None where it cannot")


def delta_of(method: Method, finalized: nn.Module) -> dict[str, Tensor]:
    """The delta of a finalized module.

    Raises:
        BenchError: That is no mapping of names to tensors.
    """
    stored: Any = method.delta(finalized)
    if not isinstance(stored, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in stored.items()
    ):
        raise BenchError(f"delta() of the method gives {_short(stored)}; it takes a tensor for each name")
    return dict(stored)


def stored_bytes(method: Method, finalized: nn.Module, trained: int) -> int:
    """Bytes of the delta of a finalized module in which ``trained`` parameters were set to train.

    Raises:
        BenchError: Something trained and nothing is stored.
    """
    stored = sum(tensor.numel() * tensor.element_size() for tensor in delta_of(method, finalized).values())
    if trained and not stored:
        raise BenchError(
            f"{trained:,} parameters of it train, but delta() of what finalize() returns stores 0 bytes: all that "
            "trained would be lost; let them keep what inference needs"
        )
    return stored


def notes_of(method: Method, module: nn.Module) -> tuple[str, ...]:
    """What the method says of its module, checked.

    Raises:
        BenchError: That is no list of sentences.
    """
    said: Any = method.notes(module)
    if not isinstance(said, list | tuple) or not all(isinstance(sentence, str) for sentence in said):
        raise BenchError(f"notes() of the method gives {_short(said)}; it takes a list of sentences, or ()")
    return tuple(said)


def ranks_of(method: Method, module: nn.Module) -> dict[str, int]:
    """The ranks that the method says training has chosen, checked.

    Raises:
        BenchError: That is no mapping of names to whole numbers from 0 on.
    """
    said: Any = method.ranks(module)
    if not isinstance(said, Mapping):
        raise BenchError(f"ranks() of the method gives {_short(said)}; it takes a rank for each name, or {{}}")
    for name, rank in said.items():
        if not isinstance(name, str) or type(rank) is not int or rank < 0:
            raise BenchError(
                f"ranks() of the method gives {_short(rank)} for {_short(name)}; it takes whole numbers from 0 on, by "
                "name"
            )
    return dict(said)


def vectors_of(method: Method, module: nn.Module) -> Tensor | None:
    """The vectors that the method says it has among the word embeddings, checked.

    Raises:
        BenchError: That is no matrix of them.
    """
    said: Any = method.input_vectors(module)
    if said is not None and not (isinstance(said, Tensor) and said.ndim == 2 and said.is_floating_point()):
        raise BenchError(f"input_vectors() of the method gives {_short(said)}; it takes a tensor [p, d], or None")
    return said


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


Context = Callable[[], contextlib.AbstractContextManager[Any]]


class Contract:
    """Holds what a third party's hooks return and leave behind against what its module computes and what it promises.

    Built-in methods are held by this project's tests on every family: nothing is run for those. Of a bridged one, an
    inexact merge and a start elsewhere are notes of its own.

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
        self.asked = not registry.built_in(method)
        """Whether anything is run."""
        self.merges = self.asked and not registry.ours(method)
        """Whether what merge returns is held, which nothing else asks for."""
        self._computed: Tensor | None = None
        self._start: Tensor | None = None
        self._own: dict[str, nn.Parameter] = {}
        self._frozen: Frozen | None = None

    def bare(self, backbone: nn.Module) -> None:
        """Take down what the bare backbone is and computes, before apply."""
        if self.asked:
            self._own = dict(backbone.named_parameters())
        if self.asked and self._method.identity_at_init:
            self._start = states(backbone, self._vocabulary)

    def adapted(self, body: nn.Module) -> None:
        """Hold the adapted module against the bare backbone, where the method promises its outputs at the start.

        Raises:
            BenchError: It computes something else.
        """
        if not self.asked or not self._method.identity_at_init:
            return
        assert self._start is not None, "bare() comes first"
        apart = difference(states(body, self._vocabulary), self._start)
        if apart > torch.finfo(self._start.dtype).eps ** 0.5:
            raise BenchError(
                "identity_at_init of the method promises the backbone's outputs at the start, and the last hidden "
                f"state differs by {apart:.2g} of its largest value; mend apply(), or set identity_at_init = False"
            )

    def starts(self, body: nn.Module) -> Frozen:
        """Take down the frozen weights of the backbone in the adapted module, before the first step."""
        self._frozen = Frozen(self._own, body)
        return self._frozen

    def ends(self) -> None:
        """Hold those weights against what they were.

        Raises:
            BenchError: One has changed; it names the first.
        """
        if self._frozen is not None:
            self._frozen.check()

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
        delta = delta_of(self._method, module)
        loaded = self._loaded(delta)
        self._form(loaded)
        self._same(
            loaded,
            "load_delta() puts the stored delta onto a fresh backbone, and what comes out does not compute what the "
            "trained module computes",
            4 * max((_resolution(tensor) for tensor in delta.values()), default=0.0),
        )

    def _loaded(self, delta: Mapping[str, Tensor]) -> nn.Module:
        fresh = self._fresh()
        try:
            loaded = self._method.load_delta(fresh, self._config, delta)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a third party's hook says of a delta that is its own
            reason = said(error)
            raised = reason if isinstance(error, BenchError) else f"{type(error).__name__}: {reason}"
            raise BenchError(
                f"load_delta() cannot put what delta() stores onto a fresh backbone ({raised}); let them agree"
            ) from error
        return given("load_delta", loaded, nn.Module, MODULE)

    def merged(self, module: nn.Module, merged: nn.Module | None) -> None:
        """Hold what merge returned against the trained module, and that module against what it was.

        Raises:
            BenchError: One of them computes something else.
        """
        if not self.asked or merged is None:
            return
        self._same(module, "merge() changes the module that it is given; let it return a new one (bench.method.clone)")
        if self.merges:
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
    if any(isinstance(part, TextBackbone) and part.config.is_encoder_decoder for part in module.modules()):  # type: ignore[union-attr]
        batch["decoder_input_ids"] = rows
    model = TaskModel(module, nn.Identity())
    try:
        with torch.random.fork_rng([weight.device] if weight.is_cuda else []), torch.no_grad(), context():
            return model.eval().states(batch)
    finally:
        for part, training in modes.items():
            part.training = training


def difference(one: Tensor, other: Tensor) -> float:
    """Largest difference as a share of the largest value of ``other``.

    Raises:
        BenchError: They have different shapes.
    """
    check_shape(one, other.shape)
    return float((one.float() - other.float()).abs().max() / other.float().abs().max().clamp_min(1e-30))


def _resolution(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else _EXACT

"""One training step of one method as a thing that can be repeated, counted and timed."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from bench.count.attribution import Origin, OwnWork
from bench.count.fake import Padded
from bench.errors import BenchError, given, said
from bench.method import Batch, Method
from bench.models.head import TaskModel, generator
from bench.models.text import IGNORED
from bench.schema.shape import Setting
from bench.training.contract import MODULE
from bench.training.frozen import Frozen, watched
from bench.training.loop import PROOF, Reached, groups_of, regularized, to_autocast, zeros_of

MIDDLE = (1, 2)
"""Step and number of steps that a method's own work is told: amid training, where AdaLoRA deals out its ranks."""


@dataclasses.dataclass
class TrainingStep:
    """A built method with its optimizer and a fixed batch."""

    method: Method
    config: Any
    model: TaskModel
    origin: Origin
    optimizer: torch.optim.Optimizer
    batch: Batch
    autocast: bool = False
    notes: tuple[str, ...] = ()
    """What a reader must know of how the step was built."""
    frozen: Frozen | None = None
    """Weights of the backbone as they were before the first step, where a third party's method trains."""
    clipping: bool = False
    """Whether the gradients are scaled to a global norm of at most 1 before the update."""

    padded: bool = False
    """Whether a row of the batch is padded."""

    def __post_init__(self) -> None:
        self.trained = tuple(p for p in self.model.parameters() if p.requires_grad)
        self._regularizer = OwnWork(self.method.regularizer)  # once: making a module would be timed with each step

    def forward(self) -> Tensor:
        """Scalar loss with the method's regularizer."""
        mask = self.batch["attention_mask"]
        # without values nobody can see that a mask masks something
        seen = Padded(mask) if self.padded and isinstance(mask, FakeTensor) else contextlib.nullcontext()
        with seen, torch.autocast(mask.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.model.loss(self.batch)
            return regularized(loss, self._regularizer(self.model.body))

    def backward(self, loss: Tensor) -> None:
        """Gradients of all trainable parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

    def optimize(self) -> None:
        """Clipping where asked for, and optimizer step with the method's own work after it."""
        if self.clipping:
            # as torch itself chooses on real tensors, and not on fake ones
            nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=True)
        self.optimizer.step()
        self.method.after_step(self.model.body, *MIDDLE)

    def zero(self) -> None:
        """Drop the gradients; outside every measured phase."""
        self.optimizer.zero_grad(set_to_none=True)

    def kept(self) -> Iterable[Tensor]:
        """What the method keeps from step to step beside the optimizer's state."""
        return self.method.state(self.model.body)


class Accumulated:
    """A step whose gradients add up over two batches before the update, for the peak: more batches take no more.

    Its forward holds the whole first batch, which leaves its gradients beside the second.
    """

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self.model, self.optimizer, self.batch = step.model, step.optimizer, step.batch
        self.optimize, self.zero, self.backward, self.kept = step.optimize, step.zero, step.backward, step.kept

    def forward(self) -> Tensor:
        """Scalar loss of the second batch."""
        self._step.backward(self._step.forward())
        return self._step.forward()


def adapt(
    backbone: nn.Module, method: Method, config: Any, head: nn.Module, setting: Setting,
    applied: Callable[[nn.Module], object] = lambda body: None,
) -> tuple[Origin, TaskModel]:  # fmt: skip
    """Apply ``method`` to a fresh bare ``backbone`` and put ``head`` on top, in the form that ``setting`` asks for.

    ``applied`` gets what ``apply`` made, before any of it changes its type.

    Raises:
        BenchError: The family cannot carry the method, or cannot checkpoint.
    """
    if setting.checkpointing:
        _checkpoint(backbone)
    origin = Origin(backbone)
    meta = next(backbone.parameters()).device.type == "meta"
    torch.manual_seed(0)
    with torch.device("meta") if meta else contextlib.nullcontext():
        body = given("apply", method.apply(backbone, config), nn.Module, MODULE)
    applied(body)
    model = TaskModel(body, head).train()
    set_dropout(model, setting.dropout)
    if setting.autocast:
        to_autocast(model)
    if setting.widened and method.takes_float32:
        method.widen(body, _narrow(body, origin))
    return origin, model


def _narrow(body: nn.Module, origin: Origin) -> list[nn.Parameter]:
    """What trains of ``body`` in bfloat16 and is not the backbone's own."""
    return [
        p for p in body.parameters() if p.requires_grad and p.dtype == torch.bfloat16 and p not in origin.parameters
    ]


def kept_narrow(method: Method, model: TaskModel, origin: Origin, setting: Setting) -> list[str]:
    """That a method trains in the backbone's type where adapters are float32, as a sentence."""
    if not setting.widened:
        return []
    if not method.takes_float32:
        said = "adapters stay in bfloat16: the method does not say that its layers take float32 (takes_float32)"
        return [said] if _narrow(model.body, origin) else []
    trained = {p.dtype for p in model.body.parameters() if p.requires_grad}
    return ["no adapter is float32: all that trains has the type of the model"] if trained == {torch.bfloat16} else []


def _checkpoint(backbone: nn.Module) -> None:
    # transformers before 5.23 has the older name alone
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable: Any = next((getattr(backbone, name) for name in names if hasattr(backbone, name)), None)
    if enable is None:
        raise BenchError("checkpointing: this backbone has no switch for it; leave it off")
    try:
        # The non-reentrant form needs no input that requires a gradient, which frozen embeddings do not give; one that
        # does, which transformers asks for, would let backward run to the embeddings for nothing.
        enable({"use_reentrant": False})
        backbone.disable_input_require_grads()  # type: ignore[operator]
    except ValueError as error:
        raise BenchError(
            f"checkpointing: {type(backbone).__name__} has no layers that transformers can checkpoint; leave it off"
        ) from error


def optimizer_groups(model: TaskModel, method: Method, rate: float = 1e-3, head_rate: float = 1e-3) -> list[Any]:
    """Parameter groups of method and head, checked to hold exactly what trains; the rates change no cost."""
    return groups_of(method, model, rate, head_rate)


def step_batch(config: Any, setting: Setting, *, device: torch.device | str = "cpu") -> Batch:
    """A random batch of the shape and objective of ``setting`` for a backbone of this configuration."""
    if setting.objective == "text":
        batch = text_batch(
            setting.batch, setting.length, vocabulary=config.vocab_size, targets=setting.target_tokens,
            decoder=config.is_encoder_decoder, device=device,
        )  # fmt: skip
    else:
        batch = random_batch(
            setting.batch, setting.length, vocabulary=config.vocab_size, outputs=setting.outputs, device=device
        )
    return padded(batch) if setting.padded else batch


def random_batch(
    rows: int, length: int, *, vocabulary: int, outputs: int, device: torch.device | str = "cpu", seed: int = 0
) -> Batch:
    """Random token ids ``[rows, length]`` without padding, and labels ``[rows]`` (floating for one output)."""
    stream = generator(seed, "probe batch")
    ids = _ids(rows, length, vocabulary, stream)
    integer = torch.randint(0, max(outputs, 2), (rows,), generator=stream)
    labels = integer if outputs > 1 else integer.float()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def text_batch(
    rows: int, length: int, *, vocabulary: int, targets: int | None, decoder: bool = False,
    device: torch.device | str = "cpu", seed: int = 0,
) -> Batch:  # fmt: skip
    """Random token ids ``[rows, length]`` without padding, with next-token targets.

    Args:
        rows: Rows of the batch.
        length: Tokens of a row; beside an encoder's, the decoder reads rows of its own.
        vocabulary: Of the backbone.
        targets: Tokens of a row that carry a target, the last ones; all where None. Beside an encoder the length of
            the decoder's rows.
        decoder: Whether a decoder reads beside an encoder.
        device: Where the batch lies.
        seed: Of the stream.
    """
    stream = generator(seed, "probe batch")
    ids = _ids(rows, length, vocabulary, stream)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    # positions by arithmetic rather than by ``with_targets``: on tensors without data no label can be looked for
    if decoder:
        labels = _ids(rows, targets or length, vocabulary, stream)
        batch |= {"decoder_input_ids": functional.pad(labels, (1, 0))[:, :-1], "labels": labels}
        batch |= {"positions": torch.arange(labels.numel()), "targets": labels.flatten()}
    else:
        first = length - (targets or length - 1)
        columns = torch.arange(first - 1, length - 1) + length * torch.arange(rows)[:, None]
        batch["labels"] = torch.where(torch.arange(length) < first, IGNORED, ids)
        batch |= {"positions": columns.flatten(), "targets": ids[:, first:].flatten()}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _ids(rows: int, length: int, vocabulary: int, stream: torch.Generator) -> Tensor:
    return torch.randint(min(5, vocabulary - 1), vocabulary, (rows, length), generator=stream)


def set_dropout(model: nn.Module, probability: float) -> None:
    """Put ``probability`` in place of every dropout above 0 that ``model`` has, in place.

    Some families read their dropout from modules, others hand a number of the module or of the configuration to a
    function: so every ``nn.Dropout`` and every number whose name contains ``drop`` is set, also in configurations.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(vars(holder).items()) if hasattr(holder, "__dict__") else []:
                if "drop" in name and isinstance(value, float) and value:
                    setattr(holder, name, probability)
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            module.p = probability


def randomise(body: nn.Module, *, scale: float = 0.01, seed: int = 0) -> None:
    """Add N(0, ``scale``) to every trainable parameter: deltas start at zero and would make a merge vacuous.

    A GPU draws its own: one thread of the host takes a minute for three billion, in every build of full fine-tuning.
    """
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    cuda = next((parameter.device for parameter in trained if parameter.device.type == "cuda"), None)
    device = torch.device("cpu") if cuda is None else cuda
    stream = generator(seed, "probe noise", device)
    with torch.no_grad():
        for parameter in trained:
            noise = torch.empty(parameter.shape, device=device).normal_(0.0, scale, generator=stream)
            parameter.add_(noise.to(parameter))


PROVEN = 8
"""Tokens of the rows, one of them half padded, that show whether a method trains."""


def prove(step: TrainingStep, batch: Batch) -> None:
    """Train once on ``batch``, its last row half padded, and hold the gradients against what is set to train.

    The step is of no further use: its delta is moved off zero, so that a start at zero hides nothing.

    Raises:
        BenchError: It cannot take a padded row, or a parameter that is set to train does not.
    """
    step.batch = padded(batch)
    step.zero()
    randomise(step.model.body)
    with _refusing_padding():
        step.backward(step.forward())
    Reached(step.model, zeros_of(step.method, step.model.body)).see_values().check_values()


def prove_graph(step: TrainingStep) -> None:
    """As ``prove`` on tensors without data, which have a graph, but no values; call it inside ``without_data``.

    Raises:
        BenchError: It cannot take a padded row, or a parameter that is set to train is outside of the graph.
    """
    step.batch = padded(step.batch)
    step.zero()
    with _refusing_padding(), Padded(step.batch["attention_mask"]):
        loss = step.forward()
    Reached(step.model).see_graph(loss).check()


def hold(step: TrainingStep) -> None:
    """Take a few steps with a third party's method and hold its hooks against what they must leave alone.

    They are told to be the first of ``PROOF`` steps, the second and so on to the last, on the gradients of one
    backward pass. The step is of no further use.

    Raises:
        BenchError: One writes into a frozen weight of the backbone, or changes what trains.
    """
    if step.frozen is not None:
        step.zero()
        watched(step.model, step.frozen, step.trained, _parts(step))


def _parts(step: TrainingStep) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "a forward or backward pass", lambda: step.backward(step.forward())
    for number in range(1, PROOF + 1):
        yield "the optimizer", step.optimizer.step
        yield "after_step()", functools.partial(step.method.after_step, step.model.body, number, PROOF)


def padded(batch: Batch) -> Batch:
    """``batch`` with its last row half padded."""
    mask = batch["attention_mask"].clone()
    mask[-1, (mask.shape[1] + 1) // 2 :] = 0
    return batch | {"attention_mask": mask}


@contextlib.contextmanager
def _refusing_padding() -> Iterator[None]:
    try:
        yield
    except (BenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a third party's code says of a mask that it does not know
        reason = said(error)
        raise BenchError(f"it cannot train on a row with padding ({type(error).__name__}: {reason})") from error

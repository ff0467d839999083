"""Counts a method's training step on a backbone's shape without weights and without running it; measures nothing."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.count.attribution import Origin
from bench.count.fake import fakeify, without_data
from bench.count.ledger import Ledger, count_step
from bench.count.memory import measure_step, nbytes
from bench.count.step import TrainingStep, adapt, optimizer_groups, random_batch
from bench.method import Method
from bench.models import backbone
from bench.models.head import make_head, trainable
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Bytes, Flops, PathCounts, PeakMemory, SavedTensor, Trainable
from bench.schema.shape import Setting
from bench.training.loop import make_optimizer, optimizer_for

SMALLEST = 4096
"""Parameters with fewer elements keep float32 state."""
BLOCK = 256
"""Elements that share one scale."""


class EightBitState(torch.optim.Optimizer):
    """Holds what bitsandbytes' ``AdamW8bit`` holds: two bytes an element with one float32 scale a block for each.

    Its kernel works in place without temporaries (Dettmers et al., ICLR 2022, arXiv:2110.02861).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(list(groups), {"weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the state of parameters that have a gradient."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            if not state:
                state |= {name: value for moment in "12" for name, value in _moment(parameter, moment).items()}


def _moment(parameter: torch.Tensor, number: str) -> dict[str, torch.Tensor]:
    if parameter.numel() < SMALLEST:
        return {f"state{number}": torch.zeros_like(parameter, dtype=torch.float32)}
    scales = torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.float32, device=parameter.device)
    return {f"state{number}": torch.zeros_like(parameter, dtype=torch.uint8), f"absmax{number}": scales}


LARGEST = 10
"""Saved tensors that a record names."""
CUBLAS_WORKSPACE = 8_519_680
"""Bytes that cuBLAS takes from torch's allocator for its first product (32 MiB on Hopper)."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Per weight: 4 bits, one 8-bit scale for 64 weights, one float32 for 256 scales (Dettmers et al. 2023, section 3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """The exact part of what one method costs on one setting."""

    trainable: Trainable
    delta_bytes: int
    flops: Flops
    bytes: Bytes
    peak: PeakMemory
    largest_saved: tuple[SavedTensor, ...]
    backward_path: PathCounts


def count(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Counts:
    """Count parameters, FLOPs, saved tensors and peaks of the second of two training steps.

    FLOPs are counted in the first step, memory in the second: counting products holds tensors that a step would free.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """
    build = _builder(spec, method, config, setting)
    with without_data(setting.device):
        step = build()
        ledger = count_step(step.model, step.origin, step.forward, step.backward)
        step.optimize()
        held, peak, _ = measure_step(step)
        delta = nbytes(method.delta(method.finalize(step.model.body)).values())
        return summary(step.model, ledger, *_corrected(held, peak, step.origin, setting), delta)


def ledger_of(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Ledger:
    """FLOPs and saved tensors of one training step alone.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """
    build = _builder(spec, method, config, setting)
    with without_data(setting.device):
        step = build()
        return count_step(step.model, step.origin, step.forward, step.backward)


def peak_of(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> PeakMemory:
    """Peaks of one training step alone, in half the time of ``count``."""
    build = _builder(spec, method, config, setting)
    with without_data(setting.device):
        step = build()
        held, peak, _ = measure_step(step)
        return _corrected(held, peak, step.origin, setting)[1]


def summary(model: Any, ledger: Ledger, held: Bytes, peak: PeakMemory, delta_bytes: int) -> Counts:
    """Bring the figures of a counted step of ``model``, which has ``body`` and ``head``, together."""
    return Counts(
        trainable=Trainable(method=trainable(model.body), head=trainable(model.head)),
        delta_bytes=delta_bytes,
        flops=ledger.flops,
        bytes=held.model_copy(update={"saved_activations": ledger.saved_activations}),
        peak=peak,
        largest_saved=ledger.saved[:LARGEST],
        backward_path=ledger.backward_path,
    )


def _builder(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Callable[[], TrainingStep]:
    """Build the model on the meta device, now; the step on fake tensors once called among them.

    Modules cannot change their type or device among fake tensors, and some families draw weights by value.
    """
    shape = dataclasses.replace(spec, weights="random")  # no file of weights is read
    bare = backbone.load(shape, device="meta", dtype=setting.loaded, attention=setting.attention)
    vocabulary: int = bare.config.vocab_size  # type: ignore[union-attr, assignment]
    origin, model = adapt(bare, method, config, make_head(bare, setting.outputs), setting)

    def build() -> TrainingStep:
        origin.replaced(fakeify(model))
        groups = optimizer_groups(model, method)
        eight_bit = setting.optimizer == "adamw_8bit"  # its library has no fake kernels
        make = EightBitState if eight_bit else functools.partial(make_optimizer, form=setting.optimizer)
        optimizer = optimizer_for(method, model.body, groups, make=make)
        batch = random_batch(setting.batch, setting.length, vocabulary=vocabulary, outputs=setting.outputs)
        return TrainingStep(method, config, model, origin, optimizer, batch, setting.autocast)

    return build


def _corrected(held: Bytes, peak: PeakMemory, origin: Origin, setting: Setting) -> tuple[Bytes, PeakMemory]:
    """Add what no fake tensor shows: 4-bit storage of frozen weights, CUDA's workspace."""
    if setting.weights == "nf4":
        frozen = [w for m, place in origin.modules.items() if place.startswith("layer_") for w in _frozen_linear(m)]
        saved = sum(w.nbytes - round(NF4_BYTES * w.numel()) for w in frozen)
        held = held.model_copy(update={"weights": held.weights - saved})
        # one matrix at a time is unpacked for its product
        peak = _shifted(peak, -saved, max((w.nbytes for w in frozen), default=0))
    return held, with_workspace(peak, setting.device)


def with_workspace(peak: PeakMemory, device: str) -> PeakMemory:
    """``peak`` with the workspace that the first product on CUDA takes and keeps."""
    return _shifted(peak, CUBLAS_WORKSPACE, 0) if device == "cuda" else peak


def _shifted(peak: PeakMemory, always: int, in_products: int) -> PeakMemory:
    forward, backward = peak.forward + always + in_products, peak.backward + always + in_products
    optimizer = peak.optimizer + always
    step = max(forward, backward, optimizer)
    return PeakMemory(forward=forward, backward=backward, optimizer=optimizer, step=step)


def _frozen_linear(module: nn.Module) -> list[torch.Tensor]:
    weight = module.weight if isinstance(module, nn.Linear | Conv1D) else None
    return [weight] if isinstance(weight, torch.Tensor) and not weight.requires_grad else []

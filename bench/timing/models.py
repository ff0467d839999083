"""Builds what a probe measures: adapted models, training steps and deployed forms, each afresh."""

import copy
import functools
from typing import Any, NamedTuple

import torch
from torch import nn

from bench import registry
from bench.count.attribution import Origin
from bench.count.memory import nbytes
from bench.count.step import TrainingStep, adapt, kept_narrow, optimizer_groups, randomise, step_batch
from bench.errors import BenchError
from bench.method import Method
from bench.models.head import TaskModel, check_positions
from bench.models.objective import bare_for, make_objective
from bench.schema.jobs import Probe
from bench.schema.shape import Setting
from bench.timing import inference as latency
from bench.timing.clock import Seen, StepClock
from bench.training.contract import Contract
from bench.training.loop import make_optimizer, optimizer_for


class Adapted(NamedTuple):
    """An adapted backbone under a head."""

    method: Method
    config: Any
    origin: Origin
    """What the backbone was."""
    model: TaskModel
    contract: Contract | None
    """What the method must keep, where that is asked."""


class Models:
    """What one probe measures, built from one pristine backbone with the same seeds.

    Raises:
        BenchError: The probe asks for a device that is not there.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._specs = {spec.label: spec for spec in probe.methods}
        self.device = device_of(probe)
        self.setting = Setting(**probe.step(), device=self.device, outputs=probe.outputs)
        self._pristine = bare_for(probe.backbone, self.setting)

    def adapt(self, label: str, *, checked: bool = False) -> Adapted:
        """Method ``label`` on a fresh backbone; ``checked`` against what it promises of its start.

        Raises:
            BenchError: The family cannot carry it, or its start is not what it promises.
        """
        spec = self._specs[label]
        method, config = registry.make(spec.name, spec.config, spec.label)
        writes = self.probe.generation
        longest = max(self.probe.length, self.probe.latency_length, writes.longest if writes else 0)
        check_positions(self._pristine, longest, method.reserved_positions(config), option="length", at=spec.label)
        bare = self.fresh()
        vocabulary: int = self._pristine.config.vocab_size  # type: ignore[union-attr, assignment]
        contract = Contract(method, config, vocabulary, self.fresh) if checked else None
        if contract:
            contract.bare(bare)
        applied = contract.adapted if contract else lambda body: None
        origin, model = adapt(bare, method, config, self.head(), self.setting, applied)
        return Adapted(method, config, origin, model, contract)

    def fresh(self) -> nn.Module:
        """The bare backbone."""
        return copied_to(self.device, self._pristine)

    @property
    def bare_bytes(self) -> int:
        """Bytes of the bare backbone's parameters and buffers."""
        return nbytes([*self._pristine.parameters(), *self._pristine.buffers()])

    def head(self) -> nn.Module:
        """What stands on the backbone."""
        return make_objective(self._pristine, self.setting).to(self.device)

    def batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        """Random rows ``[rows, length]``; shorter ones than a step's carry targets as far as they reach.

        Rows of a decoder beside an encoder have a length of their own.
        """
        targets, beside = self.setting.target_tokens, self._pristine.config.is_encoder_decoder  # type: ignore[union-attr]
        targets = targets if targets is None or beside else min(targets, length - 1)
        shape = {"batch": rows, "length": length, "target_tokens": targets}
        return step_batch(self._pristine.config, self.setting.model_copy(update=shape), device=self.device)

    def row(self, tokens: int) -> torch.Tensor:
        """One random row ``[1, T]``."""
        return self.rows(1, tokens)

    def rows(self, rows: int, tokens: int) -> torch.Tensor:
        """Random rows ``[B, T]`` without targets, from one token on."""
        shape = {"batch": rows, "length": max(2, tokens), "target_tokens": 1}
        form = self.setting.model_copy(update=shape)
        return step_batch(self._pristine.config, form, device=self.device)["input_ids"][:, :tokens]

    def step(self, label: str, *, noise: bool, checked: bool = False) -> TrainingStep:
        """A training step of method ``label``; ``noise`` moves its delta off zero, ``checked`` is for `adapt`."""
        method, config, origin, model, contract = self.adapt(label, checked=checked)
        if noise:
            randomise(model.body)
        groups = optimizer_groups(model, method, self.probe.learning_rate, self.probe.head_learning_rate)
        make = functools.partial(make_optimizer, form=self.probe.optimizer)
        notes = kept_narrow(method, model, origin, self.setting)
        optimizer = optimizer_for(method, model.body, groups, make=make, notes=notes)
        batch = self.batch(self.probe.batch, self.probe.length)
        frozen = contract.starts(model.body) if contract else None
        form = self.setting
        return TrainingStep(
            method, config, model, origin, optimizer, batch, form.autocast, tuple(notes), frozen, form.clipping
        )

    def clock(self, label: str, seen: Seen | None = None) -> StepClock:
        """A training step of method ``label``, its delta moved off zero, ready to be timed."""
        step = self.step(label, noise=True)
        if self.probe.compile:
            step.model.compile()
        return StepClock(step, self.device, seen)

    def deployed(self, label: str, *, checked: bool = False) -> latency.Deployed:
        """Method ``label`` ready for inference, its delta moved off zero; ``checked`` against what a method must keep.

        Raises:
            BenchError: A third party's finalize, merge or load_delta loses what the method computes.
        """
        method, _, _, model, contract = self.adapt(label, checked=checked)
        self._narrow(model)  # what trained under autocast is deployed without
        randomise(model.body)
        return latency.deploy(method, model.body, model.head, contract)

    def _narrow(self, model: TaskModel) -> None:
        """Turn ``model`` into the type of the backbone, but for the backbone's own buffers, which have theirs.

        Rotary frequencies are float32 beside weights in bfloat16: rounded, the positions of a merged model would not be
        those of the base.
        """
        own = tuple(f".{name}" for name, _ in self._pristine.named_buffers())
        kept = [(name, buffer) for name, buffer in model.named_buffers() if name.endswith(own or ("\0",))]
        model.to(self.setting.loaded)
        for name, buffer in kept:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, buffer)

    def base(self) -> TaskModel:
        """The bare backbone under the head."""
        return TaskModel(self.fresh(), self.head()).eval()


def copied_to(device: str, module: nn.Module) -> nn.Module:
    """A copy of ``module`` on ``device``; weights go there at once, not by way of main memory."""
    parameters = {
        id(held): nn.Parameter(held.detach().to(device, copy=True), requires_grad=held.requires_grad)
        for held in module.parameters()
    }
    buffers = {id(held): held.detach().to(device, copy=True) for held in module.buffers()}
    return copy.deepcopy(module, parameters | buffers)


def device_of(probe: Probe) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes CUDA where there is one.

    Raises:
        BenchError: The probe asks for CUDA and there is none.
    """
    if probe.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if probe.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("device cuda is not available here; use cpu or auto")
    return probe.device

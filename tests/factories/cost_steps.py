"""Builds small training steps that the cost tests count, follow and time, on real and on fake tensors."""

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from bench import registry
from bench.count.count import Counts, count, summary
from bench.count.ledger import Ledger, count_step
from bench.count.memory import measure_step, nbytes
from bench.count.step import TrainingStep, adapt, optimizer_groups, random_batch, step_batch
from bench.method import Method
from bench.models.head import make_head
from bench.models.objective import bare_for, make_objective
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from bench.training.loop import make_optimizer, optimizer_for
from tests.methods.families import CONFIGS, tiny

ROWS, LENGTH, WIDTH, FFN, LAYERS, HEADS = 4, 16, 32, 64, 2, 4
"""Shape of every step; width, FFN width, layers and heads are those of ``tests.methods.families.tiny``."""


def training_step(name: str, family: str = "bert", attention: str = "sdpa", **config: object) -> TrainingStep:
    """Method ``name`` on a tiny backbone, with dropout off and an optimizer at rate 1e-3."""
    backbone = tiny(family, attn_implementation=attention)
    method, parsed = registry.make(name, config)
    origin, model = adapt(backbone, method, parsed, make_head(backbone, 2), Setting(batch=ROWS, length=LENGTH))
    optimizer = make_optimizer(optimizer_groups(model, method))
    return TrainingStep(method, parsed, model, origin, optimizer, random_batch(ROWS, LENGTH, vocabulary=96, outputs=2))


def tiny_shape(family: str, folder: Path) -> BackboneSpec:
    """The tiny backbone of ``family`` as a user names it, by the path of a ``config.json``, which is written."""
    model_type, values = CONFIGS[family]
    path = folder / f"{family}.json"
    path.write_text(json.dumps({"model_type": model_type, **values}))
    return BackboneSpec(name=str(path), weights="random")


def real_step(shape: BackboneSpec, name: str, setting: Setting, **config: object) -> TrainingStep:
    """What ``bench.count.count.count`` counts without data, built on real tensors."""
    bare = bare_for(shape, setting)
    method, parsed = registry.make(name, config)
    origin, model = adapt(bare, method, parsed, make_objective(bare, setting), setting)
    make = functools.partial(make_optimizer, form=setting.optimizer)
    notes: list[str] = []
    optimizer = optimizer_for(method, model.body, optimizer_groups(model, method), make=make, notes=notes)
    batch = step_batch(bare.config, setting)
    said = tuple(notes)
    return TrainingStep(
        method,
        parsed,
        model,
        origin,
        optimizer,
        batch,
        setting.autocast,
        said,
        clipping=setting.clipping,
        padded=setting.padded,
    )


def real_counts(step: TrainingStep) -> Counts:
    """The counts of a real step, taken in the order of ``count``."""
    # before the first step, as without data: AdaLoRA's ranks that a step prunes leave its delta
    delta = nbytes(step.method.delta(step.method.finalize(copy.deepcopy(step.model.body))).values())
    ledger = count_step(step.model, step.origin, step.forward, step.backward, step.optimize)
    held, peak, _ = measure_step(step)
    return summary(step.model, ledger, held, peak, delta, step.notes)


def ledger(name: str, family: str = "bert", attention: str = "sdpa", **config: object) -> Ledger:
    """The ledger of ``training_step``; the same one is counted once."""
    return _ledger(name, family, attention, tuple(sorted(config.items())))


@functools.cache
def _ledger(name: str, family: str, attention: str, config: tuple[tuple[str, object], ...]) -> Ledger:
    step = training_step(name, family, attention, **dict(config))
    return count_step(step.model, step.origin, step.forward, step.backward)


def fake_counts(shape: BackboneSpec, name: str, setting: Setting, **config: object) -> Counts:
    """``count`` of a method by name; the same one is counted once."""
    return _fake_counts(shape, name, setting, tuple(sorted(config.items())))


@functools.cache
def _fake_counts(shape: BackboneSpec, name: str, setting: Setting, config: tuple[tuple[str, object], ...]) -> Counts:
    return count(shape, *registry.make(name, dict(config)), setting)


def here() -> Any:
    """Probes count and time in this process: forks made later inherit what torch keeps of the shapes it has seen."""
    return mock.patch("bench.count.isolation.forkable", lambda: False)


def counted_once(counted: Callable[..., Any]) -> Callable[..., Any]:
    """``count`` or one of its parts, which counts one built-in method on one setting once, whoever asks.

    For tests of what is made of counts; a test's own method, which may change between two calls, is counted anew.
    """
    held: dict[tuple[object, ...], Any] = {}

    def known(spec: BackboneSpec, method: Method, config: Any, setting: Setting, **more: Any) -> Any:
        if not type(method).__module__.startswith("methods."):
            return counted(spec, method, config, setting, **more)
        key = (spec, type(method), repr(config), repr(setting), repr(more))
        if key not in held:
            held[key] = counted(spec, method, config, setting, **more)
        return held[key]

    return known

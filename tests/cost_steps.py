"""Builds small training steps that the cost tests count, follow and time."""

import torch

from bench import registry
from bench.cost.places import Origin
from bench.cost.step import TrainingStep, random_batch, set_dropout
from bench.head import TaskModel, make_head
from bench.train import head_groups, make_optimizer
from tests.methods.families import tiny

ROWS, LENGTH, WIDTH, FFN, LAYERS = 4, 16, 32, 64, 2
"""Shape of every step; width, FFN width and layers are those of ``tests.methods.families.tiny``."""


def training_step(name: str, family: str = "bert", attention: str = "sdpa", **config: object) -> TrainingStep:
    """Method ``name`` on a tiny backbone, with dropout off and an optimizer at rate 1e-3."""
    backbone = tiny(family, attn_implementation=attention)
    origin = Origin(backbone)
    method, parsed = registry.make(name, config)
    head = make_head(backbone, 2, dropout=0.0)
    torch.manual_seed(0)
    body = method.apply(backbone, parsed)
    model = TaskModel(body, head).train()
    set_dropout(model, 0.0)
    optimizer = make_optimizer(method.param_groups(body, 1e-3) + head_groups(head, 1e-3))
    batch = random_batch(ROWS, LENGTH, vocabulary=96, outputs=2)
    return TrainingStep(method, parsed, model, origin, optimizer, batch)

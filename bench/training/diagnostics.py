"""Diagnostics of a training: norms of its first gradients, directions of what it adds to a weight, learned vectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.anatomy import anatomy, oriented
from bench.errors import BenchError
from bench.schema.record import Directions, InputVector, InputVectors, Neighbour
from bench.stats.subspaces import Vectors, angles, overlap


class GradientNorms:
    """Called after every backward pass, once the gradients are whole and before they are clipped.

    Norms stay on their device until ``read``: a step does not wait for them.

    Args:
        parts: Trainable parameters of ``body`` by part, each in one part; an empty part has no norm.
        body: The adapted backbone.
        steps: How many of the first steps are noted.

    Raises:
        RuntimeError: The parts are not exactly the trainable parameters.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Parameter]], body: nn.Module, steps: int) -> None:
        given = [id(p) for parameters in parts.values() for p in parameters]
        wanted = {id(p) for p in body.parameters() if p.requires_grad}
        if len(given) != len(set(given)) or set(given) != wanted:
            raise BenchError("parts() of the method does not hold exactly the trainable parameters, each once")
        self._parts = {name: list(parameters) for name, parameters in parts.items() if parameters}
        self._steps = steps
        self._noted: dict[str, list[Tensor]] = {name: [] for name in self._parts}

    def after(self, step: int) -> None:
        """Note the norm of every part at ``step``, which counts from 1."""
        if step <= self._steps:
            for name, parameters in self._parts.items():
                self._noted[name].append(_norm(parameters))

    def read(self) -> dict[str, tuple[float, ...]]:
        """The norm of each part at each step noted so far."""
        return {name: tuple(torch.stack(found).tolist()) for name, found in self._noted.items() if found}


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together; a parameter without one adds nothing."""
    # in double: squares of finite gradients do not overflow, and exact zero stays exact
    found = [torch.linalg.vector_norm(p.grad, dtype=torch.float64) for p in parameters if p.grad is not None]
    if not found:
        return torch.zeros((), dtype=torch.float64, device=parameters[0].device)
    whole: Tensor = torch.linalg.vector_norm(torch.stack(found))
    return whole


ROLES = ("query", "value")
"""LoRA's usual targets: what a method does to other maps is not compared."""


@dataclass(frozen=True)
class Found:
    """Of one trained model."""

    figures: dict[str, Directions]
    """By map, such as ``0.query``, that of cross-attention ``0.cross_query``."""
    left: dict[str, Vectors]
    """Leading left singular vectors of the update by map, ``[out, leading]``, falling."""


def weights(backbone: nn.Module) -> dict[str, Tensor]:
    """A copy of each compared weight ``[out, in]`` of a bare backbone, by layer and role."""
    found = {}
    for layer, projection in anatomy(backbone).projections(ROLES):
        weight = oriented(backbone.get_submodule(projection.path))
        rows = weight[projection.rows(weight.shape[0])].detach()
        name = f"{layer}.{projection.role}"
        found[name if name not in found else f"{layer}.cross_{projection.role}"] = rows.to(
            "cpu", copy=True
        )  # where they wait for training to end
    return found


def directions(before: Mapping[str, Tensor], after: Mapping[str, Tensor], leading: int) -> Found:
    """Compare what was added to each weight with the weight itself; a map to which nothing was added is left out.

    Args:
        before: Weights ``[out, in]`` as `weights` gives them.
        after: The same weights once trained.
        leading: Directions to compare; an update of lower rank has no more than its rank.
    """
    figures, left = {}, {}
    for name, weight in before.items():
        update = after[name].double() - weight.double()
        if update.any():
            figures[name], left[name] = _compared(weight.double(), update, leading)
    return Found(figures, left)


def _compared(weight: Tensor, update: Tensor, leading: int) -> tuple[Directions, Vectors]:
    vectors, values, _ = torch.linalg.svd(update, full_matrices=False)
    # what merging rounds in float32 is noise of full rank: its directions are nobody's
    rounding = max(update.shape) * torch.finfo(torch.float32).eps * float(weight.abs().max())
    leading = max(1, min(leading, int((values > rounding).sum())))
    mine = vectors[:, :leading].numpy(force=True)
    own = torch.linalg.svd(weight, full_matrices=False).U[:, :leading].numpy(force=True)
    energy = values.square()
    found = Directions(
        leading=leading, outputs=len(mine), relative_norm=float(update.norm() / weight.norm()),
        stable_rank=float(energy.sum() / energy[0]), leading_share=float(energy[:leading].sum() / energy.sum()),
        with_weight=overlap(mine, own), angle_to_weight=float(angles(mine, own)[0]),
    )  # fmt: skip
    return found, np.ascontiguousarray(mine, dtype=np.float16)  # a file is written in the order of its memory


SAMPLE = 512
"""Words, and vectors of random direction, that the yardsticks are means over."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the norms of the words."""
Spell = Callable[[list[int]], list[str | None]]


class Words:
    """The word embeddings of a frozen backbone, as it reads them, and what lies near a vector.

    Args:
        embedding: Gives ``[n, d]`` for ids ``[n]``; Gemma's scales its rows.
        spell: Spells ids, as a tokenizer's ``convert_ids_to_tokens``.
    """

    def __init__(self, embedding: nn.Module, spell: Spell) -> None:
        weight = embedding.weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            self.table = embedding(torch.arange(len(weight), device=weight.device)).float()
        self._directions = F.normalize(self.table, dim=1)
        self._spell = spell

    def nearest(self, vectors: Tensor, number: int) -> list[tuple[Neighbour, ...]]:
        """The words of the largest cosines to each of ``vectors [p, d]``, the nearest first."""
        cosines = F.normalize(vectors, dim=1) @ self._directions.T
        values, ids = cosines.topk(min(number, len(self.table)), dim=1)
        return [
            tuple(
                Neighbour(token=token or f"#{at}", cosine=value)
                for token, at, value in zip(self._spell(row), row, close, strict=True)
            )
            for row, close in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    def yardsticks(self) -> dict[str, float]:
        """What words have among themselves, and what a vector has that is none: fields of `InputVectors`.

        The same in every cell of a backbone, and no random number of the training is drawn.
        """
        luck = torch.Generator().manual_seed(0)
        rows, width = self.table.shape
        some = torch.randperm(rows, generator=luck)[:SAMPLE].to(self.table.device)
        words = self._directions[some] @ self._directions.T
        words[torch.arange(len(some)), some] = -1.0  # a word is not its own neighbour
        strange = torch.randn(SAMPLE, width, generator=luck).to(self.table)
        chance = F.normalize(strange, dim=1) @ self._directions.T
        return {
            "word_distance": float(F.pdist(self.table[some]).mean()),
            "word_nearest": float(words.amax(1).mean()), "random_nearest": float(chance.amax(1).mean()),
        }  # fmt: skip


def input_vectors(words: Words, start: Tensor, end: Tensor, number: int) -> InputVectors:
    """Hold learned vectors ``[p, d]`` before and after training against the words.

    Args:
        words: Of the backbone that reads them.
        start: Before the first step.
        end: Once trained.
        number: Nearest words of each.
    """
    start, end = start.to(words.table), end.to(words.table)
    norms = words.table.norm(dim=1)
    columns = (
        start.norm(dim=1).tolist(), end.norm(dim=1).tolist(), (end - start).norm(dim=1).tolist(),
        words.nearest(start, number), words.nearest(end, number),
    )  # fmt: skip
    return InputVectors(
        vectors=tuple(
            InputVector(start_norm=before, norm=after, moved=moved, start_nearest=first, nearest=last)
            for before, after, moved, first, last in zip(*columns, strict=True)
        ),
        words=len(norms), word_norms=tuple(np.quantile(norms.numpy(force=True), QUANTILES).tolist()),
        **words.yardsticks(),
    )  # fmt: skip

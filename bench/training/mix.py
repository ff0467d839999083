"""Rows of general text among those of a task: what a cell trains on where its recipe has a mix."""

import hashlib
import itertools
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.models.head import generator
from bench.models.tokenizer import Tokenizer
from bench.schema.jobs import Cell
from bench.schema.record import Mixed
from bench.tasks import plain
from bench.training.text import TextRows


class MixedBatches:
    """Batches of rows of a task with rows of general text among them, of which every token but the first is a target.

    Rows of the task come in the order that they have without a mix; which places are of general text, and which of its
    rows stand there, is drawn from the stream (seed, "mix"). Where rows do not fill all steps, some batches have one
    row less.

    Args:
        cell: With a general text and a mix in its recipe.
        rows: Of its task, for a decoder.
        tokenizer: The backbone's own.

    Raises:
        BenchError: The text changed since the run was planned, or has no row.
    """

    def __init__(self, cell: Cell, rows: TextRows, tokenizer: Tokenizer) -> None:
        assert cell.general is not None, "a recipe with a mix has a general text"
        read = cell.retention.texts if cell.retention else ()
        self._text = plain.apart(plain.read(cell.general), [plain.read(one) for one in read])
        self._name, self._seed, self._steps = cell.general.name, cell.seed, int(cell.recipe["steps"])
        mix = cell.recipe["mix"]
        self._domain, self._general = int(mix["domain_rows"]), int(mix["general_rows"])
        self._own, self._rows = len(rows), rows.beside(pieces(self._text, tokenizer, mix["length"]))
        self._order = itertools.chain.from_iterable(rows.order(cell.recipe["batch_size"], cell.seed))
        self._targets = {"domain": 0, "general": 0}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        stream, total = generator(self._seed, "mix"), self._domain + self._general
        places = set(torch.randperm(total, generator=stream)[: self._general].tolist())
        general = self._drawn(stream)
        for step in range(self._steps):
            start, end = (total * at // self._steps for at in (step, step + 1))
            chosen = [next(general) if place in places else next(self._order) for place in range(start, end)]
            for row in chosen:
                self._targets["general" if row >= self._own else "domain"] += self._rows.targets_of(row)
            yield self._rows.batch(chosen)

    def _drawn(self, stream: torch.Generator) -> Iterator[int]:
        """Rows of general text, all of them once in a random order before one comes again."""
        while True:
            yield from (self._own + torch.randperm(len(self._rows) - self._own, generator=stream)).tolist()

    def used(self) -> Mixed:
        """What has been mixed in, once all batches were taken."""
        content = self._text.encode()
        return Mixed(
            text=self._name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content),
            general_rows=self._general, domain_rows=self._domain,
            general_targets=self._targets["general"], domain_targets=self._targets["domain"],
        )  # fmt: skip


def pieces(text: str, tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """``text`` as rows of ``length`` tokens at most, two at least; none goes beyond a paragraph.

    Raises:
        BenchError: It has no such row.
    """
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    ids = tokenizer(parts, truncation=False, max_length=0, add_special_tokens=False)["input_ids"] if parts else []
    cut = [list(of[at : at + length]) for of in ids for at in range(0, len(of), length)]
    if not (found := [row for row in cut if len(row) > 1]):
        raise BenchError("the text of recipe.mix has no paragraph of two tokens; name a longer one")
    return found

"""What a cell keeps of plain texts: bits per byte before, on the way and after, and whether the backbone is left."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bench.models.head import TaskModel, check_positions
from bench.models.text import TextHead, Window, windows
from bench.schema.jobs import Cell
from bench.schema.record import Retention
from bench.tasks import plain
from bench.training.frozen import Mark, mark, weights_in
from bench.training.text import bits_of


class PlainReader:
    """Reads the plain texts of a cell; of a cell without any it does nothing.

    Args:
        cell: What is trained.
        bare: The backbone before anything is done to it.
        tokenizer: Its own.
        reserved: Positions that the method takes for itself.

    Raises:
        BenchError: A text changed since the run was planned, or a window of it does not fit beside the prompt.
        NonFiniteLoss: A logit of the backbone is NaN or infinite.
    """

    def __init__(self, cell: Cell, bare: Any, tokenizer: Any, reserved: int) -> None:
        self._asked, self._device, self._config = cell.retention, cell.device, bare.config
        self._dtype = cell.recipe.get("dtype", "float32")
        self._own: dict[str, Tensor] = {}
        self._before: Mapping[str, float] = {}
        self._cut: dict[str, list[Window]] = {}
        if self._asked is None:
            return
        context = check_positions(bare, self._asked.context, reserved, option="context", at="retention")
        self._cut = {text.name: windows(tokenizer, plain.read(text), context) for text in self._asked.texts}
        self._own = dict(bare.named_parameters())
        self._marks: dict[str, Mark] = {name: mark(weight) for name, weight in self._own.items()}
        self._before = self._asked.before or self.bits(bare)

    def bits(self, body: nn.Module) -> dict[str, float]:
        """Bits per byte of each text for a language model, bare or adapted.

        Raises:
            NonFiniteLoss: A logit is NaN or infinite.
        """
        model = TaskModel(body, TextHead(self._config, "target"))
        return {name: bits_of(model, cut, device=self._device, dtype=self._dtype) for name, cut in self._cut.items()}

    def on_the_way(self, body: nn.Module) -> dict[str, float]:
        """As ``bits``, where the suite asks for readings at the points of the curve."""
        return self.bits(body) if self._asked is not None and self._asked.on_the_way else {}

    def kept(self, body: nn.Module) -> dict[str, Retention]:
        """By text, what a trained model needs beside what the backbone needed."""
        if self._asked is None:
            return {}
        after = self.bits(body)
        return {
            text.name: Retention(
                before=self._before[text.name], after=after[text.name], bytes=text.bytes,
                context=self._asked.context, sha256=text.sha256,
            )
            for text in self._asked.texts
        }  # fmt: skip

    def backbone_kept(self, body: nn.Module) -> bool | None:
        """Whether ``body`` holds every weight of the backbone, each with the bits that it had before training."""
        if self._asked is None:
            return None
        found = weights_in(body, self._own)
        return found.keys() == self._own.keys() and all(mark(w) == self._marks[name] for name, w in found.items())

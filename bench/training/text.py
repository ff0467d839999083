"""Rows of text as batches of prompt and target, and the score of a language model by teacher forcing."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.errors import BenchError
from bench.models.head import TaskModel
from bench.models.text import IGNORED, Window, bits_per_byte, decoder_start, with_targets
from bench.models.tokenizer import Tokenizer
from bench.tasks.rows import Rows
from bench.training.evaluate import Batches
from bench.training.loop import NonFiniteLoss, autocast


class TextRows(Batches):
    """Tokenised prompts with what is to be written after them, padded a batch at a time.

    A decoder reads prompt, target and end token as one row; an encoder-decoder reads the prompt and writes the target.
    Prompt and target are tokenised apart, as they are when the target has yet to be written.

    Args:
        rows: Prompts and targets.
        tokenizer: The backbone's own.
        max_length: Tokens of a row at most; a longer prompt loses its beginning, of an encoder-decoder its end.
        config: The backbone's configuration.
        device: Where batches go.

    Raises:
        BenchError: The tokenizer has no end token, or a target leaves no room for a prompt.
    """

    def __init__(self, rows: Rows, tokenizer: Tokenizer, max_length: int, *, config: Any, device: str) -> None:
        self.labels = rows.labels
        self._device, self._padding = device, tokenizer.pad_token_id
        self._start: int = decoder_start(config) if config.is_encoder_decoder else -1
        self.shifted = not config.is_encoder_decoder
        """Whether the state at a token tells the next one."""
        prompts, targets = tokenised(rows, tokenizer, shifted=self.shifted)
        self._rows = [
            self._fitted(row, prompt, target, max_length)
            for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
        ]

    def _fitted(self, row: int, prompt: list[int], target: list[int], most: int) -> tuple[list[int], list[int]]:
        room = most - len(target) if self.shifted else most
        if room < 1 or len(target) > most:
            raise BenchError(
                f"row {row} has a target of {len(target)} tokens with its end, which leaves no room for a prompt in "
                f"max_length = {most}; raise it"
            )
        return (prompt[-room:] if self.shifted else prompt[:room]), target

    def __len__(self) -> int:
        return len(self._rows)

    def _length(self, row: int) -> int:
        return sum(map(len, self._rows[row]))

    def targets_of(self, row: int) -> int:
        """Tokens of a row that the loss is of."""
        return len(self._rows[row][1])

    def beside(self, general: Sequence[Sequence[int]]) -> "TextRows":
        """These rows, and after them rows of plain text, of which every token but the first is to be written."""
        every = copy.copy(self)
        every._rows = [*self._rows, *(([ids[0]], [*ids[1:]]) for ids in general)]
        return every

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Batch of the given rows ``[B, T]``, padded on the right, with positions and targets ``[N]`` of the loss."""
        chosen = [self._rows[i] for i in indices]
        if self.shifted:
            ids = [prompt + target for prompt, target in chosen]
            labels = _padded([[IGNORED] * len(prompt) + target for prompt, target in chosen], IGNORED)
        else:
            ids, labels = [prompt for prompt, _ in chosen], _padded([target for _, target in chosen], IGNORED)
        batch = {
            "input_ids": _padded(ids, self._padding),
            "attention_mask": _padded([[1] * len(row) for row in ids], 0),
            "labels": labels,
        }
        if not self.shifted:
            written = [[self._start, *target[:-1]] for _, target in chosen]
            batch["decoder_input_ids"] = _padded(written, self._padding)
        return {name: tensor.to(self._device) for name, tensor in with_targets(batch, shifted=self.shifted).items()}


def tokenised(rows: Rows, tokenizer: Tokenizer, *, shifted: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of each prompt, and of each target with the end token.

    Args:
        rows: Prompts and targets.
        tokenizer: The backbone's own.
        shifted: Whether the target continues the prompt, which then carries no end token.

    Raises:
        BenchError: The tokenizer has no end token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise BenchError("the tokenizer has no eos_token, the end of what is written; name it in tokenizer_config.json")
    prompts = tokenizer([texts[0] for texts in rows.texts], truncation=False, max_length=0)["input_ids"]
    if shifted:
        prompts = [ids[:-1] if ids and ids[-1] == end else ids for ids in prompts]
    targets = tokenizer(list(rows.labels), truncation=False, max_length=0, add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in prompts], [[*ids, end] for ids in targets]


def _padded(rows: list[list[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def evaluate_text(
    model: TaskModel, rows: TextRows, batch_size: int = 16, *, dtype: str = "float32"
) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Score every row by teacher forcing in eval mode, which the model is left in.

    A row is right where each of its target tokens and the end token is the arg max after those before it: just where
    greedy decoding writes it.

    Args:
        model: Adapted language model with its ``TextHead``.
        rows: What to score.
        batch_size: Rows at a time; changes no figure beyond rounding.
        dtype: As the recipe has it.

    Returns:
        Columns of the predictions sidecar (``row``, ``label`` 1, ``prediction`` 1 where the row is right, else 0,
        ``nats`` of its target, ``tokens`` of its target with the end), and the metrics ``exact_match`` and
        ``answer_nats``, the mean cross-entropy of a target token.

    Raises:
        NonFiniteLoss: A logit is NaN or infinite: the last step went astray, after its loss was taken.
    """
    model.eval()
    found: dict[int, tuple[int, float, int]] = {}
    with torch.no_grad():
        for indices, batch in rows.by_length(batch_size):
            with autocast(batch["labels"].device, dtype):
                hidden = model.states(batch)
                states = hidden.flatten(0, 1).index_select(0, batch["positions"])
                logits = model.head.logits(states, model.body)  # type: ignore[operator]
            nats = torch.nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="none").cpu()
            if not torch.isfinite(nats).all():
                raise NonFiniteLoss("the trained model predicts NaN or infinity; a lower learning rate may help")
            right = (logits.argmax(dim=-1) == batch["targets"]).cpu()
            of_row = (batch["positions"] // hidden.shape[1]).cpu()
            for place, index in enumerate(indices):
                mine = of_row == place
                found[index] = (int(right[mine].all()), float(nats[mine].sum()), int(mine.sum()))
    ordered = [found[i] for i in range(len(rows))]
    columns: dict[str, list[Any]] = {
        "row": list(range(len(rows))), "label": [1] * len(rows), "prediction": [row[0] for row in ordered],
        "nats": [row[1] for row in ordered], "tokens": [row[2] for row in ordered],
    }  # fmt: skip
    tokens = sum(columns["tokens"])
    return columns, {
        "exact_match": sum(columns["prediction"]) / len(rows), "answer_nats": math.fsum(columns["nats"]) / tokens,
    }  # fmt: skip


def bits_of(model: TaskModel, cut: Sequence[Window], *, device: str, dtype: str = "float32") -> float:
    """Bits that a language model, adapted or bare, needs for a byte of a plain text.

    Args:
        model: It with its ``TextHead``, on ``device``; read in eval mode; its body is left in the mode it was in.
        cut: The text (see ``bench.models.text.windows``).
        device: Where the model is.
        dtype: As the recipe has it.

    Raises:
        NonFiniteLoss: A logit is NaN or infinite.
    """

    def logits_of(ids: Tensor) -> Tensor:
        with autocast(ids.device, dtype):
            states = model.states({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            found: Tensor = model.head.logits(states, model.body)  # type: ignore[operator]
        return found

    training = model.body.training
    model.eval()
    bits = bits_per_byte(logits_of, cut, device)
    model.body.train(training)
    if not math.isfinite(bits):
        raise NonFiniteLoss("the model gives a plain text NaN or infinity; a lower learning rate may help")
    return bits

"""The task head that every method shares (pooling, dropout, linear), and the positions that a row may take."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.anatomy import anatomy
from bench.errors import BenchError

Pooling = Literal["mean", "cls", "last"]


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Random stream of its own for ``purpose`` ("head", "order", ...), so that one stream never shifts another.

    Each kind of device draws other numbers from the same seed.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Head(nn.Module):
    """Pooling of the last hidden state ``[B, T, d]`` by the attention mask, dropout, optional dense, linear."""

    def __init__(self, width: int, outputs: int, *, pooling: Pooling, dropout: float, dense: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width) if dense else None
        self.linear = nn.Linear(width, outputs)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits ``[B, outputs]`` of ``hidden`` ``[B, T, d]`` with ``mask`` ``[B, T]`` (1 = token)."""
        pooled = self.dropout(self._pool(hidden, mask))
        if self.dense is not None:
            pooled = self.dropout(torch.tanh(self.dense(pooled)))
        logits: Tensor = self.linear(pooled)
        return logits

    @property
    def width(self) -> int:
        """Width of the states that it reads."""
        return self.linear.in_features

    def answer(self, hidden: Tensor, batch: dict[str, Tensor], body: nn.Module) -> Tensor:
        """Logits ``[B, outputs]`` of the states ``[B, T, d]`` that ``body`` gave for ``batch``."""
        logits: Tensor = self(hidden, batch["attention_mask"])
        return logits

    def loss(self, hidden: Tensor, batch: dict[str, Tensor], body: nn.Module) -> Tensor:
        """Cross-entropy for integer labels ``[B]``, mean squared error for floating ones.

        ``class_weights`` ``[outputs]``, where there are any, weight the rows of each class.
        """
        logits, labels = self.answer(hidden, batch, body), batch["labels"]
        if labels.is_floating_point():
            return functional.mse_loss(logits.squeeze(-1).float(), labels)
        return functional.cross_entropy(logits.float(), labels, weight=self.class_weights)

    def averaged_over(self, batch: dict[str, Tensor]) -> float:
        """What the mean in ``loss`` divides by: rows, or the sum of their classes' weights."""
        labels = batch["labels"]
        return float(len(labels) if self.class_weights is None else self.class_weights[labels].sum())

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            positions = torch.arange(mask.shape[1], device=mask.device)
            last = (mask * positions).argmax(dim=1)
            return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def make_head(
    backbone: nn.Module,
    outputs: int,
    *,
    pooling: Pooling = "mean",
    dropout: float = 0.1,
    dense: bool = False,
    seed: int = 0,
) -> Head:
    """Build the head for ``backbone``: weights N(0, 0.02) from the stream (seed, "head"), biases zero.

    Args:
        backbone: The bare backbone; its width, device and dtype are taken over.
        outputs: Number of classes, 1 for regression.
        pooling: ``mean``, ``cls`` (first token) or ``last`` (last token of the mask, for causal models).
        dropout: Probability before each linear map of the head.
        dense: Whether a dense + tanh layer precedes the linear map (RoBERTa's classification head).
        seed: The cell's seed.
    """
    like = next(backbone.parameters())
    config: Any = backbone.config
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise BenchError(
            f"family {config.model_type!r} has no single width for a head (hidden_size); name a text encoder"
        )
    with torch.device(like.device):
        head = Head(config.hidden_size, outputs, pooling=pooling, dropout=dropout, dense=dense)
    stream = generator(seed, "head")
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.device.type == "meta":
            continue
        else:
            with torch.no_grad():
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 0.02, generator=stream))
    return head.to(like.dtype)


CALL_CONTRACT = "the module of a method gives an output whose last_hidden_state is [B, T, d]"


def check_shape(hidden: Tensor, expected: Sequence[int]) -> None:
    """Raise ``BenchError`` where last hidden states have another shape than ``expected``."""
    if hidden.shape != tuple(expected):
        raise BenchError(f"{CALL_CONTRACT}; this one gives {list(hidden.shape)} where {list(expected)} is due")


ASKED = frozenset({"labels", "positions", "targets"})
"""What of a batch the loss alone reads."""


def inputs_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of ``batch`` the body reads."""
    return {name: tensor for name, tensor in batch.items() if name not in ASKED}


class TaskModel(nn.Module):
    """An adapted backbone under what is trained on it: a ``Head`` of classes or scores, or a ``TextHead``."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[B, outputs]``, of text those of the next token; labels in ``batch`` are ignored."""
        answer: Tensor = self.head.answer(self._hidden(batch), batch, self.body)  # type: ignore[operator]
        return answer

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """Last hidden state; a body without trainable parameters keeps nothing for backward."""
        trains = any(p.requires_grad for p in self.body.parameters())
        with contextlib.nullcontext() if trains else torch.no_grad():
            return self.states(batch)

    def states(self, batch: dict[str, Tensor]) -> Tensor:
        """Last hidden state ``[B, T, d]`` of the body, of an encoder-decoder the decoder's.

        Raises:
            BenchError: The body gives none, or one of another shape.
        """
        output = self.body(**inputs_of(batch))
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor):
            raise BenchError(f"{CALL_CONTRACT}; this one gives {type(output).__name__}, which has none")
        rows = batch.get("decoder_input_ids", batch["input_ids"])
        check_shape(hidden, (*rows.shape, getattr(self.head, "width", hidden.shape[-1])))
        return hidden

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of the objective."""
        loss: Tensor = self.head.loss(self._hidden(batch), batch, self.body)  # type: ignore[operator]
        return loss

    def averaged_over(self, batch: dict[str, Tensor]) -> float:
        """What the mean in ``loss`` divides by; losses of parts of a batch, weighted so, make up that of the whole."""
        over: float = self.head.averaged_over(batch)  # type: ignore[operator]
        return over


def trainable(module: nn.Module) -> int:
    """Number of parameters of ``module`` that require a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def trained_dtypes(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of what trains in ``module``, a task model or an adapted backbone, by type, each layer's alike once."""
    found: dict[str, dict[str, None]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts = ("*" if part.isdigit() else part for part in name.removeprefix("body.").split("."))
            found.setdefault(str(parameter.dtype).removeprefix("torch."), {})[".".join(parts)] = None
    return {dtype: tuple(names) if len(found) > 1 else ("*",) for dtype, names in sorted(found.items())}


def positions_of(bare: nn.Module) -> int | None:
    """Tokens that ``bare``, also without values, has learned positions for; None where any length will do."""
    return anatomy(bare).positions


def check_positions(
    bare: nn.Module, length: int, reserved: int = 0, *, option: str = "max_length", at: str = ""
) -> int:
    """``length``, where ``bare`` has positions for it beside a prompt of ``reserved``.

    Args:
        bare: The bare backbone, also without values.
        length: Tokens of the longest row.
        reserved: Positions that the method's prompt takes.
        option: What sets ``length``: ``max_length`` of a recipe, ``--seq`` ...
        at: Prefix that locates the mistake, such as ``"suites/mine.toml: sweep[0]"``.

    Raises:
        BenchError: It has too few; the sentence says how long a row may be.
    """
    if type(reserved) is not int or reserved < 0:
        raise BenchError(f"reserved_positions() of the method gives {reserved!r}; it takes a whole number from 0 on")
    positions = anatomy(bare).positions
    if positions is None or reserved + length <= positions:
        return length
    prompt = f"a prompt of {reserved} and " if reserved else ""
    left = max(0, positions - reserved)
    remedy = f"{option} {left} is the longest" if left else "shorten the prompt"
    raise BenchError(
        f"{at}{': ' if at else ''}{prompt}{length} tokens need {reserved + length} positions, the backbone has "
        f"{positions}; {remedy}"
    )

"""The objective ``text``: a language model's own LM head on its states, and the next-token loss in three forms."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError
from bench.schema.forms import Loss

IGNORED = -100
"""Label of a position without a target, as transformers and torch have it."""


class TextBackbone(nn.Module):
    """Base of the classes that ``text_backbone`` makes: a language model whose forward ends below its LM head."""


def text_backbone(model: nn.Module) -> nn.Module:
    """Let a causal or encoder-decoder language model of transformers give its states in place of logits.

    Modules, parameters and their names stay the whole model's, the LM head among them, so that a method, or ``peft``,
    finds ``lm_head`` and ``model.layers.0`` where it looks for them. Changes the class of ``model``, in place.
    """
    kind: Any = type(model)
    model.__class__ = _giving_states(kind)
    return model


@functools.cache
def _giving_states(kind: Any) -> type:
    from transformers import MODEL_MAPPING

    below: Any = MODEL_MAPPING[kind.config_class]

    @functools.wraps(below.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        inner = getattr(self, self.base_model_prefix, None)
        # T5 has no module between: encoder and decoder are the whole model's own, and its base class runs them
        return inner(*args, **kwargs) if inner is not None else below.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind, TextBackbone), {"forward": forward, "__module__": kind.__module__})


def language_model(body: nn.Module) -> Any:
    """The language model in an adapted ``body``, whatever a method has put around it.

    Raises:
        BenchError: There is none.
    """
    found = next((module for module in body.modules() if isinstance(module, TextBackbone)), None)
    if found is None:
        raise BenchError("the module of the method lacks the backbone that it was given, whose LM head it needs")
    return found


class TextHead(nn.Module):
    """What stands between states and the next-token loss; the matrix itself is the backbone's, adapted or not.

    Args:
        config: The backbone's configuration, read for what the family does to its logits: a factor (Cohere, Granite),
            a soft cap (Gemma 2), and T5's d_model^-0.5 on the states of a tied model.
        form: Form of the loss.
    """

    def __init__(self, config: Any, form: Loss) -> None:
        super().__init__()
        self.form = form
        self.width: int = config.hidden_size
        self.vocabulary: int = config.vocab_size
        self.shifted = not config.is_encoder_decoder
        """Whether the state at a token tells the next one; a decoder beside an encoder reads its row shifted."""
        tied = config.is_encoder_decoder and getattr(config, "scale_decoder_outputs", False)
        self.of_states = config.hidden_size**-0.5 if tied else None
        divisor = _own(config, "logits_scaling")
        self.of_logits = 1 / divisor if divisor else _own(config, "logit_scale")
        self.divisor = divisor
        self.cap = _own(config, "final_logit_softcapping")
        if form == "chunked" and self.cap is not None:
            raise BenchError(
                f"loss chunked knows no soft cap, which {config.model_type} puts on its logits; take full or target"
            )

    def answer(self, hidden: Tensor, batch: dict[str, Tensor], body: nn.Module) -> Tensor:
        """Logits ``[B, V]`` of the token that follows each row of ``hidden`` ``[B, T, d]``."""
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        mask = batch["attention_mask"] if self.shifted else torch.ones_like(batch["decoder_input_ids"])
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        return self.logits(hidden[rows, last], body)

    def logits(self, hidden: Tensor, body: nn.Module) -> Tensor:
        """Logits ``[..., V]`` of states ``[..., d]``, as the family makes them."""
        if self.of_states is not None:
            hidden = hidden * self.of_states
        model = language_model(body)
        found: Tensor = model.get_output_embeddings()(hidden)
        if (bias := _bias(model)) is not None:
            found = found + bias
        if self.divisor is not None:
            found = found / self.divisor
        elif self.of_logits is not None:
            found = found * self.of_logits
        if self.cap is not None:
            found = torch.tanh(found / self.cap) * self.cap
        return found

    def loss(self, hidden: Tensor, batch: dict[str, Tensor], body: nn.Module) -> Tensor:
        """Mean cross-entropy, in nats, over the targets of ``batch`` (see ``with_targets``)."""
        if self.form == "full":
            return self._full(self.logits(hidden, body), batch["labels"])
        states = hidden.flatten(0, 1).index_select(0, batch["positions"])
        if self.form == "target":
            return functional.cross_entropy(self.logits(states, body).float(), batch["targets"])
        return self._chunked(states, batch["targets"], body)

    def averaged_over(self, batch: dict[str, Tensor]) -> float:
        """What the mean in ``loss`` divides by: tokens with a target."""
        return float(len(batch["targets"]))

    def _full(self, logits: Tensor, labels: Tensor) -> Tensor:
        """As transformers has it for the family: logits of every position; decoders' in float32, T5's as they are."""
        if self.shifted:
            from transformers.loss.loss_utils import ForCausalLMLoss

            return ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=IGNORED)

    def _chunked(self, states: Tensor, targets: Tensor, body: nn.Module) -> Tensor:
        model = language_model(body)
        output = model.get_output_embeddings()
        if type(output) is not nn.Linear:
            raise BenchError(
                "loss chunked reads the LM head as one matrix, and the method has put something else in its place; "
                "take full or target"
            )
        bias = output.bias if (apart := _bias(model)) is None else apart[0]
        factor = (self.of_states or 1.0) * (self.of_logits or 1.0)
        states = states * factor if factor != 1.0 else states
        if torch.is_autocast_enabled(states.device.type):
            # autocast does not know this operation: what a linear map would be given is cast here
            states = states.to(torch.get_autocast_dtype(states.device.type))
        return functional.linear_cross_entropy(
            states, output.weight.to(states.dtype), targets,
            linear_bias=bias if bias is None else bias.to(states.dtype),
            options=nn.LinearCrossEntropyOptions(),
        )  # fmt: skip


def _own(config: Any, name: str) -> float | None:
    """A field of the family's own: a file may hold another family's, which transformers keeps and nothing reads."""
    return getattr(config, name) if name in type(config).__dataclass_fields__ else None


def _bias(model: Any) -> Tensor | None:
    """BART's bias ``[1, V]`` of its logits, which stands outside of its LM head and never trains."""
    found: Tensor | None = getattr(model, "final_logits_bias", None)
    return found


def decoder_start(config: Any) -> int:
    """The id that a decoder beside an encoder reads first: the family's own, else padding, as T5 has it."""
    own: int | None = getattr(config, "decoder_start_token_id", None)
    padding: int = config.pad_token_id
    return padding if own is None else own


def with_targets(batch: dict[str, Tensor], *, shifted: bool) -> dict[str, Tensor]:
    """``batch`` with ``positions`` and ``targets``, each ``[N]``: which states, of all rows in turn, tell which token.

    Args:
        batch: ``labels`` ``[B, T]`` among it, ``IGNORED`` where a position has no target.
        shifted: Whether the state at position t tells the label at t + 1, as in a decoder, or that at t.
    """
    labels = batch["labels"]
    told = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:] if shifted else labels
    positions = (told.flatten() != IGNORED).nonzero().squeeze(1)
    return batch | {"positions": positions, "targets": told.flatten()[positions]}


class Window(NamedTuple):
    """Tokens of a plain text that are read at once."""

    ids: tuple[int, ...]
    """The first is read and not counted: nothing of its own window comes before it."""
    written: int
    """Bytes of UTF-8 that the others spell."""


def windows(tokenizer: Any, text: str, context: int) -> list[Window]:
    """``text`` as tokens, cut into windows that do not overlap.

    Args:
        tokenizer: A fast tokenizer of transformers, which knows where in the text a token lies.
        text: Plain text.
        context: Tokens of a window; the last may have fewer, and a single one that is left over is none.

    Returns:
        Windows of two tokens at least. The bytes of a character that two windows share count in the first.

    Raises:
        BenchError: The tokenizer does not say where tokens lie, or the text has fewer than two of them.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BenchError(
            "bits per byte need a tokenizer that says where in the text each token lies, and the backbone's does not; "
            "save a fast one beside it (tokenizer.json)"
        )
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in read["offset_mapping"]]
    found = []
    for ids, places in zip(_cut(read["input_ids"], context), _cut(ends, context), strict=True):
        if len(ids) > 1:
            found.append(Window(ids, len(text[places[0] : places[-1]].encode())))
    if not sum(window.written for window in found):
        raise BenchError(f"a text of {len(ends)} token{'s' * (len(ends) != 1)} has nothing to count; give a longer one")
    return found


def _cut(values: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(itertools.islice(values, start, start + size)) for start in range(0, len(values), size)]


def bits_per_byte(logits_of: Callable[[Tensor], Tensor], cut: Sequence[Window], device: str = "cpu") -> float:
    """Bits that a language model needs for a byte of a text; lower is better.

    Args:
        logits_of: Logits ``[1, T, V]`` of ids ``[1, T]``: those at t are of the token at t + 1.
        cut: The text (see ``windows``); each window is read alone.
        device: Where the model is.

    Returns:
        Bits of all tokens that are counted, over the bytes that they spell.
    """
    nats: list[float] = []
    with torch.no_grad():
        for window in cut:
            ids = torch.tensor([window.ids], device=device)
            logits = logits_of(ids)[0, :-1].float()
            nats.append(float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum")))
    return math.fsum(nats) / math.log(2) / sum(window.written for window in cut)

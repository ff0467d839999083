"""Learned vectors in front of the input embeddings (prompt tuning, P-tuning); keys and values are in ``prefix.py``."""

import contextlib
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPast

from bench.anatomy import Anatomy, Numbering, anatomy
from bench.errors import BenchError
from bench.method import Method, MethodConfig, at_least

COMMON_WORDS = 5000
"""Rows of the vocabulary that an initial prompt is sampled from (Lester et al. 2021, section 3.2)."""


def first_position(config: Any, numbering: Numbering) -> int:
    """Row of the learned position table that the first token takes; RoBERTa's table starts behind its padding row."""
    return int(config.pad_token_id) + 1 if numbering == "ids" else 0


def token_positions(
    config: Any, numbering: Numbering, input_ids: Tensor, attention_mask: Tensor | None, shift: int, past: int = 0
) -> Tensor:
    """Position ids that a family with learned positions gives its tokens, advanced by ``shift``.

    RoBERTa counts the ids that are not padding, OPT the mask; both leave padding on its own row. The others count
    columns. Behind ``past`` tokens of a cache a mask covers these as well.

    Returns:
        Ids ``[B, T]``, or ``[1, T]`` where they are the same in every row.
    """
    first = first_position(config, numbering)
    if numbering == "ids":
        real = input_ids.ne(config.pad_token_id)
    elif numbering == "mask" and attention_mask is not None and attention_mask.ndim == 2:
        real = attention_mask.ne(0)
    else:
        begin = first + shift + past
        return torch.arange(begin, begin + input_ids.shape[1], device=input_ids.device)[None]
    return ((real.cumsum(1) + shift) * real + (first - 1))[:, -input_ids.shape[1] :]


def check_length(length: int, parts: Anatomy) -> None:
    """Refuse a prompt that leaves no learned position for a token.

    Raises:
        BenchError: ``length`` reaches the number of learned positions.
    """
    if parts.positions is not None and length >= parts.positions:
        raise BenchError(
            f"length = {length} leaves no position for a token: this {parts.family} has {parts.positions} learned "
            f"positions; take a shorter prompt or position_shift = false"
        )


def copy_sharing_tensors(module: nn.Module) -> nn.Module:
    """Copy of the module tree that holds the very same parameters and buffers, so that a large backbone stays one."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


class Prompt(nn.Module):
    """The vectors themselves: ``table`` is ``[p, d]``."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self) -> Tensor:
        """Return the prompt ``[p, d]``."""
        return self.table


class PromptEncoder(nn.Module):
    """P-tuning's ``P = MLP(BiLSTM(E))``, or ``MLP(E)``; it sees no input, so it can be computed once."""

    def __init__(self, length: int, width: int, encoder: str, hidden: int | None, **where: Any) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(length, width, **where).normal_())
        if encoder == "lstm":
            half = hidden or width // 2
            self.lstm: nn.LSTM | None = nn.LSTM(
                width, half, num_layers=2, bidirectional=True, batch_first=True, **where
            )
            enters, inner = 2 * half, width
        else:
            self.lstm = None
            enters, inner = width, hidden or width
        self.inner = nn.Linear(enters, inner, **where)
        self.outer = nn.Linear(inner, width, **where)

    def forward(self) -> Tensor:
        """Return the prompt ``[p, d]``."""
        # CPU takes another LSTM kernel where no gradient is recorded; one kernel keeps the finalized prompt bit-equal.
        with torch.enable_grad():
            states = self.embedding
            if self.lstm is not None:
                with _without_autocast(states.device):
                    states = self.lstm(states[None])[0][0]
            prompt = self.outer(torch.relu(self.inner(states)))
        return prompt if torch.is_grad_enabled() else prompt.detach()


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Not every processor's LSTM kernel computes in bfloat16, which autocast would ask of it."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else contextlib.nullcontext()


class Prompted(nn.Module):
    """A backbone that reads ``[P; E(x)]`` and gives back the states of ``x`` alone, or of what its decoder reads."""

    def __init__(self, backbone: nn.Module, prompt: nn.Module, length: int, position_shift: bool) -> None:
        super().__init__()
        parts = anatomy(backbone)
        self.backbone = backbone
        self.prompt = prompt
        self.config = backbone.config
        self.length = length
        self.position_shift = position_shift
        self.word_embeddings = parts.word_embeddings
        self.numbering = parts.numbering
        # where columns count and the prompt takes the first, the backbone numbers both as it should by itself
        by_column = parts.numbering == "columns" and position_shift
        self.own_positions = parts.positions is not None and not by_column
        self.starts_from_labels = False
        """Whether the vectors wait for the names of the task's classes."""
        self.in_front = 0 if parts.decoder_path else length
        """States of the output that are the prompt's: none in a decoder, beside whose encoder the prompt stands."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the backbone on the longer sequence; arguments and states are those of the bare backbone.

        Args:
            input_ids: Tokens ``[B, T]``.
            attention_mask: ``[B, T]``, one where a token is real.
            token_type_ids: ``[B, T]``; the prompt takes type 0.
            position_ids: ``[B, T]`` or ``[1, T]`` of the tokens without a prompt; by default the family's own.
            **kwargs: Handed to the backbone. Behind the tokens of ``past_key_values`` the prompt is not read again.
        """
        # beside an encoder a cache is the decoder's, and the prompt stands before what the encoder reads
        past_key_values = None if self.config.is_encoder_decoder else kwargs.get("past_key_values")
        past = 0 if past_key_values is None else past_key_values.get_seq_length() - self.length
        words = self.backbone.get_submodule(self.word_embeddings)(input_ids)
        if token_type_ids is not None:
            kwargs["token_type_ids"] = F.pad(token_type_ids, (self.length, 0))
        if self.own_positions or position_ids is not None:
            kwargs["position_ids"] = self._positions(input_ids, attention_mask, position_ids, past)
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (self.length, 0), value=1)
        if past_key_values is None:
            words = torch.cat([self.prompt().to(words.dtype).expand(len(words), -1, -1), words], dim=1)
        output = self.backbone(inputs_embeds=words, attention_mask=attention_mask, **kwargs)
        layers = output.get("hidden_states")
        front = self.in_front if past_key_values is None else 0
        return BaseModelOutputWithPast(
            last_hidden_state=output.last_hidden_state[:, front:],
            past_key_values=output.past_key_values if kwargs.get("use_cache") else None,
            hidden_states=layers and tuple(states[:, front:] for states in layers),
        )

    def _positions(self, input_ids: Tensor, attention_mask: Tensor | None, given: Tensor | None, past: int) -> Tensor:
        """Positions of the prompt and of the tokens behind it; of these alone where a cache holds ``past`` of them."""
        shift = self.length if self.position_shift else 0
        tokens = (
            token_positions(self.config, self.numbering, input_ids, attention_mask, shift, past)
            if given is None
            else given + shift
        )
        if past:
            return tokens
        first = first_position(self.config, self.numbering)
        # Without a shift all prompt vectors share the first row: a constant that the learned prompt absorbs.
        front = torch.arange(self.length, device=tokens.device) * self.position_shift + first
        return torch.cat([front.expand(len(tokens), -1), tokens], dim=1)


def _to_peft(module: Any, backbone: nn.Module, kind: str) -> nn.Module:
    import methods.to_peft as to_peft

    if not module.position_shift:
        raise BenchError("peft's prompt takes the first positions, which position_shift = false leaves to the tokens")
    return to_peft.prompt(backbone, _delta(module)["prompt.table"], kind)


def _vectors(module: nn.Module) -> Tensor:
    table: Tensor = module.prompt()
    return table.detach().clone()


def _delta(module: nn.Module) -> dict[str, Tensor]:
    return {"prompt.table": _vectors(module)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(MethodConfig):
    """Configuration of prompt tuning."""

    length: int = 20
    """Prompt vectors ``p``, in positions."""
    init: Literal["vocabulary", "uniform", "labels"] = "vocabulary"
    """Different rows of the first 5,000 word embeddings, uniform on [-0.5, 0.5], or the tokens of the task's class
    names, one class after the other and again from the first."""
    position_shift: bool = True
    """Learned positions: the prompt takes 0 .. p-1 and the first token p; false: tokens keep their positions and the
    whole prompt shares the first one. Rotary and relative positions always see the prompt in front of the tokens."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        at_least(self, length=1)


class PromptTuning(Method):
    """``X' = [P; E(x)]``: ``p`` learned vectors in front of the word embeddings, everything else frozen.

    In ModernBERT's local layers only tokens near the front see the prompt. Beside a decoder the prompt stands in front
    of the encoder's input, as in the paper, which is on T5 with its LM head. The starts are the paper's three; from
    class labels it averages the tokens of a name and fills up with sampled words, where here, as with peft's TEXT, the
    tokens of all names are repeated.

    Paper: Lester, Al-Rfou, Constant, EMNLP 2021, arXiv:2104.08691.
    Trains: ``p d`` parameters and stores as many (bert-base, p = 20: 15,360), ``d`` the width of the word embeddings.
    Backward: saves nothing for weight gradients, yet the input gradient crosses the whole backbone, on sequences longer
    by ``p``.
    Merging: none; every layer runs on ``p + T`` positions at inference too.
    Use: where a task must be as small as can be. Not to save memory or time: every layer works on the longer sequence,
    and where rows are short beside the prompt it can take more memory than full fine-tuning.
    """

    Config = PromptTuningConfig
    takes_float32 = True
    size = "length"
    identity_at_init = False

    def apply(self, backbone: nn.Module, config: PromptTuningConfig) -> nn.Module:
        """Put a prompt in front of ``backbone``.

        Raises:
            BenchError: No position is left for tokens, ``position_shift = false`` meets a family without learned
                positions, or the vocabulary is smaller than the prompt.
        """
        parts = anatomy(backbone)
        if config.position_shift:
            check_length(config.length, parts)
        elif parts.positions is None or not parts.takes_positions:
            lacks = "lacks" if parts.positions is None else "numbers by itself alone"
            raise BenchError(
                f"position_shift = false needs learned positions, which family {parts.family!r} {lacks}; leave it true"
            )
        words = backbone.get_submodule(parts.word_embeddings)
        prompted = Prompted(backbone, Prompt(_initial(words, config)), config.length, config.position_shift)
        prompted.starts_from_labels = config.init == "labels"
        return prompted

    def name_classes(self, module: nn.Module, names: Sequence[Sequence[int]]) -> None:
        """Start from the class names, where the configuration says so.

        Raises:
            BenchError: The task has no classes.
        """
        if not module.starts_from_labels:
            return
        tokens = [token for name in names for token in name]
        if not tokens:
            raise BenchError("init = 'labels' needs a task whose classes have names; take init = 'vocabulary'")
        words = module.backbone.get_submodule(module.word_embeddings)
        table: Any = module.prompt.table
        rows = torch.tensor(tokens).repeat(-(-len(table) // len(tokens)))[: len(table)]
        with torch.no_grad():
            table.copy_(words(rows.to(table.device)))

    def input_vectors(self, module: nn.Module) -> Tensor:
        """The prompt ``[p, d]``."""
        return _vectors(module)

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group without weight decay, which would pull the prompt towards the zero word."""
        return [group | {"weight_decay": 0.0} for group in super().param_groups(module, lr)]

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """The prompt ``[p, d]``."""
        return _delta(module)

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's PROMPT_TUNING.

        Raises:
            BenchError: The tokens keep their learned positions, which peft moves on.
        """
        return _to_peft(module, backbone, "PromptTuningConfig")

    def reserved_positions(self, config: PromptTuningConfig) -> int:
        """Learned positions that the prompt takes from the tokens."""
        return config.length if config.position_shift else 0


def _initial(words: nn.Module, config: PromptTuningConfig) -> Tensor:
    table: Any = words.weight
    if config.init == "uniform":
        where = {"device": table.device, "dtype": table.dtype}
        return torch.empty(config.length, table.shape[1], **where).uniform_(-0.5, 0.5)
    common = min(COMMON_WORDS, len(table))
    if config.length > common:
        raise BenchError(f"init 'vocabulary' has {common} rows for length = {config.length}; take init = 'uniform'")
    rows = torch.randperm(common)[: config.length]  # class names are not known yet: these hold their place
    with torch.no_grad():
        return words(rows.to(table.device)).clone()  # type: ignore[no-any-return]  # Gemma's embedding scales its rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class PTuningConfig(MethodConfig):
    """Configuration of P-tuning."""

    length: int = 20
    """Prompt vectors ``p``, in positions."""
    encoder: Literal["lstm", "mlp", "none"] = "lstm"
    """Prompt encoder: two-layer BiLSTM and MLP, the MLP alone, or ``none``: the vectors themselves train, from exactly
    where the BiLSTM and MLP would start them."""
    hidden: int | None = None
    """Width of the LSTM per direction (by default d/2, the LAMA code's), or of the MLP (by default d)."""

    def __post_init__(self) -> None:
        """Check the bounds."""
        at_least(self, length=1)
        if self.hidden is not None:
            at_least(self, hidden=1)


class PTuning(Method):
    """``X' = [P; E(x)]`` with ``P = W2 relu(W1 BiLSTM(E_P) + b1) + b2``, a prompt encoder that drops out at inference.

    The LAMA variant: prompt encoder only, backbone frozen (the few-shot code trains the backbone too). Two deviations:
    the pseudo tokens stand in front of the sentence instead of inside a template, and the shared head reads the states
    instead of the LM head at a mask. The prompt takes ordinary positions 0 .. p-1.

    Paper: Liu et al. 2021, "GPT Understands, Too", arXiv:2103.10385.
    Trains: ``p d`` + BiLSTM (two layers, ``h`` = d/2 a direction) + ``2 (d^2 + d)`` parameters (bert-base, p = 9:
    8,278,272; p = 20: 8,286,720), or ``p d + 2 (d^2 + d)`` with ``encoder = "mlp"``, or ``p d`` with ``"none"``.
    Stores ``p d`` (p = 9: 6,912), since ``P`` does not depend on the input and ``finalize`` computes it once.
    Backward: that of prompt tuning plus the encoder's, which grows with neither batch nor length.
    Merging: none, as prompt tuning.
    Use: as prompt tuning, where its vectors should be learned together through an encoder; what is stored stays the
    same.
    """

    Config = PTuningConfig
    takes_float32 = True
    size = "length"
    identity_at_init = False

    def apply(self, backbone: nn.Module, config: PTuningConfig) -> nn.Module:
        """Put an encoded prompt in front of ``backbone``.

        Raises:
            BenchError: No learned position is left for tokens.
        """
        parts = anatomy(backbone)
        check_length(config.length, parts)
        words = backbone.get_submodule(parts.word_embeddings).weight
        where = {"device": words.device, "dtype": words.dtype}
        plain = config.encoder == "none"
        kind = "lstm" if plain else config.encoder
        prompt: nn.Module = PromptEncoder(config.length, words.shape[1], kind, config.hidden, **where)
        if plain:
            prompt = Prompt(prompt().detach().clone())
        return Prompted(backbone, prompt, config.length, position_shift=True)

    def param_groups(self, module: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Groups without weight decay: neither the prompt nor what generates it is pulled towards zero."""
        return [group | {"weight_decay": 0.0} for group in super().param_groups(module, lr)]

    def finalize(self, module: nn.Module) -> nn.Module:
        """Compute the prompt once and leave the encoder out."""
        if isinstance(module.prompt, Prompt):
            return module
        final = copy_sharing_tensors(module)
        final.prompt = Prompt(_delta(module)["prompt.table"])
        return final

    def delta(self, module: nn.Module) -> dict[str, Tensor]:
        """The encoded prompt ``[p, d]``."""
        return _delta(module)

    def input_vectors(self, module: nn.Module) -> Tensor:
        """The encoded prompt ``[p, d]``."""
        return _vectors(module)

    def to_peft(self, module: nn.Module, backbone: nn.Module) -> nn.Module:
        """Peft's P_TUNING, of which inference keeps the prompt alone.

        Raises:
            BenchError: The tokens keep their learned positions, which peft moves on.
        """
        return _to_peft(module, backbone, "PromptEncoderConfig")

    def reserved_positions(self, config: PTuningConfig) -> int:
        """Positions that the prompt takes from the tokens."""
        return config.length

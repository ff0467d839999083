"""Names the parts of a backbone by role (query, FFN output, embedding ...), one table row per family."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.errors import BenchError, unknown

Rotary = Literal["", "halves", "pairs"]
"""No rotary positions; an entry of the first half with its like in the second (Llama); two neighbours (Cohere)."""
Numbering = Literal["columns", "ids", "mask"]
"""Columns of a row; ids that are not padding, from behind the padding's own row; or places where the mask is 1."""
ROLES = ("query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out")
"""Linear maps of a transformer block: attention's four, and the FFN's two or three (``ffn_gate`` in gated FFNs)."""


@dataclasses.dataclass(frozen=True)
class Projection:
    """A linear map, possibly one slice of a fused one (GPT-2 ``c_attn``, ModernBERT ``Wqkv``)."""

    role: str
    path: str
    """Dotted path of the module (``nn.Linear`` or ``Conv1D``) below the backbone."""
    part: int = 0
    """Which of ``parts`` equal output slices; 0 of 1 for a map of its own."""
    parts: int = 1

    def rows(self, out_features: int) -> slice:
        """Output slice of the fused module that belongs to this role."""
        width = out_features // self.parts
        return slice(self.part * width, (self.part + 1) * width)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One transformer block by role; every string is a dotted path below the backbone."""

    path: str
    projections: dict[str, Projection]
    attention: str
    """The self-attention module, which calls the attention interface."""
    attention_end: str
    """Module whose output is the attention's result, after dropout where one is a module, before the residual."""
    ffn_start: str
    """Module that takes the FFN's input ``x``."""
    ffn_end: str
    """Module whose output is the FFN's result, after dropout where one is a module, before the residual."""
    ffn_norm: str
    """Norm of the FFN sublayer: after the residual in post-LN families, before the FFN in pre-LN families."""


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Roles and sizes of a backbone."""

    family: str
    layers: tuple[Layer, ...]
    layers_path: str
    """Dotted path of the ``ModuleList`` of blocks."""
    embeddings: str
    """Dotted path of the module whose output enters block 0 (where it is a module), else of the word embedding."""
    word_embeddings: str
    hidden: int
    heads: int
    ffn: int
    post_norm: bool
    """Post-LN: the norm follows the residual addition (BERT); pre-LN: it precedes the sublayer (GPT-2, Llama, T5)."""
    parallel: bool
    """Attention and FFN stand side by side, behind one norm."""
    causal: bool
    rotary: Rotary
    """Which entries of a head the positions turn together."""
    positions: int | None
    """Longest sequence with learned positions, in tokens; None where positions are relative or rotary."""
    numbering: Numbering
    """What learned positions number."""
    ffn_field: str
    """Field of the configuration that sets ``ffn``."""
    hands_on: bool
    """Whether a block hands keyword arguments that it does not know to its attention."""

    def projections(self, targets: Iterable[str]) -> Iterator[tuple[int, Projection]]:
        """Yield ``(layer index, projection)`` for each role in ``targets``, layer by layer.

        Raises:
            BenchError: A target is no role, or this family has no such projection.
        """
        targets = tuple(targets)
        if not targets:
            raise BenchError(f"targets is empty; known: {', '.join(self.roles())}")
        for target in targets:
            if target not in ROLES:
                raise unknown("target", target, self.roles())
            if target not in self.layers[0].projections:
                raise BenchError(
                    f"target {target!r} matches nothing in family {self.family!r}; it has {', '.join(self.roles())}"
                )
        for index, layer in enumerate(self.layers):
            for target in targets:
                yield index, layer.projections[target]

    def roles(self) -> list[str]:
        """Roles that this family's blocks have, in ``ROLES`` order."""
        return [role for role in ROLES if role in self.layers[0].projections]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
    """Templates of dotted paths; those of a block are relative to it."""

    layers: str
    word: str
    embeddings: str
    attention: str
    projections: dict[str, str]
    """Role -> path, with ``path#part/parts`` for a slice of a fused map."""
    attention_end: str
    ffn_start: str
    ffn_end: str
    ffn_norm: str
    post_norm: bool = False
    parallel: bool = False
    causal: bool = False
    rotary: Rotary = ""
    learned_positions: bool = False
    numbering: Numbering = "columns"
    ffn_field: str = "intermediate_size"
    hands_on: bool = True


_BERT = _Family(
    layers="encoder.layer", word="embeddings.word_embeddings", embeddings="embeddings", attention="attention.self",
    projections={
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "output": "attention.output.dense", "ffn_in": "intermediate.dense", "ffn_out": "output.dense",
    },
    attention_end="attention.output.dropout", ffn_start="intermediate", ffn_end="output.dropout",
    ffn_norm="output.LayerNorm", post_norm=True, learned_positions=True,
)  # fmt: skip
_ROBERTA = dataclasses.replace(_BERT, numbering="ids")
_DISTILBERT = _Family(
    layers="transformer.layer", word="embeddings.word_embeddings", embeddings="embeddings", attention="attention",
    projections={
        "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin",
        "output": "attention.out_lin", "ffn_in": "ffn.lin1", "ffn_out": "ffn.lin2",
    },
    attention_end="attention.out_lin", ffn_start="ffn.lin1", ffn_end="ffn.dropout",
    ffn_norm="output_layer_norm", post_norm=True, learned_positions=True, ffn_field="hidden_dim",
)  # fmt: skip
_MODERNBERT = _Family(
    layers="layers", word="embeddings.tok_embeddings", embeddings="embeddings", attention="attn",
    projections={
        "query": "attn.Wqkv#0/3", "key": "attn.Wqkv#1/3", "value": "attn.Wqkv#2/3",
        "output": "attn.Wo", "ffn_in": "mlp.Wi#1/2", "ffn_gate": "mlp.Wi#0/2", "ffn_out": "mlp.Wo",
    },
    attention_end="attn.out_drop", ffn_start="mlp.Wi", ffn_end="mlp.Wo", ffn_norm="mlp_norm",
    rotary="halves",
)  # fmt: skip
_GPT2 = _Family(
    layers="h", word="wte", embeddings="drop", attention="attn",
    projections={
        "query": "attn.c_attn#0/3", "key": "attn.c_attn#1/3", "value": "attn.c_attn#2/3",
        "output": "attn.c_proj", "ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj",
    },
    attention_end="attn.resid_dropout", ffn_start="mlp.c_fc", ffn_end="mlp.dropout", ffn_norm="ln_2",
    causal=True, learned_positions=True, ffn_field="n_inner",
)  # fmt: skip
_OPT = _Family(
    layers="decoder.layers", word="decoder.embed_tokens", embeddings="decoder.embed_tokens", attention="self_attn",
    projections={
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "output": "self_attn.out_proj", "ffn_in": "fc1", "ffn_out": "fc2",
    },
    attention_end="self_attn.out_proj", ffn_start="fc1", ffn_end="fc2", ffn_norm="final_layer_norm",
    causal=True, learned_positions=True, numbering="mask", ffn_field="ffn_dim",
)  # fmt: skip
_LLAMA = _Family(
    layers="layers", word="embed_tokens", embeddings="embed_tokens", attention="self_attn",
    projections={
        "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj",
        "output": "self_attn.o_proj", "ffn_in": "mlp.up_proj", "ffn_gate": "mlp.gate_proj", "ffn_out": "mlp.down_proj",
    },
    attention_end="self_attn.o_proj", ffn_start="mlp", ffn_end="mlp", ffn_norm="post_attention_layernorm",
    causal=True, rotary="halves",
)  # fmt: skip
_COHERE = dataclasses.replace(
    _LLAMA, ffn_norm="input_layernorm", rotary="pairs"
)  # attention beside FFN, behind one norm
_GEMMA3 = dataclasses.replace(_LLAMA, ffn_norm="pre_feedforward_layernorm")
_OLMO2 = dataclasses.replace(_LLAMA, ffn_norm="post_feedforward_layernorm")  # behind the FFN, before the residual
_STABLELM = dataclasses.replace(_LLAMA, hands_on=False)
_STARCODER2 = dataclasses.replace(
    _LLAMA,
    projections={role: path for role, path in _LLAMA.projections.items() if role in ROLES[:4]}
    | {"ffn_in": "mlp.c_fc", "ffn_out": "mlp.c_proj"},
)
_PHI = dataclasses.replace(
    _LLAMA,
    embeddings="embed_dropout",
    projections={role: path for role, path in _LLAMA.projections.items() if role in ROLES[:3]}
    | {"output": "self_attn.dense", "ffn_in": "mlp.fc1", "ffn_out": "mlp.fc2"},
    attention_end="self_attn.dense",
    ffn_norm="input_layernorm",
    parallel=True,
)
_T5 = _Family(
    layers="encoder.block", word="encoder.embed_tokens", embeddings="encoder.embed_tokens",
    attention="layer.0.SelfAttention",
    projections={
        "query": "layer.0.SelfAttention.q", "key": "layer.0.SelfAttention.k", "value": "layer.0.SelfAttention.v",
        "output": "layer.0.SelfAttention.o", "ffn_in": "layer.1.DenseReluDense.wi",
        "ffn_out": "layer.1.DenseReluDense.wo",
    },
    attention_end="layer.0.dropout", ffn_start="layer.1.DenseReluDense", ffn_end="layer.1.dropout",
    ffn_norm="layer.1.layer_norm", ffn_field="d_ff",
)  # fmt: skip
_T5_GATED = dataclasses.replace(
    _T5,
    projections=_T5.projections | {"ffn_in": "layer.1.DenseReluDense.wi_1", "ffn_gate": "layer.1.DenseReluDense.wi_0"},
)

_FAMILIES: dict[str, _Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "gpt2": _GPT2,
    "opt": _OPT,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma3_text": _GEMMA3,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _STABLELM,
    "olmo2": _OLMO2,
    "cohere": _COHERE,
    "starcoder2": _STARCODER2,
    "phi": _PHI,
    "t5": _T5,
}


def check_family(model_type: str) -> None:
    """Raise where no family has this name of transformers.

    Raises:
        BenchError: It names the families that there are.
    """
    if model_type not in _FAMILIES:
        raise unknown("backbone family", model_type, _FAMILIES)


def anatomy(backbone: nn.Module) -> Anatomy:
    """Read the roles of ``backbone``, a bare transformers model.

    Raises:
        BenchError: Its family is not one of the supported ones, or the variant deviates from its family's layout.
    """
    config: Any = backbone.config
    check_family(config.model_type)
    family = _FAMILIES[config.model_type]
    if config.model_type == "t5" and config.is_gated_act:
        family = _T5_GATED
    if config.model_type == "stablelm" and config.use_parallel_residual:
        family = dataclasses.replace(family, ffn_norm="input_layernorm", parallel=True)
    if config.model_type == "opt":
        _check_opt(config)
    blocks: Any = backbone.get_submodule(family.layers)
    layers = tuple(_layer(family, f"{family.layers}.{index}") for index in range(len(blocks)))
    return Anatomy(
        family=config.model_type,
        layers=layers,
        layers_path=family.layers,
        embeddings=family.embeddings,
        word_embeddings=family.word,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        ffn=_ffn_width(backbone, layers[0]),
        post_norm=family.post_norm,
        parallel=family.parallel,
        causal=family.causal,
        rotary=family.rotary,
        positions=_positions(config, family.numbering) if family.learned_positions else None,
        numbering=family.numbering,
        ffn_field=family.ffn_field,
        hands_on=family.hands_on,
    )


def oriented(module: nn.Module) -> Tensor:
    """Weight of ``module`` as ``[out, in]``: the parameter itself, or for ``Conv1D`` a transposed view of it.

    Writing into the result writes into the module.

    Raises:
        BenchError: ``module`` is neither ``nn.Linear`` nor ``Conv1D``, e.g. a quantised layer.
    """
    if type(module) is nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        return module.weight.t()
    raise BenchError(f"cannot adapt a {type(module).__name__}; this method takes nn.Linear and transformers' Conv1D")


def _check_opt(config: Any) -> None:
    if not config.do_layer_norm_before or config.word_embed_proj_dim != config.hidden_size:
        raise BenchError(
            "OPT with post-layer norm or projected embeddings (opt-350m) is not supported; use another size"
        )


def _positions(config: Any, numbering: Numbering) -> int:
    # RoBERTa counts positions from padding_idx + 1 = 2: two rows of its table hold no token.
    reserved = 2 if numbering == "ids" else 0
    return int(config.max_position_embeddings) - reserved


def _ffn_width(backbone: nn.Module, layer: Layer) -> int:
    module: Any = backbone.get_submodule(layer.projections["ffn_out"].path)
    return int(module.weight.shape[1] if isinstance(module, nn.Linear) else module.weight.shape[0])


def _layer(family: _Family, path: str) -> Layer:
    def full(relative: str) -> str:
        return f"{path}.{relative}"

    projections = {}
    for role, template in family.projections.items():
        relative, _, fraction = template.partition("#")
        part, _, parts = fraction.partition("/")
        projections[role] = Projection(role, full(relative), int(part or 0), int(parts or 1))
    return Layer(
        path=path,
        projections=projections,
        attention=full(family.attention),
        attention_end=full(family.attention_end),
        ffn_start=full(family.ffn_start),
        ffn_end=full(family.ffn_end),
        ffn_norm=full(family.ffn_norm),
    )

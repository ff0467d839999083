"""Names the parts of a backbone by role (query, FFN output, embedding ...), one table of families.toml a family."""

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
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
    """A linear map, possibly some output features of a fused one.

    A fused map holds its parts one after the other (GPT-2 ``c_attn``; Phi-3 ``qkv_proj``, whose parts differ in size),
    or all parts of one group of heads after those of another (GPT-NeoX ``query_key_value``).
    """

    role: str
    path: str
    """Dotted path of the module (``nn.Linear`` or ``Conv1D``) below the backbone."""
    part: int = 0
    """Place in ``sizes``."""
    sizes: tuple[int, ...] = (1,)
    """Sizes of the parts in proportion to each other, in their order; a map of its own is one part."""
    groups: int = 1
    """How often all parts follow each other along the output, each with its share."""

    @property
    def fused(self) -> bool:
        """Whether the map holds other roles too."""
        return len(self.sizes) > 1

    def width(self, out_features: int) -> int:
        """Output features of the map that belong to this role."""
        return out_features * self.sizes[self.part] // sum(self.sizes)

    def rows(self, out_features: int) -> slice | Tensor:
        """What picks this role's output features of the map, in order: a slice, or where they alternate indices."""
        unit = out_features // (self.groups * sum(self.sizes))
        start = unit * sum(self.sizes[: self.part])
        stop = start + unit * self.sizes[self.part]
        if self.groups == 1:
            return slice(start, stop)
        return torch.arange(out_features).view(self.groups, -1)[:, start:stop].flatten()


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
    cross: dict[str, Projection] = dataclasses.field(default_factory=dict)
    """Linear maps of the attention to an encoder's states, by role; empty but in a decoder beside an encoder."""
    cross_attention: str | None = None
    """The module of that attention."""

    @property
    def maps(self) -> tuple[Projection, ...]:
        """Every linear map that a role names, those of cross-attention last."""
        return (*self.projections.values(), *self.cross.values())

    @property
    def attentions(self) -> tuple[str, ...]:
        """The attention modules, in the order in which they run."""
        return (self.attention,) if self.cross_attention is None else (self.attention, self.cross_attention)


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Roles and sizes of a backbone."""

    family: str
    layers: tuple[Layer, ...]
    """In the order in which they run: of an encoder-decoder the encoder's, then the decoder's."""
    layers_path: str
    """Dotted path of the ``ModuleList`` of blocks, of an encoder-decoder the encoder's."""
    decoder_path: str | None
    """Dotted path of the decoder's blocks in an encoder-decoder; None in a backbone of one stack."""
    embeddings: str
    """Dotted path of the module whose output enters block 0 (where it is a module), else of the word embedding."""
    word_embeddings: str
    lm_head: str | None
    """Dotted path of the LM head in a whole language model; None in a bare backbone."""
    hidden: int
    heads: int
    ffn: int
    post_norm: bool
    """Post-LN: the norm follows the residual addition (BERT); pre-LN: it precedes the sublayer (GPT-2, Llama, T5)."""
    parallel: bool
    """Attention and FFN stand side by side, behind one norm or one each."""
    causal: bool
    rotary: Rotary
    """Which entries of a head the positions turn together."""
    positions: int | None
    """Longest sequence with learned positions, in tokens; None where positions are relative or rotary."""
    numbering: Numbering
    """What learned positions number."""
    ffn_field: str
    """Field of the configuration that sets ``ffn``; empty where it follows from the width."""
    hands_on: bool
    """Whether a block hands keyword arguments that it does not know to its attention."""
    wide_positions: bool
    """Whether every block maps one table of relative positions, as wide as the states."""
    takes_positions: bool
    """Whether a caller may number the positions; BART numbers columns, whatever it is given."""

    def projections(self, targets: Iterable[str]) -> Iterator[tuple[int, Projection]]:
        """Yield ``(layer index, projection)`` for each role in ``targets``, layer by layer.

        In a decoder beside an encoder a role of attention stands twice in a layer: for self-attention and, behind all
        of that, for cross-attention.

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
            for target in targets:
                if target in layer.cross:
                    yield index, layer.cross[target]

    def chosen(self, layers: Literal["all"] | tuple[int, ...]) -> tuple[int, ...]:
        """Indices of the layers that a configuration names.

        Raises:
            BenchError: There is no such layer.
        """
        count = len(self.layers)
        if layers == "all":
            return tuple(range(count))
        if outside := [i for i in layers if not 0 <= i < count]:
            raise BenchError(
                f"layers names {outside[0]}, but the backbone has layers 0 to {count - 1}; name some of these"
            )
        return layers

    def roles(self) -> list[str]:
        """Roles that this family's blocks have, in ``ROLES`` order."""
        return [role for role in ROLES if role in self.layers[0].projections]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
    """A table of families.toml; paths of a block's parts are relative to it, as `Layer` has them."""

    layers: str
    word: str
    embeddings: str
    attention: str
    attention_end: str
    ffn_start: str
    ffn_end: str
    ffn_norm: str
    maps: dict[str, str]
    """Role -> path; the roles of a fused map in the order of its output: ``"query, key, value"``. Experts of a mixture
    have no role: none of them sees every token."""
    by_group: bool = False
    """Whether a fused map of queries, keys and values holds all three of one group of heads after those of another."""
    post_norm: bool = False
    parallel: bool = False
    causal: bool = False
    rotary: Rotary = ""
    learned_positions: bool = False
    numbering: Numbering = "columns"
    ffn_field: str = "intermediate_size"
    hands_on: bool = True
    wide_positions: bool = False
    takes_positions: bool = True
    cross_attention: str | None = None
    cross: dict[str, str] = dataclasses.field(default_factory=dict)
    """As ``maps``, of the attention to an encoder's states."""
    decoder: "_Family | None" = None
    """The blocks of the decoder of an encoder-decoder, where a model has one."""


def _read() -> dict[str, _Family]:
    """Families by the name that transformers gives them; a variant's is ``family/variant``."""
    tables = tomllib.loads(Path(__file__).with_name("families.toml").read_text(encoding="utf-8"))
    plain: dict[str, dict[str, Any]] = {}
    forms: dict[str, dict[str, Any]] = {}
    for name, given in tables.items():
        like = given.pop("like", "")
        forms[name] = given.pop("variants", forms.get(like, {}))
        plain[name] = _over(plain.get(like, {}), given)
        plain |= {f"{name}/{variant}": _over(plain[name], fields) for variant, fields in forms[name].items()}
    return {name: _made(**fields) for name, fields in plain.items()}


def _over(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``fields`` in place of its own, those of the decoder one by one."""
    return base | fields | {"decoder": base.get("decoder", {}) | fields.get("decoder", {})}


def _made(decoder: dict[str, Any], **fields: Any) -> _Family:
    """A family; what its decoder does not say is as in its encoder."""
    return _Family(**fields, decoder=_Family(**fields | decoder) if decoder else None)


_EVERY = _read()
_FAMILIES = tuple(name for name in _EVERY if "/" not in name)


T5 = ("t5", "mt5")
"""Families whose first block of a stack has the relative positions of all of its blocks."""
_UNFIT = {
    "albert": "all its layers are one block that runs many times, so that what a layer keeps, trains or hands back has "
    "no place of its own; take bert or electra, whose blocks are its own kind",
    "gemma3": 'it reads images too; name its text part in a config.json of model_type "gemma3_text"',
}
"""Families that people ask for and that the table of families cannot hold, with the reason and what works."""


def check_family(model_type: str) -> None:
    """Raise where no family has this name of transformers.

    Raises:
        BenchError: It names the families that there are, or says why this one is not among them.
    """
    if reason := _UNFIT.get(model_type):
        raise BenchError(f"backbone family {model_type!r} cannot be measured: {reason}")
    if model_type not in _FAMILIES:
        raise unknown("backbone family", model_type, _FAMILIES)


def causal(model_type: str) -> bool:
    """Whether a family's tokens see those before them alone.

    Raises:
        BenchError: No family has this name.
    """
    check_family(model_type)
    return _EVERY[model_type].causal


def _below_head(backbone: Any) -> str:
    """Path of what gives the states, with a dot: ``model.`` in a whole language model, empty in a bare backbone."""
    name = getattr(backbone, "base_model_prefix", "")
    return f"{name}." if name and isinstance(getattr(backbone, name, None), nn.Module) else ""


def _lm_head(backbone: Any) -> str | None:
    output = backbone.get_output_embeddings()
    return next((path for path, module in backbone.named_modules() if module is output), None) if output else None


def anatomy(backbone: nn.Module) -> Anatomy:
    """Read the roles of ``backbone``, a bare transformers model or a whole language model.

    Raises:
        BenchError: Its family is not one of the supported ones, or the variant deviates from its family's layout.
    """
    config: Any = backbone.config
    check_family(config.model_type)
    family = _family(config)
    below = _below_head(backbone)
    decoder = family.decoder if config.is_encoder_decoder else None
    layers = _blocks(backbone, family, below) + (_blocks(backbone, decoder, below) if decoder else ())
    return Anatomy(
        family=config.model_type,
        layers=layers,
        layers_path=below + family.layers,
        decoder_path=below + decoder.layers if decoder else None,
        embeddings=below + family.embeddings,
        word_embeddings=below + family.word,
        lm_head=_lm_head(backbone),
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        ffn=_ffn_width(backbone, family, layers[0]),
        post_norm=family.post_norm,
        parallel=family.parallel,
        causal=family.causal,
        rotary=family.rotary,
        positions=_positions(config, family.numbering) if family.learned_positions else None,
        numbering=family.numbering,
        ffn_field=family.ffn_field,
        hands_on=family.hands_on,
        wide_positions=family.wide_positions,
        takes_positions=family.takes_positions,
    )


def oriented(module: nn.Module) -> Tensor:
    """Weight of ``module`` as ``[out, in]``: the parameter itself, or for ``Conv1D`` a transposed view of it.

    Writing into the result writes into the module.

    Raises:
        BenchError: ``module`` is neither ``nn.Linear`` nor ``Conv1D``, e.g. a quantised layer.
    """
    if isinstance(module, nn.Linear) and (type(module) is nn.Linear or _is_falcons(module)):
        return module.weight
    if hasattr(module, "packed"):  # in 4 bits, on tensors without data: unpacked for the caller
        dense: Tensor = module.dense()  # type: ignore[operator]
        return dense
    if type(module) is Conv1D:
        return module.weight.t()
    raise BenchError(f"cannot adapt a {type(module).__name__}; this method takes nn.Linear and transformers' Conv1D")


def _is_falcons(module: nn.Module) -> bool:
    """Whether ``module`` is Falcon's own class of linear map, which multiplies as ``nn.Linear`` does."""
    kind = type(module)
    return (kind.__name__, kind.__module__) == ("FalconLinear", "transformers.models.falcon.modeling_falcon")


def _family(config: Any) -> _Family:
    """The layout of a configuration's family, in the form that its fields ask for.

    Raises:
        BenchError: The harness has no such form of the family.
    """
    name = config.model_type
    if name == "opt":
        _check_opt(config)
    if name in T5 and config.is_gated_act:
        name = f"{name}/gated"
    if name == "bart":
        _check_bart(config)
    if name == "stablelm" and config.use_parallel_residual:
        name = "stablelm/parallel"
    if name == "gpt_neox" and not config.use_parallel_residual:
        name = "gpt_neox/sequential"
    if name == "mpnet" and config.pad_token_id != 1:
        raise BenchError("MPNet numbers positions as if padding were token 1; set pad_token_id = 1")
    family = _EVERY[name]
    if name == "deberta-v2":
        learned, wide = config.position_biased_input, getattr(config, "relative_attention", False)
        return dataclasses.replace(family, learned_positions=learned, wide_positions=wide)
    return _falcon(family, config) if name == "falcon" else family


def _falcon(family: _Family, config: Any) -> _Family:
    """Falcon 40B has keys by group and a norm more; the small RefinedWeb models are sequential, with ALiBi.

    Raises:
        BenchError: The fields ask for norms that such a block does not call.
    """
    if config.new_decoder_architecture and not config.parallel_attn:
        raise BenchError("Falcon with new_decoder_architecture runs attention beside the FFN; set parallel_attn = true")
    if config.num_ln_in_parallel_attn == 2 and not config.new_decoder_architecture:
        raise BenchError("Falcon without new_decoder_architecture has one norm; leave num_ln_in_parallel_attn out")
    parallel = config.new_decoder_architecture or config.parallel_attn
    two_norms = config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1
    norm = "ln_mlp" if two_norms else "input_layernorm" if parallel else "post_attention_layernorm"
    return dataclasses.replace(
        family,
        by_group=config.new_decoder_architecture or not config.multi_query,
        parallel=parallel,
        ffn_norm=norm,
        rotary="" if config.alibi else family.rotary,
    )


def _check_opt(config: Any) -> None:
    if not config.do_layer_norm_before or config.word_embed_proj_dim != config.hidden_size:
        raise BenchError(
            "OPT with post-layer norm or projected embeddings (opt-350m) is not supported; use another size"
        )


def _check_bart(config: Any) -> None:
    for what in ("attention_heads", "ffn_dim"):
        encoder, decoder = (getattr(config, f"{stack}_{what}") for stack in ("encoder", "decoder"))
        if encoder != decoder:
            raise BenchError(
                f"bart with encoder_{what} = {encoder} and decoder_{what} = {decoder} is not supported; give both "
                "stacks the same sizes"
            )


def _positions(config: Any, numbering: Numbering) -> int:
    # RoBERTa counts positions from padding_idx + 1 = 2: two rows of its table hold no token.
    reserved = 2 if numbering == "ids" else 0
    return int(config.max_position_embeddings) - reserved


def _ffn_width(backbone: nn.Module, family: _Family, layer: Layer) -> int:
    if "ffn_out" not in layer.projections:  # experts
        return int(getattr(backbone.config, family.ffn_field))
    module: Any = backbone.get_submodule(layer.projections["ffn_out"].path)
    return int(module.weight.shape[1] if isinstance(module, nn.Linear) else module.weight.shape[0])


def _blocks(backbone: nn.Module, family: _Family, below: str) -> tuple[Layer, ...]:
    """The blocks of one stack."""
    blocks: Any = backbone.get_submodule(below + family.layers)
    maps, cross = (_maps(family, named, backbone.config) for named in (family.maps, family.cross))
    return tuple(_layer(family, maps, cross, f"{below}{family.layers}.{index}") for index in range(len(blocks)))


def _maps(family: _Family, paths: dict[str, str], config: Any) -> dict[str, Projection]:
    """Projections of a block by role, with paths relative to it."""
    found: dict[str, Projection] = {}
    for named, path in paths.items():
        roles = named.split(", ")
        sizes, groups = (1,) * len(roles), 1
        if "query" in roles and len(roles) > 1:
            heads, shared = config.num_attention_heads, _key_heads(config)
            sizes, groups = (heads, shared, shared), 1
            if family.by_group:
                sizes, groups = (heads // shared, 1, 1), shared
        found |= {role: Projection(role, path, part, sizes, groups) for part, role in enumerate(roles)}
    return {role: found[role] for role in ROLES if role in found}


def _key_heads(config: Any) -> int:
    """Heads of keys and values."""
    if config.model_type == "falcon" and not config.new_decoder_architecture:
        return 1 if config.multi_query else int(config.num_attention_heads)
    if config.model_type == "falcon":
        return int(config.num_kv_heads)
    return getattr(config, "num_key_value_heads", None) or int(config.num_attention_heads)


def _layer(family: _Family, maps: dict[str, Projection], cross: dict[str, Projection], path: str) -> Layer:
    def full(relative: str) -> str:
        return f"{path}.{relative}"

    def placed(maps: dict[str, Projection]) -> dict[str, Projection]:
        return {role: dataclasses.replace(own, path=full(own.path)) for role, own in maps.items()}

    return Layer(
        path=path,
        projections=placed(maps),
        cross=placed(cross),
        cross_attention=full(family.cross_attention) if family.cross_attention else None,
        attention=full(family.attention),
        attention_end=full(family.attention_end),
        ffn_start=full(family.ffn_start),
        ffn_end=full(family.ffn_end),
        ffn_norm=full(family.ffn_norm),
    )

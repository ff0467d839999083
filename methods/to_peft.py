"""Methods of this project as models of the ``peft`` library that compute the same, for ``Method.to_peft``."""

import dataclasses
import inspect
import math
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.anatomy import anatomy
from bench.errors import BenchError
from methods.peft_config import first_line, library
from methods.sliced import oriented

ADAPTER = "default"
"""peft's name of the one adapter."""
TASK = "FEATURE_EXTRACTION"
"""peft's name of a bare backbone's task: the head stands outside."""
Rows = Mapping[str, slice | Tensor]
"""Adapted role of a map -> what picks its rows of the weight."""


@dataclasses.dataclass(frozen=True)
class Factors:
    """An update ``scale * outer @ inner`` of a whole map, whatever its parts."""

    inner: Tensor
    """``[r, in]``."""
    outer: Tensor
    """``[out, r]``."""


def joined(rows: Rows, inner: Mapping[str, Tensor], outer: Mapping[str, Tensor], base: nn.Module) -> Factors:
    """The updates of a map's slices as one of the whole map: their inner matrices stacked, the outer ones apart.

    peft adapts a fused map, such as GPT-2's of query, key and value, as a whole.
    """
    stack = torch.cat([inner[role].detach() for role in rows])
    whole = stack.new_zeros(oriented(base).shape[0], len(stack))
    at = 0
    for role, places in rows.items():
        rank = outer[role].shape[1]
        whole[places, at : at + rank] = outer[role].detach()
        at += rank
    return Factors(stack, whole)


def lora(
    backbone: nn.Module,
    updates: Mapping[str, Factors],
    scale: float,
    *,
    dropout: float = 0.0,
    stabilised: bool = False,
    lengths: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A ``LORA`` model.

    Args:
        backbone: The fresh bare backbone, which it takes over.
        updates: By the path of the map.
        scale: Of every update.
        dropout: Of a training that goes on.
        stabilised: Whether peft's scale is ``alpha / sqrt(r)``.
        lengths: Length of each row ``[out]`` of every map, for DoRA.
    """
    rank = max(len(update.inner) for update in updates.values())
    model = _model(
        backbone,
        "LoraConfig",
        updates,
        r=rank,
        lora_alpha=_plain(scale * (math.sqrt(rank) if stabilised else rank)),
        lora_dropout=dropout,
        use_rslora=stabilised,
        use_dora=lengths is not None,
    )
    for path, update in updates.items():
        layer = _layer(model, path)
        _fill(layer.lora_A[ADAPTER].weight, _padded(update.inner, rank, 0))
        _fill(layer.lora_B[ADAPTER].weight, _padded(update.outer, rank, 1))
        if lengths is not None:
            _fill(layer.lora_magnitude_vector[ADAPTER].weight, lengths[path])
    return model


def adalora(
    backbone: nn.Module, updates: Mapping[str, Factors], values: Mapping[str, Tensor], scale: float, **settings: Any
) -> nn.Module:
    """An ``ADALORA`` model; a pruned triplet is one whose value is zero.

    Args:
        backbone: The fresh bare backbone.
        updates: P and Q of each map.
        values: L ``[r]`` of each map.
        scale: Of every update.
        **settings: Further fields of ``AdaLoraConfig``.
    """
    rank = max(len(update.inner) for update in updates.values())
    # peft divides by r + 1e-5, and asks for a schedule though nothing is trained
    alpha = scale * (rank + 1e-5)
    model = _model(
        backbone, "AdaLoraConfig", updates, init_r=rank, lora_alpha=alpha, tinit=0, tfinal=0, total_step=1, **settings
    )
    for path, update in updates.items():
        layer = _layer(model, path)
        _fill(layer.lora_A[ADAPTER], _padded(update.inner, rank, 0))
        _fill(layer.lora_B[ADAPTER], _padded(update.outer, rank, 1))
        _fill(layer.lora_E[ADAPTER], _padded(values[path][:, None], rank, 0))
    return model


def ia3(backbone: nn.Module, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> nn.Module:
    """An ``IA3`` model: factors of the outputs ``[out]`` of some maps and of the inputs ``[in]`` of others."""
    factors = {**outputs, **inputs}
    # full paths: the two kinds of maps may end alike, and peft takes both lists by their ends
    model = _model(backbone, "IA3Config", factors, target_modules=[*factors], feedforward_modules=[*inputs])
    for path, factor in factors.items():
        held = _layer(model, path).ia3_l[ADAPTER]
        _fill(held, factor.reshape(held.shape))
    return model


@dataclasses.dataclass(frozen=True)
class VeraScales:
    """VeRA of a whole map: ``diag(b) B diag(d) A`` with frozen A ``[r, in]`` and B ``[out, r]``."""

    A: Tensor
    B: Tensor
    d: Tensor
    b: Tensor


def vera(backbone: nn.Module, maps: Mapping[str, VeraScales], seed: int, dropout: float) -> nn.Module:
    """A ``VERA`` model, whose one pair serves all maps, each by its first columns of A and rows of B.

    Raises:
        BenchError: The frozen matrices of the maps are not the parts of one pair.
    """
    a = max((one.A for one in maps.values()), key=lambda matrix: matrix.numel())
    b = max((one.B for one in maps.values()), key=lambda matrix: matrix.numel())
    for path, one in maps.items():
        own = a[: one.A.shape[0], : one.A.shape[1]], b[: one.B.shape[0], : one.B.shape[1]]
        if not (own[0].equal(one.A) and own[1].equal(one.B)):
            raise BenchError(
                f"peft's VERA has one frozen pair for all maps, of which each takes a part, and that of {path!r} is "
                "another one; adapt maps that read states of one width"
            )
    model: Any = _model(
        backbone, "VeraConfig", maps, r=len(a), projection_prng_key=seed, vera_dropout=dropout, save_projection=True
    )
    _fill(model.base_model.vera_A[ADAPTER], a)
    _fill(model.base_model.vera_B[ADAPTER], b)
    for path, one in maps.items():
        _fill(_layer(model, path).vera_lambda_d[ADAPTER], one.d)
        _fill(_layer(model, path).vera_lambda_b[ADAPTER], one.b)
    return model


def prompt(backbone: nn.Module, table: Tensor, kind: str) -> nn.Module:
    """A model with a prompt ``[p, d]`` in front of the embeddings, of configuration class ``kind``."""
    model: Any = _model(backbone, kind, None, num_virtual_tokens=len(table))
    _fill(model.prompt_encoder[ADAPTER].embedding.weight, table)
    return model


def prefix(backbone: nn.Module, table: Tensor, shifted: bool, first: int) -> nn.Module:
    """A ``PREFIX_TUNING`` model, which hands the prefix over as a cache and so numbers tokens from p on.

    Args:
        backbone: The fresh bare backbone.
        table: Keys and values ``[L, 2, kv heads, p, d_h]``.
        shifted: Whether the method numbers them so too. Where it does not, keys are turned on by p positions where
            positions are rotary, and a table of learned positions that stands p rows on goes into the folder.
        first: Row of that table that the first token takes.

    Raises:
        BenchError: The family has no cache, or positions of another kind.
    """
    length, parts = table.shape[3], anatomy(backbone)
    if "past_key_values" not in inspect.signature(backbone.forward).parameters:
        raise BenchError("peft hands a prefix over as a cache, which this family does not read")
    settings: dict[str, Any] = {"num_virtual_tokens": length}
    learned = None
    if not shifted and parts.rotary:
        table = torch.stack([_turned(backbone, table[:, 0], length), table[:, 1]], dim=1)
    elif not shifted and parts.positions is not None:
        learned = _positions(backbone, parts.positions)
        settings["modules_to_save"] = [learned]
    model: Any = _model(backbone, "PrefixTuningConfig", None, **settings)
    weight = model.prompt_encoder[ADAPTER].embedding.weight
    flat = table.permute(3, 0, 1, 2, 4).reshape(length, -1)
    if flat.shape != weight.shape:
        raise BenchError(f"peft's prefix on this backbone is {list(weight.shape)}, and this one {list(flat.shape)}")
    _fill(weight, flat)
    if learned is not None:
        held = next(part for name, part in model.base_model.named_modules() if name.endswith(learned))
        rows = held.modules_to_save[ADAPTER].weight
        moved = rows.detach().clone()
        moved[first + length :] = rows.detach()[first : len(rows) - length]
        _fill(rows, moved)
    return model


def _positions(backbone: nn.Module, positions: int) -> str:
    """Last name of the table of learned positions."""
    known = ("position_embeddings", "wpe", "embed_positions")
    tables = [name for name, part in backbone.named_modules() if isinstance(part, nn.Embedding)]
    held = [name for name in tables if name.rpartition(".")[2] in known]
    if len(held) != 1:
        raise BenchError(
            f"peft's prefix moves the {positions} learned positions of tokens on, and their table is not found here; "
            "train with position_shift = true"
        )
    return held[0].rpartition(".")[2]


def _turned(backbone: nn.Module, keys: Tensor, by: int) -> Tensor:
    """``keys [..., d_h]`` turned on by ``by`` rotary positions."""
    rotary = [part for name, part in backbone.named_modules() if name.rpartition(".")[2] == "rotary_emb"]
    rotate = getattr(sys.modules[type(backbone).__module__], "rotate_half", None)
    try:
        (one,) = rotary
        cos, sin = one(keys, torch.full((1, 1), by))
    except (ValueError, TypeError) as error:
        raise BenchError("peft's prefix moves the positions on, and this family's are not one table") from error
    if rotate is None:
        raise BenchError("peft's prefix moves the positions on, which this family's code does not undo")
    cos, sin = (part[0, 0] / getattr(one, "attention_scaling", 1.0) for part in (cos, sin))
    turned, rest = keys[..., : len(cos)], keys[..., len(cos) :]
    return torch.cat([turned * cos + rotate(turned) * sin, rest], dim=-1)


def _model(backbone: nn.Module, kind: str, targets: Mapping[str, Any] | None, **settings: Any) -> Any:
    """A model of peft's of this configuration class, with ``targets`` as its target modules where it has any."""
    peft = library()
    if targets is not None:
        settings.setdefault("target_modules", _short(backbone, targets))
        if kind != "PrefixTuningConfig":
            settings["fan_in_fan_out"] = any(isinstance(backbone.get_submodule(path), Conv1D) for path in targets)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = getattr(peft, kind)(task_type=TASK, inference_mode=True, **settings)
            model = peft.get_peft_model(backbone, config, ADAPTER, autocast_adapter_dtype=False)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise BenchError(f"peft refuses this backbone: {first_line(error)}") from error
    return model.eval()


def _short(backbone: nn.Module, targets: Mapping[str, Any]) -> list[str]:
    """Target modules as people write them, ``["query", "value"]``, where these ends name nothing else."""
    ends = sorted({path.rpartition(".")[2] for path in targets})
    named = {name for name, _ in backbone.named_modules() if name.rpartition(".")[2] in ends}
    # a pooler, which AutoModel adds and which is no part of the bare backbone, has a map called dense
    return ends if named == set(targets) and "dense" not in ends else [*targets]


def _layer(model: Any, path: str) -> Any:
    return model.base_model.model.get_submodule(path)


def _padded(matrix: Tensor, size: int, dim: int) -> Tensor:
    """``matrix`` with zeros up to ``size`` along ``dim``: peft gives all maps one rank."""
    missing = size - matrix.shape[dim]
    shape = [missing if axis == dim else length for axis, length in enumerate(matrix.shape)]
    return torch.cat([matrix.detach(), matrix.new_zeros(shape)], dim=dim) if missing else matrix.detach()


@torch.no_grad()
def _fill(held: Tensor, values: Tensor) -> None:
    if held.shape != values.shape:
        raise BenchError(f"peft holds {list(held.shape)} where this method has {list(values.shape)}")
    held.copy_(values)


def _plain(number: float) -> float | int:
    """Whole numbers as such, as people write them in an ``adapter_config.json``."""
    near = round(number)
    return near if math.isclose(number, near, rel_tol=1e-12) else number

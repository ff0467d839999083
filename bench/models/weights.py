"""Loads the weights of a backbone whole: no tensor is left to chance, and what has no place in it is counted."""

import collections
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.models.folder import SHARDS, weight_files
from bench.schema.jobs import BackboneSpec

if TYPE_CHECKING:
    from torch import nn

HEADS = ("classifier", "classification_head", "pre_classifier", "qa_outputs", "score")
"""First names of the heads that transformers puts on a backbone for one task."""
_SHOWN = 3
_FLOATS = ("F32", "F16", "BF16", "F64")
"""Types of safetensors whose values are the weights themselves."""
_KINDS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
_NUMBER = re.compile(r"\.\d+\.")


def pretrained(spec: BackboneSpec, auto: Any, config: Any, **extra: Any) -> "nn.Module":
    """The backbone of ``config`` with the weights of ``spec``, all of them.

    Args:
        spec: A resolved backbone.
        auto: Class of transformers that builds it.
        config: Its configuration.
        **extra: For ``from_pretrained``.

    Raises:
        BenchError: The file is damaged, lacks a tensor, or holds one of another size or one that is not finite.
    """
    path = _weights(spec)[0]
    _check_folder(path.parent)
    quiet_loading()
    try:
        backbone, found = auto.from_pretrained(
            str(path.parent), config=config, use_safetensors=True, local_files_only=True, output_loading_info=True,
            ignore_mismatched_sizes=True, trust_remote_code=False, **extra,
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # safetensors, torch and transformers have a dozen types for a damaged file
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise BenchError(f"{path}: cannot be loaded ({_first_line(error)}); fetch it again") from error
    _check_whole(path, found)
    _check_finite(path, backbone)
    return backbone  # type: ignore[no-any-return]


def _weights(spec: BackboneSpec) -> tuple[Path, tuple[Path, ...]]:
    """What messages name, the file of weights or the list of its shards, and the files that hold them."""
    assert spec.folder is not None, "a pretrained backbone has a folder"
    files = weight_files(Path(spec.folder))
    return files[0] if len(files) == 1 else Path(spec.folder) / SHARDS, files


def read_header(spec: BackboneSpec, bare: Any, config: Any) -> tuple[dict[str, int], tuple[str, ...]]:
    """What of the weights has no place in the bare backbone, and what a reader of its scores must know of them.

    The names in the headers of their files are loaded, with tensors that take no memory: what transformers makes of
    them, old spellings and tied weights included, is what it makes of the real ones.

    Args:
        spec: A resolved pretrained backbone.
        bare: Its module, without values.
        config: Its configuration.

    Returns:
        How many tensors have no place, by their first names; and notes.

    Raises:
        BenchError: A file is damaged, a tensor is missing, of another size or type, or there are two for one place.
    """
    path, files = _weights(spec)
    _check_folder(path.parent)
    quiet_loading()
    held, shapes, stored = _headers(files)
    places, found = _placed(type(bare), config, shapes)
    _check_whole(path, found)
    _check_types(path, {name: stored[name] for name in places.values()})
    unplaced = set(shapes) - set(found["unexpected_keys"]) - set(places.values())
    _check_once(path, held, [*_tied(bare, places), *_rivals(type(bare), config, shapes, places, unplaced)])
    unused = dict(sorted(collections.Counter(map(_first_names, found["unexpected_keys"])).items()))
    return unused, (*_head_notes(unused), *_block_notes(found["unexpected_keys"], places))


def _headers(files: Iterable[Path]) -> tuple[dict[str, Path], dict[str, tuple[int, ...]], dict[str, str]]:
    """Of each tensor the file that holds it, its shape and its type."""
    from safetensors import SafetensorError, safe_open

    held: dict[str, Path] = {}
    shapes, stored = {}, {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    one = file.get_slice(name)
                    shapes[name], stored[name] = tuple(one.get_shape()), one.get_dtype()
                    if held.setdefault(name, path) != path:
                        raise BenchError(f"{path}: holds {name}, as does {held[name].name}; fetch all shards again")
        except (SafetensorError, OSError) as error:
            raise BenchError(f"{path}: cannot be loaded ({_first_line(error)}); fetch it again") from error
    return held, shapes, stored


def _placed(kind: Any, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, str], dict[str, Any]]:
    """Which tensor of a file each parameter takes, and what transformers reports of the rest.

    Every element of a tensor is its number, and so is every element of the parameter that takes it.
    """
    import torch

    names = list(shapes)
    held = {name: torch.full((), float(number)).expand(shapes[name]) for number, name in enumerate(names)}
    every: Any = type(kind.__name__, (kind,), {"_keys_to_ignore_on_load_unexpected": None})  # the family hides some
    module, found = every.from_pretrained(
        None, config=config, state_dict=held, output_loading_info=True, ignore_mismatched_sizes=True,
        trust_remote_code=False, dtype=torch.float32, **without_pooler(kind),
    )  # fmt: skip
    drawn = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    return {
        place: names[int(parameter[(0,) * parameter.ndim])]
        for place, parameter in module.named_parameters() if place not in drawn
    }, found  # fmt: skip


def _check_types(path: Path, stored: Mapping[str, str]) -> None:
    for name, dtype in stored.items():
        if dtype not in _FLOATS:
            known = ", ".join(map(_spelled, _FLOATS))
            raise BenchError(
                f"{path}: {name} is stored as {_spelled(dtype)}, and the scale of such weights is not read; name a "
                f'backbone with weights in one of {known}, or set weights = "random" for costs alone'
            )


def _spelled(dtype: str) -> str:
    """``int8`` of safetensors' ``I8``, ``float8_e4m3`` of ``F8_E4M3``."""
    kind, size, more = re.fullmatch(r"([A-Z]+)(\d*)(.*)", dtype).groups()  # type: ignore[union-attr]
    return f"{_KINDS.get(kind, kind.lower())}{size}{more.lower()}"


def _check_once(path: Path, held: Mapping[str, Path], twins: Iterable[tuple[str, str, str]]) -> None:
    """Refuse two tensors for one place that differ: which of them transformers takes, it does not tell."""
    for place, one, other in twins:
        if not _tensor(held, one).equal(_tensor(held, other)):
            raise BenchError(f"{path}: {one} and {other} both stand for {place} and differ; keep the one that is meant")


def _tensor(held: Mapping[str, Path], name: str) -> Any:
    from safetensors import safe_open

    with safe_open(held[name], framework="pt") as file:
        return file.get_tensor(name)


def _tied(bare: Any, places: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """A place and two tensors for it: of weights that the family ties, which a file may hold under both names.

    The LM head of later T5s, which transformers lists among them, is a matrix of its own.
    """
    held = dict(bare.named_parameters(remove_duplicate=False))
    for name, place in bare.all_tied_weights_keys.items():
        if held[name] is held[place] and name in places and place in places and places[name] != places[place]:
            yield place, places[place], places[name]


def _rivals(
    kind: Any, config: Any, shapes: Mapping[str, tuple[int, ...]], places: Mapping[str, str], unplaced: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    """A place and two tensors for it: of two spellings of one name.

    Those of the shape of a parameter are loaded alone, to see whether they would be taken for it; families drop
    others, such as the frequencies of a rotary table.
    """
    rivals = {name for name in unplaced if shapes[name] in {shapes[taken] for taken in places.values()}}
    if not rivals:
        return
    twice = {shapes[name] for name in rivals}
    alone = {name: shapes[name] for name in shapes if name in rivals or shapes[name] not in twice}
    for place, rival in _placed(kind, config, alone)[0].items():
        if rival in rivals:
            yield place, places[place], rival


def without_pooler(kind: type) -> dict[str, bool]:
    """What a class of transformers is called with to leave its pooler out, where it has one to leave out."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def _head_notes(unused: Iterable[str]) -> tuple[str, ...]:
    """Weights that came with the head of a task were trained on it before."""
    heads = [name for name in unused if name.partition(".")[0] in HEADS]
    return (f"the weights file holds the head of a task ({', '.join(heads)}): trained on it before",) if heads else ()


def _block_notes(unexpected: Iterable[str], places: Mapping[str, str]) -> tuple[str, ...]:
    """A file with more blocks than its configuration asks for was trained as a deeper backbone."""
    known = {_NUMBER.sub(".*.", tensor) for tensor in places.values()}
    more = {found for name in unexpected if _NUMBER.sub(".*.", name) in known and (found := _block(name))}
    ordered = sorted(more, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")])
    return (
        (f"the weights file holds {len(more)} {'block' if len(more) == 1 else 'blocks'} that config.json leaves out "
         f"({_listed(ordered)}): the backbone is shallower than the one that was pretrained",)
        if more else ()
    )  # fmt: skip


def _block(tensor: str) -> str:
    """``encoder.layer.1`` of ``encoder.layer.1.output.dense.weight``; empty where no block is numbered."""
    numbered = _NUMBER.search(tensor)
    return tensor[: numbered.end() - 1] if numbered else ""


def _first_names(tensor: str) -> str:
    """``cls.predictions`` of ``cls.predictions.transform.dense.weight``."""
    parts = tensor.split(".")
    return ".".join(parts[: min(2, max(1, len(parts) - 1))])


def _check_folder(folder: Path) -> None:
    """An adapter that lies beside the weights is put onto the backbone by transformers, unasked."""
    if (folder / "adapter_config.json").exists():
        raise BenchError(
            f"{folder}: adapter_config.json lies beside the weights, which would be loaded with them; move it"
        )


def _check_whole(path: Path, found: Mapping[str, Any]) -> None:
    if missing := sorted(found["missing_keys"]):
        raise BenchError(
            f"{path}: lacks {_listed(missing)}, which would be drawn at random; fetch the whole file, or set "
            'weights = "random"'
        )
    if other := sorted(found["mismatched_keys"]):
        name, held, wanted = other[0]
        raise BenchError(
            f"{path}: {name} is {_size(held)} but {_size(wanted)} by config.json"
            f"{f', and {len(other) - 1} more differ' if other[1:] else ''}; the two files do not belong together"
        )
    if errors := found.get("error_msgs"):
        raise BenchError(f"{path}: cannot be loaded ({' '.join(str(errors[0]).split())}); fetch it again")


def _check_finite(path: Path, backbone: "nn.Module") -> None:
    broken = [name for name, parameter in backbone.named_parameters() if not parameter.isfinite().all()]
    if broken:
        dtype = str(backbone.get_parameter(broken[0]).dtype).removeprefix("torch.")
        verb = "hold" if broken[1:] else "holds"
        raise BenchError(f"{path}: {_listed(broken)} {verb} NaN or infinity as {dtype}; fetch it again")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def quiet_loading() -> None:
    """Silence transformers' report of what has no place, which is counted in the record, and its progress bars."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    logging.set_verbosity_error()
    logging.disable_progress_bar()

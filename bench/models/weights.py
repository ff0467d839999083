"""Loads a file of weights whole: no tensor of a backbone is left to chance, and what has no place in it is counted."""

import collections
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.schema.jobs import BackboneSpec

if TYPE_CHECKING:
    from torch import nn

HEADS = ("classifier", "classification_head", "pre_classifier", "qa_outputs", "score")
"""First names of the heads that transformers puts on a backbone for one task."""
_SHOWN = 3


def pretrained(spec: BackboneSpec, auto: Any, config: Any, **extra: Any) -> "nn.Module":
    """The backbone of ``config`` with the weights of ``spec``, all of them.

    Args:
        spec: A resolved backbone.
        auto: Class of transformers that builds it.
        config: Its configuration.
        **extra: For ``from_pretrained``.

    Raises:
        BenchError: The file is damaged, lacks a tensor, or holds one of another size.
    """
    path = weights_path(spec)
    _check_folder(path.parent)
    _quiet_loading()
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
    return backbone  # type: ignore[no-any-return]


def weights_path(spec: BackboneSpec) -> Path:
    """The file that holds the weights of a resolved backbone."""
    assert spec.folder is not None, "a pretrained backbone has a folder"
    return Path(spec.folder) / "model.safetensors"


def unused_tensors(spec: BackboneSpec, kind: Any, config: Any) -> dict[str, int]:
    """How many tensors of the weights file have no place in the bare backbone, by their first names.

    The names in the file's header are loaded, with tensors that take no memory: what transformers makes of them,
    old spellings and tied weights included, is what it makes of the real ones.

    Args:
        spec: A resolved pretrained backbone.
        kind: Class of its module.
        config: Its configuration.

    Raises:
        BenchError: The file is damaged, lacks a tensor, or holds one of another size.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = weights_path(spec)
    _check_folder(path.parent)
    _quiet_loading()
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: torch.zeros(()).expand(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise BenchError(f"{path}: cannot be loaded ({_first_line(error)}); fetch it again") from error
    every: Any = type(kind.__name__, (kind,), {"_keys_to_ignore_on_load_unexpected": None})  # the family hides some
    _, found = every.from_pretrained(
        None, config=config, state_dict=held, output_loading_info=True, ignore_mismatched_sizes=True,
        trust_remote_code=False, dtype=torch.float32, **without_pooler(kind),
    )  # fmt: skip
    _check_whole(path, found)
    return dict(sorted(collections.Counter(map(_first_names, found["unexpected_keys"])).items()))


def without_pooler(kind: type) -> dict[str, bool]:
    """What a class of transformers is called with to leave its pooler out, where it has one to leave out."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def head_notes(unused: Iterable[str]) -> tuple[str, ...]:
    """What a reader must know of weights that came with the head of a task: they were trained on it before."""
    heads = [name for name in unused if name.partition(".")[0] in HEADS]
    return (f"the weights file holds the head of a task ({', '.join(heads)}): trained on it before",) if heads else ()


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


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _size(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _quiet_loading() -> None:
    # What has no place is counted in the record: transformers' own report of it would be noise in every cell.
    from transformers.utils import logging as untyped

    logging: Any = untyped
    logging.set_verbosity_error()
    logging.disable_progress_bar()

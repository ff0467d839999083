"""Files of a backbone in a folder, as ``save_pretrained`` writes them: which hold the weights, and their hash."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.schema.jobs import is_path

WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
"""The list of the files that weights are split into."""
_PICKLES = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def names_folder(name: str) -> bool:
    """Whether ``name`` of a backbone is the path of a folder, spelled as one: ``./mine``, ``../mine``, ``mine/``."""
    return is_path(name) and not name.endswith(".json")


def located(name: str, beside: Path, start: Path = Path()) -> str:
    """``name`` of a backbone, relative to ``start`` where it is a path relative to ``beside``."""
    if not is_path(name) or name.startswith("~") or Path(name).is_absolute():
        return name
    path = os.path.relpath(beside / name, start)
    return path if path.endswith(".json") or is_path(path) else f"./{path}"


def open_folder(name: str) -> Path:
    """The absolute path of a folder that holds a backbone.

    Raises:
        BenchError: It is no folder, or no ``config.json`` lies in it.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise BenchError(f"backbone {name!r}: no such folder; give one that save_pretrained of transformers wrote")
    if not (folder / "config.json").is_file():
        adapter = "adapter_config.json: it is an adapter and no backbone; merge it (merge_and_unload of peft) and save "
        held = (
            f"{adapter}that" if (folder / "adapter_config.json").is_file() else "no config.json; save the model there"
        )
        raise BenchError(f"backbone {name!r}: the folder holds {held} with save_pretrained of transformers")
    return folder.resolve()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of safetensors in ``folder`` that hold its weights, in the order of their names.

    ``model.safetensors`` alone where it is there, else the shards that ``model.safetensors.index.json`` lists.

    Raises:
        BenchError: There are none, a shard is missing, or the list names what is no file beside it.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / SHARDS).is_file():
        _refuse_pickles(folder)
        raise BenchError(f"{folder / WEIGHTS}: is missing; safetensors weights are required, or the config.json alone "
                         'for costs (weights = "random")')  # fmt: skip
    names = _listed(folder / SHARDS)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise BenchError(f"{folder / SHARDS}: lists {missing[0]}, which is not there; fetch all {len(names)} files")
    return tuple(folder / name for name in names)


def _listed(path: Path) -> list[str]:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        names = sorted(set(values["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(
            f"{path}: is no list of weight files (weight_map is missing or damaged); fetch it again"
        ) from (error)
    if not names or not all(_plain(name) for name in names):
        raise BenchError(f"{path}: weight_map must name safetensors files that lie beside it; fetch it again")
    return names


def _plain(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and not {"/", "\\", "\0"} & set(name)


def _refuse_pickles(folder: Path) -> None:
    found = next((path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))), None)
    if found is None:
        return
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (OSError, ValueError, LookupError, TypeError):
        kind = None
    kind = kind if isinstance(kind, str) and kind.isidentifier() else "AutoModel"
    raise BenchError(
        f"{folder / found}: is a pickle, which can run code when it is opened and is never read here; where you trust "
        f"it, write the folder as safetensors with transformers: {kind}.from_pretrained(folder).save_pretrained(folder)"
    )


def weights_sha256(files: Iterable[Path]) -> str:
    """Hash over the content of all ``files``, one after the other; of one file it is the file's own.

    Raises:
        BenchError: One cannot be read.
    """
    return _sha256(tuple((path, *_state(path)) for path in files))


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _sha256(states: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in states:
        try:
            with path.open("rb") as file:
                while part := file.read(2**22):
                    digest.update(part)
        except OSError as error:
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> BenchError:
    return BenchError(f"{path}: cannot be read ({error.strerror}); safetensors weights are required")

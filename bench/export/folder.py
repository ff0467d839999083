"""Writes a kept delta as a folder of its own, in one of three forms, and holds what can be loaded from it to it."""

import contextlib
import functools
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.errors import BenchError, given, unwritable
from bench.models import backbone
from bench.models.head import TaskModel
from bench.models.tokenizer import HashingTokenizer, load_tokenizer
from bench.models.weights import quiet_loading
from bench.schema.delta import Delta, Form
from bench.schema.jobs import BackboneSpec
from bench.store.kept import (
    ABOUT,
    BESIDE,
    HEAD,
    HEAD_FILE,
    TENSORS,
    Kept,
    check_files,
    file_sha256,
    write_about,
    write_tensors,
)
from bench.training.adapted import base_of, rebuilt
from bench.training.contract import MODULE, merge

CARD = "README.md"
ALLOWED = 1e-4
"""Largest difference of hidden states, as a share of the largest, from what is exported: rounding lies well below."""
TOKENS = 16
"""Of each of the two rows that are compared."""


class Exported(NamedTuple):
    """What was written."""

    about: Delta
    apart: float | None
    """How far what loads from it is from the original: the largest difference of hidden states, as a share of the
    largest; None for the native form, whose tensors are the original."""
    auto: str
    """Class of transformers that loads the bare backbone; empty for the native form."""


def export(kept: Kept, form: Form, out: Path, card: Callable[[Exported], str], base: str | None = None) -> Exported:
    """Write ``kept`` as the folder ``out``, whole or not at all.

    Args:
        kept: What is written.
        form: How its tensors are stored.
        out: A folder that does not exist yet, or an empty one.
        card: Makes the text of its ``README.md``.
        base: Name or folder of the backbone, where it does not lie where it lay.

    Raises:
        BenchError: The form cannot hold the method, ``out`` is in use or cannot be written, or a file is damaged.
    """
    _check_free(out)
    check_files(kept.folder, kept.about)
    try:
        with _aside(out) as aside:
            made = _WRITE[form](kept, aside, base)
            write_about(aside / (ABOUT if form == "native" else BESIDE), made.about)
            (aside / CARD).write_text(card(made), encoding="utf-8")
            for path in aside.iterdir():  # safetensors are written for their owner alone
                path.chmod((aside / CARD).stat().st_mode)
    except OSError as error:
        raise unwritable(out, error, "give another -o") from error
    return made


def _check_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BenchError(f"-o {out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        raise BenchError(f"-o {out}: the folder is not empty; give another one, or empty it")


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place once all is written."""
    aside = out.with_name(f"{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if out.exists():
            out.rmdir()
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _native(kept: Kept, aside: Path, base: str | None) -> Exported:
    shutil.copyfile(kept.folder / TENSORS, aside / TENSORS)
    return Exported(kept.about, None, "")


def _foreign(kept: Kept, aside: Path, base: str | None) -> Exported:
    about, spec, model = _loaded(kept, base)
    method, _ = registry.make(about.method.name, about.method.config)
    fresh = functools.partial(backbone.load, spec, seed=about.base.seed)
    library = registry.adapters()
    library.library()  # what is missing is the library, whatever the method
    try:
        theirs = _theirs(method, model.body, fresh())
        files = library.save(theirs, aside, about.base.folder or about.base.name, about.base.revision)
        apart = _apart(model.body, library.load(fresh(), aside), about, spec)
        _check_near(apart, about)
    except BenchError as error:
        other = ["native", *(["merged"] if merge(method, model.body) is not None else [])]
        raise _refusal("peft", about, error, other) from error
    return Exported(_described(about, "peft", aside, files, model), apart, backbone.auto_class(spec))


def _merged(kept: Kept, aside: Path, base: str | None) -> Exported:
    about, spec, model = _loaded(kept, base)
    method, _ = registry.make(about.method.name, about.method.config)
    folded: Any = merge(method, model.body)
    if folded is None:
        other = ["native", *(["peft"] if _has_peft(method, model, about, spec) else [])]
        reason = "what it trains cannot be folded into the backbone's weights"
        raise _refusal("merged", about, reason, other)
    quiet_loading()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded.save_pretrained(aside, max_shard_size="1TB")
    tokenizer: Any = load_tokenizer(spec.folder, backbone.configuration(spec).vocab_size)
    if not isinstance(tokenizer, HashingTokenizer):
        tokenizer.save_pretrained(aside)
    again = backbone.load(BackboneSpec(name=spec.name, weights="pretrained", folder=str(aside)))
    apart = _apart(model.body, again, about, spec)
    try:
        _check_near(apart, about)
    except BenchError as error:
        raise _refusal("merged", about, error, ["native"]) from error
    files = ("model.safetensors",)
    return Exported(_described(about, "merged", aside, files, model), apart, backbone.auto_class(spec))


_WRITE: Mapping[Form, Callable[[Kept, Path, str | None], Exported]] = {
    "native": _native, "peft": _foreign, "merged": _merged,
}  # fmt: skip


def _loaded(kept: Kept, base: str | None) -> tuple[Delta, BackboneSpec, TaskModel]:
    """The model in float32, in eval mode."""
    spec = base_of(kept.folder, kept.about, base)
    return kept.about, spec, rebuilt(kept.folder, kept.about, spec, "cpu").requires_grad_(False).eval()


def _described(about: Delta, form: Form, aside: Path, files: tuple[str, ...], model: TaskModel) -> Delta:
    """The head beside the body, and the description of both."""
    head = write_tensors(aside / HEAD_FILE, {HEAD + name: held for name, held in model.head.state_dict().items()})
    hashes = {name: file_sha256(aside / name) for name in files} | {HEAD_FILE: head}
    return about.model_copy(update={"form": form, "files": hashes})


def _refusal(form: Form, about: Delta, reason: object, other: list[str]) -> BenchError:
    remedy = " or ".join(f"--format {name}" for name in other)
    return BenchError(f"--format {form} cannot hold {about.method.label}: {reason}; take {remedy}")


def _theirs(method: Any, body: nn.Module, fresh: nn.Module) -> nn.Module:
    """What ``to_peft`` of a method gives.

    Raises:
        BenchError: The library cannot have the method, or the hook fails or gives something else.
    """
    try:
        return given("to_peft", method.to_peft(body, fresh), nn.Module, MODULE)
    except (BenchError, MemoryError):
        raise
    except Exception as error:  # a third party's hook may fail in any way
        reason = next(iter(str(error).splitlines()), "")
        raise BenchError(f"to_peft() of the method raises {type(error).__name__}: {reason}") from error


def _has_peft(method: Any, model: TaskModel, about: Delta, spec: BackboneSpec) -> bool:
    try:
        _theirs(method, model.body, backbone.load(spec, seed=about.base.seed))
    except BenchError:
        return False
    return True


def _apart(ours: nn.Module, theirs: nn.Module, about: Delta, spec: BackboneSpec) -> float:
    """Largest difference of the hidden states of tokens, as a share of the largest: rows with padding, as the task's.

    Raises:
        BenchError: The other module does not run, or gives states of another shape.
    """
    batch = _rows(about, spec, ours)
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = TaskModel(ours, nn.Identity()).states(batch)[mask]
        try:
            found = TaskModel(theirs.eval(), nn.Identity()).states(batch)[mask]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise BenchError(f"what is loaded does not run ({' '.join(str(error).split())})") from error
    return float((found - expected).abs().max() / expected.abs().max())


def _rows(about: Delta, spec: BackboneSpec, body: Any) -> dict[str, Tensor]:
    """Two rows, the second one padded on the right; of pairs with the types that the tokenizer gives their tokens."""
    vocabulary, padding = body.config.vocab_size, getattr(body.config, "pad_token_id", None) or 0
    length = min(TOKENS, about.max_length)
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, (length + 1) // 2 :] = 0
    ids = (padding + 1 + torch.arange(2 * length).reshape(2, length) % (vocabulary - 1)) % vocabulary
    batch = {"input_ids": ids.where(mask.bool(), torch.tensor(padding)), "attention_mask": mask}
    words = load_tokenizer(spec.folder, vocabulary)
    columns = [["a"] for _ in about.text]
    types = words(*columns, truncation=True, max_length=length).get("token_type_ids")
    if types is not None:
        batch["token_type_ids"] = (torch.arange(length) >= length // 4).long().expand(2, -1) * max(types[0])
    return batch


def _check_near(apart: float, about: Delta) -> None:
    if not apart <= ALLOWED:
        pair = " (beside a prompt the library leaves out the types of tokens, which tell the two texts of a row apart)"
        raise BenchError(
            f"what is loaded differs from it by {apart:.2g} of the largest hidden state"
            f"{pair if len(about.text) > 1 and about.prompt_positions else ''}"
        )

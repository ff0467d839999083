"""Loads what a run has kept or exported: an adapted model that predicts labels or scores of texts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.errors import BenchError, given
from bench.models import backbone
from bench.models.backbone import configuration
from bench.models.head import Head, TaskModel, make_head
from bench.models.tokenizer import Tokenizer, load_tokenizer
from bench.schema.delta import Delta
from bench.schema.jobs import BackboneSpec
from bench.store.kept import (
    ABOUT,
    BESIDE,
    BODY,
    HEAD,
    HEAD_FILE,
    TENSORS,
    check_files,
    read_about,
    read_tensors,
)
from bench.tasks.rows import Rows
from bench.training.contract import MODULE
from bench.training.evaluate import Encoded, predictions
from bench.training.loop import NonFiniteLoss, to_autocast

AT_ONCE = 1 << 14
"""Rows that are tokenised together."""
Texts = Sequence[str] | Sequence[Sequence[str]]
"""One text a row, or as many as the task has columns of texts."""


class Predicted(NamedTuple):
    """The answer to one row."""

    value: str | float
    """Label, or score in the unit of the task's labels."""
    probability: float | None
    """Of the label; None for a score."""


class Adapted:
    """An adapted backbone with its task head, ready to predict; it trains nothing."""

    def __init__(self, about: Delta, model: TaskModel, tokenizer: Tokenizer, device: str) -> None:
        self.about = about
        """What it is: method, backbone, task, recipe, score."""
        self.model: nn.Module = model
        """The torch module, in eval mode: ``model.body`` is the adapted backbone, ``model.head`` the task head."""
        self.labels = about.labels
        """Class names in the order of the outputs; empty where it predicts a score."""
        self._tokenizer, self._device = tokenizer, device

    def predict(self, texts: Texts, batch_size: int = 64) -> list[str] | list[float]:
        """Labels, or scores in the unit of the task, of ``texts``.

        Args:
            texts: Strings; for a task of two texts pairs of them.
            batch_size: Rows at a time; changes no prediction beyond rounding.

        Raises:
            BenchError: A row is not what the task reads, or its prediction is not finite.
        """
        return [answer.value for answer in self.answers(texts, batch_size)]  # type: ignore[return-value]

    def answers(self, texts: Texts, batch_size: int = 64) -> Iterator[Predicted]:
        """As ``predict``, one by one and with the probability of each label."""
        rows = [self._row(number, text) for number, text in enumerate(texts, 1)]
        for start in range(0, len(rows), AT_ONCE):
            yield from self._answers(rows[start : start + AT_ONCE], batch_size)

    def _answers(self, rows: list[tuple[str, ...]], batch_size: int) -> Iterator[Predicted]:
        encoded = Encoded(
            Rows(tuple(rows), (0,) * len(rows)), self._tokenizer, self.about.max_length,
            scale=self.about.label_scale, device=self._device,
        )  # fmt: skip
        dtype = self.about.dtype if self.about.form == "native" else "float32"
        try:
            found = predictions(self.model, encoded, batch_size, dtype=dtype)  # type: ignore[arg-type]
        except NonFiniteLoss as error:
            raise BenchError("the model predicts NaN or infinity for these rows; leave them out") from error
        for value, probability in found:
            yield Predicted(self.labels[int(value)], probability) if self.labels else Predicted(value, None)

    def _row(self, number: int, text: Any) -> tuple[str, ...]:
        columns = self.about.text
        row = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, Sequence) else ()
        if len(row) != len(columns) or not all(isinstance(part, str) for part in row):
            takes = "a string" if len(columns) == 1 else f"a pair of strings ({' and '.join(columns)})"
            raise BenchError(f"row {number}: the task {self.about.task} takes {takes} a row, not {text!r:.60}")
        return row


def load_adapted(folder: Path | str, backbone: str | None = None, device: str | None = None) -> Adapted:
    """Load what ``run --keep`` has stored or ``export`` has written, in any of its forms.

    Args:
        folder: A folder of ``export``, or ``kept/<id>`` of a run folder.
        backbone: Name or folder of the backbone, where it does not lie where it lay; its weights must be the same.
        device: ``cpu`` or ``cuda``; the GPU where there is one, if left out.

    Raises:
        BenchError: It is no such folder, a file is damaged, or the backbone is not found or is another one.
    """
    place = Path(folder)
    about = describe(place)
    check_files(place, about)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    spec = base_of(place, about, backbone) if about.form != "merged" else _merged(place, about)
    model = _READ[about.form](place, about, spec, device)
    words = _words(place) if about.form == "merged" else spec.folder
    tokenizer = load_tokenizer(words, configuration(spec).vocab_size)
    return Adapted(about, model.requires_grad_(False).eval(), tokenizer, device)


def describe(folder: Path) -> Delta:
    """What lies in a folder of ``run --keep`` or ``export``.

    Raises:
        BenchError: It is no such folder.
    """
    found = [folder / name for name in (ABOUT, BESIDE) if (folder / name).is_file()]
    if not found:
        raise BenchError(f"{folder}: holds neither {ABOUT} nor {BESIDE}; give a folder that export wrote")
    return read_about(found[0])


def base_of(where: Path, about: Delta, name: str | None = None) -> BackboneSpec:
    """The backbone of a delta, in the very files that it was trained on.

    Args:
        where: Its folder, for error messages.
        about: The delta.
        name: Name or folder of the backbone in place of the recorded one.

    Raises:
        BenchError: It is not found, or has other files.
    """
    base = about.base
    if name is not None and base.weights != "random" and backbone.is_shape(name):
        raise BenchError(f"--backbone {name}: a shape without weights; give the folder or the hub id of {base.name!r}")
    place = name or (base.folder if base.folder and Path(base.folder).is_dir() else base.name)
    try:
        spec = backbone.resolve(place, base.weights, base.revision if place == base.name else None)
    except BenchError as error:
        if name is not None:
            raise
        raise BenchError(f"{where}: its backbone is not found: {error}; or name its folder with --backbone") from error
    title = f"backbone {place!r}"
    if spec.sha256 != base.sha256:
        raise BenchError(
            f"{where}: {title} has other weights than those that were adapted (sha256 {spec.sha256 or 'none'}, "
            f"expected {base.sha256}); name the folder of the right ones with --backbone"
        )
    if backbone.files_sha256(spec) != base.files_sha256:
        raise BenchError(
            f"{where}: {title} has another config.json or tokenizer than the one that was adapted; name the folder "
            "of the right ones with --backbone"
        )
    return spec


def rebuilt(where: Path, about: Delta, spec: BackboneSpec, device: str) -> TaskModel:
    """The model of a native delta, in float32.

    Raises:
        BenchError: The tensors are not those that the method and the head store.
    """
    method, config = registry.make(about.method.name, about.method.config, str(where))
    bare = backbone.load(spec, device=device, seed=about.base.seed)
    head = _head(where / TENSORS, about, bare)
    try:
        body: Any = method.load_delta(bare, config, read_tensors(where / TENSORS, BODY))
    except BenchError as error:
        raise BenchError(f"{where / TENSORS}: {error}") from error
    return TaskModel(given("load_delta", body, nn.Module, MODULE).to(device), head.to(device))


def _native(where: Path, about: Delta, spec: BackboneSpec, device: str) -> TaskModel:
    model = rebuilt(where, about, spec, device)
    if about.dtype == "bfloat16_autocast":
        stored = read_tensors(where / TENSORS, BODY)
        for name, parameter in model.body.named_parameters():
            parameter.requires_grad_(name in stored)  # what trained stays float32, as it was scored
        model.head.requires_grad_(True)
        to_autocast(model)
    return model


def _merged(where: Path, about: Delta) -> BackboneSpec:
    return BackboneSpec(name=about.base.name, weights="pretrained", folder=str(where))


def _folded(where: Path, about: Delta, spec: BackboneSpec, device: str) -> TaskModel:
    bare = backbone.load(spec, device=device)
    return TaskModel(bare, _head(where / HEAD_FILE, about, bare))


def _foreign(where: Path, about: Delta, spec: BackboneSpec, device: str) -> TaskModel:
    bare = backbone.load(spec, device=device, seed=about.base.seed)
    head = _head(where / HEAD_FILE, about, bare)
    return TaskModel(registry.adapters().load(bare, where).to(device), head)


_READ = {"native": _native, "merged": _folded, "peft": _foreign}


def _words(folder: Path) -> str | None:
    """Folder of a merged model's tokenizer; None where its backbone was drawn at random and had none."""
    return str(folder) if (folder / "tokenizer_config.json").exists() else None


def _head(path: Path, about: Delta, bare: nn.Module) -> Head:
    layout = about.head
    head = make_head(bare, layout.outputs, pooling=layout.pooling, dropout=0.0, dense=layout.dense)
    stored = read_tensors(path, HEAD)
    _check_head(path, stored, head.state_dict())
    head.load_state_dict(stored)
    return head


def _check_head(path: Path, stored: Mapping[str, Tensor], due: Mapping[str, Tensor]) -> None:
    for name in sorted({*stored, *due}):
        has, needs = (held[name].shape if name in held else None for held in (stored, due))
        if has != needs:
            raise BenchError(
                f"{path}: the head's {name} is {'missing' if has is None else list(has)}, expected "
                f"{'nothing' if needs is None else list(needs)}; train or export it again"
            )

"""Keeps what a cell has trained: the tensors of method and head, and all that rebuilds the model from them."""

from typing import Any

from bench import registry
from bench.models import backbone
from bench.models.folder import names_folder
from bench.models.head import Head
from bench.schema.delta import Base, Delta, HeadLayout, KeptScore
from bench.schema.jobs import BackboneSpec, Cell
from bench.schema.record import LabelScale
from bench.store.kept import BODY, HEAD, Keep, write_aside
from bench.training.contract import delta_of


def base_of(spec: BackboneSpec, seed: int) -> Base:
    """What a delta says of the backbone that it belongs to."""
    return Base(
        name=spec.name, folder=spec.folder if names_folder(spec.name) else None, weights=spec.weights,
        revision=spec.revision, sha256=spec.sha256, files_sha256=backbone.files_sha256(spec), seed=seed,
    )  # fmt: skip


def keep_cell(
    keep: Keep, cell: Cell, spec: Any, model: Any, method: Any, length: int, reserved: int,
    scale: LabelScale | None, score: KeptScore,
) -> str:  # fmt: skip
    """Write what ``cell`` has trained aside in the run folder.

    Args:
        keep: Where and for which suite.
        cell: The cell.
        spec: Its task.
        model: The finalized model with its head.
        method: The method.
        length: Tokens of a row at most.
        reserved: Positions of a prompt beside them.
        scale: Of a regression.
        score: What the model scored.

    Returns:
        Hash of the file of tensors.

    Raises:
        NotWritten: The disk is full or the folder cannot be written.
    """
    head: Head = model.head
    about = Delta(
        cell=cell.id, suite=cell.suite, suite_sha256=keep.suite_sha256,
        method=registry.method_used(cell.method.label, cell.method.name, cell.method.config),
        base=base_of(cell.backbone, cell.seed),
        head=HeadLayout(pooling=head.pooling, dense=head.dense is not None, outputs=head.linear.out_features),
        task=cell.task.name, text=spec.text, labels=spec.labels, label_scale=scale, max_length=length,
        prompt_positions=reserved, seed=cell.seed, recipe=cell.recipe, score=score,
    )  # fmt: skip
    tensors = {BODY + name: tensor for name, tensor in delta_of(method, model.body).items()}
    tensors |= {HEAD + name: tensor for name, tensor in head.state_dict().items()}
    return write_aside(keep.folder, about, tensors)

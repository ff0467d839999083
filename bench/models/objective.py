"""What is trained on top of a backbone, by the form of a step: settled for the backbone, and built for it."""

import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import nn

from bench.errors import BenchError
from bench.models import backbone
from bench.models.head import make_head
from bench.models.text import TextHead
from bench.schema.forms import Objective
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting, StepForm, check_adapters, check_objective

if TYPE_CHECKING:
    from bench.schema.suite import Suite


def settle(spec: BackboneSpec, form: StepForm, *, length: int | None, where: str = "") -> dict[str, Any]:
    """Fields of ``form`` that it may leave out, decided: objective, loss of text, type of adapters.

    Args:
        spec: A resolved backbone.
        form: As a suite or a command states it.
        length: Tokens of a row, where it has one length.
        where: Prefix of the error message.

    Raises:
        BenchError: The backbone cannot have the objective, what is given belongs to another one, or a row has fewer
            tokens than targets.
    """
    place = f"{where}: " if where else ""
    objective = form.objective or backbone.usual_objective(spec)
    settled = form.model_copy(update={"objective": objective})
    try:
        check_objective(settled)
        check_adapters(settled)
    except ValueError as error:
        raise BenchError(f"{place}{error}") from error
    backbone.check_objective_of(spec, objective)
    if objective == "text":
        targets = form.target_tokens
        most = None if length is None else length - 1  # the first token of a decoder's row follows nothing
        config = backbone.configuration(spec)
        if config.is_encoder_decoder:
            places = getattr(config, "max_position_embeddings", None)
            if targets is not None and places is not None and targets > places:
                raise BenchError(
                    f"{place}target_tokens = {targets} is above {places}, the positions of the decoder; lower it"
                )
        elif most is not None:
            if most < 1:
                raise BenchError(f"{place}length 1 has no token that follows another; objective text takes 2 at least")
            if targets is not None and targets > most:
                raise BenchError(
                    f"{place}target_tokens = {targets} is above {most}, the tokens of a row of {length} that follow "
                    "another; lower it"
                )
    return {
        "objective": objective,
        "loss": (form.loss or "full") if objective == "text" else None,
        "adapter_dtype": (form.adapter_dtype or "float32") if form.dtype == "bfloat16" else None,
    }


def objective_of(suite: "Suite", spec: BackboneSpec, kinds: Collection[str] = ()) -> Objective:
    """What the methods of a ``suite`` with settled shapes stand on.

    Cells train what their tasks are of, ``kinds``; where none is trained it is the objective of the first shape, or
    sweep, on ``spec``, and what that has where none says.
    """
    if suite.tasks:
        return "text" if "text" in kinds else "classes"
    forms: tuple[StepForm, ...] = (*suite.cost, *(sweep for sweep in suite.sweep if sweep.backbone is None))
    return next((form.objective for form in forms if form.objective), None) or backbone.usual_objective(spec)


def outputs_of(objective: Objective | None) -> int:
    """Outputs of the harness's own head: two classes, or one score."""
    return 1 if objective == "score" else 2


def bare_for(spec: BackboneSpec, setting: Setting, **options: Any) -> nn.Module:
    """The bare backbone that the objective of ``setting`` stands on, in its type and attention."""
    kept = {"dtype": setting.loaded, "attention": setting.attention, "objective": setting.objective}
    return backbone.load(spec, **(kept | options))


def shape_for(spec: BackboneSpec, setting: Setting) -> nn.Module:
    """As ``bare_for``, without values and whatever the weights."""
    return bare_for(dataclasses.replace(spec, weights="random"), setting, device="meta")


def make_objective(bare: Any, setting: Setting) -> nn.Module:
    """What stands on ``bare``: the harness's head, or the way from states to the next-token loss.

    Raises:
        BenchError: The family cannot have the form of the loss.
    """
    if setting.objective == "text":
        assert setting.loss is not None, "a setting of text has a form of its loss"
        return TextHead(bare.config, setting.loss)
    return make_head(bare, setting.outputs)

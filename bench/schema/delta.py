"""What is kept of a trained cell: ``delta.json``, which says how its tensors make a model that predicts again."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.schema.ranges import Count, Score
from bench.schema.record import LabelScale, MethodUsed

VERSION = 1
"""Version of the format. 1: first format."""
Form = Literal["native", "peft", "merged"]
"""How tensors are stored. ``native``: as the method stores them; ``peft``: as the library of that name loads them;
``merged``: all weights of the backbone, with the update folded into them."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Base(_Frozen):
    """The backbone that the tensors belong to."""

    name: str = Field(min_length=1)
    """As the suite names it: a hub id, a folder, or a named shape of random weights."""
    weights: Literal["pretrained", "random"]
    """Random ones are drawn again from ``seed``."""
    folder: str | None = None
    """Where a backbone lay that is a folder of the user's, which is looked for there first."""
    revision: str | None = None
    """Hub revision; None where it has none."""
    sha256: str | None = None
    """Hash of its weights; None for random ones, which ``seed`` draws again."""
    files_sha256: tuple[Sha256, ...] = ()
    """Hashes of the files beside the weights that decide a prediction: configuration and tokenizer."""
    seed: Count
    """Seed that draws random weights; without meaning for pretrained ones."""


class HeadLayout(_Frozen):
    """The task head: pooling of the last hidden state, an optional dense layer with tanh, a linear map."""

    pooling: Literal["mean", "cls", "last"]
    """What is read of the last hidden state: the mean over tokens, the first token, or the last one."""
    dense: bool
    """Whether a dense layer with tanh stands before the linear map."""
    outputs: Annotated[int, Field(ge=1)]
    """One for each class, or 1."""


class KeptScore(_Frozen):
    """The score by which seeds of one method and task are told apart."""

    metric: str
    """The task's main metric."""
    value: Score
    """Of the kept model on ``rows``; the higher the better."""
    rows: Literal["selection", "test"]
    """Rows that it was taken on: those cut from train to choose where there are any, else the test rows, on which the
    best of several seeds looks better than it is."""
    test: Score
    """On the test rows, as the record has it."""


class Delta(_Frozen):
    """Everything beside the tensors that rebuilds one trained cell on its backbone."""

    format: Literal["peft-ledger"] = "peft-ledger"
    """Tells the file from any other."""
    version: Literal[1] = 1
    """Of this format."""
    form: Form = "native"
    """How the tensors are stored: as the method stores them, as peft loads them, or merged into the backbone's."""
    cell: Sha256
    """Identity of the cell, which is the ``id`` of its record."""
    suite: str
    """Name of the suite."""
    suite_sha256: Sha256
    """Hash of the resolved suite, ``suite.toml`` of the run folder."""
    method: MethodUsed
    """The method and its whole configuration."""
    base: Base
    """The backbone."""
    head: HeadLayout
    """Layout of the task head, whose weights are among the tensors."""
    task: str
    """Name of the task."""
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    """Columns of the one or two texts of a row."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the outputs; empty for a score."""
    label_scale: LabelScale | None = None
    """Of a score: what turns an output into the unit of the labels."""
    max_length: Annotated[int, Field(ge=1)]
    """Tokens of a row at most; longer rows are cut."""
    prompt_positions: Count = 0
    """Positions of the backbone that a prompt or prefix takes beside the tokens."""
    seed: Count
    """Seed of the cell."""
    recipe: dict[str, Any]
    """Every recipe value that it was trained with."""
    score: KeptScore
    """What it scored."""
    files: dict[str, Sha256] = {}
    """Hash of each file of tensors beside this one, by name."""

    @property
    def dtype(self) -> str:
        """Types that the cell was trained and scored in."""
        return str(self.recipe.get("dtype", "float32"))

    @property
    def title(self) -> str:
        """For people: method, task and seed."""
        return f"{self.method.label} · {self.task} · seed {self.seed}"

    @model_validator(mode="after")
    def _agree(self) -> "Delta":
        if self.labels and self.label_scale is not None:
            raise ValueError("labels and label_scale exclude each other: classes have names, a score has a scale")
        if not self.labels and self.label_scale is None:
            raise ValueError("one of labels and label_scale is needed to read the outputs")
        if self.head.outputs != (len(self.labels) or 1):
            raise ValueError(f"head.outputs is {self.head.outputs}, and there are {len(self.labels) or 1} to be read")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels names a class twice")
        if self.base.weights == "pretrained" and self.base.sha256 is None:
            raise ValueError("base.sha256 is missing: pretrained weights are told by their hash")
        if odd := [name for name in self.files if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)]:
            raise ValueError(f"files names {odd[0]!r}, which is no file in this folder")
        return self

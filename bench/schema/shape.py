"""A training step's shape: what its cost depends on beside the method and the backbone."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.schema.forms import AdapterDtype, Attention, Dtype, Loss, Objective, Optimizer, Weights
from bench.schema.ranges import MOST_DEVICES, MOST_ROWS

if TYPE_CHECKING:
    import torch


class StepForm(BaseModel):
    """How a training step computes, whatever its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Dtype = "float32"
    """Type of weights and computation."""
    adapter_dtype: AdapterDtype | None = None
    """Type of what a method adds to a backbone in bfloat16; ``float32`` where left out, and ``model`` in records from
    before it was asked for. None beside the other types: what trains is float32 there."""
    attention: Attention = "sdpa"
    """Attention implementation."""
    optimizer: Optimizer = "adamw_fused"
    """Optimizer of the step."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability in place of every dropout that the model has; above 0, CPU attention leaves its fused path."""
    checkpointing: bool = False
    """Keep each backbone layer's input alone and run its forward again during backward."""
    clipping: bool = False
    """Scale the gradients to a global norm of at most 1 before the update, as recipes do unless told otherwise."""
    objective: Objective | None = None
    """What is trained on top. Where left out ``text`` for decoders and encoder-decoders, ``classes`` for encoders;
    records from before language models were counted have none, and ``classes``."""
    loss: Loss | None = None
    """Form of the next-token loss; ``full`` where left out. None for heads of classes and scores."""
    target_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a row that carry a next-token target, the last ones; all where left out. Of an encoder-decoder all that
    the decoder reads, ``length`` where left out."""

    def step(self) -> dict[str, Any]:
        """These fields alone, by name: what another shape of the same step is made with."""
        return {name: getattr(self, name) for name in StepForm.model_fields}

    @property
    def unusual(self) -> list[str]:
        """In words what few shapes have, and the objective where it is not ``classes``."""
        rare = [name for name in ("checkpointing", "clipping") if getattr(self, name)]
        rare += [f"dropout {self.dropout:g}"] if self.dropout else []
        rare += [f"{self.adapter_dtype} adapters"] if self.adapter_dtype else []
        rare += [self.objective] if self.objective not in (None, "classes") else []
        rare += [f"{self.loss} loss"] if self.loss else []
        return rare + ([f"{self.target_tokens} targets"] if self.target_tokens else [])


def objective_words(objective: str | None, loss: str | None, targets: int | None) -> list[str]:
    """What is trained on top, in words: ``classes``, or ``text`` with the form of its loss and its targets."""
    if objective != "text":
        return [objective or "classes"]
    return [f"text ({loss or 'full'} loss, {f'{targets} targets a row' if targets else 'all targets'})"]


class StepShape(StepForm):
    """A training step of ``batch`` rows of ``length`` tokens, prompts not counted; no row is padded."""

    batch: int = Field(ge=1)
    """Rows of one training step."""
    length: int = Field(ge=1)
    """Tokens per row; of an encoder-decoder those that the encoder reads."""

    def step(self) -> dict[str, Any]:
        """These fields alone, by name: what another shape of the same step is made with."""
        return {name: getattr(self, name) for name in StepShape.model_fields}


class Generation(BaseModel):
    """What is asked of writing text: greedy decoding with a KV cache, its prefill and its decode steps apart."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    contexts: tuple[Annotated[int, Field(strict=True, ge=1, le=MOST_ROWS)], ...] = Field(
        default=(32, 512), min_length=1, strict=False
    )  # not strict itself: a probe that another process reads comes with lists
    """Tokens of a prompt, each measured by itself."""
    batches: tuple[Annotated[int, Field(strict=True, ge=1, le=MOST_ROWS)], ...] = Field(default=(1, 8), strict=False)
    """Rows that are written at a time, each measured by itself; none where empty: all is counted, of one row."""
    new_tokens: int = Field(default=16, ge=1, le=MOST_ROWS)
    """Tokens written behind the first; a decode time is their mean."""

    @model_validator(mode="after")
    def _each_once(self) -> "Generation":
        for name in ("contexts", "batches"):
            if len(set(given := getattr(self, name))) != len(given):
                raise ValueError(f"generation.{name} lists a value twice; list each once")
        return self

    @property
    def longest(self) -> int:
        """Most tokens that a row has."""
        return max(self.contexts) + self.new_tokens


class Serving(BaseModel):
    """What is asked of serving many tasks on one backbone: batches whose rows belong to several of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tasks: tuple[Annotated[int, Field(strict=True, ge=1, le=MOST_ROWS)], ...] = Field(
        default=(1, 10, 100), min_length=1, strict=False
    )
    """Tasks that are served, each number measured by itself; rows take them in turn."""
    rows: int = Field(default=8, ge=1, le=MOST_ROWS)
    """Rows of a batch, of ``latency_length`` tokens each."""

    @model_validator(mode="after")
    def _each_once(self) -> "Serving":
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("serving.tasks lists a number twice; list each once")
        return self


class Decided(StepForm):
    """A settled form: objective ``classes``, loss of text ``full``, ``adapter_dtype`` ``model`` where none is given."""

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        objective = values.get("objective") or "classes"
        loss = values.get("loss") or ("full" if objective == "text" else None)
        adapters = values.get("adapter_dtype") or ("model" if values.get("dtype") == "bfloat16" else None)
        return values | {"objective": objective, "loss": loss, "adapter_dtype": adapters}

    @model_validator(mode="after")
    def _fits(self) -> "Decided":
        check_objective(self)
        check_adapters(self)
        return self


def check_adapters(form: StepForm) -> None:
    """Hold the type of adapters against that of the step.

    Raises:
        ValueError: It is given, and the step is in a type beside which adapters are float32 anyway.
    """
    if form.adapter_dtype is not None and form.dtype != "bfloat16":
        raise ValueError(f"adapter_dtype = {form.adapter_dtype} is of dtype bfloat16, not of {form.dtype}; omit it")


def check_objective(form: StepForm) -> None:
    """Hold what a form says of the next-token loss against its objective.

    Raises:
        ValueError: A loss or target tokens are given for a head of classes or scores, or more targets than there are.
    """
    if form.objective in ("classes", "score"):
        for name, value in (("loss", form.loss), ("target_tokens", form.target_tokens)):
            if value is not None:
                raise ValueError(f"{name} = {value} is of objective text, and this one is {form.objective}; omit it")


LEAN = (0, 43, 2)
"""Version of bitsandbytes from which on 4-bit layers keep nothing for backward (its pull request 1270)."""


class Setting(StepShape, Decided):
    """All that a count of a training step depends on beside the method and the backbone."""

    weights: Weights = "native"
    """How the backbone's frozen linear weights are stored."""
    bitsandbytes: str | None = Field(default=None, pattern=r"^\d+\.\d+\.\d+$")
    """Version whose 4-bit layers are counted, such as ``0.42.0``; the newest where None."""
    device: str = "cpu"
    """``cpu`` or ``cuda``: where a real step runs, or whose forms a count on fake tensors imitates."""
    padded: bool = False
    """Whether rows are of unequal length, the last one half padded: attention then gets a mask, for which transformers
    leaves the kernels that need none."""
    outputs: int = 2
    """Outputs of a head of classes or scores; without meaning for text."""
    devices: int = Field(default=1, ge=1, le=MOST_DEVICES)
    """Devices that take the step together; ``batch`` is the rows of each, and every figure is that of one of them."""
    shard: bool = False
    """Whether each of them keeps a share of weights, gradients and optimizer state (FSDP2); else all of it (DDP)."""

    @property
    def rows(self) -> int:
        """Of the whole step."""
        return self.batch * self.devices

    @property
    def keeps_inputs(self) -> bool:
        """Whether 4-bit layers keep the input of each product for backward: of a version before 0.43.2."""
        return self.bitsandbytes is not None and tuple(map(int, self.bitsandbytes.split("."))) < LEAN

    @property
    def loaded(self) -> "torch.dtype":
        """Type that the backbone is loaded in."""
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    @property
    def widened(self) -> bool:
        """Whether what a method adds is float32 beside a backbone in bfloat16, without autocast."""
        return self.adapter_dtype == "float32"

    @property
    def autocast(self) -> bool:
        """Whether forward runs under bfloat16 autocast."""
        return self.dtype == "bfloat16_autocast"

"""A suite as its file has it: what is measured, on which shapes, tasks and rates; its sweeps, budget and search."""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.errors import BenchError
from bench.schema.claims import EXTRA_SECONDS, ClaimedShape, ClaimTable, check_claims, text_of
from bench.schema.forms import LONGEST_SPEC, Device, Hold, Weights, spell
from bench.schema.ranges import (
    MOST_BLOCKS,
    MOST_DEVICES,
    MOST_NEAREST,
    MOST_RATE,
    MOST_ROWS,
    MOST_SECONDS,
    MOST_SEEDS,
    MOST_STEPS,
    MOST_THREADS,
    RATES,
)
from bench.schema.record import Tuning
from bench.schema.shape import Generation, Serving, StepForm, StepShape
from bench.schema.task import TaskSpec

SWEPT = ("length", "batch", "layers", "width")
"""Quantities that may be swept; beside them any whole number of a method's configuration, as ``config.rank``."""
Figure = Literal["peak_memory", "saved_activations", "training_flops"]
"""``peak_memory`` of one training step; ``training_flops`` of its forward and backward."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SweepTable(StepForm):
    """One quantity swept while the others stand still; every point is counted, none is run."""

    model_config = ConfigDict(strict=True)

    name: str = ""
    """Stands in tables and is what ``[[crossover]]`` refers to; ``vary`` where left out."""
    vary: str
    """``length``, ``batch``, ``layers``, ``width`` or ``config.<field>``, a whole number of methods that have it."""
    values: tuple[Annotated[int, Field(ge=1, le=MOST_ROWS)], ...] = Field(min_length=2)
    """Rising."""
    batch: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Rows; left out where they are swept."""
    length: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Tokens per row; left out where they are swept."""
    backbone: str | None = None
    """Named shape, path of a config.json or ``./folder``; the suite's backbone where left out."""
    methods: tuple[str, ...] = ()
    """Labels as the suite spells its methods; all of them where left out."""
    device: Device = "cpu"
    """Whose forms of each operation are counted; no such device is needed."""
    weights: Weights = "native"
    """``nf4`` and ``nf4-dq`` hold the frozen linear maps in 4 bits; a sweep alone has them, since it runs nothing."""
    timeout_seconds: float = Field(default=1800.0, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Counting this sweep may take this long."""
    method_timeout_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Counting one method at one value may take this long; a quarter of ``timeout_seconds`` where left out."""

    @property
    def title(self) -> str:
        """The sweep's name."""
        return self.name or self.vary

    @model_validator(mode="after")
    def _sound(self) -> "SweepTable":
        if self.vary not in SWEPT and not re.fullmatch(r"config\.[A-Za-z_]\w*", self.vary):
            raise ValueError(f"vary takes {', '.join(SWEPT)} or config.<field of a method>, not {self.vary!r}")
        if any(before >= after for before, after in itertools.pairwise(self.values)):
            raise ValueError("values must increase; sort them and list each once")
        for field in ("batch", "length"):
            given, swept = getattr(self, field) is not None, self.vary == field
            if given and swept:
                raise ValueError(f"{field} is the swept quantity; remove {field} = ...")
            if not given and not swept:
                raise ValueError(f"{field} is missing; only the swept quantity may be left out")
        return self


class CrossoverTable(_Table):
    """A question about two curves: from which value on does the first lie above the second?"""

    sweep: str
    """Name of a sweep."""
    method: str
    """Label of the first curve."""
    than: str
    """Label of the second curve."""
    than_sweep: str | None = None
    """Sweep of the second curve, over the same quantity; the first one's where left out."""
    figure: Figure = "peak_memory"
    """What the curves show."""


def check_sweeps(sweeps: tuple[SweepTable, ...], crossovers: tuple[CrossoverTable, ...]) -> None:
    """Names are unique and every crossover compares two curves over the same quantity.

    Raises:
        ValueError: They do not; a sentence for the suite's reader.
    """
    by_title = {table.title: table for table in sweeps}
    if len(by_title) < len(sweeps):
        titles = [table.title for table in sweeps]
        twice = next(title for title in titles if titles.count(title) > 1)
        raise ValueError(f"two sweeps are named {twice!r}; give each its own name")
    for index, table in enumerate(crossovers):
        other = table.than_sweep or table.sweep
        for title in (table.sweep, other):
            if title not in by_title:
                raise ValueError(f"crossover[{index}]: there is no sweep {title!r}; known: {', '.join(by_title)}")
        first, second = by_title[table.sweep], by_title[other]
        if first.vary != second.vary:
            raise ValueError(
                f"crossover[{index}]: {table.sweep!r} sweeps {first.vary} but {other!r} sweeps {second.vary}; "
                "compare sweeps of one quantity"
            )


Rate = Annotated[float, Field(gt=0, le=MOST_RATE, allow_inf_nan=False)]
EXAMPLE = (
    "tuning = { learning_rates = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], head_learning_rates = [1e-3, 1e-2], "
    "seeds = [100], selection_rows = 256 }"
)
"""A line for the top of a suite that has no such table; no grid is assumed for it."""


class TuningTable(BaseModel):
    """The grid that every method of the suite is given: each rate with each head rate, for every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    learning_rates: tuple[Rate, ...] = Field(min_length=1)
    """Peak rates of the method's parameters, rising; evenly spaced in their logarithm they favour no decade."""
    head_learning_rates: tuple[Rate, ...] = Field(min_length=1)
    """Peak rates of the task head, rising."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(min_length=1)
    """Seeds of every trial; none of them scores in the suite."""
    selection_rows: int = Field(ge=1, le=MOST_ROWS)
    """Rows cut from train by content hash: trials do not train on them and are scored on them."""
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimizer steps of every trial; those of the recipe where left out."""
    task: str | None = None
    """The one task that is searched, whose rates then hold for all; where left out each task has a search of its own.

    For suites whose other tasks need so many steps before they tell rates apart that a search cannot pay for them.
    """

    @model_validator(mode="after")
    def _sound(self) -> "TuningTable":
        for field in ("learning_rates", "head_learning_rates", "seeds"):
            values = getattr(self, field)
            if any(before >= after for before, after in itertools.pairwise(values)):
                raise ValueError(f"{field} must increase; sort them and list each once")
        return self

    @property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """Every (learning rate, head learning rate), smaller rates first: the trials of one method on one task."""
        return tuple(itertools.product(self.learning_rates, self.head_learning_rates))


def search_table(table: TuningTable | None, where: str) -> TuningTable:
    """The grid of a search.

    Raises:
        BenchError: There is none; the sentence shows one to add to ``where``, the file of the suite.
    """
    if table is None:
        raise BenchError(f"{where} has no [tuning] table; add one at the top of the file, such as: {EXAMPLE}")
    return table


def check_tuning(table: TuningTable | None, seeds: tuple[int, ...], tasks: tuple[str, ...]) -> None:
    """A search needs tasks to try on, and seeds of its own: a seed that chose the rates would score too well with them.

    Raises:
        ValueError: One is missing; a sentence for the suite's reader.
    """
    if table is None:
        return
    if not tasks:
        raise ValueError("a search ([tuning]) needs tasks")
    if table.task is not None and table.task not in tasks:
        raise ValueError(f"tuning.task = {table.task!r} is not one of the suite's tasks: {', '.join(tasks)}")
    if shared := sorted({*table.seeds} & {*seeds}):
        raise ValueError(f"tuning.seeds contains {shared[0]}, a seed of the suite itself; search with other seeds")


class MatchTable(BaseModel):
    """One budget for every method that has a size: the harness chooses ranks, widths and lengths."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    trainable_parameters: int | None = Field(default=None, ge=1)
    """Of the method at most, the head left out."""
    peak_memory_bytes: int | None = Field(default=None, ge=1)
    """Of one training step at most, as predicted on the suite's first cost shape."""

    @model_validator(mode="after")
    def _one_budget(self) -> "MatchTable":
        if (self.trainable_parameters is None) == (self.peak_memory_bytes is None):
            raise ValueError("match takes exactly one of trainable_parameters and peak_memory_bytes")
        return self

    @property
    def budget(self) -> int:
        """The most that a method may reach."""
        found = self.trainable_parameters or self.peak_memory_bytes
        assert found is not None, "a match has exactly one budget"
        return found

    @property
    def figure(self) -> str:
        """What the budget is counted in, for people."""
        return "bytes of peak memory" if self.trainable_parameters is None else "trainable parameters"

    def __str__(self) -> str:
        return f"{self.budget:,} {self.figure}"


def check_match(match: MatchTable | None, shapes: int) -> None:
    """A budget of memory needs a shape to predict it on.

    Args:
        match: The suite's budget, where it has one.
        shapes: How many cost shapes it has.

    Raises:
        ValueError: It has none; a sentence for the suite's reader.
    """
    if match is not None and match.peak_memory_bytes is not None and not shapes:
        raise ValueError("match.peak_memory_bytes is predicted on the first [[cost]] shape; give one")


class RetentionTable(_Table):
    """Plain texts that a language model reads before and after it is trained: what it has forgotten of them."""

    texts: tuple[str, ...] = Field(min_length=1)
    """``editorials`` (sentences of the New York Times) or ``product-reviews`` (of Amazon), both from the package index,
    or files of UTF-8; relative paths start at the suite's file."""
    context: int = Field(default=512, ge=2, le=MOST_ROWS)
    """Tokens of a window; windows do not overlap, and the first token of each is read and not counted."""
    most_bytes: int = Field(default=20_000, ge=1, le=MOST_ROWS)
    """Of each text, from its beginning; the rest is not read."""
    on_the_way: bool = False
    """Read the texts at the recipe's ``curve_points`` too."""


class MixTable(_Table):
    """General text whose rows stand among those of the task, for the methods that ask for a share of it."""

    text: str
    """``editorials`` or ``product-reviews``, as ``[retention]`` has them, or a file of UTF-8; a relative path starts at
    the suite's file. A paragraph that has a run of 8 words in common with what ``[retention]`` reads is left out."""
    length: int | None = Field(default=None, ge=2, le=MOST_ROWS)
    """Tokens of a row; ``max_length`` of the task's rows where left out."""
    most_bytes: int = Field(default=1_000_000, ge=1, le=MOST_ROWS)
    """Of the text, from its beginning; the rest is not read."""


class ShareTable(_Table):
    """How much of the general text of ``[recipe.mix]`` a method trains on."""

    share: float = Field(gt=0, lt=1, allow_inf_nan=False)
    """Of all rows that are trained on, below 1. A list gives a method each; 0 is the method without a mix."""
    hold: Hold = "total"
    """``total``: the steps stay, and rows of general text take the place of rows of the task; ``domain``: the rows of
    the task stay, and steps are added for those of general text. A list gives a method each."""


class BackboneTable(_Table):
    """Which pretrained model is adapted."""

    name: str
    """Hub id, named shape, path of a config.json, or ``./folder`` that ``save_pretrained`` wrote; relative paths start
    at the suite's file. Of the named shapes ``smollm2-135m`` alone has weights too."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """``random`` builds the shape with random weights: honest for cost, no conclusion about scores."""
    revision: str | None = Field(default=None, min_length=1)
    """Hub revision; the pinned one where this project pins it."""

    @model_validator(mode="after")
    def _of_weights(self) -> "BackboneTable":
        if self.revision is not None and self.weights == "random":
            raise ValueError(
                "revision is of pretrained weights, and weights = 'random' takes none; remove one of the two"
            )
        return self


class RecipeValues(_Table):
    """How cells train; each value may be overridden for one task."""

    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Optimizer steps; exactly one of ``steps`` and ``epochs``."""
    epochs: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Passes over the training rows; exactly one of ``steps`` and ``epochs``."""
    batch_size: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Rows per optimizer step."""
    max_length: int | None = Field(default=None, ge=4, le=MOST_ROWS)
    """Tokens per row at most, prompts not counted."""
    train_rows: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Training rows drawn by content hash; all where left out."""
    test_rows: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Test rows drawn by content hash; all where left out."""
    learning_rate: Rate | None = None
    """For methods that set none of their own."""
    head_learning_rate: Rate | None = None
    """Of the task head, for methods that set none of their own."""
    warmup: float | None = Field(default=None, ge=0, lt=1)
    """Share of steps with rising rate."""
    weight_decay: float | None = Field(default=None, ge=0, le=MOST_RATE, allow_inf_nan=False)
    """Of AdamW, applied to matrices alone."""
    gradient_clip: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Largest global gradient norm; 0 switches it off."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """What the head reads: the mean over tokens, the first or the last token."""
    dense_head: bool | None = None
    """Whether the head has a dense + tanh layer (RoBERTa's classification head)."""
    head_dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout probability in front of the head."""
    gradient_accumulation: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Parts that the rows of a step are computed in, one after the other; 1 where left out."""
    dtype: Literal["float32", "bfloat16_autocast"] | None = None
    """``bfloat16_autocast``: frozen matrices bfloat16, what trains float32, forward under autocast."""
    selection_rows: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Rows cut from train by content hash, never trained on; none where left out."""
    best_epoch: bool | None = None
    """Score the state that was best on the selection rows instead of the last one."""
    curve_points: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """Equal shares of the steps after each of which the test score is read; nothing is chosen by it."""
    gradient_norms: int | None = Field(default=None, ge=0, le=MOST_STEPS)
    """First steps whose gradients are noted, as one norm for each part of the delta; none where left out."""
    directions: int | None = Field(default=None, ge=0, le=MOST_ROWS)
    """Leading singular directions of what training adds to each query and value weight that are kept and compared."""
    nearest_words: int | None = Field(default=None, ge=0, le=MOST_NEAREST)
    """Words of the vocabulary nearest to each vector that a method learns among the word embeddings, a prompt's, that
    are noted before and after training; none where left out."""


DEFAULTS: dict[str, Any] = {
    "batch_size": 16, "max_length": 128, "learning_rate": 1e-3, "head_learning_rate": 1e-3, "warmup": 0.06,
    "weight_decay": 0.01, "gradient_clip": 1.0, "pooling": "mean", "dense_head": False, "head_dropout": 0.1,
}  # fmt: skip
"""Recipe values that a suite may leave out."""
OF_THE_HEAD = ("pooling", "dense_head", "head_dropout")
"""Recipe values of the harness's own head, which tasks of kind ``text`` do not have."""


READ_ON_THE_WAY = ("best_epoch", "curve_points", "gradient_norms")
"""Recipe values that look at a model while it trains."""


class RecipeTable(RecipeValues):
    """The recipe of a suite with its overrides by task."""

    task: dict[str, RecipeValues] = {}
    """Overrides, e.g. ``[recipe.task.cola]``."""
    threads: int = Field(default=1, ge=1, le=MOST_THREADS)
    """Torch threads of every cell, part of its identity: sums in another order end in other last bits."""
    devices: int = Field(default=1, ge=1, le=MOST_DEVICES)
    """Devices that train each cell together, a process each; the rows of a step are shared out among them."""
    shard: bool = False
    """Whether each of them keeps a share of weights, gradients and optimizer state (FSDP2), or all of it (DDP)."""
    timeout_seconds: float = Field(default=3600.0, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """A cell that runs longer ends with status ``timeout``."""
    mix: MixTable | None = None
    """General text, of which methods with a ``mix`` train on a share; of tasks of kind ``text`` alone."""

    @model_validator(mode="after")
    def _one_length(self) -> "RecipeTable":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        for name, values in self.task.items():
            if values.steps is not None and values.epochs is not None:
                raise ValueError(f"task.{name}: give at most one of steps and epochs")
        return self

    @model_validator(mode="after")
    def _shareable(self) -> "RecipeTable":
        if self.shard and self.devices == 1:
            raise ValueError("shard shares the weights out among several devices; give devices too, or remove it")
        for name, values in (("", self), *self.task.items()) if self.shard else ():
            if read := [field for field in READ_ON_THE_WAY if getattr(values, field)]:
                raise ValueError(
                    f"{read[0]}{f' of task {name}' if name else ''} reads the model between steps, when each device "
                    "has a share of it alone; remove it, or shard"
                )
        return self

    @model_validator(mode="after")
    def _selectable(self) -> "RecipeTable":
        for name, values in (("", self), *self.task.items()):
            best = self.best_epoch if values.best_epoch is None else values.best_epoch
            rows = self.selection_rows if values.selection_rows is None else values.selection_rows
            if best and rows is None:
                raise ValueError(f"best_epoch{f' of task {name}' if name else ''} needs selection_rows to choose by")
        return self

    @model_validator(mode="after")
    def _comparable(self) -> "RecipeTable":
        for name, values in (("", self), *self.task.items()):
            taken = self.directions if values.directions is None else values.directions
            dtype = values.dtype or self.dtype
            if taken and dtype == "bfloat16_autocast":
                raise ValueError(
                    f"directions{f' of task {name}' if name else ''} needs dtype float32: bfloat16 rounds the weights, "
                    "and the changes that training makes are as small"
                )
        return self


class MethodTable(_Table):
    """One method of the suite."""

    name: str
    """A built-in method, ``peft``, ``package/name`` of a plug-in, or ``*``: every built-in method that no other table
    names, with its defaults."""
    config: dict[str, Any] = {}
    """Options of the method, as its page lists them; defaults where left out."""
    learning_rate: float | dict[str, float] | None = None
    """One rate, or rates by task with ``default``."""
    head_learning_rate: float | dict[str, float] | None = None
    """Of the task head; the recipe's where left out."""
    tuning: Tuning | None = None
    """The search that gave these rates on the suite's tasks, as ``tune`` writes it; None: nobody searched for them."""
    mix: ShareTable | None = None
    """Share of general text among the rows that it trains on; it is not in the cost of a step, which is measured of the
    method once. None: all rows are the task's."""

    @property
    def measured(self) -> str:
        """The method as tables of costs spell it, whatever it trains on."""
        return spell(self.name, self.config)

    @property
    def label(self) -> str:
        """The method as the suite spells it, with its mix: ``lora(rank=8, mix=0.1, hold='domain')``."""
        if self.mix is None:
            return self.measured
        hold = {} if self.mix.hold == "total" else {"hold": self.mix.hold}
        return spell(self.name, self.config | {"mix": self.mix.share} | hold)

    @model_validator(mode="after")
    def _possible_rates(self) -> "MethodTable":
        for field in RATES:
            given = getattr(self, field)
            if given == {}:
                raise ValueError(f"{field} names no task; give a rate, rates by task, or leave it out")
            rates = given.values() if isinstance(given, dict) else (given,)
            if any(rate is not None and not 0 < rate <= MOST_RATE for rate in rates):
                raise ValueError(f"{field} must be above 0, {MOST_RATE:g} at most")
        return self

    def rates(self, task: str) -> dict[str, float]:
        """``learning_rate`` and ``head_learning_rate`` on ``task``, those that the method sets itself."""
        found = {}
        for field in ("learning_rate", "head_learning_rate"):
            given = getattr(self, field)
            rate = given.get(task, given.get("default")) if isinstance(given, dict) else given
            if rate is not None:
                found[field] = rate
        return found


OF_TIMES = ("compile", "blocks", "rounds", "extra_seconds", "rebuild", "threads", "energy", "latency_batches")
"""Keys of a cost shape that say how times are taken."""
OF_INFERENCE = ("latency_batches", "latency_length", "generation", "serving")
"""Keys of a cost shape that say what inference is measured."""


def _given(table: BaseModel | None, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a table was given with a value that asks for something."""
    set_to = {} if table is None else {name: getattr(table, name) for name in table.model_fields_set}
    return [name for name in names if set_to.get(name) not in (None, False, ())]


class CostTable(StepShape):
    """One shape on which the cost of every method is measured."""

    model_config = ConfigDict(strict=True)

    batch_on_cpu: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Batch where no GPU is at hand; ``batch`` where left out."""
    compile: bool = False
    """Time the training step through ``torch.compile``; counts and latency are those of the eager form."""
    timed: bool = True
    """Take a real step, time it and inference; without, all is counted on tensors without data."""
    blocks: int = Field(default=6, ge=2, le=MOST_BLOCKS)
    """Timing blocks; intervals resample blocks."""
    rounds: int = Field(default=1, ge=1, le=MOST_BLOCKS)
    """Rounds per block; each round times every method once in random order."""
    extra_seconds: float = Field(default=EXTRA_SECONDS, ge=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Seconds that training steps, and latency at each batch, may take for blocks that an open claim asks for."""
    rebuild: bool = False
    """Build all modules anew for every block: where their tensors lie then widens intervals and moves no figure."""
    threads: int | None = Field(default=None, ge=1, le=MOST_THREADS)
    """Torch threads; one for each core where left out. One thread is the quietest on a shared machine."""
    energy: bool = True
    """Read the device's counter of energy, where it has one; at a resolution of 0.1 s that takes 8 s a method."""
    inference: bool = True
    """Deploy each method, count its inference and time it."""
    latency_batches: tuple[Annotated[int, Field(ge=1, le=MOST_ROWS)], ...] = (1, 32)
    """Rows of inference, each measured by itself; none where empty."""
    latency_length: int = Field(default=64, ge=1, le=MOST_ROWS)
    """Tokens per row of inference."""
    generation: Generation | None = None
    """Measure what writing text takes, of decoders under the objective text; nothing is written where left out."""
    serving: Serving | None = None
    """Measure batches of several tasks on one backbone; none is served where left out."""
    methods: tuple[str, ...] = ()
    """Labels of those that are measured on this shape, the baseline among them; all of the suite where left out."""
    timeout_seconds: float = Field(default=7200.0, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Measuring this shape may take this long."""
    method_timeout_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    """Counting one method, or one timing block, may take this long; a quarter of ``timeout_seconds`` where left out."""

    def batch_on(self, device: str) -> int:
        """Rows on ``device``."""
        return self.batch_on_cpu if device == "cpu" and self.batch_on_cpu is not None else self.batch

    @model_validator(mode="before")
    @classmethod
    def _of_one_device(cls, values: Any) -> Any:
        if isinstance(values, dict) and (given := values.keys() & {"devices", "shard"}):
            raise ValueError(
                f"{min(given)} is no key of [[cost]]: costs are measured on one device; cells train on several with "
                "devices in [recipe], and predict --devices counts what each of several takes"
            )
        return values

    @model_validator(mode="after")
    def _each_once(self) -> "CostTable":
        if len(set(self.latency_batches)) != len(self.latency_batches):
            raise ValueError("latency_batches lists a batch twice; list each once")
        for name in ("batch", "length"):
            if (asked := getattr(self, name)) > MOST_ROWS:
                raise ValueError(f"{name} = {asked} is above {MOST_ROWS:,}; lower it")
        return self

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> "CostTable":
        """What says how something is measured is refused where it is not; an empty list or ``false`` says so too."""
        if not self.inference and (given := _given(self, OF_INFERENCE)):
            raise ValueError(
                f"{given[0]} is of inference, and inference = false leaves that out; remove one of the two"
            )
        if self.timed:
            return self
        given = _given(self, OF_TIMES)
        for name, table, field in (("generation", self.generation, "batches"), ("serving", self.serving, "rows")):
            given += [f"{name}.{field}" for field in _given(table, (field,))]
        if given:
            raise ValueError(f"{given[0]} is of times, and none are taken where timed = false; remove one of the two")
        return self

    @property
    def key(self) -> dict[str, Any]:
        """What tells the records of this shape from those of another."""
        return self.model_dump(include={*StepShape.model_fields, "batch_on_cpu", "compile", "threads"})


DATA = ("auto", "hub", "index", "synthetic")
"""Where a suite has its rows from, beside a folder."""


class Suite(_Table):
    """A suite as its file states it; names and configurations of methods are checked by the planner."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Part of the run folder's name."""
    question: str
    """What the suite is to answer, in prose."""
    backbone: BackboneTable
    """The pretrained model that every method adapts."""
    baseline: str = "full"
    """Label of the method that the others are compared with."""
    method: tuple[MethodTable, ...] = Field(min_length=1)
    """The methods that are compared."""
    match: MatchTable | None = None
    """The budget that sizes are chosen for; one that a method's ``config`` gives stays."""
    tasks: tuple[str, ...] = ()
    """Tasks that are scored: shipped ones, those of ``[[task]]`` (all of them where left out) or of an installed
    package; none for a suite of costs alone."""
    task: tuple[TaskSpec, ...] = ()
    """Tasks of the user's own."""
    without_hub: tuple[str, ...] = ()
    """Tasks of the package index that take the place of ``tasks`` where ``data = "auto"`` and the hub gives nothing."""
    scored: tuple[str, ...] = ()
    """Labels of the methods that tasks are scored with, the baseline among them; all of the suite where left out."""
    seeds: tuple[int, ...] = Field(default=(), max_length=MOST_SEEDS)
    """Seeds of every (method, task); fewer than five give no verdict on scores."""
    data: str = "auto"
    """``auto``, ``hub``, ``index``, ``synthetic`` or a folder, which starts at the suite's file; that of ``--data`` at
    the working directory."""
    recipe: RecipeTable | None = None
    """How cells train; needed where there are tasks."""
    retention: RetentionTable | None = None
    """Plain texts that show what a language model forgets; of tasks of kind ``text`` alone."""
    tuning: TuningTable | None = None
    """The search for learning rates that ``tune`` does."""
    cost: tuple[CostTable, ...] = ()
    """Shapes on which costs are measured."""
    sweep: tuple[SweepTable, ...] = ()
    """Quantities over which costs are counted without running a step."""
    crossover: tuple[CrossoverTable, ...] = ()
    """Questions about where two curves of sweeps cross."""
    claim: tuple[ClaimTable, ...] = ()
    """Sentences that the run's records are to decide."""

    @model_validator(mode="before")
    @classmethod
    def _all_tasks(cls, values: Any) -> Any:
        """A suite with ``[[task]]`` tables and no ``tasks`` scores all of them."""
        if not isinstance(values, dict) or "tasks" in values:
            return values
        tables = values.get("task", ())
        if not isinstance(tables, list | tuple):
            return values
        names = [t.get("name") if isinstance(t, dict) else getattr(t, "name", None) for t in tables]
        return {**values, "tasks": tuple(names)} if names and all(isinstance(name, str) for name in names) else values

    @model_validator(mode="after")
    def _complete(self) -> "Suite":
        if self.tasks and (not self.seeds or self.recipe is None):
            raise ValueError("a suite with tasks needs seeds and a [recipe]")
        if not self.tasks and not self.cost and not self.sweep:
            raise ValueError("nothing to do: give tasks, [[cost]] shapes or [[sweep]] tables")
        if not self.tasks:
            self._check_without_tasks()
        if self.retention is not None and self.retention.on_the_way and not (self.recipe and self.recipe.curve_points):
            raise ValueError("retention.on_the_way reads at the recipe's curve_points, and there are none; give them")
        self._check_read()
        check_match(self.match, len(self.cost))
        check_sweeps(self.sweep, self.crossover)
        every = (*self.tasks, *self.without_hub)
        labels = [method.label for method in self.method]
        if long := [label for label in labels if len(label) > LONGEST_SPEC]:
            raise ValueError(
                f"a [[method]] is spelled in {len(long[0]):,} characters, {long[0][:40]}..., of at most "
                f"{LONGEST_SPEC:,}; leave out what it need not say"
            )
        costed = [method.label for method in measured(self.method)]
        self._check_mixes()
        self._check_scored(labels)
        check_tuning(self.tuning, self.seeds, every)
        for index, cost in enumerate(self.cost):
            self._check_methods(f"cost[{index}].methods", cost.methods, costed)
            if any(cost.key == other.key for other in self.cost[:index]):
                raise ValueError(
                    f"cost[{index}] repeats the shape of an earlier [[cost]]; merge the two or change the length"
                )
        shapes = [claimed_shape(cost, costed, "cuda") for cost in self.cost]
        check_claims(self.claim, labels, every, shapes, self.scored or labels)
        own = [spec.name for spec in self.task]
        for what, values in (("[[task]]", own), ("tasks", every), ("seeds", self.seeds)):
            if twice := [value for value in values if [*values].count(value) > 1]:
                raise ValueError(f"{what} has {twice[0]!r} twice; give each once")
        if unused := [name for name in own if name not in every]:
            raise ValueError(f"tasks leaves out {unused[0]!r}, which has a [[task]]; add it there or remove its table")
        if any(not 0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError("seeds must be integers from 0 to 2**63 - 1")
        self._check_limits()
        return self

    def _check_without_tasks(self) -> None:
        """What says how tasks are scored is refused where there are none."""
        if self.scored:
            raise ValueError("scored names methods to score, and there are no tasks to score them on")
        if self.retention is not None:
            raise ValueError("retention is read before and after training, and there are no tasks to train on")
        if self.recipe is not None:
            raise ValueError("a [recipe] says how tasks are trained on, and there are none; remove it or give tasks")
        if self.without_hub:
            raise ValueError("without_hub stands in for tasks, and there are none")
        if self.seeds:
            raise ValueError("seeds are of cells, and there are no tasks to train on; remove them or give tasks")
        if self.data != "auto":
            raise ValueError(f"data = {self.data!r} is of tasks, and there are none; remove it or give tasks")

    def _check_limits(self) -> None:
        """A limit on one method is no longer than that on all of them."""
        for place, tables in (("cost", self.cost), ("sweep", self.sweep)):
            for index, table in enumerate[CostTable | SweepTable](tables):
                if (table.method_timeout_seconds or 0.0) > table.timeout_seconds:
                    raise ValueError(
                        f"{place}[{index}]: method_timeout_seconds = {table.method_timeout_seconds:g} is above "
                        f"timeout_seconds = {table.timeout_seconds:g}, which ends all of it; lower it or raise the "
                        "other"
                    )

    def _check_read(self) -> None:
        """Claims about what is kept of a text name one that is read."""
        read = [Path(name).name for name in self.retention.texts] if self.retention else []
        for claim in self.claim:
            if (text := text_of(claim.metric)) is not None and text not in read:
                known = f"it reads {', '.join(read)}" if read else "it has no [retention]"
                raise ValueError(f"claim {claim.name!r}: the suite reads no text {text!r}; {known}")

    def _check_mixes(self) -> None:
        """A mix has general text, and general text has methods that train on it."""
        mixed = [method.label for method in self.method if method.mix is not None]
        text = None if self.recipe is None else self.recipe.mix
        if mixed and text is None:
            raise ValueError(f"{mixed[0]} trains on a share of general text; name the text in [recipe.mix]")
        if text is not None and not mixed:
            raise ValueError("recipe.mix: no method trains on a share of it; give one mix = { share = 0.1 }, or remove "
                             "the table")  # fmt: skip

    def scores(self, label: str) -> bool:
        """Whether the suite's tasks are scored with the method ``label``."""
        return not self.scored or label in self.scored

    def _check_scored(self, labels: list[str]) -> None:
        """What is scored are methods of the suite, and there is something to score them on."""
        if not self.scored:
            if "scored" in self.model_fields_set:
                raise ValueError("scored is empty; name at least one method, or remove it: all are scored then")
            return
        if len({*self.scored}) < len(self.scored):
            raise ValueError("scored lists a value twice")
        self._check_methods("scored", self.scored, labels)

    def _check_methods(self, place: str, chosen: tuple[str, ...], labels: list[str]) -> None:
        for label in chosen:
            if label not in labels:
                raise ValueError(f"{place}: the suite has no method {label!r}; it has {', '.join(labels)}")
        if chosen and self.match is not None:
            raise ValueError(f"{place} and match exclude each other: sizes are chosen for all methods alike")
        if chosen and self.baseline in labels and self.baseline not in chosen:
            raise ValueError(f"{place} lacks the baseline {self.baseline}; add it: all are compared with it")


def measured(methods: Iterable[MethodTable]) -> list[MethodTable]:
    """Those of ``methods`` whose cost is measured: of several that differ in what they train on, the first."""
    first: dict[str, MethodTable] = {}
    for method in methods:
        first.setdefault(method.measured, method)
    return [*first.values()]


def claimed_shape(cost: CostTable, labels: Iterable[str], device: str) -> ClaimedShape:
    """What ``cost`` measures on ``device`` of a suite's methods ``labels``."""
    return ClaimedShape(
        batch=cost.batch_on(device), length=cost.length, latency_length=cost.latency_length,
        labels=tuple(label for label in labels if not cost.methods or label in cost.methods),
        objective=cost.objective, loss=cost.loss, timed=cost.timed,
    )  # fmt: skip

"""The record: the immutable outcome of a cell, of a method in a probe or sweep, or of a trial, also of a failure."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.errors import LONGEST_REASON, LONGEST_TRACEBACK, shortened
from bench.schema import ranges
from bench.schema.forms import Status, Weights
from bench.schema.ranges import Amount, Angle, Cosine, Count, Interval, Ratio, Score, Share
from bench.schema.shape import Decided, Setting, StepShape

SCHEMA = 1
"""Version of the record format. 1: first format."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Backbone(_Frozen):
    """The pretrained model that was adapted."""

    name: str
    """A hub id, a named shape, the path of a ``config.json``, or ``./`` with the last part of a folder's path."""
    revision: str | None
    """Hub revision, None for random weights."""
    sha256: str | None
    """Hash of the weight file, of several one after the other; None for random weights."""
    parameters: Count
    """Number of parameters of the bare backbone (no pooler)."""
    weights: Literal["pretrained", "random"]
    """Random weights are honest for cost and carry no conclusion about scores."""
    notes: tuple[str, ...] = ()
    """What a reader must know, such as data that the backbone was trained on."""
    unused_tensors: dict[str, Count] = {}
    """Tensors of the weights file that the bare backbone has no place for, such as those of a head, counted by their
    first names, as ``cls.predictions``; empty in records from before they were counted."""
    configuration: dict[str, Any] = {}
    """Fields of the ``config.json`` that decided the backbone; empty for a named shape and in records from before."""


class MethodUsed(_Frozen):
    """The method and everything that decides its result."""

    label: str
    """As the suite spells it, e.g. ``lora(rank=8)``; identifies the method within the suite."""
    name: str
    """Name in the registry."""
    config: dict[str, Any]
    """All fields, defaults included."""
    class_: str = Field(alias="class")
    """Import path of the class, ``methods.lora:LoRA``."""
    distribution: str
    """Package that the method comes from."""
    version: str
    """Version of that package."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


SourceKind = Literal["hub", "index", "folder", "files", "generated", "synthetic"]
"""Where rows come from: the hub, the package index, a folder, files that a suite names, or a grammar: ``generated``
where it has a task of its own, ``synthetic`` where its rows stand in for others."""


class RowFigures(_Frozen):
    """What was counted of the rows of a task before anything was trained."""

    labels: dict[str, Count] = {}
    """Training rows of each class."""
    test_labels: dict[str, Count] = {}
    """Test rows of each class."""
    duplicates: Count
    """Training rows whose texts an earlier one has."""
    tokens: dict[str, Count]
    """Tokens of a training row, prompts not counted: ``50``, ``95`` and ``99`` % of rows have no more; ``100``."""
    truncated: Share
    """Share of training rows that are cut to ``max_length``."""


class TaskUsed(_Frozen):
    """The task and the data that a cell saw."""

    name: str
    """Name of the task."""
    version: Count
    """Raised when the task's definition changes: records of different versions are not compared."""
    source: SourceKind
    """Where the rows come from."""
    content_sha256: str
    """Hash of the rows used, train and test."""
    train_rows: Count
    """Training rows used."""
    test_rows: Count
    """Test rows used."""
    overlap: Count
    """Test texts that occur verbatim among the training texts."""
    overlap_ngrams: Count | None = None
    """Test rows that share a run of 8 words, lower case, with a training text; None in records from before."""
    floor: Score
    """Score of a bag-of-words classifier trained on the same rows (main metric)."""
    kind: Literal["classes", "score", "text"] | None = None
    """What is predicted; None in records from before."""
    main_metric: str | None = None
    """The metric that the score is; None in records from before."""
    origin: str = ""
    """What the rows are and who made them."""
    citation: str = ""
    """Who is to be cited for them."""
    rows: RowFigures | None = None
    """Counts of the rows; None in records from before."""
    notes: tuple[str, ...] = ()
    """Such as ``near pretraining objective``."""


class CurvePoint(_Frozen):
    """What training had reached, and spent, after some of its steps.

    The FLOPs of a step are a polynomial in its batch, a * B + b * B*T + c * B*T*T with T the padded length, so the
    three sums give the FLOPs so far from a count at three lengths.
    """

    step: Count
    """Optimizer steps so far."""
    seconds: Amount
    """Training seconds so far, evaluations left out."""
    score: Score
    """Main metric on the test split; nothing is chosen by it."""
    loss: float
    """Mean training loss since the last point."""
    rows: Count
    """Sum of B over all batches so far."""
    tokens: Count
    """Sum of B * T."""
    token_squares: Count
    """Sum of B * T * T."""
    retention: dict[str, Amount] = {}
    """Bits per byte by plain text, where ``[retention]`` reads ``on_the_way``; those of the last step are in the
    record's own ``retention``."""


class Tuning(_Frozen):
    """The search that gave a method its learning rates; every method of a fair table was given the same."""

    trials: Count
    """Combinations of rates that were tried."""
    seeds: Count
    """Seeds of each."""
    steps: Count
    """Optimizer steps of each."""
    selection_rows: Count
    """Rows, cut from train, that chose."""
    task: str | None = None
    """The one task that was searched, whose rates hold for all; None: every task had a search of its own."""


class Trainable(_Frozen):
    """Trainable parameters, counted apart."""

    method: Count
    """Parameters below the head that require a gradient, each once."""
    head: Count
    """Parameters of the task head."""


class Owners(_Frozen):
    """FLOPs of one part of the model; the four backward parts sum to ``backward``."""

    forward: Count = 0
    """FLOPs of forward."""
    backward: Count = 0
    """FLOPs of backward."""
    backward_weight_gradient: Count = 0
    """Products that give the gradient of a parameter, dW = G^T X."""
    backward_input_gradient: Count = 0
    """Products that pass the gradient on to the input, dX = G W."""
    backward_attention: Count = 0
    """Products between two activations."""
    backward_recompute: Count = 0
    """Forward work done again during backward; above 0 under gradient checkpointing only."""


class Flops(Owners):
    """FLOPs of one training step on the probe's shape: in all, by owner and by layer."""

    backbone: Owners
    """Operations inside the backbone's modules."""
    method: Owners
    """Operations of what the method added."""
    head: Owners
    """Operations of the task head."""
    by_layer: dict[str, Owners]
    """Keys ``embeddings``, ``layer_1`` ... ``layer_L``, ``head`` (all owners of that depth together)."""
    backbone_by_layer: dict[str, Owners] = {}
    """The backbone's share of it, ``embeddings`` to ``layer_L``; empty in records from before it was kept."""

    _sums = model_validator(mode="after")(ranges.check_sums)


class MovedBytes(_Frozen):
    """Bytes that the operations of one part of the model read and write."""

    forward: Count = 0
    """Bytes of forward."""
    backward: Count = 0
    """Bytes of backward, forward work done again during it included."""


class Traffic(MovedBytes):
    """Memory traffic of one training step on the probe's shape: in all and by owner."""

    optimizer: Count = 0
    """Bytes of the optimizer step with the method's own work after it; these have no owner and no layer."""
    step: Count
    """Sum of forward, backward and optimizer."""
    backbone: MovedBytes
    """Operations inside the backbone's modules."""
    method: MovedBytes
    """Operations of what the method added."""
    head: MovedBytes
    """Operations of the task head."""

    _sums = model_validator(mode="after")(ranges.check_moved)


class Bytes(_Frozen):
    """Bytes held during a training step."""

    weights: Count
    """Parameters and buffers, head included."""
    gradients: Count
    """Gradients of all that trains."""
    optimizer_state: Count
    """What the optimizer keeps between steps."""
    saved_activations: Count
    """Tensors that autograd keeps for backward, deduplicated by storage, parameters and buffers left out."""


class Communication(_Frozen):
    """What one of several devices tells the others in a training step: bytes of whole tensors, by operation."""

    all_reduce: Count = 0
    """Summed over all devices: the gradients of all that trains (DDP)."""
    all_gather: Count = 0
    """Gathered from the shares of all devices: weights, frozen ones too, for forward and again for backward (FSDP2)."""
    reduce_scatter: Count = 0
    """Summed, of which each device keeps its share: the gradients of all that trains (FSDP2)."""
    sent: Count
    """By each device where N of them stand in a ring: 2 (N - 1) / N of what is all-reduced, (N - 1) / N of the rest."""


class SavedTensor(_Frozen):
    """One of the largest tensors that autograd keeps for backward."""

    module: str
    """Dotted path of the module whose forward kept it first; empty for the model itself."""
    owner: Literal["backbone", "method", "head"]
    """Part of the model that the module belongs to."""
    shape: tuple[Count, ...]
    """Dimensions of the tensor."""
    dtype: str
    """Type of its elements."""
    bytes: Count
    """Of its storage, which a view may show in part only."""


class PeakMemory(_Frozen):
    """Peak bytes by phase of the second step (the first has no optimizer state yet)."""

    forward: Count
    """Peak bytes of forward."""
    backward: Count
    """Peak bytes of backward."""
    optimizer: Count
    """Peak bytes of the optimizer step."""
    step: Count
    """Largest of the three."""

    _largest = model_validator(mode="after")(ranges.check_phases)


class Timing(_Frozen):
    """One timed quantity over interleaved blocks; readers recompute every statistic from ``samples``."""

    median: Amount
    """Seconds."""
    p95: Amount
    """Seconds."""
    samples: tuple[tuple[Amount, ...], ...]
    """Wall seconds, ``[block][i]``; sample i of block b was taken in the same round as the baseline's."""
    cpu_median: Amount
    """Median process CPU seconds."""
    ratio_to_baseline: Ratio
    """Exp of the median over blocks of the median paired log ratio to the baseline."""
    ratio_interval: Interval
    """95 % interval of that ratio, from a bootstrap over blocks."""


class Control(_Frozen):
    """The A/A control: the baseline measured twice in the same rounds; ratio 1 is expected."""

    ratio: Ratio
    """Second against first, the same statistic as every ratio."""
    interval: Interval
    """95 % interval of that ratio."""


class Energy(_Frozen):
    """Energy of one training step, by a counter of the device: all that the device did meanwhile, idling included."""

    median: Amount
    """Joules."""
    samples: tuple[Amount, ...]
    """Joules of a step, each the mean over one stretch of steps that were taken one after the other."""
    source: Literal["nvml", "rapl"]
    """``nvml``: of a GPU; ``rapl``: of the processor's packages, whoever uses them."""
    covers: str
    """Name of the GPU, or of the packages."""
    resolution_seconds: Amount
    """Longest time between two changes of the counter. A step that is shorter has no figure."""
    stretch_seconds: Amount
    """Of the shortest stretch; the counter may be off by one resolution at each of its ends."""


class Latency(_Frozen):
    """Inference time, as a ``Timing`` in a field ``batch_<rows>`` for each batch that the suite asked for."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Timing] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _measured(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in values:
            if not re.fullmatch(r"batch_[1-9]\d*", str(name)):
                raise ValueError(f"{name} is no batch; its fields are batch_<rows>")
        return {name: timing for name, timing in values.items() if timing is not None}  # as older records spell absence

    @classmethod
    def of(cls, timings: Mapping[int, Timing]) -> "Latency":
        """From timings by the number of rows."""
        return cls.model_validate({f"batch_{rows}": timing for rows, timing in timings.items()})

    @property
    def by_batch(self) -> dict[int, Timing]:
        """Timings by the number of rows, rising."""
        held = self.__pydantic_extra__ or {}
        return dict(sorted((int(name.removeprefix("batch_")), timing) for name, timing in held.items()))


class Latencies(_Frozen):
    """Inference as trained (``unmerged``) and merged, against the bare backbone with the same head."""

    base: Latency
    """The bare backbone with the same head."""
    unmerged: Latency
    """The method as trained."""
    merged: Latency | None
    """None where the method cannot be merged."""


class MergedEqualsBase(_Frozen):
    """Whether the merged module is the base again, exactly."""

    modules: bool
    """Classes and names of all modules are the base's."""
    parameters: bool
    """Names and shapes of all parameters are."""
    op_trace: bool
    """The trace of operations with their shapes is."""
    flops: bool
    """The FLOPs are."""

    @property
    def all(self) -> bool:
        """Every comparison holds."""
        return self.modules and self.parameters and self.op_trace and self.flops


class PathCounts(_Frozen):
    """Operations of a computation that compute, and how they hang together; counted, exact.

    Views and other aliases, bare allocations and questions for a value are left out (``bench.count.operations``).
    """

    operations: Count
    """How many operations compute."""
    depth: Count
    """Length of the longest chain of operations that each need the one before: the critical path."""


class Inference(PathCounts):
    """One inference of one row, the task head included."""

    flops: Count
    """FLOPs of the inference."""


class Inferences(_Frozen):
    """Inference as trained (``unmerged``) and merged, beside the bare backbone with the same head."""

    base: Inference
    """The bare backbone with the same head."""
    unmerged: Inference
    """The method as trained."""
    merged: Inference | None
    """None where the method cannot be merged."""


ContextKey = Annotated[str, Field(pattern=r"^context_[1-9]\d*$")]
"""Names the tokens that were read before, such as ``context_512``."""


def context_key(tokens: int) -> str:
    """The key of a context of so many tokens."""
    return f"context_{tokens}"


TasksKey = Annotated[str, Field(pattern=r"^tasks_[1-9]\d*$")]
"""Names how many tasks are served, such as ``tasks_100``."""


def tasks_key(tasks: int) -> str:
    """The key of so many tasks."""
    return f"tasks_{tasks}"


class ServedBytes(_Frozen):
    """What several tasks take on disk, and in memory once all are loaded, heads left out."""

    deltas: Count
    """Their deltas beside one backbone, which is not counted."""
    copies: Count
    """As many whole copies of the backbone."""


class ServingTimes(_Frozen):
    """Times of one batch whose rows belong to several tasks, beside the bare backbone, by how many are served."""

    base: Timing
    """The bare backbone on that batch: rows without a task."""
    mixed: dict[TasksKey, Timing] | None
    """In one forward, each row under its own delta; None where the method's module cannot run so."""
    in_turns: dict[TasksKey, Timing]
    """Task after task: its delta is loaded into the running module, which reads its rows."""
    merged_in_turns: dict[TasksKey, Timing] | None
    """Task after task: its delta is loaded, merged into a copy of the backbone, which reads its rows; None where the
    method cannot be merged."""


class GenerationCounts(_Frozen):
    """Counts of one row at each context, as trained (``unmerged``) and merged, beside the bare backbone."""

    base: dict[ContextKey, Inference]
    """The bare backbone with the same LM head."""
    unmerged: dict[ContextKey, Inference]
    """The method as trained."""
    merged: dict[ContextKey, Inference] | None
    """None where the method cannot be merged."""


class CacheSize(_Frozen):
    """Keys and values that decoding one row keeps, counted as the bytes of their elements."""

    bytes: Count
    """Once the context was read, prompts, prefixes and keys of a network of the method's own included."""
    bytes_per_token: Count
    """By which one more token makes it larger; a layer whose sliding window is full adds none."""


class CacheSizes(_Frozen):
    """The KV cache at each context, as trained (``unmerged``) and merged, beside the bare backbone."""

    base: dict[ContextKey, CacheSize]
    """The bare backbone."""
    unmerged: dict[ContextKey, CacheSize]
    """The method as trained."""
    merged: dict[ContextKey, CacheSize] | None
    """None where the method cannot be merged."""


class GenerationTimes(_Frozen):
    """Times at each context and batch, as trained (``unmerged``) and merged, beside the bare backbone."""

    base: dict[ContextKey, Latency]
    """The bare backbone with the same LM head."""
    unmerged: dict[ContextKey, Latency]
    """The method as trained."""
    merged: dict[ContextKey, Latency] | None
    """None where the method cannot be merged."""


class Shape(StepShape, Decided):
    """What a probe measured on: part of every cost figure's key."""

    device: str
    """``cpu`` or the name of the GPU."""
    threads: Count
    """Torch threads."""
    compiled: bool = False
    """Whether the timed model went through ``torch.compile``; counts are those of the eager form."""
    weights: Weights = "native"
    """How the backbone's frozen linear weights are stored."""


def _cut(most: int) -> BeforeValidator:
    return BeforeValidator(lambda text: shortened(text, most) if isinstance(text, str) else text)


class _Common(_Frozen):
    schema_: Count = Field(alias="schema", default=SCHEMA)
    """Version of the record format."""
    id: str
    """Cell or probe identity: sha256 over all that decides the result."""
    suite: str
    """Name of the suite."""
    status: Status
    """``ok``, or how it failed."""
    reason: Annotated[str | None, _cut(LONGEST_REASON)] = None
    """One sentence of at most 500 characters, when the status is not ok."""
    traceback: Annotated[str | None, _cut(LONGEST_TRACEBACK)] = None
    """Python's traceback, when the status is not ok; of more than 20,000 characters the middle is left out."""
    backbone: Backbone | None
    """The model that was adapted; null where it could not be read."""
    method: MethodUsed
    """The method and its whole configuration."""
    environment: dict[str, Any]
    """Versions, hardware, threads, commit; ``fingerprint`` groups what may be compared, ``node`` is a hash by which
    machines are told apart."""
    started: str
    """UTC, ISO 8601."""
    ended: str
    """UTC, ISO 8601."""
    flags: tuple[str, ...] = ()
    """``random_weights``, ``synthetic``, ``did_not_learn``, ``still_improving``, ``foreign_process`` (another process
    used the GPU while times were taken)."""
    notes: tuple[Annotated[str, _cut(LONGEST_REASON)], ...] = ()
    """What a reader of the figures must know of what ran, such as an option of the method that does nothing on this
    backbone; one sentence each."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Directions(_Frozen):
    """The update ``dW = W - W_0 [out, in]`` of one weight, and how its leading left singular vectors lie to W_0's."""

    leading: Count
    """How many directions are compared."""
    outputs: Count
    """Dimensions that they lie in."""
    relative_norm: Amount
    """Frobenius norm of dW / that of W_0."""
    stable_rank: Amount
    """Squared Frobenius norm of dW / its squared largest singular value."""
    leading_share: Share
    """Of the squared Frobenius norm of dW, in its leading directions."""
    with_weight: Share
    """Overlap with as many leading directions of W_0, 0 to 1."""
    angle_to_weight: Angle
    """Smallest principal angle to these, in degrees."""


class Neighbour(_Frozen):
    """A word of the vocabulary near a vector."""

    token: str
    """As the tokenizer spells it; ``#7`` where it spells none."""
    cosine: Cosine
    """Of the angle between the two."""


class InputVector(_Frozen):
    """One learned vector among the word embeddings, before and after training."""

    start_norm: Amount
    """L2 norm before the first step."""
    norm: Amount
    """L2 norm once trained."""
    moved: Amount
    """L2 distance between the two."""
    start_nearest: tuple[Neighbour, ...]
    """Words nearest to the start by cosine, the nearest first."""
    nearest: tuple[Neighbour, ...]
    """Words nearest to the trained vector."""


class InputVectors(_Frozen):
    """What a method learned among the word embeddings, held against the words of the frozen vocabulary."""

    vectors: tuple[InputVector, ...]
    """In the order in which they stand before the sentence."""
    words: Count
    """Rows of the vocabulary."""
    word_norms: tuple[Amount, Amount, Amount, Amount, Amount]
    """L2 norms of the words: quantiles 0.05, 0.25, 0.5, 0.75 and 0.95."""
    word_distance: Amount
    """Mean L2 distance of two different words, over a sample."""
    word_nearest: Cosine
    """Mean cosine of a word to the nearest other word, over a sample: what a word has."""
    random_nearest: Cosine
    """Mean cosine of a vector of random direction to the nearest word: what no word has."""


class LabelScale(_Frozen):
    """The unit in which a regression is trained: labels less ``mean``, over ``deviation``."""

    mean: float
    """Of the labels of the training rows, in their own unit."""
    deviation: float = Field(gt=0)
    """Standard deviation of the same labels (population)."""

    def of(self, label: float) -> float:
        """``label`` as it is trained on."""
        return (label - self.mean) / self.deviation

    def back(self, prediction: float) -> float:
        """A model's ``prediction`` in the unit of the labels."""
        return prediction * self.deviation + self.mean


class Retention(_Frozen):
    """Bits that a language model needs for a byte of a plain text: less before than after is what it has forgotten."""

    before: Amount
    """Of the bare backbone."""
    after: Amount
    """Of the trained model, what it was trained with switched on."""
    bytes: Count
    """Of the text, that were read."""
    context: Count
    """Tokens of a window at most."""
    sha256: str
    """Hash of these bytes."""


class Mixed(_Frozen):
    """General text that was trained on beside the rows of the task."""

    text: str
    """Its name, as ``[recipe.mix]`` gives it."""
    sha256: str
    """Hash of what was drawn from, without the paragraphs that share a run of words with a text of ``[retention]``."""
    bytes: Count
    """Size of the same in UTF-8."""
    general_rows: Count
    """Rows of it that were trained on, each time that one came."""
    domain_rows: Count
    """Rows of the task that were trained on, likewise."""
    general_targets: Count
    """Tokens of those rows of general text that the loss is of: all but the first of each row."""
    domain_targets: Count
    """Tokens of those rows of the task that the loss is of."""


class Scored(_Common):
    """What training once (backbone, task, method, recipe, seed) came to."""

    kind: Literal["score", "trial"]
    """``score`` or ``trial``."""
    task: TaskUsed | None
    """The task and its rows; null where they could not be read."""
    task_name: str
    """Stands also where the data could not be read."""
    recipe: dict[str, Any]
    """Every recipe value, resolved for this method and task."""
    seed: Count
    """Decides head, delta, order of the data and dropout."""
    score: Score | None = None
    """The task's main metric on the test split, of a trial on the rows cut from train."""
    metrics: dict[str, float] = {}
    """Every metric of the task by name."""
    trainable_parameters: Trainable | None = None
    """Counted before training."""
    trained_dtypes: dict[str, tuple[str, ...]] = {}
    """Names of the trained tensors, head included, by the type that they train in; ``*`` stands for a layer's number,
    and alone for all."""
    delta_bytes: Count | None = None
    """Bytes stored per task: the delta without the head."""
    losses: tuple[float, ...] = ()
    """Training loss of each step, taken before its update: the first is the loss at step 0."""
    retention: dict[str, Retention] = {}
    """By plain text, what the model has kept of it, where the suite has ``[retention]``."""
    backbone_kept: bool | None = None
    """Whether every weight of the backbone has, after training, the bits that it had before: the delta switched off
    leaves the backbone then. False where weights of the backbone train; None: the suite has no ``[retention]``."""
    mixed: Mixed | None = None
    """What was mixed in; None: all rows were the task's."""
    label_scale: LabelScale | None = None
    """Of a regression: what its labels were standardised by in training, so that ``losses`` are shares of their
    variance; predictions and metrics have the unit of the labels. None for classes, and in records from before."""
    curve: tuple[CurvePoint, ...] = ()
    """Scores on the way, where the recipe asks for ``curve_points``."""
    gradient_norms: dict[str, tuple[Amount, ...]] = {}
    """By part of the delta, such as ``A`` and ``B``: L2 norm of its gradient, before clipping, at each of the first
    steps that the recipe's ``gradient_norms`` asks for; empty: it asks for none, or nothing but the head trains."""
    ranks: dict[str, Count] = {}
    """Rank of the update of each adapted map, where training chose it; empty where the configuration gave it."""
    directions: dict[str, Directions] = {}
    """By map, such as ``0.query`` of the first layer: the directions that training added to it, where the recipe asks
    for ``directions``; a map that training left as it was is missing, and all are where the method cannot be merged."""
    directions_sha256: str | None = None
    """Hash of the cell's singular vectors in ``directions/<id>.safetensors``, or ``directions.safetensors`` once
    published."""
    input_vectors: InputVectors | None = None
    """The vectors that the method learned among the word embeddings, where the recipe asks for ``nearest_words``; None
    where it does not, or the method has none."""
    best_step: Count | None = None
    """Step whose state was scored, chosen on the selection rows; None: the last one, nothing was chosen."""
    tuning: Tuning | None = None
    """None: the rates were not searched for."""
    train_seconds: Amount | None = None
    """Wall seconds of training, evaluations left out."""
    prepare_seconds: Amount | None = None
    """Seconds of what the method does before its first step."""
    predictions_sha256: str | None = None
    """Hash of the cell's predictions in ``predictions/<id>.parquet``, or ``predictions.parquet`` once published."""
    kept_sha256: str | None = None
    """Hash of what the cell trained, ``kept/<id>/delta.safetensors``, which stays there under ``--keep all``; under
    ``--keep best`` that of the best seed of each method and task alone. None: nothing was kept."""

    @model_validator(mode="after")
    def _scored(self) -> "Scored":
        if self.status == "ok" and self.score is None:
            raise ValueError("status is ok but there is no score")
        ranges.check_metrics(self.metrics, self.score)
        if self.status == "ok":
            ranges.check_recipe(self.recipe)
        return self


class ScoreRecord(Scored):
    """What one cell scored on the test split."""

    kind: Literal["score"] = "score"
    """Tells the kinds of record apart."""


class _Counted(_Common):
    _possible = model_validator(mode="after")(ranges.check_peaks)


class CostRecord(_Counted):
    """What one method costs on one probe's shape."""

    kind: Literal["cost"] = "cost"
    """Tells the kinds of record apart."""
    shape: Shape
    """What it was measured on."""
    baseline: str
    """Label of the method that ratios refer to."""
    trainable_parameters: Trainable | None = None
    """Counted, exact."""
    trained_dtypes: dict[str, tuple[str, ...]] = {}
    """Names of the trained tensors, head included, by the type that they train in; ``*`` stands for a layer's number,
    and alone for all."""
    delta_bytes: Count | None = None
    """Bytes stored per task: the delta without the head."""
    flops: Flops | None = None
    """Of one training step, counted, exact."""
    backward_path: PathCounts | None = None
    """Of ``loss.backward()``: what forward left has depth 0; None in records from before it was counted."""
    traffic_bytes: Traffic | None = None
    """Read and written by one training step, counted, exact; None where weights are packed in 4 bits, and in records
    from before it was counted."""
    all_reduce_bytes: Count | None = None
    """Of gradients that data-parallel devices all-reduce in a step, however many there are; None in records from before
    it was counted."""
    bytes: Bytes | None = None
    """Held during a training step, counted, exact."""
    largest_saved: tuple[SavedTensor, ...] = ()
    """The largest ten of the saved activations."""
    predicted_peak_memory_bytes: PeakMemory | None = None
    """Peaks of the ledger, counted on fake tensors; None beside ``flops`` where the count ran on real ones."""
    peak_memory_bytes: PeakMemory | None = None
    """Peaks of the second training step, as it ran; null where it was counted alone."""
    peak_memory_source: Literal["cuda_allocated", "tracker"] | None = None
    """``tracker``: every tensor of a step on a CPU, exact; ``cuda_allocated``: the GPU allocator."""
    forward_seconds: Timing | None = None
    """Forward and loss of one training step."""
    backward_seconds: Timing | None = None
    """``loss.backward()``."""
    optimizer_seconds: Timing | None = None
    """``optimizer.step()``."""
    step_seconds: Timing | None = None
    """Sum of forward, backward and optimizer."""
    step_energy: Energy | None = None
    """Joules of one training step; None where no counter can be read, or a step is shorter than its resolution."""
    latency_seconds: Latencies | None = None
    """Time of one inference."""
    prefill_seconds: GenerationTimes | None = None
    """Time to first token: a prompt is read, the KV cache begun, and the next token chosen."""
    decode_seconds: GenerationTimes | None = None
    """Time per output token with that cache: the mean over ``new_tokens`` that follow the first."""
    aa_control: dict[str, Control] = {}
    """Keys ``forward backward optimizer step latency``, ``latency_batch_1`` and so on for each batch that ran, and
    ``prefill_context_32_batch_1``, ``decode_context_32_batch_1`` likewise, and ``serving``."""
    latency_length: Count | None = None
    """Tokens of each row of inference; None in records from before it stood here, and where no inference ran."""
    inference: Inferences | None = None
    """Counted on one row of ``latency_length`` tokens; None in records from before it was counted."""
    prefill: GenerationCounts | None = None
    """Reading a prompt of the context's length and giving the logits of the next token; None where the suite asks for
    no generation."""
    decode: GenerationCounts | None = None
    """Reading one more token behind a KV cache of the context's length and giving the logits of the next."""
    kv_cache: CacheSizes | None = None
    """Bytes of that cache."""
    new_tokens: Count | None = None
    """Tokens that each decode time is the mean of."""
    serving_bytes: dict[TasksKey, ServedBytes] | None = None
    """By how many tasks are served; None where the suite asks for no serving."""
    serving_seconds: ServingTimes | None = None
    """Of a batch of ``serving_rows`` rows of ``latency_length`` tokens, which take the tasks in turn."""
    serving_rows: Count | None = None
    """Rows of that batch."""
    merged_equals_base: MergedEqualsBase | None = None
    """Whether the merged model is the backbone again; null where the method cannot be merged."""
    merge_error: dict[str, Amount] | None = None
    """Largest absolute difference of hidden states, merged against unmerged, by dtype."""
    switch_seconds: Amount | None = None
    """Median time to load another task's delta into the running model."""
    warnings: tuple[Annotated[str, _cut(LONGEST_REASON)], ...] = ()
    """Figures that could not be taken, each with its reason."""


class CountRecord(_Counted):
    """What one method costs at one value of a sweep: counted on fake tensors, never run."""

    kind: Literal["count"] = "count"
    """Tells the kinds of record apart."""
    sweep: str
    """Name of the sweep within the suite."""
    vary: str
    """What is swept: ``length``, ``batch``, ``layers``, ``width`` or ``config.<field>``."""
    value: Count
    """Of the swept quantity."""
    shape: Shape
    """What it was counted on."""
    trainable_parameters: Trainable | None = None
    """Counted, exact."""
    trained_dtypes: dict[str, tuple[str, ...]] = {}
    """Names of the trained tensors, head included, by the type that they train in; ``*`` stands for a layer's number,
    and alone for all."""
    delta_bytes: Count | None = None
    """Bytes stored per task: the delta without the head."""
    flops: Flops | None = None
    """Without ``by_layer``: a sweep over depth would hold the same figures many times over."""
    traffic_bytes: Traffic | None = None
    """Read and written by one training step; None as in a `CostRecord`."""
    all_reduce_bytes: Count | None = None
    """Of gradients that data-parallel devices all-reduce in a step; None as in a `CostRecord`."""
    bytes: Bytes | None = None
    """Held during a training step, counted, exact."""
    predicted_peak_memory_bytes: PeakMemory | None = None
    """Peaks of a training step, counted on fake tensors."""


class RowLengths(_Frozen):
    """Tokens of the rows that somebody trains on, and what batches of them are padded to."""

    rows: Count
    """How many there are."""
    shortest: Count
    """Tokens of the shortest."""
    longest: Count
    """Tokens of the longest: the length of the step, for the batch that holds it decides the peak."""
    mean: Amount
    """Tokens of a row, mean."""
    mean_longest: Amount
    """Tokens of the longest row of a batch of random rows, mean over all such batches."""
    padding_share: Share
    """Of the positions of these batches, those of padding."""


class MeanBatch(_Frozen):
    """A step whose rows are padded to ``mean_longest``, rounded to whole tokens."""

    length: Count
    """Tokens of each row, padding among them."""
    flops: Count
    """Of forward and backward."""
    predicted_peak_memory_bytes: Count
    """Largest of the step."""


class Change(_Frozen):
    """What else a user may ask of a training step, and what the step then takes; every figure is counted."""

    options: str
    """As the command line spells them, beside what was asked."""
    batches: Count = 1
    """Whose gradients add up to a step of as many rows as asked; above 1 where the batch is smaller."""
    predicted_peak_memory_bytes: Count
    """Largest of the step."""
    flops_ratio: Ratio
    """Forward and backward of as many rows as asked, against the step as asked."""
    same_gradients: bool
    """Whether the gradients are those of the step as asked, to rounding."""
    fits: bool
    """Whether the peak leaves the reserve."""


class Prediction(_Frozen):
    """What ``predict`` says of one method on a backbone's shape; the figures are those of a `CountRecord`."""

    method: str
    """As the command line spells it."""
    backbone: str
    """Named shape, hub id or path of a configuration."""
    backbone_parameters: Count
    """Of the bare backbone."""
    shape: Setting
    """Of the training step."""
    notes: tuple[str, ...]
    """What the figures leave out or take from a formula, and what must be known of the method, as in its records."""
    trainable_parameters: Trainable | None = None
    """Counted, exact."""
    trained_dtypes: dict[str, tuple[str, ...]] | None = None
    """Names of the trained tensors, head included, by the type that they train in; ``*`` stands for a layer's number,
    and alone for all."""
    delta_bytes: Count | None = None
    """Bytes stored per task: the delta without the head."""
    flops: Flops | None = None
    """Of one training step; None where it was not counted."""
    traffic_bytes: Traffic | None = None
    """Read and written by one training step; None as in a `CostRecord`."""
    all_reduce_bytes: Count | None = None
    """Of gradients that data-parallel devices all-reduce in a step, however many there are."""
    communication_bytes: Communication | None = None
    """Of one of the devices that share a step; None where there is one."""
    bytes: Bytes | None = None
    """Held during a training step; of several devices by each."""
    predicted_peak_memory_bytes: PeakMemory | None = None
    """Peaks of a training step."""
    largest_saved: tuple[SavedTensor, ...] | None = None
    """The largest ten of the saved activations."""
    device_memory_bytes: Count | None = None
    """Bytes that the device has; None where nobody asked what fits."""
    reserve_bytes: Count | None = None
    """Of these, left to the allocator and the CUDA context; a step may take the rest."""
    fits: bool | None = None
    """Whether the peak is within ``device_memory_bytes`` less ``reserve_bytes``."""
    largest_batch: Count | None = None
    """Most rows whose peak is within that, of all devices together; 0 where not even one row of each is."""
    changes: tuple[Change, ...] | None = None
    """Of a step that does not fit: what lowers its peak, cheapest first; None where it fits, and where the method was
    not named."""
    estimated_step_seconds: Amount | None = None
    """Least time of a step on a device whose peak rates were given; an estimate, never measured."""
    estimated_tokens_per_second: Amount | None = None
    """Tokens of a step over that time; of an encoder-decoder those that the encoder reads."""
    lengths: RowLengths | None = None
    """Of the rows whose longest is the length of the step; None where a length was given."""
    mean_batch: MeanBatch | None = None
    """What a batch of these rows takes that is as long as the mean one."""
    refused: str | None = None
    """Why the backbone cannot carry the method."""
    not_counted: str | None = None
    """Why its step does not run on fake tensors."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it: what is not known has no key."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}


class TrialRecord(Scored):
    """What one trial of a search for rates scored on rows cut from train: it chooses and is never a result."""

    kind: Literal["trial"] = "trial"


Record = Annotated[ScoreRecord | CostRecord | CountRecord, Field(discriminator="kind")]
"""What readers of scores and costs see."""
Stored = Annotated[ScoreRecord | CostRecord | CountRecord | TrialRecord, Field(discriminator="kind")]
"""What a run folder may hold; trials lie in folders of their own."""

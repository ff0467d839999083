"""The catalogue of figures: what each is called, its unit, how it is taken, and where tables and references hold it.

A new figure is a field of a record, the code that measures it, a row here and a test: columns of tables, exports,
references, the metrics of claims and the report's words derive from the row.
"""

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from bench.schema.record import (
    ContextKey,
    Control,
    CostRecord,
    CountRecord,
    Latency,
    MergedEqualsBase,
    ScoreRecord,
    TasksKey,
    Timing,
)

Kind = Literal["counted", "measured", "timed", "scored"]
"""``counted``: exact on any machine, part of a reference. ``measured``: of a run on this machine, without a clock."""
Group = Literal["", "counted", "memory", "inference", "timed", "energy", "merge"]
"""Part of a cost table."""

MODES = ("unmerged", "merged")
"""Forms of a method that inference is measured in; the second only where it can be merged."""
BASE = "base"
"""What inference is compared with: the bare backbone under the same head."""
PHASES = ("forward", "backward", "optimizer", "step")
"""Of a training step; the last is the sum of the others, its peak the largest of theirs."""
GENERATION = ("prefill", "decode")
"""Phases of writing text: the prompt is read, then one token after another is written."""
SERVED = {
    "mixed": "tasks mixed in one batch",
    "in_turns": "task after task",
    "merged_in_turns": "merged task after task",
}
"""How a batch of several tasks is answered, with the words for it."""
MERGE_TYPES = ("float32", "bfloat16")
"""Types of numbers that a merge is checked in."""
ANY = "*"
"""Stands in a path for a key that records choose: a layer, a batch of inference, a part of the delta."""
BATCH = "batch_*"
CONTEXT = "context_*"
TASKS = "tasks_*"
_NUMBERED = {name: re.compile(rf"{name[:-1]}[1-9]\d*") for name in (BATCH, CONTEXT, TASKS)}
_NAMED = {ContextKey: CONTEXT, TasksKey: TASKS}
_UNITS_IN_NAMES = ("parameters", "bytes", "flops", "seconds", "operations")


class Term(NamedTuple):
    """A kind of figure as METHODOLOGY.md explains it: the heading is the name."""

    chapter: str
    """Heading above it in METHODOLOGY.md."""
    unit: str
    how: str
    """How it is measured, in a line."""


TERMS: Mapping[str, Term] = {
    "trained": Term("Parameters and storage", "parameters", "unique tensors that need a gradient; the task head is "
                    "counted apart"),
    "stored per task": Term("Parameters and storage", "bytes", "what inference needs beside the backbone and the head"),
    "FLOPs": Term("FLOPs", "floating point operations", "matrix products and attention of one step, counted; exact on "
                  "any machine"),
    "memory traffic": Term("Memory", "bytes", "what the operations of one step read and write, each element once an "
                           "operation; counted, exact"),
    "communication": Term("Memory", "bytes", "gradients of all that trains, which data-parallel devices all-reduce in "
                          "a step; exact"),
    "held bytes": Term("Memory", "bytes", "storages of weights, gradients and optimizer state, a shared one once; "
                       "exact"),
    "saved activations": Term("Memory", "bytes", "tensors that autograd keeps for backward, by storage, parameters "
                              "left out; exact"),
    "predicted peak": Term("Counts and predictions", "bytes", "largest sum of live tensors in the second step of the "
                           "model on tensors without data"),
    "peak memory (counted)": Term("Memory", "bytes", "largest sum of live tensors in the second training step; exact"),
    "peak GPU memory": Term("Memory", "bytes", "`max_memory_allocated` of each phase of a training step"),
    "grows as": Term("Counts and predictions", "polynomial", "least squares in x, the swept quantity; ≈: it misses a "
                     "counted point by over 0.1 %"),
    "exponent": Term("Counts and predictions", "power", "d log(figure) / d log(x) of that polynomial at the largest x"),
    "times": Term("Times", "seconds", "median over interleaved blocks; ratios are paired with the baseline round by "
                  "round"),
    "ratio interval": Term("Times", "ratio", "95 %: hull of the block bootstrap of the median and Student's t over "
                           "block medians"),
    "energy": Term("Times", "joules", "of one training step, by a counter of the device over a stretch of steps; with "
                   "its resolution"),
    "latency": Term("Times", "seconds", "inference of one batch, against the bare backbone with the same head, "
                    "interleaved"),
    "operations": Term("Times", "", "of one inference of one row: those that compute, views left out; counted, exact"),
    "critical path": Term("Times", "operations", "longest chain of operations that each need the one before; counted, "
                          "exact"),
    "prefill": Term("Times", "seconds", "time to first token: a prompt is read and the KV cache begun; against the "
                    "bare backbone"),
    "decode": Term("Times", "seconds", "time per output token with a KV cache, against the bare backbone, interleaved"),
    "KV cache": Term("Times", "bytes", "keys and values of one row, prompts and networks of the method's own included; "
                     "counted, exact"),
    "serving": Term("Times", "seconds", "one batch whose rows belong to several tasks, in one forward or task after "
                    "task, against the bare backbone"),
    "served bytes": Term("Parameters and storage", "bytes", "deltas of all tasks beside one backbone, against whole "
                         "copies"),
    "merged equals base": Term("Times", "", "modules, parameters, operations and FLOPs of the merged model are the "
                               "base's; exact"),
    "merge error": Term("Times", "", "largest difference of a hidden state, merged against unmerged"),
    "switch": Term("Times", "seconds", "median time to load another task's delta into the running model"),
    "A/A control": Term("Times", "ratio", "the baseline against itself in the same rounds; beyond 3 % only wide "
                        "margins hold"),
    "score": Term("Scores", "points of 100", "main metric of the task on rows that training never saw; ± is 95 % over "
                  "seeds"),
    "difference": Term("Scores", "points of 100", "paired by task and seed, pairs that both have; 95 % Student t"),
    "learning rates": Term("Scores", "", "the search that gave them, the same for every method of a fair table, or "
                           "that none did"),
    "over test rows": Term("Scores", "points of 100", "the same trained models, paired by row and seed; 95 % bootstrap "
                           "over rows"),
    "McNemar p": Term("Scores", "p-value", "exact, of rows that only one side gets right; twice the median over seeds, "
                      "Holm"),
    "on the front": Term("Scores", "probability", "share of bootstrap draws: no method is cheaper and as good, or as "
                         "cheap and better"),
    "the best": Term("Scores", "probability", "share of the same draws in which its mean score is the highest; equals "
                     "share a draw"),
    "average rank": Term("Scores", "1 the best", "by score in each (task, seed) that all compared methods have; 95 % "
                         "Student t"),
    "bits per byte": Term("Scores", "bits per byte", "of a plain text that nothing was trained on, before and after "
                          "training; lower is better, a rise is what was forgotten"),
    "general text": Term("Scores", "rows, tokens", "plain text among the rows that were trained on; none of it is what "
                         "bits per byte are read on"),
    "score on the way": Term("Scores", "points of 100", "the test score after equal shares of the steps; nothing is "
                             "chosen by it"),
    "training FLOPs": Term("Scores", "floating point operations", "forward and backward of all batches, from counts"),
    "cost to reach": Term("Scores", "steps, time, FLOPs", "to the first reading at 99 % of the baseline's mean; median "
                          "of seeds"),
    "overlap": Term("Scores", "0 to 1", "mean squared cosine of the principal angles between two subspaces of singular "
                    "directions"),
    "nearest words": Term("Scores", "L2, cosine", "of each learned vector of a prompt, against the embeddings of the "
                          "vocabulary, before and after training"),
    "gradient norm": Term("Scores", "L2", "of all gradients of a part of the delta, before clipping; mean over seeds, "
                          "0 is exact"),
    "loss at step 0": Term("Scores", "loss", "of the first batch, before any update, in training mode; mean over "
                           "seeds"),
    "rank at searched rates": Term("Scores", "1 the best", "by mean score, beside that at default rates; Kendall's "
                                   "tau-b"),
    "bag of words": Term("Scores", "points of 100", "logistic regression on word counts, same rows: what needs no "
                         "language model"),
}  # fmt: skip
"""By name, in the order of a report."""


@dataclass(frozen=True)
class Figure:
    """One figure of a record."""

    path: str
    """Dotted name of its field, such as ``flops.backward``; `ANY` for a key that records choose."""
    label: str
    """Heading of its column."""
    unit: str
    """SI base unit or what is counted; empty for a ratio, a loss and the like."""
    kind: Kind
    methodology: str
    """Name of its term: the heading of METHODOLOGY.md that explains it."""
    group: Group = ""
    """Part of a cost table that shows it; empty: none does."""
    column: str = ""
    """Name in a cost table where it is not the path with underscores; of a time the part before ``_seconds``."""
    keys: tuple[str, ...] = ()
    """What `ANY` stands for in a table's columns; empty for batches of inference, which records choose."""
    claimed: bool = True
    """Whether a claim may be about it; never where the path holds a key that records choose, but for a batch."""

    @property
    def term(self) -> Term:
        """How it is taken."""
        return TERMS[self.methodology]

    @property
    def name(self) -> str:
        """Its column of a cost table."""
        return self.column or self.path.replace(".", "_")

    @property
    def columns(self) -> dict[str, str]:
        """Path in a record by column of a cost table, with every known key in place of `ANY`."""
        keys = self.keys or (ANY,)
        return {self.name.replace(ANY, key): self.path.replace(ANY, key) for key in keys}

    def holds(self, metric: str) -> bool:
        """Whether ``metric`` is its dotted name, with some key in place of `ANY`."""
        parts, asked = self.path.split("."), metric.split(".")
        return len(parts) == len(asked) and all(map(_fits, parts, asked))


def _fits(part: str, asked: str) -> bool:
    if part in _NUMBERED:
        return asked == part or _NUMBERED[part].fullmatch(asked) is not None
    return part in (ANY, asked)


_BY_OWNER = {"": "", "backbone": "in the backbone", "method": "in the method", "head": "in the head",
             f"by_layer.{ANY}": "of a layer", f"backbone_by_layer.{ANY}": "of a layer's backbone"}  # fmt: skip
_BY_PASS = {
    "forward": "forward FLOPs", "backward": "backward FLOPs", "backward_weight_gradient": "weight gradients",
    "backward_input_gradient": "input gradients", "backward_attention": "attention products",
    "backward_recompute": "recomputed forward",
}  # fmt: skip
_SHOWN_FLOPS = {"forward": "", "backward": "", "backward_weight_gradient": "", "backward_input_gradient": "",
                "backbone.backward": "flops_backward_backbone"}  # fmt: skip
"""FLOPs of a cost table, in its order, with the column where it is not the path's."""


def _flops(path: str) -> Figure:
    owner, _, leaf = path.rpartition(".")
    label = ", ".join(filter(None, (_BY_PASS[leaf], _BY_OWNER[owner])))
    if path == "backbone.backward":
        label = "in the backbone"
    shown = path in _SHOWN_FLOPS
    return Figure(f"flops.{path}", label, "FLOPs", "counted", "FLOPs", "counted" if shown else "",
                  _SHOWN_FLOPS.get(path, ""))  # fmt: skip


def _all_flops() -> tuple[Figure, ...]:
    paths = (f"{owner}.{leaf}".lstrip(".") for owner in _BY_OWNER for leaf in _BY_PASS)
    return tuple(map(_flops, dict.fromkeys([*_SHOWN_FLOPS, *paths])))


def _traffic(leaf: str, label: str) -> Figure:
    shown = leaf == "step"
    return Figure(f"traffic_bytes.{leaf}", label, "B", "counted", "memory traffic", "counted" if shown else "",
                  "moved_bytes" if shown else "")  # fmt: skip


def _bytes(leaf: str, label: str, term: str) -> Figure:
    return Figure(f"bytes.{leaf}", label, "B", "counted", term, "memory", f"{leaf}_bytes")


def _scored(path: str, label: str, unit: str, term: str, kind: Kind = "scored") -> Figure:
    return Figure(path, label, unit, kind, term, claimed=path == "score")


FIGURES: tuple[Figure, ...] = (
    Figure("trainable_parameters.method", "trainable params (excl. head)", "parameters", "counted", "trained",
           "counted", "trainable_method"),
    Figure("trainable_parameters.head", "head", "parameters", "counted", "trained", "counted", "trainable_head"),
    Figure("delta_bytes", "stored per task", "B", "counted", "stored per task", "counted"),
    *_all_flops(),
    _traffic("step", "bytes moved"),
    *(_traffic(phase, f"bytes moved: {phase}") for phase in PHASES if phase != "step"),
    *(_traffic(f"{owner}.{phase}", f"bytes moved: {phase}, {_BY_OWNER[owner]}")
      for owner in ("backbone", "method", "head") for phase in ("forward", "backward")),
    Figure("backward_path.operations", "operations of backward", "operations", "counted", "operations"),
    Figure("backward_path.depth", "critical path of backward", "operations", "counted", "critical path"),
    Figure("all_reduce_bytes", "gradients all-reduced", "B", "counted", "communication"),
    _bytes("weights", "weights", "held bytes"),
    _bytes("gradients", "gradients", "held bytes"),
    _bytes("optimizer_state", "optimizer state", "held bytes"),
    _bytes("saved_activations", "saved activations", "saved activations"),
    *(Figure(f"peak_memory_bytes.{phase}", f"peak memory: {phase}", "B", "measured", "peak memory (counted)",
             "memory", f"peak_{phase}_bytes") for phase in PHASES),
    *(Figure(f"predicted_peak_memory_bytes.{phase}", f"predicted peak: {phase}", "B", "counted", "predicted peak")
      for phase in PHASES if phase != "step"),
    Figure("predicted_peak_memory_bytes.step", "predicted peak", "B", "counted", "predicted peak", "memory",
           "predicted_step_bytes"),
    *(Figure(f"inference.{mode}.{leaf}", f"{label}, {mode}", unit, "counted", term, "inference")
      for mode in (BASE, *MODES)
      for leaf, label, unit, term in (("operations", "operations", "operations", "operations"),
                                      ("depth", "critical path", "operations", "critical path"),
                                      ("flops", "FLOPs", "FLOPs", "FLOPs"))),
    *(Figure(f"{phase}.{mode}.{CONTEXT}.{leaf}", f"{label} of {phase}, {mode}", unit, "counted", phase)
      for phase in GENERATION for mode in (BASE, *MODES)
      for leaf, label, unit in (("operations", "operations", "operations"), ("depth", "critical path", "operations"),
                                ("flops", "FLOPs", "FLOPs"))),
    *(Figure(f"kv_cache.{mode}.{CONTEXT}.{leaf}", f"{label}, {mode}", "B", "counted", "KV cache")
      for mode in (BASE, *MODES) for leaf, label in (("bytes", "KV cache"), ("bytes_per_token", "KV cache a token"))),
    *(Figure(f"{phase}_seconds", phase, "s", "timed", "times", "timed", phase) for phase in PHASES),
    Figure("step_energy.median", "energy of a step", "J", "measured", "energy", "energy", "step_joules", claimed=False),
    Figure("step_energy.resolution_seconds", "resolution of the counter", "s", "measured", "energy", "energy",
           "step_joules_resolution_seconds", claimed=False),
    Figure("step_energy.stretch_seconds", "stretch of steps", "s", "measured", "energy", "energy",
           "step_joules_stretch_seconds", claimed=False),
    Figure(f"latency_seconds.{BASE}.{BATCH}", "base model", "s", "timed", "latency"),
    *(Figure(f"latency_seconds.{mode}.{BATCH}", mode, "s", "timed", "latency", "timed", f"{mode}_{BATCH}")
      for mode in MODES),
    *(Figure(f"{phase}_seconds.{mode}.{CONTEXT}.{BATCH}", f"{phase}, {mode}", "s", "timed", phase)
      for phase in GENERATION for mode in (BASE, *MODES)),
    Figure(f"serving_bytes.{TASKS}.deltas", "deltas of all tasks", "B", "counted", "served bytes", claimed=False),
    Figure(f"serving_bytes.{TASKS}.copies", "copies of the backbone", "B", "counted", "served bytes", claimed=False),
    Figure(f"serving_seconds.{BASE}", "a batch of the base model", "s", "timed", "serving", claimed=False),
    *(Figure(f"serving_seconds.{way}.{TASKS}", label, "s", "timed", "serving", claimed=False)
      for way, label in SERVED.items()),
    Figure(f"aa_control.{ANY}", "A/A control", "", "timed", "A/A control"),
    Figure("merged_equals_base", "merged is base", "", "counted", "merged equals base", "merge", "merged_is_base"),
    Figure(f"merge_error.{ANY}", f"merge error, {ANY}", "", "measured", "merge error", "merge", keys=MERGE_TYPES),
    Figure("switch_seconds", "switch", "s", "timed", "switch", "merge", claimed=False),
    _scored("score", "score", "points", "score"),
    _scored(f"metrics.{ANY}", "metric of the task", "", "score"),
    _scored("task.floor", "bag-of-words baseline", "points", "bag of words"),
    _scored(f"losses.{ANY}", "training loss", "", "loss at step 0"),
    *(_scored(f"curve.{ANY}.{leaf}", label, unit, "score on the way")
      for leaf, label, unit in (("step", "step", "steps"), ("score", "score on the way", "points"),
                                ("loss", "training loss", ""))),
    _scored(f"curve.{ANY}.seconds", "training time so far", "s", "cost to reach", "timed"),
    *(_scored(f"curve.{ANY}.{leaf}", f"{leaf.replace('_', ' ')} so far", "", "training FLOPs", "counted")
      for leaf in ("rows", "tokens", "token_squares")),
    _scored(f"gradient_norms.{ANY}.{ANY}", "gradient norm", "", "gradient norm"),
    _scored(f"ranks.{ANY}", "rank that training chose", "", "trained"),
    *(_scored(f"directions.{ANY}.{leaf}", leaf.replace("_", " "), unit, "overlap")
      for leaf, unit in (("leading", "directions"), ("outputs", "dimensions"), ("relative_norm", ""),
                         ("stable_rank", ""), ("leading_share", ""), ("with_weight", ""), ("angle_to_weight", "deg"))),
    *(_scored(f"input_vectors.vectors.{ANY}.{leaf}", label, "", "nearest words")
      for leaf, label in (("start_norm", "norm of a learned vector at the start"), ("norm", "norm of a learned vector"),
                          ("moved", "distance that it moved"),
                          (f"start_nearest.{ANY}.cosine", "cosine to a nearest word at the start"),
                          (f"nearest.{ANY}.cosine", "cosine to a nearest word"))),
    _scored("input_vectors.words", "words of the vocabulary", "words", "nearest words", "counted"),
    _scored("input_vectors.word_norms", "norms of words, quantiles", "", "nearest words", "counted"),
    _scored("input_vectors.word_distance", "distance of two words", "", "nearest words", "counted"),
    _scored("input_vectors.word_nearest", "cosine of a word to the nearest other", "", "nearest words", "counted"),
    _scored("input_vectors.random_nearest", "cosine of a random vector to the nearest word", "", "nearest words",
            "counted"),
    _scored(f"retention.{ANY}.before", "bits per byte of the backbone", "bits per byte", "bits per byte"),
    _scored(f"retention.{ANY}.after", "bits per byte after training", "bits per byte", "bits per byte"),
    _scored(f"curve.{ANY}.retention.{ANY}", "bits per byte on the way", "bits per byte", "bits per byte"),
    _scored("backbone_kept", "backbone kept bit for bit", "", "bits per byte", "counted"),
    *(_scored(f"mixed.{leaf}", leaf.replace("_", " "), unit, "general text", "counted")
      for leaf, unit in (("bytes", "B"), ("general_rows", "rows"), ("domain_rows", "rows"),
                         ("general_targets", "tokens"), ("domain_targets", "tokens"))),
    _scored("best_step", "step that was scored", "steps", "score"),
    _scored("train_seconds", "training time", "s", "times", "timed"),
    _scored("prepare_seconds", "time before the first step", "s", "times", "timed"),
)  # fmt: skip
"""Every figure that a record of a cost, a count or a score holds, in the order of tables."""

NOT_FIGURES: Mapping[str, str] = {
    "schema": "version of the format", "id": "identity", "suite": "identity", "kind": "kind of record",
    "status": "outcome", "reason": "outcome", "traceback": "outcome", "warnings": "outcome", "flags": "doubts",
    "notes": "what must be known of what ran",
    "started": "when", "ended": "when", "environment": "where it was taken", "backbone": "what was adapted",
    "method": "what was measured", "baseline": "what ratios refer to", "shape": "what it was taken on",
    "latency_length": "what it was taken on", "new_tokens": "what it was taken on",
    "serving_rows": "what it was taken on",
    "peak_memory_source": "how peak_memory_bytes was taken", "step_energy": "how step_energy was taken",
    "trained_dtypes": "what was trained, by type",
    "largest_saved": "the largest parts of bytes.saved_activations, by name", "sweep": "what was swept",
    "vary": "what was swept", "value": "what was swept", "task": "what was scored", "task_name": "what was scored",
    "recipe": "how it was trained", "seed": "how it was trained", "tuning": "how it was trained",
    "label_scale": "how it was trained", "retention": "what was read",
    "input_vectors": "names of words",
    "mixed": "what was trained on",
    "predictions_sha256": "file beside the record", "directions_sha256": "file beside the record",
    "kept_sha256": "file beside the record",
}  # fmt: skip
"""Other fields of a record, with what they hold; a figure may lie within."""


def of_group(group: Group) -> tuple[Figure, ...]:
    """The figures that one part of a cost table shows, in its order."""
    return tuple(figure for figure in FIGURES if figure.group == group)


def exact_fields() -> tuple[str, ...]:
    """Fields of a cost record that hold nothing but exact figures: what a reference is made of."""
    kinds: dict[str, set[Kind]] = {}
    for figure in FIGURES:
        kinds.setdefault(figure.path.partition(".")[0], set()).add(figure.kind)
    return tuple(name for name in CostRecord.model_fields if kinds.get(name) == {"counted"})


def figure_of(metric: str) -> Figure | None:
    """The figure of a dotted name such as ``latency_seconds.merged.batch_1``; None where there is none."""
    return next((figure for figure in FIGURES if figure.holds(metric)), None)


def claimed(metric: str) -> Figure | None:
    """The figure of a cost record, of that dotted name, that a claim may be about; None where there is none."""
    figure = figure_of(metric)
    if figure is None or not figure.claimed or ANY in metric or ANY in figure.path.split("."):
        return None
    return figure if figure.path.partition(".")[0] in CostRecord.model_fields else None


def read(record: BaseModel, path: str) -> Any:
    """The figure of a dotted name in ``record``: a number, a yes or no, or a `Timing`; None where it lacks it."""
    value: Any = record
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    return value.all if isinstance(value, MergedEqualsBase) else value


def exported(column: str) -> str:
    """A column of a cost table as it is called outside: with its unit, where the name does not hold it.

    ``trainable_head`` becomes ``trainable_head_parameters``, ``step_p95`` ``step_p95_seconds``.
    """
    return _EXPORTED.get(column) or _leaf_with_unit(column)


OF_A_TIME = ("seconds", "p95", "ratio", "low", "high", "blocks", "samples")
"""What a cost table holds of a time, each in a column of its own."""
_LEAVES = {"p95": "p95_seconds", "low": "ratio_low", "high": "ratio_high"}
_EXPORTED = {"latency_length": "latency_length_tokens"} | {
    column: f"{column}_{figure.unit}"
    for figure in FIGURES
    for column in figure.columns
    if figure.unit in _UNITS_IN_NAMES and not any(unit in column for unit in _UNITS_IN_NAMES)
}


def _leaf_with_unit(column: str) -> str:
    name, _, leaf = column.rpartition("_")
    return f"{name}_{_LEAVES[leaf]}" if leaf in _LEAVES else column


RECORDS: tuple[type[BaseModel], ...] = (CostRecord, CountRecord, ScoreRecord)


def leaves(model: type[BaseModel]) -> Iterator[str]:
    """Dotted names of everything that a record of ``model`` holds, `ANY` for keys and places in a list.

    A time, a control and the comparison of a merged model count as one.
    """
    for name, field in model.model_fields.items():
        yield from _leaves(field.alias or name, field.annotation)


def _leaves(path: str, annotation: Any) -> Iterator[str]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        (one,) = [kind for kind in inner if kind is not type(None)]
        yield from _leaves(path, one)
    elif origin is dict and inner[1] is not Any:
        yield from _leaves(f"{path}.{_NAMED.get(inner[0], ANY)}", inner[1])
    elif origin is tuple and inner[-1] is ...:
        yield from _leaves(f"{path}.{ANY}", inner[0])
    elif annotation is Latency:
        yield f"{path}.{BATCH}"
    elif _is_model(annotation) and annotation not in (Timing, Control, MergedEqualsBase):
        yield from (f"{path}.{leaf}" for leaf in leaves(annotation))
    else:
        yield path


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def unlisted(models: Sequence[type[BaseModel]] = RECORDS) -> list[str]:
    """Leaves of records that neither the catalogue nor `NOT_FIGURES` knows."""
    found = dict.fromkeys(leaf for model in models for leaf in leaves(model))
    return [leaf for leaf in found if figure_of(leaf) is None and leaf.partition(".")[0] not in NOT_FIGURES]

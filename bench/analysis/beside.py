"""Sets figures of others beside ours where method, backbone and all that a figure depends on agree.

Else a figure stands apart, with what differs from the record of ours that is nearest. No verdict is passed on what was
measured: it was taken at another moment, on another machine or on other trained weights.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.analysis.foreign import ALL_TRAINS, Adapted, Foreign, Theirs
from bench.analysis.foreign_formats import read as read_file
from bench.analysis.settings import place
from bench.errors import BenchError, unknown
from bench.schema.figures import BASE, figure_of, read
from bench.schema.record import CostRecord, MethodUsed, ScoreRecord, Shape, Timing

if TYPE_CHECKING:
    from bench.analysis.results import Results

Record = CostRecord | ScoreRecord
SPELLED = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "num_virtual_tokens": "length",
           "prefix_projection": "reparametrise", "init_r": "initial_rank", "target_r": "target_rank"}  # fmt: skip
"""Their name of a field of a method, and ours."""
NOT_OF_THE_METHOD = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "inference_mode", "revision",
    "runtime_config", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
}  # fmt: skip
"""Fields of theirs that say how the library is called or what the backbone is."""
PLACES = {
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern",
    "alpha_pattern", "bias", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters",
}  # fmt: skip
"""Fields of theirs that say what trains and where; of a method of ours, ``targets`` alone says it."""
NOTHING: tuple[Any, ...] = (None, False, "none", "", [], {})
"""Values of these fields that say nothing."""
MAPS = {
    name: place
    for place, names in {"query": "q_proj q_lin q", "key": "k_proj k_lin k", "value": "v_proj v_lin v"}.items()
    for name in names.split()
}
"""Names of theirs for a map that ours names by its place; a name that stands for several maps agrees with none."""
NOT_STATED = "not stated"


class Difference(NamedTuple):
    """One setting in which a record of ours and a measurement of theirs are not alike."""

    key: str
    ours: str
    theirs: str


class Beside(NamedTuple):
    """A figure of theirs that means what one of ours does, on the same method, backbone and setting."""

    method: str
    """Label."""
    place: str
    """Shape or task."""
    figure: str
    """Dotted name, as in our records."""
    unit: str
    ours: float
    theirs: float
    field: str
    """Dotted name, as in their file."""
    verdict: str
    """``equal`` or ``different`` of what both count alike, else ``no verdict``."""
    why: str


class Apart(NamedTuple):
    """A figure of theirs that means what one of ours does, and was taken on something else."""

    field: str
    value: float
    unit: str
    figure: str
    """Dotted name, as in our records."""
    nearest: str
    """Label and place of the record of ours that differs least; empty where no record holds the figure."""
    differs: tuple[Difference, ...]


class Alone(NamedTuple):
    """A figure of theirs that is none of ours."""

    field: str
    value: float
    unit: str
    why: str


@dataclass(frozen=True)
class Reading:
    """One measurement of another program, read beside a run."""

    foreign: Foreign
    beside: tuple[Beside, ...]
    apart: tuple[Apart, ...]
    alone: tuple[Alone, ...]


def named(text: str) -> list[Foreign]:
    """What ``FILE`` measured, or ``METHOD=FILE``, where the file is said to be of a method of ours.

    Raises:
        BenchError: From `bench.analysis.foreign_formats.read`.
    """
    label, equals, file = text.rpartition("=")
    if not equals or Path(text).exists():
        return read_file(Path(text))
    return [foreign.of(label) for foreign in read_file(Path(file))]


def beside(results: "Results", measured: Iterable[Foreign]) -> list[Reading]:
    """Read measurements of others beside a run.

    Raises:
        BenchError: A measurement is said to be of a method that the run lacks, or the run holds no record that is ok.
    """
    measured = list(measured)
    both: list[Record] = [*results.cost_records, *results.score_records]
    held = [record for record in both if record.status == "ok"]
    if measured and not held:
        raise BenchError(f"{results.folder}: holds no record that is ok; finish the run first: {results.run.command}")
    found = []
    for foreign in measured:
        if foreign.method.ours and foreign.method.kind not in results.labels:
            raise unknown("method", str(foreign.method.kind), results.labels, f"--with of {foreign.file}")
        rows = [row for theirs in foreign.figures for row in _read(held, foreign, theirs)]
        kinds = [tuple(row for row in rows if isinstance(row, kind)) for kind in (Beside, Apart, Alone)]
        found.append(Reading(foreign, *kinds))  # type: ignore[arg-type]
    return found


def _read(held: Sequence[Record], foreign: Foreign, theirs: Theirs) -> Iterator[Beside | Apart | Alone]:
    if not theirs.ours:
        yield Alone(theirs.field, theirs.value, theirs.unit, theirs.why)
        return
    apart: list[Apart] = []
    for figure in theirs.ours:
        row = _nearest(held, foreign, theirs, figure)
        if isinstance(row, Beside):
            yield row
        else:
            apart.append(row)
    if len(apart) == len(theirs.ours):
        yield min(apart, key=lambda row: (not row.nearest, len(row.differs)))


def _nearest(held: Sequence[Record], foreign: Foreign, theirs: Theirs, figure: str) -> Beside | Apart:
    """Of the record that holds the figure and differs least; the method weighs most, then the backbone."""
    known = [record for record in held if _value(record, figure) is not None] or [
        record for record in held if isinstance(record, ScoreRecord if "metrics" in figure else CostRecord)
    ]
    if not known:
        return Apart(theirs.field, theirs.value, theirs.unit, figure, "", ())
    differing = [(_differences(record, foreign, theirs), record) for record in known]
    differs, record = min(differing, key=lambda pair: _distance(pair[0]))
    value = _value(record, figure)
    if differs or value is None:
        missing = () if differs else (Difference("measured", "no", "yes"),)
        return Apart(theirs.field, theirs.value, theirs.unit, figure, f"{record.method.label}, {_place(record)}",
                     (*differs, *missing))  # fmt: skip
    if isinstance(record, ScoreRecord):
        alike = [r for pair, r in differing if not pair and r.method.label == record.method.label]
        values = [v for r in alike if (v := _value(r, figure)) is not None]
        value, why = statistics.fmean(values), f"{theirs.why}; ours: mean of {len(values)} seeds"
    else:
        why = theirs.why
    counted = (entry := figure_of(figure)) is not None and entry.kind == "counted"
    verdict = "no verdict" if not (counted and theirs.alike) else "equal" if value == theirs.value else "different"
    return Beside(
        record.method.label, _place(record), figure, theirs.unit, value, theirs.value, theirs.field, verdict, why
    )


def _distance(differs: Sequence[Difference]) -> tuple[bool, bool, int]:
    keys = {each.key for each in differs}
    return "method" in keys, "backbone" in keys, len(differs)


def _value(record: Record, figure: str) -> float | None:
    head, _, leaf = figure.partition(".")
    if head == "metrics":
        found: Any = record.metrics.get(leaf) if isinstance(record, ScoreRecord) else None
    elif head == "latency_seconds" and isinstance(record, CostRecord):
        mode, _, batch = leaf.partition(".")
        latency = getattr(record.latency_seconds, mode, None)
        found = (latency.by_batch if latency is not None else {}).get(int(batch[6:]) if batch[6:].isdigit() else -1)
    elif figure == "peak_memory_bytes.step" and getattr(record, "peak_memory_source", None) != "cuda_allocated":
        found = None  # what a tracker sums is not what the GPU's allocator gave
    else:
        found = read(record, figure) if isinstance(record, CostRecord) else None
    found = found.median if isinstance(found, Timing) else found
    return float(found) if isinstance(found, int | float) and not math.isnan(found) else None


def _place(record: Record) -> str:
    return record.task_name if isinstance(record, ScoreRecord) else place(record.shape)


def _differences(record: Record, foreign: Foreign, theirs: Theirs) -> list[Difference]:
    """The method first, then the backbone, then what this figure depends on."""
    of_base = any(f".{BASE}." in figure for figure in theirs.ours)
    found = [] if of_base else list(_method(record.method, foreign.method))
    name = record.backbone.name if record.backbone is not None else None
    if foreign.backbone is None or name is None or _short(name) != _short(foreign.backbone):
        found.append(Difference("backbone", _text(name), _text(foreign.backbone)))
    ours = _of_cost(record.shape, record) if isinstance(record, CostRecord) else _of_score(record)
    for key in theirs.depends:
        mine, yours = ours.get(key), foreign.setting.get(key)
        if mine is None or yours is None or mine != yours:
            found.append(Difference(key, _text(mine), _text(yours)))
    return found


def _short(backbone: str) -> str:
    """Hub id, folder or named shape: the last part, whatever its case."""
    return backbone.rstrip("/").rpartition("/")[2].casefold()


def _text(value: Any) -> str:
    return NOT_STATED if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _of_cost(shape: Shape, record: CostRecord) -> Mapping[str, Any]:
    batches = record.latency_seconds.base.by_batch if record.latency_seconds is not None else {}
    widened = shape.dtype != "bfloat16" or shape.adapter_dtype == "float32"
    return shape.model_dump() | {
        "adapter_dtype": "float32" if widened else shape.dtype, "program": "pytorch", "accumulation": 1, "devices": 1,
        "latency_length": record.latency_length, "latency_batch": _Among(batches),
    }  # fmt: skip


class _Among(tuple[int, ...]):
    """Batches that inference ran with: as good as equal to each."""

    def __ne__(self, other: object) -> bool:
        return other not in self

    __hash__ = tuple.__hash__

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or NOT_STATED


def _of_score(record: ScoreRecord) -> Mapping[str, Any]:
    rows = record.task.test_rows if record.task is not None else None
    return {"task": record.task_name, "rows": rows, "fewshot": 0}


def _method(ours: MethodUsed, theirs: Adapted) -> Iterator[Difference]:
    if theirs.ours:
        if ours.label != theirs.kind:
            yield Difference("method", ours.label, str(theirs.kind))
        return
    of_library = ours.config.get("peft_type")
    kind = theirs.kind if of_library is not None else _variant(theirs)
    if kind is None or _word(of_library or ours.name) != _word(kind):
        yield Difference("method", ours.label, _text(kind))
        return
    for key, value in theirs.config.items():
        mine = key if of_library is not None else SPELLED.get(key, key)
        if key in NOT_OF_THE_METHOD:
            continue
        if of_library is None and key in PLACES and value not in NOTHING:
            yield from _places(ours, key, value)
        elif mine in ours.config and _plain(ours.config[mine]) != _plain(value):
            yield Difference(mine, _text(ours.config[mine]), _text(value))


def _places(ours: MethodUsed, key: str, value: Any) -> Iterator[Difference]:
    """Where theirs trains, beside a method of ours: its ``targets``, and nothing that those do not name."""
    if key != "target_modules":
        yield Difference(key, "none", _text(value))
    elif (targets := ours.config.get("targets")) is not None:
        named = [MAPS.get(str(name), str(name)) for name in (value if isinstance(value, list) else [value])]
        if _plain(targets) != _plain(named):
            yield Difference("targets", _text(targets), _text(value))


def _variant(theirs: Adapted) -> str | None:
    """Their name of a method; of a switch such as ``use_dora`` or a start such as ``pissa`` what it makes of it."""
    switches = [key.removeprefix("use_") for key, value in theirs.config.items() if key[:4] == "use_" and value is True]
    starts = [v.partition("_")[0] for k, v in theirs.config.items() if k.startswith("init_") and isinstance(v, str)]
    starts += [by] if isinstance(by := theirs.config.get("optimizer_type"), str) else []
    chosen = [word for word in (*switches, *starts) if word]
    return "+".join(chosen) if chosen else theirs.kind


def _word(name: str) -> str:
    """A method's name without case and signs; that everything trains goes by the name of the suite's usual baseline."""
    return "full" if name == ALL_TRAINS else "".join(c for c in name.casefold().replace("+", "plus") if c.isalnum())


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | set):
        return sorted(map(str, value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

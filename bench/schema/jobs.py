"""What a plan is made of: cells, probes and sweeps on one backbone and one source of data, each with its identity."""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from bench.schema.claims import EXTRA_SECONDS, TimedBound
from bench.schema.forms import Weights
from bench.schema.record import SourceKind, TaskUsed, Tuning
from bench.schema.resolved import ResolvedSuite
from bench.schema.shape import Decided, Generation, Serving, StepShape, objective_words
from bench.schema.task import TaskSpec

_ROOT = Path(__file__).parents[1]


def sha256_of(value: Any) -> str:
    """Hash of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def source_hash(names: Iterable[str]) -> str:
    """Hash of files and folders of this package, with their names."""
    digest = hashlib.sha256()
    for name in names:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def method_sources(module: str) -> str:
    """Hash of the file that implements a method and of those of its own package that it imports."""
    package = module.partition(".")[0]
    digest, waiting, seen = hashlib.sha256(), [module], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            continue  # a name imported from a module, not a module
        content = Path(found.origin).read_bytes()
        digest.update(name.encode() + b"\0" + content)
        inside = found.name if found.submodule_search_locations is not None else found.name.rpartition(".")[0]
        for names in _imports(content, inside):
            waiting += sorted(n for n in names if n.partition(".")[0] == package and n not in seen)
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)  # methods of one family read the same files
def _imports(content: bytes, package: str) -> tuple[tuple[str, ...], ...]:
    """The modules that each import statement of a source file in ``package`` names, also by dots."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom):
            found.append((_imported(node, package),))
        elif isinstance(node, ast.Import):
            found.append(tuple(alias.name for alias in node.names))
    return tuple(found)


def _imported(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def is_path(name: str) -> bool:
    """Whether ``name`` of a backbone is a path on this machine, a ``config.json`` or a folder; no id is spelled so."""
    spelled = name.replace(os.sep, "/")
    return spelled.endswith((".json", "/")) or spelled in (".", "..") or spelled.startswith(("./", "../", "/", "~"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Which backbone, as a suite names it; plain data that travels to workers as JSON."""

    name: str
    """A named shape, a hub id, the path of a ``config.json``, or ``./`` with the last part of a folder's path."""
    weights: Literal["pretrained", "random"]
    revision: str | None = None
    sha256: str | None = None
    """Hash over the weight files, one after the other."""
    folder: str | None = None
    """Where the files lie, once resolved."""
    layers: int | None = None
    """Depth in place of the configuration's own; such a backbone has a shape and no weights."""
    width: int | None = None
    """Hidden size in place of the configuration's own, heads and FFN in proportion."""

    @property
    def title(self) -> str:
        """Name with what was changed: ``bert-base, 6 layers``."""
        changes = [f"{self.layers} layers"] if self.layers else []
        changes += [f"{self.width} wide"] if self.width else []
        return ", ".join([self.name, *changes])


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the rows of a task come from."""

    kind: SourceKind
    """``hub``: a pinned revision; ``index``: data of the package index; ``folder``: one given with ``--data``;
    ``files``: those that the task names; ``generated``: a grammar with a task of its own; ``synthetic``: a stand-in."""
    path: str | None
    """Absolute path of the folder, None otherwise."""
    reason: str
    """One line for the screen: what the data is and why; one for all tasks that share it."""
    place: str = ""
    """Where the rows of one task are, in a phrase, as ``plan`` prints it."""


SMALL_BATCH_ROUNDS = 4
"""Rounds at batch 1 for one at batch 32: a run is short there and its share of noise is larger."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Job(_Data):
    id: str
    """sha256 over all that decides the result."""
    suite: str
    backbone: BackboneSpec
    timeout_seconds: float


class PlainText(_Data):
    """A text that a language model is asked about before and after training, of which nothing is trained on."""

    name: str
    """Stands in tables: a text that this project knows, or the name of a file."""
    sha256: str
    """Of its bytes, cut to those that are read."""
    bytes: int
    """Of UTF-8 that are read."""
    path: str | None = None
    """Of a file of the user's."""


class Retained(_Data):
    """Plain texts whose bits per byte a cell takes before and after it trains."""

    context: int
    """Tokens of a window."""
    texts: tuple[PlainText, ...]
    on_the_way: bool = False
    """Whether they are read at the points of the curve too."""
    before: dict[str, float] = {}
    """Bits per byte of the bare backbone by text, where another cell of the run has read them; else it is read."""

    def decides(self) -> dict[str, Any]:
        """What of it decides a result: never where a file lies, nor who has read the backbone."""
        return self.model_dump(mode="json", exclude={"before": True, "texts": {"__all__": {"path"}}})


class MethodSpec(_Data):
    """A method with its checked configuration."""

    label: str
    """As the suite spells it; unique within the plan."""
    name: str
    config: dict[str, Any]
    """All fields, defaults included."""
    source_sha256: str
    """Hash of the source file that implements it."""


class Cell(_Job):
    """Trains and scores once: (backbone, task, method, recipe, seed)."""

    method: MethodSpec
    spec: TaskSpec
    """The task, its classes settled."""
    source: Source
    task: TaskUsed
    """What its record says of the task and of the rows."""
    recipe: dict[str, Any]
    """Every recipe value, resolved for this method and task."""
    seed: int
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Torch threads; never those that a worker happens to have."""
    tuning: Tuning | None = None
    """The search that gave the rates; None: they were not searched for."""
    retention: Retained | None = None
    """What is read before and after training; None: nothing."""
    general: PlainText | None = None
    """The text of which the recipe's ``mix`` takes rows; None: all rows are the task's."""
    trial: bool = False
    """One of a search for rates: scored on the selection rows of its recipe, the test split is never opened."""

    @property
    def devices(self) -> int:
        """That train it together, each in a process of its own."""
        return int(self.recipe.get("devices", 1))

    @property
    def name(self) -> str:
        """For people: method, task and seed, of a trial also its rates."""
        rates = f" · lr {self.recipe['learning_rate']:g}, head {self.recipe['head_learning_rate']:g}"
        return f"{self.method.label} · {self.task.name} · seed {self.seed}{rates if self.trial else ''}"


class _Counting(_Job):
    method_timeout_seconds: float | None = None
    """For each method; a quarter of ``timeout_seconds`` where None."""

    @property
    def seconds_of_a_method(self) -> float:
        """What counting one method may take."""
        return self.method_timeout_seconds or self.timeout_seconds / 4


class Probe(_Counting, StepShape, Decided):
    """Measures the cost of all methods on one shape."""

    methods: tuple[MethodSpec, ...]
    baseline: str
    """Label of the method that ratios refer to."""
    device: str
    """``cpu`` or ``cuda``."""
    compile: bool = False
    timed: bool = True
    """Whether a step is taken and timed, and inference with it; without, all is counted."""
    blocks: int
    rounds: int
    extra_seconds: float = EXTRA_SECONDS
    """For the blocks of one measurement beyond ``blocks``."""
    rebuild: bool = False
    """Whether every block builds anew what it times."""
    threads: int | None = None
    """Torch threads; one for each core where None."""
    energy: bool = True
    """Whether the device's counter of energy is read, where it has one."""
    inference: bool = True
    """Whether methods are deployed, and their inference is counted and timed."""
    latency_batches: tuple[int, ...]
    latency_length: int
    generation: Generation | None = None
    serving: Serving | None = None
    learning_rate: float
    head_learning_rate: float
    outputs: int
    bounds: tuple[TimedBound, ...] = ()
    """What claims ask of its times."""

    @property
    def name(self) -> str:
        """For people: the shape, with all that is not usual of it."""
        usual = {"dtype": "float32", "attention": "sdpa", "optimizer": "adamw_fused"}
        rare = [getattr(self, name) for name, value in usual.items() if getattr(self, name) != value]
        rare += [*self.unusual, *(["compiled"] if self.compile else [])]
        rare += [f"threads {self.threads}"] if self.threads else []
        return ", ".join((f"costs at batch {self.batch} x {self.length}", *rare))

    @property
    def size(self) -> str:
        """Rows, tokens and what is trained on top, in words."""
        on = objective_words(self.objective, self.loss, self.target_tokens)
        return ", ".join([f"{self.batch} x {self.length} tokens", *on])

    def latency_rounds(self, batch: int) -> int:
        """Rounds in a block of inference at ``batch``."""
        return self.rounds * (SMALL_BATCH_ROUNDS if batch == 1 else 1)


class Sweep(_Counting, Decided):
    """Counts a training step of every method at every value of one quantity."""

    title: str
    """Unique within the plan."""
    methods: tuple[MethodSpec, ...]
    vary: str
    """``length``, ``batch``, ``layers``, ``width`` or ``config.<field>``."""
    values: tuple[int, ...]
    """Rising."""
    batch: int | None
    length: int | None
    device: str
    """``cpu`` or ``cuda``: whose forms of each operation are counted."""
    weights: Weights = "native"
    """How the backbone's frozen linear weights are stored."""
    outputs: int = 2

    @property
    def name(self) -> str:
        """For people: what is swept."""
        return f"{self.title}: {self.vary} {self.values[0]} to {self.values[-1]} on {self.backbone.name}"

    def backbone_at(self, value: int) -> BackboneSpec:
        """The backbone in the size that ``value`` asks for."""
        if self.vary == "layers":
            return dataclasses.replace(self.backbone, weights="random", layers=value)
        if self.vary == "width":
            return dataclasses.replace(self.backbone, weights="random", width=value)
        return self.backbone

    def shape_at(self, value: int) -> StepShape:
        """The training step at ``value``."""
        rows = {"batch": self.batch, "length": self.length}
        swept = {self.vary: value} if self.vary in rows else {}
        return StepShape.model_validate(self.step() | rows | swept)

    def config_at(self, method: MethodSpec, value: int) -> dict[str, Any]:
        """Configuration of ``method`` at ``value``; as it is where it does not have the field that is swept."""
        field = self.vary.removeprefix("config.")
        swept = self.vary != field and type(method.config.get(field)) is int
        return method.config | {field: value} if swept else method.config


class Plan(_Data):
    """Everything that a run will do, in order."""

    suite: ResolvedSuite
    probes: tuple[Probe, ...]
    cells: tuple[Cell, ...]
    sweeps: tuple[Sweep, ...] = ()

    @property
    def name(self) -> str:
        """Folder name: suite and the first six hex digits of the plan's hash."""
        jobs = (*self.probes, *self.cells, *self.sweeps)
        return f"{self.suite.name}-{sha256_of([self.suite.plain(), *(job.id for job in jobs)])[:6]}"

    @property
    def sources(self) -> dict[str, Source]:
        """Where the rows of each task come from, in the order of the cells."""
        return {cell.task.name: cell.source for cell in self.cells}

    @property
    def jobs(self) -> tuple["Job", ...]:
        """All jobs in the order in which a run starts them."""
        return (*self.sweeps, *self.probes, *self.cells)

    def job_ids(self) -> set[str]:
        """Identities of all records: of each cell, of each method in a probe, of each method at a sweep's values."""
        return {identity for job in self.jobs for identity in record_ids(job)}


Job = Cell | Probe | Sweep


def record_ids(job: Job) -> tuple[str, ...]:
    """Identities of the records that ``job`` hands back."""
    if isinstance(job, Cell):
        return (job.id,)
    if isinstance(job, Probe):
        return tuple(cost_id(job, method) for method in job.methods)
    return tuple(count_id(job, method, value) for value in job.values for method in job.methods)


def cost_id(probe: Probe, method: MethodSpec) -> str:
    """Identity of the cost record of ``method`` in ``probe``."""
    return sha256_of([probe.id, method.label])


def count_id(sweep: Sweep, method: MethodSpec, value: int) -> str:
    """Identity of the count record of ``method`` at ``value`` in ``sweep``."""
    return sha256_of([sweep.id, method.label, value])

"""The resolved suite: what a plan makes of a suite, ``suite.toml`` of a run folder, and what readers ask of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.schema.claims import EXTRA_SECONDS
from bench.schema.forms import Loss, Objective, Weights
from bench.schema.record import Shape
from bench.schema.shape import StepShape, objective_words
from bench.schema.suite import Figure, MatchTable


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow")


class ResolvedData(_Table):
    """Where the rows of the tasks come from."""

    kind: str = "unknown"
    """``hub``, ``index``, ``folder``, ``files``, ``generated``, ``synthetic``, or ``mixed`` where tasks differ."""
    reason: str = ""
    """Why this source, as a run says it on the screen."""
    path: str = ""
    """Folder of the files, in records from before it was left out."""


class ResolvedMethod(_Table):
    """A method with every value of its configuration, its rates and what a budget made of it."""

    name: str
    config: dict[str, Any] = {}
    match: dict[str, Any] = {}
    """``reached``, or ``not_matched`` with the reason; empty where the suite has no budget."""


class ResolvedCost(_Table):
    """A shape as it was probed, beside the fields of a record's shape."""

    batch: int | None = None
    length: int | None = None
    objective: Objective | None = None
    loss: Loss | None = None
    target_tokens: int | None = None
    latency_length: int | None = None
    methods: list[str] = []
    """Labels that are measured on this shape; all of the suite where empty."""
    timed: bool = True
    rebuild: bool = False
    blocks: int = 0
    """Blocks that the suite asks for; 0 where this table asked for nothing."""
    extra_seconds: float = Field(default=EXTRA_SECONDS, strict=False)

    @property
    def words(self) -> str:
        """Rows and tokens, with the objective where it is not ``classes``."""
        said = objective_words(self.objective, self.loss, self.target_tokens)
        usual = self.objective in (None, "classes")
        return ", ".join([f"{self.batch} x {self.length} tokens", *([] if usual else said)])

    def asks_for(self, shape: Shape) -> bool:
        """Whether this table asked for ``shape``; what it leaves open fits any."""
        fields = {*StepShape.model_fields, "threads"}
        own = shape.model_dump(include=fields) | {"compile": shape.compiled}
        asked = {"target_tokens": None} | self.model_dump(exclude_unset=True)  # TOML has no None
        return all(asked.get(key, own[key]) == own[key] for key in own)


class ResolvedSweep(_Table):
    """One quantity swept over methods, counted."""

    title: str
    vary: str
    values: list[int]
    methods: list[str]
    backbone: str = ""
    batch: int | None = None
    length: int | None = None
    attention: str = ""
    dtype: str = ""
    adapter_dtype: str | None = None
    optimizer: str = ""
    device: str = ""
    weights: Weights = "native"
    checkpointing: bool = False
    clipping: bool = False
    dropout: float = 0.0
    objective: Objective = "classes"
    loss: Loss | None = None
    target_tokens: int | None = None


class ResolvedCrossover(_Table):
    """Two curves of which a reader wants to know where they cross."""

    sweep: str
    than_sweep: str = ""
    """The sweep of the second curve; the first one's where empty."""
    method: str
    than: str
    figure: Figure


class ResolvedSuite(_Table):
    """A suite with all names, data and configurations resolved once; written to ``suite.toml`` of the run folder."""

    name: str
    question: str = ""
    baseline: str
    """Label of the method that the others are compared with."""
    backbone: dict[str, Any]
    """As a record describes it: ``name revision sha256 parameters weights notes``."""
    methods: list[str]
    """Labels in the suite's order."""
    method: dict[str, ResolvedMethod] = {}
    match: MatchTable | None = None
    tasks: list[str] = []
    seeds: list[int] = []
    scored: list[str] = []
    """Labels of the methods that tasks are scored with; all of them where empty."""
    task: dict[str, dict[str, Any]] = {}
    """What of each task decides a result beside its rows; empty in runs from before."""
    data: ResolvedData | None = None
    """None: no task is scored."""
    recipe: dict[str, Any] = {}
    cost: list[ResolvedCost] = []
    sweep: list[ResolvedSweep] = []
    crossover: list[ResolvedCrossover] = []
    claims: list[dict[str, Any]] = Field(default=[], strict=False)
    """Claims as tables; ``bench.verdicts.claims`` checks them."""
    tuning: dict[str, Any] | None = None
    """The grid of a search for learning rates; None: this is no search."""

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        """Read ``data = "hub"`` of early runs as a table."""
        if isinstance(values, Mapping) and isinstance(values.get("data"), str):
            return {**values, "data": {"kind": values["data"]} if values["data"] else None}
        return values

    @model_validator(mode="after")
    def _of_known_sweeps(self) -> "ResolvedSuite":
        titles = {sweep.title for sweep in self.sweep}
        named = {name for pair in self.crossover for name in (pair.sweep, pair.than_sweep)}
        if unknown := named - titles - {""}:
            raise ValueError(f"crossover names the sweep {min(unknown)!r}, which is not there")
        return self

    def asked_of(self, shape: Shape) -> ResolvedCost:
        """The ``[[cost]]`` table that asked for ``shape``; an empty one where none did."""
        return next((table for table in self.cost if table.asks_for(shape)), ResolvedCost())

    def changed(self, **values: Any) -> "ResolvedSuite":
        """A checked copy with these keys in place of its own."""
        return ResolvedSuite.model_validate(self.plain() | values)

    def plain(self) -> dict[str, Any]:
        """The values as TOML holds them: what was given, without keys that have no value."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude_unset=True, exclude_none=True))
        return values


def match_lines(suite: ResolvedSuite) -> Iterator[str]:
    """What became of each method of a resolved suite under its budget; nothing where it has none.

    ``lora(rank=8) · 73,728 of 75,000 trainable parameters, 98.3 %``, or ``full · not matched: ...``.
    """
    match = suite.match
    if match is None:
        return
    for label in suite.methods:
        found = suite.method[label].match
        if "not_matched" in found:
            yield f"{label} · not matched: {found['not_matched']}"
        else:
            reached: int = found["reached"]
            yield f"{label} · {reached:,} of {match}, {100 * reached / match.budget:.1f} %"

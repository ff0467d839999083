"""A task as a table of a suite or of a shipped file has it: where its rows are, what they hold, how it is scored."""

import re
import string
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.schema.ranges import METRICS, MOST_ROWS

Kind = Literal["classes", "score", "text"]
"""What is predicted: one of some classes, a number, or a text."""
KIND_METRICS: dict[str, tuple[str, ...]] = {
    "classes": ("accuracy", "macro_f1", "f1", "matthews_correlation"),
    "score": ("pearson", "spearman", "rmse", "r2"),
    "text": ("exact_match", "answer_nats"),
}
"""The metrics that each kind has, beside those of the user's own."""
DEFAULT_METRICS: dict[str, tuple[str, ...]] = KIND_METRICS | {"classes": ("accuracy", "macro_f1")}
"""Those that are taken where a table names none; the first is the main one."""
UNBOUNDED = ("rmse", "r2", "answer_nats")
"""Metrics that cannot be the main one: tables hold scores from -1 to 1 of which the higher is the better."""
ENDINGS = ("csv", "tsv", "jsonl", "json", "parquet")
"""Endings of the files that rows are read from."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FolderLayout(_Table):
    """Where a folder that is given with ``--data`` has the rows of a task, and how its TSV files spell them."""

    name: str
    """Folder of the official download, e.g. ``SST-2``; the task's own name serves as well."""
    test: str = "dev"
    """Stem of the file to score on."""
    text: tuple[str, ...]
    """Columns of the texts in TSV files."""
    label: str = "label"
    """Column of the label in TSV files."""
    header: tuple[str, ...] = ()
    """Column names where the files carry no header line."""
    skip_broken: bool = False
    """The official file has a few lines cut short, which are left out and counted."""


class TaskSpec(_Table):
    """One task: its rows are files of one's own, a dataset of the hub, one of the package index, or generated."""

    name: str
    """Stands in tables, in ``tasks`` and in ``--tasks``."""
    kind: Kind
    """``classes``, ``score`` (a number; any range) or ``text`` (written by a language model)."""
    version: int = Field(default=1, ge=1)
    """Raised when rows, labels or metrics change, so that old records stop being comparable."""
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    """Columns of the one or two texts."""
    label: str = "label"
    """Column of the class, the score or the text that is to be written."""
    labels: tuple[str, ...] = ()
    """Class names in the order of their ids; those of the training rows, sorted, where left out."""
    label_ids: bool = False
    """Rows may hold the place of a class in ``labels`` in place of its name, as hubs store them."""
    range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Least and largest score; a row beyond them is refused."""
    decimals: int | None = Field(default=None, ge=0, le=12)
    """Decimals of a score as it was published; some sources store it in a type that blurs the last."""
    train: str | None = None
    """File of the rows to train on: csv, tsv, jsonl, json or parquet; relative to the suite's file."""
    test: str | None = None
    """File of the rows to score on."""
    test_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of ``train`` to score on in place of a ``test`` file, drawn by the hash of the texts."""
    incomplete: Literal["refuse", "drop", "keep"] = "refuse"
    """Rows with an empty text or without a label: ``refuse`` the file, ``drop`` and count them, or ``keep`` and count
    empty texts."""
    hub: str | None = None
    """Dataset on the hub, ``owner/name``."""
    config: str | None = None
    """Configuration of the hub's dataset."""
    revision: str | None = None
    """Commit of the hub's dataset."""
    train_split: str = "train"
    """Split of the hub's dataset to train on."""
    test_split: str = "test"
    """Split of the hub's dataset to score on."""
    index: str | None = None
    """Data of the package index that this project knows."""
    grammar: str | None = None
    """A grammar of this project that writes the rows: ``dates``, ``orders`` or ``units``, of one text each."""
    folder: FolderLayout | None = None
    """How a folder given with ``--data`` holds the task; without it the folder's files have the columns above."""
    prompt: str | None = None
    """What a language model continues, with ``{column}`` for each text; of tasks of kind ``text`` alone."""
    metrics: tuple[str, ...] = ()
    """Metrics by name, as ``package.module.function(predictions, references)`` or as ``evaluate:module``."""
    main_metric: str = ""
    """The metric that stands in tables, from -1 to 1, higher is better; the first of ``metrics`` where left out."""
    selection: int | None = Field(default=None, ge=1, le=MOST_ROWS)
    """Rows cut from train that choose between states or rates; ``selection_rows`` of a recipe goes before it."""
    class_weights: Literal["balanced"] | None = None
    """``balanced``: the loss of a row is weighted with rows / (classes * rows of its class)."""
    origin: str = ""
    """What the rows are and who made them, for people; tables and reports name it."""
    citation: str = ""
    """Who is to be cited for the rows."""
    notes: tuple[str, ...] = ()
    """What a reader of scores must know."""

    @property
    def regression(self) -> bool:
        """Whether a number is predicted."""
        return self.kind == "score"

    @property
    def outputs(self) -> int:
        """Width of the head: one for each class, or one score."""
        return len(self.labels) or 1

    @property
    def own(self) -> bool:
        """Whether its rows are files of the user's."""
        return self.train is not None

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """One text may be given without brackets; metrics that are left out are those of the kind."""
        if not isinstance(values, dict):
            return values
        filled: dict[str, Any] = _tuples(values)
        if isinstance(filled.get("text"), str):
            filled["text"] = (filled["text"],)
        text = filled.get("text")
        if isinstance(text, tuple) and len(text) not in (1, 2):
            more = "; join the others to one column" if text else ""
            raise ValueError(f"text names {len(text)} columns: a row has one or two texts{more}")
        usual = DEFAULT_METRICS.get(str(filled.get("kind")), ())
        main = filled.get("main_metric")
        if filled.get("metrics") in (None, ()):
            filled["metrics"] = usual if main in (None, "", *usual) else (main, *usual)
        if main in (None, "") and isinstance(filled["metrics"], tuple) and filled["metrics"]:
            filled["main_metric"] = filled["metrics"][0]
        return filled

    @model_validator(mode="after")
    def _sound(self) -> "TaskSpec":
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?", self.name):
            raise ValueError(f"name = {self.name!r} must be letters, digits, '.', '_' and '-', a letter or digit first")
        self._check_rows()
        self._check_labels()
        self._check_metrics()
        self._check_prompt()
        return self

    def _check_rows(self) -> None:
        places = {"train": self.train, "hub": self.hub, "index": self.index, "grammar": self.grammar}
        given = [name for name, value in places.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of train, hub, index and grammar, not {' and '.join(given) or 'none'}")
        if self.own and (self.test is None) == (self.test_share is None):
            raise ValueError("train needs exactly one of test and test_share: rows to score on")
        if not self.own and (self.test is not None or self.test_share is not None):
            raise ValueError(f"test and test_share belong to train; {given[0]} has a test split of its own")
        if self.hub is not None and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("hub needs revision, the commit of the dataset (40 hex digits): rows may change")
        if self.hub is None and (self.config is not None or self.revision is not None):
            raise ValueError("config and revision belong to hub")
        if self.grammar is not None and (self.kind != "text" or len(self.text) != 1):
            raise ValueError("grammar writes rows of one text for kind = 'text'")
        columns = (*self.text, self.label)
        if len(set(columns)) < len(columns):
            raise ValueError(f"column {next(c for c in columns if columns.count(c) > 1)!r} is given two parts to play")

    def _check_labels(self) -> None:
        if self.kind != "classes":
            extra = [name for name in ("labels", "label_ids", "class_weights") if getattr(self, name)]
            if extra:
                raise ValueError(f"{extra[0]} belongs to kind = 'classes', not to {self.kind!r}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels lists a class twice")
        if self.kind == "classes" and len(self.labels) == 1:
            raise ValueError("labels has one class; a classifier needs two at least")
        if self.range is not None and (self.kind != "score" or self.range[0] >= self.range[1]):
            raise ValueError("range takes the least and the largest score of kind = 'score'")

    def _check_metrics(self) -> None:
        known = KIND_METRICS[self.kind]
        for name in self.metrics:
            if name not in known and (self.kind == "text" or not is_own_metric(name)):
                other = next((kind for kind, names in KIND_METRICS.items() if name in names), None)
                why = f"belongs to kind {other!r}" if other else "is not known"
                own = "; one of your own is spelled package.module.function or evaluate:module"
                raise ValueError(
                    f"metric {name!r} {why}; kind {self.kind!r} has {', '.join(known)}{own * (self.kind != 'text')}"
                )
        if self.main_metric not in self.metrics:
            raise ValueError(f"main_metric = {self.main_metric!r} is not among metrics: {', '.join(self.metrics)}")
        if self.main_metric in UNBOUNDED:
            raise ValueError(
                f"main_metric = {self.main_metric!r} has no range from -1 to 1 in which higher is better; use "
                f"{next(name for name in known if name not in UNBOUNDED)}, and keep it among metrics"
            )
        if "f1" in self.metrics and self.labels:
            self.check_f1()

    def check_f1(self) -> None:
        """F1 of one class needs two classes.

        Raises:
            ValueError: There are more.
        """
        if "f1" in self.metrics and len(self.labels) > 2:
            raise ValueError(f"metric 'f1' is that of the second of two classes, there are {len(self.labels)}; use "
                             "macro_f1")  # fmt: skip

    def _check_prompt(self) -> None:
        if self.prompt is None:
            return
        if self.kind != "text":
            raise ValueError(f"prompt belongs to kind = 'text', not to {self.kind!r}")
        try:
            parts = [part for part in string.Formatter().parse(self.prompt) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"prompt is not a template ({error}); write {{column}} for a text, {{{{ for {{") from error
        fields = [field for _, field, _, _ in parts]
        if formatted := [field for _, field, form, conversion in parts if form or conversion]:
            raise ValueError(
                f"prompt gives {{{formatted[0]}}} a format; a text stands as it is, so write its column alone"
            )
        if unknown := [field for field in fields if field not in self.text]:
            raise ValueError(f"prompt names {{{unknown[0]}}}, which is not among text: {', '.join(self.text)}")
        if missing := [column for column in self.text if column not in fields]:
            raise ValueError(f"prompt leaves out {{{missing[0]}}}, a column of text")

    def decides(self) -> dict[str, Any]:
        """What of the table decides a result beside the rows themselves, which have a hash of their own."""
        return self.model_dump(
            mode="json", include={"kind", "labels", "metrics", "main_metric", "prompt", "class_weights", "version"}
        )


def _tuples(value: Any) -> Any:
    """Lists as tuples at any depth: what a validator hands on counts as Python, whose strict tuples are no lists."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def is_own_metric(name: str) -> bool:
    """Whether ``name`` is spelled as a metric of the user's: a dotted name, or a module of ``evaluate``."""
    return name not in METRICS and ("." in name or name.startswith("evaluate:"))

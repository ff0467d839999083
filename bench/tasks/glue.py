"""The nine GLUE tasks as plain data: columns, labels, splits, metrics, file layout."""

from dataclasses import dataclass

from bench.errors import unknown

HUB_ID = "nyu-mll/glue"
"""Dataset on the hub."""
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
"""Pinned commit of ``HUB_ID``: the parquet conversion."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One task of GLUE (Wang et al., 2019, arXiv:1804.07461): what its files look like and how it is scored."""

    name: str
    """Name of the hub configuration, e.g. ``sst2``."""
    version: int = 1
    """Raised when rows, labels or metrics change, so that old records stop being comparable."""
    folder: str
    """Folder of the official download, e.g. ``SST-2``."""
    text: tuple[str, ...]
    """Hub column names of the one or two texts."""
    labels: tuple[str, ...]
    """Class names in label-id order; empty for a regression."""
    regression: bool = False
    """Labels are scores from 0 to 5 instead of classes."""
    train_split: str = "train"
    """Hub split to train on."""
    test_split: str = "validation"
    """Hub split to score on: the labels of GLUE's own test set are not public."""
    metrics: tuple[str, ...] = ("accuracy",)
    """All metrics of the task."""
    main_metric: str = "accuracy"
    """The metric that stands in tables (Hu et al., 2022, arXiv:2106.09685, table 2)."""
    notes: tuple[str, ...] = ()
    """What a reader of scores must know."""
    tsv_test: str = "dev"
    """Stem of the official TSV file to score on."""
    tsv_text: tuple[str, ...]
    """Columns of the texts in the official TSV files."""
    tsv_label: str = "label"
    """Column of the label in the official TSV files."""
    tsv_header: tuple[str, ...] = ()
    """Column names where the official files carry no header line."""
    tsv_skip_broken: bool = False
    """The official file has a few lines cut short; the hub's version leaves them out, and so do we, and count them."""


_ENTAILMENT = ("entailment", "not_entailment")

_SPECS = (
    TaskSpec(
        name="cola", folder="CoLA", text=("sentence",), labels=("unacceptable", "acceptable"),
        metrics=("matthews_correlation", "accuracy"), main_metric="matthews_correlation",
        tsv_text=("sentence",), tsv_header=("source", "label", "star", "sentence"),
    ),
    TaskSpec(
        name="sst2", folder="SST-2", text=("sentence",), labels=("negative", "positive"), tsv_text=("sentence",),
    ),
    TaskSpec(
        name="mrpc", folder="MRPC", text=("sentence1", "sentence2"), labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"), tsv_text=("#1 String", "#2 String"), tsv_label="Quality",
    ),
    TaskSpec(
        name="stsb", folder="STS-B", text=("sentence1", "sentence2"), labels=(), regression=True,
        metrics=("pearson", "spearman"), main_metric="pearson", tsv_text=("sentence1", "sentence2"), tsv_label="score",
    ),
    TaskSpec(
        name="qqp", folder="QQP", text=("question1", "question2"), labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"), tsv_text=("question1", "question2"), tsv_label="is_duplicate", tsv_skip_broken=True,
    ),
    TaskSpec(
        name="mnli", folder="MNLI", text=("premise", "hypothesis"), labels=("entailment", "neutral", "contradiction"),
        test_split="validation_matched", tsv_test="dev_matched",
        tsv_text=("sentence1", "sentence2"), tsv_label="gold_label",
    ),
    TaskSpec(
        name="qnli", folder="QNLI", text=("question", "sentence"), labels=_ENTAILMENT,
        tsv_text=("question", "sentence"),
    ),
    TaskSpec(
        name="rte", folder="RTE", text=("sentence1", "sentence2"), labels=_ENTAILMENT,
        tsv_text=("sentence1", "sentence2"),
    ),
    TaskSpec(
        name="wnli", folder="WNLI", text=("sentence1", "sentence2"), labels=("not_entailment", "entailment"),
        notes=("adversarial development set: most systems stay at or below the majority class",),
        tsv_text=("sentence1", "sentence2"),
    ),
)  # fmt: skip

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _SPECS}
"""All nine tasks by name, in the order of the GLUE paper."""


def task(name: str, where: str = "") -> TaskSpec:
    """Look up the specification of task ``name``.

    Raises:
        BenchError: The task is unknown; ``where`` locates the mistake.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS, where)
    return TASKS[name]

"""Metrics of the tasks as ``evaluate.Metric`` classes, and the bag-of-words baseline: what word counts alone score."""

import functools
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import unknown

if TYPE_CHECKING:
    import evaluate

    from bench.tasks.glue import TaskSpec
    from bench.tasks.rows import TaskData

UNDEFINED = 0.0
"""Value of a metric that its formula leaves open: constant predictions or references, a class that never occurs."""


def _accuracy(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def _f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, labels=[1], average="macro", zero_division=UNDEFINED))


def _matthews(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import matthews_corrcoef

    if len(set(predictions)) == 1 or len(set(references)) == 1:
        return UNDEFINED
    return float(matthews_corrcoef(references, predictions))


def _correlation(name: str, predictions: Sequence[float], references: Sequence[float]) -> float:
    from scipy import stats

    if len(set(predictions)) == 1 or len(set(references)) == 1:
        return UNDEFINED
    with warnings.catch_warnings():  # nearly constant input: scipy warns, the value below is defined
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        measure = stats.pearsonr if name == "pearson" else stats.spearmanr
        value = float(measure(predictions, references).statistic)
    return value if math.isfinite(value) else UNDEFINED


_FUNCTIONS: dict[str, tuple[Callable[..., float], str, str]] = {
    "accuracy": (_accuracy, "int64", "share of equal labels"),
    "f1": (_f1, "int64", "F1 of class 1"),
    "matthews_correlation": (_matthews, "int64", "Matthews correlation, -1 to 1"),
    "pearson": (functools.partial(_correlation, "pearson"), "float64", "Pearson correlation, -1 to 1"),
    "spearman": (functools.partial(_correlation, "spearman"), "float64", "Spearman rank correlation, -1 to 1"),
}

METRICS = tuple(_FUNCTIONS)
"""Names of all metrics."""


@functools.cache
def metric_class(name: str) -> "type[evaluate.Metric]":
    """The ``evaluate.Metric`` subclass of metric ``name``; the first call imports ``evaluate`` (seconds).

    Raises:
        BenchError: The metric is unknown.
    """
    if name not in _FUNCTIONS:
        raise unknown("metric", name, METRICS)
    import datasets
    import evaluate

    function, dtype, description = _FUNCTIONS[name]

    class TaskMetric(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> evaluate.MetricInfo:
            column = datasets.Value(dtype)
            return evaluate.MetricInfo(
                description=description,
                citation="",
                inputs_description="predictions and references of equal length",
                features=datasets.Features({"predictions": column, "references": column}),
            )

        def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
            return {name: function(list(predictions), list(references))}

    TaskMetric.__name__ = TaskMetric.__qualname__ = name.title().replace("_", "")
    return TaskMetric


def compute(
    spec: "TaskSpec", predictions: Sequence[int] | Sequence[float], references: Sequence[int] | Sequence[float]
) -> dict[str, float]:
    """Score predictions with every metric of the task.

    Constant input and classes that never occur give ``UNDEFINED`` where the formula has no value.

    Args:
        spec: The task.
        predictions: Class ids, or scores of a regression; one per row.
        references: Labels in the same form.

    Raises:
        ValueError: No rows, different lengths, or a value that is not finite.
    """
    if not len(predictions) or len(predictions) != len(references):
        raise ValueError(f"{spec.name}: {len(predictions)} predictions for {len(references)} references")
    for what, values in (("prediction", predictions), ("reference", references)):
        broken = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if broken is not None:
            raise ValueError(f"{spec.name}: {what} {broken} is {values[broken]}, not a finite number")
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:  # evaluate makes a folder even when it keeps everything in memory
        for name in spec.metrics:
            metric = metric_class(name)(keep_in_memory=True, cache_dir=cache)
            scores.update(metric.compute(predictions=predictions, references=references))
    return scores


_KNOWN: dict[tuple[str, str], float] = {}
"""Floors by task and hash of its rows: the rows themselves are not kept."""
_TOKEN = re.compile(r"\w+|[^\w\s]")


def _tokens(text: str) -> list[str]:
    return ["", *_TOKEN.findall(text.lower())]  # the empty word keeps the vocabulary from being empty


def bag_of_words_floor(data: "TaskData") -> float:
    """Main metric of a linear classifier on word counts, trained on the same rows as the methods.

    Logistic regression (``C = 1``), ridge regression for scores; each text of a pair has a vocabulary of its own.
    Training rows of one class alone give that class for every row. The same rows are fitted once in a process.
    """
    key = (data.spec.name, data.content_sha256)
    if key not in _KNOWN:
        _KNOWN[key] = _fitted(data)
    return _KNOWN[key]


def _fitted(data: "TaskData") -> float:
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge

    train, test = [], []
    for column in range(len(data.spec.text)):
        counts = CountVectorizer(analyzer=_tokens)
        train.append(counts.fit_transform([texts[column] for texts in data.train.texts]))
        test.append(counts.transform([texts[column] for texts in data.test.texts]))
    labels = data.train.labels
    if len(set(labels)) == 1:
        predictions = [labels[0]] * len(data.test)
    else:
        model = Ridge() if data.spec.regression else LogisticRegression(max_iter=5000)
        predictions = model.fit(hstack(train).tocsr(), labels).predict(hstack(test).tocsr()).tolist()
    return compute(data.spec, predictions, data.test.labels)[data.spec.main_metric]

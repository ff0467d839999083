"""Metrics of the tasks as ``evaluate.Metric`` classes, and the bag-of-words baseline: what word counts alone score."""

import functools
import hashlib
import importlib
import inspect
import math
import numbers
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, said, unknown
from bench.schema.task import is_own_metric

if TYPE_CHECKING:
    import evaluate

    from bench.schema.task import TaskSpec
    from bench.tasks.rows import TaskData

UNDEFINED = 0.0
"""Value of a metric that its formula leaves open: constant predictions or references, a class that never occurs."""


def _accuracy(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def _f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, labels=[1], average="macro", zero_division=UNDEFINED))


def _macro_f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    from sklearn.metrics import f1_score

    present = sorted(set(references))
    return float(f1_score(references, predictions, labels=present, average="macro", zero_division=UNDEFINED))


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


def _rmse(predictions: Sequence[float], references: Sequence[float]) -> float:
    return math.sqrt(_squares(predictions, references) / len(references))


def _r2(predictions: Sequence[float], references: Sequence[float]) -> float:
    mean = math.fsum(references) / len(references)
    spread = math.fsum((value - mean) ** 2 for value in references)
    return 1 - _squares(predictions, references) / spread if spread else UNDEFINED


def _squares(predictions: Sequence[float], references: Sequence[float]) -> float:
    return math.fsum((one - other) ** 2 for one, other in zip(predictions, references, strict=True))


_FUNCTIONS: dict[str, tuple[Callable[..., float], str, str]] = {
    "accuracy": (_accuracy, "int64", "share of equal labels"),
    "f1": (_f1, "int64", "F1 of class 1"),
    "macro_f1": (_macro_f1, "int64", "mean over the classes that occur of their F1"),
    "matthews_correlation": (_matthews, "int64", "Matthews correlation, -1 to 1"),
    "pearson": (functools.partial(_correlation, "pearson"), "float64", "Pearson correlation, -1 to 1"),
    "rmse": (_rmse, "float64", "root of the mean squared error, in the unit of the scores"),
    "r2": (_r2, "float64", "share of the variance that is explained"),
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
    spec: "TaskSpec",
    predictions: Sequence[int] | Sequence[float],
    references: Sequence[int] | Sequence[float],
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score predictions with every metric of the task, or with those of ``names``.

    Constant input and classes that never occur give ``UNDEFINED`` where the formula has no value.

    Args:
        spec: The task.
        predictions: Class ids, or scores of a regression; one per row.
        references: Labels in the same form.
        names: Of the task's metrics; all where None.

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
        for name in spec.metrics if names is None else names:
            if is_own_metric(name):
                scores[name] = _own(spec, name, predictions, references)
                continue
            metric = metric_class(name)(keep_in_memory=True, cache_dir=cache)
            scores.update(metric.compute(predictions=predictions, references=references))
    return scores


def _own(spec: "TaskSpec", name: str, predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """A metric of the user's; it is called with lists of class ids or scores and gives one number.

    Raises:
        BenchError: It cannot be had, fails, or gives no finite number; of the main metric also one beyond -1 to 1.
    """
    measure = own_metric(name)
    try:
        value = measure(list(predictions), list(references))
    except Exception as error:  # code of the user's may fail in any way
        raise BenchError(f"task {spec.name}: metric {name!r} failed ({_said(error)}); mend it") from error
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, bool) or not isinstance(value, float | int | numbers.Real) or not math.isfinite(value):
        raise BenchError(f"task {spec.name}: metric {name!r} gives {value!r}; let it give one finite number")
    if name == spec.main_metric and not -1 <= float(value) <= 1:
        raise BenchError(
            f"task {spec.name}: the main metric {name!r} gives {value:g}; scale it to -1 to 1, higher is better, or "
            "name another main_metric"
        )
    return float(value)


def _said(error: Exception) -> str:
    """Kind and first line of an error: a user's message may have many."""
    return f"{type(error).__name__}: {said(error)}".rstrip(": ")


@functools.cache
def own_metric(name: str) -> Callable[[list[Any], list[Any]], Any]:
    """The function behind ``package.module.function`` or ``evaluate:module``.

    Raises:
        BenchError: There is none.
    """
    if name.startswith("evaluate:"):
        import evaluate

        try:
            module = evaluate.load(name.removeprefix("evaluate:"), keep_in_memory=True)
        except Exception as error:  # the library asks hub and disk, and each fails in its own way
            raise BenchError(
                f"metric {name!r} cannot be loaded ({_said(error)}); name a folder with its script, or a metric of a "
                "hub that can be reached"
            ) from error
        return lambda predictions, references: module.compute(predictions=predictions, references=references)
    module_name, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the import of a user's module may fail in any way
        raise BenchError(
            f"metric {name!r} cannot be imported ({_said(error)}); its module must be importable from where the "
            "command runs"
        ) from error
    if not callable(found):
        raise BenchError(f"metric {name!r} is a {type(found).__name__}; name a function of predictions and references")
    return found  # type: ignore[no-any-return]


def metric_sources(names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the Python file of each metric of the user's among ``names``, hex; nothing for those without one."""
    found = {}
    for name in names:
        if is_own_metric(name) and not name.startswith("evaluate:"):
            module = inspect.getmodule(inspect.unwrap(own_metric(name)))
            file = getattr(module, "__file__", None)
            if file is not None and file.endswith(".py"):
                found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


_KNOWN: dict[tuple[str, ...], float] = {}
"""Floors by task, its metrics and the hash of its rows: the rows themselves are not kept."""
_TOKEN = re.compile(r"\w+|[^\w\s]")


def _tokens(text: str) -> list[str]:
    return ["", *_TOKEN.findall(text.lower())]  # the empty word keeps the vocabulary from being empty


def bag_of_words_floor(data: "TaskData") -> float:
    """Main metric of a linear classifier on word counts, trained on the same rows as the methods.

    Logistic regression (``C = 1``), ridge regression for scores; each text of a pair has a vocabulary of its own.
    Training rows of one class alone give that class for every row. Of tasks of text it is the exact match of the answer
    that training has most often. The same rows are fitted once in a process. All metrics of the user's own are tried on
    these predictions: one that fails does so before anything is trained.

    Raises:
        BenchError: A metric of the user's cannot be had, fails, or gives no finite number.
    """
    spec = data.spec
    key = (spec.name, spec.main_metric, *filter(is_own_metric, spec.metrics), data.content_sha256)
    if key not in _KNOWN:
        _KNOWN[key] = _fitted(data)
    return _KNOWN[key]


def _commonest(data: "TaskData") -> float:
    answer, _ = min(Counter(data.train.labels).items(), key=lambda item: (-item[1], item[0]))
    right: int = data.test.labels.count(answer)
    return right / len(data.test)


def _fitted(data: "TaskData") -> float:
    if data.spec.kind == "text":
        return _commonest(data)
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
    main = data.spec.main_metric
    names = dict.fromkeys([main, *filter(is_own_metric, data.spec.metrics)])
    return compute(data.spec, predictions, data.test.labels, list(names))[main]

"""The bag-of-words baseline: the score that word counts alone reach on a task."""

import re
from typing import TYPE_CHECKING

from bench.tasks.metrics import compute

if TYPE_CHECKING:
    from bench.tasks.sources import TaskData

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

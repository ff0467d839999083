"""Scores are those of scikit-learn and scipy, defined for degenerate input, and need no network."""

import math

import pytest

from bench.errors import BenchError
from bench.tasks.metrics import METRICS, compute, metric_class
from tests.factories.tasks import GLUE


@pytest.fixture(autouse=True, scope="module")
def no_network():
    import socket

    def refuse(*_):
        raise AssertionError("a metric opened a connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


def test_every_metric_of_every_task_exists_and_the_main_one_is_among_them():
    for spec in GLUE.values():
        assert set(spec.metrics) <= set(METRICS)
        assert spec.main_metric in spec.metrics


def test_metrics_are_evaluate_metrics():
    import evaluate

    for name in METRICS:
        assert issubclass(metric_class(name), evaluate.Metric)


def test_known_values_of_classification():
    predictions, references = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]  # 2 true positives, 1 false positive, 1 false negative
    assert compute(GLUE["mrpc"], predictions, references) == pytest.approx({"accuracy": 0.6, "f1": 2 / 3})
    scores = compute(GLUE["cola"], predictions, references)
    assert scores["matthews_correlation"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_known_values_of_regression():
    scores = compute(GLUE["stsb"], [1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(0.9819805)


def test_three_classes():
    assert compute(GLUE["mnli"], [0, 1, 2, 2], [0, 1, 2, 1]) == {"accuracy": 0.75}


@pytest.mark.parametrize(("predictions", "references"), [([0, 0, 0], [0, 1, 1]), ([0, 1, 1], [0, 0, 0]), ([1], [1])])
def test_constant_classes_have_a_defined_value_without_warnings(predictions, references):
    assert compute(GLUE["cola"], predictions, references)["matthews_correlation"] == 0.0
    assert math.isfinite(compute(GLUE["mrpc"], predictions, references)["f1"])


def test_f1_of_a_class_that_never_occurs_is_zero():
    assert compute(GLUE["mrpc"], [0, 0], [0, 0]) == {"accuracy": 1.0, "f1": 0.0}


@pytest.mark.parametrize("predictions", [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0 + 4e-16]])
def test_constant_scores_have_a_defined_correlation_without_warnings(predictions):
    scores = compute(GLUE["stsb"], predictions, [1.0, 2.0, 3.0])
    assert all(-1.0 <= value <= 1.0 for value in scores.values())
    if len(set(predictions)) == 1:
        assert scores == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_is_refused_by_its_row(broken):
    with pytest.raises(ValueError, match="stsb: prediction 1 is"):
        compute(GLUE["stsb"], [1.0, broken], [1.0, 2.0])


@pytest.mark.parametrize(("predictions", "references"), [([], []), ([1, 0], [1])])
def test_rows_must_match(predictions, references):
    with pytest.raises(ValueError, match="predictions for"):
        compute(GLUE["sst2"], predictions, references)


def test_unknown_metric_names_the_near_one():
    with pytest.raises(BenchError, match="Did you mean 'accuracy'"):
        metric_class("acuracy")

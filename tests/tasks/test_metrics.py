"""Scores are those of scikit-learn and scipy, defined for degenerate input, and need no network."""

import hashlib
import math

import pytest

from bench.errors import BenchError
from bench.tasks.catalogue import parse_task
from bench.tasks.metrics import METRICS, bag_of_words_floor, compute, metric_class, metric_sources
from bench.tasks.rows import Rows, TaskData
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


OWN = """
def halves(predictions, references):
    predictions.clear()
    references.clear()
    return {"halves": 0.5}
def raises(predictions, references): raise ValueError("one line\\nand another")
def nan(predictions, references): return float("nan")
def two(predictions, references): return {"a": 0.1, "b": 0.2}
def text(predictions, references): return "good"
def large(predictions, references): return 50
VALUE = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with metrics of the user's, named after its folder: Python keeps what it has imported."""
    name = f"metrics_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def data_with(metrics, main=""):
    table = {"name": "mine", "kind": "classes", "text": "text", "train": "a.csv", "test": "b.csv", "labels": ["a", "b"]}
    spec = parse_task(table | {"metrics": metrics, "main_metric": main}, "suite.toml")
    rows = Rows((("good film",), ("bad film",)), (0, 1))
    return TaskData(spec, "files", rows, rows, "hash")


def test_a_metric_of_the_users_is_taken_beside_those_of_the_kind_and_may_use_up_its_lists(own):
    data = data_with(["accuracy", f"{own}.halves"])
    assert compute(data.spec, [0, 1], [0, 1]) == {"accuracy": 1.0, f"{own}.halves": 0.5}


FAULTY = {
    "raises": r"task mine: metric '.*\.raises' failed \(ValueError: one line\); mend it",
    "nan": r"task mine: metric '.*\.nan' gives nan; let it give one finite number",
    "two": r"task mine: metric '.*\.two' gives \{'a': 0\.1, 'b': 0\.2\}; let it give one finite number",
    "text": r"task mine: metric '.*\.text' gives 'good'; let it give one finite number",
    "nowhere": r"metric '.*\.nowhere' cannot be imported \(AttributeError: .*\); its module must be importable",
    "VALUE": r"metric '.*\.VALUE' is a int; name a function",
}


@pytest.mark.parametrize("name", list(FAULTY))
@pytest.mark.parametrize("main", [True, False])
def test_a_metric_of_the_users_that_fails_does_so_before_anything_is_trained(own, name, main):
    data = data_with(["accuracy", f"{own}.{name}"], f"{own}.{name}" if main else "accuracy")
    with pytest.raises(BenchError, match=FAULTY[name]) as caught:
        bag_of_words_floor(data)
    assert "\n" not in str(caught.value)


def test_the_main_metric_lies_between_minus_1_and_1_and_others_anywhere(own):
    assert bag_of_words_floor(data_with(["accuracy", f"{own}.large"])) == 1.0
    with pytest.raises(BenchError, match=r"the main metric '.*\.large' gives 50; scale it to -1 to 1"):
        bag_of_words_floor(data_with([f"{own}.large"]))


def test_the_baseline_of_the_same_rows_is_that_of_the_main_metric_asked_for(own):
    assert bag_of_words_floor(data_with(["accuracy"])) == 1.0
    assert bag_of_words_floor(data_with([f"{own}.halves"])) == 0.5


def test_the_source_of_a_metric_of_the_users_decides_a_result(own):
    sources = metric_sources(["accuracy", f"{own}.halves", "math.hypot"])
    assert list(sources) == [f"{own}.halves"]
    assert sources[f"{own}.halves"] == hashlib.sha256(OWN.encode()).hexdigest()

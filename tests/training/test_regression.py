"""A regression is trained in the unit of its labels' spread, and told in the user's."""

import dataclasses
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.record import LabelScale
from bench.tasks import sources
from bench.tasks.rows import Rows
from bench.training.cell import run_cell
from bench.training.evaluate import label_scale


@pytest.fixture(scope="module")
def cell():
    asked = Selection(tasks=("stsb",), methods=("full",), seeds=(0,), data="synthetic")
    (cell,) = (one for one in make_plan(select(load_suite("smoke"), asked), "smoke", "cpu").cells)
    return cell.model_copy(update={"recipe": cell.recipe | {"steps": 6}})


@pytest.fixture(scope="module")
def trained(cell):
    record, sidecars = run_cell(cell)
    assert record.status == "ok", record.traceback
    return record, sidecars.predictions


def test_the_record_holds_mean_and_deviation_of_the_training_rows(cell, trained):
    labels = sources.rows_of(cell).train.labels
    scale = trained[0].label_scale
    assert (scale.mean, scale.deviation) == (statistics.fmean(labels), statistics.pstdev(labels))


def test_labels_beside_the_record_are_the_user_s_and_predictions_have_their_unit(cell, trained):
    record, predictions = trained
    assert predictions["label"] == list(sources.rows_of(cell).test.labels)
    assert abs(statistics.fmean(predictions["prediction"]) - record.label_scale.mean) < record.label_scale.deviation


def test_the_first_loss_is_about_the_variance_that_there_is(trained):
    assert 0.3 < trained[0].losses[0] < 3.0


def test_classes_have_no_scale():
    asked = Selection(methods=("head",), seeds=(0,))
    cell = make_plan(select(load_suite("smoke"), asked), "smoke", "cpu").cells[-1]
    record, _ = run_cell(cell.model_copy(update={"recipe": cell.recipe | {"steps": 1}}))
    assert (record.status, record.label_scale) == ("ok", None)


@pytest.mark.parametrize(("factor", "shift"), [(16.0, 0.0), (0.25, 0.0), (-1.0, 0.0), (20.0, 100.0), (1e-3, -7.0)])
def test_another_unit_of_the_labels_trains_the_same_and_predicts_in_it(cell, trained, monkeypatch, factor, shift):
    def moved(rows):
        return Rows(rows.texts, tuple(factor * label + shift for label in rows.labels))

    data = sources.rows_of(cell)
    other = dataclasses.replace(data, train=moved(data.train), test=moved(data.test))
    monkeypatch.setattr(sources, "rows_of", lambda cell: other)
    record, sidecars = run_cell(cell)
    (plain, predictions), sign = trained, 1 if factor > 0 else -1
    assert record.status == "ok", record.traceback
    if sign > 0:
        assert record.losses == pytest.approx(plain.losses, rel=1e-3)
        assert record.metrics == pytest.approx(plain.metrics, abs=1e-3)
        expected = [factor * value + shift for value in predictions["prediction"]]
        assert sidecars.predictions["prediction"] == pytest.approx(expected, rel=1e-3, abs=1e-3 * abs(factor))
    else:
        assert record.label_scale.mean == -plain.label_scale.mean


@given(st.lists(st.floats(-1e6, 1e6), min_size=2), st.floats(-1e6, 1e6))
def test_a_label_goes_into_the_scale_and_back(labels, value):
    if statistics.pstdev(labels) < 1e-3:
        return
    scale = label_scale(Rows(tuple(("a",) for _ in labels), tuple(labels)))
    assert scale.back(scale.of(value)) == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_scores_that_are_all_the_same_are_refused():
    with pytest.raises(BenchError, match=r"all 3 training rows have the score 2.5; a regression needs two values"):
        label_scale(Rows((("a",),) * 3, (2.5,) * 3))
    with pytest.raises(ValueError, match="deviation"):
        LabelScale(mean=0.0, deviation=0.0)

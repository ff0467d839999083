"""`bench.load_results`: a run folder as typed tables of costs, scores and claims."""

from pathlib import Path

import pandas as pd
import pytest

from bench import load_results
from bench.errors import BenchError
from bench.store.store import open_store, read_run
from tests.factories.records import glue_small

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"


@pytest.fixture(scope="module")
def results():
    return load_results(PUBLISHED / "glue-small")


def test_costs_have_a_row_per_method_and_shape_with_the_figures_of_the_records(results):
    costs = results.costs.set_index("method")
    assert list(costs.index) == results.labels
    assert costs.batch.dtype == costs.length.dtype == int
    assert costs["dtype"]["full"] == "float32"
    for label, record in results.measured().items():
        assert costs.delta_bytes[label] == record.delta_bytes
        assert costs.flops_backward[label] == record.flops.backward
        assert costs.step_seconds[label] == record.step_seconds.median


def test_scores_have_a_row_per_method_and_task_in_points(results):
    scores = results.scores
    assert list(scores.method) == [label for label in results.labels if label in results.scored]
    assert (scores.seeds == 5).all() and scores.seeds.dtype == int
    mean = 100 * sum(r.score for r in results.score_records if r.method.label == "head") / 5
    assert scores.set_index("method").score_mean_points["head"] == pytest.approx(mean)
    assert scores.score_mean_points.between(0, 100).all()


def test_claims_have_a_row_per_claim_and_method_with_the_verdict(results):
    claims = results.claims
    assert list(dict.fromkeys(claims.claim)) == [judged.claim.name for judged in results.judgements]
    spared = claims[claims.claim == "lst-backward-time"].iloc[0]
    assert (spared.verdict, spared.kind, spared.method) == ("pass", "timed", "lst(reduction=8)")
    assert spared.low < spared.value < spared.high
    assert claims[claims.verdict == "inconclusive"].why.str.len().gt(0).any()


def test_a_string_a_path_and_a_run_that_was_read_give_the_same(results):
    for given in (str(PUBLISHED / "glue-small"), read_run(PUBLISHED / "glue-small")):
        pd.testing.assert_frame_equal(load_results(given).costs, results.costs)


@pytest.mark.parametrize(("kept", "missing"), [("scores", "costs"), ("costs", "scores")])
def test_a_run_that_holds_one_kind_has_an_empty_table_of_the_other(tmp_path, kept, missing):
    results = load_results(glue_small(tmp_path, labels=["full", "ia3"], **{missing: False}))
    assert set(getattr(results, kept).method) == {"full", "ia3"}
    assert getattr(results, missing).empty
    assert {"method", "status"} <= set(getattr(results, missing))


def test_a_folder_without_a_run_is_refused_and_one_without_records_is_empty(tmp_path, results):
    with pytest.raises(BenchError, match="not a readable suite"):
        load_results(tmp_path)
    with open_store(tmp_path / "begun", results.suite):
        pass
    begun = load_results(tmp_path / "begun")
    assert begun.costs.empty and begun.scores.empty

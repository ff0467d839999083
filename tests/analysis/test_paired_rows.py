"""Methods are compared on the same test rows, as sure as rows allow, and never surer than their seeds."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.store.store import Run
from tests.factories import reports
from tests.factories.records import score, suite

METRICS = {
    "accuracy": accuracy_score,
    "matthews_correlation": lambda labels, found: np.corrcoef(labels, found)[0, 1],  # of two classes: Pearson's phi
    "pearson": lambda labels, found: np.corrcoef(labels, found)[0, 1],
}


def run_of(folder, predictions, labels, *, metric="accuracy", flags=None, source="hub", task="sst2"):
    """A run that keeps its predictions: ``predictions[label][seed]`` are what each cell said of ``labels``."""
    records = []
    (folder / "predictions").mkdir(parents=True)
    for label, seeds in predictions.items():
        for seed, found in enumerate(seeds):
            name = hashlib.sha256(f"{label}{seed}".encode()).hexdigest()
            value = float(METRICS[metric](labels, found))
            records.append(
                score(label, task, seed, source=source, id=name, score=value, metrics={metric: value},
                      flags=(flags or {}).get(label, []))
            )  # fmt: skip
            columns = {"row": list(range(len(labels))), "label": list(labels), "prediction": list(found)}
            pq.write_table(pa.table(columns), folder / "predictions" / f"{name}.parquet")
    seeds = list(range(max(map(len, predictions.values()))))
    asked = suite(methods=list(predictions), tasks=[task], seeds=seeds, data={"kind": source})
    return Run.of(folder, asked, tuple(records))


def paired(run):
    return Results(run).paired_rows


def right(rows, *wrong):
    """Predictions of ``rows`` rows of class 1, those at ``wrong`` not found."""
    return [0 if at in wrong else 1 for at in range(rows)]


def test_rows_that_only_one_side_gets_right_are_counted_and_tested_by_mcnemar(tmp_path):
    labels = right(40)
    predictions = {"full": [right(40, 0, 1)] * 3, "ia3": [right(40, *range(2, 12))] * 3}
    row = paired(run_of(tmp_path, predictions, labels)).table.loc["ia3", "sst2"]
    assert (row["rows"], row["seeds"]) == (40, 3)
    assert (row["only_baseline"], row["only_method"]) == (10, 2)
    assert row["difference"] == pytest.approx(-20)
    assert row["low"] < -20 < row["high"] < 0
    assert row["p"] == pytest.approx(2 * binomtest(2, 12).pvalue)  # twice the median of three equal ones


def test_seeds_are_not_added_to_each_other_for_they_share_the_rows(tmp_path):
    predictions = {"full": [right(30)] * 5, "ia3": [right(30, *range(6))] * 5}
    row = paired(run_of(tmp_path, predictions, right(30))).table.loc["ia3", "sst2"]
    assert row["p"] == pytest.approx(2 * binomtest(0, 6).pvalue)  # 30 of 30 would be a millionth
    assert row["p"] > 0.05


def test_methods_are_corrected_for_their_number(tmp_path):
    predictions = {name: [right(30, *range(wrong))] for name, wrong in (("full", 0), ("ia3", 9), ("bitfit", 9))}
    table = paired(run_of(tmp_path, predictions, right(30))).table
    assert list(table["p"]) == pytest.approx([4 * binomtest(0, 9).pvalue] * 2)


def test_the_interval_over_rows_is_that_of_paired_differences(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=500)
    predictions = {
        name: [np.where(rng.random(500) < p, labels, 1 - labels)] for name, p in (("full", 0.9), ("ia3", 0.8))
    }
    row = paired(run_of(tmp_path, predictions, labels)).table.loc["ia3", "sst2"]
    each = 100.0 * ((predictions["ia3"][0] == labels).astype(float) - (predictions["full"][0] == labels))
    half = 1.96 * each.std() / 500**0.5
    assert row["difference"] == pytest.approx(each.mean())
    assert (row["low"], row["high"]) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.4)


@pytest.mark.parametrize("metric", ["matthews_correlation", "pearson"])
def test_a_metric_that_is_no_mean_is_taken_anew_of_the_rows_drawn(tmp_path, metric):
    rng = np.random.default_rng(1)
    if metric == "pearson":
        labels = rng.uniform(0, 5, 200)
        predictions = {name: [labels + rng.normal(0, spread, 200)] for name, spread in (("full", 0.5), ("ia3", 2))}
    else:
        labels = rng.integers(2, size=200)
        predictions = {
            name: [np.where(rng.random(200) < p, labels, 1 - labels)] for name, p in (("full", 0.95), ("ia3", 0.7))
        }
    if metric == "matthews_correlation":
        found = predictions["ia3"][0]
        assert METRICS[metric](labels, found) == pytest.approx(matthews_corrcoef(labels, found))
    row = paired(run_of(tmp_path, predictions, labels, metric=metric)).table.loc["ia3", "sst2"]
    drawn = [rng.integers(200, size=200) for _ in range(1000)]
    ours, theirs = (np.array([METRICS[metric](labels[at], predictions[name][0][at]) for at in drawn])
                    for name in ("ia3", "full"))  # fmt: skip
    wanted = np.quantile(100 * (ours - theirs), [0.025, 0.975])
    assert [row["low"], row["high"]] == pytest.approx(wanted, abs=3)
    assert np.isnan(row["p"]) == (metric == "pearson")  # no class is right or wrong


def test_few_seeds_and_flags_of_either_side_carry_no_verdict(tmp_path):
    predictions = {"full": [right(9)] * 3, "ia3": [right(9, 1)] * 3}
    run = run_of(tmp_path, predictions, right(9), flags={"full": ["did_not_learn"], "ia3": ["still_improving"]})
    row = paired(run).table.loc["ia3", "sst2"]
    assert row["why"] == ("3 seeds", "still improving", "full did not learn")


def test_without_predictions_there_is_a_reason_in_place_of_figures(tmp_path):
    run = run_of(tmp_path, {"full": [right(3)], "ia3": [right(3, 0)]}, right(3))
    away = replace(run, folder=tmp_path / "published")
    assert paired(away).table.empty
    assert paired(away).left_out == {"sst2": "the predictions of full are not in the run folder"}
    records = tuple(record.model_copy(update={"metrics": {"spearman": record.score}}) for record in run.records)
    assert paired(replace(run, records=records)).left_out == {"sst2": "its metric is no function of sums over rows"}


def test_labels_of_other_rows_are_refused_by_name(tmp_path):
    run = run_of(tmp_path, {"full": [right(4, 0)], "ia3": [right(4, 1)]}, right(4))
    name = run.records[1].id
    pq.write_table(
        pa.table({"label": [0, 0, 0, 1], "prediction": [0, 0, 0, 0]}), tmp_path / "predictions" / f"{name}.parquet"
    )
    with pytest.raises(BenchError, match=rf"record {name[:12]}: labels of sst2 are not those of the other cells"):
        paired(run)


def test_both_reports_show_rows_and_say_what_is_held_fixed(tmp_path):
    run = run_of(tmp_path, {"full": [right(40, 0, 1)] * 3, "ia3": [right(40, *range(2, 12))] * 3}, right(40))
    text, page = reports.markdown(run), reports.page(run)
    assert "## Over test rows" in text
    assert "| ia3 | sst2 | 40 | 3 | -20.0 \\[" in text
    assert "| 10.0 | 2.0 | - | 3 seeds (5 needed) |" in text
    for shown in (text, page):
        assert "other seeds may move it further" in shown
    assert '<section id="rows"' in page
    bare = replace(run, folder=tmp_path / "published")
    bare.folder.mkdir()
    assert "Not sst2: the predictions of full are not in the run folder." in reports.markdown(bare)
    assert "Over test rows" not in reports.markdown(replace(bare, records=()))


def test_predictions_that_hardly_differ_have_the_correlation_of_their_record(tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.uniform(0, 5, 64)
    collapsed = 3.0 + 1e-7 * generator.normal(size=64)
    run = run_of(tmp_path, {"full": [labels + 1.0], "lora": [collapsed]}, labels, metric="pearson", task="stsb")
    assert Results(run).paired_rows.table.shape[0]

"""Tables pair what may be compared, refuse what may not, and say why a score carries no verdict."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.analysis.results import Results, latest
from bench.errors import BenchError
from tests.factories.records import ENVIRONMENT, LABELS, cost, failed, glue_small, results, score

FOLDER = Path("unused")


def test_costs_stand_in_the_order_of_the_suite_with_exact_and_timed_ratios():
    records = [cost(label) for label in reversed(LABELS)]
    table = results(records, list(LABELS)).cost_table()
    assert list(table.index) == list(LABELS)
    lora, full = table.loc["lora(rank=8)"], table.loc["full"]
    assert lora["trainable_method"] == 73_728
    assert lora["flops_backward_ratio"] == pytest.approx(0.51, abs=1e-6)
    assert full["flops_backward_ratio"] == 1
    assert lora["backward_low"] < lora["backward_ratio"] < lora["backward_high"]
    assert (lora["backward_blocks"], lora["backward_samples"]) == (6, 24)
    assert lora["merged_is_base"] is True


def test_what_was_not_measured_is_missing_and_never_zero():
    records = [cost("full"), failed(cost("prefix_tuning")), cost("lst(reduction=8)", latency_seconds=None)]
    table = results(records, ["full", "prefix_tuning", "lst(reduction=8)", "never_run"]).cost_table()
    assert table.loc["prefix_tuning", "status"] == "oom"
    assert math.isnan(table.loc["prefix_tuning", "step_seconds"])
    assert math.isnan(table.loc["lst(reduction=8)", "unmerged_batch_1_ratio"])
    assert table.loc["never_run"].isna().all()
    assert results([], ["full"]).cost_table().loc["full"].isna().all()


def test_tokens_a_second_are_those_of_the_shape_over_the_median_step():
    text = {"objective": "text", "loss": "target", "target_tokens": 5}
    for fields, targets in (({}, None), (text, 5)):
        record = cost("full", shape=fields)
        table = results([record]).cost_table()
        rows = record.shape.batch / record.step_seconds.median
        assert table.loc["full", "step_tokens_per_second"] == pytest.approx(rows * record.shape.length)
        told = table.loc["full", "step_target_tokens_per_second"]
        assert math.isnan(told) if targets is None else told == pytest.approx(rows * targets)
    untimed = results([cost("full", step_seconds=None)]).cost_table()
    assert math.isnan(untimed.loc["full", "step_tokens_per_second"])


def test_inference_stands_beside_the_base_and_what_cannot_merge_has_no_merged_figure():
    table = results([cost("lora(rank=8)"), cost("lst(reduction=8)")]).cost_table()
    lora, lst = table.loc["lora(rank=8)"], table.loc["lst(reduction=8)"]
    assert lora["inference_merged_operations"] == lora["inference_base_operations"] == 87
    assert lst["inference_unmerged_depth"] > lst["inference_base_depth"]
    assert math.isnan(lst["inference_merged_flops"])
    assert lora["latency_length"] == 32


def test_latencies_of_every_length_and_batch_stand_in_one_table_with_their_controls():
    lengths = (128, 32)
    records = [
        cost(label, shape={"length": at}, latency_length=at) for at in lengths for label in ("lst(reduction=8)", "full")
    ]
    older = cost("ia3", latency_length=None)  # says nowhere how long its rows were
    table = results([*records, older, failed(cost("head"))], ["full"]).latency_table
    places = [(32, 1), (32, 32), (128, 1), (128, 32)]
    assert list(table["method"]) == ["full"] * 8 + ["lst(reduction=8)"] * 4
    assert [(row.length, row.batch) for row in table[table["method"] != "full"].itertuples()] == places
    assert set(table.loc[table["method"] != "full", "mode"]) == {"unmerged"}
    assert (table["low"] <= table["ratio"]).all() and (table["ratio"] <= table["high"]).all()
    assert (table["control_low"] < 1).all()


def test_the_table_of_latencies_keeps_one_form_of_the_step_and_one_figure_a_length():
    records = [
        cost("full", latency_length=64),
        cost("full", shape={"batch": 1}, latency_length=64),  # rows of the same length
        cost("full", shape={"batch": 8, "length": 16}, latency_length=128),
        cost("full", shape={"length": 16, "dtype": "bfloat16"}, latency_length=256),
        cost("ia3", latency_length=64).model_copy(update={"status": "error", "reason": "batch 32 did not fit"}),
    ]
    table = results(records).latency_table
    assert list(table["method"].unique()) == ["full"]
    assert sorted(table["length"].unique()) == [64, 128]
    assert not table.duplicated(["method", "mode", "length", "batch"]).any()


def test_latencies_of_two_machines_never_stand_in_one_table():
    other = ENVIRONMENT | {"threads": 8, "fingerprint": "other"}
    with pytest.raises(BenchError, match="threads is 2 for 'full' but 8 for 'ia3'"):
        _ = results([cost("full"), cost("ia3", environment=other)]).latency_table


def test_no_latency_is_an_empty_table():
    assert results([score("full", "sst2", 0)]).latency_table.empty


def test_without_the_baseline_there_is_no_exact_ratio():
    table = results([failed(cost("full")), cost("ia3")]).cost_table()
    assert math.isnan(table.loc["ia3", "flops_backward_ratio"])


def test_shapes_are_kept_apart_the_one_with_most_methods_first_and_then_the_largest():
    records = [cost("full", shape={"batch": 1}), cost("full"), cost("ia3", shape={"batch": 1})]
    assert [shape.batch for shape in results(records).shapes] == [1, 32]
    large = results(records).shapes[1]
    assert list(results(records).cost_table().index) == ["full", "ia3"]
    assert list(results(records).cost_table(large).dropna(subset="status").index) == ["full"]
    assert [shape.batch for shape in results([*records, cost("ia3")]).shapes] == [32, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"versions": ENVIRONMENT["versions"] | {"torch": "2.12.0"}},
            "versions.torch is '2.13.0' for 'full' but '2.12.0' for 'ia3'",
        ),
        ({"threads": 8}, "threads is 2 for 'full' but 8 for 'ia3'"),
        ({}, "fingerprint is 'aaaabbbbcccc' for 'full' but 'other' for 'ia3'"),
    ],
)
def test_costs_of_two_environments_are_refused_with_the_field(change, sentence):
    other = ENVIRONMENT | {"fingerprint": "other", "commit": "another commit is no reason"} | change
    with pytest.raises(BenchError, match="different environments") as caught:
        results([cost("full"), cost("ia3", environment=other)]).cost_table()
    assert sentence in str(caught.value)


def test_a_failed_probe_of_another_machine_hinders_nothing():
    other = failed(cost("ia3", environment=ENVIRONMENT | {"fingerprint": "other"}))
    assert results([cost("full"), other]).cost_table().loc["full", "status"] == "ok"


def test_scores_on_other_rows_are_refused():
    records = [score("full", "sst2", 0, content="a" * 64), score("ia3", "sst2", 0, content="b" * 64)]
    with pytest.raises(BenchError, match=r"task 'sst2' has the rows aaaaaaaaaaaa .* for 'full' but bbbbbbbbbbbb"):
        _ = results(records).score_table


def test_scores_are_means_in_points_and_differences_are_paired():
    places = [("sst2", 0), ("sst2", 1), ("mrpc", 0), ("mrpc", 1)]
    values = {"full": (0.8, 0.7, 0.9, 0.8), "ia3": (0.7, 0.6, 0.85, 0.75)}
    records = [score(label, *place, score=values[label][i]) for label in values for i, place in enumerate(places)]
    table = results(records).score_table
    assert table.loc["full", "mean"] == pytest.approx(80)
    assert math.isnan(table.loc["full", "difference"])
    assert table.loc["ia3", "difference"] == pytest.approx(-7.5)
    assert table.loc["ia3", "low"] < -7.5 < table.loc["ia3", "high"]
    assert table.loc["ia3", "n_pairs"] == 4


def test_pairs_are_the_intersection_and_the_rest_is_counted():
    records = list(glue_small(FOLDER, costs=False, labels=["full", "ia3"]).records)
    records[0] = failed(records[0], "nan", "loss became NaN")  # full, sst2, seed 0
    table = results(records).score_table
    assert (table.loc["full", "n"], table.loc["full", "failed"]) == (5, 1)
    assert (table.loc["ia3", "n_pairs"], table.loc["ia3", "dropped"]) == (5, 1)


def real(labels=("full", "ia3"), seeds=range(5)):
    return list(glue_small(FOLDER, source="hub", seeds=tuple(seeds), costs=False, labels=list(labels)).records)


def test_five_seeds_on_real_data_carry_a_verdict():
    table = results(real()).score_table
    assert table.loc["ia3", "verdict"]
    assert table.loc["ia3", "why"] == ()
    assert not table.loc["full", "verdict"]


def flagged(records, label, flag):
    return [r.model_copy(update={"flags": (flag,)}) if r.method.label == label else r for r in records]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (real(seeds=range(4)), ("4 seeds",)),
        (list(glue_small(FOLDER, seeds=range(5), costs=False, labels=["full", "ia3"]).records), ("synthetic data",)),
        (flagged(real(), "ia3", "still_improving"), ("still improving",)),
        (flagged(real(), "ia3", "did_not_learn"), ("did not learn",)),
        (flagged(real(), "full", "still_improving"), ("full still improving",)),
        (flagged(real(), "ia3", "random_weights"), ("random weights",)),
    ],
)
def test_a_doubtful_score_carries_no_verdict_and_says_why(records, why):
    row = results(records).score_table.loc["ia3"]
    assert not row["verdict"]
    assert row["why"] == why


def test_a_missing_baseline_leaves_means_without_differences():
    table = results(real(["ia3"]), ["full", "ia3"]).score_table
    assert table.loc["full", "n"] == 0
    assert math.isnan(table.loc["ia3", "difference"])
    assert not table.loc["ia3", "verdict"]


def test_one_seed_has_no_interval():
    row = results(real(seeds=[0])).task_table.loc[("ia3", "sst2")]
    assert row["mean"] > 0
    assert math.isnan(row["low"]) and math.isnan(row["difference_low"])


def test_each_task_has_its_mean_its_difference_and_its_floor():
    table = results(real(), ["ia3", "full"]).task_table
    assert list(table.index)[:2] == [("ia3", "sst2"), ("ia3", "mrpc")]
    row = table.loc[("ia3", "sst2")]
    assert (row["n"], row["floor"]) == (5, pytest.approx(58))
    assert row["low"] < row["mean"] < row["high"]
    assert results([]).task_table.empty


def test_the_control_is_quiet_only_when_its_whole_interval_is_inside_the_band():
    assert results([cost("full")]).controls()["quiet"].all()
    assert not results([cost("full", noise=0.02)]).controls()["quiet"].any()
    assert results([failed(cost("full"))]).controls().empty


def test_the_newest_record_of_a_cell_counts_and_the_others_are_counted():
    old, new = (score("full", "sst2", 0, id=name, ended=f"2026-01-0{day}T00:00:00Z", score=value)
                for name, day, value in (("old", 1, 0.1), ("new", 2, 0.9)))  # fmt: skip
    kept, older = latest([new, old])
    assert ([record.id for record in kept], older) == (["new"], 1)
    assert results([new, old]).score_table.loc["full", "mean"] == pytest.approx(90)


def test_failures_name_what_failed_and_why():
    records = [failed(cost("ia3")), failed(score("full", "sst2", 1), "timeout", "3600 s passed"), cost("full")]
    table = results(records).failures
    assert list(table["method"]) == ["ia3", "full"]
    assert list(table["status"]) == ["oom", "timeout"]
    assert table.loc[1, "reason"] == "3600 s passed"


def test_ten_thousand_records_are_compared_in_seconds():
    import time

    one = glue_small(FOLDER, costs=False, source="hub", seeds=(0,))
    many = [
        record.model_copy(update={"seed": seed, "id": f"{record.id}-{seed}"})
        for seed in range(390) for record in one.records
    ]  # fmt: skip
    run = replace(one, records=tuple(many))
    began = time.process_time()
    table = Results(run).score_table
    assert len(many) > 10_000
    assert table.loc["ia3", "n_pairs"] == 780
    assert time.process_time() - began < 5

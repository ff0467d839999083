"""A claim passes, fails, stays open or is invalid by the figures alone, and never by luck."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.claim_table import Bounds, ClaimTable
from bench.claims import judge
from tests.records import cost, glue_small, score, suite

LORA, LST = "lora(rank=8)", "lst(reduction=8)"


def claim(**values):
    values = {"name": "c", "says": "a sentence", "metric": "flops.backward", "method": LORA} | values
    return {key: value for key, value in values.items() if value is not None}


def judged(run, **values):
    (found,) = judge(replace(run, suite=run.suite | {"claims": [claim(**values)]}))
    return found


@pytest.fixture
def run(tmp_path):
    return glue_small(tmp_path)


def test_a_counted_figure_decides_at_once(run):
    halved = judged(run, versus="full", ratio={"min": 0.45, "max": 0.60})
    assert (halved.verdict, halved.kind) == ("pass", "exact")
    assert halved.outcomes[0].value == pytest.approx(0.51, abs=0.01)
    assert judged(run, versus="full", ratio={"max": 0.2}).verdict == "fail"
    assert judged(run, metric="flops.backbone.backward", method=LST, value={"max": 0}).verdict in {"pass", "fail"}
    assert judged(run, metric="merged_equals_base", holds=True).verdict == "pass"
    assert judged(run, metric="merged_equals_base", holds=False).verdict == "fail"


def test_a_claim_over_several_methods_falls_with_one(run):
    assert judged(run, method=[LORA, LST], versus="full", ratio={"max": 0.6}).verdict == "pass"
    found = judged(run, method=[LORA, LST], versus="full", ratio={"min": 0.4, "max": 0.6})
    assert found.verdict == "fail"
    assert [outcome.verdict for outcome in found.outcomes] == ["pass", "fail"]


def test_a_timed_figure_passes_or_fails_beyond_doubt_and_else_stays_open(run):
    far = {"metric": "backward_seconds", "versus": "full"}
    assert judged(run, **far, ratio={"max": 0.9}).verdict == "pass"
    assert judged(run, **far, ratio={"max": 0.2}).verdict == "fail"
    value, (low, high) = (
        judged(run, **far, ratio={"max": 0.9}).outcomes[0].value,
        judged(run, **far, ratio={"max": 0.9}).outcomes[0].interval,
    )
    assert low <= value <= high
    near = judged(run, **far, ratio={"max": value})
    assert near.verdict == "inconclusive"
    assert "straddles" in near.outcomes[0].why


def test_two_methods_are_paired_with_each_other_and_not_by_way_of_the_baseline(run):
    found = judged(run, metric="backward_seconds", method=LST, versus=LORA, ratio={"max": 0.5})
    assert found.verdict == "pass"
    assert found.outcomes[0].value == pytest.approx(0.07 / 0.57, rel=0.1)


def test_a_noisy_machine_makes_times_invalid_and_leaves_counts_alone(tmp_path):
    noisy = glue_small(tmp_path, noise=0.05)
    found = judged(noisy, metric="backward_seconds", versus="full", ratio={"max": 0.9})
    assert found.verdict == "invalid"
    assert "not quiet" in found.outcomes[0].why
    assert judged(noisy, versus="full", ratio={"max": 0.9}).verdict == "pass"


def test_merged_latency_is_compared_with_the_bare_backbone(run):
    merged = {"metric": "latency_seconds.merged.batch_1", "versus": "base"}
    assert judged(run, **merged, equivalent_within=0.03).verdict == "pass"
    slower = judged(run, metric="latency_seconds.unmerged.batch_1", method=LST, versus="base", ratio={"min": 1.0})
    assert slower.verdict == "pass"
    absent = judged(run, **merged, method=LST, equivalent_within=0.03)
    assert absent.verdict == "inconclusive"
    assert "has no latency_seconds.merged.batch_1" in absent.outcomes[0].why


def test_scores_on_synthetic_data_or_few_seeds_decide_nothing(run):
    found = judged(run, metric="score", versus="full", difference={"min": -50.0})
    assert (found.verdict, found.kind) == ("inconclusive", "score")
    assert "3 seeds" in found.outcomes[0].why
    assert "synthetic data" in found.outcomes[0].why


def scored(tmp_path, seeds=6):
    records = [score(label, "sst2", seed, source="folder") for label in ("full", LORA, "head") for seed in range(seeds)]
    values = suite(methods=["full", LORA, "head"], tasks=["sst2"], seeds=list(range(seeds)))
    return replace(glue_small(tmp_path), records=tuple(records), suite=values)


def test_scores_on_real_data_are_judged_by_their_margin(tmp_path):
    run = scored(tmp_path)
    assert judged(run, metric="score", versus="full", difference={"min": -2.0}).verdict == "pass"
    assert judged(run, metric="score", method="head", versus="full", difference={"min": -2.0}).verdict == "fail"
    assert judged(run, metric="score", method="head", versus=LORA, difference={"max": -3.0}).verdict == "pass"


def test_what_was_not_measured_is_said(run):
    without = replace(run, records=tuple(r for r in run.records if r.kind != "cost" or r.method.label != LORA))
    found = judged(without, versus="full", ratio={"max": 0.6})
    assert found.verdict == "inconclusive"
    assert "has no costs" in found.outcomes[0].why
    bad = replace(run, records=tuple(r for r in run.records if r.kind != "cost" or r.method.label != "full"))
    assert "full has no flops.backward" in judged(bad, versus="full", ratio={"max": 0.6}).outcomes[0].why
    assert "has no flops.sideways" in judged(run, metric="flops.sideways", value={"max": 1}).outcomes[0].why


@pytest.mark.parametrize("metric", ["flops", "status", "flops.sideways"])
def test_a_claim_about_what_is_no_figure_stays_open(run, metric):
    judgement = judged(run, metric=metric, value={"max": 1})
    assert judgement.verdict == "inconclusive"
    assert judgement.outcomes[0].why.endswith(f"has no {metric}")


def test_a_claim_about_methods_that_the_run_leaves_out_is_not_judged(run):
    claims = [claim(method="dora"), claim(versus="bitfit2", ratio={"max": 1})]
    claims[0]["value"] = {"max": 1}
    assert judge(replace(run, suite=run.suite | {"claims": claims})) == []


def test_the_price_stands_beside_the_verdict(run):
    found = judged(
        run, method=LST, versus="full", ratio={"max": 0.1}, price=["step_seconds", "flops.forward", "latency_seconds"]
    )
    assert [name for name, _ in found.prices] == ["step_seconds", "flops.forward"]
    assert all(ratio > 0 for _, ratio in found.prices)


def test_many_claims_at_the_edge_are_not_passed_by_their_number(tmp_path):
    run = glue_small(tmp_path)
    edge = judged(run, metric="backward_seconds", versus="full", ratio={"max": 0.9}).outcomes[0]
    bound = edge.value * 1.007
    alone = judged(run, metric="backward_seconds", versus="full", ratio={"max": bound})
    many = [claim(name=f"c{n}", metric="backward_seconds", versus="full", ratio={"max": bound}) for n in range(200)]
    together = judge(replace(run, suite=run.suite | {"claims": many}))
    assert alone.outcomes[0].inside_p < 0.05
    assert {judgement.verdict for judgement in together} == {"inconclusive"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "give exactly one of"),
        ({"ratio": {"max": 1}}, "ratio needs versus"),
        ({"value": {"max": 1}, "versus": "full"}, "value takes no versus"),
        ({"value": {"max": 1}, "holds": True}, "give exactly one of"),
        ({"metric": "score", "versus": "full", "ratio": {"max": 1}}, "score is compared by difference"),
        ({"versus": "full", "difference": {"max": 1}}, "difference compares scores"),
        ({"versus": "full", "ratio": {"max": 0}}, "lie above 0"),
        ({"versus": "full", "ratio": {"max": float("nan")}}, "finite number"),
        ({"metric": "flops.forward", "holds": True}, "flops.forward is no yes or no"),
        ({"metric": "merged_equals_base", "value": {"min": 1}}, "merged_equals_base is a yes or a no: give holds"),
        ({"metric": "backward_seconds", "value": {"max": 1}}, "give versus and ratio"),
        ({"metric": "flops.forward", "versus": "base", "ratio": {"max": 1}}, "versus 'base' takes a latency"),
        ({"value": {}}, "give min, max or both"),
        ({"value": {"min": 2, "max": 1}}, "lies above"),
        ({"value": {"max": 1}, "method": []}, "method"),
        ({"value": {"max": 1}, "name": "No Spaces"}, "name"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(values, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ClaimTable.model_validate(claim(**values))


@given(st.floats(0.01, 0.5))
def test_equivalence_has_bounds_on_both_sides(margin):
    table = ClaimTable.model_validate(claim(versus="full", equivalent_within=margin))
    assert table.bounds == Bounds(min=1 - margin, max=1 + margin)


def test_a_cost_that_failed_gives_its_reason(run):
    broken = cost(LORA).model_copy(update={"status": "oom", "reason": "out of memory", "flops": None})
    others = tuple(r for r in run.records if r.kind != "cost" or r.method.label != LORA)
    found = judged(replace(run, records=(*others, broken)), versus="full", ratio={"max": 0.6})
    assert "out of memory" in found.outcomes[0].why

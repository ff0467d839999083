"""A recommendation names the least of all methods, and beside it the least of those shown to score as well as the best.

Noise is never rewarded: a method about which little is known is not as good as the best.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis.recommend import as_good, recommendations
from bench.analysis.results import Results
from bench.errors import BenchError
from bench.store.store import Run
from tests.factories.records import cost, failed, glue_small, score, suite

FOUR = ("full", "lora(rank=8)", "houlsby_adapter", "head")
FIVE_SEEDS = (0, 1, 2, 3, 4)
POINTS = {"full": 90.0, "lora(rank=8)": 89.5, "houlsby_adapter": 88.0, "head": 80.0}
COSTS = [cost(label) for label in FOUR]
NEEDS = ["least memory", "least storage", "least training time", "least latency", "fewest trainable parameters",
         "best score"]  # fmt: skip
KEEPS = {"name": "keeps-the-score", "says": "It keeps the score", "metric": "score", "method": "lora(rank=8)",
         "versus": "full"}  # fmt: skip


def of(costs, scores=(), **asked):
    asked = {"methods": list(FOUR), "cost": [{"batch": 32, "length": 64}], "tasks": ["sst2"], **asked}
    return Results(Run.of(Path("run"), suite(**asked), (*costs, *scores)))


def scores(points, seeds=FIVE_SEEDS, source="hub", spread=0.1, task="sst2"):
    """Scores by label; the luck of a seed is shared by all methods but for ``spread`` times a pattern without sum."""
    pattern = np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    wide = spread if isinstance(spread, dict) else dict.fromkeys(points, spread)
    return [
        score(label, task, seed, source=source, flags=[],
              score=(value + 0.2 * seed + wide[label] * (1 + at) * pattern[seed % 5]) / 100)
        for at, (label, value) in enumerate(points.items())
        for seed in seeds
    ]  # fmt: skip


def need(results, name):
    return next(found for found in recommendations(results) if found.need == name)


def with_memory(record, size):
    return record.model_copy(update={"peak_memory_bytes": record.peak_memory_bytes.model_copy(update={"step": size})})


def test_every_need_has_one_recommendation_in_a_fixed_order(tmp_path):
    assert [found.need for found in recommendations(Results(glue_small(tmp_path)))] == NEEDS


def test_a_run_without_figures_recommends_nothing():
    assert recommendations(of(())) == []


def test_least_memory_is_the_least_of_all_whatever_it_scores_and_beside_it_the_least_that_scores_as_well():
    found = need(of(COSTS, scores(POINTS)), "least memory")
    assert (found.least.methods, found.least.value) == (("head",), 95_000_000)
    assert found.least.runner_up == ("lora(rank=8)", 301_000_000)
    assert (found.as_good.methods, found.as_good.value) == (("lora(rank=8)",), 301_000_000)
    assert (found.kind, found.unit, found.shape.length) == ("counted", "B", 64)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 10**9), min_size=4, max_size=4))
def test_the_least_is_the_least(sizes):
    results = of(map(with_memory, COSTS, sizes), scores(dict.fromkeys(FOUR, 90.0), spread=0.0))
    found = need(results, "least memory")
    assert found.least.value == found.as_good.value == min(sizes)
    assert found.least.methods == tuple(label for label, size in zip(FOUR, sizes, strict=True) if size == min(sizes))


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4, unique=True), st.floats(0, 3), st.floats(0, 3))
def test_a_wider_interval_never_adds_a_method(places, spread, more):
    points = {label: 40 + 0.03 * place for label, place in zip(FOUR, places, strict=True)}  # no two 1 point apart
    narrow, wide = (as_good(of((), scores(points, spread=width))) for width in (spread, spread + more))
    assert set(wide.methods) <= set(narrow.methods)
    assert max(points, key=points.get) in narrow.methods


def test_a_method_far_below_the_best_is_not_as_good_because_its_interval_is_wide():
    lower = {label: value - 10 for label, value in POINTS.items()}  # so that no score wavers beyond 100
    wavering = scores(lower, spread=dict.fromkeys(POINTS, 0.1) | {"houlsby_adapter": 6.0})
    found = as_good(of((), wavering))
    difference, (low, high) = found.differences["houlsby_adapter"]
    assert low < difference < 0 < high
    assert found.methods == ("full", "lora(rank=8)")
    best = need(of((), wavering), "best score")
    assert (best.least.methods, best.as_good.methods) == (("full",), ("full", "lora(rank=8)"))


def test_the_margin_is_that_of_the_strictest_claim_that_allows_one_and_one_point_without():
    def margin(*bounds):
        claims = [KEEPS | {"name": f"claim-{at}", "difference": bound} for at, bound in enumerate(bounds)]
        found = as_good(of((), scores(POINTS), claims=claims))
        return found.margin, found.claim

    assert margin() == (1.0, "")
    assert margin({"min": 0.0}, {"max": 0.0}) == (1.0, "")  # to beat another is no margin below it
    assert margin({"min": -3.0}, {"min": -2.0}) == (2.0, "claim-1")


def test_the_tasks_are_those_of_the_claim_that_gives_the_margin():
    claims = [KEEPS | {"difference": {"min": -2.0}, "tasks": ["sst2"]}]
    other = scores({label: 50.0 for label in FOUR}, task="mrpc", spread=9.0)
    both = [*scores(POINTS), *other]
    asked = {"tasks": ["sst2", "mrpc"]}
    assert as_good(of((), both, claims=claims, **asked)).methods == ("full", "lora(rank=8)")
    assert as_good(of((), both, **asked)).tasks == ("sst2", "mrpc")


def test_a_malformed_claim_is_refused_by_its_file():
    with pytest.raises(BenchError, match=r"suite\.toml: claims\.0"):
        recommendations(of(COSTS, claims=[{"name": "no-metric"}]))


@pytest.mark.parametrize(
    ("taken", "why"),
    [
        ((), "no method was scored"),
        (scores(POINTS, seeds=(0, 1, 2)), "3 seeds"),
        (scores(POINTS, source="synthetic"), "synthetic data"),
        ([r.model_copy(update={"flags": ("random_weights",)}) for r in scores(POINTS)], "random weights"),
        (
            [r.model_copy(update={"flags": ("still_improving",)} if r.method.label == "full" else {})
             for r in scores(POINTS)],
            "full, the highest mean, still improving",
        ),
    ],
)  # fmt: skip
def test_scores_without_a_verdict_take_no_part_and_it_is_said_why(taken, why):
    for found in recommendations(of(COSTS, taken)):
        assert found.as_good is None
        assert found.score.no_verdict == (why,)
        assert found.least is not None or found.need == "best score"


def test_a_method_with_fewer_scores_or_unfinished_training_is_left_out_with_the_reason():
    taken = [
        r.model_copy(update={"flags": ("did_not_learn",)}) if r.method.label == "lora(rank=8)" else r
        for r in scores(POINTS | {"head": 99.0})[:-1]
    ]
    found = as_good(of((), taken))
    assert found.methods == ("full",)
    assert dict(found.left_out) == {"head": "4 of 5 scores", "lora(rank=8)": "did not learn"}


def test_equal_figures_share_the_place():
    found = need(of([cost("pfeiffer_adapter"), cost("parallel_adapter"), cost("full")]), "least storage")
    assert found.least.methods == ("pfeiffer_adapter", "parallel_adapter")
    assert found.least.runner_up[0] == "full"


def test_a_method_without_the_figure_is_named_and_never_the_least():
    found = need(of([cost("full"), cost("lora(rank=8)"), failed(cost("head"))]), "least memory")
    assert found.least.methods == ("lora(rank=8)",)
    assert set(found.not_measured) == {"houlsby_adapter", "head"}


def test_what_cells_count_too_needs_no_probe():
    results = of((), scores(POINTS))
    assert need(results, "least storage").least.methods == ("head",)
    assert need(results, "fewest trainable parameters").least.value == 0
    assert need(results, "least memory").least is None


def test_methods_that_merge_into_the_backbone_share_the_least_latency_exactly():
    found = need(of(COSTS, scores(POINTS)), "least latency")
    assert (found.least.methods, found.least.value) == (("full", "lora(rank=8)", "head"), 1.0)
    assert found.as_good.methods == ("full", "lora(rank=8)")
    assert (found.kind, found.doubts) == ("counted", ())


def test_a_merged_model_that_is_not_the_backbone_has_a_measured_latency():
    other = {"modules": True, "parameters": True, "op_trace": False, "flops": True}
    adapters = [cost("houlsby_adapter"), cost("lora(rank=8)", merged_equals_base=other)]
    found = need(of(adapters, methods=["houlsby_adapter", "lora(rank=8)"]), "least latency")
    assert (found.kind, found.figure) == ("timed", "latency_seconds.unmerged.batch_1")
    assert found.least.methods == ("lora(rank=8)",)
    assert found.least.interval[0] < found.least.value < found.least.interval[1]


def timed(label, value, low, high):
    whole = cost(label)
    step = whole.step_seconds.model_copy(update={"ratio_to_baseline": value, "ratio_interval": (low, high)})
    return whole.model_copy(update={"step_seconds": step})


def test_the_least_time_is_one_method_and_says_which_others_it_cannot_be_told_from():
    results = of([timed("full", 1, 1, 1), timed("head", 0.4, 0.3, 0.5), timed("lora(rank=8)", 0.6, 0.45, 0.8)])
    found = need(results, "least training time")
    assert (found.least.methods, found.least.not_distinguished) == (("head",), ("lora(rank=8)",))
    assert (found.kind, found.unit, found.doubts) == ("timed", "s / s", ())


def test_a_time_whose_interval_says_nothing_is_never_the_least():
    found = need(of([timed("full", 1, 1, 1), timed("head", 0.4, 0.01, 14.0)]), "least training time")
    assert found.least.methods == ("full",)
    assert found.doubts == ("too few blocks of head",)


def test_times_of_a_noisy_machine_are_doubted():
    noisy = need(of([cost(label, noise=0.05) for label in FOUR]), "least training time")
    assert noisy.doubts == ("the A/A control was not quiet",)
    unchecked = need(of([cost(label, aa_control={}) for label in FOUR]), "least training time")
    assert unchecked.doubts == ("there is no A/A control",)


def test_a_run_where_no_step_ran_recommends_by_the_predicted_peak_and_by_no_time():
    figures = ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "latency_seconds",
               "peak_memory_bytes", "peak_memory_source")  # fmt: skip
    predicted = [
        cost(label, **dict.fromkeys(figures), aa_control={},
             predicted_peak_memory_bytes={"forward": 1, "backward": 2, "optimizer": 1, "step": size})
        for label, size in (("full", 9_000_000), ("lora(rank=8)", 5_000_000))
    ]  # fmt: skip
    found = need(of(predicted), "least memory")
    assert (found.figure, found.least.methods) == ("predicted_peak_memory_bytes.step", ("lora(rank=8)",))
    assert need(of(predicted), "least training time").least is None

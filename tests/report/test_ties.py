"""A tie is told as a tie: no sentence singles out one of several methods that share the highest or lowest figure."""

import pytest

from bench.analysis.recommend import as_good
from bench.analysis.results import Results
from bench.report.sections import claims, scores
from bench.store.store import Run
from bench.verdicts.claims import JudgedResults
from tests.factories.records import cost, curve, score, suite

FOUR = ("full", "lora(rank=8)", "ia3", "head")
ROUNDED = (0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1)
"""One number, added up in two orders."""


def judged(tmp_path, records, methods=FOUR):
    return JudgedResults(Run.of(tmp_path, suite(methods=list(methods), tasks=["sst2"]), tuple(records)))


def scored(points, seeds=range(5), **changes):
    """Scores of one task, points of 100 by label; the luck of a seed is shared by all."""
    return [
        score(label, "sst2", seed, flags=[], score=(value + 0.1 * seed) / 100, **changes)
        for label, value in points.items()
        for seed in seeds
    ]


def answer(results):
    (found,) = claims.answers(results, [])
    return found


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((90, 90, 90, 90), "whether any method scores better than the others: all 4 have the same mean, 90.2 points."),
        ((90, 90, 88, 80), "whether full, lora(rank=8) score best: they share the highest mean, 90.2 points."),
        ((80, 90, 90, 90),
         "whether lora(rank=8), ia3, head score best: they share the highest mean, 90.2 points, +10.0 against full."),
        ((90, 88, 87, 80), "whether full scores best: its mean is the highest, 90.2 points."),
    ],
)  # fmt: skip
def test_who_scores_best_where_that_is_not_decided(tmp_path, points, says):
    found = answer(judged(tmp_path, scored(dict(zip(FOUR, points, strict=True)), source="synthetic")))
    assert (found.says, found.reach) == (f"Not decided: {says}", "open")


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ((90, 90, 90, 90), "All 4 methods have the same mean score, 90.2 points."),
        ((90, 90, 88, 80), "full, lora(rank=8) share the highest mean score, 90.2 points."),
        ((90, 88, 87, 80), "The highest mean score is full's, 90.2 points."),
    ],
)
def test_who_scores_best_where_scores_carry_a_verdict(tmp_path, points, says):
    found = answer(judged(tmp_path, scored(dict(zip(FOUR, points, strict=True)), source="hub")))
    assert (found.says, found.reach) == (says, "bound")


def test_means_that_differ_by_rounding_alone_are_a_tie(tmp_path):
    assert ROUNDED[0] != ROUNDED[1]
    pairs = {"full": ROUNDED[0], "ia3": ROUNDED[1]}
    records = [score(label, "sst2", 0, flags=[], score=value) for label, value in pairs.items()]
    results = judged(tmp_path, records, tuple(pairs))
    assert "all 2 have the same mean" in answer(results).says
    (best,) = [row for row in claims.recommendations(results).blocks[0].rows if row.need == "best score"]
    assert best.pick.startswith("full, ia3, ") and "a tie of 2" in best.says


@pytest.mark.parametrize(
    ("methods", "ends"),
    [
        (("full", "bitfit", "ia3"), "0.50 x (bitfit, ia3)"),
        (("full", "bitfit", "ia3", "p_tuning"), "from 0.50 x (bitfit, ia3) to 0.67 x (p_tuning)"),
        (("full", "lst(reduction=8)", "pfeiffer_adapter", "parallel_adapter"),
         "from 0.03 x (lst(reduction=8)) to 0.52 x (pfeiffer_adapter, parallel_adapter)"),
        (("full", "lst(reduction=8)"), "0.03 x (lst(reduction=8))"),
    ],
)  # fmt: skip
def test_who_takes_the_least_and_the_most(tmp_path, methods, ends):
    found = claims.answers(judged(tmp_path, map(cost, methods), methods), [])
    assert found[0].says == f"Backward takes {ends} the FLOPs of full's."


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ({"full": 0, "ia3": 0, "head": 2}, ("full, ia3 reach", "20 steps")),
        ({"full": 2, "ia3": 2, "head": 2}, ("full, ia3, head reach", "60 steps")),
        ({"full": 1, "ia3": 0, "head": 2}, ("ia3 reaches", "20 steps, 2.0 s")),
    ],
)
def test_who_reaches_a_score_first(tmp_path, first, says):
    records = [
        score(label, "sst2", seed, source="hub", flags=[], score=0.9,
              curve=curve(*(90.0 if at >= place else 60.0 for at in range(3))))
        for label, place in first.items()
        for seed in range(3)
    ]  # fmt: skip
    text, _ = scores.reached_first(judged(tmp_path, records, tuple(first)))
    assert text == f"{says[0]} 99 % of full's score in the fewest steps on sst2: {says[1]}"


def test_methods_that_share_the_highest_mean_are_all_as_good_as_it_in_any_order(tmp_path):
    points = {"full": 90.0, "ia3": 90.0, "head": 80.0}
    wide = [3.0, -3.0, 2.0, -2.0, 0.0]  # so that neither is shown to lie within a point of the other
    records = [r for r in scored(points, source="hub") if r.method.label != "ia3"]
    records += [
        score("ia3", "sst2", seed, source="hub", flags=[], score=(90 + 0.1 * seed + wide[seed]) / 100)
        for seed in range(5)
    ]
    for methods in (("full", "ia3", "head"), ("ia3", "full", "head")):
        mine = sorted(records, key=lambda record: methods.index(record.method.label))
        found = as_good(Results(Run.of(tmp_path, suite(methods=list(methods), tasks=["sst2"]), tuple(mine))))
        assert sorted(found.methods) == ["full", "ia3"]

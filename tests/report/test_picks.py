"""A pick is a rule's answer to a need: its rule can be checked against the tables, and it hides no doubt."""

import pytest

from bench.report.render import markdown
from bench.report.sections.picks import picks
from bench.store.store import Run
from tests.factories.records import LABELS, cost, failed, glue_small, score, suite

FOUR = ("full", "lora(rank=8)", "houlsby_adapter", "head")
FIVE_SEEDS = (0, 1, 2, 3, 4)


def pick(run, need):
    return next(found for found in picks(run) if found.need == need)


def of(tmp_path, costs, scores=()):
    return Run.of(tmp_path, suite(methods=list(FOUR), cost=[{"batch": 32, "length": 64}]), (*costs, *scores))


def scores(points, seeds=FIVE_SEEDS, source="hub"):
    """Scores of one task by label, the luck of a seed shared by all methods."""
    return [
        score(label, "sst2", seed, source=source, score=(value + 0.2 * seed) / 100, flags=[])
        for label, value in points.items()
        for seed in seeds
    ]


POINTS = {"full": 90.0, "lora(rank=8)": 89.5, "houlsby_adapter": 88.7, "head": 80.0}


def test_every_need_has_one_pick_with_a_rule_of_one_sentence(tmp_path):
    found = picks(glue_small(tmp_path))
    assert [p.need for p in found] == ["least memory", "no latency", "best score", "least storage", "least time a step"]
    assert all(p.rule.endswith(".") and p.rule.count(". ") == 0 for p in found)
    assert all(label in LABELS for p in found for label in p.methods)


def test_least_memory_passes_over_a_cheaper_method_whose_score_is_too_low(tmp_path):
    found = pick(of(tmp_path, map(cost, FOUR), scores(POINTS)), "least memory")
    assert found.methods == ("lora(rank=8)",)  # head holds less, but scores ten points less
    assert found.why == "301 MB; next full, 512 MB"
    assert "at most 1 point below the best" in found.rule
    assert "32 x 64 tokens" in found.rule


def test_without_scores_least_memory_is_the_lowest_of_all_and_says_so(tmp_path):
    found = pick(of(tmp_path, map(cost, FOUR)), "least memory")
    assert found.methods == ("head",)
    assert found.rule == "Lowest peak memory (counted) of a training step at 32 x 64 tokens, among all methods."


def test_a_tie_is_shared_and_said(tmp_path):
    found = pick(of(tmp_path, [cost("pfeiffer_adapter"), cost("parallel_adapter"), cost("full")]), "least storage")
    assert found.methods == ("pfeiffer_adapter", "parallel_adapter")
    assert "a tie of 2" in found.why


def test_two_figures_that_print_alike_are_told_apart(tmp_path):
    near = {"forward": 1, "backward": 1, "optimizer": 1, "step": 301_010_000}
    found = pick(of(tmp_path, [cost("lora(rank=8)"), cost("houlsby_adapter", peak_memory_bytes=near)]), "least memory")
    assert found.why.startswith("301.00 MB; next houlsby_adapter, 301.01 MB")


def test_a_missing_figure_is_said_and_never_wins(tmp_path):
    run = of(tmp_path, [cost("full"), cost("lora(rank=8)"), cost("houlsby_adapter"), failed(cost("head"))])
    assert pick(run, "least memory").methods == ("lora(rank=8)",)
    assert "not known of head" in pick(run, "least memory").why


def test_a_method_with_fewer_scores_has_another_mean_and_is_left_out(tmp_path):
    lucky = scores(POINTS | {"head": 99.0})[:-1]
    run = of(tmp_path, map(cost, FOUR), lucky)
    assert pick(run, "best score").methods[0] == "full"
    assert "left out, without all scores: head" in pick(run, "best score").why


def test_no_latency_is_structure_alone_ordered_by_score(tmp_path):
    found = pick(of(tmp_path, map(cost, FOUR), scores(POINTS)), "no latency")
    assert found.methods == ("full", "lora(rank=8)", "head")
    assert found.why == "mean score full 90.4, lora(rank=8) 89.9, head 80.4"


def test_of_many_methods_a_sentence_names_the_first_and_counts_the_rest(tmp_path):
    many = [f"lora(rank={rank})" for rank in range(11, 19)]
    found = pick(of(tmp_path, map(cost, ["full", *many]), scores(dict.fromkeys(["full", *many], 90.0))), "no latency")
    assert len(found.methods) == 9
    assert found.named == "full, lora(rank=11), lora(rank=12), lora(rank=13), lora(rank=14) and 4 more"
    assert found.why.count("lora") == 4 and found.why.endswith(" and 4 more")
    six = pick(of(tmp_path, map(cost, many[:6])), "no latency")
    assert six.named == ", ".join(many[:6])  # the count of one would be no shorter than its name


def test_a_merge_that_is_not_the_base_adds_latency(tmp_path):
    other = {"modules": True, "parameters": True, "op_trace": False, "flops": True}
    run = of(tmp_path, [cost("full"), cost("lora(rank=8)", merged_equals_base=other)])
    assert pick(run, "no latency").methods == ("full",)


def test_best_score_holds_all_that_luck_cannot_tell_from_the_highest(tmp_path):
    wavering = [
        score("lora(rank=8)", "sst2", seed, source="hub", score=0.9 + (-0.01 if seed % 2 else 0.008), flags=[])
        for seed in FIVE_SEEDS
    ]
    rest = {label: value for label, value in POINTS.items() if label != "lora(rank=8)"}
    found = pick(of(tmp_path, (), [*scores(rest), *wavering]), "best score")
    assert found.methods == ("full", "lora(rank=8)")
    assert found.why == "full 90.4, 1 not told from it"


@pytest.mark.parametrize(
    ("changed", "doubt"),
    [
        (scores(POINTS, seeds=(0, 1, 2)), "3 seeds"),
        (scores(POINTS, source="synthetic"), "synthetic data"),
        ([r.model_copy(update={"flags": ("still_improving",)}) for r in scores(POINTS)], "still improving"),
    ],
)
def test_doubtful_scores_carry_no_verdict_in_any_pick_that_uses_them(tmp_path, changed, doubt):
    found = picks(of(tmp_path, map(cost, FOUR), changed))
    assert all(f"no verdict on scores: {doubt}" in p.why for p in found)
    sound = picks(of(tmp_path, map(cost, FOUR), scores(POINTS)))
    assert not any("no verdict" in p.why for p in sound)


def test_a_time_on_a_noisy_machine_carries_no_verdict(tmp_path):
    quiet, noisy = [pick(glue_small(tmp_path, noise=noise), "least time a step") for noise in (0.002, 0.05)]
    assert "no verdict on times" not in quiet.why
    assert "no verdict on times: the A/A control was not quiet" in noisy.why


def test_a_counted_run_picks_by_the_predicted_peak_and_by_no_time(tmp_path):
    peak = {"forward": 1, "backward": 2, "optimizer": 1}
    untimed = dict.fromkeys(
        ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "latency_seconds",
         "peak_memory_bytes", "peak_memory_source")
    )  # fmt: skip
    counted = [
        cost(label, **untimed, aa_control={}, predicted_peak_memory_bytes=peak | {"step": size})
        for label, size in (("full", 9_000_000), ("lora(rank=8)", 5_000_000))
    ]
    run = of(tmp_path, counted)
    assert pick(run, "least memory").methods == ("lora(rank=8)",)
    assert "predicted peak memory" in pick(run, "least memory").rule
    assert pick(run, "least time a step").why == "no step was timed"


def test_a_run_without_figures_picks_nothing(tmp_path):
    assert picks(of(tmp_path, ())) == []


def test_the_report_shows_need_pick_figures_and_rule(tmp_path):
    text = markdown.write(glue_small(tmp_path)).read_text()
    (section,) = [part for part in text.split("\n## ") if part.startswith("I need")]
    assert "| least memory | head |" not in section
    assert all(f"| {p.need} | " in section for p in picks(glue_small(tmp_path)))
    assert "no verdict on scores: 3 seeds, synthetic data" in section

"""Recommendations in words: the least of all methods first, beside it the least of those shown to score as well."""

import pytest

from bench.analysis.results import Results
from bench.report.document import Choices
from bench.report.sections import claims
from bench.store.store import Run
from tests.factories import reports
from tests.factories.records import LABELS, cost, failed, glue_small, score, suite

FOUR = ("full", "lora(rank=8)", "houlsby_adapter", "head")
POINTS = {"full": 90.0, "lora(rank=8)": 89.5, "houlsby_adapter": 88.7, "head": 80.0}


def of(tmp_path, costs, scores=()):
    return Run.of(tmp_path, suite(methods=list(FOUR), cost=[{"batch": 32, "length": 64}]), (*costs, *scores))


def scores(points, seeds=range(5), source="hub"):
    """Scores of one task by label, the luck of a seed shared by all methods."""
    return [
        score(label, "sst2", seed, source=source, score=(value + 0.2 * seed) / 100, flags=[])
        for label, value in points.items()
        for seed in seeds
    ]


def choices(run):
    section = claims.recommendations(Results(run))
    return {row.need: row for block in section.blocks if isinstance(block, Choices) for row in block.rows}


def test_every_need_has_one_row_with_a_rule_of_one_sentence(tmp_path):
    rows = choices(glue_small(tmp_path))
    assert list(rows) == [
        "least memory", "least storage", "least training time", "least latency", "fewest trainable parameters",
        "best score",
    ]  # fmt: skip
    assert all(row.rule.endswith(".") and row.rule.count(". ") == 0 for row in rows.values())
    assert all(label in LABELS for row in rows.values() for label in row.methods)


def test_the_least_of_all_is_named_and_beside_it_the_least_that_is_shown_to_score_as_well(tmp_path):
    row = choices(of(tmp_path, map(cost, FOUR), scores(POINTS)))["least memory"]
    assert row.pick == "head, 95.0 MB"
    assert "of those that are shown not to score over 1 point worse than the best: lora(rank=8), 301 MB" in row.says
    assert row.methods == ("head", "lora(rank=8)")
    assert "Lowest peak memory (counted) of a training step at 32 x 64 tokens, among all methods" in row.rule


def test_a_rule_names_its_shape_whole_where_another_has_the_same_size(tmp_path):
    records = [cost(label) for label in FOUR]
    text = {"objective": "text", "loss": "chunked"}
    others = [one.model_copy(update={"id": f"{one.id}-text", "shape": one.shape.model_copy(update=text)})
              for one in records]  # fmt: skip
    rule = choices(of(tmp_path, [*records, *others]))["least memory"].rule
    assert "at 32 x 64 tokens, classes, float32" in rule


@pytest.mark.parametrize(
    ("changed", "doubt"),
    [(scores(POINTS, seeds=range(3)), "3 seeds (5 needed)"), (scores(POINTS, source="synthetic"), "synthetic data")],
)
def test_scores_without_a_verdict_took_no_part_and_it_is_said(tmp_path, changed, doubt):
    rows = choices(of(tmp_path, map(cost, FOUR), changed))
    assert f"scores took no part: {doubt}" in rows["least memory"].says
    assert rows["least memory"].methods == ("head",)
    assert f"not decided: {doubt}" in rows["best score"].says


def test_noise_is_never_rewarded(tmp_path):
    wide = [
        score("head", "sst2", seed, source="hub", score=0.8 + 0.2 * (seed % 2), flags=[]) for seed in range(5)
    ]  # its interval holds 0, its mean lies points below
    rest = {label: value for label, value in POINTS.items() if label != "head"}
    assert "head" not in choices(of(tmp_path, map(cost, FOUR), [*scores(rest), *wide]))["best score"].methods


def test_two_figures_that_print_alike_are_told_apart(tmp_path):
    near = {"forward": 1, "backward": 1, "optimizer": 1, "step": 301_010_000}
    row = choices(of(tmp_path, [cost("lora(rank=8)"), cost("houlsby_adapter", peak_memory_bytes=near)]))["least memory"]
    assert (row.pick, row.says.partition(";")[0]) == ("lora(rank=8), 301.00 MB", "next houlsby_adapter, 301.01 MB")


def test_ties_and_missing_figures_are_said(tmp_path):
    run = of(tmp_path, [cost("pfeiffer_adapter"), cost("parallel_adapter"), failed(cost("head"))])
    row = choices(run)["least storage"]
    assert row.pick.startswith("pfeiffer_adapter, parallel_adapter, ")
    assert "a tie of 2" in row.says and "not known of full, lora(rank=8), houlsby_adapter, head" in row.says


def test_a_time_on_a_noisy_machine_is_not_decided(tmp_path):
    quiet, noisy = [choices(glue_small(tmp_path, noise=noise))["least training time"].says for noise in (0.002, 0.05)]
    assert "A/A control" not in quiet
    assert "not decided: the A/A control was not quiet" in noisy


def test_of_many_methods_a_sentence_names_the_first_and_counts_the_rest(tmp_path):
    many = [f"lora(rank={rank})" for rank in range(11, 19)]
    row = choices(of(tmp_path, map(cost, ["full", *many])))["least latency"]
    assert len(row.methods) == 9
    assert "lora(rank=14) and 4 more, exactly 1 x" in row.pick


def test_a_run_without_figures_recommends_nothing(tmp_path):
    assert claims.recommendations(Results(of(tmp_path, ()))) is None


def test_the_reports_show_need_pick_figures_and_rule(tmp_path):
    run = glue_small(tmp_path)
    text, page = reports.markdown(run), reports.page(run)
    for row in choices(run).values():
        assert f"| {row.need} | {row.pick.partition(',')[0].replace('*', '')}" in text
        assert row.need in page

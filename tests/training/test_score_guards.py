"""What makes a comparison of scores unfair or unsure stands beside it, on the screen and in both reports."""

from dataclasses import replace

import pytest

from bench.analysis.results import Results
from bench.report.sections import caveats
from bench.report.sections import overview as facts
from bench.report.sections.scores import probability
from bench.schema.record import Tuning
from bench.verdicts.gate import check, verdict
from bench.verdicts.reference import figures_of, reference_of
from tests.factories import reports
from tests.factories.records import glue_small

SEARCH = {"trials": 12, "seeds": 1, "steps": 60, "selection_rows": 256}


def told(run):
    """What the screen, report.md and report.html say, each in one line."""
    texts = (reports.screen(run), reports.markdown(run), reports.page(run))
    return [" ".join(text.split()) for text in texts]


def changed(run, change):
    """``run`` with ``change(record)`` for every score."""
    return replace(run, records=tuple(change(r) if r.kind == "score" else r for r in run.records))


def searched(run, *labels):
    search = Tuning(**SEARCH)
    return changed(run, lambda r: r.model_copy(update={"tuning": search if r.method.label in labels else None}))


@pytest.fixture
def run(tmp_path):
    return glue_small(tmp_path, source="hub", seeds=range(5), labels=["full", "ia3"])


def test_rates_that_nobody_searched_for_are_said_to_be_so(run):
    for text in told(run):
        assert "not searched for, as the suite has them" in text


def test_a_search_is_told_with_its_size(run):
    for text in told(searched(run, "full", "ia3")):
        assert "12 trials each (1 seed, 60 steps, 256 selection rows)" in text
        assert "UNEQUAL" not in text


def test_unequal_searches_are_warned_of(run):
    unfair = searched(run, "ia3")
    line = "UNEQUAL SEARCH: 12 trials (1 seed, 60 steps, 256 selection rows) for ia3; not searched for full"
    for text in told(unfair):
        assert line in text
    assert "Give every method the same search" in told(unfair)[1]
    assert "unequal search" in {doubt.kind for doubt in caveats.caveats(Results(unfair))}
    more = Tuning(**SEARCH | {"trials": 4})
    both = changed(searched(run, "full", "ia3"), lambda r: r.model_copy(
        update={"tuning": more if r.method.label == "full" else r.tuning}))  # fmt: skip
    assert facts.unequal_search(Results(both)) and not facts.unequal_search(Results(searched(run, "full", "ia3")))


def test_what_test_rows_share_with_training_stands_with_the_scores(run):
    seen = {"overlap": 3, "overlap_ngrams": 41, "notes": ("near the pretraining objective",)}
    found = told(changed(run, lambda r: r.model_copy(update={"task": r.task.model_copy(update=seen)})))
    for text in found:
        assert "sst2: 3 of 500 test texts also found in training" in text
        assert "mrpc: 41 of 500 test rows share 8 words in a row with a training text" in text
        assert "sst2: near the pretraining objective" in text
        assert "ackbone: trained on SNLI, MultiNLI and QQP" in text
    for text in found[1:]:
        assert "3 found in training, 41 share 8 words" in text


def test_what_was_not_counted_is_not_called_none(run):
    terminal_text, report, page = told(run)
    assert "share 8 words" not in terminal_text
    for text in (report, page):
        assert "0 found in training, 8-word overlap not counted" in text


def flagged(run, label, flag):
    return changed(run, lambda r: r.model_copy(update={"flags": (flag,)}) if r.method.label == label else r)


@pytest.mark.parametrize("flag", ["did_not_learn", "still_improving"])
@pytest.mark.parametrize("label", ["full", "ia3"])
def test_a_flag_on_either_side_takes_the_verdict_away_everywhere(run, label, flag):
    claim = {"name": "c", "says": "IA3 scores as full", "metric": "score", "method": ["ia3"], "versus": "full",
             "difference": {"min": -50.0, "max": 50.0}}  # fmt: skip
    claimed = replace(run, suite=run.suite.changed(claims=[claim]))
    assert "pass IA3 scores as full" in told(claimed)[0]
    doubtful = flagged(claimed, label, flag)
    words = flag.replace("_", " ")
    assert "? Not decided: whether IA3 scores as full" in told(doubtful)[0]
    table = Results(doubtful).score_table
    assert not table.loc["ia3", "verdict"] and words in " ".join(table.loc["ia3", "why"])
    screen, report, page = told(doubtful)
    why = words if label == "ia3" else f"full {words}"
    assert f"inconclusive: {why}" in screen and f"inconclusive: {why}" in report
    assert f"Inconclusive: {why}." in page


@pytest.mark.parametrize("flag", ["did_not_learn", "still_improving"])
def test_a_flagged_score_passes_no_gate_but_may_fail_one(run, flag):
    def lowered(points):
        shifted = changed(run, lambda r: r.model_copy(update={"score": r.score - points / 100}))
        return flagged(shifted, "ia3", flag)

    def gate(run, reference):
        results = Results(run)
        return check(results, figures_of(results), reference)

    reference = reference_of(Results(run))
    decided = {c.name: c for c in gate(lowered(0.2), reference)}
    assert decided["score of full"].verdict == "pass"
    assert decided["score of ia3"].verdict == "inconclusive"
    assert flag.replace("_", " ") in decided["score of ia3"].lines[0]
    assert verdict(gate(lowered(3.0), reference)) == "fail"
    same = flagged(run, "ia3", flag)
    assert verdict(gate(same, reference)) == "pass"  # the very same figures


def test_the_likeliest_best_method_is_named_with_its_marks(tmp_path):
    run = glue_small(tmp_path, source="hub", seeds=range(5))
    table = Results(run).fronts([]).table
    assert table["best"].sum() == pytest.approx(1)
    assert table["best"].idxmax() == "full"
    assert f"best highest mean score, with probability: full {probability(table['best'].max())}" in told(run)[0]
    few = glue_small(tmp_path, source="hub", seeds=range(2))
    assert "best highest mean score" not in told(few)[0]


def test_exports_hold_the_search_the_ranks_and_the_readings(run, tmp_path):
    table = Results(searched(run, "full", "ia3")).figures
    scored, standing = table[table["kind"] == "score"], table[table["kind"] == "standing"].set_index("method")
    assert set(scored["search_trials"]) == {12}
    assert standing.loc["full", "average_rank"] < standing.loc["ia3", "average_rank"]
    assert standing["best_probability"].sum() == pytest.approx(1)
    assert standing.loc["ia3", "score_mean_points"] < standing.loc["full", "score_mean_points"]

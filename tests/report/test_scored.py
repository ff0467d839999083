"""Of a suite that scores some of its methods, reports show a dash for the others and say why."""

import dataclasses

from bench.verdicts.claims import load_results
from tests.factories import reports
from tests.factories.records import LABELS, glue_small, suite

SCORED = ["full", "head", "lora(rank=8)"]


def made(folder, seeds=(0, 1, 2, 3, 4)):
    run = glue_small(folder, source="index", seeds=seeds)
    kept = tuple(r for r in run.records if r.kind == "cost" or r.method.label in SCORED)
    asked = suite(seeds=list(seeds), methods=list(LABELS), scored=SCORED, data={"kind": "index", "reason": "here"})
    return dataclasses.replace(run, suite=asked, records=kept)


def test_the_head_line_and_the_progress_count_what_is_scored(tmp_path):
    page = reports.markdown(made(tmp_path))
    assert "13 methods · all-MiniLM-L6-v2 22.6 M · 3 of them on 2 tasks x 5 seeds" in page
    assert "30/30 ok" in page
    assert "not run yet" not in page


def test_a_method_that_is_not_scored_has_a_dash_and_the_reason(tmp_path):
    results = load_results(made(tmp_path))
    assert results.scored == SCORED
    row = results.score_table.loc["ia3"]
    assert (row["n"], row["why"], row["verdict"]) == (0, ("not scored, as the suite asks",), False)
    page = reports.markdown(made(tmp_path))
    assert "not scored, as the suite asks: bitfit, houlsby_adapter" in page
    scored = page[page.index("## Scores") :]
    cells = next(line for line in scored.splitlines() if line.startswith("| ia3")).split(" | ")
    assert cells[1:6] == ["-", "0", "0", "-", "0"]
    assert cells[-1] == "not scored, as the suite asks |"


def test_ranks_and_recommendations_are_of_the_scored_alone(tmp_path):
    results = load_results(made(tmp_path))
    table = results.fronts([]).table
    assert list(table.index[table["compared"]]) == SCORED
    assert table.loc["ia3", "why"] == ("not scored, as the suite asks",)
    assert "10 methods not scored, as the suite asks" in reports.markdown(made(tmp_path))
    assert "too few seeds" not in reports.markdown(made(tmp_path))


def test_a_claim_about_scores_of_others_is_not_asked(tmp_path):
    run = made(tmp_path)
    claims = [
        {"name": name, "says": "It keeps the score", "metric": "score", "method": [label], "versus": "full",
         "difference": {"min": -1.0}}
        for name, label in (("lora", "lora(rank=8)"), ("ia3", "ia3"))
    ]  # fmt: skip
    asked = run.suite.model_copy(update={"claims": claims})
    results = load_results(dataclasses.replace(run, suite=asked))
    assert [judged.claim.name for judged in results.judgements] == ["lora"]

"""The page about forgetting says what the records of its run say, in both languages alike."""

import dataclasses
import re

import pytest

from bench.analysis.sweeps import shares
from bench.report.charts import catalogue
from bench.report.charts.canvas import styled
from bench.report.charts.sheet import Sheet
from bench.report.charts.sweeps import against_share
from bench.schema.record import Mixed, Retention
from tests.factories.records import results, score
from tools.answers import forgetting
from tools.answers.words import chinese, english, page

FORGOTTEN = {0.0: 0.5, 0.1: 0.2, 0.25: 0.04}
"""Bits per byte of full by share of general text; LoRA forgets half of that."""


def arm(method, share, hold, seed):
    """A record of one seed; a share costs ten points for each quarter of the rows."""
    held = "" if hold == "total" else ", hold='domain'"
    label = f"{method}(mix={share}{held})" if share else method
    bits = FORGOTTEN[share] * (1 if method == "full" else 0.5)
    read = Retention(before=1.0, after=1.0 + bits, bytes=1500, context=256, sha256="0" * 64)
    rows = {"general_rows": round(80 * share), "domain_rows": 80 - round(80 * share) if hold == "total" else 80}
    mix = {"text": "editorials", "share": share, "hold": hold, "length": 32} | rows
    mixed = Mixed(text="editorials", sha256="0" * 64, bytes=9, general_targets=31 * rows["general_rows"],
                  domain_targets=11 * rows["domain_rows"], **rows)  # fmt: skip
    made = score(label, "dates", seed, source="generated", content="c", flags=[], score=0.4 - 0.4 * share)
    way = {"step": 10, "seconds": 1.0, "score": 0.1, "loss": 2.0, "rows": 40, "tokens": 40, "token_squares": 40,
           "retention": {"editorials": 1.1, "product-reviews": 1.1}}  # fmt: skip
    values = made.model_dump(by_alias=True) | {
        "retention": {"editorials": read, "product-reviews": read}, "backbone_kept": method != "full",
        "mixed": mixed if share else None, "recipe": made.recipe | {"steps": 20} | ({"mix": mix} if share else {}),
        "curve": [way], "metrics": {"exact_match": made.score, "answer_nats": 0.5},
    }  # fmt: skip
    return type(made).model_validate(values)


@pytest.fixture(scope="module")
def run():
    arms = [(method, share, hold) for method in ("full", "lora") for share in FORGOTTEN
            for hold in ("total", "domain") if share or hold == "total"]  # fmt: skip
    records = [arm(*one, seed) for seed in (0, 1, 2) for one in arms]
    claim = {"name": "less", "says": "LoRA forgets less", "metric": "retention.editorials", "method": "lora",
             "versus": "full", "difference": {"max": 0.0}}  # fmt: skip
    return results(records, dict.fromkeys(record.method.label for record in records), tasks=["dates"], claims=[claim],
                   data={"kind": "generated", "reason": ""})  # fmt: skip


def test_arms_are_read_with_their_shares_their_rows_and_what_they_forget(run):
    found = {arm.label: arm for arm in forgetting.found(run)}
    bare, total, domain = (found[f"lora{end}"] for end in ("", "(mix=0.25)", "(mix=0.25, hold='domain')"))
    assert (bare.share, total.share, domain.share) == (0, 0.25, 0.25)
    assert {arm.method for arm in found.values()} == {"full", "lora"}
    assert (bare.rows, total.rows, domain.rows) == (1, 1, 1.25)
    assert bare.mean == pytest.approx(0.25)
    assert total.forgotten == pytest.approx({"editorials": 0.02, "product-reviews": 0.02})
    assert total.targets == pytest.approx(31 * 20 / (31 * 20 + 11 * 60))
    assert (bare.score, total.score) == pytest.approx((40, 30))


def test_the_answer_names_the_share_that_is_enough_and_what_it_costs(run):
    said = forgetting.page_of(english, run)
    reached = "full fine-tuning reaches 40.0 points and forgets +0.500 bits per byte, LoRA 40.0 and +0.250."
    enough = (
        "For `lora` 25 % of the rows is enough to forget a tenth of that or less; the score changes by -10.0 points."
    )
    assert reached in said.sentence
    assert enough in said.sentence
    assert said.tag == "scores: 3 seeds, no verdict"


def test_a_share_that_is_not_enough_and_nothing_to_forget_are_said(run):
    arms = [arm for arm in forgetting.found(run) if arm.share < 0.25]
    assert "For `full` no share up to 10 % leaves a tenth" in forgetting._enough(english, arms)
    kept = [dataclasses.replace(arm, forgotten={"editorials": -0.1}) for arm in arms]
    assert "`lora` forgets nothing to begin with." in forgetting._enough(english, kept)


def test_both_languages_say_the_same_figures_and_every_section_has_its_text(run):
    pages = [page(say, forgetting.page_of(say, run), forgetting.NAME) for say in (english, chinese)]
    figures = [sorted(re.findall(r"\d+\.\d+", text)) for text in pages]
    assert figures[0] == figures[1]
    assert "| `lora` | 25 % | 41 % | x 1.25 | 30.0 | 0.50 | +0.020 | +0.020 |" in pages[0]
    assert "under `lora`: switched off, nothing is forgotten" in pages[0]
    assert "Not so under `full`" in pages[0]
    assert "On the front, with nobody who forgets less and scores better: `lora`" in pages[0]


@pytest.mark.usefixtures("svg_alone")
def test_the_figures_of_the_page_are_drawn_from_its_records(run, tmp_path):
    paths = [path.name for path in catalogue.draw(run.run, into=tmp_path)]
    assert {"score-retention.svg", "retention-share.svg"} <= {*paths}
    assert "bits per byte after training" in (tmp_path / "score-retention.svg").read_text()
    text = (tmp_path / "retention-share.svg").read_text()
    assert "product-reviews: bits per byte forgotten" in text
    assert "lora, in place of rows of the task" in text
    assert "full, beside all of them" in text


def test_the_curves_over_shares_go_through_what_the_records_say(run):
    assert [(one.label, one.hold, [*one.labels]) for one in shares(run)] == [
        (method, hold, [0.0, 0.1, 0.25]) for method in ("full", "lora") for hold in ("total", "domain")
    ]
    with styled():
        forgotten, _, score = against_share(Sheet(run)).axes
    for factor, line in zip((1, 1, 0.5, 0.5), forgotten.lines, strict=True):
        assert dict(zip(*line.get_data(), strict=True)) == pytest.approx(
            {share: factor * bits for share, bits in FORGOTTEN.items()}
        )
    assert all(line.get_ydata() == pytest.approx((40, 36, 30)) for line in score.lines)
    assert [line.get_linestyle() for line in score.lines] == ["-", "--", "-", "--"]


def test_a_run_without_a_mix_or_without_the_bare_method_has_no_figure_of_shares():
    assert shares(results([arm("lora", 0.0, "total", 0)], ["lora"], tasks=["dates"])) == []
    alone = results([arm("lora", 0.1, "total", 0)], ["lora(mix=0.1)"], tasks=["dates"])
    assert shares(alone) == []
    assert against_share(Sheet(alone)) is None

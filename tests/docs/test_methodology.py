"""METHODOLOGY, BIAS and the page on claims: every figure has its heading, every number is that of code and records."""

import re
from pathlib import Path

import pytest

from bench.analysis.curves import LENGTHS, NEAR
from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS
from bench.analysis.sweeps import HOLDS
from bench.count import memory
from bench.models import backbone
from bench.schema.claims import EXTRA_SECONDS, LOOKS
from bench.schema.figures import TERMS
from bench.schema.suite import CostTable
from bench.stats import intervals as control
from bench.stats.intervals import QUIET
from bench.stats.resampling import FEWEST_SEEDS, RESAMPLES
from bench.store.store import read_run
from bench.timing import clock as training
from bench.timing import inference as latency
from bench.training import evaluate as score
from tools import claim_errors

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "METHODOLOGY.md").read_text()
CLAIMS = (ROOT / "docs/claims.md").read_text()
BIAS = (ROOT / "BIAS.md").read_text()
CONTROL = " ".join((ROOT / "bench/stats/intervals.py").read_text().split())
HEADINGS = re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)
WORDS = {2: "twice", 3: "three", 5: "five", 8: "eight"}


def section(heading):
    """Text below a heading, up to the next one of any level."""
    return re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.MULTILINE | re.IGNORECASE)[1].partition("\n#")[0]


@pytest.mark.parametrize("figure", list(TERMS))
def test_every_figure_of_a_report_has_a_paragraph_under_its_name(figure):
    assert figure.lower() in [heading.lower() for heading in HEADINGS]
    assert len(section(figure).split()) >= 15


def test_no_heading_stands_twice_and_those_that_reports_link_to_are_there():
    assert len(HEADINGS) == len(set(HEADINGS))
    assert {term.chapter for term in TERMS.values()} <= {*HEADINGS}


NUMBERS = {
    "A/A control": "{} - {}".format(*QUIET),
    "Difference": f"Fewer than {WORDS[MIN_SEEDS]} seeds",
    "Switch": f"median of {WORDS[latency.SWITCHES]} loads",
    "On the front": f"{RESAMPLES:,} bootstrap draws",
    "Over test rows": f"{RESAMPLES:,} draws of test rows",
    "Cost to reach": f"{NEAR:.0%} of the baseline's mean".replace("%", " %"),
    "Training FLOPs": f"at {WORDS[LENGTHS]} lengths",
    "Rank at searched rates": f"from {WORDS[FEWEST_SEEDS]} seeds on",
    "Times": f"shorter than {1000 * training.SHORT_SECONDS:.0f} ms",
    "times": "{}, {}, {} or {} times".format(*training.REPEATS[1:]),
    "Peak memory (counted)": f"rounded to {memory.ROUNDING} bytes",
    "Grows as": f"more than {HOLDS:.1%}".replace("%", " %"),
    "Latency": "of {} and of {} rows unless".format(*CostTable.model_fields["latency_batches"].default),
}
"""Heading, in any case, and what its text must say for what the code does."""


@pytest.mark.parametrize(("heading", "says"), list(NUMBERS.items()), ids=list(NUMBERS))
def test_a_number_of_the_text_is_that_of_the_code(heading, says):
    assert says in section(heading)


def test_the_numbers_of_the_pages_on_claims_and_bias_are_those_of_the_code():
    assert f"{WORDS[LOOKS]} times as many at most, for {EXTRA_SECONDS:.0f} seconds at most" in CLAIMS
    assert f"{WORDS[int(control.WIDENING)]} the far end" in CLAIMS
    assert "{} - {}".format(*QUIET) in CLAIMS
    assert f"pools of {WORDS[score.POOL]} batches" in BIAS


def test_the_bias_section_names_the_shape_of_the_side_network_on_both_backbones():
    _, minilm = backbone.SHAPES["minilm-l6"]
    assert "six layers, 384 wide" in BIAS
    assert (minilm["num_hidden_layers"], minilm["hidden_size"]) == (6, 384)
    widths = [minilm["hidden_size"] // minilm["num_attention_heads"] // 8, 768 // 12 // 8]
    assert "{} wide on MiniLM and {} on bert-base".format(*widths) in BIAS


def test_the_ladder_s_times_in_the_bias_section_are_those_of_the_records():
    def row(run):
        return Results(read_run(ROOT / "results/published" / run)).cost_table().loc["lst(reduction=8)"]

    one, two = row("cost-minilm"), row("cost-minilm-two-threads")
    times = f"two threads ({two.backward_ratio:.3f} of full's backward) than on one ({one.backward_ratio:.3f})"
    assert times in BIAS
    assert f"at {one.flops_backward_ratio:.3f} of the FLOPs" in BIAS


@pytest.mark.parametrize("run", ["glue-small", "cost-minilm", "cost-minilm-two-threads", "cost-bert-base"])
def test_some_control_of_every_published_run_leaves_its_band_as_the_bias_section_says(run):
    assert not Results(read_run(ROOT / "results/published" / run)).controls().quiet.all()


def test_the_shares_of_wrong_verdicts_are_those_of_the_simulated_page():
    def rows(text):
        cells = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "
        )
        return {found[0]: found[1:3] for found in cells if "widened" in found[0]}

    page = rows((ROOT / "docs/claim-errors.md").read_text())
    assert rows(CLAIMS) == page
    assert list(page) == [*claim_errors.RULES, claim_errors.STOPS]
    few, much = (re.findall(r"\d+", share)[-1] for share in page[claim_errors.STOPS])
    assert f"in {few} % of runs at most" in CONTROL and f"in {much} %" in CONTROL


def test_a_claim_at_its_bound_passes_seldom_where_builds_differ():
    """A part of that simulation, small enough to run here."""
    job = (claim_errors.Machine(0.01, builds=2.0), 6, 0.0, 150)
    found = claim_errors.shares(job)
    assert max(found["not widened"]) > 0.1
    assert max(found[claim_errors.STOPS]) < 0.08
    assert found == claim_errors.shares(job)

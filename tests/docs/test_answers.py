"""The pages under docs/answers are what the committed records say, in both languages alike."""

import re
from pathlib import Path

import pytest

from bench.analysis.results import Results
from bench.plan.load import suite_names
from bench.report.sections.claims import tell
from bench.verdicts.claims import JudgedResults
from tools.answers.__main__ import PAGES, write
from tools.answers.words import AGAIN, costs, published

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "answers"
NAMES = [module.NAME for module in PAGES]
FILES = [f"{name}{ending}" for name in NAMES for ending in (".md", ".zh.md")]


def text(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_documented_command_writes_exactly_the_committed_pages(tmp_path):
    write(tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written.keys() == {path.name for path in FOLDER.iterdir()}
    stale = [name for name, made in written.items() if text(name) != made]
    assert not stale, f"write them again: {AGAIN}"


@pytest.mark.parametrize("name", FILES)
def test_a_page_opens_with_its_answer_and_how_far_it_holds_and_the_command_under_it(name):
    parts = text(name).split("\n\n")
    assert parts[0].startswith("# ")
    assert re.fullmatch(r"\*\*.+\*\* `[^`]+`", parts[3])
    assert re.match(r"```\npython -m bench run --suite", parts[5])


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_of_a_page_is_one_of_the_project(name):
    (command,) = re.findall(r"^python -m (.+)$", text(f"{name}.md"), flags=re.MULTILINE)
    words = command.split()
    assert words[words.index("--suite") + 1] in suite_names()


@pytest.mark.parametrize("name", [*NAMES, "README"])
def test_both_languages_say_the_same_figures(name):
    english, chinese = (
        sorted(re.findall(r"\d+\.\d+", text(f"{name}{ending}"))) for ending in (".md", ".zh.md")
    )  # fmt: skip
    assert english == chinese


@pytest.mark.parametrize("name", [*FILES, "README.md", "README.zh.md"])
def test_every_link_of_the_pages_leads_somewhere(name):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text(name)):
        assert (FOLDER / target).exists(), target


def test_methods_that_are_not_timed_at_512_tokens_infer_as_one_that_is():
    run = published("why-latency")
    at = {length: {r.method.name: r for r in costs(run, length).values()} for length in (128, 512)}
    like = {"rslora": "lora", "lora_plus": "lora", "lora_fa": "lora", "pissa": "lora", "p_tuning_v2": "prefix_tuning"}
    for name, other in like.items():
        assert name not in at[512] and other in at[512]
        assert at[128][name].inference == at[128][other].inference
    assert at[128]["head"].inference.unmerged == at[128]["head"].inference.base
    assert at[128].keys() - at[512].keys() == {*like, "head", "prompt_tuning", "p_tuning"}


@pytest.mark.parametrize("name", ["where-is-the-efficiency-decoder", "why-latency-decoder"])
def test_every_exact_claim_of_the_decoder_halves_holds(name):
    told = tell(JudgedResults(published(name)))
    exact = [claim for claim in told if "exact" in claim.row.line]
    assert len(exact) >= 10
    assert {claim.verdict for claim in exact} == {"pass"}


def test_what_merges_into_a_decoder_reads_and_writes_as_the_base_does():
    run = published("why-latency-decoder")
    merging = {"lora", "dora", "ia3"}
    counted = [r for r in Results(run).cost_records if r.decode is not None and r.method.name in merging]
    assert {record.method.name for record in counted} == merging
    for record in counted:
        for figures in (record.prefill, record.decode, record.kv_cache):
            assert figures.merged == figures.base

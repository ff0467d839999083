"""Every command in README and the guides runs, and the two set-up commands stand as they must."""

import collections
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification

from bench import analysis as compare
from bench.plan.load import load_suite
from bench.report.sections import verdicts
from bench.store.store import open_store, read_run
from tests.factories.command import bench
from tests.store.test_store import SUITE, score

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def commands(text=README):
    lines = re.findall(r"^(python -m bench .+?)(?:\s{2,}#.*)?$", text, flags=re.MULTILINE)
    assert len(lines) >= 6
    return lines


def as_test(line, tmp_path):
    """Words of the documented command, a run narrowed to its plan: running the suites themselves is not a unit test."""
    words = shlex.split(line)[3:]
    if words[0] in ("run", "tune"):
        words[0] = "plan"
    if words[0] == "report":
        words[1] = str(finished_run(tmp_path))
    if words[0] in ("reference", "gate"):
        words[1], words[3] = str(ROOT / "results/published/cost-minilm-two-threads"), str(tmp_path / "reference.json")
    if words[0] == "gate":
        bench("reference", words[1], "-o", words[3])
    return words


def finished_run(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    return tmp_path


@pytest.mark.parametrize("line", commands())
def test_every_documented_command_runs(line, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert bench(*as_test(line, tmp_path)).stdout.strip()


@pytest.mark.parametrize("text", [README, CHINESE], ids=["english", "chinese"])
def test_the_readme_holds_exactly_the_two_set_up_commands(text):
    found = re.findall(r"^python -m pip install .*&&.*$", text, flags=re.MULTILINE)
    assert found == [
        "python -m pip install -c constraints.txt -e '.[offline]' && python -m bench run --suite glue-small",
        "python -m pip install -c constraints.txt -e '.[test]' && python -m pytest",
    ]


def test_the_python_of_the_readme_runs_on_a_user_s_model(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **sizes))
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.long), "labels": torch.ones(2, dtype=torch.long)}
    exec(program, {"model": model, "batch": batch})
    assert "module='bert.encoder.layer.0" in capsys.readouterr().out


def test_the_suite_of_the_guide_is_a_suite(tmp_path):
    text = next(
        block for block in re.findall(r"```toml\n(.*?)```", CONTRIBUTING, flags=re.DOTALL) if "question" in block
    )
    path = tmp_path / "guide.toml"
    path.write_text(text)
    assert load_suite(str(path)).seeds == (0, 1, 2, 3, 4)


def test_every_linked_file_exists():
    for document in ("README.md", "README.zh.md", "CONTRIBUTING.md", "METHODOLOGY.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("text", [README, CHINESE], ids=["english", "chinese"])
def test_the_table_of_the_readme_is_that_of_the_committed_run(text):
    from rich.console import Console

    from bench.report.render import terminal
    from bench.store.store import read_run

    console = Console(width=118, highlight=False, record=True, file=io.StringIO())
    terminal.render(read_run(Path("results/published/glue-small")), console)
    table, _, report = console.export_text().strip().rpartition("\n")
    assert table in text
    assert report.startswith("report ")  # of a run folder whose report is yet to be written it says how


def without_comments(program):
    return [line.partition("#")[0].rstrip() for line in program.splitlines()]


def test_the_readme_says_of_the_scores_on_real_files_what_the_run_s_claims_say():
    told = verdicts.tell(read_run(ROOT / "results/published/glue-real-minilm"))
    assert {found.verdict for found in told} == {"inconclusive"}  # "No claim about scores is decided there"
    for found in told:
        assert found.figures.replace(" points", "") in README.replace(" points", ""), found.says


def test_the_readme_says_of_peft_s_forms_what_the_run_s_claims_say():
    run = read_run(ROOT / "results/published/against-peft")
    told = verdicts.tell(run)
    assert {found.verdict for found in told} == {"pass"}
    said = {found.metric: found.figures for found in told}
    assert said["forward_seconds"] in README and said["backward_seconds"] in README
    steps = [found for found in told if found.metric == "step_seconds"]
    assert len(steps) == 15 and "fifteen pairings of the fourteen methods" in README
    margins = collections.Counter(found.says.partition("at most ")[2] for found in steps)
    assert margins == {"1 % slower than peft's": 11, "3 % slower than peft's": 4}
    assert "none of the eleven pairings of layers is more than 1 % slower, none of the four of prompts" in README
    ends = sorted((found.figures.partition(" [")[0], found.says.partition(":")[0]) for found in steps)
    assert "{} ({}) to {} ({})".format(*ends[0], *ends[-1]) in README


def test_no_pairing_counts_more_than_peft_s_form():
    """The README says so of FLOPs and operations; a backward pass hangs together in no longer chain either."""
    run = read_run(ROOT / "results/published/against-peft")
    counted = {record.method.label: record for record in compare.cost_records(run.records)}
    pairs = [claim for claim in run.suite.claims if claim["metric"] == "step_seconds"]
    for ours, theirs in ((counted[pair["method"][0]], counted[pair["versus"]]) for pair in pairs):
        assert ours.flops.forward <= theirs.flops.forward and ours.flops.backward <= theirs.flops.backward
        assert ours.inference.unmerged.operations <= theirs.inference.unmerged.operations
        assert ours.backward_path.depth <= theirs.backward_path.depth


def test_the_readme_says_of_peft_s_own_comparison_what_its_page_counts():
    page = (ROOT / "docs/peft-comparison.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| [\w+]+/", line)]
    run = [(counted, published) for _, _, counted, published, _ in rows if counted]
    known = [(counted, published) for counted, published in run if published]
    equal = [counted for counted, published in known if counted == published]
    assert f"Of {len(rows)} experiments {len(run)} run, and {len(rows) - len(run)} need" in page
    assert f"Of {len(rows)} experiments of `peft`'s own method comparison [{len(run)} run as they are]" in README
    assert len(equal) == len(known) and f"all {len(equal)} of them that have a published figure" in README


def decimals(text):
    """Figures of the prose: those of blocks are compared whole."""
    return sorted(re.findall(r"\d+\.\d+", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def test_the_chinese_readme_says_the_same_commands_links_and_figures():
    assert commands(CHINESE) == commands(README)
    ours, theirs = (re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for text in (CHINESE, README))
    assert [without_comments(program) for program in ours] == [without_comments(program) for program in theirs]
    ours, theirs = (sorted(re.findall(r"\]\(([^)#]+)\)", text)) for text in (CHINESE, README))
    assert [link for link in ours if link != "README.md"] == [link for link in theirs if link != "README.zh.md"]
    ours, theirs = (re.findall(r"^(#+) |^\| `([a-z0-9-]+)` \|", text, flags=re.MULTILINE) for text in (CHINESE, README))
    assert ours == theirs
    assert decimals(CHINESE) == decimals(README)


def test_both_readmes_lead_to_each_other_at_their_top():
    assert "(README.zh.md)" in README[:200]
    assert "(README.md)" in CHINESE[:200]


def test_committed_results_hold_no_path_of_the_machine_that_made_them():
    for path in (ROOT / "results" / "published").rglob("*"):
        if path.suffix in {".jsonl", ".toml"}:
            assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text()), path


COUNTED = """
question = "Does the action run and gate a suite?"
backbone = { name = "tiny", weights = "random" }
method = [{ name = "full" }, { name = "head" }]
cost = [{ batch = 2, length = 8 }]
"""


def test_the_action_runs_a_suite_and_gates_it(tmp_path):
    action = yaml.safe_load((ROOT / ".github/actions/gate/action.yml").read_text())
    step, inputs = action["runs"]["steps"][-1], action["inputs"]
    suite, reference = tmp_path / "counted.toml", tmp_path / "reference.json"
    suite.write_text(COUNTED)
    bench("run", "--suite", suite, "--counts", "--out", tmp_path / "run")
    bench("reference", tmp_path / "run", "-o", reference)
    asked = {"suite": str(suite), "reference": str(reference)}
    given = {name: asked.get(name, values.get("default", "")) for name, values in inputs.items()}
    values = {
        key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: given[m[1]], text) for key, text in step["env"].items()
    }
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    around = os.environ | values | {"RUNNER_TEMP": str(tmp_path), "PATH": paths}
    done = subprocess.run(
        ["bash", "-euc", step["run"]], env=around, capture_output=True, text=True, timeout=240, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert 'failures="0"' in (tmp_path / "peft-ledger-gate" / "gate.xml").read_text()
    assert "${{" not in step["run"]  # an input in a script would be an injection

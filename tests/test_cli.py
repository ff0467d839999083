"""The command line: a mistake is one sentence and exit code 2; readers need no torch."""

import json
import subprocess
import sys

import pytest

from bench.cli import split_specs
from methods import BUILTIN


def bench(*arguments, code=0, block=()):
    """Run ``python -m bench`` in a process of its own, with the modules in ``block`` made unimportable."""
    program = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in block)
    program += "from bench.__main__ import main\nsys.argv = ['bench', *sys.argv[1:]]\nmain()\n"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_shows_the_panels_without_heavy_imports():
    shown = bench("--help", block=("torch", "transformers", "pandas", "matplotlib", "pydantic")).stdout
    for word in ("Measure", "Read", "run", "predict", "report", "plan", "list"):
        assert word in shown


@pytest.mark.parametrize("what", ["methods", "suites", "tasks", "backbones"])
def test_list_needs_no_torch(what):
    rows = json.loads(bench("list", what, "--json", block=("torch", "transformers")).stdout)
    assert all(row["name"] and row["description"] for row in rows)
    if what == "methods":
        assert [row["name"] for row in rows][: len(BUILTIN)] == list(BUILTIN)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--suite", "smok"], "unknown suite 'smok'"),
        (["plan", "--suite", "smoke", "--methods", "lra"], "unknown method 'lra'"),
        (["plan", "--suite", "smoke", "--methods", "lora(ranks=4)"], "lora: unknown key 'ranks'; known: alpha, "),
        (
            ["plan", "--suite", "smoke", "--methods", "lora(rank='4')"],
            "rank = '4' has the wrong type; it takes an integer",
        ),
        (["plan", "--suite", "smoke", "--methods", "lora(rank=0)"], "rank = 0 is too small"),
        (["plan", "--suite", "smoke", "--methods", "lora(rank="], "cannot read method"),
        (["plan", "--suite", "smoke", "--tasks", "sst3"], "unknown task 'sst3'"),
        (["plan", "--suite", "smoke", "--seeds", "a"], "--seeds 'a': give whole numbers"),
        (["plan", "--suite", "smoke", "--seeds", "1,1"], "--seeds: 1 stands twice"),
        (["plan", "--suite", "smoke", "--seeds", "-1"], "--seeds: -1 is no seed"),
        (["plan", "--suite", "smoke", "--tasks", "sst2,sst2"], "--tasks: sst2 stands twice"),
        (["plan", "--suite", "smoke", "--tasks", ""], "--tasks names nothing"),
        (["plan", "--suite", "smoke", "--methods", " , "], "--methods names nothing"),
        (["plan", "--suite", "smoke", "--methods", "lora(rank=4)(alpha=2)"], "cannot read method"),
        (["predict", "--backbone", "tiny", "--method", ""], "--method names nothing"),
        (["predict", "--backbone", "a/b/c"], "backbone 'a/b/c'"),
        (["predict", "--backbone", "tiny", "--device-memory", "24GG"], "--device-memory '24GG' is no size above 0"),
        (["predict", "--backbone", "tiny", "--dropout", "nan"], "--dropout nan is no probability"),
        (["predict", "--backbone", "tiny", "--seq", "129"], "129 tokens need 129 positions, the backbone has 128"),
        (["plan", "--suite", "smoke", "--methods", "lora(targets=['querry'])"], "unknown target 'querry'"),
        (["plan", "--suite", "smoke", "--methods", "prompt_tuning(length=120)"], "144 positions, the backbone has 128"),
        (["plan", "--suite", "smoke", "--methods", "lst(layers=[9])"], "the backbone has layers 0 to 1"),
        (["plan", "--suite", "cost-bert-base", "--tasks", "sst2"], "scores no tasks"),
        (["plan", "--suite", "smoke", "--data", "absent-folder"], "absent-folder"),
        (["predict", "--backbone", "bert-bse"], "bert-bse"),
        (["predict", "--backbone", "bert-base", "--method", "lora(targets=['querry'])"], "Did you mean 'query'"),
        (["report", "absent-run"], "suite.toml: not a readable suite"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence):
    message = bench(*arguments, code=2).stderr
    assert sentence in " ".join(message.split())
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1


def test_plan_lists_cells_in_order_and_runs_nothing(tmp_path):
    plan = json.loads(bench("plan", "--suite", "smoke", "--methods", "lora(rank=4, alpha=8)", "--json").stdout)
    assert [cell["method"]["label"] for cell in plan["cells"]] == ["full", "lora(rank=4, alpha=8)"]
    assert plan["cells"][1]["method"]["config"]["rank"] == 4
    assert plan["cells"][0]["recipe"]["steps"] == 20
    assert len({cell["id"] for cell in plan["cells"]}) == 2


def test_predict_counts_without_weights():
    rows = json.loads(bench("predict", "--backbone", "bert-base", "--method", "lora,lst,full", "--json").stdout)
    counts = {row["method"]: row["trainable_parameters"]["method"] for row in rows}
    assert counts == {"lora": 294_912, "lst": 2_376_492, "full": 108_891_648}
    assert rows[0]["delta_bytes"] == 4 * 294_912
    assert rows[0]["trainable_parameters"]["head"] == 1_538


def test_specs_split_at_commas_outside_parentheses():
    assert split_specs("full,lora(rank=4, alpha=8), ia3") == ["full", "lora(rank=4, alpha=8)", "ia3"]
    assert split_specs("lora(targets=['query', 'value'])") == ["lora(targets=['query', 'value'])"]

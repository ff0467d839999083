"""The command line: a mistake is one sentence and exit code 2; readers need no torch."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from typer.main import get_command

from bench.cli import app
from bench.execute import runner
from methods import BUILTIN
from tests.factories import command


def bench(*arguments, code=0, block=()):
    """Run ``python -m bench`` in a process of its own, with the modules in ``block`` made unimportable."""
    program = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in block)
    program += "from bench.__main__ import main\nsys.argv = ['bench', *sys.argv[1:]]\nmain()\n"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_shows_the_panels_without_heavy_imports():
    shown = bench("--help", block=("torch", "transformers", "pandas", "matplotlib", "pydantic")).stdout
    for word in ("Measure", "Read", "CI", "run", "predict", "report", "plan", "list", "gate", "reference"):
        assert word in shown


def test_no_help_holds_what_its_renderer_takes_for_markup():
    def texts(shown, name):
        yield from ((name, text) for text in (shown.help, shown.short_help, shown.epilog) if text)
        yield from ((name, one.help) for one in shown.params if getattr(one, "help", None))
        for sub, one in getattr(shown, "commands", {}).items():
            yield from texts(one, f"{name} {sub}")

    found = [*texts(get_command(app.app), "bench")]
    assert len(found) > 100
    assert [(name, text) for name, text in found if "[" in text] == []


@pytest.mark.parametrize("command", ["plan --suite smoke", "report runs", "--help"])
def test_a_working_directory_that_is_gone_is_said(tmp_path, command):
    program = "import os, sys\nos.chdir(sys.argv[1])\nos.rmdir(sys.argv[1])\n"
    program += "from bench.__main__ import main\nsys.argv = ['bench', *sys.argv[2:]]\nmain()\n"
    words = [sys.executable, "-c", program, str(tmp_path), *command.split()]
    around = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, env=around, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the working directory is gone; change into one that is there\n"


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
        (["plan", "--suite", "smoke", "--seeds", "a"], "--seeds 'a': seeds must be integers"),
        (["plan", "--suite", "smoke", "--seeds", "1,1"], "--seeds: 1 is listed twice"),
        (["plan", "--suite", "smoke", "--seeds", "-1"], "--seeds: -1: seeds must be integers from 0 to 2**63 - 1"),
        (["plan", "--suite", "smoke", "--tasks", "sst2,sst2"], "--tasks: sst2 is listed twice"),
        (["plan", "--suite", "smoke", "--tasks", ""], "--tasks is empty"),
        (["plan", "--suite", "smoke", "--methods", " , "], "--methods is empty"),
        (["plan", "--suite", "smoke", "--methods", "lora(rank=4)(alpha=2)"], "cannot read method"),
        (["predict", "--backbone", "tiny", "--method", ""], "--method is empty"),
        (["predict", "--backbone", "a/b/c"], "backbone 'a/b/c'"),
        (
            ["predict", "--backbone", "tiny", "--device-memory", "24GG"],
            "'24GG': must be a size above 0",
        ),
        (["predict", "--backbone", "tiny", "--device-memory", "24"], "24 has no unit; did you mean 24GiB?"),
        (["predict", "--backbone", "tiny", "--dropout", "nan"], "--dropout nan: must be at least 0 and below 1"),
        (["predict", "--backbone", "tiny", "--seq", "129"], "129 tokens need 129 positions, the backbone has 128"),
        (["plan", "--suite", "smoke", "--methods", "lora(targets=['querry'])"], "unknown target 'querry'"),
        (["plan", "--suite", "smoke", "--methods", "prompt_tuning(length=120)"], "144 positions, the backbone has 128"),
        (["plan", "--suite", "smoke", "--methods", "lst(layers=[9])"], "the backbone has layers 0 to 1"),
        (["plan", "--suite", "cost-bert-base", "--tasks", "sst2"], "scores no tasks"),
        (["plan", "--suite", "smoke", "--data", "absent-folder"], "absent-folder"),
        (["predict", "--backbone", "bert-bse"], "bert-bse"),
        (["predict", "--backbone", "bert-base", "--method", "lora(targets=['querry'])"], "Did you mean 'query'"),
        (
            ["run", "--suite", "smoke", "--retry", "crashd"],
            "unknown status 'crashd'; known: crashed, failed, ",
        ),
        (["run", "--suite", "smoke", "--retry", "ok"], "--retry: unknown status 'ok'"),
        (["tune", "--suite", "smoke", "--retry", " ,"], "--retry is empty; name what to repeat: oom, nan, timeout, "),
        (["run", "--suite", "smoke", "--retry", "oom", "--fresh"], "--fresh repeats every record, those of --retry"),
        (["plan", "--suite", "smoke", "--methods", "lora(rank=" + "1" * 5_000 + ")"], "of at most 2,000; leave out"),
        (["plan", "--suite", "x" * 5_000], "xxx"),
        (["plan", "--suite", "smoke", "--backbone", "x" * 5_000], "xxx"),
        (["plan", "--suite", "smoke", "--data", "x" * 5_000], "xxx"),
        (["report", "x" * 5_000], "suite.toml: not a readable suite"),
        (["report", "absent-run"], "suite.toml: not a readable suite"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence):
    message = command.bench(*arguments, code=2).stderr
    assert sentence in " ".join(message.split())
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("fresh", "how"), [([], "the same command resumes"), (["--fresh"], "the same command without --fresh resumes")]
)
def test_an_interrupted_run_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch, fresh, how):
    def stopped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    monkeypatch.setattr(runner, "execute", stopped)
    words = ["run", "--suite", "smoke", "--data", "synthetic", "--methods", "head", "--out", tmp_path / "run", *fresh]
    said = command.bench(*words, code=143).stderr
    assert re.fullmatch(rf"interrupted: 0 of \d+ records are kept; {how}\n", said)


def test_an_interruption_while_the_report_is_written_loses_no_record(monkeypatch, tmp_path):
    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell may have told this process to ignore it
    monkeypatch.setattr(app, "carry_out", lambda *arguments: [None] * 7)
    monkeypatch.setattr(app, "_report", stopped)
    try:
        said = command.bench("run", "--suite", "smoke", "--data", "synthetic", "--methods", "head", code=130).stderr
    finally:
        signal.signal(signal.SIGINT, previous)
    assert said == "interrupted: all 7 records are kept; the same command writes the report\n"


def test_a_mistake_ends_the_process_itself_with_its_sentence():
    assert bench("run", "--suite", "smok", code=2).stderr.startswith("error: unknown suite 'smok'")


def test_plan_lists_cells_in_order_and_runs_nothing(tmp_path):
    plan = json.loads(command.bench("plan", "--suite", "smoke", "--methods", "lora(rank=4, alpha=8)", "--json").stdout)
    assert [cell["method"]["label"] for cell in plan["cells"]] == ["full", "lora(rank=4, alpha=8)"]
    assert plan["cells"][1]["method"]["config"]["rank"] == 4
    assert plan["cells"][0]["recipe"]["steps"] == 20
    assert len({cell["id"] for cell in plan["cells"]}) == 2
    assert plan["data"] == {"sst2": {"kind": "synthetic", "place": plan["cells"][0]["source"]["place"]}}
    about = plan["estimate"]
    assert about["seconds"].keys() == {job["id"] for job in (*plan["cells"], *plan["probes"])}
    assert about["total"] == about["probes"] + about["cells"] > 0


@pytest.mark.parametrize(
    ("narrowed", "parts"), [([], r"probes: .+; cells, \d at a time: .+"), (["--counts"], "probes: .+")]
)
def test_plan_says_how_long_a_run_takes_on_this_machine(narrowed, parts):
    shown = command.bench("plan", "--suite", "smoke", "--methods", "head", *narrowed).stdout.splitlines()
    assert re.fullmatch(rf"time   about \d+ (s|min) on this machine \({parts}\)", shown[-1])
    assert re.search(r"methods · about \d+ (s|min)$", next(line for line in shown if line.startswith("probe")))


def test_plan_says_where_the_rows_of_each_task_come_from():
    shown = command.bench("plan", "--suite", "smoke", "--methods", "head", "--data", "synthetic").stdout.splitlines()
    assert [line for line in shown if line.startswith("data")] == ["data   sst2: synthetic (asked for)"]


def test_predict_counts_without_weights():
    rows = json.loads(command.bench("predict", "--backbone", "bert-base", "--method", "lora,head", "--json").stdout)
    counts = {row["method"]: row["trainable_parameters"] for row in rows}
    assert counts == {"lora": {"method": 294_912, "head": 1_538}, "head": {"method": 0, "head": 1_538}}
    assert rows[0]["delta_bytes"] == 4 * 294_912


PUBLISHED = "results/published/cost-minilm-two-threads"


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference.json"
    command.bench("reference", PUBLISHED, "-o", path)
    return path


def test_a_gate_passes_its_own_reference_without_torch_and_writes_junit(tmp_path):
    junit, path = tmp_path / "gate.xml", str(tmp_path / "reference.json")
    bench("reference", PUBLISHED, "-o", path, block=("torch", "transformers"))
    shown = bench("gate", PUBLISHED, "--reference", path, "--junit", str(junit), block=("torch",)).stdout
    assert "3 passed" in shown
    assert 'failures="0"' in junit.read_text()
    checks = json.loads(command.bench("gate", PUBLISHED, "--reference", path, "--json").stdout)
    assert checks["verdict"] == "pass"


def test_a_gate_stops_a_changed_figure_and_tells_github(reference, tmp_path, monkeypatch):
    values = json.loads(reference.read_text())
    values["costs"][0]["methods"]["lst(reduction=8)"]["flops.backbone.backward"] = 2
    reference.write_text(json.dumps(values))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    shown = command.bench("gate", PUBLISHED, "--reference", reference, code=1).stdout
    assert "lst(reduction=8): flops.backbone.backward was 2, is 0" in shown
    assert "::error title=peft-ledger gate::lst(reduction=8)" in shown
    assert "| fail | lst" in (tmp_path / "summary.md").read_text()


def test_a_gate_without_its_reference_or_with_a_stale_or_broken_one_says_so(reference, tmp_path):
    missing = command.bench("gate", PUBLISHED, "--reference", tmp_path / "none.json", code=4).stderr
    assert "no such file; make it with: python -m bench reference" in missing
    stale = command.bench("gate", "results/published/cost-bert-base", "--reference", reference, code=4).stderr
    assert "in the run but" in stale
    reference.write_text("{")
    assert "reference.json" in command.bench("gate", PUBLISHED, "--reference", reference, code=2).stderr
    assert "suite.toml" in command.bench("gate", tmp_path, "--reference", reference, code=2).stderr


def test_a_reference_of_another_backbone_is_said_in_a_line_that_a_screen_holds(reference, tmp_path):
    values = json.loads(reference.read_text())
    values["backbone"]["x" * 5000 + "\n"] = "x"
    reference.write_text(json.dumps(values))
    shown = command.bench("gate", PUBLISHED, "--reference", reference, code=4).stderr
    assert shown.count("\n") == 1
    assert len(shown) < 1000
    assert "characters left out" in shown


def test_times_are_exported_as_pytest_benchmark_reads_them(tmp_path):
    path = tmp_path / "benchmarks.json"
    path.write_text(command.bench("report", PUBLISHED, "--format", "pytest-benchmark").stdout)
    words = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=median,rounds"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "lora(rank=8) backward" in shown.stdout
    made = json.loads(path.read_text())
    backward = next(entry for entry in made["benchmarks"] if entry["name"] == "lora(rank=8) backward")
    assert backward["stats"]["rounds"] == len(backward["stats"]["data"]) == 40
    assert backward["extra_info"]["ratio_to_baseline"] == pytest.approx(0.556, abs=0.01)


def test_a_run_without_times_exports_none(tmp_path):
    from tests.docs.test_docs import finished_run

    assert (
        "nothing was timed"
        in command.bench("report", finished_run(tmp_path), "--format", "pytest-benchmark", code=2).stderr
    )


STOPPED_AS_IT_IMPORTS = """
import os, runpy, signal, sys

class Stops:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.dtypes":  # which compiled code of numpy asks for, and takes what is raised for its own
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Stops())
sys.argv = ["bench", "plan", "--suite", "smoke"]
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""


def test_a_signal_in_the_midst_of_an_import_is_no_traceback():
    words = [sys.executable, "-c", STOPPED_AS_IT_IMPORTS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")

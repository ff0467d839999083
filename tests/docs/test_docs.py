"""Every command of the documentation runs, its figures are those of the records, its generated parts are current."""

import collections
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification

from bench import registry
from bench.models import backbone, smollm2
from bench.plan import duration
from bench.plan.load import load_suite, suite_names
from bench.report.sections import claims
from bench.store.store import open_store, read_run
from bench.verdicts.claims import JudgedResults
from tests.factories.command import bench, workers
from tests.factories.cost_steps import counted_once
from tests.factories.deltas import kept_run
from tests.factories.others import comparison, write
from tests.models.test_weights import TINY, save, words
from tests.store.test_store import SUITE, score
from tests.tasks.test_hub import lay_roberta
from tools.answers.words import costs, published
from tools.docs import __main__ as docs
from tools.docs import gate
from tools.docs.fields import anchor
from tools.docs.figures import span

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh.md").read_text()
WHICH = (ROOT / "docs/which-method.md").read_text()
USAGE, SUITES, FORMAT, RESULTS, CI = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("usage", "suites", "format", "results", "ci")
)
GUIDES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "notebooks/README.md"]
TWINS = [("README.md", "README.zh.md"), ("docs/which-method.md", "docs/which-method.zh.md")]
OF_SCORES = [*(name for pair in TWINS for name in pair), "docs/results.md"]
"""Documents that say what is known about scores."""
both = pytest.mark.parametrize("text", [README, CHINESE], ids=["english", "chinese"])


def signed(text):
    """The text with a difference that Chinese puts into words, ``低 0.3``, as a figure with its sign."""
    return re.sub(r"低 (?=\d+\.\d)", "-", re.sub(r"高 (?=\d+\.\d)", "+", text))


def commands(text):
    return re.findall(r"^(python -m bench .+?)(?:\s{2,}#.*)?$", text, flags=re.MULTILINE)


def as_test(line, tmp_path):
    """Words of the documented command, a run narrowed to its plan: running the suites themselves is not a unit test."""
    words = shlex.split(line)[3:]
    if words[0] in ("export", "use"):
        return of_kept(words, tmp_path)
    if words[0] in ("cell", "collect"):
        return of_specs(words, tmp_path)
    if "--specs" in words:
        words[words.index("--specs") + 1] = str(tmp_path / "specs")
    if words[0] in ("run", "tune"):
        words[0] = "plan"
    for option in {"--keep", "--track"} & {*words}:  # which a plan has no place for
        del words[words.index(option) : words.index(option) + 2]
    if words[0] == "report":
        words[1] = str(finished_run(tmp_path))
    for option in ("-o", "--reference"):
        if option in words:
            words[words.index(option) + 1] = str(tmp_path / words[words.index(option) + 1])
    if "--with" in words:
        words[words.index("--with") + 1] = str(write(tmp_path, comparison()))
    if words[0] == "gate":
        bench("reference", words[1], "-o", words[3])
    if words[0] == "predict":  # counting one method of a large shape says as much as counting three
        words[words.index("--method") + 1] = "head"
    return words


def of_kept(words, tmp_path):
    """Words of ``export`` or ``use`` on a run that has kept something."""
    place = tmp_path / "kept"
    place.mkdir()
    if words[0] == "export":
        words[1], words[-1] = str(kept_run(place)), str(tmp_path / words[-1])
        return words
    bench("export", kept_run(place), "--method", "lora", "-o", tmp_path / words[1])
    rows = tmp_path / words[words.index("--data") + 1]
    rows.write_text("sentence\na parcel is late\n")
    return ["use", str(tmp_path / words[1]), "--data", str(rows)]


def of_specs(words, tmp_path):
    """Words of ``cell`` or ``collect`` on the one job of a small suite."""
    suite, specs = tmp_path / "counts.toml", tmp_path / "specs"
    suite.write_text(COUNTED)
    bench("plan", "--suite", suite, "--counts", "--specs", specs)
    (spec,) = specs.glob("*.json")
    workers()
    one = ["cell", "--spec", str(spec), "--out", str(spec.with_suffix(".jsonl"))]
    if words[0] == "cell":
        return one
    bench(*one)
    return ["collect", str(specs), "--out", str(tmp_path / "run")]


def finished_run(tmp_path):
    with open_store(tmp_path, SUITE) as store:
        store.append(score())
    return tmp_path


OWN = "./my-roberta"
"""The reader's own backbone."""
ledger_of = counted_once(duration.ledger_of)


def ledger_of_head(spec, method, config, setting):
    """Of the head alone, whatever the method."""
    return ledger_of(spec, *registry.make("head", {}), setting)


def small_decoder(folder, monkeypatch):
    """A tiny language model in place of the one that is made of the package index."""
    save(folder, "llama", TINY | {"max_position_embeddings": 64}, AutoModelForCausalLM)
    words(folder, 60, special=("pad_token", "eos_token"))
    known = backbone.PRETRAINED[smollm2.NAME]
    monkeypatch.setitem(backbone.PRETRAINED, smollm2.NAME, replace(known, made=lambda: folder))


@pytest.mark.parametrize("line", commands(USAGE))
def test_every_documented_command_runs(line, tmp_path, monkeypatch):
    """A prediction on two layers of its backbone: each adds the same counts, and all 28 take half a minute.

    A plan's duration is estimated as if every method were the head: counting one says as much as counting all.
    """
    known = backbone.shape_of
    monkeypatch.setattr(backbone, "shape_of", lambda name: replace(known(name), layers=2))
    monkeypatch.setattr(duration, "ledger_of", ledger_of_head)
    monkeypatch.chdir(ROOT)
    if OWN in line:
        shutil.move(lay_roberta(tmp_path / "hub"), tmp_path / OWN)
        monkeypatch.chdir(tmp_path)
    if smollm2.NAME in line:
        small_decoder(tmp_path / "decoder", monkeypatch)
    if "tickets" in line:
        rows = [
            f"{what} {i},{queue}" for i in range(20) for what, queue in (("parcel", "delivery"), ("money", "refund"))
        ]
        (tmp_path / "tickets.csv").write_text("\n".join(["body,queue", *rows]))
        monkeypatch.chdir(tmp_path)
        if "init" not in line:
            bench("init", "tickets.csv", "-o", "tickets.toml")
    words = as_test(line, tmp_path)
    assert bench(*words).stdout.strip() or Path(words[words.index("-o") + 1]).stat().st_size


JOBS = re.search(r"### How much memory do I need\?\n.*?```\n(.*?)```", USAGE, flags=re.DOTALL)[1].splitlines()


@pytest.mark.parametrize("line", JOBS)
def test_the_memory_of_a_common_job_is_what_its_command_counts(line):
    from bench.count.count import peak_of
    from bench.count.predict import setting_for
    from bench.report import format as fmt
    from bench.schema.shape import StepShape

    command, _, answer = line.partition("#")
    words = shlex.split(command)[4:]
    flags = {word for word in words if word == "--checkpointing"}
    words = [word for word in words if word not in flags]
    given = dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))
    name, method, weights = given.pop("backbone"), given.pop("method"), given.pop("weights", "native")
    fields = {key.replace("-", "_").replace("seq", "length"): value for key, value in given.items()}
    form = StepShape.model_validate(fields | {"checkpointing": bool(flags)})
    setting = setting_for(name, form, weights=weights, device="cuda")
    peak = peak_of(backbone.shape_of(name), *registry.make(method, {}), setting).step
    assert answer.strip().partition(",")[0] == fmt.size(peak)


def test_the_usage_page_shows_every_verb_and_every_exit_code():
    from typer.main import get_command

    from bench.cli.app import app

    assert {line.split()[3] for line in commands(USAGE)} == set(get_command(app).commands)
    assert len(JOBS) == 5
    assert re.findall(r"^\| (\d+(?:, \d+)?) \|", USAGE, flags=re.MULTILINE) == ["0", "1", "2", "3", "4", "130, 143"]


def test_every_generated_part_is_current():
    stale = [str(path) for path in docs.documents() if docs.written(path) != path.read_text(encoding="utf-8")]
    assert not stale, "write them again: python -m tools.docs"
    used = {name for path in docs.documents() for _, name, _, _ in docs.MARKED.findall(path.read_text())}
    assert used == set(docs.PARTS)


@both
def test_the_readme_holds_exactly_the_two_set_up_commands(text):
    assert re.findall(r"^python3? -m (?:pip|venv) .*&&.*$", text, flags=re.MULTILINE) == [
        "python -m pip install -c constraints.txt -e '.[offline]' && python -m bench run --suite glue-small",
        "python -m pip install -c constraints.txt -e '.[test]' && python -m pytest",
    ]


@both
def test_a_virtual_environment_comes_before_the_set_up_commands(text):
    assert text.index("python3 -m venv .venv\n") < text.index("python -m pip install")


@both
def test_the_readme_is_read_in_a_minute(text):
    assert len(text.splitlines()) <= 100
    assert text.count("![") == 1
    assert 0 < len(re.findall(r"^\| `.+\|$", text, flags=re.MULTILINE)) <= 10


@both
def test_the_readme_names_every_supported_family_and_counts_the_tasks(text):
    from bench.anatomy import _FAMILIES
    from bench.tasks.catalogue import shipped

    (line,) = [line for line in text.splitlines() if line.startswith(("- **Backbones**", "- **骨干网络**"))]
    assert sorted(re.findall(r"`([\w-]+)`", line)) == sorted(_FAMILIES)
    assert f"{len(_FAMILIES)} families" in line or f"{len(_FAMILIES)} 个家族" in line
    assert sum(spec.hub == "nyu-mll/glue" for spec in shipped().values()) == 9 and (
        "the nine of GLUE" in text or "GLUE 的九个" in text
    )


def test_the_python_of_the_usage_page_runs_on_a_user_s_model(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", USAGE, flags=re.DOTALL)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **sizes))
    batch = {"input_ids": torch.ones(2, 5, dtype=torch.long), "labels": torch.ones(2, dtype=torch.long)}
    exec(program, {"model": model, "batch": batch})
    assert "module='bert.encoder.layer.0" in capsys.readouterr().out


def test_the_suite_of_the_suites_page_is_a_suite(tmp_path):
    path = tmp_path / "guide.toml"
    path.write_text(next(text for text in re.findall(r"```toml\n(.*?)```", SUITES, flags=re.DOTALL)))
    assert load_suite(str(path)).seeds == (0, 1, 2, 3, 4)


def test_every_suite_of_the_project_is_on_the_suites_page():
    listed = SUITES.partition("## One of your own")[0]
    assert sorted(re.findall(r"^\| `([a-z0-9-]+)` \|", listed, flags=re.MULTILINE)) == suite_names()


def test_every_link_leads_to_a_file_and_to_a_heading_of_it():
    lost = []
    for path in GUIDES:
        for target, place in re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()):
            at = (path.parent / target).resolve() if target else path
            if not at.exists():
                lost.append(f"{path.name}: {target}")
            elif place and place not in addresses(at):
                lost.append(f"{path.name}: {target}#{place}")
    assert not lost


def addresses(path):
    """Those of the headings of a Markdown file, as GitHub makes them."""
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)}


def test_the_python_of_the_format_page_reads_a_committed_run(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    tables, records = re.findall(r"```python\n(.*?)```", FORMAT, flags=re.DOTALL)
    exec(tables, {})
    assert "lora(rank=8)" in capsys.readouterr().out
    exec(records, {})
    assert re.match(r"full \d+ \d+ blocks", capsys.readouterr().out)


@pytest.mark.parametrize("name", OF_SCORES)
def test_what_is_said_of_scores_on_real_files_is_what_the_run_s_claims_say(name):
    told = claims.tell(JudgedResults(published("glue-real-minilm")))
    assert {each.verdict for each in told} == {"inconclusive"}  # "is not decided"
    text = re.sub(r" points| 分", "", signed((ROOT / name).read_text()))
    assert not [each.says for each in told if each.figures.replace(" points", "") not in text]


def test_what_keeps_each_claim_about_scores_open_is_what_the_pages_say():
    """LoRA's interval clears its bound, and so does the pruned start's; only that of LST against the head does not."""
    lora, head, start = JudgedResults(published("glue-real-minilm")).judgements
    assert [claim.claim.difference.min for claim in (lora, head, start)] == [-2.0, 0.0, 0.0]
    clear = [each.outcomes[0].interval[0] > each.claim.difference.min for each in (lora, head, start)]
    assert clear == [True, False, True]
    why = [each.why for each in claims.tell(JudgedResults(published("glue-real-minilm")))]
    assert "did not learn" in why[0] and "full still improving" in why[0]
    assert "contains the bound" in why[1]
    assert why[2] == "lst(reduction=8, init='random') still improving"
    searched = {record.tuning.task for record in published("glue-real-minilm").records}
    assert searched == {"sst2"}


ADAPTERS, PROMPTS, LADDER = (
    ("houlsby_adapter", "pfeiffer_adapter"),
    ("prompt_tuning", "p_tuning"),
    ("lst(reduction=8)",),
)
"""Methods of the three claims of why-latency that a method adds latency."""


def test_the_times_of_inference_in_the_readme_are_those_of_the_claims_that_decide_them():
    run = published("why-latency")
    told = {
        each.methods: each
        for each in claims.tell(JudgedResults(run))
        if each.metric.startswith("latency_seconds.unmerged")
    }
    assert {each.verdict for each in told.values()} == {"pass"}
    records = {each.method.label: each for each in run.records if each.kind == "cost" and each.shape.length == 64}
    assert records["prompt_tuning"].method.config["length"] == 20 and records["prompt_tuning"].shape.threads == 1

    def took(*labels):
        ratios = (records[label].latency_seconds.unmerged.by_batch[1].ratio_to_baseline for label in labels)
        return span(ratios)

    assert set(told) == {ADAPTERS, PROMPTS, LADDER}
    adapters, prompts, ladder = (took(*methods) for methods in (ADAPTERS, PROMPTS, LADDER))
    assert f"serial adapters {adapters}, prompts of 20 positions {prompts} and LST {ladder} times as long" in README
    assert all(f"{figure} 倍" in CHINESE for figure in (adapters, prompts, ladder))


def test_merged_lora_is_the_base_model_in_every_published_run_as_the_page_on_methods_says():
    merged = [
        record.merged_equals_base
        for suite in (ROOT / "results/published").glob("*/suite.toml")
        for record in read_run(suite.parent).records
        if record.kind == "cost" and record.method.name == "lora" and record.latency_seconds
    ]
    assert len(merged) > 10
    assert all(found is not None and found.all for found in merged)


def test_the_frozen_share_of_backward_in_the_readme_is_that_of_the_records():
    from tools.docs.figures import backward_ratios

    inside = [ratio for label, ratio in backward_ratios().items() if label not in ("full", "head", "lst(reduction=8)")]
    assert f"{min(inside):.2f} to {max(inside):.2f} of full" in README
    lst = f"{backward_ratios()['lst(reduction=8)']:.2f}"
    assert f"{lst} of the backward FLOPs" in README
    peaks = {label: record.peak_memory_bytes.step for label, record in costs(published("glue-small")).items()}
    assert sorted(peaks, key=peaks.get)[:2] == ["head", "lst(reduction=8)"]  # "the least memory of all that adapt more"
    step = costs(published("glue-small"))["lst(reduction=8)"].step_seconds.ratio_to_baseline
    assert f"A step still takes {step:.2f} of full" in README
    least = "{:.2f} and {:.2f}".format(*(peaks[label] / peaks["full"] for label in ("head", "lst(reduction=8)")))
    assert f"the peaks are {least} of full" in WHICH


def test_the_shapes_and_sizes_that_the_readme_and_the_page_on_methods_name_are_those_of_the_run():
    run = published("glue-small")
    (shape,) = run.suite.cost
    assert f"a training step of {shape.batch} x {shape.length} tokens" in README
    assert f"latency on one row of {shape.latency_length} tokens" in README
    chosen = {record.method.name: record.method.config for record in run.records if record.kind == "cost"}
    houlsby, pfeiffer, parallel = (
        chosen[f"{name}_adapter"]["bottleneck"] for name in ("houlsby", "pfeiffer", "parallel")
    )
    assert pfeiffer == parallel
    assert f"bottleneck {houlsby} in the Houlsby adapter, {pfeiffer} in the Pfeiffer and the parallel one" in WHICH
    assert chosen["prefix_tuning"]["length"] == chosen["p_tuning_v2"]["length"]
    assert chosen["prompt_tuning"]["length"] == chosen["p_tuning"]["length"]
    lengths = chosen["prefix_tuning"]["length"], chosen["prompt_tuning"]["length"]
    assert "prefixes of length {}, prompts of length {}".format(*lengths) in WHICH
    assert f"LoRA at rank {chosen['lora']['rank']}; LST at reduction {chosen['lst']['reduction']}, from a " in WHICH
    assert chosen["lst"]["init"] == "random"


def test_what_the_results_page_says_of_peft_s_forms_is_what_the_run_s_claims_say():
    told = claims.tell(JudgedResults(published("against-peft")))
    assert {each.verdict for each in told} == {"pass"}
    said = {each.metric: each.figures for each in told}
    assert said["forward_seconds"] in RESULTS and said["backward_seconds"] in RESULTS
    steps = [each for each in told if each.metric == "step_seconds"]
    assert len(steps) == 15 and "fifteen pairings of the fourteen methods" in RESULTS
    margins = collections.Counter(each.says.partition("at most ")[2] for each in steps)
    assert margins == {"1 % slower than peft's": 11, "3 % slower than peft's": 4}
    assert "none of the eleven pairings of layers is more than 1 % slower, none of the four of prompts" in RESULTS
    slower = "more than 1 % (eleven comparisons of methods that adapt layers) or 3 % (four of prompts and prefixes)"
    assert slower in README
    pinned = re.search(r"^peft==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]
    assert f"`peft` {pinned}'s" in README and f"`peft` {pinned} on one thread" in RESULTS
    ends = sorted((each.figures.partition(" [")[0], each.says.partition(":")[0]) for each in steps)
    assert "{} ({}) to {} ({})".format(*ends[0], *ends[-1]) in RESULTS


def test_what_the_results_page_says_of_times_on_one_thread_is_what_the_run_s_claims_say():
    told = claims.tell(JudgedResults(published("cost-minilm")))
    timed = [each.figures for each in told if "_seconds" in each.metric]
    assert timed and not [figures for figures in timed if figures not in RESULTS]


def test_no_pairing_counts_more_than_peft_s_form():
    """The results page says so of FLOPs and operations; a backward pass hangs together in no longer chain either."""
    run = published("against-peft")
    counted = {record.method.label: record for record in run.records if record.kind == "cost"}
    pairs = [claim for claim in run.suite.claims if claim["metric"] == "step_seconds"]
    for ours, theirs in ((counted[pair["method"][0]], counted[pair["versus"]]) for pair in pairs):
        assert ours.flops.forward <= theirs.flops.forward and ours.flops.backward <= theirs.flops.backward
        assert ours.inference.unmerged.operations <= theirs.inference.unmerged.operations
        assert ours.backward_path.depth <= theirs.backward_path.depth


def test_what_the_results_page_says_of_peft_s_own_comparison_is_what_its_page_counts():
    page = (ROOT / "docs/peft-comparison.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| [\w+]+/", line)]
    run = [(counted, published) for _, _, counted, published, _ in rows if counted]
    known = [(counted, published) for counted, published in run if published]
    equal = [counted for counted, published in known if counted == published]
    assert f"Of {len(rows)} experiments {len(run)} run, and {len(rows) - len(run)} need" in page
    assert f"Of {len(rows)} experiments of `peft`'s own method comparison [{len(run)} run as they are]" in RESULTS
    assert f"and {len(equal)} of the {len(known)} that have a published figure train exactly as many" in RESULTS
    others = {int(b.replace(",", "")) - int(a.replace(",", "")) for a, b in known if a != b}
    assert len(known) - len(equal) == 3 and f"Shadow's three train {others.pop():,} fewer" in RESULTS and not others


@pytest.mark.parametrize(("english", "chinese"), TWINS)
def test_both_languages_hold_the_same_commands_links_headings_and_figures(english, chinese):
    ours, theirs = ((ROOT / name).read_text() for name in (english, chinese))
    for pattern in (r"^```\n(.*?)^```", r"^(#+) "):
        first, second = (re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE) for text in (ours, theirs))
        assert first == second
    figures = [sorted(re.findall(r"[-+]?\d+\.\d+", signed(text))) for text in (ours, theirs)]
    assert figures[0] == figures[1]
    linked = [set(re.findall(r"\]\((?!http)([^)#]+)", text.replace(".zh.md", ".md"))) for text in (ours, theirs)]
    assert linked[0] == linked[1]


@pytest.mark.parametrize(("english", "chinese"), TWINS)
def test_both_languages_lead_to_each_other_at_their_top(english, chinese):
    for name, other in ((english, chinese), (chinese, english)):
        assert f"({Path(other).name})" in (ROOT / name).read_text()[:200]


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


def test_the_commands_of_the_page_on_ci_write_a_reference_that_the_action_s_run_meets(tmp_path, monkeypatch):
    action = yaml.safe_load(gate.ACTION.read_text())
    step, inputs = action["runs"]["steps"][-1], action["inputs"]
    monkeypatch.chdir(tmp_path)
    Path("suites").mkdir()
    Path("suites/mine.toml").write_text(COUNTED)
    for line in commands(CI):
        bench(*shlex.split(line)[3:])
    asked = {"suite": "suites/mine.toml", "reference": gate.REFERENCE}
    given = {name: asked.get(name, values.get("default", "")) for name, values in inputs.items()}
    values = {
        key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: given[m[1]], text) for key, text in step["env"].items()
    }
    paths = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    around = os.environ | values | {"RUNNER_TEMP": str(tmp_path), "PATH": paths, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", step["run"]], env=around, capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert 'failures="0"' in (tmp_path / "peft-ledger-gate" / "gate.xml").read_text()
    assert "${{" not in step["run"]  # an input in a script would be an injection


def test_the_workflow_of_the_page_on_ci_is_complete_and_gives_the_action_what_it_takes():
    (text,) = re.findall(r"```yaml\n(.*?)```", CI, flags=re.DOTALL)
    workflow = yaml.safe_load(text)
    assert {"name", "permissions", "jobs"} <= workflow.keys() and True in workflow  # YAML reads the key `on` as true
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    (used,) = [step for step in steps if "peft-ledger" in step.get("uses", "")]
    place = used["uses"].partition("@")[0].removeprefix("OWNER/peft-ledger/")
    assert place == str(gate.ACTION.parent.relative_to(ROOT))
    inputs = yaml.safe_load(gate.ACTION.read_text())["inputs"]
    assert used["with"].keys() <= inputs.keys()
    assert {name for name, values in inputs.items() if values.get("required")} <= used["with"].keys()


def test_a_failing_gate_prints_what_the_page_on_ci_shows(tmp_path, monkeypatch):
    from bench.verdicts.reference import write_reference

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    Path("suites").mkdir()
    write_reference(gate.older_reference(), Path(gate.REFERENCE))
    done = bench("gate", ROOT / "results/published" / gate.RUN, "--reference", gate.REFERENCE, code=1)
    assert f"```\n{done.stdout}```" in CI

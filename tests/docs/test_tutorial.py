"""The tutorial, from a file of rows to a gate: its files are written and its commands run in their order."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plan.load import load_suite
from tests.factories.command import bench, forked, workers
from tests.factories.published import svg_alone

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
FILES = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^python -m .+$", TEXT, flags=re.MULTILINE)


def as_test(line: str) -> list[str]:
    """A command's words as it runs here: packages into a folder, from no index; a tiny random backbone, one seed."""
    words = shlex.split(line)[2:]
    if words[:2] == ["pip", "install"]:
        words += ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
        words += ["--target", "site"]
    if words[1] in ("plan", "run"):
        words += ["--backbone", "tiny", "--seeds", "0"]
    if words[1] == "run" and "tickets.toml" in words:  # of the methods that init proposes, two say as much as seven
        words += ["--methods", "full,head"]
    return words


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[str, str]:
    """What each command printed, by its verb: pip runs in its own process, ours in one fork that finds the package."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, content in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    every = [as_test(line) for line in COMMANDS]
    (install,) = (words for words in every if words[0] == "pip")
    commands = [words for words in every if words[0] == "bench"]
    assert len(commands) == len(every) - 1
    done = subprocess.run([sys.executable, "-m", *install], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr

    def use() -> None:
        found: dict[str, str] = {}
        os.chdir(folder)
        sys.path.insert(0, str(folder / "site"))
        with svg_alone():
            for words in commands:
                found[words[1]] = found.get(words[1], "") + bench(*words[1:]).stdout
        found["kept"] = "\n".join(sorted(map(str, Path("results/kept").rglob("*.safetensors"))))
        sys.stdout.write(json.dumps(found))

    workers()
    return json.loads(forked(use))


def test_the_tutorial_shows_every_file_that_it_needs():
    assert [name for name, _ in FILES] == [
        "tickets.csv", "my-method/pyproject.toml", "my-method/my_method.py", "mine.toml",
    ]  # fmt: skip


def test_the_method_is_listed_under_the_name_that_the_tutorial_says(printed):
    assert "my-method/scale" in printed["list"]
    assert "`my-method/scale`" in TEXT


def test_two_commands_lead_from_the_file_to_a_report_and_keep_what_was_trained(printed):
    first, second = COMMANDS[:2]
    assert (first.split()[3], second.split()[3]) == ("init", "run")
    assert "tickets from tickets.csv, 20 % of its rows held out by hash" in printed["run"]
    for folder in ("results/tickets", "results/kept"):
        assert re.search(rf"^report +{folder}/report\.html", printed["run"], flags=re.MULTILINE)
    assert len(printed["kept"].splitlines()) == 2


def test_the_run_decides_the_claim(printed):
    assert re.search(r"pass .*My scale sends no gradient into the backbone", printed["report"])


def test_the_gate_passes_on_what_was_just_measured(printed):
    assert "passed" in printed["gate"]
    assert "failed" not in printed["gate"]


def test_what_the_tutorial_quotes_is_what_its_commands_print(printed):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    quoted = [text for language, text in blocks if not language and not text.startswith("python")]
    assert len(quoted) == 4
    for text, verbs in zip(quoted, (["init"], ["list"], ["run", "report"], ["gate"]), strict=True):
        assert all(text in printed[verb] for verb in verbs)
    assert printed["list"].endswith(quoted[1])


def test_the_claim_about_scores_and_the_search_that_the_tutorial_shows_belong_to_its_suite(tmp_path):
    shown = re.findall(r"^```toml\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    claim, tuning = (next(text for text in shown if text.startswith(start)) for start in ("[[claim]]", "[tuning]"))
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([dict(FILES)["mine.toml"], claim, tuning]))
    suite = load_suite(str(path))
    assert suite.tuning and [each.metric for each in suite.claim] == ["flops.backbone.backward", "score"]

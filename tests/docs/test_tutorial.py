"""The tutorial, from an empty folder to a gate: its files are written and its commands run in their order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plan.load import load_suite

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
FILES = re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^python -m .+$", TEXT, flags=re.MULTILINE)


def as_test(line: str) -> list[str]:
    """The command as it runs here: packages into a folder and from no index, a tiny random backbone, one seed."""
    _, *words = shlex.split(line)
    if words[:3] == ["-m", "pip", "install"]:
        words += ["--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
        words += ["--target", "site"]
    if words[2] in ("plan", "run"):
        words += ["--backbone", "tiny", "--seeds", "0"]
    return [sys.executable, *words]


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[str, str]:
    """What each command printed, by its verb."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, content in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    around = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder / 'site'}"}
    found = {}
    for line in COMMANDS:
        done = subprocess.run(as_test(line), cwd=folder, env=around, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        found[line.split()[3]] = done.stdout
    return found


def test_the_tutorial_shows_every_file_that_it_needs():
    assert [name for name, _ in FILES] == [
        "my-data/sst2/train.jsonl", "my-data/sst2/dev.jsonl", "my-method/pyproject.toml", "my-method/my_method.py",
        "mine.toml",
    ]  # fmt: skip


def test_the_method_is_listed_under_the_name_that_the_tutorial_says(printed):
    assert "my-method/scale" in printed["list"]
    assert "`my-method/scale`" in TEXT


def test_the_run_reads_the_reader_s_data_and_decides_the_claim(printed):
    assert "my-data" in printed["run"]
    assert re.search(r"pass .*My scale sends no gradient into the backbone", printed["report"])


def test_the_gate_passes_on_what_was_just_measured(printed):
    assert "passed" in printed["gate"]
    assert "failed" not in printed["gate"]


def test_what_the_tutorial_quotes_is_what_its_commands_print(printed):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    quoted = [text for language, text in blocks if not language and not text.startswith("python")]
    assert len(quoted) == 3
    for text, verbs in zip(quoted, (["list"], ["run", "report"], ["gate"]), strict=True):
        assert all(text in printed[verb] for verb in verbs)
    assert printed["list"].endswith(quoted[0])


def test_the_claim_about_scores_and_the_search_that_the_tutorial_shows_belong_to_its_suite(tmp_path):
    shown = re.findall(r"^```toml\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    claim, tuning = (next(text for text in shown if text.startswith(start)) for start in ("[[claim]]", "[tuning]"))
    path = tmp_path / "mine.toml"
    path.write_text("\n".join([dict(FILES)["mine.toml"], claim, tuning]))
    suite = load_suite(str(path))
    assert suite.tuning and [each.metric for each in suite.claim] == ["flops.backbone.backward", "score"]

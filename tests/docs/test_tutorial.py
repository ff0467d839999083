"""The tutorial, from an empty folder to a gate: its files are written and its commands run in their order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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

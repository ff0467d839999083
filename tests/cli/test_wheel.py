"""A wheel built from the checkout runs alone: in a fresh environment and an empty folder, with all its data files."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from bench.plan.load import suite_names

ROOT = Path(__file__).resolve().parents[2]
BUILT_FROM = ("bench", "methods", "suites", "pyproject.toml", "README.md", "LICENSE")


def done(*words, cwd):
    """Output of a command in ``cwd``; no variable shows it the checkout, and threads that wait give their core away."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    around["OMP_WAIT_POLICY"] = "passive"
    ran = subprocess.run(list(map(str, words)), cwd=cwd, env=around, capture_output=True, text=True, timeout=800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Scripts of an environment that holds the wheel; packages it depends on are those of this environment.

    The wheel is built from a copy, since a build leaves files in its source. The path to the dependencies stands behind
    the environment's own packages, and ``.pth`` files there, as an editable install of this project is one, are not
    read. The environment lies in a repository of somebody else, as ``.venv`` folders do.
    """
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, folder / "source", cwd=folder)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(folder / "source")
    project = folder / "project"
    author = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    done("git", "init", "-q", project, cwd=folder)
    done("git", *author, "commit", "-q", "--allow-empty", "-m", "first", cwd=project)
    done(sys.executable, "-m", "venv", "--without-pip", project / ".venv", cwd=project)
    python = project / ".venv" / "bin" / "python"
    done(*pip, "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=project)
    packages = done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=project).strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_runs_the_smoke_suite_in_an_empty_folder(installed, tmp_path):
    where = done(
        installed / "python", "-c", "import bench, methods; print(bench.__file__, methods.__file__)", cwd=tmp_path
    )
    assert all(Path(file).is_relative_to(installed.parent) for file in where.split())
    made = json.loads(done(installed / "peft-ledger", "run", "--suite", "smoke", "--json", cwd=tmp_path))
    assert made["failed"] == []
    run = tmp_path / made["folder"]
    assert all((tmp_path / plot).stat().st_size for plot in made["plots"])
    assert "METHODOLOGY.md#" not in (run / "report.html").read_text()  # it is not there to be linked to
    (commit,) = {json.loads(line)["environment"]["commit"] for line in (run / "records.jsonl").read_text().splitlines()}
    assert commit is None  # not that of the repository around the environment


@pytest.mark.slow
def test_the_wheel_knows_its_suites_and_its_version_and_no_commit(installed, tmp_path):
    listed = json.loads(done(installed / "peft-ledger", "list", "suites", "--json", cwd=tmp_path))
    assert [suite["name"] for suite in listed] == suite_names()
    version = done(installed / "peft-ledger", "--version", cwd=tmp_path)
    assert version.startswith("peft-ledger ")
    assert "commit" not in version

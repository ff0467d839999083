"""CI's performance job fails where work became slower, and where nothing was measured or compared."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
JOB = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["perf"]
BENCHMARK = """
import itertools

import pytest

TICKS = itertools.count()
WORKED = [0.0]


def clock():  # work takes exactly as long as it says, so that no luck decides this test
    return WORKED[0] + 1e-9 * next(TICKS)


@pytest.mark.benchmark(timer=clock)
def test_work(benchmark):
    def work():
        WORKED[0] += {seconds}

    benchmark.pedantic(work, rounds=3)
"""


def step(option):
    """The command of the job's one step that has ``option``."""
    (command,) = [step["run"] for step in JOB["steps"] if re.search(rf"{option}\b(?!-)", step.get("run", ""))]
    return command


PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin,pytest_benchmark.plugin"}
"""Those that the job's options are of: hypothesis alone takes as long to import as all the rest."""


def run_in(project, command, text, *options):
    """Run a step of the job in a project that has performance tests of this text and nothing else."""
    folder = project / "tests" / "perf"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests/perf/conftest.py", folder)
    (folder / "test_work.py").write_text(text)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = inherited | PLUGINS | {"RUNNER_TEMP": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    shell = ["bash", "-e", "-c", " ".join([command.strip(), *options])]
    return subprocess.run(shell, cwd=project, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def ci(tmp_path):
    """Runs a step of the job in a project in which nothing was measured."""
    return functools.partial(run_in, tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A project whose base was measured: its work takes one second."""
    project = tmp_path_factory.mktemp("base")
    done = run_in(project, step("--benchmark-save"), BENCHMARK.format(seconds=1.0))
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def saved(base, tmp_path):
    """Runs a step of the job in a copy of that project."""
    return functools.partial(run_in, shutil.copytree(base, tmp_path, dirs_exist_ok=True))


def test_work_that_takes_as_long_as_before_passes(saved, tmp_path):
    done = saved(step("--benchmark-compare"), BENCHMARK.format(seconds=1.1))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_work" in (tmp_path / "perf.json").read_text()


def test_work_that_became_slower_fails(saved):
    done = saved(step("--benchmark-compare"), BENCHMARK.format(seconds=1.5))
    assert done.returncode != 0
    assert "Performance has regressed" in done.stdout + done.stderr


def test_a_base_that_was_not_measured_fails(ci):
    assert ci(step("--benchmark-compare"), BENCHMARK.format(seconds=1.0)).returncode != 0


def test_a_base_without_any_of_the_benchmarks_fails(saved):
    done = saved(step("--benchmark-compare"), BENCHMARK.format(seconds=1.0).replace("test_work", "test_renamed"))
    assert done.returncode == 1
    assert "nothing was compared" in done.stdout


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-skip", "-n1"])
def test_benchmarks_that_are_switched_off_fail(ci, option):
    done = ci(step("--benchmark-save"), BENCHMARK.format(seconds=1.0), option)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no benchmark was measured" in done.stdout


@pytest.mark.parametrize(("text", "options"), [("", ()), (BENCHMARK.format(seconds=1.0), ("-k nothing",))])
def test_an_empty_selection_fails(ci, text, options):
    assert ci(step("--benchmark-save"), text, *options).returncode != 0


def test_tests_that_measure_nothing_fail(ci):
    done = ci(step("--benchmark-save"), "def test_work():\n    pass\n")
    assert done.returncode == 1
    assert "no benchmark was measured" in done.stdout


def test_the_guide_names_the_command_of_the_job():
    (command,) = re.findall(r"`(python -m pytest .*tests/perf[^`]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert step("--benchmark-save").startswith(command)
    assert step("--benchmark-compare").startswith(command)

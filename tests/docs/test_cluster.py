"""The page on clusters: what its scripts start is what the program takes, and its files are files of those tools."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.test_docs import ROOT, USAGE, commands
from tests.factories.command import bench

PAGE = (ROOT / "docs/cluster.md").read_text()
SHELL = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
RAY, SLURM, SUBMIT, LAUNCH, HF_JOB, HF = SHELL
KUBERAY, SKY = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL))
JOBS = ("cell-aa", "cell-bb", "probe-cc")


@pytest.fixture
def shell(tmp_path):
    """Runs a script where ``specs`` has three jobs and each command prints its words; gives what was printed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "specs").mkdir()
    for name in JOBS:
        (tmp_path / "specs" / f"{name}.json").write_text("{}")
    for name in ("python", "ray", "sbatch", "sky", "hf", "cp", "cd"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/bash\necho {name} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script, *words, code=0, **variables):
        around = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **variables}
        (tmp_path / "script").write_text(script.replace("/specs", str(tmp_path / "specs")).replace("cd /app", "true"))
        done = subprocess.run(
            ["bash", "script", *words], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (code, "")
        return done.stdout.splitlines()

    return run


def started(lines, tmp_path):
    """The words of the one command of this program, which takes them: it is the file that it refuses."""
    (line,) = [line for line in lines if line.startswith("python -m bench")]
    words = shlex.split(line)[3:]
    said = bench(*words[:2], str(tmp_path / "absent.json"), *words[3:], code=2).stderr
    assert said == f"error: {tmp_path / 'absent.json'}: no such file\n"
    return [word.replace(str(tmp_path), "") for word in words]


def test_the_commands_of_the_page_are_those_of_the_usage_page_which_are_run():
    first = commands(re.search(r"```\n(.*?)```", PAGE, flags=re.DOTALL)[1])
    assert len(first) == 3 and set(first) <= set(commands(USAGE))


def taken(line, tmp_path):
    """The words of a command that runs a suite on Ray, which the program takes: it is the suite that it refuses."""
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "bench", "run"]
    words[words.index("--suite") + 1] = str(tmp_path / "absent.toml")
    assert str(tmp_path / "absent.toml") in bench(*words[3:], code=2).stderr
    return words


def test_a_cluster_of_ray_is_started_with_words_that_ray_has_and_the_run_finds_it(shell, tmp_path):
    head, node, run = shell(RAY)
    assert "--address" in taken(run, tmp_path)
    start = pytest.importorskip("ray.scripts.scripts").start
    known = {option for param in start.params for option in param.opts}
    assert {word for line in (head, node) for word in line.split() if word.startswith("--")} <= known


def test_the_ray_job_has_fields_of_kuberay_and_its_command_is_one_of_this_program(tmp_path):
    """Fields as the manual lists them (ray-project.github.io/kuberay, reference/api, ray.io/v1)."""
    assert (KUBERAY["apiVersion"], KUBERAY["kind"]) == ("ray.io/v1", "RayJob")
    assert KUBERAY["spec"].keys() == {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"}
    head, (nodes,) = (KUBERAY["spec"]["rayClusterSpec"][key] for key in ("headGroupSpec", "workerGroupSpecs"))
    assert head.keys() == {"rayStartParams", "template"}
    assert nodes.keys() - head.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas"}
    taken(KUBERAY["spec"]["entrypoint"], tmp_path)


def test_the_slurm_script_is_short_and_starts_one_job_of_a_kind(shell, tmp_path):
    assert len(SLURM.splitlines()) <= 15 and SLURM.startswith("#!/bin/bash\n#SBATCH ")
    for index, name in enumerate(("cell-aa", "cell-bb")):
        words = started(shell(SLURM, "cell", SLURM_ARRAY_TASK_ID=str(index)), tmp_path)
        assert words == ["cell", "--spec", f"specs/{name}.json", "--out", f"specs/{name}.jsonl"]
    words = started(shell(SLURM, "probe", SLURM_ARRAY_TASK_ID="0"), tmp_path)
    assert words[2] == "specs/probe-cc.json"


def test_an_array_has_an_index_for_each_job(shell):
    assert shell(SUBMIT) == ["sbatch --array=0-1 job.sh cell", "sbatch --array=0-0 --exclusive job.sh probe"]


def test_the_sky_file_has_fields_of_a_task_and_its_command_is_one_of_this_program(shell, tmp_path):
    """Fields as the manual lists them (docs.skypilot.co, reference/yaml-spec)."""
    assert SKY.keys() <= {"name", "workdir", "num_nodes", "resources", "envs", "file_mounts", "setup", "run"}
    assert SKY["file_mounts"] == {"/specs": {"source": "s3://BUCKET", "mode": "MOUNT"}}
    assert SKY["envs"] == {"JOB": None}  # one that the command line must give
    assert SKY["setup"] in (ROOT / "README.md").read_text().replace(" && ", "\n")
    lines = shell(SKY["run"], JOB="cell-aa")
    assert started(lines, tmp_path) == ["cell", "--spec", "/specs/cell-aa.json", "--out", "/tmp/cell-aa/cell-aa.jsonl"]
    assert lines[-1] == f"cp -r /tmp/cell-aa/. {tmp_path / 'specs'}"
    assert shell(LAUNCH) == [f"sky jobs launch -y -d --env JOB={name} job.yaml" for name in JOBS]


@pytest.mark.parametrize("script", [SKY["run"], HF_JOB], ids=["sky", "hf"])
def test_a_job_whose_records_lie_in_the_bucket_is_not_run_again(shell, tmp_path, script):
    (tmp_path / "specs" / "cell-aa.jsonl").write_text("{}")
    assert shell(script, "cell-aa", JOB="cell-aa") == []


def test_hf_jobs_are_started_with_options_that_they_have_and_run_a_command_of_this_program(shell, tmp_path):
    lines = shell(HF_JOB, "cell-aa")
    assert started(lines, tmp_path) == ["cell", "--spec", "/specs/cell-aa.json", "--out", "/tmp/job/cell-aa.jsonl"]
    assert lines[-1] == f"cp -r /tmp/job/. {tmp_path / 'specs'}"
    runs = [line for line in shell(HF) if line.startswith("hf jobs run")]
    assert [line.split()[-1] for line in runs] == list(JOBS)
    source = Path(pytest.importorskip("huggingface_hub.cli.jobs").__file__).read_text()
    given = [word for word in shlex.split(runs[0]) if word.startswith("-")]
    assert given == ["--detach", "--flavor", "--timeout", "-v", "-v"]
    assert all(re.search(rf'"{option}"|^    {option.lstrip("-")}:', source, flags=re.MULTILINE) for option in given)

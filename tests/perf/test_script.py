"""Cells against the script that one would write for the same rows, steps and threads, in CPU seconds and in turns."""

import csv
import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bench.models import backbone
from bench.tasks import synthetic

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("trainer_script.py")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CELLS, STEPS, ROUNDS, SCRIPTS = 13, 60, 2, 2
SUITE = f"""
question = "What does a cell cost beside a script?"
baseline = "lora"
seeds = SEEDS
[backbone]
name = "{MINILM}"
[[task]]
name = "rows"
kind = "classes"
train = "train.csv"
test = "test.csv"
text = "text"
[recipe]
steps = {STEPS}
batch_size = 16
max_length = 32
warmup = 0.1
learning_rate = 5e-3
[[method]]
name = "lora"
"""
SUBREAPER = 36
"""Of ``prctl``: orphaned descendants become this process's children, so that their CPU time is counted with them."""


def seconds_of(command, folder):
    """CPU seconds of a command and of all that it started, and what it printed."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    try:
        while True:
            os.wait()
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """2,000 rows to train on and 256 to score on, and suites of one cell and of thirteen."""
    place = tmp_path_factory.mktemp("script")
    for split, count in (("train", 2000), ("test", 256)):
        rows = synthetic.rows("sst2", split)
        with (place / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((texts[0], label) for texts, label in zip(rows.texts[:count], rows.labels, strict=False))
    for cells in (1, CELLS):
        (place / f"cells{cells}.toml").write_text(SUITE.replace("SEEDS", str(list(range(cells)))))
    return place


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.benchmark
def test_thirteen_cells_add_to_their_training_at_most_a_quarter_of_what_thirteen_scripts_add(benchmark, folder):
    """Their share of the whole is the machine's: where training takes no time, imports are all there is."""
    weights = str(backbone.resolve(MINILM, "pretrained").folder)

    def cells(count, turn):
        out = folder / f"run-{count}-{turn}"
        # one at a time, as the scripts run: on cores that share their units two at once take more CPU seconds each
        command = [
            sys.executable,
            "-m",
            "bench",
            "run",
            "--suite",
            f"cells{count}.toml",
            "--workers",
            "1",
            "--out",
            out,
        ]
        spent, _ = seconds_of([*map(str, command)], folder)
        records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        assert [record["status"] for record in records] == ["ok"] * count
        return spent

    def script(seed):
        rows = [str(folder / "train.csv"), str(folder / "test.csv")]
        spent, printed = seconds_of([sys.executable, str(SCRIPT), weights, *rows, str(STEPS), str(seed)], folder)
        return spent, float(printed.split()[-1])

    many, scripts, trained = [], [], []
    for turn in range(ROUNDS):
        for number in range(SCRIPTS):
            whole, inner = script(SCRIPTS * turn + number)
            scripts.append(whole)
            trained.append(inner)
        many.append(cells(CELLS, turn) / CELLS)
    cell, whole, inner = (sum(values) / len(values) for values in (many, scripts, trained))
    benchmark.extra_info |= {"cells_over_scripts": cell / whole, "training_over_script": inner / whole}
    benchmark.extra_info |= {"added_over_added": (cell - inner) / (whole - inner)}
    benchmark.pedantic(lambda: None, rounds=1)
    assert cell - inner <= 0.25 * (whole - inner)

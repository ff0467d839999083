"""Ten thousand records cost little more than a hundred: CPU seconds against CPU seconds of the same machine.

A hundred thousand are held to absolute bounds, in a test that runs apart (``-m slow``).
"""

import json
import subprocess
import sys

import pytest
import tomli_w

from tests.factories.records import LABELS, cost, glue_small, score

TASKS = ("sst2", "mrpc", "cola", "stsb")
SEEDS = 195
GROWTH = 2.5
"""CPU seconds of a report on ten thousand records by those of one on a hundred, which draws the same figures and
imports what both use."""


def written(folder, seeds, names, few=()):
    """Write one run folder for each of ``names``, all of the same cells; those of ``few`` hold one seed of them."""
    suite = glue_small(folder, costs=False).suite.changed(tasks=list(TASKS), seeds=list(range(seeds)))
    for name in (*names, *few):
        (folder / name).mkdir()
        (folder / name / "suite.toml").write_text(tomli_w.dumps(suite.plain()))
        with (folder / name / "records.jsonl").open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in cells(1 if name in few else seeds))
    return [folder / name for name in (*names, *few)]


def cells(seeds):
    """Plain records: of each method four costs, and on each task a score of each seed."""
    losses = [0.7 - 0.005 * step for step in range(60)]
    for label in LABELS:
        for batch in (8, 16, 24, 32):
            yield cost(label, shape={"batch": batch}).model_dump(mode="json", by_alias=True)
        for task in TASKS:
            first = score(label, task, 0, losses=losses).model_dump(mode="json", by_alias=True)
            for seed in range(seeds):
                value = first["score"] + 0.001 * ((3 * seed + len(label)) % 7)
                yield first | {"seed": seed, "id": f"{label}-{task}-{seed}", "score": value}


@pytest.fixture(scope="module")
def large_runs(tmp_path_factory):
    """Two run folders of the same ten thousand cells, and one of a hundred."""
    return written(tmp_path_factory.mktemp("large"), SEEDS, ("first", "second"), few=("few",))


PROGRAM = """
import json, re, sys, time
from pathlib import Path
from bench.cli.app import app
from tests.factories.published import svg_alone
svg_alone().start()  # a PNG holds as many pixels whatever the records are
took = []
for words in json.loads(sys.argv[1]):
    before = time.process_time()
    app(words, standalone_mode=False)
    # the kernel's ru_maxrss begins with what the process that started this one held; VmHWM is this program's own
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    took.append((time.process_time() - before, int(peak) * 1024))
print(json.dumps(took), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def took(large_runs):
    """CPU seconds of a report on a hundred records, of one on ten thousand and of a comparison, one after the other.

    With each comes the largest memory in bytes until then. The first imports what the others use.
    """
    first, second, few = map(str, large_runs)
    return measured(["report", few], ["report", first], ["compare", first, second])


def measured(*commands, timeout=280):
    """CPU seconds, and the largest memory in bytes until then, of commands that one process runs one by one."""
    words = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_a_report_of_ten_thousand_records_takes_little_more_than_one_of_a_hundred_and_a_gibibyte(large_runs, took):
    (few, _), (seconds, memory), _ = took
    assert seconds < GROWTH * few
    assert memory < 2**30
    assert (large_runs[0] / "report.html").stat().st_size < 3_000_000


def test_two_runs_of_ten_thousand_records_are_compared_in_less_time_than_one_is_reported(took):
    _, (reported, _), (compared, _) = took
    assert compared < reported


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_records_are_reported_in_a_minute_and_exported_in_half_of_one_within_a_gibibyte(tmp_path):
    (folder,) = written(tmp_path, 10 * SEEDS, ("run",))
    csv = ["report", str(folder), "--format", "csv", "-o", str(tmp_path / "run.csv")]
    (reported, memory), (exported, _) = measured(["report", str(folder)], csv, timeout=900)
    assert reported < 60
    assert exported < 30
    assert memory < 2**30

"""Ten thousand records cost little more than a hundred: CPU seconds against CPU seconds of the same machine."""

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


@pytest.fixture(scope="module")
def large_runs(tmp_path_factory):
    """Two run folders of the same cells."""
    folder = tmp_path_factory.mktemp("large")
    suite = glue_small(folder, costs=False).suite.changed(tasks=list(TASKS), seeds=list(range(SEEDS)))
    costs = [cost(label, shape={"batch": batch}).model_dump(mode="json", by_alias=True)
               for label in LABELS for batch in (8, 16, 24, 32)]  # fmt: skip
    records, losses = list(costs), [0.7 - 0.005 * step for step in range(60)]
    for label in LABELS:
        for task in TASKS:
            first = score(label, task, 0, losses=losses).model_dump(mode="json", by_alias=True)
            for seed in range(SEEDS):
                value = first["score"] + 0.001 * ((3 * seed + len(label)) % 7)
                records.append(first | {"seed": seed, "id": f"{label}-{task}-{seed}", "score": value})
    assert len(records) > 9_990
    few = [*costs, *(record for record in records if record.get("seed") == 0)]
    for name, held in (("first", records), ("second", records), ("few", few)):
        (folder / name).mkdir()
        (folder / name / "suite.toml").write_text(tomli_w.dumps(suite.plain()))
        (folder / name / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in held))
    return [folder / "first", folder / "second", folder / "few"]


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
    words = [
        sys.executable,
        "-c",
        PROGRAM,
        json.dumps([["report", few], ["report", first], ["compare", first, second]]),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
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

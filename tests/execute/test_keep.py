"""``run --keep``: what stays in the run folder, what a resumed run does with it, and what is refused."""

import json

import pytest
from transformers import GPT2Config

from bench.cli import app
from bench.store import kept
from bench.store.store import read_run
from tests.factories.command import bench

SUITE = """
question = "What is kept?"
baseline = "head"
tasks = ["sst2"]
seeds = [0, 1]
data = "synthetic"
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 2
batch_size = 4
max_length = 16
train_rows = 32
test_rows = 16
[[method]]
name = "head"
[[method]]
name = "ia3"
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Words of a run of two methods and two seeds, without its report."""
    monkeypatch.setattr(app, "_report", lambda *asked: None)
    suite = tmp_path / "keep.toml"
    suite.write_text(SUITE)
    return "run", "--suite", suite, "--out", tmp_path / "run"


def seeds_kept(folder):
    return [(one.about.method.label, one.about.seed) for one in kept.kept_in(folder / "run")]


def test_all_seeds_or_the_best_are_kept_and_the_record_says_so(asked, tmp_path):
    bench(*asked, "--keep", "all")
    assert seeds_kept(tmp_path) == [("head", 0), ("head", 1), ("ia3", 0), ("ia3", 1)]
    run = read_run(tmp_path / "run")
    by_id = {one.about.cell: one.about for one in kept.kept_in(tmp_path / "run")}
    assert {r.id: {"delta.safetensors": r.kept_sha256} for r in run.records} == {k: v.files for k, v in by_id.items()}
    assert {r.id: r.score for r in run.records} == {k: v.score.test for k, v in by_id.items()}
    bench(*asked, "--keep", "best")  # nothing is left to train: the worse seeds go
    best = {}
    for record in run.records:
        best.setdefault(record.method.label, []).append((-record.score, record.seed))
    assert seeds_kept(tmp_path) == [(label, min(found)[1]) for label, found in sorted(best.items())]
    refused = bench(*asked, "--keep", "all", code=2).stderr
    assert "2 of 4 cells were trained under --keep best, which left the best seeds alone; add --fresh" in refused


def test_a_run_without_keep_stores_nothing_and_cannot_keep_afterwards(asked, tmp_path):
    bench(*asked, "--seeds", "0")
    assert not (tmp_path / "run" / "kept").exists()
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    refused = bench(*asked, "--seeds", "0", "--keep", "best", code=2).stderr
    assert "2 of 2 cells were trained without --keep, and what they trained is gone; add --fresh to train" in refused
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    bench(*asked, "--seeds", "0", "--keep", "best", "--fresh")
    assert seeds_kept(tmp_path) == [("head", 0), ("ia3", 0)]
    bench(*asked, "--seeds", "0", "--fresh")
    assert not (tmp_path / "run" / "kept").exists() and len([*(tmp_path / "run").glob("kept-*")]) == 1


def test_a_killed_run_goes_on_where_it_was(asked, tmp_path):
    bench(*asked, "--keep", "all")
    records = tmp_path / "run" / "records.jsonl"
    *first, last = records.read_text().splitlines(keepends=True)
    records.write_text("".join(first))  # killed between the delta's place and its record
    place = tmp_path / "run" / "kept" / json.loads(last)["id"]
    place.rename(place.with_name(place.name + ".partial"))  # and, worse, before its place
    bench(*asked, "--keep", "all")
    assert len(seeds_kept(tmp_path)) == 4
    assert json.loads(records.read_text().splitlines()[-1])["kept_sha256"] == json.loads(last)["kept_sha256"]
    records.write_text("".join(first))
    said = bench(*asked).stdout
    assert "earlier cells of this run are kept; without --keep those that follow are not" in said


def test_a_disk_that_takes_no_delta_ends_the_run_and_loses_nothing(asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept").write_text("a file where the folder should be")
    refused = bench(*asked, "--keep", "all", code=2).stderr
    assert "cannot be written" in refused and "free space or fix permissions, then run again" in refused
    assert not (tmp_path / "run" / "records.jsonl").exists()  # no cell has failed: each is trained again
    (tmp_path / "run" / "kept").unlink()
    bench(*asked, "--keep", "all")
    assert len(seeds_kept(tmp_path)) == 4


def test_to_keep_what_nothing_trains_is_refused(tmp_path):
    refused = bench("run", "--suite", "smoke", "--counts", "--keep", "all", "--out", tmp_path, code=2).stderr
    assert "--keep stores what scored cells train, and nothing is scored here; omit --keep" in refused


def test_to_keep_what_writes_texts_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "config.json").write_text(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2).to_json_string())
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"q": "say {i}", "a": "{i} {i}"}}\n' for i in range(8)))
    (tmp_path / "echo.toml").write_text(
        'question = "?"\nbaseline = "full"\nseeds = [0]\n[backbone]\nname = "./config.json"\nweights = "random"\n'
        '[recipe]\nsteps = 1\nbatch_size = 2\nmax_length = 24\n[[method]]\nname = "full"\n'
        '[[task]]\nname = "echo"\nkind = "text"\ntrain = "rows.jsonl"\ntest = "rows.jsonl"\ntext = "q"\nlabel = "a"\n'
        'prompt = "{q} "\n'
    )
    asked = "run", "--suite", tmp_path / "echo.toml", "--keep", "all", "--out", tmp_path / "run"
    refused = bench(*asked, code=2).stderr
    assert "--keep stores adapted models of classes and scores, and echo writes texts; omit --keep" in refused
    assert not (tmp_path / "run").exists()

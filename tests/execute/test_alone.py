"""A job from a file is the job of a run: same records, bit for bit, whole or not at all, and gathered each once."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from transformers import AutoModel

from bench.errors import BenchError
from bench.execute import alone
from bench.execute.runner import Result, run_jobs
from bench.models import backbone
from bench.plan import here
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.schema.jobs import BackboneSpec, Probe, Sweep, record_ids
from bench.store.environment import versions
from bench.store.outcomes import gather
from bench.store.sidecars import Sidecars, predictions_path
from bench.store.specs import read_spec, write_specs
from bench.store.store import read_records, read_run
from tests.factories.command import bench, workers
from tests.models.test_weights import TINY, save

SUITE = """
question = "Is a job from a file the job of a run?"
tasks = ["sst2"]
seeds = [0]
data = "synthetic"
backbone = { name = "tiny", weights = "random" }
recipe = { steps = 2, batch_size = 4, max_length = 16, train_rows = 32, test_rows = 16, directions = 2 }
cost = [{ batch = 2, length = 8, timed = false }]
sweep = [{ name = "length", vary = "length", values = [8, 16], batch = 2, methods = ["head"] }]
method = [{ name = "full" }, { name = "head" }]
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "jobs.toml"
    path.write_text(SUITE)
    return make_plan(load_suite(str(path)), str(path), "cpu")


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    """A folder of specs, every job of which was run from its file."""
    folder = tmp_path_factory.mktemp("done")
    write_specs(folder, plan.suite, here.specs_of(plan))
    workers()
    for path in specs(folder):
        bench("cell", "--spec", path, "--out", path.with_suffix(".jsonl"))
    return folder


@pytest.fixture
def folder(done, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(done, tmp_path / "specs")


def specs(folder, kind=""):
    return sorted(folder.glob(f"{kind}*.json"))


def spec_of(folder, kind, label=None):
    """The first spec of a kind, of a method if one is named."""
    return next(
        path for path in specs(folder, kind)
        if label is None or json.loads(path.read_text())["job"]["method"]["label"] == label
    )  # fmt: skip


def edit(path, **values):
    """Change values of the job in a spec."""
    content = json.loads(path.read_text())
    content["job"] |= values
    path.write_text(json.dumps(content))


def refused(*words):
    """The sentence of a command that ends with exit code 2."""
    said = bench(*words, code=2).stderr
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    return said


def figures(record):
    """All that a record says but for moments, seconds, the load of the machine and the state of the checkout."""
    moments = {"started": True, "ended": True, "train_seconds": True, "prepare_seconds": True}
    return record.model_dump(mode="json", exclude=moments | {"environment": {"load_average", "commit", "dirty"}})


def test_a_job_from_a_file_gives_what_a_run_gives_bit_for_bit(plan, done, tmp_path):
    local = [event for event in run_jobs(workers(), plan.jobs, workers=2) if isinstance(event, Result)]
    assert len(local) == len(plan.job_ids()) == 6
    alone = {record.id: record for path in done.glob("*.jsonl") for record in read_records(path)}
    for event in local:
        assert event.record.status == "ok", event.record.reason
        assert figures(alone[event.record.id]) == figures(event.record)
        if event.sidecars is not None:
            event.sidecars.write(tmp_path, event.record.id)
            beside = predictions_path(done, event.record.id)
            assert beside.read_bytes() == predictions_path(tmp_path, event.record.id).read_bytes()
    assert sorted(path.parent.name for path in tmp_path.rglob("*.*")) == ["directions", "predictions", "predictions"]


def test_a_spec_is_the_planned_job_and_says_what_it_was_planned_with(plan, done):
    found = {(spec := read_spec(path)).about.position: spec for path in specs(done)}
    assert [found[at].job for at in range(len(found))] == list(plan.jobs)
    assert {spec.about.versions["torch"] for spec in found.values()} != {None}
    for spec in found.values():
        assert here.located(spec, "spec") == spec.job
        here.check_here(spec.job, "spec")


def test_the_jobs_of_a_folder_are_gathered_into_a_run_that_a_run_takes_for_its_own(plan, done, tmp_path):
    shown = bench("collect", done, "--out", tmp_path / "run").stdout
    assert shown.startswith("4 of 4 jobs: 6 new of 6 records -> ")
    run = read_run(tmp_path / "run")
    assert [record.id for record in run.records] == [one for job in plan.jobs for one in record_ids(job)]
    assert run.suite == plan.suite
    assert len([*(tmp_path / "run").rglob("*.parquet")]) == 2
    again = bench("collect", done, "--out", tmp_path / "run", "--json").stdout
    assert json.loads(again) == {"jobs": 4, "new": 0, "records": 6, "missing": [], "failed": []}


def test_what_jobs_have_not_left_yet_is_named_and_comes_with_the_next_call(folder, tmp_path):
    late, unseen = spec_of(folder, "cell", "full"), spec_of(folder, "cell", "head")
    set_aside = late.with_suffix(".jsonl").rename(tmp_path / "late")
    identity = json.loads(unseen.read_text())["job"]["id"]
    predictions = predictions_path(folder, identity).rename(tmp_path / "predictions")
    shown = bench("collect", folder, "--out", tmp_path / "run", code=1).stdout
    assert "2 of 4 jobs: 4 new of 4 records" in shown
    assert f"missing  {late.name}\n" in shown
    lacks = predictions_path(folder, identity).relative_to(folder)
    assert f"missing  {unseen.name}: its record is there, {lacks} is not\n" in shown
    set_aside.rename(late.with_suffix(".jsonl"))
    predictions.rename(predictions_path(folder, identity))
    assert "4 of 4 jobs: 2 new of 6 records" in bench("collect", folder, "--out", tmp_path / "run").stdout


def test_what_is_done_is_not_run_again_and_another_job_s_file_is_kept(folder, monkeypatch):
    monkeypatch.setattr(alone, "run_jobs", lambda *jobs, **options: pytest.fail("it was run again"))
    first, other = specs(folder, "cell")
    left = first.with_suffix(".jsonl")
    before = left.read_bytes()
    assert f"{left}: done before" in bench("cell", "--spec", first, "--out", left).stdout
    assert "of another job; give another --out" in refused("cell", "--spec", other, "--out", left)
    assert left.read_bytes() == before
    predictions_path(folder, read_spec(first).job.id).unlink()
    assert "is missing beside" in refused("cell", "--spec", first, "--out", left)


def test_a_job_that_fails_leaves_its_record_and_exit_code_1_and_is_gathered_anew_once_it_was_run_again(
    folder, tmp_path
):
    spec = spec_of(folder, "cell", "head")
    sound, left = spec.read_text(), spec.with_suffix(".jsonl")
    left.unlink()
    edit(spec, timeout_seconds=1e-3)
    assert "head  timeout: ran longer than 0.001 s" in bench("cell", "--spec", spec, "--out", left, code=1).stdout
    assert "done before" in bench("cell", "--spec", spec, "--out", left, code=1).stdout
    shown = bench("collect", folder, "--out", tmp_path / "run", code=1).stdout
    assert f"failed   {spec.name}: head: timeout: ran longer" in shown
    left.unlink()
    spec.write_text(sound)
    bench("cell", "--spec", spec, "--out", left)
    said = refused("collect", folder, "--out", tmp_path / "run")
    assert "has an earlier record of head" in said and "timeout) than its job has left since; add --fresh" in said
    bench("collect", folder, "--out", tmp_path / "run", "--fresh")
    assert {record.status for record in read_run(tmp_path / "run").records} == {"ok"}


def test_a_job_that_is_stopped_leaves_nothing(folder, tmp_path, monkeypatch):
    def stopped(*jobs, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    monkeypatch.setattr(alone, "run_jobs", stopped)
    said = bench("cell", "--spec", specs(folder)[0], "--out", tmp_path / "out" / "left.jsonl", code=143).stderr
    assert said == "interrupted: nothing is written; the same command runs the job again\n"
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_file_that_cannot_be_written_is_refused_before_the_job_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(alone, "run_jobs", lambda *jobs, **options: pytest.fail("it was run"))
    (tmp_path / "file").write_text("")
    spec = specs(folder)[0]
    assert "cannot be written" in refused("cell", "--spec", spec, "--out", tmp_path / "file" / "left.jsonl")
    assert "must be a file that ends in .jsonl" in refused("cell", "--spec", spec, "--out", tmp_path / "left.json")


def elsewhere(monkeypatch, change):
    """This machine as one that lacks something."""
    if change == "version":
        monkeypatch.setattr(here, "versions", lambda: versions() | {"torch": "0.1"})
    elif change == "code":
        monkeypatch.setattr(here, "source_hash", lambda names: "0" * 64)
    elif change == "method":
        monkeypatch.setattr(here, "method_sources", lambda module: "0" * 64)
    elif change == "rows":
        monkeypatch.setattr(here, "rows_of", lambda cell: (_ for _ in ()).throw(BenchError("no rows here")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("version", "this machine has 0.1; install the same versions on both, or plan where the jobs run"),
        ("code", "was planned with other code than is installed here; take the same commit on both"),
        ("method", "has other code here than where it was planned; install the same one"),
        ("rows", "no rows here"),
    ],
)
def test_a_node_that_lacks_what_the_job_was_planned_with_is_refused_and_nothing_is_written(
    folder, tmp_path, monkeypatch, change, said
):
    elsewhere(monkeypatch, change)
    spec = specs(folder, "cell")[0]
    assert said in (sentence := refused("cell", "--spec", spec, "--out", tmp_path / "left.jsonl"))
    assert str(spec) in sentence
    assert not (tmp_path / "left.jsonl").exists()


def test_a_job_for_a_gpu_is_refused_where_there_is_none(plan, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BenchError, match=r"^spec: was planned for a GPU, and torch finds none here"):
        here.check_here(plan.cells[0].model_copy(update={"device": "cuda"}), "spec")


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1}, {"recipe": {"steps": 3}}, {"id": "0" * 64},
        *({"backbone": {"name": "tiny", "weights": "random", key: value}}
          for key, value in (("layers", 1), ("layers", -1), ("width", 32))),
    ],
)  # fmt: skip
def test_a_job_that_was_edited_has_another_identity(folder, tmp_path, values):
    spec = spec_of(folder, "cell")
    edit(spec, **values)
    assert "gives another identity here" in refused("cell", "--spec", spec, "--out", tmp_path / "left.jsonl")


@pytest.fixture
def own(plan, tmp_path):
    """A spec on a backbone of the user's own, and its folder."""
    place = tmp_path / "mine"
    save(place, "bert", TINY, AutoModel)
    spec = here.specs_of(plan)[0]
    return spec._replace(
        job=spec.job.model_copy(update={"backbone": backbone.resolve(str(place), "pretrained")})
    ), place


def test_a_folder_of_weights_must_be_here_and_the_same(own):
    spec, place = own
    assert here.located(spec, "spec").backbone == spec.job.backbone
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(BenchError, match=r"^spec: backbone ./mine: the weights in .* are not those"):
        here.located(spec, "spec")
    shutil.rmtree(place)
    with pytest.raises(BenchError, match=r"is not on this machine; share it under the same path"):
        here.located(spec, "spec")


def test_a_backbone_of_the_hub_is_looked_for_in_this_machine_s_cache(own, monkeypatch):
    spec, place = own
    planned = dataclasses.replace(spec.job.backbone, name="owner/mine", revision="main", folder="/cache/of/another")
    there = dataclasses.replace(planned, folder=str(place))
    asked = []

    def resolve(*words):
        asked.append(words)
        return there

    monkeypatch.setattr(backbone, "resolve", resolve)
    spec = spec._replace(job=spec.job.model_copy(update={"backbone": planned}))
    assert here.located(spec, "spec").backbone == there
    assert asked == [("owner/mine", "pretrained", "main")]
    there = dataclasses.replace(there, sha256="0" * 64)
    with pytest.raises(BenchError, match="are not those that it was planned with"):
        here.located(spec, "spec")


def test_random_weights_need_no_folder(plan):
    assert {job.backbone for job in plan.jobs} == {BackboneSpec(name="tiny", weights="random")}


DAMAGED = {
    "nothing": b"",
    "no JSON": b"{",
    "another program's": b'{"benchmarks": []}',
    "deep": b"[" * 100_000,
    "a later version": b'{"version": 2}',
    "a key twice": b'{"version": 1, "version": 1}',
    "not a number": b'{"version": 1, "position": NaN}',
    "too large": b" " * (2**24 + 1),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_spec_is_one_sentence_with_its_name(folder, tmp_path, content):
    spec = specs(folder)[0]
    spec.write_bytes(content)
    assert str(spec) in refused("cell", "--spec", spec, "--out", tmp_path / "left.jsonl")
    assert str(spec) in refused("collect", folder, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"id": "../../etc"}, "id: is no sha256"),
        ({"timeout_seconds": 1e9}, "timeout_seconds = 1000000000.0: must be above 0"),
        ({"device": "tpu"}, "device = 'tpu': must be cpu or cuda"),
        ({"recipe": {"steps": 10**12}}, "steps = 1000000000000: must be whole"),
        ({"colour": "red"}, "colour: no such field is known"),
        ({"seed": "first"}, 'seed: must be a whole number, not "first"'),
    ],
)
def test_a_spec_holds_what_a_plan_gives(folder, values, said):
    spec = spec_of(folder, "cell")
    edit(spec, **values)
    with pytest.raises(BenchError) as error:
        read_spec(spec)
    assert said in str(error.value) and str(spec) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{}\n", b'{"schema": 99}\n', b"\xff\xfe\n"])
def test_a_damaged_record_is_one_sentence_with_its_name(folder, tmp_path, content):
    spec = specs(folder)[0]
    left = spec.with_suffix(".jsonl")
    left.write_bytes(content)
    assert str(left) in refused("cell", "--spec", spec, "--out", left)
    assert str(left) in refused("collect", folder, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_records_of_no_spec_twice_in_part_or_beside_other_predictions_are_refused(folder, tmp_path):
    def said():
        sentence = refused("collect", folder, "--out", tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return sentence

    first = specs(folder, "cell")[0]
    left = first.with_suffix(".jsonl")
    copied = shutil.copy(left, folder / "again.jsonl")
    assert "is in again.jsonl as well" in said()
    Path(copied).unlink()
    first.rename(first.with_suffix(".aside"))
    assert f"is of no spec of {folder}; remove the file" in said()
    first.with_suffix(".aside").rename(first)
    identity = read_spec(first).job.id
    place = predictions_path(folder, identity)
    sound = place.read_bytes()
    place.write_bytes(b"PAR1")
    assert "not readable predictions" in said()
    Sidecars({"row": [0], "label": [0], "prediction": [0]}).write(folder, identity)
    assert f"{place}: holds other predictions than its record names" in said()
    place.write_bytes(sound)
    probe = spec_of(folder, "probe").with_suffix(".jsonl")
    probe.write_bytes(probe.read_bytes().splitlines(keepends=True)[0])
    assert "holds 1 of the 2 records of its job; remove it and run it again" in said()


def test_a_probe_whose_records_are_of_two_machines_is_refused(folder, tmp_path):
    left = spec_of(folder, "probe").with_suffix(".jsonl")
    first, other = (json.loads(line) for line in left.read_text().splitlines())
    assert len(first["environment"]["node"]) == 12
    other["environment"]["node"] = "abcdefabcdef"
    left.write_text("".join(json.dumps(record) + "\n" for record in (first, other)))
    with pytest.raises(BenchError, match=r"its records are of 2 machines \(.*abcdefabcdef"):
        gather(folder, tmp_path / "run")


def test_a_folder_of_another_plan_or_of_a_run_is_refused(plan, folder, tmp_path):
    others = here.specs_of(plan)
    write_specs(folder, plan.suite, others)  # the same plan
    with pytest.raises(BenchError, match="is no job of this plan, which other versions, code or options have made"):
        write_specs(folder, plan.suite, others[1:])
    with pytest.raises(BenchError, match="holds the jobs of another suite; give another --specs"):
        write_specs(folder, plan.suite.changed(question="Another?"), others)
    gather(folder, tmp_path / "run")
    with pytest.raises(BenchError, match="is the folder of a run; give another --specs"):
        write_specs(tmp_path / "run", plan.suite, others)
    with pytest.raises(BenchError, match="is the folder of specs itself"):
        gather(folder, folder)
    with pytest.raises(BenchError, match="give the folder that plan --specs has written"):
        gather(tmp_path, tmp_path / "other")


def test_plan_writes_the_specs_of_a_suite(tmp_path):
    path = tmp_path / "counts.toml"
    path.write_text(SUITE)
    shown = bench("plan", "--suite", path, "--counts", "--specs", tmp_path / "specs").stdout
    assert "specs  2 jobs (1 sweep, 1 probe) -> " in shown
    assert {type(read_spec(one).job) for one in specs(tmp_path / "specs")} == {Probe, Sweep}

"""One step shape: whatever describes a training step has the same fields, and committed records still read."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.errors import BenchError
from bench.plan.load import load_suite, parse_suite, suite_names
from bench.schema.jobs import Probe, Sweep
from bench.schema.record import Latency, Shape
from bench.schema.shape import Setting, StepForm, StepShape
from bench.schema.suite import CostTable, SweepTable
from bench.store.store import read_run

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.parent for path in (ROOT / "results" / "published").glob("**/records.jsonl"))


@pytest.mark.parametrize("kind", [CostTable, Probe, Setting, Shape])
def test_a_step_of_some_shape_is_one(kind):
    assert issubclass(kind, StepShape)
    assert not set(StepShape.model_fields) & set(kind.__annotations__), "declared again"


@pytest.mark.parametrize("kind", [SweepTable, Sweep])
def test_a_sweep_has_the_form_of_its_steps(kind):
    assert issubclass(kind, StepForm)
    assert not set(StepForm.model_fields) & set(kind.__annotations__), "declared again"


def test_a_step_is_made_from_another_ones_fields():
    cost = CostTable(batch=8, length=128, dropout=0.1, checkpointing=True, optimizer="sgd", objective="classes")
    assert Setting(**cost.step()).step() == cost.step()


def test_a_sweep_gives_the_step_at_each_value():
    table = SweepTable(vary="length", values=(16, 32), batch=4, objective="classes")
    sweep = {"id": "", "suite": "s", "backbone": {"name": "tiny", "weights": "random"}, "methods": (), "title": "t"}
    made = Sweep(**sweep, **table.model_dump(exclude={"name", "backbone", "methods"}))
    assert made.shape_at(32) == StepShape(batch=4, length=32, objective="classes")


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_of_the_project_reads(name):
    assert load_suite(name).name == name


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: str(path.relative_to(ROOT / "results" / "published")))
def test_every_committed_run_reads(folder):
    lines = (folder / "records.jsonl").read_text().splitlines()
    if '"kind":"trial"' in lines[0]:
        pytest.skip("a search for rates")
    records = read_run(folder).records
    assert len(records) == len(lines)
    for record in records:
        if record.kind != "score":
            assert StepShape(**record.shape.step()).length == record.shape.length


TIMING = {
    "median": 1.0, "p95": 1.0, "samples": [[1.0]], "cpu_median": 1.0, "ratio_to_baseline": 1.0,
    "ratio_interval": [1.0, 1.0],
}  # fmt: skip


def test_latency_is_a_mapping_by_batch_under_keys_that_people_read():
    read = Latency.model_validate({"batch_32": TIMING, "batch_1": TIMING, "batch_8": None})
    assert [*read.by_batch] == [1, 32]
    assert set(read.model_dump()) == {"batch_1", "batch_32"}
    assert Latency.model_validate_json(read.model_dump_json()) == Latency.of(read.by_batch) == read


@pytest.mark.parametrize("key", ["batch_0", "batch_x", "batch", "rows_1"])
def test_latency_takes_no_other_key(key):
    with pytest.raises(ValidationError, match=f"{key} is no batch"):
        Latency.model_validate({key: TIMING})


def suite_with(**cost):
    values = {
        "name": "s", "question": "?", "backbone": {"name": "tiny", "weights": "random"}, "method": [{"name": "full"}],
        "cost": [{"batch": 1, "length": 8, **cost}],
        "claim": [{"name": "c", "says": "s", "metric": "latency_seconds.unmerged.batch_4", "versus": "base",
                   "ratio": {"max": 1.1}, "method": "full"}],
    }  # fmt: skip
    return parse_suite(values, "s.toml")


def test_a_suite_asks_for_any_batch_of_inference_and_claims_about_it():
    assert suite_with(latency_batches=[2, 4]).cost[0].latency_batches == (2, 4)


@pytest.mark.parametrize(("batches", "says"), [([0], "must be at least 1"), ([2, 2], "lists a batch twice")])
def test_a_batch_of_inference_is_at_least_one_row_and_given_once(batches, says):
    with pytest.raises(BenchError, match=says):
        suite_with(latency_batches=batches)

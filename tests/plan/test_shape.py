"""One step shape: whatever describes a training step has the same fields, and committed records still read."""

from pathlib import Path

import pytest

from bench.count.setting import Setting
from bench.plan.load import load_suite, suite_names
from bench.schema.jobs import Probe, Sweep
from bench.schema.record import Shape
from bench.schema.shape import StepForm, StepShape
from bench.schema.suite import CostTable
from bench.schema.sweeps import SweepTable
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
    cost = CostTable(batch=8, length=128, dropout=0.1, checkpointing=True, optimizer="sgd")
    assert Setting(**cost.step()).step() == cost.step()


def test_a_sweep_gives_the_step_at_each_value():
    table = SweepTable(vary="length", values=(16, 32), batch=4)
    sweep = {"id": "", "suite": "s", "backbone": {"name": "tiny", "weights": "random"}, "methods": (), "title": "t"}
    made = Sweep(**sweep, **table.model_dump(exclude={"name", "backbone", "methods"}))
    assert made.shape_at(32) == StepShape(batch=4, length=32)


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

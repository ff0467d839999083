"""The main job end to end: every method from suite to report, and the bounds that the project exists to show."""

from pathlib import Path

import pytest

from bench.analysis.results import Results
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.store.store import read_run
from bench.training.cell import run_cell
from bench.verdicts.gate import check, stale
from bench.verdicts.reference import figures_of, read_reference
from methods import BUILTIN
from tests.factories.command import bench
from tests.factories.published import svg_alone

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "glue"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The finished run folder of the smoke suite and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    with svg_alone():
        done = bench("run", "--suite", "smoke", "--out", folder)
    return read_run(folder), done.stdout


def test_every_method_has_one_score_and_one_cost_and_all_are_ok(smoke):
    run, _ = smoke
    for kind in ("score", "cost"):
        records = [record for record in run.records if record.kind == kind]
        assert sorted(record.method.name for record in records) == sorted(BUILTIN)
        assert {record.status for record in records} == {"ok"}


def test_its_exact_figures_are_the_committed_ones(smoke):
    run, _ = smoke
    results, committed = Results(run), read_reference(ROOT / "results/reference/smoke.json")
    ours = figures_of(results)
    assert stale(ours, committed) is None
    exact = [c for c in check(results, ours, committed) if c.kind == "exact"]
    assert len(exact) >= len(committed.costs[0].methods)
    assert [c for c in exact if c.verdict not in ("pass", "new")] == []


def test_every_figure_of_a_cost_record_stands(smoke):
    run, _ = smoke
    for record in run.records:
        if record.kind == "cost":
            for figure in ("flops", "bytes", "peak_memory_bytes", "step_seconds", "latency_seconds", "delta_bytes"):
                assert getattr(record, figure) is not None, (record.method.label, figure)
            assert set(record.aa_control) >= {"forward", "backward", "optimizer", "step", "latency"}
            assert record.peak_memory_source == "tracker"


def test_backward_is_halved_not_spared_except_in_the_ladder(smoke):
    run, _ = smoke
    costs = {record.method.name: record.flops for record in run.records if record.kind == "cost"}
    full = costs["full"]
    assert 0.45 <= costs["lora"].backward / full.backward <= 0.60
    assert costs["lora"].backbone.backward_input_gradient > 0.8 * full.backward_input_gradient
    for name in ("lst", "head"):
        assert costs[name].backbone.backward == 0


def test_merged_low_rank_methods_and_ia3_are_the_base_again(smoke):
    run, _ = smoke
    merging = {"lora", "rslora", "lora_plus", "lora_fa", "dora", "pissa", "adalora", "vera", "ia3"}
    for record in run.records:
        if record.kind == "cost" and record.method.name in merging:
            assert record.merged_equals_base.all
            assert record.merge_error["float32"] < 1e-5


def test_screen_and_report_say_what_they_must(smoke):
    run, printed = smoke
    for text in ("SYNTHETIC", "A/A control", "peak mem", "(counted)", "bag-of-words", "inconclusive", *BUILTIN):
        assert text in printed, text
    report = (run.folder / "report.md").read_text()
    assert "peak memory (counted)" in report
    assert "SYNTHETIC" in report
    plots = {path.name for path in (run.folder / "plots").iterdir()}
    for name in ("score-parameters", "score-memory", "step-time", "latency", "score-task", "backward-depth"):
        assert {f"{name}.png", f"{name}.svg"} <= plots


@pytest.mark.skipif(not SHARED.exists(), reason="the official GLUE files do not lie beside this checkout")
@pytest.mark.parametrize(
    ("task", "train", "test"), [("sst2", 2000, 872), ("mrpc", 2000, 256), ("rte", 2000, 256), ("cola", 2000, 256)]
)
def test_official_files_are_planned_by_task(task, train, test):
    suite = select(load_suite("glue-small"), Selection(data=str(SHARED), tasks=(task,), methods=("full",), seeds=(0,)))
    used = make_plan(suite, "glue-small", "cpu").cells[0].task
    assert (used.source, used.train_rows, used.test_rows) == ("folder", train, test)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc", "rte", "stsb"])
def test_synthetic_tasks_reward_fine_tuning_and_leave_room(task):
    selection = Selection(data="synthetic", tasks=(task,), methods=("houlsby_adapter",), seeds=(0,))
    every = load_suite("glue-small").model_copy(update={"scored": ()})
    plan = make_plan(select(every, selection), "glue-small", "cpu")
    cell = next(cell for cell in plan.cells if cell.method.name == "houlsby_adapter")
    record, _ = run_cell(cell.model_copy(update={"recipe": {**cell.recipe, "steps": 120, "batch_size": 16}}))
    assert record.status == "ok", record.reason
    assert record.task.floor + 0.10 <= record.score <= 0.98

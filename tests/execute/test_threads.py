"""One cell, one result: torch's threads come from the plan, whatever the workers and however a run was resumed."""

import pytest

from bench.errors import BenchError
from bench.execute.runner import Result, execute, remaining, run_jobs
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.store.store import open_store
from bench.training.cell import failure, run_cell
from tests.factories.command import workers
from tests.factories.records import results, score

SUITE = """
question = "Does a cell depend on what runs beside it?"
tasks = ["sst2"]
seeds = [0, 1]
data = "synthetic"
backbone = { name = "tiny", weights = "random" }
method = [{ name = "full" }, { name = "lora" }]
[recipe]
steps = 3
batch_size = 16
max_length = 32
train_rows = 64
test_rows = 16
"""


def planned(folder, threads=None):
    path = folder / "threads.toml"
    path.write_text(SUITE + (f"threads = {threads}\n" if threads else ""))
    return make_plan(load_suite(str(path)), "threads", "cpu")


def seen(records):
    """What decides and what came of each cell."""
    return {r.id: (r.status, r.losses, r.predictions_sha256, r.environment["threads"]) for r in records}


def run_of(plan, folder, workers_, parts=1):
    """Records of ``plan`` after as many calls: each but the last ends after its first record."""
    for part in range(parts):
        with open_store(folder, plan.suite) as store:
            for event in execute(remaining(plan, store), store, workers(), workers=workers_):
                if isinstance(event, Result) and part < parts - 1:
                    break
            found = list(store.records)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The plan, and its records with one worker."""
    folder = tmp_path_factory.mktemp("alone")
    plan = planned(folder)
    return plan, seen(run_of(plan, folder / "run", 1))


@pytest.mark.parametrize(("side_by_side", "parts"), [(None, 1), (2, 1), (4, 1), (2, 3), (None, 4)])
def test_losses_predictions_and_ids_are_those_of_one_worker(alone, tmp_path, side_by_side, parts):
    plan, expected = alone
    assert len(expected) == 4
    assert {threads for *_, threads in expected.values()} == {1}
    assert seen(run_of(plan, tmp_path, side_by_side, parts)) == expected


def test_a_cell_in_this_process_is_the_same_whatever_its_threads(alone):
    import torch

    plan, expected = alone
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert seen([run_cell(plan.cells[1])[0]]).items() <= expected.items()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_number_of_threads_is_another_cell_in_another_folder(tmp_path):
    one, two = planned(tmp_path), planned(tmp_path, 2)
    assert not {cell.id for cell in one.cells} & {cell.id for cell in two.cells}
    assert one.name != two.name
    assert (one.suite.recipe["threads"], two.suite.recipe["threads"]) == (1, 2)
    assert [cell.threads for cell in planned(tmp_path, 1).cells] == [1] * 4
    assert planned(tmp_path, 1).name == one.name


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_worker_has_the_threads_of_its_cell_and_a_dead_one_is_recorded_with_them(tmp_path, threads):
    cell = planned(tmp_path, threads).cells[1]
    (result,) = (event for event in run_jobs(workers(), [cell], workers=4) if isinstance(event, Result))
    assert result.record.environment["threads"] == threads
    assert failure(cell, "crashed", "gone", "now").environment["threads"] == threads


def test_scores_of_different_threads_are_never_pooled():
    first, *others = (score("full", "sst2", seed) for seed in range(3))
    other = first.model_copy(update={"environment": first.environment | {"threads": 7}, "id": "x", "seed": 9})
    with pytest.raises(BenchError, match=r"different numbers of torch threads cannot be pooled: \d for 'full' but 7"):
        _ = results([*others, other]).score_table

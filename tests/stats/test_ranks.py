"""Ranks that training chooses stand in the record and beside the scores; where nothing chooses there are none."""

import pytest

from bench.analysis.results import Results
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.report.sections import overview as facts
from bench.store.store import Run
from bench.training.cell import run_cell
from tests.factories import reports

CHOOSES = "adalora(initial_rank=6, target_rank=2)"
OF_PEFT = "peft(peft_type='ADALORA', init_r=6, target_r=2, tinit=1, tfinal=2, target_modules=['query', 'value'])"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    chosen = select(
        load_suite("smoke"), Selection(methods=("lora(rank=8)", CHOOSES, OF_PEFT), seeds=(0, 1), data="synthetic")
    )
    chosen = chosen.model_copy(update={"recipe": chosen.recipe.model_copy(update={"steps": 10})})
    plan = make_plan(chosen, "smoke", "cpu")
    records = tuple(run_cell(cell)[0] for cell in plan.cells)
    return Run.of(tmp_path_factory.mktemp("run"), plan.suite, records)


def test_the_ranks_of_all_maps_add_up_to_the_budget(run):
    for record in run.records:
        assert record.status == "ok", record.reason
        maps = 2 * 2  # layers, query and value
        found = record.ranks
        assert (sum(found.values()), len(found)) == (
            (2 * maps, maps) if record.method.label in (CHOOSES, OF_PEFT) else (0, 0)
        )
        assert all(0 <= rank <= 6 for rank in found.values())


def test_they_stand_beside_the_scores(run):
    line, theirs = facts.chosen_ranks(Results(run))
    assert theirs.startswith(f"{OF_PEFT} on sst2: rank 2.0 a map at the end, ")
    assert line.startswith(f"{CHOOSES} on sst2: rank 2.0 a map at the end, ")
    assert line.endswith(" over 4 maps and 2 cells")
    assert "rank 2.0 a map at the end" in reports.markdown(run)

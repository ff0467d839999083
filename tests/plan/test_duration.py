"""The estimate of a plan's duration: counted work over what a second of the machine holds."""

import pytest

from bench.plan import duration
from bench.plan.duration import Machine, estimate
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.shape import Generation
from tests.factories.cost_steps import counted_once

METHODS = ("full", "head", "lora(rank=8)")
LEDGER_OF = counted_once(duration.ledger_of)


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    """A machine of known speed on which a count takes no time."""
    monkeypatch.setattr(duration, "machine", lambda device, threads, dtype: Machine(flops=1e8, operations=1e9))
    monkeypatch.setattr(duration, "ledger_of", LEDGER_OF)


def planned(selection=None, **recipe):
    suite = select(load_suite("smoke"), selection or Selection(methods=METHODS))
    suite = suite.model_copy(update={"recipe": suite.recipe.model_copy(update=recipe)})
    return make_plan(suite, "smoke", "cpu")


def test_every_job_has_seconds_and_the_parts_are_sums_of_them():
    plan = planned()
    found = estimate(plan, workers=1)
    assert set(found.seconds) == {job.id for job in (*plan.probes, *plan.cells)}
    assert found.cells == pytest.approx(sum(found.seconds[cell.id] for cell in plan.cells))
    assert found.total == pytest.approx(sum(found.seconds.values()))


def test_training_twice_as_long_takes_about_twice_as_long():
    short, long = (estimate(planned(steps=steps), workers=1).cells for steps in (400, 800))
    assert 1.7 < long / short < 2.0


def test_full_fine_tuning_takes_longer_than_the_head_alone():
    plan = planned()
    by_label = {cell.method.label: estimate(plan).seconds[cell.id] for cell in plan.cells}
    assert by_label["full"] > by_label["lora(rank=8)"] > by_label["head"]


def test_a_counted_probe_takes_less_than_a_timed_one():
    timed, counted = (estimate(planned(Selection(methods=METHODS, counts=counts))) for counts in (False, True))
    assert counted.probes < timed.probes
    assert counted.cells == 0


def test_more_blocks_take_longer():
    plan = planned()
    longer = plan.model_copy(update={"probes": tuple(p.model_copy(update={"blocks": 40}) for p in plan.probes)})
    assert estimate(longer).probes > 3 * estimate(plan).probes


def test_writing_takes_time_at_every_context_and_batch():
    plan = planned()

    def writing(**asked):
        probes = tuple(p.model_copy(update={"generation": Generation(**asked)}) for p in plan.probes)
        return estimate(plan.model_copy(update={"probes": probes})).probes - estimate(plan).probes

    once = writing(contexts=[64], batches=[1], new_tokens=1)
    assert once > 0
    assert writing(contexts=[64], batches=[1, 8], new_tokens=1) == pytest.approx(9 * once, rel=0.05)
    assert writing(contexts=[64], batches=[1], new_tokens=65) == pytest.approx(2 * once, rel=0.05)


def test_a_method_that_cannot_be_counted_is_taken_for_the_dearest(monkeypatch):
    plan, count = planned(), duration._count

    def refuse(spec, method, setting):
        return None if method.label.startswith("lora") else count(spec, method, setting)

    monkeypatch.setattr(duration, "_count", refuse)
    found = estimate(plan, workers=1).seconds
    by_label = {cell.method.label: found[cell.id] for cell in plan.cells}
    assert by_label["lora(rank=8)"] == pytest.approx(by_label["full"])


def test_cells_side_by_side_share_the_machine():
    plan = planned()
    one, two = estimate(plan, workers=1), estimate(plan, workers=2)
    assert two.workers == 2
    assert two.cells < one.cells


def test_several_devices_share_the_rows_of_a_step_and_begin_later(monkeypatch):
    monkeypatch.setattr(duration, "cores", lambda: 4)
    plan = planned()
    (cell, *_) = plan.cells

    def taken(devices, steps):
        recipe = cell.recipe | {"devices": devices, "steps": steps}
        one = cell.model_copy(update={"recipe": recipe})
        return estimate(plan.model_copy(update={"cells": (one,)}), workers=1).seconds[one.id]

    start = taken(2, 1) - taken(1, 1)
    assert start == pytest.approx(duration.DEVICES_SECONDS, rel=0.2)
    assert taken(2, 5000) - start < taken(1, 5000)

"""What a seed decides: the head, the delta, the order of rows and dropout, each from a stream of its own."""

import pytest
import torch

import bench.training.loop
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.training.cell import run_cell


@pytest.fixture(scope="module")
def starts():
    """What training starts with under seeds 0, 0 again, and 1."""
    found = []

    def looked_at(model, method, body, batches, recipe, *watchers):
        found.append(
            {
                "head": model.head.linear.weight.detach().clone(),
                "delta": torch.cat([tensor.flatten() for tensor in method.delta(body).values()]),
                "dropout": torch.rand(8),
                "order": next(iter(batches))["input_ids"],
            }
        )
        return [0.7] * recipe.steps

    plan = make_plan(select(load_suite("smoke"), Selection(methods=("lora(rank=8)",), seeds=(0, 1))), "smoke", "cpu")
    one, other = (cell for cell in plan.cells if cell.method.name == "lora")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.training.loop, "train", looked_at)
        for cell in (one, one, other):
            record, _ = run_cell(cell)
            assert record.status == "ok", record.reason
    return found


STREAMS = ("head", "delta", "order", "dropout")


@pytest.mark.parametrize("stream", STREAMS)
def test_one_seed_starts_alike_bit_for_bit(starts, stream):
    assert torch.equal(starts[0][stream], starts[1][stream])


@pytest.mark.parametrize("stream", STREAMS)
def test_two_seeds_differ_in_every_stream(starts, stream):
    one, other = starts[0][stream], starts[2][stream]
    assert one.shape != other.shape or not torch.equal(one, other)

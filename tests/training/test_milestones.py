"""Readings on the way: when they are taken, what they keep, and that the training does not notice them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.models.head import TaskModel, make_head
from bench.registry import make
from bench.training.cell import run_cell
from bench.training.checkpoints import CHOICES, Milestones, Reading, Work, epoch_ends, equal_shares
from tests.methods.families import batch, tiny
from tests.training.test_cell import cells

COUNTS = st.integers(1, 500)


@given(COUNTS, st.integers(0, 50))
def test_equal_shares_end_with_the_last_step_and_are_as_many_as_asked_for(steps, number):
    shares = equal_shares(steps, number)
    assert len(shares) == min(number, steps) or (number and len(shares) <= number)
    assert not number or max(shares) == steps
    assert all(1 <= step <= steps for step in shares)


@given(COUNTS, COUNTS)
def test_a_state_is_chosen_at_the_ends_of_epochs_or_ten_times(steps, epoch):
    ends = epoch_ends(steps, epoch)
    assert max(ends) == steps
    assert all(step % epoch == 0 for step in ends - {steps}) if steps >= 2 * epoch else len(ends) <= CHOICES


def ladder_of(scores):
    """A model, and its milestones with a choice after each step whose readings give ``scores``."""
    method, config = make("bitfit", {})
    model = TaskModel(method.apply(tiny("bert"), config), make_head(tiny("bert"), 2))
    readings = iter(scores)
    choice = Reading(frozenset(range(1, len(scores) + 1)), lambda: next(readings))
    return model, Milestones(model, Work(), Reading(), choice)


@pytest.mark.parametrize(("scores", "best"), [((0.5, 0.9, 0.7), 2), ((0.9, 0.9), 1), ((0.1, 0.2, 0.3), 3)])
def test_the_first_best_state_comes_back(scores, best):
    model, way = ladder_of(scores)
    bias = model.head.linear.bias
    for step in range(1, len(scores) + 1):
        with torch.no_grad():
            bias.fill_(step)
        way.after(step, 0.5)
    way.end()
    assert way.best_step == best
    assert bias.eq(best).all()


def test_work_sums_rows_and_padded_tokens():
    work = Work()
    taken = list(work.over([batch(rows=2, length=5), batch(rows=3, length=7)]))
    assert len(taken) == 2
    assert (work.rows, work.tokens, work.token_squares) == (5, 2 * 5 + 3 * 7, 2 * 25 + 3 * 49)


def test_training_does_not_notice_that_it_is_read():
    (plain,) = cells(train_rows=320)
    read = plain.model_copy(update={"recipe": plain.recipe | {"curve_points": 3}})
    alone, watched = run_cell(plain)[0], run_cell(read)[0]
    assert watched.status == "ok", watched.reason
    assert watched.losses == alone.losses
    assert watched.predictions_sha256 == alone.predictions_sha256
    assert [point.step for point in watched.curve] == [2, 4, 5]
    assert watched.curve[-1].score == watched.score
    assert alone.curve == ()

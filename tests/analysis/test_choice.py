"""The choice of rates: the best mean over seeds, ties to the smaller rate, no choice from an unequal search."""

import itertools
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.tuning import Search, expected_maximum, outcomes, read_search
from bench.errors import BenchError
from bench.store.store import open_store, read_run
from tests.factories import records
from tests.factories.trials import GRID, search, trial

SCORES = st.floats(-1, 1, allow_nan=False)


@given(st.lists(SCORES, min_size=1, max_size=7))
def test_the_expected_maximum_is_the_mean_of_the_maximum_over_every_draw(scores):
    brute = [fmean(map(max, itertools.combinations(scores, n))) for n in range(1, len(scores) + 1)]
    assert expected_maximum(scores) == pytest.approx(brute, abs=1e-12)


@given(st.lists(SCORES, min_size=1, max_size=60))
def test_more_trials_are_never_expected_to_find_less_and_all_of_them_find_the_best(scores):
    curve = expected_maximum(scores)
    assert curve[0] == pytest.approx(fmean(scores), abs=1e-12)
    assert curve[-1] == max(scores)
    assert all(before <= after + 1e-12 for before, after in itertools.pairwise(curve))


@given(st.randoms(), st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8]), min_size=6, max_size=6))
def test_the_choice_is_the_best_and_of_equals_the_smallest_whatever_the_order_of_records(random, values):
    grid = list(itertools.product(GRID["learning_rates"], GRID["head_learning_rates"]))
    scores = dict(zip(grid, values, strict=True))
    made = search(None, lambda label, task, rates, seed: scores[rates], methods=("full",))
    shuffled = random.sample(made.records, len(made.records))
    (found,) = outcomes(Search(None, made.suite, tuple(shuffled)))
    best = [rates for rates in grid if scores[rates] == max(values)]
    assert (found.best.learning_rate, found.best.head_learning_rate) == min(best)
    assert found.best.score == max(values)


def test_a_trial_counts_with_its_mean_over_seeds():
    grid = GRID | {"seeds": [100, 101]}
    lucky = {(1e-2, 1e-3, 100): 0.9, (1e-2, 1e-3, 101): 0.5, (1e-3, 1e-3, 100): 0.8, (1e-3, 1e-3, 101): 0.8}
    made = search(None, lambda label, task, rates, seed: lucky.get((*rates, seed), 0.4), grid=grid)
    for found in outcomes(made):
        assert (found.best.learning_rate, found.best.score) == (1e-3, 0.8)


@pytest.mark.parametrize(("task", "worst"), [("sst2", 0.0), ("cola", -1.0), ("stsb", -1.0)])
def test_a_diverged_trial_counts_as_the_worst_score_and_not_as_missing(task, worst):
    made = search(None, lambda label, task, rates, seed: "nan" if rates[0] == 1e-2 else 0.7, tasks=(task,))
    for found in outcomes(made):
        assert found.best.learning_rate == 1e-4
        assert len(found.points) == 6
        assert found.diverged == 2
        assert found.curve[0] == pytest.approx((4 * 0.7 + 2 * worst) / 6)


@pytest.mark.parametrize("status", ["oom", "timeout", "crashed", "failed"])
def test_a_trial_that_ended_otherwise_leaves_its_method_without_a_choice(status):
    def score(label, task, rates, seed):
        return status if label == "full" and rates == (1e-3, 1e-3) else 0.7

    full, lora = outcomes(search(None, score))
    assert (full.best, full.failed, full.curve) == (None, 1, ())
    assert lora.best is not None


def test_an_unfinished_search_chooses_nothing():
    made = search(None, lambda *place: 0.7)
    full, lora = outcomes(Search(None, made.suite, made.records[:-1]))
    assert full.best is not None
    assert (lora.best, lora.missing) == (None, 1)


def test_nothing_is_chosen_where_every_trial_diverged():
    assert all(found.best is None and found.diverged == 6 for found in outcomes(search(None, lambda *place: "nan")))


def test_the_newest_record_of_a_trial_counts():
    made = search(None, lambda *place: 0.7, methods=("full",))
    again = trial("full", "sst2", (1e-2, 1e-2), score=0.9, id="again", ended="2026-01-02T00:00:00Z")
    for order in ((*made.records, again), (again, *made.records)):
        (found,) = outcomes(Search(None, made.suite, order))
        assert (found.best.learning_rate, found.best.score, len(found.points)) == (1e-2, 0.9, 6)


@pytest.mark.parametrize(
    ("best", "edges"),
    [
        ({1e-4}, ("smallest learning_rate",)),
        ({1e-3}, ()),
        ({1e-2}, ("largest learning_rate",)),
        ({1e-4, 1e-3}, ()),  # a tie inside the grid speaks against a better rate outside
        ({1e-4, 1e-3, 1e-2}, ()),  # the rate has no effect, as for a method that trains the head alone
    ],
)
def test_a_best_rate_at_an_end_of_the_grid_is_told(best, edges):
    made = search(None, lambda label, task, rates, seed: 0.8 if rates[0] in best else 0.5)
    assert {found.edges for found in outcomes(made)} == {edges}


def test_of_two_head_rates_each_is_an_end_so_nothing_is_said_and_of_three_it_is():
    def score(label, task, rates, seed):
        return 0.5 + rates[1] - abs(rates[0] - 1e-3)

    assert all(found.edges == () for found in outcomes(search(None, score)))
    wide = GRID | {"head_learning_rates": [1e-3, 1e-2, 1e-1]}
    assert all(found.edges == ("largest head_learning_rate",) for found in outcomes(search(None, score, grid=wide)))


def test_a_search_is_stored_and_read_again_and_no_reader_of_scores_opens_it(tmp_path):
    made = search(tmp_path, lambda *place: 0.7)
    with open_store(tmp_path, made.suite) as store:
        for record in made.records:
            store.append(record)
    assert read_search(tmp_path).records == made.records
    with pytest.raises(BenchError, match="this is a search for learning rates, not a run; bench report"):
        read_run(tmp_path)


def test_a_run_is_no_search(tmp_path):
    with open_store(tmp_path, records.suite()) as store:
        store.append(records.score("full", "sst2", 0))
    with pytest.raises(BenchError, match="holds no search for learning rates"):
        read_search(tmp_path)

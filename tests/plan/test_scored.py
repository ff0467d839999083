"""A suite may score fewer methods than it costs: ``scored`` names them, ``--methods`` narrows them."""

import pytest

from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select

SUITE = """
question = "q"
tasks = ["sst2"]
scored = ["full", "head"]
seeds = [0]
data = "synthetic"
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 2
batch_size = 4
train_rows = 48
test_rows = 16
[tuning]
learning_rates = [1e-3]
head_learning_rates = [1e-3]
seeds = [100]
selection_rows = 16
[[cost]]
batch = 2
length = 8
[[method]]
name = "full"
[[method]]
name = "bitfit"
[[method]]
name = "head"
[[claim]]
name = "head-keeps-the-score"
says = "The head alone keeps the score"
metric = "score"
method = "head"
versus = "full"
difference = { min = -1.0 }
"""
SCORED = 'scored = ["full", "head"]'


def written(tmp_path, old="", new=""):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.replace(old, new))
    return load_suite(str(path))


def planned(suite, *methods, **asked):
    return make_plan(select(suite, Selection(methods=methods or None, **asked)), "mine.toml", "cpu")


def labels(plan):
    return [cell.method.label for cell in plan.cells]


def test_all_methods_are_costed_and_those_named_are_scored(tmp_path):
    plan = planned(written(tmp_path))
    assert [method.label for method in plan.probes[0].methods] == ["full", "bitfit", "head"]
    assert labels(plan) == plan.suite.scored == ["full", "head"]


def test_all_are_scored_where_nothing_is_named(tmp_path):
    plan = planned(written(tmp_path, SCORED, ""))
    assert labels(plan) == ["full", "bitfit", "head"]
    assert "scored" not in plan.suite.plain()


def test_a_search_covers_what_is_scored(tmp_path):
    assert labels(plan_search(written(tmp_path), "mine.toml", "cpu")) == ["full", "head"]


def test_a_search_for_what_is_not_scored_is_refused(tmp_path):
    suite = select(written(tmp_path), Selection(methods=("bitfit",)))
    with pytest.raises(BenchError, match=r"mine\.toml scores only full, head; name one of those with --methods"):
        plan_search(suite, "mine.toml", "cpu")


def test_a_search_may_be_on_the_task_that_stands_in_for_want_of_a_hub(tmp_path, monkeypatch):
    suite = written(tmp_path, SCORED, SCORED + '\nwithout_hub = ["movie-polarity"]')
    table = suite.tuning.model_copy(update={"task": "movie-polarity"})
    monkeypatch.setattr("bench.plan.planner.make_plan", lambda suite, *_, **__: _Stop.at(suite))
    with pytest.raises(_Stop) as stopped:
        plan_search(suite.model_copy(update={"tuning": table, "data": "index"}), "mine.toml", "cpu")
    assert (stopped.value.suite.tasks, stopped.value.suite.without_hub) == (("movie-polarity",), ())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("synthetic", "movie-polarity comes from the package index; leave data out"),
        ("hub", "movie-polarity comes from the package index; leave data out"),
        ("suites", "the folder lacks movie-polarity; name the folder that holds movie-polarity"),
    ],
)
def test_a_search_on_a_task_that_data_cannot_give_names_the_table_that_names_it(tmp_path, data, said):
    suite = written(tmp_path, SCORED, SCORED + '\nwithout_hub = ["movie-polarity"]')
    table = suite.tuning.model_copy(update={"task": "movie-polarity"})
    with pytest.raises(BenchError) as caught:
        plan_search(suite.model_copy(update={"tuning": table, "data": data}), "mine.toml", "cpu")
    assert str(caught.value) == f"[tuning] of mine.toml names movie-polarity: data {data}: {said}"


class _Stop(Exception):
    """Carries the suite that would be planned: its task's rows need a network."""

    @classmethod
    def at(cls, suite):
        stop = cls()
        stop.suite = suite
        raise stop


@pytest.mark.parametrize(
    ("chosen", "scored"),
    [
        (("full", "head"), ["full", "head"]),
        (("head",), ["full", "head"]),
        (("bitfit", "head"), ["full", "head"]),
        (("full",), ["full"]),
        (("full", "bitfit", "lora"), ["full", "lora(rank=8)"]),
    ],
)
def test_methods_narrows_what_is_scored_and_scores_what_the_suite_does_not_have(tmp_path, chosen, scored):
    assert [name.partition("(")[0] for name in labels(planned(written(tmp_path), *chosen))] == [
        name.partition("(")[0] for name in scored
    ]


def test_methods_that_the_suite_does_not_score_are_costed_alone_and_that_is_said(tmp_path):
    said = []
    suite = select(written(tmp_path), Selection(methods=("bitfit",)))
    plan = make_plan(suite, "mine.toml", "cpu", said.append)
    assert (labels(plan), len(plan.probes)) == ([], 1)
    assert said == ["no scores: mine scores only full, head"]


def test_scores_of_methods_without_any_are_refused(tmp_path):
    with pytest.raises(BenchError, match="suite 'mine' scores only full, head; name one of those with --methods"):
        planned(written(tmp_path), "bitfit", tasks=("sst2",))


def test_counts_alone_say_nothing_of_scores(tmp_path):
    said = []
    make_plan(select(written(tmp_path), Selection(counts=True)), "mine.toml", "cpu", said.append)
    assert said == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (SCORED, 'scored = ["full", "hed"]', "scored: the suite has no method 'hed'; it has full, bitfit, head"),
        (SCORED, 'scored = ["head"]', "scored lacks the baseline full; add it"),
        (SCORED, "scored = []", "scored is empty; name at least one method, or remove it"),
        (SCORED, 'scored = ["full", "full"]', "scored lists a value twice"),
        (SCORED, 'scored = ["full", "bitfit"]', "claim 'head-keeps-the-score': head is not scored; add it to scored"),
        ('tasks = ["sst2"]\n', "tasks = []\n", "scored names methods to score, and there are no tasks"),
        ("[[cost]]", "[match]\ntrainable_parameters = 100\n[[cost]]", "scored and match exclude each other"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, sentence):
    with pytest.raises(BenchError, match=f"mine.toml: .*{sentence}"):
        written(tmp_path, old, new)

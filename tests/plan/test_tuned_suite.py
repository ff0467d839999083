"""tuned.toml is the suite's own file with other rates and where they come from, and nothing else in it changes."""

import copy
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import registry
from bench.analysis.tuning import Outcome, Point, outcomes, read_search
from bench.plan.load import load_suite, suite_names, tuned, write_tuned
from bench.schema.ranges import RATES
from bench.schema.suite import TuningTable
from tests.factories.trials import GRID, search

ROOT = Path(__file__).resolve().parents[2]
TABLE = TuningTable.model_validate_json('{"learning_rates": [1e-3, 1e-2], "head_learning_rates": [1e-3],'
                                        ' "seeds": [100], "selection_rows": 256}')  # fmt: skip
FILE = """# why
question = "q"
tasks = ["sst2", "rte"]
seeds = [0]
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 2
[[method]]
name = "full"
learning_rate = 2e-4 # found by hand

# of the next method
[[method]]
name = "lora"
config = { rank = 8 }

[[method]]
name = "lora" # with a table of its own
[method.config]
rank = 4

# The last word.
"""


def chosen(method, task, rate, head=1e-3, steps=60):
    return Outcome(method, task, steps, (Point(rate, head, 0.8, 0), Point(0.5, 0.5, 0.1, 0)), 0, 0)


def without_rates(values):
    values = copy.deepcopy(values)
    for method in values["method"]:
        for key in (*RATES, "tuning"):
            method.pop(key, None)
    return values


rates = st.sampled_from([1e-5, 3e-4, 1e-3, 3e-2])
CHOICES = st.dictionaries(st.tuples(st.integers(0, 12), st.integers(0, 1)), st.tuples(rates, rates), max_size=12)


@pytest.mark.parametrize("name", suite_names())
@settings(max_examples=15)
@given(choices=CHOICES)
def test_only_rates_and_their_origin_change_in_any_suite_of_the_project(name, choices):
    text = (ROOT / "suites" / f"{name}.toml").read_text()
    before = tomllib.loads(text)
    labels = [registry.spell(method["name"], method.get("config", {})) for method in before["method"]]
    tasks = before.get("tasks") or ["sst2"]
    found = [
        chosen(labels[method % len(labels)], tasks[task % len(tasks)], *pair)
        for (method, task), pair in choices.items()
    ]
    after, changed = tuned(text, found, TABLE)
    assert without_rates(tomllib.loads(after)) == without_rates(before)
    assert set(changed) == {outcome.method for outcome in found}
    kept = [
        line for line in text.splitlines() if not line.startswith(("learning_rate", "head_learning_rate", "tuning"))
    ]
    lines = iter(after.splitlines())
    assert all(line in lines for line in kept)  # each line in its old order, comments and empty lines too


@pytest.mark.parametrize("file", [FILE, FILE.replace("# The last word.\n", "")])
def test_the_chosen_rates_stand_where_the_planner_reads_them(tmp_path, file):
    suite = tmp_path / "mine.toml"
    suite.write_text(file)
    found = [
        chosen("full", "sst2", 1e-3, steps=40), chosen("full", "rte", 1e-3), chosen("lora(rank=8)", "sst2", 1e-3),
        chosen("lora(rank=8)", "rte", 1e-2), chosen("lora(rank=4)", "rte", 1e-2),
    ]  # fmt: skip
    out = tmp_path / "tuned.toml"
    assert write_tuned(suite, found, TABLE, out) == ["full", "lora(rank=8)", "lora(rank=4)"]
    full, lora, partly = load_suite(str(out)).method
    assert full.rates("sst2") == full.rates("rte") == {"learning_rate": 1e-3, "head_learning_rate": 1e-3}
    assert full.tuning.model_dump() == {"trials": 2, "seeds": 1, "steps": 60, "selection_rows": 256, "task": None}
    assert (lora.rates("sst2")["learning_rate"], lora.rates("rte")["learning_rate"]) == (1e-3, 1e-2)
    assert lora.head_learning_rate == 1e-3
    assert lora.tuning == full.tuning
    assert partly.rates("rte")["learning_rate"] == 1e-2
    assert partly.rates("sst2") == {}
    assert partly.tuning is None  # the rate on sst2 comes from no search
    text = out.read_text()
    assert "# found by hand\n" in text
    assert "\n\n# of the next method\n[[method]]\n" in text


def test_a_rate_that_no_search_chose_stays_and_takes_the_word_of_an_older_search_with_it():
    rates = "learning_rate = { default = 1e-4, cola = 3e-4 }"
    search = "tuning = { trials = 9, seeds = 1, steps = 2, selection_rows = 8 }"
    old = FILE.replace("learning_rate = 2e-4", f"{rates}\n{search}")
    once, _ = tuned(old, [chosen("full", "sst2", 1e-3)], TABLE)
    method = tomllib.loads(once)["method"][0]
    assert method["learning_rate"] == {"default": 1e-4, "cola": 3e-4, "sst2": 1e-3}
    assert "tuning" not in method
    whole, _ = tuned(old, [chosen("full", "sst2", 1e-3), chosen("full", "rte", 1e-3)], TABLE)
    method = tomllib.loads(whole)["method"][0]
    assert method["learning_rate"] == {"default": 1e-4, "cola": 3e-4, "sst2": 1e-3, "rte": 1e-3}
    assert method["tuning"]["trials"] == 2


def test_rates_searched_on_one_task_for_all_stand_for_all_and_say_so(tmp_path):
    table = TABLE.model_copy(update={"task": "sst2"})
    suite = tmp_path / "mine.toml"
    suite.write_text(FILE.replace("learning_rate = 2e-4", "learning_rate = { default = 1e-4, rte = 3e-4 }"))
    assert write_tuned(suite, [chosen("full", "sst2", 1e-3)], table, tmp_path / "tuned.toml") == ["full"]
    full = load_suite(str(tmp_path / "tuned.toml")).method[0]
    assert full.learning_rate == 1e-3
    assert (full.tuning.task, full.tuning.trials) == ("sst2", 2)


def test_a_second_writing_changes_nothing():
    found = [chosen("full", "sst2", 1e-3), chosen("full", "rte", 1e-2), chosen("lora(rank=8)", "sst2", 1e-3)]
    once, _ = tuned(FILE, found, TABLE)
    assert tuned(once, found, TABLE)[0] == once


def test_methods_of_one_line_keep_their_line():
    file = FILE[: FILE.index("[[method]]")].replace('question = "q"', 'question = "q"\nmethod = [{ name = "full" }]')
    once, changed = tuned(file, [chosen("full", "sst2", 1e-3), chosen("full", "rte", 1e-3)], TABLE)
    assert changed == ["full"]
    assert tomllib.loads(once)["method"][0]["learning_rate"] == 1e-3


@pytest.mark.parametrize("file", [
    FILE.replace("# The last word.", '[[method]]\nname = "*"'),
    'tasks = ["sst2"]\nmethod = [{ name = "full" }, { name = "*" }]\n',
], ids=["tables", "one line"])  # fmt: skip
def test_a_method_that_a_star_stands_for_gets_a_table_for_its_rates(file):
    found = [chosen("ia3", task, 1e-2) for task in tomllib.loads(file)["tasks"]]
    text, changed = tuned(file, [*found, chosen("elsewhere(rank=2)", "sst2", 1e-3)], TABLE)
    assert changed == ["ia3"]
    before, after = (tomllib.loads(one)["method"] for one in (file, text))
    assert after[:-1] == before
    assert (after[-1]["name"], after[-1]["learning_rate"]) == ("ia3", 1e-2)
    assert tuned(text, found, TABLE) == (text, ["ia3"])


def test_what_was_not_chosen_is_left_as_it_stands():
    none = Outcome("full", "sst2", 60, (Point(1e-3, 1e-3, 0.0, 1),), 0, 0)
    other = chosen("ia3", "sst2", 1e-3)
    assert tuned(FILE, [none, other], TABLE) == (FILE, [])


def rates_are_those_of(text, folder):
    """Whether a suite's text holds what the search in ``folder`` chose: written again with it, it says the same."""
    made = read_search(folder)
    found = outcomes(made)
    again, changed = tuned(text, found, made.table)
    assert changed, "the search chose for no method of this suite"
    return tomllib.loads(again) == tomllib.loads(text)


def newest_searches():
    """By suite, the published search that began last: a run may have been published at the rates of an earlier one."""
    folders = [path.parent for path in (ROOT / "results" / "published" / "tuning").glob("*/records.jsonl")]
    began = {folder: min(record.started for record in read_search(folder).records) for folder in folders}
    return {read_search(folder).suite.name: folder for folder in sorted(folders, key=began.__getitem__)}


PUBLISHED = newest_searches()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rates_of_a_committed_suite_are_those_that_its_newest_published_search_chose(name):
    assert rates_are_those_of((ROOT / "suites" / f"{name}.toml").read_text(), PUBLISHED[name])


def test_a_rate_changed_by_hand_after_the_search_is_seen(tmp_path):
    from bench.store.store import open_store

    made = search(tmp_path, lambda label, task, pair, seed: 0.9 if pair == (1e-3, 1e-2) else 0.6, tasks=("sst2", "rte"))
    with open_store(tmp_path, made.suite) as store:
        for record in made.records:
            store.append(record)
    suite, _ = tuned(FILE, outcomes(made), made.table)
    assert tomllib.loads(suite)["method"][0]["tuning"]["trials"] == len(made.table.grid) == 6
    assert rates_are_those_of(suite, tmp_path)
    assert not rates_are_those_of(suite.replace("learning_rate = 0.001", "learning_rate = 0.002", 1), tmp_path)
    assert not rates_are_those_of(suite.replace("trials = 6", "trials = 7", 1), tmp_path)
    assert GRID["selection_rows"] == tomllib.loads(suite)["method"][0]["tuning"]["selection_rows"]


TASKS = """
[[task]]
name = "mine"
kind = "classes"
text = "text"
train = "data/train.csv"
test = "{folder}/test.csv"

[[task]]
name = "other"
kind = "classes"
text = "text"
train = "other.csv"
test_share = 0.2
"""


def test_a_suite_with_searched_rates_names_the_same_rows_from_where_it_is_written(tmp_path):
    suite = tmp_path / "mine.toml"
    suite.write_text(FILE.replace('tasks = ["sst2", "rte"]', "") + TASKS.format(folder=tmp_path))
    before = load_suite(str(suite))
    assert before.tasks == ("mine", "other")
    out = tmp_path / "runs" / "tune"
    out.mkdir(parents=True)
    assert write_tuned(suite, [chosen("full", "mine", 1e-3)], TABLE, out / "tuned.toml") == ["full"]
    after = load_suite(str(out / "tuned.toml"))
    assert [(spec.train, spec.test) for spec in after.task] == [(spec.train, spec.test) for spec in before.task]
    full = after.method[0]
    assert full.rates("mine")["learning_rate"] == 1e-3
    assert full.tuning is None  # the rates on the other task come from no search

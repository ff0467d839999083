"""A search gives every method the same trials, chooses on rows cut from train and never opens the test split."""

import json
import os
import tomllib
from collections import Counter, defaultdict

import pytest

from bench.analysis.tuning import outcomes, read_search
from bench.errors import BenchError
from bench.plan.load import load_suite, parse_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select
from bench.schema.ranges import RATES
from bench.schema.record import ScoreRecord, TrialRecord
from bench.schema.suite import EXAMPLE
from bench.store.store import read_records
from bench.tasks import synthetic
from bench.training.cell import run_cell
from tests.factories.command import bench

SUITE = """
question = "Which rates?"
tasks = ["sst2"]
seeds = [0, 1]
data = "{data}"
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 6
batch_size = 4
max_length = 16
train_rows = 48
test_rows = 16
[tuning]
learning_rates = [1e-3, {largest}]
head_learning_rates = [1e-3, 1e-2]
seeds = [100, 101]
selection_rows = 16
steps = 3
[[method]]
name = "full"
learning_rate = 2e-4
[[method]]
name = "lora"
config = {{ rank = 2 }}
learning_rate = {{ default = 1e-3, sst2 = 5e-3 }}
[[claim]]
name = "lora-keeps-the-score"
says = "LoRA scores at most one point below full"
metric = "score"
method = "lora(rank=2)"
versus = "full"
difference = {{ min = -1.0 }}
"""


FOUND = "tuning = { trials = 4, seeds = 2, steps = 3, selection_rows = 16 }"


def written(tmp_path, *, data="synthetic", largest="1e-2", old="", new=""):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.format(data=data, largest=largest).replace(old, new))
    return path


def searched(path, **changes):
    return plan_search(load_suite(str(path)).model_copy(update=changes), str(path), "cpu")


def test_every_method_is_given_the_same_trials():
    for suite in (load_suite("smoke"), load_suite("glue-real-minilm")):
        plan = plan_search(suite.model_copy(update={"data": "synthetic"}), suite.name, "cpu")
        given = defaultdict(list)
        for cell in plan.cells:
            recipe = {key: value for key, value in cell.recipe.items()}
            given[cell.method.label].append((cell.task.name, cell.seed, json.dumps(recipe)))
        first, *others = given.values()
        assert len(given) == len(suite.method)
        assert all(trials == first for trials in others)
        grid, tried = suite.tuning.grid, [json.loads(recipe) for _, _, recipe in first]
        assert [tuple(recipe[rate] for rate in RATES) for recipe in tried] == list(grid)
        assert {recipe["selection_rows"] for recipe in tried} == {suite.tuning.selection_rows}


def test_all_methods_come_to_a_pair_of_rates_before_the_next_begins(tmp_path):
    order = [tuple(cell.recipe[rate] for rate in RATES) for cell in searched(written(tmp_path)).cells]
    assert order == sorted(order)
    assert set(Counter(order).values()) == {2 * 2}  # methods x seeds


def test_a_search_measures_nothing_else(tmp_path):
    plan = searched(written(tmp_path, old="[[claim]]", new="[[cost]]\nbatch = 2\nlength = 8\n[[claim]]"))
    assert (plan.probes, plan.sweeps) == ((), ())
    assert all(cell.trial and cell.recipe["steps"] == 3 for cell in plan.cells)


def test_the_rates_that_a_suite_has_decide_nothing_in_its_search(tmp_path):
    first = searched(written(tmp_path))
    other = searched(written(tmp_path, old="2e-4", new="9e-2\nhead_learning_rate = 1e-1"))
    assert other == first
    assert searched(written(tmp_path, old="sst2 = 5e-3 }", new=f"sst2 = 5e-3 }}\n{FOUND}")).name == first.name


def test_steps_and_selection_rows_of_the_table_hold_for_every_task(tmp_path):
    by_task = "[recipe.task.sst2]\nsteps = 99\nselection_rows = 5\nlearning_rate = 0.5\nmax_length = 12\n[tuning]"
    recipe = searched(written(tmp_path, old="[tuning]", new=by_task)).cells[0].recipe
    assert (recipe["steps"], recipe["selection_rows"], recipe["max_length"]) == (3, 16, 12)
    own = searched(written(tmp_path, old="selection_rows = 16\nsteps = 3", new="selection_rows = 16")).cells[0].recipe
    assert own["steps"] == 6


def test_a_search_on_one_task_tries_that_alone_and_its_rates_say_for_whom(tmp_path):
    two = {"old": 'tasks = ["sst2"]', "new": 'tasks = ["sst2", "rte"]'}
    path = written(tmp_path, **two)
    path.write_text(path.read_text().replace("steps = 3", 'steps = 3\ntask = "rte"'))
    assert {cell.task.name for cell in searched(path).cells} == {"rte"}
    with pytest.raises(BenchError, match="searches for rates on rte alone; omit --tasks, or include it there"):
        searched(path, tasks=("sst2",))
    path.write_text(path.read_text().replace('task = "rte"', 'task = "cola"'))
    with pytest.raises(BenchError, match=r"tuning\.task = 'cola' is not one of the suite's tasks: sst2, rte"):
        load_suite(str(path))


def test_trial_and_cell_are_two_jobs_also_at_the_same_rates(tmp_path):
    suite = load_suite(str(written(tmp_path)))
    trials = {cell.id for cell in plan_search(suite, "s", "cpu").cells}
    assert len(trials) == 4 * 2 * 2
    assert not trials & {cell.id for cell in make_plan(suite, "s", "cpu").cells}


def poisoned(tmp_path):
    """A folder of real files whose test split no reader survives."""
    folder = tmp_path / "data" / "SST-2"
    folder.mkdir(parents=True)
    rows = synthetic.rows("sst2", "train")
    lines = [f"{texts[0]}\t{label}" for texts, label in zip(rows.texts[:200], rows.labels[:200], strict=True)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    (folder / "dev.tsv").write_bytes(b"sentence\tlabel\nnever read\tpoison\n\xff\xfe\n")
    return folder.parent


def test_no_trial_opens_the_test_split(tmp_path):
    path = written(tmp_path, data=poisoned(tmp_path))
    with pytest.raises(BenchError, match=r"dev\.tsv"):
        make_plan(load_suite(str(path)), str(path), "cpu")
    plan = searched(path)
    used = plan.cells[0].task
    assert (used.train_rows, used.test_rows) == (48 - 16, 16)
    trial, predictions = run_cell(plan.cells[0])
    assert trial.status == "ok", trial.reason
    assert isinstance(trial, TrialRecord) and not isinstance(trial, ScoreRecord)
    assert predictions is None
    assert trial.score * 16 == round(trial.score * 16)


def test_no_synthetic_trial_draws_the_test_split(tmp_path, monkeypatch):
    drawn = []
    draw = synthetic.rows
    monkeypatch.setattr(synthetic, "rows", lambda name, split: drawn.append(split) or draw(name, split))
    trial, _ = run_cell(searched(written(tmp_path)).cells[0])
    assert trial.status == "ok", trial.reason
    assert set(drawn) == {"train"}


def test_a_trial_is_scored_on_rows_that_it_did_not_train_on(tmp_path):
    from bench.tasks.sources import load_trial

    cell = searched(written(tmp_path)).cells[0]
    data = load_trial(cell.spec, cell.source, 48, 16)
    assert len(data.test) == 16
    assert not set(data.train.texts) & set(data.test.texts)
    assert data.content_sha256 == cell.task.content_sha256


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [100, 101]", "seeds = [1, 2]", r"mine.toml: .*tuning.seeds contains 1, a seed of the suite"),
        ("[1e-3, 1e-2]\nseeds", "[1e-2, 1e-3]\nseeds", r"mine.toml: tuning: head_learning_rates must increase"),
        ("[1e-3, 1e-2]\nhead", "[0.0, 1e-3]\nhead", r"mine.toml: tuning.learning_rates\[0\]: must be above 0, not 0.0"),
        ("[1e-3, 1e-2]\nhead", "[]\nhead", r"mine.toml: tuning.learning_rates: must be a list of 1 or more"),
        ("selection_rows = 16\n", "", r"mine.toml: tuning.selection_rows is missing"),
        ("[tuning]", "[tuning]\nselection_row = 16", r"tuning: unknown key 'selection_row'.*'selection_rows'"),
        ("2e-4", "2e-4\nhead_learning_rate = -1.0", r"method\[0\]: head_learning_rate must be above 0"),
        ("2e-4", f"2e-4\n{FOUND[:-1]}, trails = 4 }}", r"method\[0\].tuning: unknown key 'trails'.*'trials'"),
        ("selection_rows = 16\n", "selection_rows = 48\n", r"48 selection rows leave none of the 48 rows for"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path, old, new, sentence):
    with pytest.raises(BenchError, match=sentence):
        searched(written(tmp_path, old=old, new=new))


def test_a_head_rate_of_a_task_that_is_none_is_named(tmp_path):
    path = written(tmp_path, old="2e-4", new="2e-4\nhead_learning_rate = { sst3 = 1.0 }")
    with pytest.raises(BenchError, match="unknown task 'sst3'"):
        make_plan(load_suite(str(path)), str(path), "cpu")


def test_a_suite_without_a_grid_is_refused_with_one_that_it_may_have(tmp_path):
    path = written(tmp_path)
    text = path.read_text()
    start, end = text.index("[tuning]"), text.index("[[method]]")
    path.write_text(text[:start] + text[end:])
    with pytest.raises(BenchError, match=r"mine\.toml has no \[tuning\] table; add one"):
        searched(path)
    shown = run_tune(path, tmp_path / "run", code=2).stderr
    assert EXAMPLE in shown
    path.write_text(EXAMPLE + "\n" + path.read_text().replace("train_rows = 48", "train_rows = 300"))
    assert len(searched(path).cells) == 6 * 2 * 2


def test_a_search_needs_tasks():
    values = {
        "name": "mine", "question": "q", "backbone": {"name": "tiny", "weights": "random"},
        "method": [{"name": "full"}], "cost": [{"batch": 1, "length": 8}], **tomllib.loads(EXAMPLE),
    }  # fmt: skip
    with pytest.raises(BenchError, match="needs tasks"):
        parse_suite(values, "mine.toml")


def test_rates_count_as_searched_for_only_where_the_search_looked(tmp_path):
    suite = load_suite(str(written(tmp_path, old="2e-4", new=f"2e-4\n{FOUND}")))

    def told(selection):
        return {cell.method.label: cell.tuning for cell in make_plan(select(suite, selection), "s", "cpu").cells}

    assert told(Selection())["full"].trials == 4
    assert told(Selection())["lora(rank=2)"] is None
    assert told(Selection(methods=("full", "lora(rank=3)")))["lora(rank=3)"] is None
    for elsewhere in (Selection(tasks=("rte",)), Selection(backbone="minilm-l6")):
        assert set(told(elsewhere).values()) == {None}


def test_a_score_carries_the_search_behind_its_rates(tmp_path):
    cell = make_plan(load_suite(str(written(tmp_path, old="2e-4", new=f"2e-4\n{FOUND}"))), "s", "cpu").cells[0]
    record, _ = run_cell(cell)
    assert record.kind == "score"
    assert record.tuning.model_dump() == {
        "trials": 4, "seeds": 2, "steps": 3, "selection_rows": 16, "task": None
    }  # fmt: skip


def run_tune(suite, out, *more, code=0):
    return bench("tune", "--suite", suite, "--out", out, "--workers", 1, *more, code=code)


def test_a_search_that_was_stopped_resumes_to_every_trial_once_and_writes_a_suite_that_runs(tmp_path):
    suite, out = written(tmp_path, largest="1000.0", old="[100, 101]", new="[100]"), tmp_path / "run"
    decayed = (
        suite.read_text().replace("steps = 3", "steps = 12").replace("steps = 6", "steps = 6\nweight_decay = 100.0")
    )
    suite.write_text(decayed)  # at the largest rate every step multiplies the weights by 1e5
    run_tune(suite, out)
    whole = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(whole[:3]) + whole[3][:40])  # what a stop leaves at its worst
    (out / "tuned.toml").unlink()
    before = read_records(out / "records.jsonl")
    found = json.loads(run_tune(suite, out, "--json").stdout)
    records = read_records(out / "records.jsonl")
    assert records[: len(before)] == before
    assert len(records) == len({record.id for record in records}) == 8
    assert {record.kind for record in records} == {"trial"}
    assert {record.status for record in records} == {"ok", "nan"}
    assert not (out / "predictions").exists()
    for row in found["outcomes"]:  # a rate of 1000 diverges, whichever the head's
        assert (row["learning_rate"], row["trials"], row["diverged"], row["failed"]) == (1e-3, 4, 2, 0)
    assert [(row.method, row.task) for row in outcomes(read_search(out))] == [
        (row["method"], row["task"]) for row in found["outcomes"]
    ]
    shown = run_tune(suite, out).stdout
    assert "nothing to do (use --fresh to run again)" in shown
    assert "lora(rank=2)" in shown
    tuned = load_suite(str(out / "tuned.toml"))
    assert all(method.rates("sst2")["learning_rate"] == 1e-3 for method in tuned.method)
    assert all(method.tuning.trials == 4 for method in tuned.method)
    assert make_plan(tuned, "tuned", "cpu").cells
    assert "lora(rank=2)" in bench("report", out).stdout
    assert "this is a search for learning rates, not a run" in bench("report", out, "--format", "csv", code=2).stderr
    for path in (*out.glob("*.md"), *out.glob("*.jsonl"), *out.glob("*.toml"), *(out / "plots").glob("*.svg")):
        assert str(tmp_path) not in path.read_text(), path
    assert os.fspath(out) == found["folder"]

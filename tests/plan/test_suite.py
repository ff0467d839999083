"""A suite file is refused with one sentence that names file, field and fix; the project's own suites are sound."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.plan.load import load_suite, parse_suite, suite_names, write_tuned
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.suite import DATA, TuningTable
from methods import BUILTIN

MINIMAL = """
question = "q"
tasks = ["sst2"]
seeds = [0]
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 2
[[method]]
name = "full"
"""


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_the_four_suites_stand():
    assert {"smoke", "glue-small", "glue", "cost-bert-base"} <= set(suite_names())
    for name in suite_names():
        assert load_suite(name).question.strip()


def test_a_file_takes_its_name_from_its_path(tmp_path):
    assert load_suite(written(tmp_path, MINIMAL)).name == "mine"


def test_unknown_suite_offers_the_nearest_name():
    with pytest.raises(BenchError, match=r"unknown suite 'glue-smal'.*Did you mean 'glue-small'"):
        load_suite("glue-smal")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [0]", "seedz = [0]", r"mine.toml: unknown key 'seedz'.*Did you mean 'seeds'"),
        ("steps = 2", "steps = 2\nbatchsize = 4", r"mine.toml: recipe: unknown key 'batchsize'.*'batch_size'"),
        ("steps = 2", 'steps = "two"', r"mine.toml: recipe.steps: must be a whole number, not .two."),
        ("steps = 2", "steps = 0", r"mine.toml: recipe.steps: must be at least 1, not 0"),
        ("steps = 2", "steps = 2\nepochs = 2", r"mine.toml: recipe: give exactly one of steps and epochs"),
        (
            'name = "full"',
            'nme = "full"',
            r"mine.toml: method\[0\]: unknown key 'nme'.*'name'|method\[0\].name is missing",
        ),
        (
            "[backbone]",
            '[[claim]]\nname = "a"\nsays = "s"\nmetric = "flops.forward"\nmethod = "full"\nprise = "x"\n[backbone]',
            r"mine.toml: claim\[0\]: unknown key 'prise'.*Did you mean 'price'",
        ),
        ("seeds = [0]", "seeds = [-1]", r"mine.toml: .*seeds must be integers from 0"),
        (
            'name = "full"',
            'name = "full"\nlearning_rate = -1.0',
            r"mine.toml: method\[0\]: learning_rate must be above 0",
        ),
        ("seeds = [0]", "seeds = [0, 0]", r"mine.toml: .*seeds has 0 twice; give each once"),
        ("seeds = [0]", "seeds = []", r"mine.toml: .*needs seeds"),
        ('question = "q"', "", r"mine.toml: question is missing"),
        ('question = "q"', "question = ", r"mine.toml: not a readable TOML file"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, sentence):
    with pytest.raises(BenchError, match=sentence):
        load_suite(written(tmp_path, MINIMAL.replace(old, new, 1)))


@pytest.mark.parametrize("value", ["false", "3", '"mine"', "{ name = 'mine' }"])
def test_task_tables_that_are_none_are_named(tmp_path, value):
    text = MINIMAL.replace('tasks = ["sst2"]', f"task = {value}")
    with pytest.raises(BenchError, match=r"mine.toml: task(: must be a list| is a list of tables)"):
        load_suite(written(tmp_path, text))


COUNTED = """
question = "q"
backbone = { name = "tiny", weights = "random" }
method = [{ name = "full" }]
[[cost]]
batch = 2
length = 8
timed = false
"""


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("compile = true", "compile"), ("blocks = 6", "blocks"), ("rounds = 2", "rounds"),
        ("rebuild = true", "rebuild"), ("threads = 1", "threads"),
        ("extra_seconds = 3.0", "extra_seconds"), ("latency_batches = [1]", "latency_batches"),
        ("energy = true", "energy"),
        ("generation = { batches = [1] }", "generation.batches"), ("serving = { rows = 4 }", "serving.rows"),
    ],
)  # fmt: skip
def test_what_says_how_times_are_taken_is_refused_where_none_are(tmp_path, line, named):
    with pytest.raises(BenchError, match=rf"mine.toml: cost\[0\]: {named} is of times, and none are taken"):
        load_suite(written(tmp_path, COUNTED + line))


@pytest.mark.parametrize(
    "line",
    [
        "energy = false",
        "rebuild = false",
        "latency_batches = []",
        "generation = { batches = [] }",
        "serving = { tasks = [2] }",
        "latency_length = 8",
    ],
)
def test_a_shape_that_is_counted_alone_may_say_so(tmp_path, line):
    assert not load_suite(written(tmp_path, COUNTED + line)).cost[0].timed


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("latency_batches = [1]", "latency_batches"), ("latency_length = 8", "latency_length"),
        ("generation = { contexts = [8] }", "generation"), ("serving = { tasks = [2] }", "serving"),
    ],
)  # fmt: skip
def test_what_says_how_inference_is_measured_is_refused_where_it_is_not(tmp_path, line, named):
    text = COUNTED.replace("timed = false", "inference = false")
    with pytest.raises(BenchError, match=rf"mine.toml: cost\[0\]: {named} is of inference, and inference = false"):
        load_suite(written(tmp_path, text + line))
    assert not load_suite(written(tmp_path, text)).cost[0].inference


def test_what_is_of_tasks_is_refused_without_any_and_so_is_a_revision_of_random_weights(tmp_path):
    with pytest.raises(BenchError, match=r"mine.toml: suite: seeds are of cells, and there are no tasks"):
        load_suite(written(tmp_path, "seeds = [0]\n" + COUNTED))
    with pytest.raises(BenchError, match=r"mine.toml: suite: a \[recipe\] says how tasks are trained on"):
        load_suite(written(tmp_path, COUNTED + "[recipe]\nsteps = 2\n"))
    text = COUNTED.replace('weights = "random"', 'weights = "random", revision = "abc"')
    with pytest.raises(BenchError, match=r"mine.toml: backbone: revision is of pretrained weights"):
        load_suite(written(tmp_path, text))


def test_data_without_tasks_and_a_time_limit_above_that_of_the_whole_are_refused(tmp_path):
    with pytest.raises(BenchError, match=r"mine.toml: suite: data = 'synthetic' is of tasks, and there are none"):
        load_suite(written(tmp_path, 'data = "synthetic"\n' + COUNTED))
    limits = "timeout_seconds = 5.0\nmethod_timeout_seconds = 500.0"
    with pytest.raises(BenchError, match=r"cost\[0\]: method_timeout_seconds = 500 is above timeout_seconds = 5,"):
        load_suite(written(tmp_path, COUNTED + limits))


@pytest.mark.parametrize("asked", ["glue", "./glue", "../glue", "/data/glue", *DATA])
def test_a_folder_of_data_starts_at_the_suite_s_file_and_that_of_the_command_line_where_it_is_typed(
    tmp_path, monkeypatch, asked
):
    (tmp_path / "sub").mkdir()
    suite = tmp_path / "sub" / "mine.toml"
    grid = "learning_rates = [1e-3]\nhead_learning_rates = [1e-3]\nseeds = [0]\nselection_rows = 8\n"
    suite.write_text(
        f'question = "?"\ntasks = ["sst2"]\nseeds = [0]\ndata = "{asked}"\n[backbone]\nname = "tiny"\n'
        'weights = "random"\n[[method]]\nname = "full"\n[recipe]\nsteps = 2\n'
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_suite("sub/mine.toml")
    assert loaded.data == asked if asked in DATA else Path(loaded.data).resolve() == (suite.parent / asked).resolve()
    assert select(loaded, Selection(data="typed")).data == "typed"
    write_tuned(Path("sub/mine.toml"), [], TuningTable.model_validate(tomllib.loads(grid), strict=False),
                tmp_path / "tuned.toml")  # fmt: skip
    assert Path(load_suite("tuned.toml").data).resolve() == Path(loaded.data).resolve()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"absent.toml: not a readable TOML file"):
        load_suite(str(tmp_path / "absent.toml"))


# Every built-in method

STAR = '\n[[method]]\nname = "*"\n'


def test_a_star_is_every_built_in_method_that_no_other_table_names(tmp_path):
    given = '[[method]]\nname = "lora"\nconfig = { rank = 2 }\n'
    suite = load_suite(written(tmp_path, MINIMAL + STAR + given))
    rest = [name for name in BUILTIN if name not in ("full", "lora")]
    assert [(table.name, table.config) for table in suite.method] == [
        ("full", {}), *((name, {}) for name in rest), ("lora", {"rank": 2}),
    ]  # fmt: skip


def test_a_star_where_all_are_named_adds_nothing(tmp_path):
    named = "".join(f'[[method]]\nname = "{name}"\n' for name in BUILTIN if name != "full")
    assert load_suite(written(tmp_path, MINIMAL + named + STAR)) == load_suite(written(tmp_path, MINIMAL + named))


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        (
            STAR + "config = { rank = 2 }",
            r"mine.toml: method\[1\]: name = '\*' stands for .*; give config in a table of",
        ),
        (STAR + "learning_rate = 1e-3", r"mine.toml: method\[1\]: name = '\*' .*; give learning_rate in a table of"),
        (STAR + STAR, r"mine.toml: method\[2\]: name = '\*' is listed twice; remove one"),
    ],
)
def test_a_star_takes_nothing_else_and_stands_once(tmp_path, tables, sentence):
    with pytest.raises(BenchError, match=sentence):
        load_suite(written(tmp_path, MINIMAL + tables))


@pytest.mark.parametrize("name", ["smoke", "cost-bert-base"])
def test_a_method_that_is_added_takes_part_at_once(name, monkeypatch):
    monkeypatch.setitem(BUILTIN, "added", "methods.full:HeadOnly")
    assert load_suite(name).method[-1].name == "added"
    assert {table.name for table in load_suite(name).method} == set(BUILTIN)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["name", "question", "backbone", "method", "recipe", "cost", "tasks", "x"]), plain)
)
def test_whatever_a_file_holds_the_answer_is_a_suite_or_a_sentence(values):
    try:
        parse_suite(values, "mine.toml")
    except BenchError as error:
        assert str(error).startswith("mine.toml: ")


RATES = ["inf", "-inf", "nan", "0.0", "-1e-3", "1e11", "1001.0"]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("steps = 2", "steps = 2\nlearning_rate = {}", r"recipe.learning_rate"),
        ("steps = 2", "steps = 2\nhead_learning_rate = {}", r"recipe.head_learning_rate"),
        ("steps = 2", "steps = 2\n[recipe.task.sst2]\nlearning_rate = {}", r"recipe.task.sst2.learning_rate"),
        ('name = "full"', 'name = "full"\nlearning_rate = {}', r"method.0.: learning_rate must be above 0, 1"),
        ('name = "full"', 'name = "full"\nlearning_rate = {{ default = {} }}', r"method.0.: learning_rate must be "),
    ],
)  # fmt: skip
def test_a_learning_rate_that_nothing_learns_at_is_refused(tmp_path, old, new, place, rate):
    with pytest.raises(BenchError, match=rf"mine.toml: {place}"):
        load_suite(written(tmp_path, MINIMAL.replace(old, new.format(rate))))


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("steps = 2", "steps = 100_000_000_000", "recipe.steps: must be at most 10000000"),
        ("steps = 2", "steps = 2\nweight_decay = inf", "recipe.weight_decay"),
        ("steps = 2", "steps = 2\ngradient_clip = nan", "recipe.gradient_clip"),
        ("steps = 2", "steps = 2\ntimeout_seconds = inf", "recipe.timeout_seconds"),
        ("steps = 2", "steps = 2\n[[cost]]\nbatch = 2\nlength = 8\nextra_seconds = inf", ".*extra_seconds"),
        ("steps = 2", "steps = 2\n[[cost]]\nbatch = 2\nlength = 8\ndropout = nan", ".*dropout"),
        ("steps = 2", "steps = 2\nwarmup = nan", "recipe.warmup"),
    ],
)
def test_a_number_without_bound_is_refused(tmp_path, old, new, place):
    with pytest.raises(BenchError, match=rf"mine.toml: {place}"):
        load_suite(written(tmp_path, MINIMAL.replace(old, new)))


OF_ONES_OWN = '[[task]]\nname = "{}"\nkind = "classes"\ntext = "text"\ntrain = "a.csv"\ntest_share = 0.2\n'


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (["mine", "mine"], r"\[\[task\]\] has 'mine' twice; give each once"),
        (["mine", "other"], r"tasks leaves out 'other', which has a \[\[task\]\]; add it there or remove its table"),
    ],
)
def test_every_task_of_ones_own_is_there_once_and_scored(tmp_path, tables, said):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL.replace('tasks = ["sst2"]', 'tasks = ["mine"]') + "".join(map(OF_ONES_OWN.format, tables)))
    with pytest.raises(BenchError, match=said):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('[[task]]\nname = "mine"\ntrain = "a\\u0000b"', r"task\[0\].train"),
        ('[retention]\ntexts = ["a", "b\\u0000"]', r"retention.texts\[1\]"),
        ('["a\\u0000b"]', r"'a\\x00b'"),
    ],
)
def test_a_text_with_a_nul_character_is_refused_wherever_it_stands(tmp_path, line, place):
    with pytest.raises(BenchError, match=rf"mine.toml: {place} holds a NUL character"):
        load_suite(written(tmp_path, COUNTED + line))


def test_a_suite_without_methods_says_so(tmp_path):
    with pytest.raises(BenchError, match=r"mine.toml: method is missing"):
        load_suite(written(tmp_path, COUNTED.replace('method = [{ name = "full" }]', "")))


def test_a_key_of_a_method_that_takes_none_is_refused(tmp_path):
    suite = load_suite(written(tmp_path, COUNTED.replace('"full"', '"head", config = { rank = 2 }')))
    with pytest.raises(BenchError, match=r"head: unknown key 'rank'; it takes none\."):
        make_plan(suite, "mine", "cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("float = 3\n" + COUNTED, r"mine.toml: unknown key 'float'; known: backbone, "),
        (COUNTED + "str = 3", r"mine.toml: cost\[0\]: unknown key 'str'; known: "),
        (
            COUNTED + "[recipe.task.float]\nstesp = 4",
            r"mine.toml: recipe.task.float: unknown key 'stesp'; .* mean 'steps'",
        ),
        (COUNTED + "[cost.generation]\ncontext = [4]", r"generation: unknown key 'context'; known: .*\bcontexts\b"),
        (COUNTED + "[cost.serving]\ntask = [4]", r"serving: unknown key 'task'; known: .*\btasks\b"),
        (COUNTED.replace("[[cost]]", "[cost]"), r"mine.toml: cost is a list of tables; write \[\[cost\]\] in the"),
    ],
)
def test_a_key_is_named_where_it_stands_whatever_it_is_called(tmp_path, text, said):
    with pytest.raises(BenchError, match=said):
        load_suite(written(tmp_path, text))

"""A plan is pure data: the same suite gives the same identities, and whatever decides a result changes them."""

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

import bench
from bench.count.predict import check_memory
from bench.errors import BenchError
from bench.models.backbone import describe, files_sha256
from bench.plan.load import load_suite, suite_names
from bench.plan.planner import SOURCES, make_plan
from bench.plan.select import Selection, select
from bench.schema.jobs import Cell, Probe, Sweep, cost_id, method_sources
from bench.schema.suite import CostTable

SMALL = Selection(methods=("full", "head"), seeds=(0,))
TEXT = """
question = "q"
backbone = { name = "gpt2", weights = "random" }
cost = [{ batch = 2, length = 8, loss = "target", target_tokens = 3, timed = false }]
method = [{ name = "full" }]
"""


def plan(selection=SMALL, **changes):
    suite = select(load_suite("smoke"), selection)
    if changes:
        suite = suite.model_copy(update={"recipe": suite.recipe.model_copy(update=changes)})
    return make_plan(suite, "suites/smoke.toml", "cpu")


def test_the_same_suite_gives_the_same_plan():
    assert plan() == plan()
    assert plan().name.startswith("smoke-")


def test_a_shape_is_named_with_its_objective(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    plan = make_plan(load_suite(str(path)), "mine.toml", "cpu")
    assert plan.probes[0].size == "2 x 8 tokens, text (target loss, 3 targets a row)"
    assert plan.suite.cost[0].words == plan.probes[0].size


def test_every_cell_and_cost_has_an_identity_of_its_own():
    made = plan(Selection())
    assert len(made.job_ids()) == len(made.cells) + len(made.probes[0].methods)
    assert {cost_id(made.probes[0], m) for m in made.probes[0].methods} <= made.job_ids()


@pytest.mark.parametrize(
    "selection",
    [
        Selection(methods=("full", "head"), seeds=(1,)),
        Selection(methods=("full", "lora(rank=2)"), seeds=(0,)),
        Selection(methods=("full", "head"), seeds=(0,), tasks=("rte",)),
        Selection(methods=("full", "head"), seeds=(0,), backbone="minilm-l6"),
    ],
    ids=["seed", "method", "task", "backbone"],
)
def test_what_decides_a_result_changes_its_identity(selection):
    first, other = plan().cells[-1].id, plan(selection).cells[-1].id
    assert first != other


def test_a_changed_shape_file_changes_identities(tmp_path):
    path = tmp_path / "config.json"
    suite = select(load_suite("smoke"), SMALL)
    suite = suite.model_copy(update={"backbone": suite.backbone.model_copy(update={"name": str(path)})})
    names = []
    for layers in (1, 2):
        values = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
        path.write_text(json.dumps(values))
        files_sha256.cache_clear()
        describe.cache_clear()
        names.append(make_plan(suite, "s", "cpu").cells[0].id)
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("job", "sources"),
    [
        (Cell, {"models/tokenizer.py", "models/head.py", "stats/subspaces.py", "tasks/metrics.py", "training/loop.py"}),
        (Probe, {"stats/intervals.py", "schema/claims.py", "count/ledger.py", "training/loop.py"}),
        (Sweep, {"models/backbone.py", "count/memory.py", "training/loop.py", "anatomy.py", "method.py"}),
    ],
)
def test_every_source_that_decides_a_figure_is_hashed(job, sources):
    package = Path(bench.__file__).parent
    assert all((package / source).exists() for source in {*sources, *SOURCES[job]})
    assert all(source in SOURCES[job] or source.partition("/")[0] in SOURCES[job] for source in sources)


def test_what_a_plug_in_imports_by_dots_is_hashed(tmp_path, monkeypatch):
    package = tmp_path / "dotted_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text("from .inner import scale\n")
    (package / "inner.py").write_text("scale = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = method_sources("dotted_plugin.method")
    (package / "inner.py").write_text("scale = 2\n")
    assert method_sources("dotted_plugin.method") != first


def test_a_config_json_as_backbone_has_random_weights():
    assert select(load_suite("smoke"), Selection(backbone="x/config.json")).backbone.weights == "random"


def test_a_recipe_value_changes_identities_but_a_time_limit_does_not():
    assert plan().cells[0].id != plan(weight_decay=0.5).cells[0].id
    assert plan().cells[0].id == plan(timeout_seconds=5.0).cells[0].id


def test_the_baseline_joins_whatever_is_asked_for():
    assert [m.label for m in plan(Selection(methods=("head",), seeds=(0,))).probes[0].methods] == ["full", "head"]


def test_a_method_twice_is_refused():
    with pytest.raises(BenchError, match="method head is listed twice"):
        plan(Selection(methods=("full", "head", "head")))


def test_a_task_that_only_an_override_or_a_rate_names_must_exist():
    suite = load_suite("smoke")
    override = suite.recipe.model_copy(update={"task": {"sst3": suite.recipe}})
    rate = suite.method[0].model_copy(update={"learning_rate": {"default": 1e-3, "sst3": 1e-4}})
    for changed in ({"recipe": override}, {"method": (rate, *suite.method[1:])}):
        with pytest.raises(BenchError, match=r"unknown task 'sst3'.*Did you mean 'sst2'"):
            make_plan(suite.model_copy(update=changed), "s", "cpu")


def test_rates_by_task_and_epochs_are_resolved():
    suite = load_suite("glue")
    assert suite.recipe.task["cola"].epochs == 80
    lora = next(m for m in suite.method if m.name == "lora")
    assert lora.learning_rate["sst2"] == 5e-4
    assert lora.learning_rate["default"] == 4e-4


def test_cost_shapes_without_a_gpu_take_the_smaller_batch():
    suite = select(load_suite("cost-bert-base"), Selection(methods=("full",)))
    assert [p.batch for p in make_plan(suite, "s", "cpu").probes] == [8, 1]
    assert [p.batch for p in make_plan(suite, "s", "cuda").probes] == [32, 1]


def test_a_cost_shape_may_leave_out_inference_and_energy_and_the_run_folder_says_so():
    suite = select(load_suite("cost-bert-base"), Selection(methods=("full",)))
    without = suite.cost[0].model_copy(update={"inference": False, "energy": False})
    made = make_plan(suite.model_copy(update={"cost": (without, suite.cost[1])}), "s", "cpu")
    assert [(one.inference, one.energy, one.latency_batches) for one in made.probes] == [
        (False, False, ()), (True, True, (1,))
    ]  # fmt: skip
    first, second = made.suite.plain()["cost"]
    assert (first["inference"], first["energy"]) == (False, False)
    assert not {"inference", "energy"} & {*second}  # as in every run folder from before there was a choice


@pytest.mark.parametrize("part", ["generation", "serving"])
def test_what_is_of_inference_is_refused_where_that_is_left_out(part):
    with pytest.raises(ValidationError, match=f"{part} is of inference, and inference = false leaves that out"):
        CostTable.model_validate({"batch": 1, "length": 8, "inference": False, part: {}})


def test_rows_come_from_where_the_plan_says():
    cell = plan().cells[0]
    assert cell.task.source == "synthetic"
    assert cell.task.train_rows == 320
    assert 0 < cell.task.floor < 1


@pytest.mark.parametrize("asked", [{"data": "synthetic"}, {"tasks": ("sst2",)}, {"seeds": (0,)}])
@pytest.mark.parametrize(
    ("suite", "counts", "why"), [("smoke", True, "--counts"), ("cost-minilm", False, "suite 'cost")]
)
def test_rows_tasks_and_seeds_are_refused_where_nothing_is_scored(asked, suite, counts, why):
    with pytest.raises(BenchError, match=rf"^{why}.* scores no tasks; omit --{next(iter(asked))}$"):
        select(load_suite(suite), Selection(counts=counts, **asked))


def test_counts_alone_score_nothing_time_nothing_and_take_the_whole_batch():
    suite = select(load_suite("cost-bert-base"), Selection(counts=True))
    made = make_plan(suite, "s", "cpu")
    assert [(probe.batch, probe.timed, probe.bounds) for probe in made.probes] == [(32, False, ()), (1, False, ())]
    assert plan(Selection(counts=True)).cells == ()
    with pytest.raises(BenchError, match=r"no \[\[cost\]\] shape to count"):
        select(load_suite("glue").model_copy(update={"cost": ()}), Selection(counts=True))


@pytest.mark.parametrize("name", suite_names())
def test_what_the_run_folder_keeps_of_a_suite_is_toml(name):
    suite = load_suite(name)
    name_of = "smollm2-135m" if any(cost.objective == "text" for cost in suite.cost) else "minilm-l6"
    shape = {} if suite.backbone.weights == "random" else {"name": name_of, "weights": "random", "revision": None}
    offline = suite.model_copy(update={"backbone": suite.backbone.model_copy(update=shape), "tasks": ()})
    resolved = make_plan(offline, name, "cpu").suite.plain()
    assert tomllib.loads(tomli_w.dumps(resolved)) == resolved


def test_a_cost_shape_may_fix_its_threads():
    made = make_plan(load_suite("cost-minilm"), "s", "cpu")
    assert made.probes[0].threads == 1
    assert made.suite.plain()["cost"][0]["threads"] == 1
    assert plan().probes[0].threads is None


# memory

GB = 1_000_000_000


@pytest.fixture
def memory(monkeypatch):
    """Let this machine have so many bytes."""

    def have(size):
        monkeypatch.setattr("bench.count.predict.memory_of", lambda device: size)

    return have


def resized(batch=32, length=32, methods=("full", "head"), **changes):
    """The plan of ``smoke`` with another batch and length of its costs, or other values of its recipe."""
    made = plan(Selection(methods=methods, seeds=(0,)), **changes)
    probes = tuple(probe.model_copy(update={"batch": batch, "length": length}) for probe in made.probes)
    return made.model_copy(update={"probes": probes, "cells": made.cells if changes else ()})


TOO_MUCH = [
    (10**8, 128, 64 * GB, r"a step of 100000000 x 128 tokens takes at least 1,638.4 GB of memory, this machine has 64"),
    (32, 10**9, 64 * GB, r"a step of 32 x 1000000000 tokens takes at least 4,096.0 GB"),
    (10**12, 1, 64 * GB, r"a step of 1000000000000 x 1 tokens takes at least"),
    (2**62, 2**62, 64 * GB, r"takes at least"),
    (1, 1, 127, r"a step of 1 x 1 tokens takes at least 0.0 GB"),
    (4096, 64, GB, r"method full: a step of 4096 x 64 tokens takes at least"),
    (64, 64, GB // 500, r"method full: a step of 64 x 64 tokens takes at least"),
]


@pytest.mark.parametrize(("batch", "length", "size", "sentence"), TOO_MUCH)
def test_a_batch_that_does_not_fit_this_machine_is_refused_before_anything_runs(memory, batch, length, size, sentence):
    memory(size)
    with pytest.raises(BenchError, match=sentence + r".*; lower batch or length, or count it alone with --counts$"):
        check_memory(resized(batch, length))


def test_what_fits_what_is_counted_and_what_cannot_be_known_pass(memory):
    memory(64 * GB)
    check_memory(resized())
    memory(None)
    check_memory(resized(10**12))
    memory(GB)
    made = resized(10**12)
    check_memory(made.model_copy(update={"probes": tuple(p.model_copy(update={"timed": False}) for p in made.probes)}))


def test_a_step_that_may_not_fit_is_counted_and_passes_where_it_does(memory):
    from bench.count.count import peak_of
    from bench.registry import make
    from bench.schema.shape import Setting

    made = resized(64, 64, methods=("full",))
    probe = made.probes[0]
    peak = peak_of(probe.backbone, *make("full", {}), Setting(**probe.step(), device="cpu", outputs=2)).step
    memory(peak)
    check_memory(made)
    memory(peak - 1)
    with pytest.raises(BenchError, match="method full"):
        check_memory(made)


@pytest.mark.parametrize(("size", "fits"), [(64 * GB, True), (16 * 3 * 64 * 2, True), (16 * 3 * 64 * 2 - 1, False)])
def test_rows_of_a_cell_are_held_against_their_shortest_form(memory, size, fits):
    made = resized(batch_size=16).model_copy(update={"probes": ()})
    memory(size)
    if fits:
        check_memory(made)
    else:
        with pytest.raises(
            BenchError, match=r"task sst2: batch_size = 16 takes at least .*; lower batch_size or raise"
        ):
            check_memory(made)


def test_epochs_that_come_to_more_steps_than_a_suite_may_name_are_refused():
    with pytest.raises(
        BenchError, match=r"recipe of sst2: steps = \d+: must be whole, from 1 to .*; give fewer epochs"
    ):
        plan(steps=None, epochs=10**10)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_of_one_label_is_refused(tmp_path, split):
    (tmp_path / "SST-2").mkdir()
    for stem, like in (("train", "train"), ("dev", "test")):
        labels = ("1", "1") if like == split else ("0", "1")
        lines = [f"a film {number}\t{label}\n" for number, label in enumerate(labels)]
        (tmp_path / "SST-2" / f"{stem}.tsv").write_text("".join(["sentence\tlabel\n", *lines]))
    with pytest.raises(BenchError, match=r"^sst2: all 2 \w+ rows have the label positive"):
        plan(Selection(methods=("full",), seeds=(0,), tasks=("sst2",), data=str(tmp_path)))

"""A figure that cannot be is refused where it stands, in a record and in a reference; what can be is read."""

import copy
import json
import re

import pytest
from pydantic import ValidationError

from bench.analysis.results import Results
from bench.count.predict import check_fit
from bench.errors import BenchError
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.schema.ranges import METRICS
from bench.schema.suite import CostTable, RecipeTable
from bench.store.store import read_records
from bench.tasks.metrics import METRICS as KNOWN
from bench.verdicts.reference import read_reference, reference_of, write_reference
from tests.factories.records import cost, count, curve, glue_small, score


def plain(record):
    return json.loads(record.model_dump_json(by_alias=True))


@pytest.fixture(scope="module")
def records():
    """One record of each kind, as a run writes them."""
    made = {"score": score("full", "sst2", 0, curve=curve(50.0, 60.0)), "cost": cost("full"),
            "count": count("full", 2, 8, 300)}  # fmt: skip
    return {kind: plain(record) for kind, record in made.items()}


def put(values, path, value):
    *way, last = path.split(".")
    for part in way:
        values = values[int(part) if isinstance(values, list) else part]
    values[int(last) if isinstance(values, list) else last] = value


IMPOSSIBLE = [
    ("score", "score", 40.55),
    ("score", "score", -0.2),
    ("score", "metrics.accuracy", 81.5),
    ("score", "metrics.accuracy", -0.1),
    ("score", "metrics", {"f1": 1.5}),
    ("score", "metrics", {"matthews_correlation": -1.2}),
    ("score", "metrics", {"pearson": 1.01}),
    ("score", "metrics", {"spearman": 88.0}),
    ("score", "task.floor", 58.0),
    ("score", "curve.0.score", 50.0),
    ("score", "curve.1.seconds", -1.0),
    ("score", "train_seconds", -0.5),
    ("score", "prepare_seconds", -1),
    ("score", "seed", -1),
    ("score", "task.train_rows", -2),
    ("score", "recipe.learning_rate", 0),
    ("score", "recipe.learning_rate", -1e-3),
    ("score", "recipe.learning_rate", 1e11),
    ("score", "recipe.learning_rate", "fast"),
    ("score", "recipe.steps", 10**11),
    ("score", "recipe.steps", 0),
    ("cost", "flops.forward", -1),
    ("cost", "flops.backward", 5),
    ("cost", "flops.by_layer.layer_1.backward", -3),
    ("cost", "trainable_parameters.method", -1),
    ("cost", "delta_bytes", -4),
    ("cost", "bytes.saved_activations", -1),
    ("cost", "peak_memory_bytes.step", 1),
    ("cost", "peak_memory_bytes", {"forward": 9, "backward": 9, "optimizer": 9, "step": 9}),
    ("cost", "predicted_peak_memory_bytes", {"forward": 1, "backward": 5, "optimizer": 1, "step": 5}),
    ("cost", "step_seconds.median", -0.1),
    ("cost", "step_seconds.samples.0.0", -0.1),
    ("cost", "step_seconds.ratio_to_baseline", 0.0),
    ("cost", "step_seconds.ratio_interval", [1.2, 0.9]),
    ("cost", "aa_control.step.interval", [1.1, 1.0]),
    ("cost", "aa_control.step.interval", [-0.1, 1.0]),
    ("cost", "merge_error.float32", -1e-8),
    ("cost", "switch_seconds", -1),
    ("cost", "inference.base.depth", -1),
    ("cost", "shape.batch", 0),
    ("count", "flops.backward", 1),
    ("count", "delta_bytes", -1),
    ("count", "value", -8),
]


@pytest.mark.parametrize(("kind", "path", "value"), IMPOSSIBLE)
def test_an_impossible_figure_of_a_record_is_refused_with_its_line(records, tmp_path, kind, path, value):
    sound, broken = records[kind], copy.deepcopy(records[kind])
    put(broken, path, value)
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(sound) + "\n")
    assert len(read_records(file)) == 1
    file.write_text(json.dumps(broken) + "\n")
    with pytest.raises(BenchError, match=r"records\.jsonl:1: ") as raised:
        read_records(file)
    assert "\n" not in str(raised.value)


POSSIBLE = [
    ("score", "metrics", {"matthews_correlation": -0.02, "accuracy": 0.69}),
    ("score", "metrics", {"accuracy": 1.0 + 1e-12}),
    ("score", "metrics", {"a_metric_of_another": 40.0}),
    ("score", "recipe.learning_rate", 1e3),
    ("score", "curve.0.seconds", 0.0),
    ("cost", "step_seconds.ratio_interval", [1.0, 1.0]),
]


@pytest.mark.parametrize(("kind", "path", "value"), POSSIBLE)
def test_what_can_be_is_read(records, tmp_path, kind, path, value):
    values = copy.deepcopy(records[kind])
    put(values, path, value)
    (tmp_path / "records.jsonl").write_text(json.dumps(values) + "\n")
    assert len(read_records(tmp_path / "records.jsonl")) == 1


def test_every_metric_has_its_range():
    assert METRICS.keys() == {*KNOWN, "exact_match", "answer_nats"}  # of text, which are taken as rows are scored


REFERENCE = [
    ("scores.sst2.methods.full.0", 40.55, "at most 1"),
    ("scores.sst2.methods.full.0", -0.3, "full, seed 0: score = -0.3 is below 0, the least of accuracy"),
    ("scores.sst2.methods.full.0", -1.5, "at least -1"),
    ("scores.sst2.methods.full.-1", 0.5, "at least 0"),
    ("costs.0.methods.full.delta_bytes", -1, "at least 0"),
    ("costs.0.methods.full.delta_bytes", 1.5, "must be a whole number"),
    ("costs.0.merge_error.full", -1e-8, "at least 0"),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.json"
    made = glue_small(path.parent, labels=["full", "lora(rank=8)"], seeds=(0, 1))
    write_reference(reference_of(Results(made)), path)
    return json.loads(path.read_text())


@pytest.mark.parametrize(("path", "value", "sentence"), REFERENCE)
def test_an_impossible_figure_of_a_reference_is_refused(reference, tmp_path, path, value, sentence):
    values = copy.deepcopy(reference)
    put(values, path, value)
    (tmp_path / "reference.json").write_text(json.dumps(values))
    with pytest.raises(BenchError, match=sentence):
        read_reference(tmp_path / "reference.json")


def test_a_reference_from_before_its_metrics_were_named_is_read(reference, tmp_path):
    for task in reference["scores"].values():
        assert task["metrics"] == ["accuracy"]
    values = copy.deepcopy(reference)
    for task in values["scores"].values():
        del task["metrics"]
    (tmp_path / "reference.json").write_text(json.dumps(values))
    assert read_reference(tmp_path / "reference.json") is not None


SUITE = {
    "question": "?", "backbone": {"name": "tiny", "weights": "random"}, "method": [{"name": "full"}, {"name": "lora"}],
    "tasks": ["sst2"], "seeds": [0], "data": "synthetic",
    "recipe": {"steps": 3, "batch_size": 8, "max_length": 16, "train_rows": 32, "test_rows": 16},
    "cost": [{"batch": 2, "length": 8, "timed": False}], "sweep": [{"vary": "length", "values": [8, 16], "batch": 1}],
}  # fmt: skip
LIMIT = ROWS = "at most 10000000"
ABSURD = [
    *((f"cost.0.{name}", value, ROWS) for name, value in (
        ("batch_on_cpu", 10**9), ("latency_length", 10**9),
        ("latency_batches", [10**9]),
    )),
    *((f"recipe.{name}", 10**9, ROWS) for name in (
        "batch_size", "train_rows", "test_rows", "max_length", "selection_rows", "gradient_accumulation", "epochs",
    )),
    *((f"cost.0.{name}", 10**9, f"{name} = 1000000000 is above 10,000,000; lower it") for name in ("batch", "length")),
    ("cost.0.blocks", 10**9, "at most 100000"), ("cost.0.rounds", 10**9, "at most 100000"),
    ("cost.0.method_timeout_seconds", float("inf"), "finite number|less than"),
    *((f"{table}.timeout_seconds", 1e300, LIMIT) for table in ("cost.0", "recipe", "sweep.0")),
    ("cost.0.extra_seconds", 1e300, LIMIT), ("sweep.0.method_timeout_seconds", 1e300, LIMIT),
    ("sweep.0.values", [8, 10**9], ROWS), ("recipe.curve_points", 10**9, LIMIT), ("seeds", [*range(1001)], "1000 at"),
    ("recipe.gradient_norms", 10**9, LIMIT), ("backbone.revision", "", "text of 1 or more char"),
    ("recipe.task", {"sst2": {"steps": 3, "epochs": 3}}, "task.sst2: give at most one of steps and epochs"),
    ("method.1.learning_rate", {}, "learning_rate names no task; give a rate"),
    *((path, 1, "unknown key 'x'; known: ") for path in (
        "x", "backbone.x", "recipe.x", "cost.0.x", "sweep.0.x", "method.0.x", "recipe.task.sst2.x", "match.x",
    )),
    ("cost.0.latency_length", 129, "costs at batch 2 x 8: 129 tokens need 129 positions, the backbone has 128; latenc"),
    ("cost.0.length", 129, "costs at batch 2 x 129: 129 tokens need 129 positions, the backbone has 128; length 128 i"),
    ("recipe.max_length", 129, "method full: 129 tokens need 129 positions, the backbone has 128; max_length 128"),
    ("recipe.gradient_accumulation", 9, "recipe of sst2: gradient_accumulation = 9 is above batch_size = 8"),
    ("recipe.batch_size", 33, "recipe of sst2: batch_size = 33 is above its 32 training rows; lower it"),
    ("recipe.curve_points", 4, "recipe of sst2: curve_points = 4 is above steps = 3"),
    ("recipe.gradient_norms", 4, "recipe of sst2: gradient_norms = 4 is above steps = 3"),
    ("sweep", [{"vary": "layers", "values": [1, 10**5], "batch": 1, "length": 8}], "100,000 layers of 'tiny' are more"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "words"), ABSURD)
def test_a_value_of_a_suite_that_cannot_be_meant_is_refused_before_anything_runs(path, value, words):
    values = copy.deepcopy(SUITE) | ({"match": {}} if path.startswith("match") else {})
    if path.startswith("recipe.task."):
        values["recipe"]["task"] = {"sst2": {}}
    put(values, path, value)
    with pytest.raises(BenchError, match=re.escape(words).replace(r"\|", "|")) as refusal:
        check_fit(make_plan(parse_suite({"name": "mine"} | values, "mine.toml"), "mine.toml", "cpu"))
    assert "\n" not in str(refusal.value)


def test_the_suite_of_these_values_is_planned():
    check_fit(make_plan(parse_suite({"name": "mine"} | SUITE, "mine.toml"), "mine.toml", "cpu"))


@pytest.mark.parametrize("table", [RecipeTable, CostTable])
@pytest.mark.parametrize("threads", [0, -1, 1025, 100_000, True, 2.0])
def test_threads_that_no_machine_has_are_refused_where_they_are_asked_for(table, threads):
    with pytest.raises(ValidationError) as refusal:
        table.model_validate({"threads": threads})
    assert ("threads",) in [problem["loc"] for problem in refusal.value.errors()]

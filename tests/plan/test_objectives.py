"""Suites of language models: each shape is planned, held together and matched by what is trained on top."""

import json

import pytest

from bench.count.count import peak_of
from bench.count.predict import check_fit
from bench.errors import BenchError
from bench.models import backbone
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.schema.shape import Setting
from tests.methods.families import CONFIGS

SHAPE = {"batch": 2, "length": 16, "latency_length": 16, "timed": False}


@pytest.fixture
def planned(tmp_path):
    """Plans a suite of costs on a family's tiny configuration, and holds it against its backbone."""

    def make(family, *shapes, methods=("full", "lora"), **more):
        model_type, fields = CONFIGS[family]
        path = tmp_path / f"{family}.json"
        path.write_text(json.dumps({"model_type": model_type, **fields}))
        suite = parse_suite(
            {
                "name": "mine", "question": "q", "backbone": {"name": str(path), "weights": "random"},
                "cost": [SHAPE | shape for shape in shapes], "method": [{"name": name} for name in methods], **more,
            }, "mine.toml",
        )  # fmt: skip
        plan = make_plan(suite, "mine.toml", "cpu")
        check_fit(plan)
        return plan

    return make


@pytest.mark.parametrize("family", ["bart", "t5_whole", "llama"])
def test_a_suite_of_a_whole_language_model_is_planned_on_the_whole(planned, family):
    sweep = {"name": "s", "vary": "length", "values": [8, 16], "batch": 2}
    plan = planned(family, {}, sweep=[sweep])
    assert [probe.objective for probe in plan.probes] == ["text"]
    alone = planned(family, sweep=[sweep])
    whole = backbone.describe(plan.probes[0].backbone, "text").parameters
    assert plan.suite.backbone["parameters"] == alone.suite.backbone["parameters"] == whole


@pytest.mark.parametrize("shape", [{"loss": "full"}, {"objective": "text"}])
def test_what_a_shape_leaves_to_the_backbone_is_the_same_shape_where_it_is_spelled(planned, shape):
    with pytest.raises(BenchError, match=r"cost\[1\] repeats the shape of an earlier"):
        planned("llama", {}, shape)
    with pytest.raises(BenchError, match=r"cost\[1\] repeats the shape of an earlier"):
        planned("bert", {}, {"objective": "classes"})


def test_the_names_of_probes_tell_shapes_apart(planned):
    shapes = [{}, {"loss": "chunked"}, {"target_tokens": 4}, {"objective": "classes"}, {"objective": "score"},
              {"dtype": "bfloat16"}, {"checkpointing": True}, {"timed": True, "threads": 1}]  # fmt: skip
    names = [probe.name for probe in planned("llama", *shapes).probes]
    assert len({*names}) == len(shapes), names


@pytest.mark.parametrize("shape", [{"loss": "chunked"}, {"objective": "classes"}])
def test_a_budget_of_memory_is_of_the_shapes_own_objective(planned, shape):
    match = {"peak_memory_bytes": 500_000}
    plan = planned("llama", shape, match=match, methods=("lora",), baseline="lora")
    probe = plan.probes[0]
    setting = Setting(**probe.step(), device="cpu", outputs=probe.outputs)
    from bench import registry

    method, config = registry.make("lora", probe.methods[0].config)
    (outcome,) = [one.match for one in plan.suite.method.values()]
    assert outcome["reached"] == peak_of(probe.backbone, method, config, setting).step


@pytest.mark.parametrize(
    ("field", "value"), [("loss", "target"), ("objective", "classes"), ("objective", "score")]
)  # fmt: skip
def test_a_claim_about_an_objective_that_no_shape_has_on_its_backbone_is_refused(planned, field, value):
    claim = {"name": "c", "says": "s", "metric": "trainable_parameters.method", "method": "lora", "value": {"max": 1},
             field: value}  # fmt: skip
    with pytest.raises(BenchError, match=rf"no \[\[cost\]\] has {field} = '{value}'"):
        planned("llama", {}, claim=[claim])


def test_every_shape_of_a_resolved_suite_is_asked_for_by_its_own_table(planned):
    from bench.schema.record import Shape

    plan = planned("llama", {}, {"target_tokens": 4}, {"loss": "chunked"}, {"objective": "classes"})
    for table, probe in zip(plan.suite.cost, plan.probes, strict=True):
        assert plan.suite.asked_of(Shape(**probe.step(), device="cpu", threads=2)) is table


@pytest.mark.parametrize("table", ["cost", "sweep"])
def test_a_decoder_beside_an_encoder_has_positions_for_its_own_rows(planned, table):
    sweep = {"name": "s", "vary": "batch", "values": [1, 2], "length": 16, "target_tokens": 65}
    with pytest.raises(BenchError, match="target_tokens = 65 is above 64, the positions of the decoder"):
        planned(
            "bart",
            *([{"target_tokens": 65}] if table == "cost" else []),
            **({} if table == "cost" else {"sweep": [sweep]}),
        )

"""Suites that put counted figures beside a paper's table plan what the table asks."""

import pytest

from bench.count.predict import check_fit
from bench.plan.load import load_suite
from bench.plan.planner import make_plan

SHAPE_ON_T5 = """
question = "q"
backbone = { name = "t5-base", weights = "random" }
cost = [{ batch = 2, length = 8, timed = false }]
method = [{ name = "full" }]
"""


def planned(name):
    return make_plan(load_suite(name), name, "cpu")


def test_lora_latency_infers_at_the_papers_sizes_and_trains_as_much():
    plan = planned("paper-lora-latency")
    assert [(p.batch, p.latency_length) for p in plan.probes if not p.timed] == [(32, 512), (16, 256)]
    assert [(p.latency_batches, p.latency_length) for p in plan.probes if p.timed] == [((1,), 128)]
    assert {probe.objective for probe in plan.probes} == {"text"}
    assert [probe.timed for probe in plan.probes] == [False, False, True]


def test_adapterdrop_leaves_the_first_five_layers_out():
    labels = [method.label for method in planned("paper-adapterdrop").probes[0].methods]
    assert sum("layers=[5, 6, 7, 8, 9, 10, 11]" in label for label in labels) == 2


def test_lst_counts_a_whole_t5_under_text():
    plan = planned("paper-lst")
    (sweep,) = plan.sweeps
    assert (sweep.backbone.name, sweep.objective, sweep.values[-1], sweep.length) == ("t5-base", "text", 100, 128)
    assert plan.suite.backbone["parameters"] == 222_903_552


def test_ladder_counts_4_bit_decoders_under_each_form_of_the_loss():
    sweeps = planned("paper-ladder").sweeps
    assert {sweep.weights for sweep in sweeps} == {"nf4"}
    for name in ("llama-2-7b", "qwen2.5-7b"):
        assert {sweep.loss for sweep in sweeps if sweep.backbone.name == name} == {"full", "target", "chunked"}


def test_a_cost_shape_stands_on_a_whole_encoder_decoder(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SHAPE_ON_T5)
    check_fit(make_plan(load_suite(str(path)), "mine.toml", "cpu"))


@pytest.mark.parametrize("name", ["paper-lora-latency", "paper-adapterdrop"])
def test_its_methods_fit_its_backbone(name):
    check_fit(planned(name))

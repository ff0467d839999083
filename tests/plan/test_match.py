"""A budget chooses the largest size that does not exceed it; all else of a suite follows the method to its label."""

import functools
import json
import tomllib

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import registry
from bench.ab.experiment import probe_of
from bench.analysis.results import Results
from bench.analysis.tuning import Outcome, Point
from bench.count.count import peak_of
from bench.errors import BenchError
from bench.method import Method, MethodConfig
from bench.models import backbone
from bench.plan.budget import matched
from bench.plan.load import as_spelled, parse_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select
from bench.report.sections import overview as facts
from bench.schema.resolved import match_lines
from bench.schema.shape import Setting
from bench.schema.suite import MatchTable
from bench.store.store import Run, open_store, read_suite
from methods import BUILTIN
from tests.factories.command import bench

LAYERS, WIDTH = 2, 64
POSITIONS = 128
"""Of the shape ``tiny``, as its width and layers."""
SHAPE = {"batch": 2, "length": 16, "latency_length": 16, "timed": False}
SIZED = [name for name in BUILTIN if registry.load_method(name).size]


def suite(*methods, match=None, **more):
    """A suite of these methods, as (name, config) or name, counted on ``tiny``."""
    pairs = [(one, {}) if isinstance(one, str) else one for one in methods]
    values = {
        "name": "mine", "question": "q", "backbone": {"name": "tiny", "weights": "random"}, "cost": [SHAPE],
        "baseline": pairs[0][0], "method": [{"name": name, "config": config} for name, config in pairs],
    }  # fmt: skip
    return parse_suite(values | ({"match": match} if match else {}) | more, "mine.toml")


def planned(*methods, **more):
    return make_plan(suite(*methods, **more), "mine.toml", "cpu")


def labels(*methods, **more):
    return planned(*methods, **more).suite.methods


def chosen(name, budget):
    """Field, value and count that a budget of trainable parameters gives one method."""
    (outcome,) = matched(
        suite(name, match={"trainable_parameters": budget}), backbone.shape_of("tiny"), "cpu", "mine.toml"
    )[1].values()
    return outcome["field"], outcome["value"], outcome["reached"]


@functools.cache
def trained(name, field, value):
    method, config = registry.make(name, {field: value})
    module = method.apply(backbone.load(backbone.shape_of("tiny"), device="meta"), config)
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# The size that is chosen


@pytest.mark.parametrize(
    ("name", "field", "fixed", "each"),
    [
        ("lora", "rank", 0, LAYERS * 2 * 2 * WIDTH),
        ("houlsby_adapter", "bottleneck", LAYERS * 2 * WIDTH, LAYERS * 2 * (2 * WIDTH + 1)),
        ("pfeiffer_adapter", "bottleneck", LAYERS * WIDTH, LAYERS * (2 * WIDTH + 1)),
        ("prefix_tuning", "length", 0, LAYERS * 2 * WIDTH),
        ("prompt_tuning", "length", 0, WIDTH),
    ],
)
@settings(max_examples=8)
@given(budget=st.integers(1_000, 3_000))
def test_the_chosen_size_is_that_of_the_closed_form(name, field, fixed, each, budget):
    size = (budget - fixed) // each
    assert chosen(name, budget) == (field, size, fixed + size * each)


@pytest.mark.parametrize("name", SIZED)
@settings(max_examples=3)
@given(budget=st.integers(60_000, 90_000))
def test_no_other_size_comes_nearer_to_the_budget(name, budget):
    field, value, reached = chosen(name, budget)
    assert reached == trained(name, field, value) <= budget
    method, config = registry.make(name, {})
    sizes = method.sizes(backbone.load(backbone.shape_of("tiny"), device="meta"), config)
    after = sizes.index(value) + 1
    if after < len(sizes):
        try:
            larger = trained(name, field, sizes[after])
        except BenchError:  # the upper end: no larger size can be built
            return
        taken = method.reserved_positions(registry.make(name, {field: sizes[after]})[1])
        assert larger > budget or taken + SHAPE["length"] > POSITIONS


def test_a_size_at_which_less_trains_falls():
    chosen = [labels("lst", match={"trainable_parameters": budget})[0] for budget in (8_000, 16_000, 10**6)]
    reductions = [registry.parse_spec(label)[1]["reduction"] for label in chosen]
    assert reductions == sorted(reductions, reverse=True)
    assert reductions[0] > reductions[-1] == 1


def test_a_size_ends_where_the_method_refuses_a_larger_one():
    assert labels("lora", match={"trainable_parameters": 10**9}) == [f"lora(rank={WIDTH})"]


def test_a_prompt_leaves_the_positions_that_the_suite_s_longest_rows_need():
    long = SHAPE | {"length": POSITIONS - 40}
    assert labels("prompt_tuning", match={"trainable_parameters": 10**9}, cost=[SHAPE, long]) == [
        "prompt_tuning(length=40)"
    ]


def test_a_budget_of_memory_is_that_of_the_first_cost_shape():
    def peak(rank):
        setting = Setting(batch=SHAPE["batch"], length=SHAPE["length"])
        return peak_of(backbone.shape_of("tiny"), *registry.make("lora", {"rank": rank}), setting).step

    budget = (peak(20) + peak(21)) // 2
    larger = SHAPE | {"batch": 8}
    plan = planned("lora", match={"peak_memory_bytes": budget}, cost=[SHAPE, larger])
    assert plan.suite.methods == ["lora(rank=20)"]
    assert plan.suite.method["lora(rank=20)"].match["reached"] == peak(20)


@pytest.mark.parametrize(("asked", "adapters"), [({}, "float32"), ({"adapter_dtype": "model"}, "model")])
def test_a_budget_of_memory_counts_adapters_in_the_type_of_the_shape(asked, adapters):
    def peak(rank):
        setting = Setting(batch=2, length=16, dtype="bfloat16", adapter_dtype=adapters)
        return peak_of(backbone.shape_of("tiny"), *registry.make("lora", {"rank": rank}), setting).step

    plan = planned("lora", match={"peak_memory_bytes": peak(20)}, cost=[SHAPE | {"dtype": "bfloat16"} | asked])
    assert plan.suite.method["lora(rank=20)"].match["reached"] == peak(20)


def test_without_a_gpu_the_batch_for_cpu_counts():
    budget = {"peak_memory_bytes": 3_000_000}
    assert labels("lora", match=budget, cost=[SHAPE | {"batch": 64, "batch_on_cpu": 2}]) == labels("lora", match=budget)


# What stays as it is


def test_a_size_that_the_suite_gives_stays_and_other_fields_do_not_fix_it():
    given_size, other = labels(
        ("lora", {"rank": 3}), ("lora", {"alpha": 32}), match={"trainable_parameters": 4_096}, baseline="lora(rank=3)"
    )
    assert given_size == "lora(rank=3)"
    assert other == f"lora(alpha=32, rank={4_096 // (LAYERS * 4 * WIDTH)})"


def test_every_method_says_why_it_is_not_matched_or_how_near_it_came():
    plan = planned("full", "lora", ("lora", {"rank": 2}), match={"trainable_parameters": 4_200})
    assert list(match_lines(plan.suite)) == [
        "full · not matched: no field of its configuration sets its size",
        "lora(rank=8) · 4,096 of 4,200 trainable parameters, 97.5 %",
        "lora(rank=2) · not matched: the suite gives its rank",
    ]
    assert list(match_lines(planned("full").suite)) == []


def test_a_suite_without_a_budget_is_planned_as_before():
    plan = planned("full", "lora")
    assert plan.suite.methods == ["full", "lora"]
    assert plan.suite.match is None and not plan.suite.method["lora"].match


def test_versions_of_the_code_are_timed_at_the_suite_s_own_sizes():
    probe, _ = probe_of(suite("full", "lora", match={"trainable_parameters": 4_096}), None, "cpu")
    assert [method.label for method in probe.methods] == ["full", "lora"]


# References, labels and the stored suite


CLAIM = {"name": "c", "says": "s", "metric": "flops.backward", "method": ["lora", "bitfit"], "versus": "head",
         "ratio": {"max": 1.0}}  # fmt: skip
SWEEP = {"vary": "batch", "values": [1, 2], "length": 8, "methods": ["lora", "full"]}


def test_claims_sweeps_crossovers_and_the_baseline_follow_a_method_to_its_label():
    plan = planned(
        "lora", "full", "bitfit", "head", match={"trainable_parameters": 2_048}, claim=[CLAIM, CLAIM | {
            "name": "d", "method": "bitfit", "versus": "lora"}], sweep=[SWEEP],
        crossover=[{"sweep": "batch", "method": "full", "than": "lora"}],
    )  # fmt: skip
    asked = plan.suite.plain()
    assert asked["baseline"] == plan.probes[0].baseline == "lora(rank=4)"
    assert [(c["method"], c["versus"]) for c in asked["claims"]] == [
        (["lora(rank=4)", "bitfit"], "head"), (["bitfit"], "lora(rank=4)"),
    ]  # fmt: skip
    assert (
        [method.label for method in plan.sweeps[0].methods] == asked["sweep"][0]["methods"] == ["lora(rank=4)", "full"]
    )
    assert asked["crossover"][0]["than"] == "lora(rank=4)"


def test_the_command_line_names_methods_as_the_suite_does():
    asked = suite("full", "lora", "bitfit", match={"trainable_parameters": 2_048})
    narrowed = select(asked, Selection(methods=("lora", "lora(rank=3)")))
    assert make_plan(narrowed, "s", "cpu").suite.methods == ["full", "lora(rank=4)", "lora(rank=3)"]


def test_two_methods_that_come_to_the_same_size_are_refused():
    with pytest.raises(BenchError, match=r"method lora\(rank=4\) is listed twice"):
        planned("lora", ("lora", {"rank": 4}), match={"trainable_parameters": 2_048})


def test_the_same_suite_gives_the_same_plan_and_another_budget_another_one():
    asked = [planned("full", "lora", "lst", match={"trainable_parameters": n}) for n in (20_000, 20_000, 40_000)]
    assert asked[0] == asked[1]
    assert asked[0].name != asked[2].name


def test_the_resolved_suite_keeps_the_budget_and_readers_name_it(tmp_path):
    plan = planned("full", "lora", match={"trainable_parameters": 4_200})
    assert tomllib.loads(tomli_w.dumps(plan.suite.plain())) == plan.suite.plain()
    with open_store(tmp_path, plan.suite):
        pass
    stored = read_suite(tmp_path)
    assert stored.match == MatchTable(trainable_parameters=4_200)
    assert stored.method["lora(rank=8)"].match == {
        "spelled": "lora", "field": "rank", "value": 8, "reached": 4_096
    }  # fmt: skip
    assert "matched at 4,200 trainable parameters" in facts.header(Results(Run(tmp_path, stored, ())))


def test_a_search_for_rates_is_made_at_the_chosen_sizes_and_written_under_the_suite_s_labels():
    more = {
        "tasks": ["sst2"], "seeds": [0], "data": "synthetic", "recipe": {"steps": 1, "train_rows": 64, "test_rows": 8},
        "tuning": {"learning_rates": [1e-3], "head_learning_rates": [1e-3], "seeds": [1], "selection_rows": 8},
    }  # fmt: skip
    asked = suite("full", "lora", match={"peak_memory_bytes": 3_000_000}, **more)
    search, run = plan_search(asked, "mine.toml", "cpu"), make_plan(asked, "mine.toml", "cpu")
    assert not search.probes
    assert search.suite.methods == run.suite.methods
    found = [Outcome(label, "sst2", 1, (Point(1e-3, 1e-3, 0.5, 0),), 0, 0) for label in search.suite.methods]
    assert [outcome.method for outcome in as_spelled(found, search.suite)] == ["full", "lora"]


def test_plan_prints_what_was_chosen(tmp_path):
    given = suite("full", "lora", match={"trainable_parameters": 4_200})
    values = json.loads(given.model_dump_json(exclude_unset=True, exclude_none=True))
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(values))
    assert "match  lora(rank=8) · 4,096 of 4,200 trainable parameters, 97.5 %" in bench("plan", "--suite", path).stdout


# Mistakes


def test_a_budget_below_the_smallest_size_is_refused_with_both_counts():
    with pytest.raises(BenchError) as caught:
        planned("full", "lora", match={"trainable_parameters": 100})
    assert str(caught.value) == (
        "mine.toml: method[1]: lora has 512 trainable parameters at its smallest, rank = 1, but match allows 100; "
        "raise the budget, or give rank in its config to leave it as it is"
    )


def test_a_method_that_the_backbone_cannot_carry_is_refused_with_its_own_reason():
    with pytest.raises(BenchError, match=r"method\[0\]: lora\(targets=\['ffn_gate'\]\): .*ffn_gate"):
        planned(
            ("lora", {"targets": ["ffn_gate"]}), match={"trainable_parameters": 5_000},
            baseline="lora(targets=['ffn_gate'])",
        )  # fmt: skip


class Broken(Method):
    """A third party's method that fails where there are no values."""

    Config = MethodConfig
    size = "width"

    def sizes(self, backbone, config):
        raise RuntimeError("no values")

    def apply(self, backbone, config):
        return backbone


def test_a_third_party_s_method_that_cannot_be_counted_is_named(monkeypatch):
    monkeypatch.setitem(BUILTIN, "broken", f"{__name__}:Broken")
    with pytest.raises(
        BenchError,
        match=r"broken cannot be counted: sizes\(\) of the method raises RuntimeError: no values, .*; give width",
    ):
        planned("broken", match={"trainable_parameters": 5_000})


@pytest.mark.parametrize(
    ("match", "more", "sentence"),
    [
        ({"parameters": 5}, {}, r"match: unknown key 'parameters'.*trainable_parameters"),
        ({"trainable_parameters": 0}, {}, r"match\.trainable_parameters"),
        ({"trainable_parameters": 5, "peak_memory_bytes": 5}, {}, "exactly one of"),
        ({"trainable_parameters": 1.5}, {}, r"match\.trainable_parameters"),
        ({"peak_memory_bytes": 5}, {"cost": [], "sweep": [SWEEP]}, r"first \[\[cost\]\] shape"),
    ],
)
def test_a_wrong_budget_is_refused_with_its_place(match, more, sentence):
    with pytest.raises(BenchError, match=sentence):
        suite("full", "lora", match=match, **more)


@pytest.mark.parametrize("name", SIZED)
def test_a_size_is_a_whole_number_field_whose_values_grow_what_trains(name):
    method, config = registry.make(name, {})
    assert type(getattr(config, method.size)) is int
    sizes = method.sizes(backbone.load(backbone.shape_of("tiny"), device="meta"), config)
    assert trained(name, method.size, sizes[0]) < trained(name, method.size, sizes[1])

"""A deep step follows from three shallow ones, field by field, or is counted whole."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import registry
from bench.count import count as whole
from bench.count import depth
from bench.count.count import Adapted
from bench.count.fake import without_data
from bench.count.ledger import count_and_follow, count_step
from bench.count.memory import Event, follow_step, rounded
from bench.count.pattern import Item, Pattern, Uneven
from bench.count.predict import setting_for
from bench.errors import BenchError
from bench.models import backbone
from bench.schema.shape import StepShape
from methods import BUILTIN

QUICK = [
    ("bert-base", 8, "full", {"optimizer": "adamw_foreach"}),
    ("llama-3.2-3b", 8, "lora", {"dtype": "bfloat16", "loss": "chunked"}),
    ("bert-base", 8, "adalora", {"optimizer": "adamw_loop", "checkpointing": True}),
    ("gpt2", 8, "prefix_tuning", {"clipping": True, "optimizer": "adamw_8bit"}),
    ("llama-3.2-3b", 8, "lst", {}),
    ("qwen3-0.6b", 8, "dora", {"dtype": "bfloat16_autocast"}),
]
FORMS = [
    {},
    {"optimizer": "adamw_foreach", "dtype": "bfloat16_autocast"},
    {"optimizer": "adamw_loop", "checkpointing": True},
    {"optimizer": "sgd", "dropout": 0.1, "clipping": True},
    {"optimizer": "adamw_8bit", "dtype": "bfloat16", "objective": "classes"},
]
SHAPES = {"bert-base": 10, "gpt2": 10, "llama-3.2-3b": 10, "gemma-3-1b": 50, "gemma-2-2b": 26, "qwen3-0.6b": 10,
          "t5-base-encoder": 10}  # fmt: skip


def case(name, layers, method, form):
    spec = dataclasses.replace(backbone.shape_of(name), layers=layers)
    setting = setting_for(name, StepShape(batch=2, length=32, **form), weights="native", device="cuda")
    setting = setting.model_copy(update={"attention": backbone.attention_of(spec)})
    return spec, *registry.make(*registry.parse_spec(method, "test"), "test"), setting


def differing(found, expected):
    return [f.name for f in dataclasses.fields(expected) if getattr(found, f.name) != getattr(expected, f.name)]


def refuse(*args):
    raise AssertionError("it was counted whole")


# What follows is what is there


@pytest.mark.parametrize(("name", "layers", "method", "form"), QUICK)
def test_figures_of_a_deep_step_follow_from_shallow_ones(name, layers, method, form, monkeypatch):
    given = case(name, layers, method, form)
    expected = whole.count(*given)
    peak = whole.count(*given[:3], given[3].model_copy(update={"batch": 5})).peak
    monkeypatch.setattr(whole, "count", refuse)
    monkeypatch.setattr(whole, "peak_of", refuse)
    found = depth.counting(*given)
    assert differing(found.counts, expected) == []
    assert found.peak(5) == peak


def test_what_a_method_keeps_from_step_to_step_is_there_before_every_step_that_is_followed():
    given = case("bert-base", 2, "adalora", {"optimizer": "adamw_loop"})
    assert whole.peak_of(*given) == whole.count(*given).peak


def test_a_hundred_layers_cost_no_more_operations_than_ten(monkeypatch):
    passes = []
    both = whole.passes
    monkeypatch.setattr(whole, "passes", lambda step, *of: passes.append(step.origin.depth) or both(step, *of))
    for layers in (10, 100):
        depth.count(*case("llama-3.2-3b", layers, "lora", {}))
    assert passes == 2 * [1, 2, 3]


def test_another_batch_follows_from_the_middle_depth_alone(monkeypatch):
    passes = []
    follow = depth.follow_step
    found = depth.counting(*case("llama-3.2-3b", 10, "lora", {}))
    monkeypatch.setattr(depth, "follow_step", lambda step: passes.append(step.origin.depth) or follow(step))
    found.peak(7)
    assert passes == [2]


def test_a_batch_whose_course_is_another_is_followed_at_every_depth(monkeypatch):
    passes = []
    follow = depth.follow_step
    given = case("llama-3.2-3b", 10, "lora", {})
    found = depth.counting(*given)

    monkeypatch.setattr(depth, "follow_step", lambda step: passes.append(step.origin.depth) or follow(step))
    monkeypatch.setattr(depth, "_alike", lambda *of: False)
    expected = whole.peak_of(*given[:3], given[3].model_copy(update={"batch": 7}))
    assert found.peak(7) == expected
    assert passes == [2, 1, 3]


def test_sizes_that_coincide_at_one_batch_alone_are_no_pair():
    def events(*pairs):
        return [Event(func, size, "like") for func, size in pairs]

    known = events(("mm", 8), ("mm", 8), (None, -8))
    assert depth._alike(known, events(("mm", 9), ("mm", 9), (None, -9)))
    assert not depth._alike(known, events(("mm", 8), ("mm", 9), (None, -8)))
    assert not depth._alike(known, events(("add", 8), ("add", 8), (None, -8)))
    assert not depth._alike(known, known[:2])


@pytest.mark.parametrize("method", ["lst(layers=[0, 7])", "lst(layers=[2, 5, 9])"])
def test_layers_that_are_named_are_counted_where_they_are(method):
    given = case("bert-base", 10, method, {})
    assert differing(depth.count(*given), whole.count(*given)) == []


def test_windows_of_attention_are_found(monkeypatch):
    spec, *_, setting = case("gemma-2-2b", 26, "lora", {})
    assert depth._ladder(spec, setting) == (2, 2, 26)
    spec, *_, setting = case("gemma-3-1b", 50, "lora", {})
    assert depth._ladder(spec, setting) == (2, 6, 50)


# Counts and course of one pass


@pytest.mark.parametrize(
    ("name", "method", "form"),
    [
        ("llama-3.2-3b", "adalora", {"dtype": "bfloat16"}),
        ("gpt2", "lora", {"checkpointing": True, "dtype": "bfloat16_autocast"}),
        ("t5-base-encoder", "dora", {"optimizer": "adamw_8bit"}),
    ],
)
def test_one_pass_shows_what_two_show(name, method, form):
    given = case(name, 2, method, form)

    adapted, again = Adapted(*given), Adapted(*given)
    with without_data("cuda"):
        step = adapted.step()
        counts = count_step(step.model, step.origin, step.forward, step.backward, step.optimize)
        assert count_and_follow(again.step()) == (counts, follow_step(step))


@pytest.mark.slow
@pytest.mark.parametrize("method", BUILTIN)
@pytest.mark.parametrize("name", SHAPES)
def test_every_method_on_every_kind_of_backbone(name, method):
    """Each with one of the forms, dealt out so that every method and every shape meets all of them."""
    form = FORMS[([*SHAPES].index(name) + [*BUILTIN].index(method)) % len(FORMS)]
    if backbone.usual_objective(backbone.shape_of(name)) != "text":
        form = {k: v for k, v in form.items() if k != "objective"}
    given = case(name, SHAPES[name], method, form)
    try:
        expected = whole.count(*given)
    except BenchError:
        with pytest.raises(BenchError):
            depth.count(*given)
        return
    found = depth.counting(*given)
    assert differing(found.counts, expected) == []
    assert found.peak(3) == whole.count(*given[:3], given[3].model_copy(update={"batch": 3})).peak


# Lists


runs = st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=6)


def listed(parts, periods, marked):
    """Head, a layer ``periods`` times, middle, another ``periods`` times, tail; ``marked``: all its own."""
    times = (1, periods, 1, periods, 1)
    sizes = [
        (part if marked else 0, size)
        for part, (own, n) in enumerate(zip(parts, times, strict=True))
        for size in n * own
    ]
    return [Item(key, (size,)) for key, size in sizes]


@settings(max_examples=100, deadline=None)
@given(st.tuples(runs, runs, runs, runs, runs), st.integers(1, 4), st.integers(1, 30), st.booleans())
def test_a_list_of_any_depth_follows_with_its_largest_sum(parts, first, times, marked):
    try:
        pattern = Pattern([listed(parts, first + more, marked) for more in range(3)])
    except Uneven:
        assert not marked  # parts that look alike may leave nothing to follow, and never something else
        return
    expected = listed(parts, first + times, marked)
    assert [item.sizes for item in pattern.at(times)] == [item.sizes for item in expected]
    sums = list(itertools.accumulate((item.sizes[0] for item in expected), initial=100))
    assert pattern.sums(times, 100) == (max(sums), sums[-1])


def test_what_grows_with_the_depth_is_followed_along_a_line():
    lists = [[Item("stack", (10 * depth,)), *(Item("layer", (7,), (i,)) for i in range(depth))] for depth in (2, 3, 4)]
    assert Pattern(lists).at(5) == [Item("stack", (70,)), *(Item("layer", (7,), (i,)) for i in range(7))]


def test_sums_follow_other_sizes_of_the_second_list_alone():
    """A stack of all layers, a size that all depths have, and a layer's two."""
    lists = [
        [Item("stack", (10 * n,)), Item("rows", (4,)), *n * [Item("in", (7,)), Item("out", (-5,))]] for n in (1, 2, 3)
    ]
    pattern = Pattern(lists)
    assert pattern.sums(3, 100) == (100 + 40 + 4 + 3 * 2 + 7, 100 + 40 + 4 + 4 * 2)
    wider = [20, 6, 9, -5, 9, -5]
    assert pattern.sums(3, 100, second=wider) == (100 + 40 + 6 + 3 * 4 + 9, 100 + 40 + 6 + 4 * 4)
    with pytest.raises(Uneven):
        pattern.sums(3, 100, second=[21, *wider[1:]])


def test_what_is_rounded_up_is_rounded_at_its_own_depth():
    lists = [[Item("stack", (200 * n,))] for n in (1, 2, 3)]
    assert Pattern(lists).sums(9, 0, rounded) == (2048, 2048)
    assert [rounded(size) for size in (0, 1, 512, 513, -1, -513)] == [0, 512, 512, 1024, -512, -1024]


@pytest.mark.parametrize("sizes", [(1, 2, 4), (1, 1, 2), (5, 3, 5)])
def test_what_leaves_the_line_is_uneven(sizes):
    with pytest.raises(Uneven):
        Pattern([[Item("all", (size,))] for size in sizes]).at(4)


def test_a_third_depth_that_differs_is_uneven():
    lists = [[Item("a"), *n * [Item("b")], *more] for n, more in ((1, []), (2, []), (3, [Item("c")]))]
    with pytest.raises(Uneven):
        Pattern(lists)

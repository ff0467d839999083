"""Timing: interleaved in random order, paired with the baseline, quiet about nothing that went wrong."""

import gc
import math
import random
import weakref
from collections.abc import Mapping

import pytest
import torch

from bench.method import Method
from bench.schema.claims import LOOKS, Bounds
from bench.timing.clock import PHASES, REPEATS, Seen, StepClock
from bench.timing.interleave import (
    Arm,
    Asked,
    Builds,
    Round,
    Samples,
    control,
    decided,
    groups,
    interleave,
    renew,
    timing,
)
from bench.training.loop import NonFiniteLoss
from tests.factories.cost_steps import training_step
from tests.factories.methods import sized


def constant(key: str, seconds: float, log: list[str]) -> Arm:
    def run() -> Round:
        log.append(key)
        return {"work": (seconds, seconds / 2)}

    return Arm(key, run)


def samples(*blocks: list[float]) -> Samples:
    made = Samples()
    for number, block in enumerate(blocks):
        for seconds in block:
            made.add(number, {"work": (seconds, seconds)})
    return made


def test_every_arm_runs_once_a_round_in_an_order_that_changes() -> None:
    log: list[str] = []
    arms = [constant(key, 1.0, log) for key in "abcd"]
    taken, failures = interleave(arms, blocks=3, rounds=4)
    assert not failures
    warm_up, *rounds = [log[i : i + 4] for i in range(0, len(log), 4)]
    assert warm_up == list("abcd")
    assert len(rounds) == 12
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 3
    assert [len(block) for block in taken["a"].wall["work"]] == [4, 4, 4]


def test_the_order_follows_the_seed() -> None:
    logs: list[list[str]] = [[], [], []]
    for log, seed in zip(logs, (0, 0, 1), strict=True):
        interleave([constant(key, 1.0, log) for key in "abcdef"], blocks=2, rounds=2, seed=seed)
    assert logs[0] == logs[1] != logs[2]


def test_an_arm_that_raises_leaves_and_the_others_go_on() -> None:
    log: list[str] = []

    def run() -> Round:
        if len(log) > 3:
            raise MemoryError("full")
        return {"work": (1.0, 1.0)}

    taken, failures = interleave([constant("good", 1.0, log), Arm("bad", run)], blocks=3, rounds=2)
    assert list(taken) == ["good"]
    assert isinstance(failures["bad"], MemoryError)
    assert [len(block) for block in taken["good"].wall["work"]] == [2, 2, 2]


def test_no_garbage_is_collected_while_the_clock_runs() -> None:
    states: list[bool] = []

    def run() -> Round:
        states.append(gc.isenabled())
        return {"work": (1.0, 1.0)}

    interleave([Arm("a", run)], blocks=2, rounds=2)
    assert states[1:] == [False] * 4
    assert gc.isenabled()


def test_what_a_block_leaves_behind_is_gone_when_the_next_begins() -> None:
    left: list[weakref.ref[object]] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    def run() -> Round:
        assert all(reference() is None for reference in left)
        left.append(weakref.ref(Cycle()))
        return {"work": (1.0, 1.0)}

    _, failures = interleave([Arm("a", run)], blocks=3, rounds=1)
    assert not failures
    assert len(left) == 1 + 3


def test_a_timing_is_paired_with_the_baseline_of_the_same_round() -> None:
    # The machine is ten times slower in block 2; the ratio does not see it.
    ours, baseline = samples([1.0, 2.0], [10.0, 20.0]), samples([2.0, 4.0], [20.0, 40.0])
    found = timing(ours, baseline, "work")
    assert found.ratio_to_baseline == pytest.approx(0.5)
    assert found.ratio_interval == pytest.approx((0.5, 0.5))
    assert found.median == 6.0
    assert found.samples == ((1.0, 2.0), (10.0, 20.0))


def test_the_control_of_two_equal_arms_is_one() -> None:
    same = samples([1.0], [2.0], [3.0])
    assert control(same, same, "work").ratio == 1.0


def test_arms_that_do_not_fit_together_are_split_and_each_group_holds_the_baseline() -> None:
    sizes = {"full": 10, "a": 5, "b": 5, "c": 5}
    assert groups(sizes, "full", room=100) == [["full", "a", "b", "c"]]
    assert groups(sizes, "full", room=30) == [["full", "a", "b"], ["full", "c"]]
    assert groups(sizes, "full", room=0) == [["full", "a"], ["full", "b"], ["full", "c"]]
    assert groups({"full": 10}, "full", room=0) == [["full"]]


def test_a_step_is_the_sum_of_its_phases() -> None:
    clock = StepClock(training_step("lora"), "cpu")
    readings = clock.run()
    assert set(readings) == set(PHASES)
    assert readings["step"][0] == pytest.approx(sum(readings[phase][0] for phase in PHASES[:3]))


def test_timed_steps_leave_the_weights_alone() -> None:
    step = training_step("full")
    before = {name: p.detach().clone() for name, p in step.model.named_parameters()}
    clock = StepClock(step, "cpu")
    for _ in range(3):
        clock.run()
    assert all(torch.equal(before[name], p) for name, p in step.model.named_parameters())
    assert clock.seen.warnings == []
    assert all(p.grad is None for p in step.model.parameters())


def test_a_loss_that_moves_at_rate_zero_is_reported() -> None:
    step = training_step("head")
    clock = StepClock(step, "cpu")
    clock.run()
    with torch.no_grad():
        step.model.head.linear.weight.add_(1.0)
    clock.run()
    assert "the method's work varies" in clock.seen.warnings[0]


def test_a_loss_that_is_not_finite_ends_the_arm() -> None:
    step = training_step("head")
    with torch.no_grad():
        step.model.head.linear.weight.fill_(math.nan)
    with pytest.raises(NonFiniteLoss):
        StepClock(step, "cpu").run()


def test_the_methods_own_work_counts_as_optimizer_time(monkeypatch: pytest.MonkeyPatch) -> None:
    step = training_step("lora")
    calls: list[int] = []

    def after_step(self: Method, module: torch.nn.Module, number: int, total: int) -> None:
        calls.append(number)

    monkeypatch.setattr(type(step.method), "after_step", after_step)
    clock = StepClock(step, "cpu")
    clock.run()
    once = len(calls)
    clock.run()
    assert once == 6  # one in the phase, the shortest of five to see how often a sample has to repeat it
    assert len(calls) - once > 1


def test_a_method_that_deals_out_ranks_does_so_in_the_measured_step() -> None:
    step = training_step("adalora", **sized("adalora"))
    StepClock(step, "cpu").run()
    values = torch.cat([p.flatten() for name, p in step.model.body.named_parameters() if ".L" in name])
    assert 0 < int(values.count_nonzero()) < len(values)


@pytest.mark.parametrize(
    ("extra_seconds", "blocks"),
    [(0.0, 4), (19.9, 4), (20.0, 5), (45.0, 6), (80.0, 8), (1000.0, 12)],
)
def test_extra_blocks_end_when_their_time_is_up_and_the_asked_ones_never(extra_seconds: float, blocks: int) -> None:
    seconds = [0.0]

    def run() -> Round:
        seconds[0] += 10.0
        return {"work": (10.0, 10.0)}

    taken, _ = interleave(
        [Arm("a", run)], blocks=4, rounds=2, enough=lambda found: False, extra_seconds=extra_seconds,
        now=lambda: seconds[0],
    )  # fmt: skip
    assert [len(block) for block in taken["a"].wall["work"]] == [2] * blocks


def test_a_machine_that_slows_down_costs_extra_blocks_one_slow_block_and_no_more() -> None:
    seconds, runs = [0.0], [0]

    def run() -> Round:
        runs[0] += 1
        seconds[0] += 1.0 if runs[0] <= 6 else 100.0
        return {"work": (1.0, 1.0)}

    taken, _ = interleave(
        [Arm("a", run)], blocks=4, rounds=1, enough=lambda found: False, extra_seconds=30.0, now=lambda: seconds[0]
    )
    assert runs[0] == 1 + 6  # one to warm up, four asked for, one extra at 1 s, one that turned out slow
    assert len(taken["a"].wall["work"]) == 6


def test_measured_time_bounds_the_extra_blocks_of_a_real_clock() -> None:
    taken, _ = interleave([constant("a", 1.0, [])], blocks=4, rounds=2, enough=lambda found: False, extra_seconds=0.0)
    assert len(taken["a"].wall["work"]) == 4


def test_what_arms_run_is_built_anew_before_every_block_but_the_first_and_warmed_up() -> None:
    log: list[str] = []
    taken, failures = interleave([constant("a", 1.0, log)], blocks=3, rounds=2, renew=lambda: log.append("new"))
    assert log == ["a", "a", "a", "new", "a", "a", "a", "new", "a", "a", "a"]
    assert [len(block) for block in taken["a"].wall["work"]] == [2, 2, 2] and not failures


def test_builds_hold_nothing_old_beside_the_new_and_tell_whoever_asks_what_went_wrong() -> None:
    class Heavy:
        def __init__(self) -> None:
            self.itself = self  # a cycle, as modules have them

    made, held = [], list[weakref.ref[Heavy]]()

    def make(key: str) -> Heavy:
        made.append(key)
        if key == "bad" and len(made) > 3:
            raise MemoryError("no room")
        held.append(weakref.ref(heavy := Heavy()))
        return heavy

    builds, order = Builds(["a", "bad", "c"], make), random.Random(0)
    first = len(held)
    assert [builds.get(key) for key in ("a", "bad", "c")] == [ref() for ref in held]
    for round_ in range(1, 5):
        renew([builds], order)
        assert not any(ref() for ref in held[:first])
        assert sorted(made[3 * round_ :]) == ["a", "bad", "c"]
        with pytest.raises(MemoryError, match="no room"):
            builds.get("bad")
        assert builds.get("a") is not builds.get("c")
        first = len(held)
    assert len({tuple(made[at : at + 3]) for at in range(0, 15, 3)}) > 1, "their order is drawn anew"


def test_builds_of_several_kinds_are_made_in_one_mixed_order() -> None:
    made: list[str] = []
    kinds = [Builds([f"{kind}{n}" for n in range(3)], made.append) for kind in "ab"]
    order = random.Random(0)
    for _ in range(20):
        renew(kinds, order)
    renewed = [made[at][0] for at in range(6, len(made), 6)]
    assert set(renewed) == {"a", "b"}, "neither kind is always the first"


def test_a_build_that_fails_does_not_hold_what_it_had_begun() -> None:
    begun = []

    def make(key: str) -> None:
        model = torch.nn.Linear(2, 2)
        begun.append(weakref.ref(model))
        raise MemoryError("no room")

    builds = Builds(["a"], make)
    assert begun[0]() is None
    with pytest.raises(MemoryError, match="no room"):
        builds.get("a")


def test_an_optimizer_that_changes_gradients_takes_one_step_a_sample() -> None:
    step = training_step("lora")
    plain = StepClock(step, "cpu")
    plain.run()
    assert plain.seen.repeats in REPEATS[1:]
    take = step.optimizer.step

    def halving() -> None:
        take()
        for group in step.optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)

    step.optimizer.step = halving
    changing = StepClock(step, "cpu")
    changing.run()
    assert changing.seen.repeats == 1


def test_a_second_build_of_a_step_has_to_meet_the_loss_of_the_first() -> None:
    seen = Seen()
    for noise in (0.0, 0.0, 0.5):
        assert seen.warnings == []
        step = training_step("lora")
        with torch.no_grad():
            step.model.head.linear.bias[0] += noise
        StepClock(step, "cpu", seen).run()
    assert "the method's work varies" in seen.warnings[0]


@pytest.mark.parametrize(("looks", "blocks"), [(1, 4), (2, 8), (3, 12), (99, 12)])
def test_blocks_are_added_until_they_are_enough_or_three_times_as_many(looks: int, blocks: int) -> None:
    asked: list[int] = []

    def enough(found: Mapping[str, Samples]) -> bool:
        asked.append(len(found["a"].wall["work"]))
        return len(asked) >= looks

    taken, _ = interleave([constant("a", 1.0, [])], blocks=4, rounds=2, enough=enough)
    assert [len(block) for block in taken["a"].wall["work"]] == [2] * blocks
    assert asked == [4, 8][: min(looks, LOOKS - 1)]


def noisy(ratio: float, blocks: int = 8, apart: float = 1.0) -> dict[str, Samples]:
    """Arm a against baseline b, and b's second build, ``apart`` from its first."""
    spread = [0.97, 1.03, 0.98, 1.02, 1.0, 0.99, 1.01, 1.0]
    found = {"a": [ratio * spread[i] for i in range(blocks)], "b": [1.0] * blocks, "b again": [apart] * blocks}
    return {key: samples(*([value] for value in values)) for key, values in found.items()}


def is_decided(found: dict[str, Samples], *questions: Asked) -> bool:
    return decided(found, questions, "b again", "b")


@pytest.mark.parametrize(
    ("ratio", "bounds", "expected"),
    [
        (0.5, Bounds(max=0.6), True),
        (0.5, Bounds(max=0.4), True),
        (0.5, Bounds(max=0.502), False),
        (1.0, Bounds(min=0.9, max=1.1), True),
        (1.0, Bounds(min=0.995, max=1.005), False),
    ],
)
def test_a_ratio_is_decided_where_it_lies_clearly_within_or_outside(
    ratio: float, bounds: Bounds, expected: bool
) -> None:
    assert is_decided(noisy(ratio), Asked("work", "a", "b", bounds)) is expected
    assert is_decided(noisy(ratio), Asked("work", "c", "b", bounds))  # what was not measured asks for nothing
    assert is_decided(noisy(ratio))


def test_many_questions_share_the_level() -> None:
    edge = Asked("work", "a", "b", Bounds(max=0.512))
    assert is_decided(noisy(0.5), edge)
    assert not is_decided(noisy(0.5), *[edge] * 50)


@pytest.mark.parametrize(("apart", "expected"), [(1.0, True), (1.05, True), (1.12, False), (0.88, False)])
def test_a_ratio_is_open_while_the_control_could_decide_it(apart: float, expected: bool) -> None:
    assert is_decided(noisy(0.8, apart=apart), Asked("work", "a", "b", Bounds(max=0.95))) is expected


@pytest.mark.parametrize(("apart", "expected"), [(1.0, True), (1.02, True), (1.04, False)])
def test_an_equivalence_is_open_while_the_control_is_not_quiet(apart: float, expected: bool) -> None:
    within = Asked("work", "a", "b", Bounds(min=0.9, max=1.1), equivalence=True)
    assert is_decided(noisy(1.0, apart=apart), within) is expected

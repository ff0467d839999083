"""Times several things in interleaved rounds and reduces samples to timings; it knows neither methods nor memory."""

import contextlib
import gc
import math
import random
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from bench.schema.claims import EXTRA_SECONDS, LOOKS, Bounds
from bench.schema.record import Control, Timing
from bench.stats.intervals import LEVEL, block_bootstrap_ratio, both_ways, is_quiet, log_ratio_blocks, margin

Reading = tuple[float, float]
"""Wall seconds and process CPU seconds."""
Round = dict[str, Reading]
"""One reading a phase."""


@dataclass(frozen=True)
class Arm:
    """One of the things that are timed against each other."""

    key: Hashable
    run: Callable[[], Round]
    """Do the work once and read the clock between its phases; raises where the work came out wrong."""


@dataclass
class Samples:
    """Readings of one arm by phase, ``[block][i]``."""

    wall: dict[str, list[list[float]]] = field(default_factory=dict)
    cpu: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, block: int, readings: Round) -> None:
        """Append one round's readings to block ``block``, which may be new."""
        for phase, (wall, cpu) in readings.items():
            for store, value in ((self.wall, wall), (self.cpu, cpu)):
                blocks = store.setdefault(phase, [])
                blocks.extend([] for _ in range(block + 1 - len(blocks)))
                blocks[block].append(value)


def clock(device: str) -> Reading:
    """Now, once all work given to ``device`` is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def between(start: Reading, end: Reading, share: int = 1) -> Reading:
    """Reading of the time from ``start`` to ``end``, divided by ``share`` repetitions.

    A phase below the clock's resolution counts as one nanosecond, so that ratios stay defined.
    """
    return max(end[0] - start[0], 1e-9) / share, max(end[1] - start[1], 1e-9) / share


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside; collected before, restored after."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def interleave(
    arms: Sequence[Arm],
    *,
    blocks: int,
    rounds: int,
    seed: int = 0,
    on_block: Callable[[int], None] = lambda done: None,
    enough: Callable[[Mapping[Any, "Samples"]], bool] = lambda samples: True,
    extra_seconds: float = EXTRA_SECONDS,
    renew: Callable[[], None] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> tuple[dict[Any, Samples], dict[Any, Exception]]:
    """Time all arms in rounds: in each, every arm runs once, in a random order of its own.

    One run of each arm before the first block, and wherever ``renew`` was called, warms up and is dropped. An arm that
    raises leaves the rounds and its samples are dropped; the others go on.

    Args:
        arms: What to time; keys are unique.
        blocks: Number of blocks, the unit that intervals are made of.
        rounds: Rounds in a block.
        seed: Of the order.
        on_block: Called with the number of finished blocks.
        enough: Asked after ``blocks`` blocks, and again after twice as many, whether the samples decide what they are
            for; ``LOOKS`` times ``blocks`` are taken at most.
        extra_seconds: For all blocks beyond ``blocks``. One that would not fit, if it took as long as the block before
            it, is not begun: these can outlast their time by what the last of them is slower.
        renew: Called before every block but the first, to build anew what the arms run.
        now: Wall seconds; passed by tests.

    Returns:
        Samples by key, and by key the exception of each arm that failed.
    """
    order = random.Random(seed)
    samples: dict[Any, Samples] = {arm.key: Samples() for arm in arms}
    failures: dict[Any, Exception] = {}

    def run(arm: Arm) -> Round | None:
        try:
            return arm.run()
        except Exception as error:  # one arm's failure becomes its record; the other arms are still worth their time
            failures[arm.key] = error
            traceback.clear_frames(error.__traceback__)  # they would hold the activations of the failed step
            return None

    def warm_up() -> None:
        for arm in arms:
            if arm.key not in failures:
                run(arm)

    warm_up()
    with quiet():
        spent = last = 0.0
        for block in range(LOOKS * blocks):
            if block and block % blocks == 0 and enough({k: s for k, s in samples.items() if k not in failures}):
                break
            if block >= blocks and spent + last > extra_seconds:
                break
            begun = now()
            if block and renew is not None:
                renew()
                warm_up()
            for _ in range(rounds):
                for arm in order.sample(list(arms), len(arms)):
                    if arm.key not in failures and (readings := run(arm)) is not None:
                        samples[arm.key].add(block, readings)
            on_block(block + 1)
            gc.collect(1)  # what the block left behind is young; all else would be gone through for nothing
            last = now() - begun
            spent += last if block >= blocks else 0.0
    return {key: s for key, s in samples.items() if key not in failures}, failures


@dataclass(frozen=True)
class Asked:
    """A ratio that a claim is about."""

    phase: str
    key: Hashable
    versus: Hashable
    """Key of the arm that it is compared with."""
    bounds: Bounds
    equivalence: bool = False
    """Decided on a quiet machine alone, and there without widening."""


def decided(samples: Mapping[Any, Samples], asked: Sequence[Asked], again: Hashable, baseline: Hashable) -> bool:
    """Whether each ratio lies within or outside its bounds beyond doubt, as claims are judged: the control included.

    What was not measured asks for nothing. Each look and each question takes its share of the level: to stop as soon as
    luck looks good is no decision.

    Args:
        samples: By key.
        asked: The questions.
        again: Key of the second arm of the A/A control.
        baseline: Key of its first.
    """
    had = [one for one in asked if {one.key, one.versus} <= samples.keys()]
    if not had or not {again, baseline} <= samples.keys():
        return True
    controls = {phase: control(samples[again], samples[baseline], phase) for phase in {one.phase for one in had}}
    return all(_decided(one, samples, controls[one.phase], LEVEL / (LOOKS * len(asked))) for one in had)


def _decided(one: Asked, samples: Mapping[Any, Samples], found: Control, level: float) -> bool:
    if one.equivalence and not is_quiet(found):
        return False
    wider = 0.0 if one.equivalence else margin(found)
    logs = log_ratio_blocks(samples[one.key].wall[one.phase], samples[one.versus].wall[one.phase])
    low, high = (None if end is None else math.log(end) for end in (one.bounds.min, one.bounds.max))
    return min(both_ways(logs, low, high, wider)) < level


def timing(ours: Samples, baseline: Samples, phase: str) -> Timing:
    """Reduce one phase of an arm to a record's timing, with the paired ratio to ``baseline``."""
    ratio, interval = block_bootstrap_ratio(ours.wall[phase], baseline.wall[phase])
    wall = np.concatenate(ours.wall[phase])
    return Timing(
        median=float(np.median(wall)),
        p95=float(np.quantile(wall, 0.95)),
        samples=tuple(tuple(block) for block in ours.wall[phase]),
        cpu_median=float(np.median(np.concatenate(ours.cpu[phase]))),
        ratio_to_baseline=ratio,
        ratio_interval=interval,
    )


def control(second: Samples, baseline: Samples, phase: str) -> Control:
    """The A/A control of one phase: the baseline's second build against its first."""
    ratio, interval = block_bootstrap_ratio(second.wall[phase], baseline.wall[phase])
    return Control(ratio=ratio, interval=interval)


def groups(sizes: Mapping[str, int], baseline: str, room: int) -> list[list[str]]:
    """Split arms into groups that fit in memory together; every group holds the baseline, twice for the control.

    Args:
        sizes: Bytes that each arm holds between rounds; order is kept.
        baseline: Key of the baseline, the first of every group.
        room: Bytes for all arms of a group.

    Returns:
        Groups of keys; an arm that fits in no group stands alone with the baseline.
    """
    start = 2 * sizes[baseline]
    result: list[list[str]] = [[baseline]]
    used = start
    for key, size in sizes.items():
        if key == baseline:
            continue
        if used + size > room and len(result[-1]) > 1:
            result.append([baseline])
            used = start
        result[-1].append(key)
        used += size
    return result


T = TypeVar("T")


class Builds(Generic[T]):
    """Things by key, each made by ``make``.

    Where a thing's tensors lie in memory moves its times by a percent or two for as long as it lives. Made once, that
    luck is part of a figure; made anew in every block, in another order, it is part of the figure's interval.
    """

    def __init__(self, keys: Iterable[Any], make: Callable[[Any], T]) -> None:
        self.keys = tuple(keys)
        self._make = make
        self._made: dict[Any, T | Exception] = {}
        for key in self.keys:
            self.build(key)

    def drop(self) -> None:
        """Hold nothing until each key is made again."""
        self._made.clear()

    def build(self, key: Hashable) -> None:
        """Make what belongs to ``key``; where that fails, whoever asks for it gets the reason."""
        try:
            self._made[key] = self._make(key)
        except Exception as error:  # the others are still worth their time
            traceback.clear_frames(error.__traceback__)  # they would hold a half-built model beside the others
            self._made[key] = error

    def get(self, key: Hashable) -> T:
        """What was made for ``key``.

        Raises:
            Exception: What making it raised.
        """
        made = self._made[key]
        if isinstance(made, Exception):
            raise made
        return made


def renew(builds: Sequence[Builds[Any]], order: random.Random) -> None:
    """Drop all that ``builds`` hold, then make it anew in an order that ``order`` draws over all of them."""
    for one in builds:
        one.drop()
    gc.collect()  # modules lie in cycles: what is not collected here would hold its memory beside the next
    places = [(one, key) for one in builds for key in one.keys]
    for one, key in order.sample(places, len(places)):
        one.build(key)


class Pace:
    """Follows work that is done in parts, from the moment that it is made.

    Args:
        total: All that there is to do, in a unit of the caller's.
        now: Wall seconds.
    """

    def __init__(self, total: float, now: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._done = 0.0
        self._now = now
        self._began = now()

    def left(self, done: float) -> float:
        """Seconds that remain once ``done`` more of the work is done; 0 where nothing remains or none was planned."""
        self._done += done
        remaining = max(0.0, self._total - self._done)
        return (self._now() - self._began) * remaining / self._done if self._done else 0.0

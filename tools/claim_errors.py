"""Simulate how often a claim on times is decided wrongly on a noisy machine, under the rule in use and under others.

python -m tools.claim_errors docs/claim-errors.md [RUNS]
"""

import dataclasses
import itertools
import math
import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench.schema.claims import LOOKS, Bounds
from bench.schema.record import Control
from bench.stats.intervals import LEVEL, both_ways, is_quiet, log_ratio_blocks, margin
from bench.timing.interleave import Asked, Samples, control, decided

RUNS = 1000
BLOCKS = (6, 12)
PHASE = "step"
ARMS = ("ours", "baseline", "baseline again")
RULES = {
    "not widened": lambda found: 0.0,
    "not widened, and `invalid` unless the control is quiet": lambda found: 0.0 if is_quiet(found) else math.inf,
    "widened by the control's ratio": lambda found: abs(math.log(found.ratio)),
    "widened by the control's far end": lambda found: margin(found) / 2,
    "**widened by twice its far end**": margin,
}
"""By how much each rule moves the bound, given the control; the last is in use. Infinity decides nothing."""
STOPS = "**widened by twice its far end, and measured on until decided**"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of noise; everything but ``noise`` and ``correlation`` is in multiples of ``noise``."""

    noise: float
    """Standard deviation of a block's log time."""
    kind: str = "normal"
    """Or ``"heavy"``: Student's t of three degrees of freedom."""
    correlation: float = 0.0
    """From one block to the next."""
    builds: float = 0.0
    """Two builds of the same code differ by up to this much, each drawn evenly to both sides."""
    drift: float = 0.0
    """What an arm gains or loses over the blocks asked for, drawn evenly to both sides for each arm; it goes on beyond
    them."""

    @property
    def lasting(self) -> float:
        """The luck that outlasts blocks, which no interval over blocks knows."""
        return max(self.builds, self.drift)

    def series(self, stream: np.random.Generator, asked: int) -> np.ndarray:
        """Log times of one arm, ``[LOOKS * asked]``."""
        blocks = LOOKS * asked
        draws = stream.standard_t(3, blocks) / math.sqrt(3) if self.kind == "heavy" else stream.normal(size=blocks)
        kept = math.sqrt(1 - self.correlation**2)
        for block in range(1, blocks):
            draws[block] = self.correlation * draws[block - 1] + kept * draws[block]
        lasting = stream.uniform(-self.builds, self.builds)
        lasting += stream.uniform(-self.drift, self.drift) * (np.arange(blocks) / asked - 0.5)
        return self.noise * (draws + lasting)


MACHINES = [
    *(Machine(noise) for noise in (0.002, 0.01, 0.05)),
    Machine(0.01, kind="heavy"),
    *(Machine(0.01, correlation=correlation) for correlation in (0.5, 0.8)),
    *(Machine(0.01, builds=builds) for builds in (1.0, 2.0)),
    Machine(0.01, drift=2.0),
    Machine(0.01, correlation=0.5, builds=2.0),
    *(Machine(0.01, builds=builds) for builds in (4.0, 8.0)),
    Machine(0.01, correlation=0.5, builds=4.0),
    *(Machine(0.01, drift=drift) for drift in (4.0, 8.0)),
]
FEW = 2.0
"""Up to this much ``lasting`` luck stands in the table's first column, more in its second."""


def measured(logs: Mapping[str, np.ndarray], blocks: int) -> dict[str, Samples]:
    """The first ``blocks`` as an interleaved measurement gives them, one round a block."""
    found = {}
    for arm, series in logs.items():
        found[arm] = Samples()
        found[arm].wall[PHASE] = [[math.exp(value)] for value in series[:blocks]]
    return found


def verdicts(machine: Machine, blocks: int, truth: float, stream: np.random.Generator) -> Iterator[tuple[str, str]]:
    """One run on ``machine``: each rule with its verdict on the claim that ours takes no longer than the baseline.

    Args:
        machine: Where it is measured.
        blocks: Asked for; one rule may measure ``LOOKS`` times as many.
        truth: Log ratio of ours to the baseline; 0 lies exactly at the bound.
        stream: Of all luck.
    """
    logs = {arm: machine.series(stream, blocks) for arm in ARMS}
    logs["ours"] = logs["ours"] + truth
    samples = measured(logs, blocks)
    ours, noise = of_blocks(samples)
    for rule, widening in RULES.items():
        yield rule, verdict(ours, widening(noise))
    asked = [Asked(PHASE, "ours", "baseline", Bounds(max=1.0))]
    taken = blocks
    while taken < LOOKS * blocks and not decided(samples, asked, "baseline again", "baseline"):
        taken += blocks
        samples = measured(logs, taken)
    ours, noise = of_blocks(samples)
    yield STOPS, verdict(ours, margin(noise))


def of_blocks(samples: Mapping[str, Samples]) -> tuple[np.ndarray, Control]:
    """Log ratio of ours to the baseline, block by block, and the control."""
    logs = log_ratio_blocks(samples["ours"].wall[PHASE], samples["baseline"].wall[PHASE])
    return logs, control(samples["baseline again"], samples["baseline"], PHASE)


def verdict(logs: np.ndarray, widening: float) -> str:
    """What the judge says of the claim that the ratio is 1 at most."""
    if math.isinf(widening):
        return "open"
    inside, outside = both_ways(logs, None, 0.0, widening)
    return "pass" if inside < LEVEL else "fail" if outside < LEVEL else "open"


def shares(job: tuple[Machine, int, float, int]) -> dict[str, tuple[float, float]]:
    """By rule, the shares of runs that pass and fail; the stream depends on the job alone."""
    machine, blocks, truth, runs = job
    runs = runs if truth > -0.5 else max(1, runs // 4)  # what a factor of two decides is nearly all of it
    stream = np.random.default_rng([MACHINES.index(machine), blocks, round(1e4 * abs(truth))])
    found = [dict(verdicts(machine, blocks, truth, stream)) for _ in range(runs)]
    return {
        rule: (sum(run[rule] == "pass" for run in found) / runs, sum(run[rule] == "fail" for run in found) / runs)
        for rule in found[0]
    }


def span(values: list[float]) -> str:
    """Least and greatest share, in percent."""
    low, high = (round(100 * value) for value in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} - {high} %"


def text(runs: int = RUNS) -> str:
    """The page: a table of the errors at the bound and one of what a factor of two decides."""
    jobs = [(machine, blocks, truth, runs) for machine, blocks in itertools.product(MACHINES, BLOCKS)
            for truth in (0.0, -math.log(2), -0.05)]  # fmt: skip
    with multiprocessing.Pool() as pool:
        found = dict(zip(jobs, pool.map(shares, jobs, chunksize=1), strict=True))

    def cell(rule: str, truth: float, *, lasting: bool, side: int) -> str:
        return span([
            got[rule][side] for (machine, _, at, _), got in found.items()
            if at == truth and (machine.lasting > FEW) == lasting
        ])  # fmt: skip

    rows = [
        [rule, *(cell(rule, truth, lasting=lasting, side=side)
                 for truth, side in ((0.0, 0), (-0.05, 1), (-math.log(2), 0)) for lasting in (False, True))]
        for rule in (*RULES, STOPS)
    ]  # fmt: skip
    lines = [HEAD.format(runs=f"{runs:,}", kinds=len(MACHINES), blocks=", ".join(map(str, BLOCKS)), looks=LOOKS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


HEAD = """# How often a claim on times is decided wrongly

<!-- Generated: python -m tools.claim_errors docs/claim-errors.md -->

{runs} simulated runs of each of {kinds} kinds of machine, at {blocks} blocks: noise of 0.2 - 5 % a block, independent,
heavy-tailed, or correlated up to 0.8 from block to block; builds of the same code that differ, and a drift that meets
the arms unequally, by multiples of that noise. The code that decides is the harness's own. *At the bound*: the claim
passed though the truth lies exactly there (as many failed). *5 % inside*: it failed though it holds by 5 %. *Twice
inside*: it passed where it holds by a factor of two. *Few*: builds and drift of up to twice a block's noise; *much*:
of four and eight times. The last rule measures as many blocks again where the claim is open, {looks} times as many at
most. Each range is over kinds of machine and numbers of blocks.

Not simulated: several claims at once, which share the level; a claim that shares no arm with the control; blocks of
several rounds; extra blocks that end because their time is up.

| the interval is | at the bound, few | much | 5 % inside but failed, few | much | twice inside and passed, few | much |
| --- | --- | --- | --- | --- | --- | --- |"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(int(sys.argv[2]) if len(sys.argv) > 2 else RUNS), encoding="utf-8")

"""What the A/A control of a probe says about its times: the same code, built twice, measured as two methods."""

import math

from bench.schema.record import Control

QUIET = (0.97, 1.03)
"""Where the interval of a control lies on a machine that is quiet enough to decide by."""
WIDENING = 2.0
"""A time's interval is widened to both sides by so many times the far end of the control's, on the log scale. One
control is one draw of how far identical code comes out apart; another may be worse. Simulated (docs/claim-errors.md),
a claim at its very bound passes in 4 % of runs at most where builds and drift are up to twice the noise of a block, in
9 % where they are four and eight times as large; with that end taken once it is 7 and 18 %, at a fixed number of
blocks."""


def is_quiet(control: Control) -> bool:
    """Whether the interval of ``control`` lies within ``QUIET``."""
    return QUIET[0] <= control.interval[0] and control.interval[1] <= QUIET[1]


def margin(control: Control) -> float:
    """By how much an interval of log ratios is widened to both sides."""
    return WIDENING * max(abs(math.log(end)) for end in control.interval)

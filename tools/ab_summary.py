"""Draws and counts what the self-test of `ab` has found so far: power by size of the slow-down, false alarms, coverage.

python -m tools.ab_summary results/published/ab-self-test
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from bench.ab.experiment import BLOCKS, Reduced, reduced
from tools.ab_self_test import SECONDS

matplotlib.use("agg")
PHASES = ("forward", "backward", "optimizer", "step")
LONGEST = 10
"""Seconds that a trial should take at most."""
BLOCK_COUNTS = (10, BLOCKS)


class Rate(NamedTuple):
    """How often something happened, with a one-sided 95 % bound (Clopper and Pearson)."""

    hits: int
    trials: int

    def at_least(self) -> float:
        """Lower bound."""
        return float(binomtest(self.hits, self.trials, alternative="greater").proportion_ci(0.95).low)

    def at_most(self) -> float:
        """Upper bound."""
        return float(binomtest(self.hits, self.trials, alternative="less").proportion_ci(0.95).high)


def read(folder: Path) -> list[dict]:
    """All trials of a folder; lines about the machine left out."""
    lines = (folder / "trials.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "phases" in line]


def flagged(trials: list[dict], effect: float) -> Rate:
    """How often backward was called slower where ``effect`` was added to it."""
    chosen = [trial for trial in trials if trial["effect"] == effect]
    return Rate(sum(trial["phases"]["backward"]["verdict"] == "slower" for trial in chosen), len(chosen))


def false_alarms(trials: list[dict]) -> Rate:
    """How often any phase of identical code was called slower."""
    same = [trial for trial in trials if trial["effect"] == 0]
    return Rate(sum(any(trial["phases"][p]["verdict"] == "slower" for p in PHASES) for trial in same), len(same))


def coverage(trials: list[dict], blocks: int) -> Rate:
    """How often the interval of backward of identical code, cut into ``blocks`` blocks, holds the true ratio 1."""
    same = [trial["backward_microseconds"] for trial in trials if trial["effect"] == 0]
    return Rate(sum(_covers(seconds, blocks) for seconds in same), len(same))


def cut(seconds: dict[str, list[int]], blocks: int = BLOCKS) -> Reduced:
    """What `ab` says of one trial's samples, cut into ``blocks`` blocks."""
    return reduced({key: [part.tolist() for part in np.array_split(s, blocks)] for key, s in seconds.items()})


def _covers(seconds: dict[str, list[int]], blocks: int) -> bool:
    low, high = cut(seconds, blocks).interval
    return low <= 1 <= high


def summary(trials: list[dict]) -> str:
    """Markdown: power by effect, false alarms, coverage by number of blocks."""
    effects = sorted({trial["effect"] for trial in trials} - {0.0})
    rows = [
        f"| {effect:.0%} | {rate.hits} of {rate.trials} | {rate.at_least():.1%} | {_measured(trials, effect)} |"
        for effect in effects
        for rate in [flagged(trials, effect)]
    ]
    alarms = false_alarms(trials)
    covered = [(blocks, coverage(trials, blocks)) for blocks in BLOCK_COUNTS]
    cover = [f"| {blocks} | {rate.hits} of {rate.trials} | {rate.hits / rate.trials:.1%} |" for blocks, rate in covered]
    seconds = sorted(trial["seconds"] for trial in trials)
    return "\n".join(
        [
            "# How small a slow-down `ab` finds",
            "",
            "Backward of LoRA on a tiny BERT (4 x 16 tokens, one thread) with extra work of known size, two cores, a "
            "competing process on one of them half of the time. Made with `python -m tools.ab_self_test`, "
            f"which goes on where it stopped. A trial took {np.median(seconds):.1f} s, the longest {seconds[-1]:.1f}; "
            f"{sum(taken > LONGEST for taken in seconds)} of {len(seconds)} took more than {LONGEST} s.",
            "",
            "| added to backward | called slower | at least (95 %) | measured: median [5 %, 95 %] of trials |",
            "|---:|---:|---:|---:|",
            *rows,
            "",
            f"Identical code: {alarms.hits} of {alarms.trials} trials called any of four phases slower, at most "
            f"{alarms.at_most():.1%} (95 %).",
            "",
            "Coverage of the 95 % interval on this recorded noise of identical code, by the number of blocks that the "
            "same rounds are cut into:",
            "",
            "| blocks | hold the true ratio 1 | share |",
            "|---:|---:|---:|",
            *cover,
            "",
            "![Power](power.svg)",
            "",
        ]
    )


def _measured(trials: list[dict], effect: float) -> str:
    ratios = [trial["phases"]["backward"]["ratio"] - 1 for trial in trials if trial["effect"] == effect]
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    return f"{middle:+.1%} [{low:+.1%}, {high:+.1%}]"


def draw(trials: list[dict]) -> Figure:
    """Share of trials in which backward was called slower, against what was added to it."""
    effects = sorted({trial["effect"] for trial in trials})
    rates = [flagged(trials, effect) for effect in effects]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    shares = np.array([rate.hits / rate.trials for rate in rates])
    exact = [binomtest(rate.hits, rate.trials).proportion_ci(0.95) for rate in rates]
    spread = [shares - [ci.low for ci in exact], [ci.high for ci in exact] - shares]
    axes.errorbar([100 * e for e in effects], 100 * shares, yerr=100 * np.abs(spread), marker="o", capsize=3)
    axes.set_xlabel("added to backward, %")
    axes.set_ylabel("called slower, % of trials (95 % interval)")
    axes.set_title(f"How small a slow-down ab finds in {SECONDS:g} s")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    return figure


def write(folder: Path) -> None:
    """Write summary.md and the plot beside the trials."""
    trials = read(folder)
    (folder / "summary.md").write_text(summary(trials))
    figure = draw(trials)
    figure.savefig(folder / "power.svg", metadata={"Date": None})
    figure.savefig(folder / "power.png", dpi=150)


def main() -> None:
    """Summarize one folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()

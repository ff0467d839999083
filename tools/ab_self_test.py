"""How small a slow-down does `ab` find, and how often does it cry wolf? Many trials with a known answer.

A trial is one comparison of LoRA with a copy whose backward does more work by a known share, or with an exact copy
(the A/A trials), while a competing process burns a core half of the time. Trials come in random order, those that
decide first, each is stored at once, and the same command goes on where it was stopped:

    python -m tools.ab_self_test results/published/ab-self-test
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.ab import experiment as ab
from bench.ab.experiment import Tree
from bench.execute.fork_server import warm_context
from bench.plan.load import parse_suite
from bench.store.environment import environment

ROOT = Path(__file__).resolve().parents[1]
TRIALS = ({0.0: 150, 0.05: 150}, {0.02: 12, 0.03: 12, 0.04: 12})
"""Trials by share of backward's time that is added: those that decide, then those that only draw the curve."""
SECONDS = 7.0
"""Of measuring; with the start of four processes a trial stays below 10 s."""
MARGIN = 0.01
SUITE = {
    "name": "ab-self-test",
    "question": "Does ab find a slow-down of known size?",
    "backbone": {"name": "tiny", "weights": "random"},
    "method": [{"name": "full"}, {"name": "lora", "config": {"rank": 8}}],
    "cost": [{"batch": 4, "length": 16, "threads": 1}],
}
LABEL = "lora(rank=8)"
NONE, MANY = 20, 220
"""Products where nothing is added, for the first few find cold caches, and of the calibration."""

EXTRA_WORK = """
import torch


class _ExtraWork(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parameter):
        return parameter.new_zeros(())

    @staticmethod
    def backward(ctx, gradient):
        block = torch.ones(32, 32)
        for _ in range({products}):
            torch.mm(block, block)


def _regularizer(self, module):
    return _ExtraWork.apply(next(p for p in module.parameters() if p.requires_grad))


LoRA.regularizer = _regularizer
"""
"""What is added to the copy's ``lora.py``: small products in backward, after the loss and before the backbone."""

BURN = """
import os, random, time
parent = os.getppid()
while os.getppid() == parent:
    end = time.perf_counter() + random.uniform(0.5, 1.5)
    while time.perf_counter() < end:
        pass
    time.sleep(random.uniform(0.5, 1.5))
"""


@contextmanager
def competitor() -> Iterator[None]:
    """A process that burns a core half of the time, in bursts of about a second."""
    burning = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        yield
    finally:
        burning.kill()
        burning.wait()


def version(folder: Path, products: int) -> Tree:
    """A copy of ``methods/`` whose LoRA does ``products`` small products more in backward."""
    if not folder.exists():
        shutil.copytree(ROOT / "methods", folder / "methods", ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / "methods" / "lora.py").open("a") as source:
            source.write(EXTRA_WORK.format(products=products))
    return Tree(folder.name, folder)


class Trials:
    """Runs trials over versions that are made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = warm_context("bert", cells=False)
        self._probe, _ = ab.probe_of(parse_suite(json.loads(json.dumps(SUITE)), "self-test"), None, "cpu")
        self._base = version(folder / "base", NONE)
        self._share = 0.0

    def calibrate(self) -> dict[str, float]:
        """What one product adds to backward, measured the way that the trials measure."""
        backward = self._backward(version(self._folder / f"head-{MANY}", MANY), 20.0)
        self._share = (backward.ratio - 1) / (MANY - NONE)
        return {"backward_seconds": backward.base_seconds, "share_per_product": self._share}

    def run(self, effect: float) -> dict:
        """One trial: the share that its extra work adds by calibration, and what `ab` says of every phase."""
        products = NONE + round(effect / self._share)
        started = time.perf_counter()
        compared = self._compare(version(self._folder / f"head-{products}", products), SECONDS)
        return {
            "effect": effect,
            "added": round((products - NONE) * self._share, 5),
            "seconds": round(time.perf_counter() - started, 2),
            "load": round(os.getloadavg()[0], 2),
            "phases": {phase.phase: _plain(phase) for phase in compared.phases},
            "backward_microseconds": _rounds(compared),
        }

    def _backward(self, head: Tree, seconds: float) -> ab.Comparison:
        return next(phase for phase in self._compare(head, seconds).phases if phase.phase == "backward")

    def _compare(self, head: Tree, seconds: float) -> ab.Compared:
        (found,) = ab.compare(self._base, head, self._probe, [LABEL], self._context, seconds=seconds, margin=MARGIN)
        assert not found.failed, found.note
        return found


def _plain(phase: ab.Comparison) -> dict:
    return {
        "verdict": phase.verdict,
        "base_seconds": round(phase.base_seconds, 7),
        "ratio": round(phase.ratio, 5),
        "controls": [round(phase.control.ratio, 5), round(phase.head_control.ratio, 5)],
    }


def _rounds(compared: ab.Compared) -> dict:
    """Every sample of backward: whoever doubts the verdicts may judge by rules of his own."""
    backward = next(phase for phase in compared.phases if phase.phase == "backward")
    return {key: [round(1e6 * s) for block in blocks for s in block] for key, blocks in backward.seconds.items()}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    path = out / "trials.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    owed = []
    for part in TRIALS:
        left = [e for e, n in part.items() for _ in range(n - sum(trial.get("effect") == e for trial in done))]
        owed += random.Random(len(done)).sample(left, len(left))
    with tempfile.TemporaryDirectory() as folder, path.open("a") as stream:
        trials = Trials(Path(folder))
        about = {"calibration": trials.calibrate(), "environment": environment(), "cores": len(os.sched_getaffinity(0))}
        print(json.dumps(about["calibration"]), flush=True)
        stream.write(json.dumps(about) + "\n")
        with competitor():
            for number, effect in enumerate(owed, start=1):
                trial = trials.run(effect)
                stream.write(json.dumps(trial) + "\n")
                stream.flush()
                backward = trial["phases"]["backward"]
                print(
                    f"{number}/{len(owed)}: {effect:+.1%} {backward['ratio'] - 1:+.2%} {backward['verdict']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Where peft has the same method, a training step of ours is not slower than one of peft's beyond doubt."""

import time

import pytest
import torch

from bench.stats.intervals import LEVEL, block_bootstrap_ratio
from bench.timing.interleave import Arm, Samples, between, clock, interleave
from tests.perf.pairs import LENGTH, PAIRS, ROWS, WIDTH, build, padded_batch

BLOCKS, ROUNDS = 8, 5
PHASES = ("forward", "backward", "step")
CONFIDENCE = 1 - LEVEL / (len(PAIRS) * len(PHASES))
"""Of each interval: all of them together raise a false alarm in one run of twenty at most."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:peft"),
]


@pytest.fixture(autouse=True)
def _one_thread():
    """The CPU time of one thread is the steadiest clock on a shared machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arm(key, side, batch):
    """Forward and backward of one training step, with the clock read in between."""
    weights = torch.randn(ROWS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(5))

    def step():
        start = clock("cpu")
        loss = (side.states(batch) * weights).mean()
        forwarded = clock("cpu")
        loss.backward()
        ended = clock("cpu")
        side.module.zero_grad(set_to_none=True)
        return {"forward": between(start, forwarded), "backward": between(forwarded, ended),
                "step": between(start, ended)}  # fmt: skip

    return Arm(key, step)


def measured(pair):
    """Samples of both; each block builds both anew, since where a tensor lies in memory is luck too."""
    batch, samples = padded_batch(), {"ours": Samples(), "peft": Samples()}
    for number in range(BLOCKS):
        arms = [arm(key, side, batch) for key, side in zip(samples, build(pair), strict=True)]
        block, failures = interleave(arms, blocks=1, rounds=ROUNDS, seed=number)
        assert not failures
        for key, kept in samples.items():
            for phase in PHASES:
                kept.cpu.setdefault(phase, []).extend(block[key].cpu[phase])
    return samples


def ratio(samples, phase):
    """CPU time of ours to peft's, with its interval."""
    return block_bootstrap_ratio(samples["ours"].cpu[phase], samples["peft"].cpu[phase], confidence=CONFIDENCE)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.benchmark(timer=time.process_time)
def test_a_training_step_is_not_slower_than_pefts(name, benchmark):
    batch = padded_batch()
    ours, theirs = build(PAIRS[name])
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.states(batch)[tokens], theirs.states(batch)[tokens], atol=1e-5, rtol=0)

    samples = measured(PAIRS[name])
    found = {phase: ratio(samples, phase) for phase in PHASES}
    benchmark.extra_info["ours_over_peft"] = {
        phase: {"ratio": value, "interval": interval, "confidence": CONFIDENCE}
        for phase, (value, interval) in found.items()
    }
    benchmark.pedantic(arm("ours", ours, batch).run, rounds=10, warmup_rounds=1)
    assert max(low for _, (low, _) in found.values()) <= 1.0, found

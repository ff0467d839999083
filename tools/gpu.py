"""Measure every built-in method on one GPU, and hold counted memory against measured.

    python -m tools.gpu results/runs/gpu             # three suites, one after the other; the same command resumes
    python -m tools.gpu results/runs/gpu --read      # the tables again, from what is there; needs no GPU

Writes a run folder for each suite below the given one, to be published as any other run, and prints for each method the
counted and the measured peak of a training step, and what the suites' claims show, LST's backward against full's among
them. A backbone whose full fine-tuning cannot be timed in the GPU's memory is left out with a line.

Exit codes: 0 every peak is counted within 3 % and every claim holds; 1 one is not, or does not, or has no figure; 2 no
GPU, or what was asked cannot be done; 130 and 143 interrupted.
"""

import argparse
import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from bench import registry
from bench.errors import BenchError, Interrupted
from bench.models import backbone
from bench.report import format as fmt
from bench.report.sections import claims, overview
from bench.schema.jobs import Probe
from bench.schema.record import CostRecord
from bench.verdicts.claims import JudgedResults

SUITES = ("cost-gpu-bert-base", "cost-gpu-llama-1b", "cost-gpu-llama-3b")
"""Smallest first: what breaks shows after a minute."""
NEAR = 0.03
"""A counted peak is right that lies so near to the measured one, as a share of it."""
USABLE = 0.95
"""Of a GPU's memory; the rest is left to the CUDA context and what the allocator cannot hand out as it lies."""


class Row(NamedTuple):
    """One method on one backbone."""

    method: str
    counted: int | None
    """Peak bytes of a training step, on tensors without data."""
    measured: int | None
    """The same on the GPU."""
    why: str = ""
    """Why the two do not compare."""

    @property
    def ratio(self) -> float | None:
        """Counted over measured."""
        return None if self.counted is None or not self.measured else self.counted / self.measured

    @property
    def near(self) -> bool:
        """Whether the peak was counted right."""
        return not self.why and self.ratio is not None and abs(self.ratio - 1) <= NEAR

    def __str__(self) -> str:
        found = "-" if self.ratio is None else f"{self.ratio:.3f}"
        says = self.why or ("yes" if self.near else "no")
        return f"| `{self.method}` | {fmt.size(self.counted)} | {fmt.size(self.measured)} | {found} | {says} |"


def rows(results: JudgedResults) -> list[Row]:
    """A row for each method of the run's suite, those without a record among them."""
    held = {record.method.label: record for record in results.cost_records}
    return [_row(label, held.get(label)) for label in results.labels]


def _row(label: str, record: CostRecord | None) -> Row:
    if record is None:
        return Row(label, None, None, "no record")
    counted, measured = record.predicted_peak_memory_bytes, record.peak_memory_bytes
    why = "" if record.status == "ok" else f"{record.status}: {record.reason}"
    if not why and record.peak_memory_source != "cuda_allocated":
        why = "not measured on a GPU"
    if not why and counted is None:
        why = "not counted"
    return Row(label, counted and counted.step, measured and measured.step, why)


def table(results: JudgedResults) -> tuple[str, bool]:
    """What a run shows, as Markdown, and whether it meets every target."""
    found, told = rows(results), claims.tell(results)
    near = sum(row.near for row in found)
    lines = [
        f"## {results.suite.name}", "", *(f"{line}." for line in _circumstances(results)), "",
        "| method | counted peak | measured peak | counted / measured | within 3 % |",
        "| --- | ---: | ---: | ---: | --- |", *map(str, found), "",
        f"{near} of {len(found)} methods within 3 %.", "",
        *(f"- {one.verdict}: {one.says}: {one.figures or '-'}" + (f" ({one.why})" if one.why else "") for one in told),
    ]  # fmt: skip
    return "\n".join(lines), near == len(found) and all(one.verdict == "pass" for one in told)


def _circumstances(results: JudgedResults) -> list[str]:
    """Backbone, step, GPU, torch and how long it took, a line for each shape."""
    lines = []
    for shape in results.shapes:
        held = [record for record in results.cost_records if record.shape == shape]
        began, ended = (
            end(datetime.datetime.fromisoformat(time) for time in times)
            for end, times in ((min, [one.started for one in held]), (max, [one.ended for one in held]))
        )
        torch_version = held[0].environment["versions"].get("torch")
        minutes = (ended - began).total_seconds() / 60
        lines.append(
            f"{held[0].backbone.name}, {overview.shape_line(shape)}; torch {torch_version}; {minutes:.1f} minutes"
        )
    return lines


def report(out: Path) -> tuple[str, bool]:
    """The tables of all runs below ``out``, and whether there is one and all meet every target.

    Raises:
        BenchError: A run folder is damaged.
    """
    folders = [out / Path(name).stem for name in SUITES]
    there = [folder for folder in folders if (folder / "records.jsonl").exists()]
    if not there:
        return f"{out}: holds none of these runs", False
    found = [table(JudgedResults(folder)) for folder in there]
    text = "\n\n".join(part for part, _ in found)
    absent = [f"{folder.name}: not measured" for folder in folders if folder not in there]
    return "\n\n".join([text, *absent]), all(met for _, met in found)


class Size(NamedTuple):
    """What decides whether a backbone can be timed, and how long it takes."""

    held: int
    """Bytes that full fine-tuning holds between two steps: weights and the optimizer's state."""
    beside: int
    """Bytes that its step takes beside them."""
    other: int
    """Bytes that ``head`` holds: on a decoder the most beside full, since it trains a copy of the LM head."""
    weights: int
    """Bytes of the backbone."""
    parameters: int
    layers: int
    flops: int
    """Of a training step of full fine-tuning."""
    checked: int
    """Bytes that no step is near: on a GPU with fewer all methods are counted before anything is run."""

    @property
    def least(self) -> int:
        """Bytes that timing takes: full fine-tuning twice, for the A/A control, another method, and a running step."""
        return 2 * self.held + self.other + self.beside


def size(probe: Probe) -> Size:
    """Count full fine-tuning and the head alone of a probe for CUDA."""
    from bench.count.count import count
    from bench.count.predict import generous_bytes
    from bench.schema.shape import Setting

    setting = Setting(**probe.step(), device="cuda", outputs=probe.outputs)
    full, head = (count(probe.backbone, *registry.make(name, {}), setting) for name in ("full", "head"))
    held, other = (one.bytes.weights + one.bytes.optimizer_state for one in (full, head))
    return Size(
        held, full.peak.step - held, other, full.bytes.weights, full.trainable.method,
        backbone.configuration(probe.backbone).num_hidden_layers, full.flops.forward + full.flops.backward,
        generous_bytes(probe.backbone, setting),
    )  # fmt: skip


SUSTAINED = 0.4
"""Of the peak rate of matrix products, that a training step reaches; assumed."""
OTHERS = 0.8
"""Of full fine-tuning's FLOPs, that a step of another method has at most."""
RATES = {"float32": 19.5e12, "bfloat16": 312e12}
"""FLOP/s of an A100 (`bench.count.roofline`), the slowest GPU that the estimate is for; float32 without TF32."""
COPIED = 5e9
"""Bytes a second from main memory to the GPU; assumed."""
RANDOM = 50e6
"""Weights a second that are drawn at random on one thread; on the two shared cores that this was written on."""
COUNTED, OF_A_LAYER = 1.5, 0.04
"""Seconds that a new process takes to count full fine-tuning, and more for each layer; on those cores."""
BEGUN = 2.0
"""Seconds until a new process has CUDA; assumed."""
CHECKED = 1.5
"""Seconds that a count takes before anything is run, where the memory may not suffice; on those cores."""
AROUND = 30.0
"""Seconds of a run before its first job and after its last, imports, plan and report; on those cores."""


def seconds(probe: Probe, found: Size, memory: int) -> float:
    """An estimate of how long a suite takes on a GPU with so many bytes of memory; nothing here was measured on one."""
    from bench.timing.interleave import groups
    from bench.timing.session import room_of

    methods, base = len(probe.methods), probe.baseline
    sizes = {spec.label: found.held if spec.label == base else found.other for spec in probe.methods}
    timed = groups(sizes, base, room_of("cuda", memory, [(found.held + found.beside, found.held)]))
    full, others = 2 * len(timed), methods - 1  # each group has the baseline twice
    counts, copies = methods + len(timed), methods + full + others + len(timed) + 1
    host = AROUND + found.parameters / RANDOM + counts * (COUNTED + OF_A_LAYER * found.layers)
    host += CHECKED * methods if found.checked > memory else 0.0
    begun = (methods + 3) * BEGUN  # a process for each method, and for hardware, the bare backbone and times
    steps = (probe.blocks * probe.rounds + 1) * (full + OTHERS * others) + 1 + OTHERS * others
    work = copies * found.weights / COPIED + steps * found.flops / (SUSTAINED * RATES[probe.dtype])
    return host + begun + work + probe.extra_seconds


def planned(name: str) -> Probe:
    """The one probe of a suite, as it is planned on a machine with a GPU.

    Raises:
        BenchError: The suite is none, or names what does not exist.
    """
    from bench.plan.load import load_suite
    from bench.plan.planner import make_plan

    (probe,) = make_plan(load_suite(name), f"suite {name}", "cuda").probes
    return probe


def gpu_memory() -> int | None:
    """Bytes of the GPU's memory, asked in a fork that leaves no CUDA in this process; None where torch finds no GPU."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    from bench.count.isolation import apart
    from bench.count.predict import memory_of

    return apart(lambda: memory_of("cuda"))


def run(name: str, folder: Path) -> int:
    """Run a suite, or what is left of it; its exit code. Where this process is stopped the run ends first, in order."""
    process = subprocess.Popen([sys.executable, "-m", "bench", "run", "--suite", name, "--out", str(folder)])
    try:
        return process.wait()
    except KeyboardInterrupt:  # which the terminal has sent to both; a second signal would end it out of order
        process.wait()
        raise
    except Interrupted:
        process.terminate()
        process.wait()
        raise


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def measure(out: Path, memory: int) -> int:
    """Run the suites one after the other, each in a folder of its own below ``out``.

    Returns:
        0, or the exit code of a run that was refused or interrupted. A job that failed is in its record.
    """
    for name in SUITES:
        probe = planned(name)
        found = size(probe)
        if found.least > USABLE * memory:
            print(
                f"{name} is left out: timing full fine-tuning beside its A/A control and another method takes "
                f"{found.least / 1e9:.1f} GB of this GPU's {memory / 1e9:.1f} GB",
                flush=True,
            )
            continue
        minutes = max(1, round(seconds(probe, found, memory) / 60))
        print(f"{name}: about {fmt.plural(minutes, 'minute')}, estimated", flush=True)
        if (code := run(name, out / Path(name).stem)) not in (0, 1):
            return code
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Measure, then read; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the run folders, such as results/runs/gpu")
    parser.add_argument("--read", action="store_true", help="measure nothing: show what the folder holds")
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, _stop)
    try:
        if not given.read:
            if (memory := gpu_memory()) is None:
                print("no GPU: torch finds none here; take a machine with one and torch's CUDA build", file=sys.stderr)
                return 2
            if code := measure(given.out, memory):
                return code
        text, met = report(given.out)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Interrupted) as stop:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 128 + getattr(stop, "number", int(signal.SIGINT))
    print(text)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

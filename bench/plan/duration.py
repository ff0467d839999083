"""How long a plan takes here: the FLOPs of its steps, counted, over those that this machine does in a second."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import NamedTuple

import torch

from bench import registry
from bench.count.count import ledger_of
from bench.count.isolation import guarded
from bench.count.ledger import Ledger
from bench.models.tokenizer import HashingTokenizer
from bench.schema.jobs import BackboneSpec, Cell, MethodSpec, Plan, Probe, Sweep
from bench.schema.shape import Setting
from bench.store.environment import at_once, cores
from bench.tasks.sources import rows_of

CALIBRATION_SECONDS = 0.2
"""Of matrix products, for each device, number of threads and type that a plan asks for."""
SHARE = 0.65
"""Of the rate of plain matrix products that a training step reaches; 0.7 on one thread at MiniLM's width."""
START_SECONDS = 1.5
"""Of a job's process until its first step: modules, weights, tokenised rows."""
DEVICES_SECONDS = 6.0
"""More of a cell of several devices: each is a fresh interpreter, which imports what a fork has."""
SUBWORDS = 1.2
"""Tokens for one word or mark."""
BYTES_OF_A_TOKEN = 4
"""Of English text, about."""
SAMPLE = 500
"""Rows whose lengths are looked at."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Wall seconds of a plan on this machine.

    Expect the truth between half and twice of it for steps of milliseconds and more. Matrix products are timed on the
    machine as it is now, so what runs beside them makes the estimate longer. Left out: the blocks that a probe adds
    until a claim is decided (``extra_seconds`` each), optimizer steps, downloads, and whatever a method does once, such
    as a start from data.
    """

    seconds: dict[str, float]
    """By id of a sweep, probe or cell, each as if it ran alone with its share of the cores."""
    workers: int
    """Cells, or sweeps, side by side."""
    sweeps: float
    """All sweeps together."""
    probes: float
    """All probes together, one after the other."""
    cells: float
    """All cells together, side by side."""

    @property
    def total(self) -> float:
        """Of the whole plan."""
        return self.sweeps + self.probes + self.cells


class _Step(NamedTuple):
    """One counted training step of ``tokens`` tokens."""

    tokens: int
    forward: int
    """FLOPs."""
    backward: int
    operations: int
    """Dispatched, forward and backward."""
    counting: float
    """Seconds that the count took."""


class Machine(NamedTuple):
    """What a second of this machine holds."""

    flops: float
    """Of matrix products."""
    operations: float
    """Dispatched by one thread of Python."""


def estimate(plan: Plan, workers: int | None = None, progress: Callable[[str], object] = lambda line: None) -> Estimate:
    """Say how long ``plan`` takes here: a count of each method, some matrix products, and arithmetic.

    Each method is counted once on each backbone; steps of other shapes follow in proportion to their tokens. A method
    that cannot be counted is taken for the dearest of those that can.

    Args:
        plan: What would be run.
        workers: Cells or sweeps side by side; as many as have a core for each of their threads where None.
        progress: Called with short lines such as ``counting lora, 3 of 13``.
    """
    steps = _counted(plan, progress)
    threads = plan.cells[0].threads * plan.cells[0].devices if plan.cells else 1
    side = min(workers or at_once(len(plan.cells), threads), len(plan.cells)) if plan.cells else 1
    seconds = {probe.id: _of_probe(probe, steps) for probe in plan.probes}
    by_rows = {(cell.task.content_sha256, cell.recipe["max_length"]): cell for cell in plan.cells}
    tokens = {key: _length(cell) for key, cell in by_rows.items()}
    for cell in plan.cells:
        seconds[cell.id] = _of_cell(cell, steps, tokens[cell.task.content_sha256, cell.recipe["max_length"]], side)
    for sweep in plan.sweeps:
        seconds[sweep.id] = _of_sweep(sweep, steps)
    among = min(workers or at_once(len(plan.sweeps)), max(1, len(plan.sweeps)))
    return Estimate(
        seconds, side,
        sweeps=_side_by_side((seconds[sweep.id] for sweep in plan.sweeps), among),
        probes=sum(seconds[probe.id] for probe in plan.probes),
        cells=_side_by_side((seconds[cell.id] for cell in plan.cells), side),
    )  # fmt: skip


def _side_by_side(seconds: Iterable[float], workers: int) -> float:
    every = list(seconds)
    return max([sum(every) / workers, *every])


@functools.cache
def machine(device: str, threads: int, dtype: torch.dtype) -> Machine:
    """Rate of matrix products and of dispatched operations, measured now; at most ``CALIBRATION_SECONDS`` each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        size = 4096 if device == "cuda" else 768
        large = torch.ones(size, size, device=device, dtype=dtype)
        small, row = torch.nn.Linear(8, 8, device=device), torch.ones(1, 8, device=device)
        return Machine(_rate(lambda: large @ large, device) * 2 * size**3, _rate(lambda: small(row), device))
    finally:
        torch.set_num_threads(before)


def _rate(run: Callable[[], object], device: str) -> float:
    """Runs in a second, from the fastest tenth of the time: other work on the machine only ever slows one down."""
    run()
    best, ends = 0.0, time.perf_counter() + CALIBRATION_SECONDS
    while time.perf_counter() < ends:
        if device == "cuda":
            torch.cuda.synchronize()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < CALIBRATION_SECONDS / 10:
            run()
            done += 1
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, done / (time.perf_counter() - began))
    return best


def _counted(plan: Plan, progress: Callable[[str], object]) -> dict[tuple[BackboneSpec, str], _Step]:
    """A training step of each method on each backbone, by backbone and `_same`."""
    asked: dict[tuple[BackboneSpec, str], tuple[MethodSpec, Setting]] = {}
    for probe in plan.probes:
        for method in probe.methods:
            asked.setdefault((probe.backbone, _same(method)), (method, Setting(**probe.step())))
    for cell in plan.cells:
        shape = Setting(batch=cell.recipe["batch_size"], length=cell.recipe["max_length"])
        asked.setdefault((cell.backbone, _same(cell.method)), (cell.method, shape))
    for sweep in plan.sweeps:
        first = Setting(**sweep.shape_at(sweep.values[0]).step())
        for method in sweep.methods:
            asked.setdefault((sweep.backbone, _same(method)), (method, first))
    steps = {}
    for number, (key, (method, setting)) in enumerate(asked.items(), start=1):
        progress(f"counting {method.label}, {number} of {len(asked)}")
        if (step := _count(key[0], method, setting)) is not None:
            steps[key] = step
    for key in asked:
        others = [step for (spec, _), step in steps.items() if spec == key[0]] or list(steps.values())
        if key not in steps and others:
            steps[key] = max(others, key=lambda step: (step.forward + step.backward) / step.tokens)
    return steps


def _same(method: MethodSpec) -> str:
    """What methods have in common whose steps are the same, whatever rows they train on."""
    return registry.spell(method.name, method.config)


def _ledger(spec: BackboneSpec, used: MethodSpec, setting: Setting) -> Ledger:
    method, config = registry.make(used.name, used.config, used.label)
    return ledger_of(spec, method, config, setting)


def _count(spec: BackboneSpec, used: MethodSpec, setting: Setting) -> _Step | None:
    began = time.perf_counter()
    try:
        ledger = guarded(used.name, functools.partial(_ledger, spec, used, setting))
    except Exception:  # a method that cannot be counted is a matter of the run, where it gives a record with the reason
        return None
    operations = ledger.backward_path.operations
    return _Step(
        setting.batch * setting.length, ledger.flops.forward, ledger.flops.backward, operations + operations // 2,
        time.perf_counter() - began,
    )  # fmt: skip


def _seconds(step: _Step, tokens: float, here: Machine, *, backward: bool = True, cores_shared: float = 1.0) -> float:
    flops = step.forward + (step.backward if backward else 0)
    operations = step.operations if backward else step.operations / 3
    return flops * tokens / step.tokens * cores_shared / (SHARE * here.flops) + operations / here.operations


def _merges(name: str) -> bool:
    return guarded(name, functools.partial(registry.merges, name))


def _of_probe(probe: Probe, steps: dict[tuple[BackboneSpec, str], _Step]) -> float:
    own = {method.label: steps.get((probe.backbone, _same(method))) for method in probe.methods}
    known = {label: step for label, step in own.items() if step is not None}
    counting = sum(2 * step.counting for step in known.values())
    if not probe.timed or not known:
        return START_SECONDS + counting
    dtype = torch.float32 if probe.dtype == "float32" else torch.bfloat16
    here = machine(probe.device, probe.threads or cores(), dtype)
    runs = probe.blocks * (probe.rounds + probe.rebuild) + 3  # a warm-up, and two steps for memory
    rows = probe.batch * probe.length
    arms = [*known.values(), *(step for label, step in known.items() if label == probe.baseline)]
    training = sum(runs * _seconds(step, rows, here) for step in arms)
    inference = 0.0
    for batch in probe.latency_batches:
        times = probe.blocks * (probe.latency_rounds(batch) + probe.rebuild) + 1
        models = sum(2 if _merges(method.name) else 1 for method in probe.methods) + 2
        each = fmean(_seconds(s, batch * probe.latency_length, here, backward=False) for s in known.values())
        inference += times * models * each
    more = _of_generation(probe, list(known.values()), here) + _of_serving(probe, list(known.values()), here)
    return START_SECONDS + counting + training + inference + more


def _of_serving(probe: Probe, steps: list[_Step], here: Machine) -> float:
    """Seconds of batches of several tasks: in one forward, and row after row as loaded and merged."""
    asked, seconds = probe.serving, 0.0
    if asked is None:
        return seconds
    for tasks in asked.tasks:
        turns = min(tasks, asked.rows)
        whole, part = (
            fmean(_seconds(step, rows * probe.latency_length, here, backward=False) for step in steps)
            for rows in (asked.rows, asked.rows / turns)
        )
        seconds += (whole + 2 * turns * part) * len(probe.methods)
    return seconds * (probe.blocks * probe.rounds + 1)


def _of_generation(probe: Probe, steps: list[_Step], here: Machine) -> float:
    """Seconds of writing: prefill and one forward of a token a row for each that is written."""
    writes, seconds = probe.generation, 0.0
    if writes is None:
        return seconds
    models = sum(2 if _merges(method.name) else 1 for method in probe.methods) + 2
    for tokens in writes.contexts:
        for rows in writes.batches:
            prefill = fmean(_seconds(step, rows * tokens, here, backward=False) for step in steps)
            decode = fmean(_seconds(step, rows, here, backward=False) for step in steps)
            seconds += (prefill + writes.new_tokens * decode) * models
    return seconds * (probe.blocks * (probe.rounds + probe.rebuild) + 1)


def _of_cell(cell: Cell, steps: dict[tuple[BackboneSpec, str], _Step], length: float, workers: int) -> float:
    step = steps.get((cell.backbone, _same(cell.method)))
    if step is None:
        return START_SECONDS
    here, recipe = machine(cell.device, cell.threads, torch.float32), cell.recipe
    on_cpu = cell.device != "cuda"
    trains, reads = (
        max(1.0, workers * cell.threads * devices / cores()) if on_cpu else 1.0 for devices in (cell.devices, 1)
    )
    one = _seconds(step, recipe["batch_size"] / cell.devices * length, here, cores_shared=trains)
    row = _seconds(step, length, here, backward=False, cores_shared=reads)
    readings: int = cell.task.test_rows * (1 + recipe.get("curve_points", 0))
    steps_taken: int = recipe["steps"]
    plain = _seconds(step, _plain_tokens(cell), here, backward=False, cores_shared=reads)
    start = START_SECONDS + (DEVICES_SECONDS if cell.devices > 1 else 0.0)
    return start + steps_taken * one + readings * row + plain


def _plain_tokens(cell: Cell) -> float:
    """Tokens of plain texts that are read, once at the end and at points of the curve where the suite asks for it."""
    if cell.retention is None:
        return 0.0
    times = max(1, cell.recipe.get("curve_points", 0)) if cell.retention.on_the_way else 1
    return times * sum(text.bytes for text in cell.retention.texts) / BYTES_OF_A_TOKEN


def _length(cell: Cell) -> float:
    """Mean tokens of a row, cut at the recipe's ``max_length``, from the words of some rows."""
    rows = rows_of(cell).train
    columns = [list(column) for column in zip(*rows.texts[:SAMPLE], strict=True)]
    ids = HashingTokenizer(1 << 15)(*columns, truncation=False, max_length=0)["input_ids"]
    most: int = cell.recipe["max_length"]
    return fmean(min(SUBWORDS * len(row), most) for row in ids)


def _of_sweep(sweep: Sweep, steps: dict[tuple[BackboneSpec, str], _Step]) -> float:
    own = [step for method in sweep.methods if (step := steps.get((sweep.backbone, _same(method)))) is not None]
    grown = sum(sweep.values) / (sweep.values[0] * len(sweep.values)) if sweep.vary == "layers" else 1.0
    return START_SECONDS + 2 * grown * len(sweep.values) * sum(step.counting for step in own)

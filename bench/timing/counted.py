"""Counts each method of a probe in a process of its own: what one does to its process moves no other's figures."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from bench import registry
from bench.count.count import Counts, count, summary, with_workspace_seen
from bench.count.fake import uncounted
from bench.count.isolation import Lost, ProcessState, apart, each_apart
from bench.count.ledger import StepFigures, count_step
from bench.count.memory import measure_step, workspace_bytes
from bench.count.outcome import Findings
from bench.count.step import PROVEN, hold, prove
from bench.errors import BenchError, said
from bench.method import Batch
from bench.models.head import trainable
from bench.schema.jobs import MethodSpec, Probe
from bench.schema.record import CostRecord, Inference, Inferences, ServedBytes, tasks_key
from bench.store.environment import at_once
from bench.timing import generation
from bench.timing import inference as latency
from bench.timing.models import Models
from bench.training.contract import finalize, notes_of, stored_bytes


def base_inference(models: Models) -> Inference:
    """Counts of the bare backbone under the head."""
    return latency.count_inference(models.base(), models.batch(1, models.probe.latency_length))


def base_generation(models: Models) -> dict[int, generation.Counted]:
    """Counts of writing with the bare backbone, by context; none where the probe asks for none."""
    writes = models.probe.generation
    return generation.count_contexts(models.base(), writes.contexts if writes else (), models.row)


PEAKS = 3
"""Peaks of the first method's step, most often full's, that a fork may take: a step beside what it is held against."""


class Moved(Exception):
    """Why no time of a process stands: what a method did to what all of them share."""


class Bench:
    """What one probe measures with: models to build from, and a fork for each method that is counted.

    Args:
        probe: What is measured.
        threads: Torch threads of the forks.
    """

    def __init__(self, probe: Probe, threads: int) -> None:
        self.probe, self.threads = probe, threads
        self.models = Models(probe)
        self.base = apart(functools.partial(base_inference, self.models), threads=threads)
        """Counts of the bare backbone."""
        writes = functools.partial(base_generation, self.models)
        self.base_generation = apart(writes, threads=threads) if probe.generation else {}
        """Counts of the text that it writes, by context."""
        self._known = self._first()

    def _first(self) -> dict[str, Counts]:
        """The first method on fake tensors, counted here where it is built in: forks share what torch keeps of that.

        Not where torch has CUDA: backward would begin threads of the device, without which no fork can run its own.
        """
        first = self.probe.methods[0]
        if "/" in first.name or len(self.probe.methods) < 3 or torch.version.cuda or torch.version.hip:
            return {}
        with contextlib.suppress(BenchError):  # its fork says so in its record
            if (counts := predicted(self.models, first, Findings())) is not None:
                return {first.label: counts}
        return {}

    def counted(self) -> Iterator[Findings]:
        """All that is counted of each method in a fork of its own, in order; of one that is lost, how it ended.

        As many forks at once as the cores and the free memory carry: nothing in them is timed.
        """
        probe, bases = self.probe, (self.base, self.base_generation)
        works = [
            functools.partial(_counted, self.models, spec, bases, self._known.get(spec.label)) for spec in probe.methods
        ]
        threads = self.threads if probe.timed else 1  # which figures do not know of; more would wait for each other
        forks = self._at_once(threads)
        for answer in each_apart(works, at_once=forks, seconds=probe.seconds_of_a_method, threads=threads):
            if isinstance(answer, Lost):
                found = Findings()
                found.lose(answer)
                yield found
            else:
                yield answer

    def _at_once(self, threads: int) -> int:
        """Forks that count side by side; one where a real step is taken and its memory is not known beforehand."""
        carried = at_once(len(self.probe.methods), threads)
        if not self.probe.timed:
            return carried
        first = self._known.get(self.probe.methods[0].label)
        if first is None:
            return 1
        fit: int = psutil.virtual_memory().available // (PEAKS * first.peak.step)
        return max(1, min(carried, fit))


Bases = tuple[Inference, dict[int, generation.Counted]]
"""Counts of the bare backbone: of one inference, and of what it writes."""


def _counted(models: Models, spec: MethodSpec, bases: Bases, known: Counts | None) -> Findings:
    found, state = Findings(), ProcessState()
    try:
        count_training(models, spec, found, known)
        if models.probe.inference:
            deployed = models.deployed(spec.label, checked=True)
            count_inference(models, deployed, found, bases[0])
            count_generation(models, deployed, found, bases[1])
            count_serving(models, found)
    except BaseException as error:  # the outermost frame of a method's process, SystemExit too: a failure is a result
        found.fail(error)
    if changes := state.changes():
        found.disturbs = tuple(changes)
        found.note(
            [f"it changes what all methods of a process share ({', '.join(changes)}); counted in one of its own"]
        )
    return found


def count_training(models: Models, spec: MethodSpec, found: Findings, known: Counts | None = None) -> None:
    """Ledger of a training step on fake tensors, and where the probe is timed its memory on a real step."""
    counts = known or predicted(models, spec, found)
    if counts is not None and models.probe.timed and models.device == "cuda":
        counts = with_workspace_seen(counts, workspace_bytes(models.device, models.setting.loaded))
    if counts is not None:
        found.figures |= counts.figures(CostRecord)
    if "/" in spec.name:
        with _or_nothing(found):
            step = models.step(spec.label, noise=False, checked=True)
            step.batch = _short(models)
            hold(step)
    if counts is not None and not models.probe.timed:
        return
    step = models.step(spec.label, noise=False)
    if counts is None:
        ledger = count_step(step.model, step.origin, step.forward, step.backward, step.optimize)
    held, peak, source = measure_step(step)
    with _or_nothing(found):
        prove(step, _short(models))
    found.held_bytes = held.weights + held.optimizer_state
    if counts is None:
        delta = stored_bytes(step.method, finalize(step.method, step.model.body), trainable(step.model.body))
        counts = summary(step.model, ledger, held, peak, delta, (*notes_of(step.method, step.model.body), *step.notes))
        found.figures |= counts.figures(CostRecord) | {"predicted_peak_memory_bytes": None}
    found.figures |= {
        "bytes": held.model_copy(update={"saved_activations": counts.bytes.saved_activations}),
        "peak_memory_bytes": peak, "peak_memory_source": source,
    }  # fmt: skip


def _short(models: Models) -> Batch:
    return models.batch(2, min(models.probe.length, PROVEN))


@contextlib.contextmanager
def _or_nothing(found: Findings) -> Iterator[None]:
    """Keep no figure of a method that breaks its word inside: they would be those of something else."""
    try:
        yield
    except BenchError:
        found.figures.clear()
        raise


def predicted(models: Models, spec: MethodSpec, found: Findings) -> Counts | None:
    """The ledger on fake tensors; None, with the reason among the warnings, where an operation has no fake form."""
    method, config = registry.make(spec.name, spec.config, spec.label)
    try:
        return count(models.probe.backbone, method, config, models.setting)
    except BenchError:
        raise  # the family cannot carry the method: no real step can be built either
    except Exception as error:  # whatever a third party's operation does without data
        found.warnings.append(f"no predicted peak, counted on real tensors instead: {uncounted(error)}")
        return None


def count_inference(models: Models, deployed: latency.Deployed, found: Findings, base: Inference) -> None:
    """Count one row's inference; compare the merged model with the bare backbone and with the unmerged model."""
    length = models.probe.latency_length
    batch = models.batch(1, length)
    body, unmerged = deployed.unmerged.body, latency.count_inference(deployed.unmerged, batch)
    merged = None if deployed.merged is None else latency.count_inference(deployed.merged, batch)
    found.note(notes_of(deployed.method, body))  # what only weights with values can show
    found.figures["latency_length"] = length
    found.figures["inference"] = Inferences(base=base, unmerged=unmerged, merged=merged)
    if deployed.merged is not None:
        compared = latency.compare_structure(deployed.merged.body, models.fresh().eval(), batch)
        found.figures["merged_equals_base"] = compared
        found.figures["merge_error"] = latency.merge_error(deployed.method, body, batch)


def count_serving(models: Models, found: Findings) -> None:
    """Count what as many tasks take as the probe asks for."""
    if (asked := models.probe.serving) is not None and "delta_bytes" in found.figures:
        copy, delta = models.bare_bytes, found.figures["delta_bytes"]
        found.figures["serving_bytes"] = {
            tasks_key(tasks): ServedBytes(deltas=tasks * delta, copies=tasks * copy) for tasks in asked.tasks
        }


def count_generation(
    models: Models, deployed: latency.Deployed, found: Findings, base: dict[int, generation.Counted]
) -> None:
    """Count what writing takes; a method that cannot write has a warning in place of these figures alone."""
    if not base:
        return
    try:
        found.figures |= generation.generation_figures(base, deployed, models.row)
    except Exception as error:  # of whatever a third party's module does with a cache; all else is still worth keeping
        found.warnings.append(f"no figures of generation: {said(error) or type(error).__name__}")


@dataclasses.dataclass(frozen=True)
class Unmoved:
    """What timing must leave as it was: the state of its process, and the counts of baseline and bare backbone."""

    models: Models
    baseline: MethodSpec
    figures: dict[str, Any]
    """Counts of the baseline, taken in a process of its own."""
    base: Inference
    """Counts of the bare backbone, taken likewise."""
    state: ProcessState = dataclasses.field(default_factory=ProcessState)

    def moved(self) -> str | None:
        """What is otherwise now, as the reason why no time of this process stands; None where nothing is."""
        if changes := self.state.changes():
            return f"a method changes what all methods share ({', '.join(changes)})"
        now = self._counts()
        for name in [field.name for field in dataclasses.fields(StepFigures)]:
            if now[name] != self.figures[name]:
                return (
                    f"a method changes what the baseline computes ({_difference(name, self.figures[name], now[name])})"
                )
        inference = base_inference(self.models)
        if inference != self.base:
            return f"a method changes what the backbone computes ({_difference('inference', self.base, inference)})"
        return None

    def _counts(self) -> dict[str, Any]:
        counts = predicted(self.models, self.baseline, Findings())
        if counts is not None:
            return vars(counts)
        step = self.models.step(self.baseline.label, noise=False)
        return vars(count_step(step.model, step.origin, step.forward, step.backward, step.optimize))


def _difference(name: str, before: Any, after: Any) -> str:
    """The first number that differs, such as ``flops.forward 39 -> 52``."""
    if isinstance(before, int | float):
        return f"{name} {before:,} -> {after:,}"
    ours, theirs = before.model_dump(), after.model_dump()
    field = next(field for field in ours if ours[field] != theirs[field])
    values = (ours[field], theirs[field])
    plain = all(isinstance(value, int | float) for value in values)
    return f"{name}.{field} {values[0]:,} -> {values[1]:,}" if plain else f"{name}.{field}"

"""Takes all figures of one probe, stage by stage over all methods; a method that fails leaves the others alone."""

import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import psutil
import torch

from bench import registry
from bench.count.count import Counts, count, summary
from bench.count.ledger import count_step
from bench.count.memory import measure_step, nbytes
from bench.count.outcome import Findings
from bench.errors import BenchError
from bench.models.head import TaskModel
from bench.schema.figures import BASE
from bench.schema.jobs import MethodSpec, Probe
from bench.schema.record import Inference, Inferences, Latencies, Latency
from bench.timing import inference as latency
from bench.timing.clock import PHASES, Seen, StepClock
from bench.timing.interleave import (
    Arm,
    Asked,
    Builds,
    Pace,
    Round,
    Samples,
    control,
    decided,
    groups,
    interleave,
    renew,
    timing,
)
from bench.timing.models import Models


class Key(NamedTuple):
    """One of the things that are timed against each other."""

    label: str
    """Of a method; empty for the bare backbone under the head."""
    form: Literal["", "again", "merged"] = ""
    """``again``: a second build for the A/A control; ``merged``: folded into the backbone."""

    def again(self) -> "Key":
        """The second build of this one."""
        return Key(self.label, "again")

    def __str__(self) -> str:
        return " ".join(filter(None, (self.label or BASE, self.form)))


BARE = Key("")


class Session:
    """One probe at work.

    Each stage builds its modules afresh from one pristine backbone with the same seeds and drops them again, so no
    stage sees what another one left behind.
    """

    def __init__(self, probe: Probe, findings: dict[str, Findings], progress: Callable[[str], None]) -> None:
        self._probe = probe
        self._findings = findings
        self._progress = progress
        self._order = random.Random(0)
        self._pace = Pace(0.0)
        self._specs = {spec.label: spec for spec in probe.methods}
        self._models = Models(probe)
        self.device = self._models.device

    def completed(self) -> Iterator[str]:
        """Take all figures; yields each label as soon as none of its figures is to come.

        Methods are timed against each other, so those of one group come together. What is counted alone comes method
        by method, and a method that fails comes at once.
        """
        if not self._probe.timed:
            yield from self._counted_alone()
            return
        self.count()
        yielded = {label: None for label, found in self._findings.items() if not found.ok}
        yield from list(yielded)
        timed = self._groups(list(self._specs), lambda found: found.held_bytes)
        self._pace = Pace(sum(self._work(labels) for labels in timed))
        for number, labels in enumerate(timed, start=1):
            of = f" of group {number}/{len(timed)}" if len(timed) > 1 else ""
            self._time_group(labels, of)
            for some in self._groups(labels, lambda found: 2 * found.held_bytes):
                self._infer_group(some, of)
            yield from (label for label in labels if label not in yielded)
            yielded |= dict.fromkeys(labels)
        yield from (label for label in self._specs if label not in yielded)

    def _counted_alone(self) -> Iterator[str]:
        for done, (label, spec) in enumerate(self._specs.items(), start=1):
            with self._answering_for(label) as found:
                self._count(spec, found)
                self._count_inference(self._models.deployed(label), found)
            self._progress(f"counted {done}/{len(self._specs)}")
            yield label

    def count(self) -> None:
        """Ledger of every method on fake tensors, memory on a real step."""
        for done, (label, spec) in enumerate(self._specs.items(), start=1):
            with self._answering_for(label) as found:
                self._count(spec, found)
            self._progress(f"counted {done}/{len(self._specs)}")

    def _work(self, labels: Sequence[str]) -> float:
        """Of timing ``labels``: FLOPs of their training steps and inference, in all blocks that the suite asks for."""
        probe = self._probe
        training = probe.rounds * self._step_work(labels)
        inference = sum(probe.latency_rounds(rows) * self._latency_work(labels, rows) for rows in probe.latency_batches)
        return probe.blocks * (training + inference)

    def _step_work(self, labels: Sequence[str]) -> float:
        """FLOPs of a round of training steps."""
        flops = [self._findings[label].figures["flops"] for label in (*labels, self._probe.baseline)]
        return float(sum(one.forward + one.backward for one in flops))

    def _latency_work(self, labels: Sequence[str], rows: int) -> float:
        """FLOPs of a round of inference of ``rows`` rows; the merged and the bare model count as a method each."""
        share: float = rows * self._probe.latency_length / (self._probe.batch * self._probe.length)
        forward: int = sum(self._findings[label].figures["flops"].forward for label in labels)
        return 2 * share * forward

    @contextmanager
    def _answering_for(self, label: str) -> Iterator[Findings]:
        """Whatever a method raises inside becomes its own failure."""
        try:
            yield self._findings[label]
        except Exception as error:  # the outermost frame of a method's part: its failure is a result
            self._findings[label].fail(error)

    def _count(self, spec: MethodSpec, found: Findings) -> None:
        counts = self._predict(spec, found)
        if counts is not None and not self._probe.timed:
            found.figures |= _counted(counts) | {"bytes": counts.bytes, "delta_bytes": counts.delta_bytes}
            return
        step = self._models.step(spec.label, noise=False)
        if counts is None:
            ledger = count_step(step.model, step.origin, step.forward, step.backward)
        held, peak, source = measure_step(step)
        found.held_bytes = held.weights + held.optimizer_state
        delta = nbytes(step.method.delta(step.method.finalize(step.model.body)).values())
        if counts is None:
            counts = summary(step.model, ledger, held, peak, delta)
        found.figures |= _counted(counts) | {
            "delta_bytes": delta,
            "bytes": held.model_copy(update={"saved_activations": counts.bytes.saved_activations}),
            "peak_memory_bytes": peak,
            "peak_memory_source": source,
        }

    def _predict(self, spec: MethodSpec, found: Findings) -> Counts | None:
        """The ledger on fake tensors; None, with the reason among the warnings, where an operation has no fake form."""
        method, config = registry.make(spec.name, spec.config, spec.label)
        try:
            counts = count(self._probe.backbone, method, config, self._models.setting)
        except BenchError:
            raise  # the family cannot carry the method: no real step can be built either
        except Exception as error:  # whatever a third party's operation does without data
            reason = (str(error).splitlines() or [""])[0]
            found.warnings.append(
                f"no predicted peak, counted on real tensors instead: the step does not run on fake ones "
                f"({type(error).__name__}: {reason})"
            )
            return None
        found.figures["predicted_peak_memory_bytes"] = counts.peak
        return counts

    def _groups(self, labels: Sequence[str], size: Callable[[Findings], int]) -> list[list[str]]:
        """``labels`` that have not failed, in groups that fit in 60 % of the free memory beside one running step."""
        alive = {label: size(self._findings[label]) for label in labels if self._findings[label].ok}
        baseline = self._probe.baseline
        if baseline not in alive:
            for label in alive:
                self._warn_once(label, f"no times: the baseline {baseline} failed")
            return []
        largest = max(self._findings[label].figures["peak_memory_bytes"].step for label in alive)
        return groups(alive, baseline, int(0.6 * free_bytes(self.device)) - largest)

    def _warn_once(self, label: str, warning: str) -> None:
        if warning not in self._findings[label].warnings:
            self._findings[label].warnings.append(warning)

    def _time_group(self, labels: list[str], suffix: str) -> None:
        baseline = Key(self._probe.baseline)
        keys = [*map(Key, labels), baseline.again()]
        seen = {key: Seen() for key in keys}
        clocks = Builds(keys, lambda key: self._models.clock(key.label, seen[key]))
        arms = []
        for key in keys:
            with self._answering_for(key.label):
                clocks.get(key)  # raises what making it raised
                arms.append(Arm(key, functools.partial(_step, clocks, key)))
        asked = [
            Asked(b.phase, Key(b.method), Key(b.versus), b.bounds, b.equivalence)
            for b in self._probe.bounds
            if b.phase in PHASES
        ]
        with self._answering_for(baseline.label):
            clocks.get(baseline).run()
            seen[baseline.again()].repeats = seen[baseline].repeats  # as alike as the code
        samples = self._interleave(
            arms,
            [clocks],
            self._probe.rounds,
            "timed block {}" + suffix,
            asked,
            baseline,
            work=self._probe.rounds * self._step_work(labels),
        )
        if not self._paired(samples, labels, baseline):
            return
        if seen[baseline].loss != seen[baseline.again()].loss:
            self._findings[baseline.label].warnings.append("the two builds of the A/A control have different losses")
        controls = {phase: control(samples[baseline.again()], samples[baseline], phase) for phase in PHASES}
        for label in labels:
            if (key := Key(label)) not in samples:
                continue
            with self._answering_for(label) as found:
                found.warnings += seen[key].warnings
                found.figures.setdefault("aa_control", {}).update(controls)
                for phase in PHASES:
                    found.figures[f"{phase}_seconds"] = timing(samples[key], samples[baseline], phase)

    def _interleave(
        self,
        arms: list[Arm],
        builds: Sequence[Builds[Any]],
        rounds: int,
        line: str,
        asked: Sequence[Asked],
        control_key: Key,
        work: float,
    ) -> dict[Key, Samples]:
        """Time ``arms``, which run ``builds``, until what is asked of them is decided.

        Args:
            arms: What to time.
            builds: What the arms run.
            rounds: Rounds in a block.
            line: What people read, with a place for ``3/6``.
            asked: Ratios that claims are about.
            control_key: Has a second arm beside it.
            work: FLOPs of a block.
        """  # fmt: skip
        blocks = self._probe.blocks

        def on_block(done: int) -> None:
            left = self._pace.left(work if done <= blocks else 0.0)
            self._progress(line.format(f"{done}/{blocks * -(-done // blocks)}") + f", about {left:.0f} s left")

        samples, errors = interleave(
            arms, blocks=blocks, rounds=rounds, on_block=on_block, extra_seconds=self._probe.extra_seconds,
            enough=lambda found: decided(found, asked, control_key.again(), control_key),
            renew=functools.partial(renew, builds, self._order) if self._probe.rebuild else None,
        )  # fmt: skip
        for key, error in errors.items():
            if key.label in self._findings:
                self._findings[key.label].fail(error)
        return samples

    def _paired(self, samples: dict[Key, Samples], labels: Iterable[str], baseline: Key) -> bool:
        """Whether the baseline and its control came through; says so in all findings where not."""
        if baseline in samples and baseline.again() in samples:
            return True
        for label in labels:
            self._findings[label].warnings.append("no ratios: the baseline failed while it was timed")
        return False

    def _infer_group(self, labels: list[str], suffix: str) -> None:
        builds, alive = Builds(labels, self._models.deployed), []
        for label in labels:
            with self._answering_for(label) as found:
                self._count_inference(builds.get(label), found)
                self._switch(builds.get(label), found)
                alive.append(label)
        for rows in self._probe.latency_batches:
            self._infer_batch(builds, alive, rows, suffix)

    @functools.cached_property
    def _base_inference(self) -> Inference:
        """Of the bare backbone under the head."""
        return latency.count_inference(self._models.base(), self._models.batch(1, self._probe.latency_length))

    def _count_inference(self, deployed: latency.Deployed, found: Findings) -> None:
        batch = self._models.batch(1, self._probe.latency_length)
        body, unmerged = deployed.unmerged.body, latency.count_inference(deployed.unmerged, batch)
        merged = None if deployed.merged is None else latency.count_inference(deployed.merged, batch)
        found.figures["latency_length"] = self._probe.latency_length
        found.figures["inference"] = Inferences(base=self._base_inference, unmerged=unmerged, merged=merged)
        if deployed.merged is not None:
            compared = latency.compare_structure(deployed.merged.body, self._models.fresh().eval(), batch)
            found.figures["merged_equals_base"] = compared
            found.figures["merge_error"] = latency.merge_error(deployed.method, body, batch)

    def _switch(self, deployed: latency.Deployed, found: Findings) -> None:
        seconds = latency.switch_seconds(deployed.method, deployed.unmerged.body, self.device)
        found.figures["switch_seconds"] = seconds
        if seconds is None:
            found.warnings.append("no switch time: the delta is empty or not a set of tensors of the running module")

    def _infer_batch(self, builds: Builds[latency.Deployed], labels: list[str], rows: int, suffix: str) -> None:
        batch = self._models.batch(rows, self._probe.latency_length)
        bases = Builds((BARE, BARE.again()), lambda key: self._models.base())
        models: dict[Key, Callable[[], TaskModel | None]] = {
            key: functools.partial(bases.get, key) for key in bases.keys
        }
        for label in labels:
            with self._answering_for(label):  # a build of an earlier batch may have failed
                folds = builds.get(label).folded is not None
                models[Key(label)] = functools.partial(_unmerged, builds, label)
                if folds:
                    models[Key(label, "merged")] = functools.partial(_folded, builds, label)
        arms = [latency.inference_arm(key, model, batch, self.device) for key, model in models.items()]
        rounds = self._probe.latency_rounds(rows)
        asked = [
            Asked("latency", Key(b.method, "merged" if b.merged else ""), BARE, b.bounds, b.equivalence)
            for b in self._probe.bounds if b.phase == "latency" and b.batch == rows and b.versus == BASE
        ]  # fmt: skip
        line = f"latency at batch {rows}: block {{}}{suffix}"
        samples = self._interleave(
            arms, [bases, builds], rounds, line, asked, BARE, work=rounds * self._latency_work(labels, rows)
        )
        if not self._paired(samples, labels, BARE):
            return
        found = control(samples[BARE.again()], samples[BARE], "latency")
        for label in labels:
            plain, folded = Key(label), Key(label, "merged")
            if plain not in samples or (folded in models and folded not in samples):
                continue
            controls = self._findings[label].figures.setdefault("aa_control", {})
            controls |= {f"latency_batch_{rows}": found, "latency": controls.get("latency", found)}
            with self._answering_for(label):
                foldable = builds.get(label).merged is not None
                merged = samples.get(folded, samples[plain]) if foldable else None
                self._add_latency(label, rows, samples[BARE], samples[plain], merged)

    def _add_latency(self, label: str, rows: int, base: Samples, unmerged: Samples, merged: Samples | None) -> None:
        old: Latencies | None = self._findings[label].figures.get("latency_seconds")

        def joined(mode: str, samples: Samples) -> Latency:
            before: Latency | None = getattr(old, mode, None)
            return Latency.of((before.by_batch if before else {}) | {rows: timing(samples, base, "latency")})

        self._findings[label].figures["latency_seconds"] = Latencies(
            base=joined("base", base), unmerged=joined("unmerged", unmerged),
            merged=joined("merged", merged) if merged is not None else None,
        )  # fmt: skip


def _step(clocks: Builds[StepClock], key: Key) -> Round:
    return clocks.get(key).run()


def _unmerged(builds: Builds[latency.Deployed], label: str) -> TaskModel:
    return builds.get(label).unmerged


def _folded(builds: Builds[latency.Deployed], label: str) -> TaskModel | None:
    return builds.get(label).folded


def _counted(counts: Counts) -> dict[str, Any]:
    """Figures that no real step adds to."""
    return {
        "trainable_parameters": counts.trainable, "flops": counts.flops, "largest_saved": counts.largest_saved,
        "backward_path": counts.backward_path,
    }  # fmt: skip


def free_bytes(device: str) -> int:
    """Memory of ``device`` that new tensors may take."""
    if device != "cuda":
        return int(psutil.virtual_memory().available)
    torch.cuda.empty_cache()  # blocks that the allocator keeps for itself would count as taken
    free: int = torch.cuda.mem_get_info()[0]
    return free

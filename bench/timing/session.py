"""Takes all figures of one probe, stage by stage over all methods; a method that fails leaves the others alone."""

import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn

from bench import registry
from bench.count.attribution import Origin
from bench.count.count import Counts, count, summary
from bench.count.ledger import count_step
from bench.count.memory import measure_step, nbytes
from bench.count.outcome import Findings
from bench.count.setting import Setting
from bench.count.step import TrainingStep, adapt, optimizer_groups, random_batch, randomise
from bench.errors import BenchError
from bench.models import backbone
from bench.models.head import Head, TaskModel, make_head
from bench.models.positions import check_positions
from bench.schema.claims import BASE
from bench.schema.jobs import MethodSpec, Probe
from bench.schema.record import Inference, Inferences, Latencies, Latency
from bench.timing import inference as latency
from bench.timing.builds import Builds, renew
from bench.timing.clock import PHASES, Seen, StepClock
from bench.timing.interleave import Arm, Asked, Round, Samples, control, decided, groups, interleave, timing
from bench.training.loop import make_optimizer, optimizer_for

AGAIN = "\0again"
"""Key suffix of the baseline's second build, the A/A control."""


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
        self._specs = {spec.label: spec for spec in probe.methods}
        self.device = device_of(probe)
        self._setting = Setting(**probe.step(), device=self.device, outputs=probe.outputs)
        self._pristine = backbone.load(probe.backbone, dtype=self._setting.loaded, attention=probe.attention)

    def count(self) -> None:
        """Ledger of every method on fake tensors, memory on a real step."""
        for done, (label, spec) in enumerate(self._specs.items(), start=1):
            with self._answering_for(label) as found:
                self._count(spec, found)
            self._progress(f"counted {done}/{len(self._specs)}")

    def time(self) -> None:
        """Training phases of every method against the baseline."""
        for number, labels in enumerate(groups_ := self._groups(lambda found: found.held_bytes), start=1):
            self._time_group(labels, f" of group {number}/{len(groups_)}" if len(groups_) > 1 else "")

    def count_inference(self) -> None:
        """What inference of every method takes, and whether a merged one is the base again: weights, but no clock."""
        for label in [label for label, found in self._findings.items() if found.ok]:
            with self._answering_for(label) as found:
                self._count_inference(self._deployed(label), found)

    def infer(self) -> None:
        """Inference of every method, as trained and merged, against the bare backbone."""
        for number, labels in enumerate(groups_ := self._groups(lambda found: 2 * found.held_bytes), start=1):
            self._infer_group(labels, f" of group {number}/{len(groups_)}" if len(groups_) > 1 else "")

    def clock(self, label: str, seen: Seen | None = None) -> StepClock:
        """A training step of method ``label``, its delta moved off zero, ready to be timed."""
        step = self._step(self._specs[label], noise=True)
        if self._probe.compile:
            step.model.compile()
        return StepClock(step, self.device, seen)

    @contextmanager
    def _answering_for(self, label: str) -> Iterator[Findings]:
        """Whatever a method raises inside becomes its own failure."""
        try:
            yield self._findings[label]
        except Exception as error:  # the outermost frame of a method's part: its failure is a result
            self._findings[label].fail(error)

    def _adapt(self, spec: MethodSpec) -> tuple[Any, Any, Origin, TaskModel]:
        method, config = registry.make(spec.name, spec.config, spec.label)
        longest = max(self._probe.length, self._probe.latency_length)
        check_positions(self._pristine, longest, method.reserved_positions(config), option="length", at=spec.label)
        return method, config, *adapt(self._fresh(), method, config, self._head(), self._setting)

    def _fresh(self) -> nn.Module:
        return copy.deepcopy(self._pristine).to(self.device)

    def _head(self) -> Head:
        return make_head(self._pristine, self._probe.outputs).to(self.device)

    def _batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        vocabulary: int = self._pristine.config.vocab_size  # type: ignore[union-attr, assignment]
        return random_batch(rows, length, vocabulary=vocabulary, outputs=self._probe.outputs, device=self.device)

    def _step(self, spec: MethodSpec, *, noise: bool) -> TrainingStep:
        method, config, origin, model = self._adapt(spec)
        if noise:
            randomise(model.body)
        groups = optimizer_groups(model, method, self._probe.learning_rate, self._probe.head_learning_rate)
        make = functools.partial(make_optimizer, form=self._probe.optimizer)
        optimizer = optimizer_for(method, model.body, groups, make=make)
        batch = self._batch(self._probe.batch, self._probe.length)
        return TrainingStep(method, config, model, origin, optimizer, batch, self._setting.autocast)

    def _count(self, spec: MethodSpec, found: Findings) -> None:
        counts = self._predict(spec, found)
        if counts is not None and not self._probe.timed:
            found.figures |= _counted(counts) | {"bytes": counts.bytes, "delta_bytes": counts.delta_bytes}
            return
        step = self._step(spec, noise=False)
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
            counts = count(self._probe.backbone, method, config, self._setting)
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

    def _groups(self, size: Callable[[Findings], int]) -> list[list[str]]:
        """Methods that have not failed, in groups that fit in 60 % of the free memory beside one running step."""
        alive = {label: size(found) for label, found in self._findings.items() if found.ok}
        baseline = self._probe.baseline
        if baseline not in alive:
            for label in alive:
                self._findings[label].warnings.append(f"no times: the baseline {baseline} failed")
            return []
        largest = max(self._findings[label].figures["peak_memory_bytes"].step for label in alive)
        return groups(alive, baseline, int(0.6 * free_bytes(self.device)) - largest)

    def _time_group(self, labels: list[str], suffix: str) -> None:
        baseline = self._probe.baseline
        keys = [*labels, baseline + AGAIN]
        seen = {key: Seen() for key in keys}
        clocks = Builds(keys, lambda key: self.clock(key.removesuffix(AGAIN), seen[key]))
        arms = []
        for key in keys:
            with self._answering_for(key.removesuffix(AGAIN)):
                clocks.get(key)  # raises what making it raised
                arms.append(Arm(key, functools.partial(_step, clocks, key)))
        asked = [
            Asked(b.phase, b.method, b.versus, b.bounds, b.equivalence) for b in self._probe.bounds if b.phase in PHASES
        ]
        with self._answering_for(baseline):
            clocks.get(baseline).run()
            seen[baseline + AGAIN].repeats = seen[baseline].repeats  # as alike as the code
        samples = self._interleave(arms, [clocks], self._probe.rounds, "timed block {}" + suffix, asked, baseline)
        if not self._paired(samples, labels, baseline):
            return
        if seen[baseline].loss != seen[baseline + AGAIN].loss:
            self._findings[baseline].warnings.append("the two builds of the A/A control have different losses")
        controls = {phase: control(samples[baseline + AGAIN], samples[baseline], phase) for phase in PHASES}
        for label in labels:
            if label not in samples:
                continue
            with self._answering_for(label) as found:
                found.warnings += seen[label].warnings
                found.figures.setdefault("aa_control", {}).update(controls)
                for phase in PHASES:
                    found.figures[f"{phase}_seconds"] = timing(samples[label], samples[baseline], phase)

    def _interleave(
        self,
        arms: list[Arm],
        builds: Sequence[Builds[Any]],
        rounds: int,
        line: str,
        asked: Sequence[Asked],
        control_key: str,
    ) -> dict[str, Samples]:
        """Time ``arms``, which run ``builds``, until what is asked of them is decided.

        ``control_key`` has a second arm beside it.

        A key is a label, with a suffix after a NUL where a label has several arms.
        """
        blocks = self._probe.blocks

        def on_block(done: int) -> None:
            self._progress(line.format(f"{done}/{blocks * -(-done // blocks)}"))

        samples, errors = interleave(
            arms, blocks=blocks, rounds=rounds, on_block=on_block, extra_seconds=self._probe.extra_seconds,
            enough=lambda found: decided(found, asked, control_key + AGAIN, control_key),
            renew=functools.partial(renew, builds, self._order) if self._probe.rebuild else None,
        )  # fmt: skip
        for key, error in errors.items():
            if (label := key.partition("\0")[0]) in self._findings:
                self._findings[label].fail(error)
        return samples

    def _paired(self, samples: dict[str, Samples], labels: Iterable[str], baseline: str) -> bool:
        """Whether the baseline and its control came through; says so in all findings where not."""
        if baseline in samples and baseline + AGAIN in samples:
            return True
        for label in labels:
            self._findings[label].warnings.append("no ratios: the baseline failed while it was timed")
        return False

    def _infer_group(self, labels: list[str], suffix: str) -> None:
        builds, alive = Builds(labels, self._deployed), []
        for label in labels:
            with self._answering_for(label) as found:
                self._count_inference(builds.get(label), found)
                self._switch(builds.get(label), found)
                alive.append(label)
        for rows in self._probe.latency_batches:
            self._infer_batch(builds, alive, rows, suffix)

    def _deployed(self, label: str) -> latency.Deployed:
        method, _, _, model = self._adapt(self._specs[label])
        model.to(self._setting.loaded)  # what trained under autocast is deployed without
        randomise(model.body)
        return latency.deploy(method, model.body, model.head)

    @functools.cached_property
    def _base_inference(self) -> Inference:
        """Of the bare backbone under the head."""
        return latency.count_inference(self._base(), self._batch(1, self._probe.latency_length))

    def _base(self) -> TaskModel:
        return TaskModel(self._fresh(), self._head()).eval()

    def _count_inference(self, deployed: latency.Deployed, found: Findings) -> None:
        batch = self._batch(1, self._probe.latency_length)
        body, unmerged = deployed.unmerged.body, latency.count_inference(deployed.unmerged, batch)
        merged = None if deployed.merged is None else latency.count_inference(deployed.merged, batch)
        found.figures["latency_length"] = self._probe.latency_length
        found.figures["inference"] = Inferences(base=self._base_inference, unmerged=unmerged, merged=merged)
        if deployed.merged is not None:
            compared = latency.compare_structure(deployed.merged.body, self._fresh().eval(), batch)
            found.figures["merged_equals_base"] = compared
            found.figures["merge_error"] = latency.merge_error(deployed.method, body, batch)

    def _switch(self, deployed: latency.Deployed, found: Findings) -> None:
        seconds = latency.switch_seconds(deployed.method, deployed.unmerged.body, self.device)
        found.figures["switch_seconds"] = seconds
        if seconds is None:
            found.warnings.append("no switch time: the delta is empty or not a set of tensors of the running module")

    def _infer_batch(self, builds: Builds[latency.Deployed], labels: list[str], rows: int, suffix: str) -> None:
        batch, bare = self._batch(rows, self._probe.latency_length), "\0base"
        bases = Builds((bare, bare + AGAIN), lambda key: self._base())
        models: dict[str, Callable[[], TaskModel | None]] = {
            key: functools.partial(bases.get, key) for key in bases.keys
        }
        for label in labels:
            with self._answering_for(label):  # a build of an earlier batch may have failed
                folds = builds.get(label).folded is not None
                models[label] = functools.partial(_unmerged, builds, label)
                if folds:
                    models[f"{label}\0merged"] = functools.partial(_folded, builds, label)
        arms = [latency.inference_arm(key, model, batch, self.device) for key, model in models.items()]
        rounds = self._probe.latency_rounds(rows)
        asked = [
            Asked("latency", f"{b.method}\0merged" if b.merged else b.method, bare, b.bounds, b.equivalence)
            for b in self._probe.bounds if b.phase == "latency" and b.batch == rows and b.versus == BASE
        ]  # fmt: skip
        line = f"latency at batch {rows}: block {{}}{suffix}"
        samples = self._interleave(arms, [bases, builds], rounds, line, asked, bare)
        if not self._paired(samples, labels, bare):
            return
        found = control(samples[bare + AGAIN], samples[bare], "latency")
        for label in labels:
            if label not in samples or (f"{label}\0merged" in models and f"{label}\0merged" not in samples):
                continue
            controls = self._findings[label].figures.setdefault("aa_control", {})
            controls |= {f"latency_batch_{rows}": found, "latency": controls.get("latency", found)}
            with self._answering_for(label):
                foldable = builds.get(label).merged is not None
                merged = samples.get(f"{label}\0merged", samples[label]) if foldable else None
                self._add_latency(label, rows, samples[bare], samples[label], merged)

    def _add_latency(self, label: str, rows: int, base: Samples, unmerged: Samples, merged: Samples | None) -> None:
        old: Latencies | None = self._findings[label].figures.get("latency_seconds")

        def joined(mode: str, samples: Samples) -> Latency:
            before: Latency | None = getattr(old, mode, None)
            return Latency.of((before.by_batch if before else {}) | {rows: timing(samples, base, "latency")})

        self._findings[label].figures["latency_seconds"] = Latencies(
            base=joined("base", base), unmerged=joined("unmerged", unmerged),
            merged=joined("merged", merged) if merged is not None else None,
        )  # fmt: skip


def _step(clocks: Builds[StepClock], key: str) -> Round:
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


def device_of(probe: Probe) -> str:
    """``cuda`` or ``cpu``; ``auto`` takes CUDA where there is one.

    Raises:
        BenchError: The probe asks for CUDA and there is none.
    """
    if probe.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if probe.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("device cuda is not available here; use cpu or auto")
    return probe.device


def free_bytes(device: str) -> int:
    """Memory of ``device`` that new tensors may take."""
    if device != "cuda":
        return int(psutil.virtual_memory().available)
    torch.cuda.empty_cache()  # blocks that the allocator keeps for itself would count as taken
    free: int = torch.cuda.mem_get_info()[0]
    return free

"""Takes all figures of one probe, stage by stage over all methods; a method that fails leaves the others alone."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn

from bench import backbone, registry
from bench.anatomy import anatomy
from bench.cost import latency
from bench.cost.account import Account
from bench.cost.ledger import count_step
from bench.cost.memory import measure_step, nbytes
from bench.cost.places import Origin
from bench.cost.step import TrainingStep, random_batch, randomise, without_dropout
from bench.cost.timing import Arm, Samples, control, groups, interleave, timing
from bench.cost.training import PHASES, StepClock
from bench.errors import BenchError
from bench.head import Head, TaskModel, make_head
from bench.plan import MethodSpec, Probe
from bench.record import Latencies, Latency, Trainable
from bench.train import NonFiniteLoss, check_groups, head_groups, make_optimizer

RECORDED_BATCHES = (1, 32)
"""Batch sizes that a record has a place for."""
SMALL_BATCH_ROUNDS = 4
"""Rounds at batch 1 for one at batch 32: a run is short there and its share of noise is larger."""
AGAIN = "\0again"
"""Key suffix of the baseline's second build, the A/A control."""


class Session:
    """One probe at work.

    Each stage builds its modules afresh from one pristine backbone with the same seeds and drops them again, so no
    stage sees what another one left behind.
    """

    def __init__(self, probe: Probe, accounts: dict[str, Account], progress: Callable[[str], None]) -> None:
        self._probe = probe
        self._accounts = accounts
        self._progress = progress
        self._specs = {spec.label: spec for spec in probe.methods}
        self.device = device_of(probe)
        self._pristine = backbone.load(probe.backbone, dtype=getattr(torch, probe.dtype), attention=probe.attention)

    def count(self) -> None:
        """Ledger and memory of every method: two real steps each."""
        for done, (label, spec) in enumerate(self._specs.items(), start=1):
            with self._answering_for(label) as account:
                self._count(spec, account)
            self._progress(f"counted {done}/{len(self._specs)}")

    def time(self) -> None:
        """Training phases of every method against the baseline."""
        for number, labels in enumerate(groups_ := self._groups(lambda account: account.held_bytes), start=1):
            self._time_group(labels, f" of group {number}/{len(groups_)}" if len(groups_) > 1 else "")

    def infer(self) -> None:
        """Inference of every method, as trained and merged, against the bare backbone."""
        for number, labels in enumerate(groups_ := self._groups(lambda account: 2 * account.held_bytes), start=1):
            self._infer_group(labels, f" of group {number}/{len(groups_)}" if len(groups_) > 1 else "")

    @contextmanager
    def _answering_for(self, label: str) -> Iterator[Account]:
        """Whatever a method raises inside becomes its own failure."""
        try:
            yield self._accounts[label]
        except Exception as error:  # the outermost frame of a method's part: its failure is a result
            self._accounts[label].fail(error)

    def _adapt(self, spec: MethodSpec) -> tuple[Any, Any, Origin, TaskModel]:
        method, config = registry.make(spec.name, spec.config, spec.label)
        positions = anatomy(self._pristine).positions
        longest = max(self._probe.length, self._probe.latency_length) + method.reserved_positions(config)
        if positions is not None and longest > positions:
            raise BenchError(f"{spec.label}: {longest} positions, prompt included, but the backbone has {positions}")
        fresh = self._fresh()
        origin, head = Origin(fresh), self._head()
        torch.manual_seed(0)
        model = TaskModel(method.apply(fresh, config), head).train()
        without_dropout(model)
        return method, config, origin, model

    def _fresh(self) -> nn.Module:
        return copy.deepcopy(self._pristine).to(self.device)

    def _head(self) -> Head:
        return make_head(self._pristine, self._probe.outputs, dropout=0.0).to(self.device)

    def _batch(self, rows: int, length: int) -> dict[str, torch.Tensor]:
        vocabulary: int = self._pristine.config.vocab_size  # type: ignore[union-attr, assignment]
        return random_batch(rows, length, vocabulary=vocabulary, outputs=self._probe.outputs, device=self.device)

    def _step(self, spec: MethodSpec, *, noise: bool) -> TrainingStep:
        method, config, origin, model = self._adapt(spec)
        if noise:
            randomise(model.body)
        chosen = method.param_groups(model.body, self._probe.learning_rate)
        chosen += head_groups(model.head, self._probe.head_learning_rate)
        check_groups(chosen, model)
        batch = self._batch(self._probe.batch, self._probe.length)
        return TrainingStep(method, config, model, origin, make_optimizer(chosen), batch)

    def _count(self, spec: MethodSpec, account: Account) -> None:
        step = self._step(spec, noise=False)
        account.figures["trainable_parameters"] = Trainable(
            method=_trainable(step.model.body), head=_trainable(step.model.head)
        )
        ledger = count_step(step.model, step.origin, step.forward, step.backward)
        if not math.isfinite(ledger.loss):
            raise NonFiniteLoss(f"the loss of the first step is {ledger.loss}")
        step.optimize()
        held, peak, source = measure_step(step)
        account.held_bytes = held.weights + held.optimizer_state
        delta = step.method.delta(step.method.finalize(step.model.body))
        account.figures |= {
            "flops": ledger.flops, "bytes": held.model_copy(update={"saved_activations": ledger.saved_activations}),
            "peak_memory_bytes": peak, "peak_memory_source": source, "delta_bytes": nbytes(delta.values()),
        }  # fmt: skip

    def _groups(self, size: Callable[[Account], int]) -> list[list[str]]:
        """Methods that have not failed, in groups that fit in 60 % of the free memory beside one running step."""
        alive = {label: size(account) for label, account in self._accounts.items() if account.ok}
        baseline = self._probe.baseline
        if baseline not in alive:
            for label in alive:
                self._accounts[label].warnings.append(f"no times: the baseline {baseline} failed")
            return []
        largest = max(self._accounts[label].figures["peak_memory_bytes"].step for label in alive)
        return groups(alive, baseline, int(0.6 * free_bytes(self.device)) - largest)

    def _time_group(self, labels: list[str], suffix: str) -> None:
        baseline, clocks = self._probe.baseline, dict[str, StepClock]()
        for key in [*labels, baseline + AGAIN]:
            label = key.removesuffix(AGAIN)
            with self._answering_for(label):
                clocks[key] = StepClock(self._step(self._specs[label], noise=True), self.device)
        arms = [Arm(key, stepping.run) for key, stepping in clocks.items()]
        samples = self._interleave(arms, self._probe.rounds, f"timed block {{}}/{self._probe.blocks}{suffix}")
        if not self._paired(samples, labels, baseline):
            return
        if clocks[baseline].loss != clocks[baseline + AGAIN].loss:
            self._accounts[baseline].warnings.append("the two builds of the A/A control have different losses")
        controls = {phase: control(samples[baseline + AGAIN], samples[baseline], phase) for phase in PHASES}
        for label in labels:
            if label not in samples:
                continue
            with self._answering_for(label) as account:
                account.warnings += clocks[label].warnings
                account.figures.setdefault("aa_control", {}).update(controls)
                for phase in PHASES:
                    account.figures[f"{phase}_seconds"] = timing(samples[label], samples[baseline], phase)

    def _interleave(self, arms: list[Arm], rounds: int, line: str) -> dict[str, Samples]:
        """Time ``arms``; a key is a label, with a suffix after a NUL where a label has several arms."""
        samples, errors = interleave(
            arms, blocks=self._probe.blocks, rounds=rounds, on_block=lambda done: self._progress(line.format(done))
        )
        for key, error in errors.items():
            if (label := key.partition("\0")[0]) in self._accounts:
                self._accounts[label].fail(error)
        return samples

    def _paired(self, samples: dict[str, Samples], labels: Iterable[str], baseline: str) -> bool:
        """Whether the baseline and its control came through; says so in every account where not."""
        if baseline in samples and baseline + AGAIN in samples:
            return True
        for label in labels:
            self._accounts[label].warnings.append("no ratios: the baseline failed while it was timed")
        return False

    def _infer_group(self, labels: list[str], suffix: str) -> None:
        deployed: dict[str, latency.Deployed] = {}
        for label in labels:
            with self._answering_for(label) as account:
                method, _, _, model = self._adapt(self._specs[label])
                randomise(model.body)
                deployed[label] = latency.deploy(method, model.body, model.head)
                self._structure(deployed[label], account)
        for rows in self._probe.latency_batches:
            if rows in RECORDED_BATCHES:
                self._infer_batch(deployed, rows, suffix)
                continue
            for account in self._accounts.values():
                account.warnings.append(f"no latency at batch {rows}: a record holds batches 1 and 32")

    def _structure(self, deployed: latency.Deployed, account: Account) -> None:
        batch = self._batch(1, self._probe.latency_length)
        body = deployed.unmerged.body
        if deployed.merged is not None:
            compared = latency.compare_structure(deployed.merged.body, self._fresh().eval(), batch)
            account.figures["merged_equals_base"] = compared
            account.figures["merge_error"] = latency.merge_error(deployed.method, body, batch)
        seconds = latency.switch_seconds(deployed.method, body, self.device)
        account.figures["switch_seconds"] = seconds
        if seconds is None:
            account.warnings.append("no switch time: the delta is empty or not a set of tensors of the running module")

    def _infer_batch(self, deployed: dict[str, latency.Deployed], rows: int, suffix: str) -> None:
        batch, base = self._batch(rows, self._probe.latency_length), "\0base"
        models = {key: TaskModel(self._fresh(), self._head()).eval() for key in (base, base + AGAIN)}
        for label, ready in deployed.items():
            models[label] = ready.unmerged
            if ready.merged is not None and ready.merged is not ready.unmerged:
                models[f"{label}\0merged"] = ready.merged
        arms = [latency.inference_arm(key, model, batch, self.device) for key, model in models.items()]
        rounds = self._probe.rounds * (SMALL_BATCH_ROUNDS if rows == 1 else 1)
        line = f"latency at batch {rows}: block {{}}/{self._probe.blocks}{suffix}"
        samples = self._interleave(arms, rounds, line)
        if not self._paired(samples, deployed, base):
            return
        found = control(samples[base + AGAIN], samples[base], "latency")
        for label, ready in deployed.items():
            if label not in samples or (f"{label}\0merged" in models and f"{label}\0merged" not in samples):
                continue
            controls = self._accounts[label].figures.setdefault("aa_control", {})
            controls |= {f"latency_batch_{rows}": found, "latency": controls.get("latency", found)}
            merged = samples.get(f"{label}\0merged", samples[label]) if ready.merged is not None else None
            with self._answering_for(label):
                self._add_latency(label, rows, samples[base], samples[label], merged)

    def _add_latency(self, label: str, rows: int, base: Samples, unmerged: Samples, merged: Samples | None) -> None:
        empty = Latencies(base=Latency(), unmerged=Latency(), merged=Latency() if merged else None)
        old: Latencies = self._accounts[label].figures.get("latency_seconds", empty)
        place = f"batch_{rows}"
        new = {
            variant: getattr(old, variant).model_copy(update={place: timing(samples, base, "latency")})
            for variant, samples in (("base", base), ("unmerged", unmerged), ("merged", merged))
            if samples is not None
        }
        self._accounts[label].figures["latency_seconds"] = old.model_copy(update=new)


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


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)

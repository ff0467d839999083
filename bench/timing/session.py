"""Times all methods of one probe against each other, stage by stage; one that fails leaves the others alone."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import psutil
import torch

from bench.count.isolation import parts
from bench.count.outcome import Findings
from bench.models.head import TaskModel
from bench.schema.figures import BASE, GENERATION, MODES
from bench.schema.jobs import Probe
from bench.schema.record import GenerationTimes, Latencies, Latency, ServingTimes, context_key, tasks_key
from bench.timing import generation, serving
from bench.timing import inference as latency
from bench.timing.clock import PHASES, Seen, StepClock
from bench.timing.counted import Bench, Moved, Unmoved
from bench.timing.device import Gpu, Work, counter, energies, gpu, resolution
from bench.timing.interleave import (
    Arm,
    Asked,
    Builds,
    Pace,
    Samples,
    clock,
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


class Served(NamedTuple):
    """One way of answering a batch of several tasks of a method."""

    label: str
    way: str
    tasks: int


Sent = tuple[str, Findings] | tuple[None, str | Moved]
"""What a timing fork sends: the findings of a label, or without one a line for people, or why no time of it stands."""


@dataclasses.dataclass
class Session:
    """What the stages of one probe share.

    Each stage has its modules built afresh from one pristine backbone with the same seeds and drops them again, so no
    stage sees what another one left behind.
    """

    models: Models
    findings: dict[str, Findings]
    progress: Callable[[str], None]
    order: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))
    """Draws the order in which builds are made anew."""
    pace: Pace = dataclasses.field(default_factory=lambda: Pace(0.0))
    """Of all timed work."""
    board: Gpu | None = None
    """The GPU that is measured on, where it says who uses it."""
    strangers: int = 0
    """Most processes of others that were seen on it."""

    @property
    def probe(self) -> Probe:
        """What is measured."""
        return self.models.probe

    def look(self) -> None:
        """See who else uses the GPU."""
        if self.board is not None:
            self.strangers = max(self.strangers, self.board.others())

    def doubt(self, labels: Iterable[str]) -> None:
        """Say in the findings of ``labels`` that another process used the GPU, where one did."""
        for found in (self.findings[label] for label in labels if self.strangers):
            found.figures["flags"] = ("foreign_process",)
            found.warnings.append(
                f"another process used the GPU while times were taken ({self.strangers} at once): no claim about times "
                "is decided"
            )

    @contextmanager
    def answering_for(self, label: str) -> Iterator[Findings]:
        """Whatever a method raises inside becomes its own failure."""
        try:
            yield self.findings[label]
        except Exception as error:  # the outermost frame of a method's part: its failure is a result
            self.findings[label].fail(error)

    def interleaved(
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

        Returns:
            Samples of the arms that came through; the findings of the others say why they did not.
        """
        blocks = self.probe.blocks

        def on_block(done: int) -> None:
            self.look()
            left = self.pace.left(work if done <= blocks else 0.0)
            self.progress(line.format(f"{done}/{blocks * -(-done // blocks)}") + f", about {left:.0f} s left")

        samples, errors = interleave(
            arms, blocks=blocks, rounds=rounds, on_block=on_block, extra_seconds=self.probe.extra_seconds,
            enough=lambda found: decided(found, asked, control_key.again(), control_key),
            renew=functools.partial(renew, builds, self.order) if self.probe.rebuild else None,
        )  # fmt: skip
        for key, error in errors.items():
            if key.label in self.findings:
                self.findings[key.label].fail(error)
        return samples

    def paired(self, samples: dict[Key, Samples], labels: Iterable[str], baseline: Key) -> bool:
        """Whether the baseline and its control came through; says so in all findings where not."""
        if baseline in samples and baseline.again() in samples:
            return True
        for label in labels:
            self.findings[label].warnings.append("no ratios: the baseline failed while it was timed")
        return False


def together(
    bench: Bench, findings: dict[str, Findings], labels: Sequence[str], progress: Callable[[str], None]
) -> Iterator[tuple[str, Findings]]:
    """Time ``labels`` against each other in a fork of this process; yields the findings of each with its times.

    Args:
        bench: What counted them.
        findings: With the counts of each; left as they are.
        labels: Methods, the baseline among them.
        progress: Called with short lines.

    Raises:
        Lost: The fork ended, hung or raised what no method is to blame for.
        Moved: A method changed what the others are measured with.
    """
    probe, own = bench.probe, {label: findings[label] for label in labels}

    def work(send: Callable[[Sent], None]) -> None:
        board = gpu() if bench.models.device == "cuda" else None
        session = Session(bench.models, own, lambda line: send((None, line)), board=board)
        baseline = next(spec for spec in probe.methods if spec.label == probe.baseline)
        figures = findings[probe.baseline].figures
        timed(session, Unmoved(bench.models, baseline, figures, bench.base), labels, send)

    for label, value in parts(work, seconds=probe.seconds_of_a_method, threads=bench.threads):
        if isinstance(value, Moved):
            raise value
        if isinstance(value, Findings):
            assert label is not None
            yield label, value
        else:
            progress(value)


def timed(session: Session, unmoved: Unmoved, labels: Sequence[str], send: Callable[[Sent], None]) -> None:
    """Time ``labels`` against each other, in groups that fit in memory together.

    Sends the findings of each group once none of its figures is to come; the last thing sent is the reason where a
    method has moved what the times of others are made of, and then no figure of its group stands.

    Args:
        session: With the counts of each method in its findings.
        unmoved: What timing must leave as it was.
        labels: Methods, the baseline among them.
        send: Takes what is found.
    """
    in_groups = _groups(session, labels, lambda found: found.held_bytes)
    session.pace = Pace(sum(_work(session, group) for group in in_groups))
    session.look()
    yielded: set[str] = set()
    for number, group in enumerate(in_groups, start=1):
        of = f" of group {number}/{len(in_groups)}" if len(in_groups) > 1 else ""
        time_training(session, group, of)
        for some in _groups(session, group, lambda found: 2 * found.held_bytes) if session.probe.inference else ():
            time_inference(session, some, of)
        if (reason := unmoved.moved()) is not None:
            send((None, Moved(reason)))
            return
        fresh = [label for label in group if label not in yielded]
        session.doubt(fresh)
        for label in fresh:
            send((label, session.findings[label]))
        yielded |= {*group}
    for label in labels:
        if label not in yielded:
            send((label, session.findings[label]))


def _work(session: Session, labels: Sequence[str]) -> float:
    """Of timing ``labels``: FLOPs of their training steps and inference, in all blocks that the suite asks for."""
    probe = session.probe
    training = probe.rounds * _step_work(session, labels)
    latencies = (probe.latency_rounds(rows) * _latency_work(session, labels, rows) for rows in probe.latency_batches)
    writing = (probe.rounds * _generation_work(session, labels, *size) for size in _written(probe))
    return probe.blocks * (training + sum(latencies) + sum(writing))


def _step_work(session: Session, labels: Sequence[str]) -> float:
    """FLOPs of a round of training steps."""
    flops = [session.findings[label].figures["flops"] for label in (*labels, session.probe.baseline)]
    return float(sum(one.forward + one.backward for one in flops))


def _latency_work(session: Session, labels: Sequence[str], rows: int) -> float:
    """FLOPs of a round of inference of ``rows`` rows; the merged and the bare model count as a method each."""
    probe = session.probe
    share: float = rows * probe.latency_length / (probe.batch * probe.length)
    forward: int = sum(session.findings[label].figures["flops"].forward for label in labels)
    return 2 * share * forward


def _groups(session: Session, labels: Sequence[str], size: Callable[[Findings], int]) -> list[list[str]]:
    """``labels`` that have not failed, in groups that fit in the free memory beside one running step."""
    findings, baseline = session.findings, session.probe.baseline
    alive = {label: size(findings[label]) for label in labels if findings[label].ok}
    if baseline not in alive:
        warning = f"no times: the baseline {baseline} failed"
        for found in (findings[label] for label in alive):
            found.warnings += [warning] if warning not in found.warnings else []
        return []
    running = [(findings[label].figures["peak_memory_bytes"].step, findings[label].held_bytes) for label in alive]
    return groups(alive, baseline, room_of(session.models.device, free_bytes(session.models.device), running))


def room_of(device: str, free: int, steps: Sequence[tuple[int, int]]) -> int:
    """Bytes for what is held between rounds while any one of ``steps`` runs: peak bytes, and those of it that it holds.

    On the CPU 60 % of what is free, less the largest peak: others may take the rest at any time. Of a GPU, which a
    probe has alone, 90 %, less the most that a step takes beside what it holds; the rest is for fragmentation.
    """
    if device != "cuda":
        return int(0.6 * free) - max(peak for peak, _ in steps)
    return int(0.9 * free) - max(peak - held for peak, held in steps)


def time_training(session: Session, labels: list[str], suffix: str) -> None:
    """Time training steps of ``labels`` against each other and against a second build of the baseline.

    ``suffix`` says which group it is, for people.
    """
    probe, findings = session.probe, session.findings
    baseline = Key(probe.baseline)
    keys = [*map(Key, labels), baseline.again()]
    seen = {key: Seen() for key in keys}
    clocks = Builds(keys, lambda key: session.models.clock(key.label, seen[key]))
    arms = []
    for key in keys:
        with session.answering_for(key.label):
            clocks.get(key)  # raises what making it raised
            arms.append(Arm(key, lambda key=key: clocks.get(key).run()))  # type: ignore[misc]
    asked = [
        Asked(b.phase, Key(b.method), Key(b.versus), b.bounds, b.equivalence) for b in probe.bounds if b.phase in PHASES
    ]
    with session.answering_for(baseline.label):
        clocks.get(baseline).run()
        seen[baseline.again()].repeats = seen[baseline].repeats  # as alike as the code
    work = probe.rounds * _step_work(session, labels)
    samples = session.interleaved(arms, [clocks], probe.rounds, "timed block {}" + suffix, asked, baseline, work=work)
    if not session.paired(samples, labels, baseline):
        return
    if seen[baseline].loss != seen[baseline.again()].loss:
        findings[baseline.label].warnings.append("the two builds of the A/A control have different losses")
    controls = {phase: control(samples[baseline.again()], samples[baseline], phase) for phase in PHASES}
    for key in [key for key in map(Key, labels) if key in samples]:
        with session.answering_for(key.label) as found:
            found.warnings += seen[key].warnings
            found.figures.setdefault("aa_control", {}).update(controls)
            for phase in PHASES:
                found.figures[f"{phase}_seconds"] = timing(samples[key], samples[baseline], phase)
    if probe.energy:
        _take_energy(session, clocks, [label for label in labels if Key(label) in samples])


def _take_energy(session: Session, clocks: Builds[StepClock], labels: Iterable[str]) -> None:
    """Read the device's counter of energy, where there is one, around stretches of steps of each of ``labels``."""
    device, findings = session.models.device, session.findings
    works = {
        label: Work(
            findings[label].figures["step_seconds"].median,
            lambda label=label: clocks.get(Key(label)).once(),  # type: ignore[misc]
            functools.partial(clock, device),
        )
        for label in labels
        if findings[label].ok and "step_energy" not in findings[label].figures  # the baseline's, in a later group
    }
    meter = counter(device) if works else None
    if meter is None:
        return
    session.progress(f"energy of a step, by {meter.source}")
    try:
        finest = resolution(meter)
        taken = {} if finest is None else energies(meter, finest, works)
    except OSError:  # it could be read a moment ago
        finest, taken = None, {}
    for label, work in works.items():
        with session.answering_for(label) as found:
            energy = taken.get(label)
            if isinstance(energy, Exception):
                raise energy
            if energy is not None:
                found.figures["step_energy"] = energy
            elif finest is None:
                found.warnings.append(f"no energy: the counter ({meter.source}) stands still or cannot be read")
            else:
                found.warnings.append(
                    f"no energy: a step takes {1e3 * work.seconds:.3g} ms, and the counter ({meter.source}) changes "
                    f"every {1e3 * finest:.3g} ms"
                )


def time_inference(session: Session, labels: list[str], suffix: str) -> None:
    """Time inference of ``labels`` at every batch, and the switch of tasks."""
    builds, alive = Builds(labels, session.models.deployed), []
    for label in labels:
        with session.answering_for(label) as found:
            deployed = builds.get(label)
            seconds = latency.switch_seconds(deployed.method, deployed.unmerged.body, session.models.device)
            found.figures["switch_seconds"] = seconds
            if seconds is None:
                found.warnings.append(
                    "no switch time: the delta is empty or not a set of tensors of the running module"
                )
            alive.append(label)
    for rows in session.probe.latency_batches:
        _time_batch(session, builds, alive, rows, suffix)
    for tokens, rows in _written(session.probe):
        counted = [label for label in alive if session.findings[label].figures.get("decode")]
        _time_generation(session, builds, counted, tokens, rows, suffix)
    if session.probe.serving is not None:
        _time_serving(session, builds, alive, suffix)


def _written(probe: Probe) -> list[tuple[int, int]]:
    """Contexts and batches that text is written at."""
    writes = probe.generation
    return [(tokens, rows) for tokens in writes.contexts for rows in writes.batches] if writes else []


def _running(
    session: Session, builds: Builds[latency.Deployed], bases: Builds[TaskModel], labels: Iterable[str]
) -> dict[Key, Callable[[], TaskModel | None]]:
    """What gives the model of the moment: of the bare backbone, twice, and of each method, as trained and merged."""
    models: dict[Key, Callable[[], TaskModel | None]] = {key: functools.partial(bases.get, key) for key in bases.keys}
    for label in labels:
        with session.answering_for(label):  # a build of an earlier batch may have failed
            folds = builds.get(label).folded is not None
            models[Key(label)] = lambda label=label: builds.get(label).unmerged  # type: ignore[misc]
            if folds:
                models[Key(label, "merged")] = lambda label=label: builds.get(label).folded  # type: ignore[misc]
    return models


def _time_batch(session: Session, builds: Builds[latency.Deployed], labels: list[str], rows: int, suffix: str) -> None:
    probe = session.probe
    batch = session.models.batch(rows, probe.latency_length)
    bases = Builds((BARE, BARE.again()), lambda key: session.models.base())
    models = _running(session, builds, bases, labels)
    arms = [latency.inference_arm(key, model, batch, session.models.device) for key, model in models.items()]
    rounds = probe.latency_rounds(rows)
    asked = [
        Asked("latency", Key(b.method, "merged" if b.merged else ""), BARE, b.bounds, b.equivalence)
        for b in probe.bounds if b.phase == "latency" and b.batch == rows and b.versus == BASE
    ]  # fmt: skip
    line = f"latency at batch {rows}: block {{}}{suffix}"
    work = rounds * _latency_work(session, labels, rows)
    samples = session.interleaved(arms, [bases, builds], rounds, line, asked, BARE, work=work)
    if not session.paired(samples, labels, BARE):
        return
    noise = control(samples[BARE.again()], samples[BARE], "latency")
    for label in labels:
        plain, folded = Key(label), Key(label, "merged")
        if plain not in samples or (folded in models and folded not in samples):
            continue
        controls = session.findings[label].figures.setdefault("aa_control", {})
        controls |= {f"latency_batch_{rows}": noise, "latency": controls.get("latency", noise)}
        with session.answering_for(label) as found:
            foldable = builds.get(label).merged is not None
            merged = samples.get(folded, samples[plain]) if foldable else None
            _add_latency(found, rows, samples[BARE], samples[plain], merged)


def _add_latency(found: Findings, rows: int, base: Samples, unmerged: Samples, merged: Samples | None) -> None:
    old: Latencies | None = found.figures.get("latency_seconds")

    def joined(mode: str, samples: Samples) -> Latency:
        before: Latency | None = getattr(old, mode, None)
        return Latency.of((before.by_batch if before else {}) | {rows: timing(samples, base, "latency")})

    found.figures["latency_seconds"] = Latencies(
        base=joined("base", base), unmerged=joined("unmerged", unmerged),
        merged=joined("merged", merged) if merged is not None else None,
    )  # fmt: skip


def _time_generation(
    session: Session, builds: Builds[latency.Deployed], labels: list[str], tokens: int, rows: int, suffix: str
) -> None:
    """Time prefill and decode of ``labels`` on ``rows`` prompts of ``tokens`` against the bare backbone."""
    writes = session.probe.generation
    assert writes is not None
    ids = session.models.rows(rows, tokens)
    bases = Builds((BARE, BARE.again()), lambda key: session.models.base())
    models = _running(session, builds, bases, labels)
    arms = [
        generation.generation_arm(key, model, ids, writes.new_tokens, session.models.device)
        for key, model in models.items()
    ]
    asked = [
        Asked(b.phase, Key(b.method, "merged" if b.merged else ""), BARE, b.bounds, b.equivalence)
        for b in session.probe.bounds
        if b.phase in GENERATION and (b.context, b.batch, b.versus) == (tokens, rows, BASE)
    ]
    line = f"generation at {rows} x {tokens}: block {{}}{suffix}"
    work = session.probe.rounds * _generation_work(session, labels, tokens, rows)
    samples = session.interleaved(arms, [bases, builds], session.probe.rounds, line, asked, BARE, work=work)
    if not session.paired(samples, labels, BARE):
        return
    noise = {
        f"{phase}_{context_key(tokens)}_batch_{rows}": control(samples[BARE.again()], samples[BARE], phase)
        for phase in GENERATION
    }
    for label in labels:
        plain, folded = Key(label), Key(label, "merged")
        if plain not in samples or (folded in models and folded not in samples):
            continue
        with session.answering_for(label) as found:
            found.figures.setdefault("aa_control", {}).update(noise)
            found.figures["new_tokens"] = writes.new_tokens
            merged = samples.get(folded, samples[plain]) if builds.get(label).merged is not None else None
            for phase in GENERATION:
                _add_generation(found, phase, tokens, rows, (samples[BARE], samples[plain], merged))


def _add_generation(
    found: Findings, phase: str, tokens: int, rows: int, samples: tuple[Samples, Samples, Samples | None]
) -> None:
    old: GenerationTimes | None = found.figures.get(f"{phase}_seconds")

    def joined(mode: str, ours: Samples | None) -> dict[str, Latency] | None:
        if ours is None:
            return None
        before: dict[str, Latency] = getattr(old, mode, None) or {}
        held = before[context_key(tokens)].by_batch if context_key(tokens) in before else {}
        return before | {context_key(tokens): Latency.of(held | {rows: timing(ours, samples[0], phase)})}

    modes = {mode: joined(mode, ours) for mode, ours in zip((BASE, *MODES), samples, strict=True)}
    found.figures[f"{phase}_seconds"] = GenerationTimes(**modes)  # type: ignore[arg-type]


def _time_serving(session: Session, builds: Builds[latency.Deployed], labels: list[str], suffix: str) -> None:
    """Time a batch whose rows belong to several tasks of a method, in every way, against the bare backbone."""
    asked, device = session.probe.serving, session.models.device
    assert asked is not None
    ids = session.models.rows(asked.rows, session.probe.latency_length)
    served: dict[str, list[Served]] = {}
    arms = [serving.serving_arm(BARE, _states(session.models.base().body, ids), device),
            serving.serving_arm(BARE.again(), _states(session.models.base().body, ids), device)]  # fmt: skip
    for label in labels:
        with session.answering_for(label) as found:
            ways = serving.answers(builds.get(label), ids, asked.tasks, free_bytes(device), found.warnings)
            served[label] = [Served(label, way, tasks) for way, tasks in ways]
            arms += [serving.serving_arm(Served(label, *key), run, device) for key, run in ways.items()]
    line, rounds = f"tasks served in batches of {asked.rows}: block {{}}{suffix}", session.probe.rounds
    work = rounds * len(asked.tasks) * _latency_work(session, [*served], asked.rows)
    samples: dict[Any, Samples] = session.interleaved(arms, [], rounds, line, [], BARE, work=work)
    if not session.paired(samples, served, BARE):
        return
    noise = control(samples[BARE.again()], samples[BARE], "latency")
    for label, keys in served.items():
        if not keys or any(key not in samples for key in keys):
            continue
        with session.answering_for(label) as found:
            times: dict[str, dict[str, Any]] = {}
            for key in keys:
                taken = timing(samples[key], samples[BARE], "latency")
                times.setdefault(key.way, {})[tasks_key(key.tasks)] = taken
            found.figures.setdefault("aa_control", {})["serving"] = noise
            found.figures["serving_rows"] = asked.rows
            found.figures["serving_seconds"] = ServingTimes(
                base=timing(samples[BARE], samples[BARE], "latency"), in_turns=times["in_turns"],
                mixed=times.get("mixed"), merged_in_turns=times.get("merged_in_turns"),
            )  # fmt: skip


def _states(body: Any, ids: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: body(input_ids=ids).last_hidden_state


def _generation_work(session: Session, labels: Iterable[str], tokens: int, rows: int) -> float:
    """FLOPs of a round of writing; the merged and the bare model count as a method each."""
    writes, key, total = session.probe.generation, context_key(tokens), 0
    assert writes is not None
    for label in labels:
        figures = session.findings[label].figures
        if figures.get("decode"):
            prefill, decode = (figures[phase].unmerged[key].flops for phase in GENERATION)
            total += 2 * rows * (prefill + writes.new_tokens * decode)
    return float(total)


def free_bytes(device: str) -> int:
    """Memory of ``device`` that new tensors may take."""
    if device != "cuda":
        return int(psutil.virtual_memory().available)
    torch.cuda.empty_cache()  # blocks that the allocator keeps for itself would count as taken
    free: int = torch.cuda.mem_get_info()[0]
    return free

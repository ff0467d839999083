"""Compares the training steps of two versions of ``methods/``, which take turns in processes of their own."""

import dataclasses
import io
import math
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from bench import registry
from bench.ab.worker import Arm, Built
from bench.errors import BenchError
from bench.plan.planner import make_plan
from bench.plan.select import Selection, label, select
from bench.schema.jobs import Probe
from bench.schema.record import Control
from bench.schema.suite import Suite
from bench.stats.intervals import LEVEL, Interval, holm, pooled_median
from bench.timing.clock import PHASES
from bench.timing.interleave import Samples


@dataclass(frozen=True)
class Tree:
    """A folder that holds one version of the package ``methods``."""

    name: str
    """As the user gave it, with the commit where it is a revision: ``main (1a2b3c4)``."""
    path: Path


def unpack(wanted: str, into: Path) -> Tree:
    """Lay out ``methods/`` of git revision ``wanted`` in folder ``into``, or find it in the folder of that name.

    Args:
        wanted: A revision of the repository around the working directory, such as ``main`` or ``HEAD~1``; else a folder
            that has ``methods/``, such as ``.`` for the files as they stand.
        into: Folder for the files of a revision; made where it is missing.

    Raises:
        BenchError: It is neither, or the revision has no ``methods/``.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{wanted}^{{commit}}")
    if commit is None:
        if (Path(wanted) / "methods" / "__init__.py").is_file():
            return Tree(wanted, Path(wanted).resolve())
        raise BenchError(f"{wanted!r} is no git revision here and no folder with methods/; give one of the two")
    root = (_git("rev-parse", "--show-toplevel") or b"").decode().strip()
    short = commit.decode()[:7]
    files = _git("-C", root, "archive", "--format=tar", commit.decode().strip(), "methods")
    if files is None:
        raise BenchError(f"{wanted} ({short}) has no methods/; give a revision that has it")
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(into, filter="data")
    return Tree(wanted if commit.startswith(wanted.encode()) else f"{wanted} ({short})", into)


def _git(*arguments: str) -> bytes | None:
    """Output of a git command; None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


BLOCKS = 20
"""Blocks of a comparison, the unit that intervals are made of."""
MOST_REPEATS = 5
"""Optimizer steps in one sample: more would take time from the rounds, of which there are many."""
TINY = 1e-9
"""Least standard error of a log ratio: clocks know no better."""
ARMS = ("base", "head", "head_again", "base_again")
"""Processes in the order of their start. One that starts later may run faster (measured: 2 % on a busy machine), so
both versions have the same mean place."""

Verdict = Literal["slower", "faster", "not slower", "inconclusive"]


@dataclass(frozen=True)
class Comparison:
    """One phase of one method's training step in two versions."""

    method: str
    phase: str
    """``forward``, ``backward``, ``optimizer`` or ``step``, their sum."""
    clock: str
    """``cpu``: CPU seconds of the process, which a competing process does not lengthen; ``wall`` on a GPU."""
    base_seconds: float
    """Median over both processes of the base."""
    ratio: float
    """Head by base: exp of the median log ratio over all rounds and pairs of processes."""
    interval: Interval
    """95 %: Student's t over blocks, its error widened by ``apart``."""
    error: float
    """Standard error of the log ratio, by bootstrap over blocks."""
    control: Control
    """The base's second process against its first: how far identical code appears apart."""
    head_control: Control
    """The same of the head."""
    apart: float
    """Log ratio by which one process of the same code differs, beyond what the luck of blocks explains."""
    seconds: dict[str, tuple[tuple[float, ...], ...]]
    """Raw samples by process, ``[block][round]``."""
    verdict: Verdict = "inconclusive"


@dataclass(frozen=True)
class Compared:
    """What became of one method."""

    method: str
    phases: tuple[Comparison, ...] = ()
    failed: Literal["", "base", "head", "absent"] = ""
    """The version that could not be measured; ``absent``: one has no such method, so there is nothing to compare."""
    note: str = ""
    """Why, or what a reader must know of the times."""


def probe_of(suite: Suite, methods: Sequence[str] | None, device: str) -> tuple[Probe, list[str] | None]:
    """The first cost shape of ``suite``, its methods as the suite spells them: each version has its own defaults.

    No budget of the suite chooses sizes here: those of two versions could differ.

    Args:
        suite: A checked suite.
        methods: Specs from the command line, or None for the suite's methods.
        device: ``cpu`` or ``cuda``.

    Returns:
        The probe, and the labels of what ``methods`` names; None for None.

    Raises:
        BenchError: The suite has no cost shape, or a name is not known.
    """
    if not suite.cost:
        raise BenchError(f"suite {suite.name!r} has no [[cost]] shape to time; name one that has")
    narrowed = suite.model_copy(
        update={"tasks": (), "seeds": (), "sweep": (), "crossover": (), "claim": (), "match": None}
    )
    if methods is not None:
        narrowed = select(narrowed, Selection(methods=tuple(methods)))
    if foreign := [table.name for table in narrowed.method if "/" in table.name]:
        raise BenchError(f"{foreign[0]} comes from another package: ab compares two versions of methods/ alone")
    probe = make_plan(narrowed, f"suite {suite.name}", device).probes[0]
    given = {label(table): table.config for table in narrowed.method}
    specs = tuple(spec.model_copy(update={"config": given[spec.label]}) for spec in probe.methods)
    asked = None if methods is None else [registry.spell(*registry.parse_spec(text, "--methods")) for text in methods]
    chosen = None if asked is None else [_full_label(text, list(given)) for text in asked]
    return probe.model_copy(update={"methods": specs}), chosen


def _full_label(asked: str, labels: list[str]) -> str:
    """The suite's label of a method that was asked for by label or by bare name."""
    return asked if asked in labels else next(known for known in labels if known.partition("(")[0] == asked)


def compare(
    base: Tree,
    head: Tree,
    probe: Probe,
    labels: Sequence[str] | None,
    context: ForkServerContext,
    *,
    seconds: float,
    margin: float,
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[Compared]:
    """Time training steps of ``base`` and ``head`` in turns and judge whether the head is slower.

    Two processes of each version hold the same step; those of one version, against each other, are the A/A control.
    In each round every process takes one step, in random order, while the others wait: longer turns let the machine's
    moods last for one process and be gone for the next (measured: turns of 30 ms double the noise, 100 ms treble it).

    Args:
        base: The version to compare with.
        head: The version that may be slower.
        probe: Backbone and shape; its methods carry their configurations as the suite spells them.
        labels: Methods to measure; those whose source differs between the versions where None.
        context: Fork server for the processes.
        seconds: Of measuring, divided among the methods.
        margin: Relative difference that is too small to matter.
        say: Called with one line a stage.

    Yields:
        One result a method; all are judged together, so nothing comes before the last is measured.

    Raises:
        BenchError: One of ``labels`` is no method of one of the versions.
    """
    with ExitStack() as stack:
        arms = {}
        for key, tree in zip(ARMS, (base, head, head, base), strict=True):
            arms[key] = Arm(context, tree.name, tree.path, probe, probe.threads or 1)
            stack.callback(arms[key].close)
        asked = [spec.label for spec in probe.methods] if labels is None else list(labels)
        absent = {label: note for label in asked if (note := _absent(arms, label))}
        if labels is not None and absent:
            label, note = next(iter(absent.items()))
            raise BenchError(f"--methods: {label}: {note}; name methods that both versions have")
        present = [label for label in asked if label not in absent]
        chosen = present if labels is not None else _differing(arms, present)
        found = []
        for number, label in enumerate(chosen, start=1):
            say(f"{label}: method {number} of {len(chosen)}")
            found.append(_measure(arms, label, probe, seconds / len(chosen)))
    yield from judged(
        [*found, *(Compared(label, failed="absent", note=note) for label, note in absent.items())], margin
    )


def _absent(arms: Mapping[str, Arm], label: str) -> str:
    """Which version has no such method, in words; empty where both have it."""
    try:
        lacking = [arms[key].name for key in ("base", "head") if not arms[key].told("has", label)]
    except BenchError:  # a version that cannot be imported at all: measured, and so reported as its failure
        return ""
    return f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no such method" if lacking else ""


def _differing(arms: Mapping[str, Arm], labels: Sequence[str]) -> list[str]:
    """Methods whose source is not the same in both versions."""

    def source(arm: Arm, label: str) -> str:
        try:
            return str(arm.told("source", label))
        except BenchError as error:
            return str(error)  # measured, and so reported as the version's failure

    return [label for label in labels if source(arms["base"], label) != source(arms["head"], label)]


def _measure(arms: Mapping[str, Arm], label: str, probe: Probe, seconds: float) -> Compared:
    built: dict[str, Built] = {}
    for key, arm in arms.items():
        try:
            arm.ask("build", label)
            built[key] = Built(*arm.answer())
        except BenchError as error:
            return Compared(label, failed="head" if key.startswith("head") else "base", note=str(error))
    for arm in arms.values():  # repeated steps find warm caches: unequal numbers would compare unequal work
        arm.told("repeat", min(MOST_REPEATS, *(made.repeats for made in built.values())))
    samples = take_turns(arms, seconds)
    for arm in arms.values():
        arm.told("drop")
    clock = "cpu" if probe.device != "cuda" else "wall"
    old, new = built["base"].loss, built["head"].loss
    note = f"the versions compute different things: loss {old:.6g}, then {new:.6g}"
    phases = tuple(comparison(label, phase, clock, samples) for phase in PHASES)
    return Compared(label, phases, note=note if old != new else "")


def take_turns(arms: Mapping[str, Arm], seconds: float) -> dict[str, Samples]:
    """Samples by arm in ``BLOCKS`` blocks of equal length, each of whole rounds."""
    order = random.Random(0)
    samples = {key: Samples() for key in arms}
    started = time.perf_counter()
    for block in range(BLOCKS):
        while True:
            for key in order.sample(list(arms), len(arms)):
                samples[key].add(block, arms[key].turn())
            if time.perf_counter() - started >= seconds * (block + 1) / BLOCKS:
                break
    return samples


def comparison(label: str, phase: str, clock: str, samples: Mapping[str, Samples]) -> Comparison:
    """Reduce the samples of all processes to what they say of one phase."""
    seconds = {key: tuple(map(tuple, getattr(samples[key], clock)[phase])) for key in ARMS}
    ratio = reduced(seconds)
    typical = float(np.median(np.concatenate([*seconds["base"], *seconds["base_again"]])))
    return Comparison(
        label, phase, clock, typical, math.exp(ratio.center), ratio.interval, ratio.error, *ratio.controls,
        ratio.apart, seconds,
    )  # fmt: skip


class Reduced(NamedTuple):
    """What the samples of one phase say."""

    center: float
    """Log ratio of head by base."""
    error: float
    apart: float
    interval: Interval
    """Of the ratio."""
    controls: tuple[Control, Control]
    """Of the base and of the head."""


def reduced(seconds: Mapping[str, Sequence[Sequence[float]]]) -> Reduced:
    """Ratio, interval and controls of ``seconds``, by process ``[block][round]``."""
    # Pairs of one process each, not of means: the noise is skewed, and a mean of two is less so.
    pairs = [("head", "base"), ("head", "base_again"), ("head_again", "base"), ("head_again", "base_again")]
    center, error = _log_ratio(seconds, pairs)
    controls = [_log_ratio(seconds, [(f"{key}_again", key)]) for key in ("base", "head")]
    apart, blocks = _apart(controls), len(seconds["base"])
    first, second = (Control(ratio=math.exp(same[0]), interval=_interval(*same, blocks)) for same in controls)
    # Two processes by two deviate as one does from another: blocks, which all of them share, do not tell of it.
    return Reduced(center, error, apart, _interval(center, math.hypot(error, apart), blocks), (first, second))


def _log_ratio(
    seconds: Mapping[str, Sequence[Sequence[float]]], pairs: Sequence[tuple[str, str]]
) -> tuple[float, float]:
    """Median over all rounds and ``pairs``, and its standard error."""
    logs = {key: [np.log(block) for block in blocks] for key, blocks in seconds.items()}
    numbers = range(len(logs["base"]))
    return pooled_median(
        [np.concatenate([logs[ours][block] - logs[theirs][block] for ours, theirs in pairs]) for block in numbers]
    )


def _interval(center: float, error: float, blocks: int) -> Interval:
    half = float(stdtrit(blocks - 1, 0.975)) * error
    return math.exp(center - half), math.exp(center + half)


def _apart(controls: Sequence[tuple[float, float]]) -> float:
    """Deviation of one process: that of the controls, each a difference of two, less what their blocks scatter."""
    seen, luck = (float(np.mean(np.square(column))) for column in zip(*controls, strict=True))
    return math.sqrt(max(0.0, seen - luck) / 2)


def judged(found: Sequence[Compared], margin: float) -> Iterator[Compared]:
    """``found`` with verdicts, which share the level among all phases of all methods (Holm)."""
    everything = [phase for compared in found for phase in compared.phases]
    asked: dict[Verdict, tuple[int, bool]] = {"slower": (1, True), "faster": (-1, True), "not slower": (1, False)}
    shown = {
        name: holm([_p(phase, margin, sign, beyond=beyond) for phase in everything])
        for name, (sign, beyond) in asked.items()
    }
    verdicts: Iterator[Verdict] = (
        next((name for name in asked if shown[name][index] < LEVEL), "inconclusive") for index in range(len(everything))
    )
    for compared in found:
        phases = tuple(dataclasses.replace(phase, verdict=next(verdicts)) for phase in compared.phases)
        yield dataclasses.replace(compared, phases=phases)


def _p(phase: Comparison, margin: float, sign: int, *, beyond: bool) -> float:
    """P-value of a slow-down (``sign`` 1) or a gain (-1) above (``beyond``) or below what is too small to matter.

    The ratio is of two processes by two, so it deviates by as much as processes of the same code do, one from another.
    A slow-down must be larger than that as well as the margin; none must leave it room below the margin.
    """
    bound = max(math.log1p(margin), phase.apart) if beyond else math.log1p(margin) - phase.apart
    shift = sign * math.log(phase.ratio) - bound
    return float(stdtr(BLOCKS - 1, (-shift if beyond else shift) / max(phase.error, TINY)))


def verdict(found: Sequence[Compared]) -> Literal["slower", "not slower", "inconclusive"]:
    """Of the whole comparison: one slower phase, or a head that fails, decides."""
    verdicts = {phase.verdict for compared in found for phase in compared.phases}
    if "slower" in verdicts or any(compared.failed == "head" for compared in found):
        return "slower"
    return "inconclusive" if "inconclusive" in verdicts or any(c.failed == "base" for c in found) else "not slower"

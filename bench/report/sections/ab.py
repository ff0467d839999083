"""Shows whether one version of the methods is slower than another: a line a phase, and the answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.ab.experiment import Compared, Comparison, verdict
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Document, Section, Table, Text, Tone
from bench.report.sections import word

TONES: dict[str, Tone] = {"slower": "bad", "inconclusive": "warn", "not slower": "good"}


def document(experiment: Sequence[Compared], title: str, margin: float) -> Document:
    """A line a phase, and the answer.

    Args:
        experiment: From `bench.ab.experiment.compare`; at least one.
        title: What was compared, where and for how long.
        margin: Relative difference that was too small to matter.
    """
    screen: list[Block] = []
    rows = [
        (word(compared.method) if at == 0 else Cell(""), *_cells(phase))
        for compared in experiment
        for at, phase in enumerate(compared.phases)
    ]
    if rows:
        clock = next(phase.clock for compared in experiment for phase in compared.phases)
        screen.append(Table("", _columns("CPU time" if clock == "cpu" else "wall time"), tuple(rows)))
    for compared in experiment:
        if compared.note:
            name = fmt.plain(compared.method)
            fate = "fails in the head" if compared.failed == "head" else "not compared" if compared.failed else "note"
            screen.append(Text((f"{name} {fate}: {fmt.plain(compared.note)}",), tone="warn"))
    screen.append(Text(tuple(answers(experiment, margin)), tone=TONES[verdict(experiment)]))
    return Document("ab", "", title, (Section("title", "", ()), Section("phases", "", (), tuple(screen))))


def _columns(clock: str) -> tuple[Column, ...]:
    names = (
        ("method", None), ("phase", ("", "", "phase")), ("time of base", ("", "base", clock)),
        ("head / base, 95 %", ("", "head / base", "[95 %]")),
        ("base / base, 95 %", ("A/A control", "base / base", "[95 %]")),
        ("head / head", ("A/A control", "head / head", "")), ("verdict", ("", "", "verdict")),
    )  # fmt: skip
    return tuple(Column(name, screen, words=name in ("phase", "verdict")) for name, screen in names)


def _cells(phase: Comparison) -> tuple[Cell, ...]:
    control = phase.control
    return tuple(
        map(Cell, (
            phase.phase, fmt.seconds(phase.base_seconds), fmt.ratio_interval(phase.ratio, *phase.interval),
            fmt.ratio_interval(control.ratio, *control.interval), fmt.ratio(phase.head_control.ratio, 3), phase.verdict,
        ))
    )  # fmt: skip


def answers(experiment: Sequence[Compared], margin: float) -> list[str]:
    """The answer in a sentence each: what is slower, else what is not known, else that nothing is slower."""
    phases = [phase for compared in experiment for phase in compared.phases]
    slower = [phase for phase in phases if phase.verdict == "slower"]
    lines = [
        f"slower: {fmt.plain(p.method)}, {p.phase}, by {_percent(p.ratio)} "
        f"[{_percent(p.interval[0])}, {_percent(p.interval[1])}]"
        for p in slower
    ]
    lines += [f"slower: {fmt.plain(c.method)} fails in the head" for c in experiment if c.failed == "head"]
    if lines:
        return lines
    bound = f"{100 * margin:g} %"
    if verdict(experiment) == "not slower":
        return [f"not slower: no phase of {fmt.plural(len(experiment), 'method')} by more than {bound}"]
    unknown = [f"{fmt.plain(p.method)}, {p.phase}" for p in phases if p.verdict == "inconclusive"]
    unknown += [fmt.plain(compared.method) for compared in experiment if compared.failed]
    return [f"inconclusive at {bound}: {'; '.join(unknown)}; measure longer with --seconds, or on a quieter machine"]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def as_json(experiment: Sequence[Compared], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, block by block, for programs."""
    return {**about, "verdict": verdict(experiment), "methods": [_plain(dataclasses.asdict(c)) for c in experiment]}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    for phase in value["phases"]:
        phase |= {key: phase[key].model_dump() for key in ("control", "head_control")}
    return value

"""Shows what the comparison of two versions of the methods has found; compares and judges nothing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from bench.ab.experiment import Compared, Comparison, verdict
from bench.report import format as fmt
from bench.report.render.columns import Column, say, table, width_of

STYLES = {"slower": "bold red", "inconclusive": "yellow", "not slower": "green"}


def render(found: Sequence[Compared], title: str, margin: float, console: Console) -> None:
    """Print a line a phase, and the answer.

    Args:
        found: From `bench.ab.experiment.compare`; at least one.
        title: What was compared, where and for how long.
        margin: Relative difference that was too small to matter.
        console: Where to print.
    """
    width = width_of(console)
    say(console, title, width, style="bold", hanging=4)
    say(console, "")
    phases = [phase for compared in found for phase in compared.phases]
    if phases:
        firsts = {id(compared.phases[0]) for compared in found if compared.phases}
        names = [phase.method if id(phase) in firsts else "" for phase in phases]
        for line in table(names, _columns(phases), width):
            say(console, line)
    for compared in found:
        if compared.note:
            name = fmt.plain(compared.method)
            fate = "fails in the head" if compared.failed == "head" else "not compared" if compared.failed else "note"
            say(console, f"{name} {fate}: {fmt.plain(compared.note)}", width, style="yellow")
    for line in answers(found, margin):
        say(console, line, width, style=STYLES[verdict(found)])


def _columns(phases: Sequence[Comparison]) -> list[Column]:
    times = "CPU time" if phases[0].clock == "cpu" else "wall time"
    return [
        Column(("", "", "phase"), [phase.phase for phase in phases], left=True),
        Column(("", "base", times), [fmt.seconds(phase.base_seconds) for phase in phases]),
        Column(("", "head / base", "[95 %]"), [fmt.ratio_interval(p.ratio, *p.interval) for p in phases]),
        Column(("A/A control", "base / base", "[95 %]"),
               [fmt.ratio_interval(p.control.ratio, *p.control.interval) for p in phases]),
        Column(("A/A control", "head / head", ""), [fmt.ratio(p.head_control.ratio, 3) for p in phases]),
        Column(("", "", "verdict"), [phase.verdict for phase in phases], left=True),
    ]  # fmt: skip


def answers(found: Sequence[Compared], margin: float) -> list[str]:
    """The answer in a sentence each: what is slower, else what is not known, else that nothing is slower."""
    phases = [phase for compared in found for phase in compared.phases]
    slower = [phase for phase in phases if phase.verdict == "slower"]
    lines = [
        f"slower: {fmt.plain(p.method)}, {p.phase}, by {_percent(p.ratio)} "
        f"[{_percent(p.interval[0])}, {_percent(p.interval[1])}]"
        for p in slower
    ]
    lines += [f"slower: {fmt.plain(c.method)} fails in the head" for c in found if c.failed == "head"]
    if lines:
        return lines
    bound = f"{100 * margin:g} %"
    if verdict(found) == "not slower":
        return [f"not slower: no phase of {fmt.plural(len(found), 'method')} by more than {bound}"]
    unknown = [f"{fmt.plain(p.method)}, {p.phase}" for p in phases if p.verdict == "inconclusive"]
    unknown += [fmt.plain(compared.method) for compared in found if compared.failed]
    return [f"inconclusive at {bound}: {'; '.join(unknown)}; measure longer with --seconds, or on a quieter machine"]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def as_json(found: Sequence[Compared], about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, block by block, for programs."""
    return {**about, "verdict": verdict(found), "methods": [_plain(dataclasses.asdict(c)) for c in found]}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    for phase in value["phases"]:
        phase |= {key: phase[key].model_dump() for key in ("control", "head_control")}
    return value

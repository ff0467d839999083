"""Says what the sweeps of a run have shown, as tables and sentences; computes no figure and draws none."""

import itertools
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from bench.analysis import scaling
from bench.analysis.scaling import Crossing, Crossover, Figure, Growth
from bench.report import format as fmt
from bench.report.render.columns import Column, say, table
from bench.report.sections import overview as facts
from bench.schema.resolved import ResolvedSweep
from bench.store.store import Run

NAMES: dict[Figure, str] = {
    "peak_memory": "peak memory", "saved_activations": "saved activations", "training_flops": "training FLOPs",
}  # fmt: skip
SHOWN_VALUES = 6
"""Values of a sweep that the terminal shows; the report shows all."""
EXACT = 1e-9
"""A polynomial that misses no point by more than this share is exact but for rounding in its fit."""


def unit(figure: Figure, value: float) -> str:
    """Bytes or FLOPs."""
    return f"{fmt.count(value)}FLOPs" if figure == "training_flops" else fmt.size(value)


def title(run: Run, name: str) -> str:
    """``batch: bert-base, 128 tokens, float32, sdpa, adamw_fused``; only what the suite says."""
    asked = _asked(run, name)
    parts = [still(asked), asked.dtype, asked.optimizer]
    parts += [f"dropout {asked.dropout:g}"] if asked.dropout else []
    parts += ["checkpointing"] if asked.checkpointing else []
    parts += ["CUDA's forms"] if asked.device == "cuda" else []
    return fmt.plain(f"{name}: {', '.join(part for part in parts if part)}")


def still(asked: ResolvedSweep) -> str:
    """What stands still in a sweep: ``bert-base, batch 16, eager``."""
    parts = [asked.backbone, _rows(asked), asked.attention]
    return ", ".join(part for part in parts if part)


def _asked(run: Run, name: str) -> ResolvedSweep:
    return scaling.swept(run.suite, run.records)[name]


def _rows(asked: ResolvedSweep) -> str:
    """What stands still: ``batch 16, 128 tokens``."""
    parts = [f"batch {asked.batch}"] if asked.batch else []
    return ", ".join([*parts, *([f"{asked.length} tokens"] if asked.length else [])])


def formula(figure: Figure, grown: Growth | None) -> str:
    """``439 MB + 55.2 MB x``; with ``x ≥ 8`` where it holds from there on alone, ``≈`` where none holds."""
    if grown is None:
        return fmt.MISSING
    powers = ("", " x", " x²")
    last = [abs(c) * grown.until**power for power, c in enumerate(grown.coefficients)]
    parts = [
        f"{'- ' if c < 0 else '+ '}{unit(figure, abs(c))}{powers[power]}"
        for power, c in enumerate(grown.coefficients)
        if last[power] > EXACT * max(last)
    ]
    text = ("" if grown.holds else "≈ ") + " ".join(parts).removeprefix("+ ")
    return text + (f", x ≥ {grown.since:g}" if grown.bent else "")


def render(run: Run, console: Console, width: int) -> None:
    """Print a table for each sweep that compares methods, then a sentence for each crossover."""
    sweeps = scaling.swept(run.suite, run.records)
    guests = scaling.guests(run.suite)
    for name, asked in sweeps.items():
        peaks = scaling.sweep_table(run.records, name, "peak_memory", facts.labels(run))
        if peaks.empty or name in guests:
            continue
        say(console, f"{title(run, name)} · peak memory of one training step, counted", width)
        values = list(peaks.columns)
        places = np.unique(np.linspace(0, len(values) - 1, SHOWN_VALUES).round().astype(int))
        head = fmt.plain(asked.vary)
        columns = [
            Column((head, f"{values[at]}", ""), [fmt.size(value) for value in peaks[values[at]]]) for at in places
        ]
        grown = [formula("peak_memory", scaling.growth(row, asked.vary)) for _, row in peaks.iterrows()]
        columns.append(Column((" ", f"grows with x = {head} as", ""), grown, left=True))
        for line in table(list(peaks.index), columns, width):
            say(console, line)
    for line in sentences(run):
        say(console, f"  {line}", width, hanging=4)
    if sweeps:
        say(console, "")


def sentences(run: Run) -> list[str]:
    """One for each crossover that the suite asks for."""
    return [_sentence(run, found) for found in scaling.crossovers(run.suite, run.records)]


def _sentence(run: Run, found: Crossover) -> str:
    asked, figure = found.asked, found.asked.figure
    first, second = _asked(run, asked.sweep), _asked(run, asked.than_sweep or asked.sweep)
    vary = first.vary
    on = [f" on {table.backbone}" if first.backbone != second.backbone else ""
          for table in (first, second)]  # fmt: skip
    who, whom, name = f"{asked.method}{on[0]}", f"{asked.than}{on[1]}", NAMES[figure]
    still = f" ({_rows(first)})" if _rows(first) else ""
    if found.curves.empty:
        return fmt.plain(f"{who} against {whom}: not counted at a common {vary} yet.")
    smallest, largest = found.curves.index[0], found.curves.index[-1]
    if not found.crossings:
        nearest = (found.curves["first"] / found.curves["second"]).map(np.log).abs().idxmin()
        more = "more" if found.always else "no more"
        each = f"every {vary} counted" if found.always else f"any {vary} counted"
        return fmt.plain(
            f"{who} takes {more} {name} than {whom} at {each}, {smallest} to {largest}{still}: no crossover; "
            f"nearest at {nearest}, {_against(found, int(nearest))}."
        )
    changes = "; ".join(_change(found, crossing, vary) for crossing in found.crossings)
    return fmt.plain(f"{who} takes more {name} than {whom} {changes}{still}.")


def _change(found: Crossover, crossing: Crossing, vary: str) -> str:
    low, high = crossing.low, crossing.high
    at = f"{_against(found, low)} at {low}, {_against(found, high)} at {high}"
    if crossing.exact:
        return (f"from {vary} {high} on: " if crossing.rises else f"up to {vary} {low}: ") + at
    word = "from" if crossing.rises else "up to"
    return f"{word} some {vary} between {low} and {high} (near {crossing.near:.0f} on a straight line): {at}"


def _against(found: Crossover, value: int) -> str:
    """Two figures with as many digits as tell them apart: ``1.765 GB against 1.760 GB``."""
    first, second = (float(found.curves.loc[value, column]) for column in ("first", "second"))
    suffix = "FLOPs" if found.asked.figure == "training_flops" else "B"
    return " against ".join(fmt.apart(first, second, suffix))


@dataclass(frozen=True)
class Table:
    """One table of the report, as plain text."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(run: Run) -> list[Table]:
    """For each sweep one table of each figure: all values, and the polynomial with how well it holds."""
    found = []
    for (name, asked), figure in itertools.product(scaling.swept(run.suite, run.records).items(), scaling.FIGURES):
        counted = scaling.sweep_table(run.records, name, figure, facts.labels(run))
        if counted.empty:
            continue
        vary = asked.vary
        rows = []
        for label, row in counted.iterrows():
            grown = scaling.growth(row, vary)
            rows.append([str(label), *(unit(figure, value) for value in row), *_fit(figure, grown)])
        head = [f"{NAMES[figure]} at {vary}", *map(str, counted.columns)]
        fitted = ["grows as", "largest miss", "R²", f"exponent at {counted.columns[-1]}"]
        found.append(Table(title(run, name), [*head, *fitted], rows))
    return found


def _fit(figure: Figure, grown: Growth | None) -> list[str]:
    if grown is None:
        return [fmt.MISSING] * 4
    miss = "exact" if grown.residual < EXACT else fmt.percent(grown.residual)
    return [formula(figure, grown), miss, f"{grown.r_squared:.6f}", f"{grown.exponent:.2f}"]

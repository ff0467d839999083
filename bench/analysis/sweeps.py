"""Reads the counts of sweeps: how figures grow, where curves cross; and methods at several values of one field.

All figures keep SI base units; one that a record lacks is NaN, never 0.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.schema.record import CostRecord, CountRecord, MethodUsed, ScoreRecord
from bench.schema.resolved import ResolvedCrossover, ResolvedSuite, ResolvedSweep

if TYPE_CHECKING:
    from bench.analysis.results import Results

Figure = Literal["peak_memory", "saved_activations", "training_flops"]
FIGURES: tuple[Figure, ...] = ("peak_memory", "saved_activations", "training_flops")
DEGREES = {"batch": 1, "layers": 1}
"""Highest power by which a figure can grow with a quantity; 2 for the others: attention, and products of widths."""
HOLDS = 1e-3
"""A polynomial holds where it misses no counted point by more than this share of it."""


def swept(results: "Results") -> dict[str, ResolvedSweep]:
    """The sweeps of a run by name; those that only records know have no values."""
    asked = {sweep.title: sweep for sweep in results.suite.sweep}
    for record in results.count_records:
        known = ResolvedSweep(title=record.sweep, vary=record.vary, values=[], methods=[])
        asked.setdefault(record.sweep, known)
    return asked


def guests(suite: ResolvedSuite) -> dict[str, str]:
    """Sweeps of one method that a crossover compares with a curve of a sweep of several: guest -> that sweep."""
    alone = {sweep.title: len(sweep.methods) == 1 for sweep in suite.sweep}
    pairs = [(pair.sweep, pair.than_sweep or pair.sweep) for pair in suite.crossover]
    both_ways = [*pairs, *((second, first) for first, second in pairs)]
    return {guest: host for host, guest in both_ways if alone[guest] and not alone[host]}


def figure_of(record: CountRecord, figure: Figure) -> float:
    """One figure of a point: bytes, or FLOPs of forward and backward; NaN where it was not counted."""
    if record.status != "ok" or not (record.flops and record.bytes and record.predicted_peak_memory_bytes):
        return float("nan")
    if figure == "peak_memory":
        return float(record.predicted_peak_memory_bytes.step)
    return float(record.bytes.saved_activations if figure == "saved_activations" else _training(record))


def _training(record: CountRecord) -> int:
    assert record.flops is not None
    return record.flops.forward + record.flops.backward


def sweep_table(results: "Results", title: str, figure: Figure) -> pd.DataFrame:
    """One figure of each method at each value of a sweep.

    Args:
        results: Of a run.
        title: Name of the sweep.
        figure: What to read.

    Returns:
        One row per method that the sweep has counted, one column per value, rising.
    """
    points = [record for record in results.count_records if record.sweep == title]
    labels = {record.method.label for record in points}
    table = pd.DataFrame(
        {value: {r.method.label: figure_of(r, figure) for r in points if r.value == value}
         for value in sorted({record.value for record in points})}
    )  # fmt: skip
    return table.reindex([label for label in results.labels if label in labels])


@dataclasses.dataclass(frozen=True)
class Growth:
    """A polynomial through one method's counted points, from some value to the largest."""

    since: float
    """Smallest value of the range that it was fitted to."""
    until: float
    """Largest counted value."""
    bent: bool
    """Whether points below the range were left out: something else decides the figure there."""
    coefficients: tuple[float, ...]
    """Of value**0, value**1, ...; the lowest degree that holds."""
    residual: float
    """Largest miss of a point in this range, as a share of that point."""
    r_squared: float
    exponent: float
    """d log(figure) / d log(value) at the largest value."""

    @property
    def holds(self) -> bool:
        """Whether it misses no point in its range by more than `HOLDS`."""
        return self.residual <= HOLDS


def growth(points: "pd.Series", vary: str) -> Growth | None:
    """How a figure grows with the swept quantity.

    The range starts at the smallest value from which on one polynomial holds: a peak that one phase decides at small
    values and another at large ones has a bend. Where none holds, it is fitted to all points and its residual says so.

    Args:
        points: Figure by value; NaN is passed over.
        vary: The swept quantity, which decides the highest degree.

    Returns:
        None with fewer than three points.
    """
    points = points.dropna()
    x, y = points.index.to_numpy(dtype=float), points.to_numpy(dtype=float)
    highest = DEGREES.get(vary, 2)
    found = [
        fit
        for start in range(len(x) - 2)
        for degree in range(highest + 1)
        if len(x) - start >= degree + 2  # a point more than coefficients, or every polynomial holds
        and (fit := _fit(x, y, start, degree)).holds
    ]
    if found:
        return found[0]
    return _fit(x, y, 0, min(highest, len(x) - 2)) if len(x) >= 3 else None


def _fit(x: NDArray[np.float64], y: NDArray[np.float64], start: int, degree: int) -> Growth:
    x, y = x[start:], y[start:]
    polynomial = np.polynomial.Polynomial.fit(x, y, degree)
    off = np.abs(polynomial(x) - y)
    spread = float(((y - y.mean()) ** 2).sum())
    slope, last = float(polynomial.deriv()(x[-1])), float(polynomial(x[-1]))
    return Growth(
        since=float(x[0]), until=float(x[-1]), bent=start > 0,
        coefficients=tuple(map(float, polynomial.convert().coef)),
        residual=float((off / np.maximum(np.abs(y), 1)).max()),
        r_squared=1 - float((off**2).sum()) / spread if spread else 1.0,
        exponent=float(x[-1]) * slope / last if last else 0.0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Two neighbouring counted values between which one curve passes the other."""

    low: int
    high: int
    near: float
    """Where straight lines between the counted points meet."""
    rises: bool
    """Whether the first curve lies above from ``high`` on, not up to ``low``."""

    @property
    def exact(self) -> bool:
        """Whether no whole number lies between the two values."""
        return self.high - self.low == 1


@dataclasses.dataclass(frozen=True)
class Crossover:
    """Answer to one ``[[crossover]]`` of a suite."""

    asked: ResolvedCrossover
    """``sweep``, ``method``, ``than``, ``figure`` and perhaps ``than_sweep``."""
    curves: pd.DataFrame
    """Columns ``first`` and ``second`` by value, at those that both have."""
    crossings: tuple[Crossing, ...]
    """Empty where one curve lies above the other at every counted value."""

    @property
    def always(self) -> bool:
        """Whether the first curve lies above at every counted value."""
        return not self.crossings and bool((self.curves["first"] > self.curves["second"]).all())


def crossovers(results: "Results") -> list[Crossover]:
    """The crossovers that a resolved suite asks for, in its order."""
    return [_crossover(results, asked) for asked in results.suite.crossover]


def _crossover(results: "Results", asked: ResolvedCrossover) -> Crossover:
    first = results.sweep_table(asked.sweep, asked.figure)
    second = results.sweep_table(asked.than_sweep or asked.sweep, asked.figure)
    names = (("first", first, asked.method), ("second", second, asked.than))
    both = {column: table.loc[label] for column, table, label in names if label in table.index}
    curves = pd.DataFrame(both, columns=["first", "second"], dtype=float).dropna().sort_index()
    return Crossover(asked, curves, tuple(_crossings(curves)))


def _crossings(curves: pd.DataFrame) -> Iterable[Crossing]:
    above = curves["first"] - curves["second"]
    for (low, before), (high, after) in itertools.pairwise(above.items()):
        if (before > 0) != (after > 0):
            near = low + (high - low) * before / (before - after)
            yield Crossing(int(low), int(high), float(near), bool(after > 0))


FEWEST = 3
"""Values that make a series."""


@dataclasses.dataclass(frozen=True)
class Series:
    """One method at several values of one of its fields, all other fields equal."""

    name: str
    """Of the method."""
    field: str
    others: tuple[tuple[str, Any], ...]
    """Fields that differ from those of the other series of the same method; empty where there is one alone."""
    labels: dict[int, str]
    """Label by value, rising."""


def series(results: "Results") -> list[Series]:
    """Every series of a run, the one with most values first; of one method the fields that keep its series apart."""
    methods = {r.method.label: r.method for r in results.records if isinstance(r, CostRecord | ScoreRecord)}
    found: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for label, method in methods.items():
        for field, value in method.config.items():
            if type(value) is int:
                found[method.name, field, _without(method, field)][value] = label
    kept = {place: labels for place, labels in found.items() if len(labels) >= FEWEST}
    made = [
        Series(name, field, _apart(methods, name, [held for (n, _, _), held in kept.items() if n == name], labels),
               dict(sorted(labels.items())))
        for (name, field, _), labels in kept.items()
    ]  # fmt: skip
    return sorted(made, key=lambda one: -len(one.labels))


def _without(method: MethodUsed, field: str) -> str:
    return repr(sorted((name, value) for name, value in method.config.items() if name != field))


def _apart(
    methods: dict[str, MethodUsed], name: str, all_of_it: list[dict[int, str]], own: dict[int, str]
) -> tuple[tuple[str, Any], ...]:
    """Fields of one series of ``name`` that not all of its series share."""
    configs = [methods[next(iter(labels.values()))].config for labels in all_of_it]
    mine = methods[next(iter(own.values()))].config
    varied = {field for field in mine if any(repr(config.get(field)) != repr(mine[field]) for config in configs)}
    constant = {field for field in varied if len({repr(methods[label].config[field]) for label in own.values()}) == 1}
    return tuple((field, mine[field]) for field in mine if field in constant) if len(all_of_it) > 1 else ()


@dataclasses.dataclass(frozen=True)
class Shares:
    """One method at several shares of general text among the rows that it trains on."""

    label: str
    """Of the method without a mix."""
    hold: str
    """What a share leaves as it is: ``total``, all rows that are trained on, or ``domain``, those of the task."""
    labels: dict[float, str]
    """Label by share, rising; the method without a mix at 0."""


def shares(results: "Results") -> list[Shares]:
    """The methods of a run that were trained with and without general text, in the suite's order."""
    found: dict[tuple[str, str], dict[tuple[str, float], str]] = defaultdict(dict)
    for record in results.score_records:
        if record.status == "ok":
            mix = record.recipe.get("mix") or {"hold": "", "share": 0.0}
            method = record.method.name, repr(sorted(record.method.config.items()))
            found[method][mix["hold"], mix["share"]] = record.method.label
    made = []
    for labels in found.values():
        bare = labels.pop(("", 0.0), None)
        for hold in ("total", "domain"):
            mixed = {share: label for (held, share), label in labels.items() if held == hold}
            if bare is not None and mixed:
                made.append(Shares(bare, hold, {0.0: bare} | dict(sorted(mixed.items()))))
    return sorted(made, key=lambda one: results.labels.index(one.label))

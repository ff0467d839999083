"""Writes how far the search for learning rates changed the ranking of methods, in words and cells; computes none."""

import pandas as pd

from bench.analysis.tuned import RateChange, Rates
from bench.report import format as fmt
from bench.stats.intervals import Interval

TITLE = "Ranking at default and at searched rates"


def sentences(found: RateChange) -> list[str]:
    """What was compared, how far the two rankings agree and how sure that is."""
    where = ", ".join(map(fmt.plain, found.tasks))
    at = "at the rates of the other run" if found.default is None else f"at {pair(found.default)} (method, head)"
    what = [
        f"Mean scores on the {found.rows} rows of {where}, {fmt.plural(len(found.seeds), 'seed')}: {at} and at the "
        "rates that a search gave each method."
    ]
    if found.rows == "selection":
        what.append(
            "A searched score is the best of several on the rows that chose it, which luck makes too high; a score on "
            "test rows is not."
        )
    what.append(summary(found))
    what += [f"Left out: {fmt.plain(label)}, {fmt.plain(why)}." for label, why in found.left_out.items()]
    return what


def summary(found: RateChange) -> str:
    """One sentence: ``Kendall's tau 0.72 [0.51, 0.87]; 11 of 78 pairs of methods change places [6, 19]``."""
    tau = "none, one side has all methods equal" if fmt.missing(found.tau) else f"{found.tau:.2f}"
    luck = ""
    if found.tau_interval is None:
        luck = f" Not enough seeds to say how much of it is luck: {fmt.plural(len(found.seeds), 'seed')}."
    return (
        f"Kendall's tau {tau}{_interval(found.tau_interval, 2)}; {found.swapped} of "
        f"{fmt.plural(found.pairs, 'pair')} of methods change places{_interval(found.swapped_interval, 0)}.{luck}"
    )


def _interval(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def table(found: RateChange) -> tuple[list[str], list[str], list[list[str]]]:
    """Sentences, head and rows, the best at searched rates first."""
    head = ["method", "default rates", "rank", "searched rates", "rank", "gain", "searched", "chosen (method, head)"]
    ranked = found.table.sort_values("tuned_rank", kind="stable")
    return sentences(found), head, [_row(str(label), row) for label, row in ranked.iterrows()]


def _row(label: str, row: "pd.Series") -> list[str]:
    chosen: dict[str, Rates] = row["rates"]
    same = len(set(chosen.values())) == 1
    rates = [pair(rates) if same else f"{fmt.plain(task)} {pair(rates)}" for task, rates in chosen.items()]
    return [
        label, fmt.points(row["default"]), rank(row["default_rank"]), fmt.points(row["tuned"]), rank(row["tuned_rank"]),
        fmt.difference(row["gain"]), f"{row['searched']}", "; ".join(rates[:1] if same else rates),
    ]  # fmt: skip


def rank(value: float) -> str:
    """``3``, and ``3.5`` of two that share places."""
    return f"{value:g}"


def pair(rates: Rates) -> str:
    """``0.001, 0.01``."""
    return ", ".join(f"{rate:g}" for rate in rates)

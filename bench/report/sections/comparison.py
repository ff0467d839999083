"""Shows what differs between runs, and whether one version of the methods is slower than another."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.analysis.runs import ALL_TASKS, Comparison
from bench.analysis.settings import EVERY
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Document, Fact, Facts, Section, Table, Text, Tone
from bench.report.sections import plain_table, word

if TYPE_CHECKING:
    from bench.ab import experiment as ab

SHOWN = {
    "backward_seconds": "backward", "step_seconds": "step",
    "latency_seconds.unmerged.batch_1": "latency b=1", "latency_seconds.merged.batch_1": "merged b=1",
}  # fmt: skip
"""Ratios of times on the screen, by the figure's name before its baseline; files hold all."""
MARKS = {"higher": " +", "lower": " -", "no verdict": " ?"}
MOST = 12
"""Lines of differing figures, and of differing settings, on the screen."""
LUCK = 0.05
MISSING_VALUE = "(none)"


def document(comparison: Comparison) -> Document:
    """Every setting, ratio and score that was compared, and every exact figure that differs."""
    first = fmt.plain(comparison.names[0])
    sections = []
    for name in comparison.names[1:]:
        changes = comparison.changes[comparison.changes["run"] == name]
        settings = comparison.settings[comparison.settings["run"] == name]
        title = fmt.plain(name)
        heading = Text((f"{title} against {first}",), "heading")
        sections.append(
            Section(title, title, tuple(_blocks(changes, settings)), (heading, *_screen(changes, settings)))
        )
    return Document(f"{', '.join(map(fmt.plain, comparison.names[1:]))} against {first}", "", "", tuple(sections))


def _screen(changes: pd.DataFrame, settings: pd.DataFrame) -> Iterator[Block]:
    differs = _some(_settings(settings), "settings") or ["no setting"]
    yield Facts(tuple(Fact("differs", line, "plain" if settings.empty else "warn") for line in differs))
    labels = list(dict.fromkeys(changes["method"]))
    columns = _columns(changes, labels)
    rows = tuple((word(label), *(Cell(cells[at]) for _, cells in columns)) for at, label in enumerate(labels))
    yield Table("", (Column("method"), *(column for column, _ in columns)), rows)
    if changed := _some([line for _, line in _unequal(changes)], "figures"):
        yield Facts(tuple(Fact("changed", line) for line in changed))
    yield Text(tuple(_notes(changes)))


def _some(lines: list[str], what: str) -> list[str]:
    rest = len(lines) - MOST
    return lines if rest <= 1 else [*lines[:MOST], f"and {rest} more {what}; --format markdown or --json hold all"]


def _settings(settings: pd.DataFrame) -> list[str]:
    return [
        f"{row.about}{'' if row.method == EVERY else f' of {fmt.plain(row.method)}'}: {fmt.plain(row.key)} "
        f"{_short(row.first)} -> {_short(row.other)}"
        for row in settings.itertuples()
    ]


def _short(value: str) -> str:
    shown = fmt.plain(value) or MISSING_VALUE
    return shown if len(shown) <= 60 else f"{shown[:12]}..." if " " not in shown else f"{shown[:56]}..."


Columns = list[tuple[Column, list[str]]]


def _columns(changes: pd.DataFrame, labels: list[str]) -> Columns:
    exact = [_counted(changes[changes["method"] == label]) for label in labels]
    counted = any(cell != fmt.MISSING for cell in exact)
    columns = [(Column("exact figures", ("", "exact", "figures")), exact)] if counted else []
    ratios = changes[changes["kind"] == "ratio"]
    if not ratios.empty:
        ratios = ratios[ratios["place"] == ratios["place"].iloc[0]]
        baseline = next((f for f in ratios["figure"] if " / " in f), "").partition(" / ")[2]
        for figure, title in SHOWN.items():
            rows = ratios[ratios["figure"].str.partition(" / ")[0] == figure].set_index("method")
            if not rows.empty:
                versus = "base" if figure.startswith("latency") else fmt.plain(baseline)
                columns += _pair(f"{title} / {versus}", rows, labels)
    scores = changes[changes["kind"] == "score"]
    if not scores.empty:
        whole = scores[scores["place"] == ALL_TASKS]
        rows = (scores if whole.empty else whole).drop_duplicates("method").set_index("method")
        columns += _pair("score", rows, labels)
    return columns


def _counted(rows: pd.DataFrame) -> str:
    exact = rows[rows["kind"] == "exact"]
    if exact.empty:
        return fmt.MISSING
    unequal = int((exact["verdict"] == "different").sum())
    lone = int(exact["verdict"].str.startswith("only").sum())
    compared = len(exact) - lone
    shown = f"{unequal} of {compared} differ" if unequal else f"{compared} equal"
    return shown + (f", {lone} in one" if lone else "")


def _pair(title: str, rows: pd.DataFrame, labels: list[str]) -> Columns:
    both, change = [], []
    score = title == "score"
    for label in labels:
        if label not in rows.index:
            both.append(fmt.MISSING)
            change.append(fmt.MISSING)
            continue
        row = rows.loc[label]
        show = fmt.points if score else fmt.ratio
        both.append(f"{show(row['first'])} {show(row['other'])}")
        change.append(_interval(row, 2) + MARKS.get(row["verdict"], "  "))
    head = "other - first" if score else "other / first"
    return [
        (Column(f"{title}, first and other", (title, "first", "other")), both),
        (Column(f"{title}, {head}", (title, head, "95 %")), change),
    ]


def _interval(row: Any, digits: int = 3) -> str:
    if row["kind"] == "score":
        return fmt.difference(row["difference"], row["low"], row["high"])
    return fmt.ratio_interval(row["ratio"], row["low"], row["high"], digits)


def _unequal(changes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Figures that are certainly not the same, by method: exact ones that differ, others by their verdict."""
    for row in changes[changes["verdict"].isin(["different", "higher", "lower"])].to_dict("records"):
        line = f"{fmt.plain(row['method'])}, {fmt.plain(row['place'])}: {fmt.plain(row['figure'])} "
        if row["figure"] == "status":
            line += fmt.plain(row["why"])
        elif row["kind"] == "exact":
            line += f"{fmt.exact(row['first'])} -> {fmt.exact(row['other'])} {row['unit']}"
        elif row["kind"] == "score":
            line += f"{fmt.points(row['first'])} -> {fmt.points(row['other'])}, {row['verdict']} by {_interval(row)}"
        else:
            line += f"{fmt.ratio(row['first'], 3)} -> {fmt.ratio(row['other'], 3)}, {row['verdict']}: {_interval(row)}"
        yield row["method"], line


def _notes(changes: pd.DataFrame) -> list[str]:
    """What the marks mean and what carries no verdict."""
    lines = []
    ratios, scores = changes[changes["kind"] == "ratio"], changes[changes["kind"] == "score"]
    if len(ratios):
        lines.append(
            f"ratios: {len(ratios)} compared, each at 95 %, so about {LUCK * len(ratios):.0f} would seem to differ by "
            "luck alone; what a whole run shares, such as a busy machine, is in no interval. Absolute times of two "
            "runs are not compared; for a change in code, ab measures both in turns"
        )
    for kind, rows in (("times", ratios), ("scores", scores)):
        open_ = rows[rows["verdict"] == "no verdict"]
        if len(open_):
            why = dict.fromkeys(part for reason in open_["why"] for part in reason.split("; ") if part)
            lines.append(f"no verdict on {len(open_)} of {len(rows)} {kind}: {fmt.plain(', '.join(why))}")
    if len(ratios) or len(scores):
        lines.append("+ higher   - lower   ? no verdict; no mark: not told apart, or equal")
    return lines


def _blocks(changes: pd.DataFrame, settings: pd.DataFrame) -> Iterator[Block]:
    head = ("about", "method", "key", "first", "other")
    rows = [
        (r.about, r.method, r.key, str(r.first) or fmt.MISSING, str(r.other) or fmt.MISSING)
        for r in settings.itertuples()
    ]
    yield Text(("Settings that differ",), "heading")
    yield plain_table("", head, rows, range(5)) if rows else Text(("None.",))
    exact = changes[changes["kind"].isin(["exact", "measured"])]
    if not exact.empty:
        yield Text(("Exact figures",), "heading")
        counts = [(str(label), _counted(group)) for label, group in exact.groupby("method", sort=False)]
        yield plain_table("", ("method", "figures"), counts)
        yield from _listed(exact[~exact["verdict"].isin(["equal", "only in first", "only in other"])])
    for kind, title in (("ratio", "Ratios of times, other / first"), ("score", "Scores, other - first, in points")):
        part = changes[changes["kind"] == kind]
        if not part.empty:
            yield Text((title,), "heading")
            yield from _listed(part)
    yield Text(tuple(_notes(changes)), "list")


def _listed(changes: pd.DataFrame) -> Iterator[Block]:
    if changes.empty:
        return
    head = ("method", "where", "figure", "first", "other", "change, 95 %", "verdict", "why")
    rows = []
    for row in changes.to_dict("records"):
        show = {"ratio": lambda v: fmt.ratio(v, 3), "score": fmt.points}.get(row["kind"], fmt.exact)
        change = fmt.ratio(row["ratio"], 6) if row["kind"] in ("exact", "measured") else _interval(row)
        cells = (str(row["method"]), str(row["place"]), str(row["figure"]), show(row["first"]), show(row["other"]))
        rows.append((*cells, change, str(row["verdict"]), str(row["why"]) or fmt.MISSING))
    yield plain_table("", head, rows, (1, 2, 6, 7))


def plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as JSON has it; a figure that is missing is None."""
    return {"runs": comparison.names, "settings": _plain(comparison.settings), "changes": _plain(comparison.changes)}


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    kept = table.drop(columns="settings_differ", errors="ignore")
    return [{key: None if value != value else value for key, value in row.items()} for row in kept.to_dict("records")]


VERDICT_TONES: dict[str, Tone] = {"slower": "bad", "inconclusive": "warn", "not slower": "good"}


def versions(experiment: "Sequence[ab.Compared]", title: str, margin: float) -> Document:
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
        screen.append(Table("", _phase_columns("CPU time" if clock == "cpu" else "wall time"), tuple(rows)))
    for compared in experiment:
        if compared.note:
            name = fmt.plain(compared.method)
            fate = "fails in the head" if compared.failed == "head" else "not compared" if compared.failed else "note"
            screen.append(Text((f"{name} {fate}: {fmt.plain(compared.note)}",), tone="warn"))
    screen.append(Text(tuple(answers(experiment, margin)), tone=VERDICT_TONES[_verdict(experiment)]))
    return Document("ab", "", title, (Section("title", "", ()), Section("phases", "", (), tuple(screen))))


def _phase_columns(clock: str) -> tuple[Column, ...]:
    names = (
        ("method", None), ("phase", ("", "", "phase")), ("time of base", ("", "base", clock)),
        ("head / base, 95 %", ("", "head / base", "[95 %]")),
        ("base / base, 95 %", ("A/A control", "base / base", "[95 %]")),
        ("head / head", ("A/A control", "head / head", "")), ("verdict", ("", "", "verdict")),
    )  # fmt: skip
    return tuple(Column(name, screen, words=name in ("phase", "verdict")) for name, screen in names)


def _cells(phase: "ab.Comparison") -> tuple[Cell, ...]:
    control = phase.control
    return tuple(
        map(Cell, (
            phase.phase, fmt.seconds(phase.base_seconds), fmt.ratio_interval(phase.ratio, *phase.interval),
            fmt.ratio_interval(control.ratio, *control.interval), fmt.ratio(phase.head_control.ratio, 3), phase.verdict,
        ))
    )  # fmt: skip


def answers(experiment: "Sequence[ab.Compared]", margin: float) -> list[str]:
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
    if _verdict(experiment) == "not slower":
        compared = [one for one in experiment if not one.failed]
        if not compared:
            return ["nothing to compare: no method that both versions have differs in source"]
        return [f"not slower: no phase of {fmt.plural(len(compared), 'method')} by more than {bound}"]
    unknown = [f"{fmt.plain(p.method)}, {p.phase}" for p in phases if p.verdict == "inconclusive"]
    unknown += [fmt.plain(compared.method) for compared in experiment if compared.failed == "base"]
    return [f"inconclusive at {bound}: {'; '.join(unknown)}; measure longer with --seconds, or on a quieter machine"]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def versions_json(experiment: "Sequence[ab.Compared]", about: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, block by block, for programs."""
    methods = [dataclasses.asdict(compared) for compared in experiment]
    for phase in (phase for method in methods for phase in method["phases"]):
        phase |= {key: phase[key].model_dump() for key in ("control", "head_control")}
    return {**about, "verdict": _verdict(experiment), "methods": methods}


def _verdict(experiment: "Sequence[ab.Compared]") -> str:
    from bench.ab.experiment import verdict  # it runs workers with torch, which a comparison of runs does without

    return verdict(experiment)

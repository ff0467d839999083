"""Shows what differs between runs, for the screen, a report and programs; compares and judges nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import Console

from bench.analysis.runs import ALL_TASKS, Comparison
from bench.analysis.settings import EVERY
from bench.report import format as fmt
from bench.report.format import markdown as text
from bench.report.render.columns import Column, say, table, width_of
from bench.report.render.export import markdown_table

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


def render(found: Comparison, console: Console) -> None:
    """Print what each later run changed."""
    width = width_of(console)
    for number, name in enumerate(found.names[1:]):
        if number:
            say(console, "")
        say(console, f"{fmt.plain(name)} against {fmt.plain(found.names[0])}", width, style="bold")
        changes = found.changes[found.changes["run"] == name]
        settings = found.settings[found.settings["run"] == name]
        for line in _some(_settings(settings), "settings"):
            say(console, f"differs  {line}", width, hanging=9, style="yellow")
        if settings.empty:
            say(console, "differs  no setting", width)
        say(console, "")
        labels = list(dict.fromkeys(changes["method"]))
        for line in table(labels, _columns(changes, labels), width):
            say(console, line)
        for line in _some([line for _, line in _unequal(changes)], "figures"):
            say(console, f"changed  {line}", width, hanging=9)
        for line in _notes(changes):
            say(console, line, width, hanging=2)


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


def _columns(changes: pd.DataFrame, labels: list[str]) -> list[Column]:
    exact = [_counted(changes[changes["method"] == label]) for label in labels]
    columns = [Column(("", "exact", "figures"), exact)] if any(cell != fmt.MISSING for cell in exact) else []
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


def _pair(title: str, rows: pd.DataFrame, labels: list[str]) -> list[Column]:
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
    return [Column((title, "first", "other"), both), Column((title, head, "95 %"), change)]


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


def as_markdown(found: Comparison) -> str:
    """Every setting, ratio and score that was compared, and every exact figure that differs."""
    parts = [f"# {text(', '.join(found.names[1:]))} against {text(found.names[0])}"]
    for name in found.names[1:]:
        changes = found.changes[found.changes["run"] == name]
        settings = found.settings[found.settings["run"] == name]
        parts += [f"## {text(name)}", *_sections(changes, settings)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(changes: pd.DataFrame, settings: pd.DataFrame) -> Iterator[str]:
    yield "### Settings that differ"
    rows: list[tuple[str, ...]] = [
        (text(r.about), text(r.method), text(r.key), text(r.first) or fmt.MISSING, text(r.other) or fmt.MISSING)
        for r in settings.itertuples()
    ]
    head: tuple[str, ...] = ("about", "method", "key", "first", "other")
    yield markdown_table(head, rows) if rows else "None."
    exact = changes[changes["kind"].isin(["exact", "measured"])]
    if not exact.empty:
        yield "### Exact figures"
        counts = [(text(label), _counted(group)) for label, group in exact.groupby("method", sort=False)]
        yield markdown_table(("method", "figures"), counts)
        yield _listed(exact[~exact["verdict"].isin(["equal", "only in first", "only in other"])])
    for kind, title in (("ratio", "Ratios of times, other / first"), ("score", "Scores, other - first, in points")):
        part = changes[changes["kind"] == kind]
        if not part.empty:
            yield f"### {title}"
            yield _listed(part)
    yield "\n".join(f"- {text(line)}" for line in _notes(changes))


def _listed(changes: pd.DataFrame) -> str:
    if changes.empty:
        return ""
    head = ("method", "where", "figure", "first", "other", "change, 95 %", "verdict", "why")
    rows = []
    for row in changes.to_dict("records"):
        show = {"ratio": lambda v: fmt.ratio(v, 3), "score": fmt.points}.get(row["kind"], fmt.exact)
        change = fmt.ratio(row["ratio"], 6) if row["kind"] in ("exact", "measured") else _interval(row)
        cells = (text(row["method"]), text(row["place"]), text(row["figure"]), show(row["first"]), show(row["other"]))
        rows.append((*cells, change, row["verdict"], text(row["why"]) or fmt.MISSING))
    return markdown_table(head, rows)


def as_json(found: Comparison) -> str:
    """Everything as JSON; a figure that is missing is null."""
    return json.dumps(
        {"runs": found.names, "settings": _plain(found.settings), "changes": _plain(found.changes)}, indent=1
    )


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    kept = table.drop(columns="settings_differ", errors="ignore")
    return [{key: None if value != value else value for key, value in row.items()} for row in kept.to_dict("records")]

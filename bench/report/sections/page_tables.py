"""Lifts a run into tables of plain text with sort keys, for the page; computes no figure and writes no markup."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.report.sections import scaling
from bench.schema.record import Shape
from bench.store.store import Run


@dataclass(frozen=True)
class Cell:
    """One figure as it is shown."""

    text: str
    key: float | str | None = None
    """What it is sorted by; None: last in either direction."""


@dataclass(frozen=True)
class Table:
    """One table; the first cell of a row is its heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = True
    note: str = ""
    """Below the table."""
    words: frozenset[int] = frozenset()
    """Columns of words, aligned to the left; the first always is."""


Rows = Sequence[tuple[str, "pd.Series"]]
Show = Callable[[float | None], str]
SAME = "= : operations identical to the base model, exactly."


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not fmt.missing(value) else None


def _figure(show: Show, value: object) -> Cell:
    number = _number(value)
    return Cell(show(number), number)


def _interval(row: "pd.Series", name: str, digits: int = 3) -> Cell:
    value, low, high = (_number(row[f"{name}_{leaf}"]) for leaf in ("ratio", "low", "high"))
    return Cell(fmt.ratio_interval(value, low, high, digits), value)


def _word(text: object) -> Cell:
    return Cell(fmt.plain(text) or fmt.MISSING, fmt.plain(text) or None)


def _three(value: float | None) -> str:
    return fmt.ratio(value, 3)


def _without_empty(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """Columns in which no row has a figure are left out."""
    kept = [at for at in range(len(head)) if at == 0 or any(row[at].text != fmt.MISSING for row in rows)]
    return tuple(head[at] for at in kept), [[row[at] for at in kept] for row in rows]


def _made(caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Table | None:
    kept, body = _without_empty(head, list(rows))
    return Table(caption, kept, tuple(map(tuple, body)), note=note) if len(kept) > 1 else None


def main(run: Run) -> Table | None:
    """Every method with its costs on the first shape and its scores; None where a run has neither."""
    labels, baseline = facts.labels(run), run.suite.baseline
    costs = compare.cost_table(run.records, labels)
    scores = compare.score_table(run.records, baseline, labels)
    if not compare.cost_records(run.records) and not facts.score_records(run):
        return None
    over, source = fmt.plain(baseline), next((s for s in costs["peak_memory_source"] if isinstance(s, str)), None)
    mean = "mean score (synthetic)" if facts.is_synthetic(run) else "mean score"
    head = (
        "method", "trained - head", "stored per task", f"backward FLOPs / {over}", f"backward time / {over}, 95 %",
        f"step time / {over}", facts.peak_name(source), "predicted peak", "latency / base, batch 1", "merged, batch 1",
        mean, f"score - {over}, 95 %", "failed",
    )  # fmt: skip
    rows = [_main_row(label, costs.loc[label], scores.loc[label], baseline) for label in labels]
    flags = {flag for found in scores["flags"] for flag in found}
    signs = [f"{sign} {facts.FLAG_MEANING[flag]}." for flag, sign in facts.FLAG_MARKS.items() if flag in flags]
    return _made("Costs and scores of each method", head, rows, " ".join(signs))


def _main_row(label: str, cost: "pd.Series", score: "pd.Series", baseline: str) -> list[Cell]:
    trained, stored = (
        cost[name] if not fmt.missing(cost[name]) else float(score[name])
        for name in ("trainable_method", "delta_bytes")
    )
    merged = _figure(fmt.ratio, cost["merged_batch_1_ratio"])
    if cost["merged_is_base"] is True:
        merged = Cell(f"{merged.text} =" if merged.key is not None else "= base", merged.key or 1.0)
    difference = Cell("baseline", 0.0) if label == baseline and score["n"] else _difference(score, "difference", "")
    failed = int(score["failed"]) + (cost["status"] not in ("ok", None) and not fmt.missing(cost["status"]))
    measured = _number(cost["peak_step_bytes"])
    return [
        _word(label), _figure(fmt.count, trained), _figure(fmt.size, stored),
        _figure(_three, cost["flops_backward_ratio"]), _interval(cost, "backward", 2),
        _figure(fmt.ratio, cost["step_ratio"]),
        _figure(fmt.size, measured),
        _figure(fmt.size, cost["predicted_step_bytes"] if measured is None else None),
        _interval(cost, "unmerged_batch_1", 2), merged,
        _marked(score), difference, Cell(str(failed), failed) if failed else Cell(fmt.MISSING),
    ]  # fmt: skip


def _marked(score: "pd.Series") -> Cell:
    """A mean score with the signs of its flags."""
    signs = "".join(sign for flag, sign in facts.FLAG_MARKS.items() if flag in score["flags"])
    mean = _figure(fmt.points, score["mean"])
    return Cell(f"{mean.text} {signs}".rstrip(), mean.key)


def _difference(row: "pd.Series", name: str, prefix: str) -> Cell:
    value, low, high = (_number(row[key]) for key in (name, f"{prefix}low", f"{prefix}high"))
    return Cell(fmt.difference(value, low, high), value)


def costs(run: Run, shape: Shape) -> list[Table]:
    """Counted figures, memory, times and latencies of one shape; a table without a figure is left out."""
    found = compare.cost_table(run.records, facts.labels(run, shape), shape)
    rows = [(str(label), row) for label, row in found.iterrows()]
    source = next((s for s in found["peak_memory_source"] if isinstance(s, str)), None)
    baseline = fmt.plain(run.suite.baseline)
    made = (
        _counted(rows, baseline),
        _memory(rows, facts.peak_name(source)),
        _timed(facts.timed_on(run, shape), rows, baseline),
        _inference(rows, facts.inference_length(run, shape)),
        _latency(rows, compare.measured_batches(found), facts.inference_length(run, shape)),
    )
    return [table for table in made if table is not None]


def _counted(rows: Rows, baseline: str) -> Table | None:
    shown: tuple[tuple[str, str, Show], ...] = (
        ("trained - head", "trainable_method", fmt.exact), ("head", "trainable_head", fmt.exact),
        ("stored per task", "delta_bytes", fmt.size), ("forward FLOPs", "flops_forward", fmt.count),
        ("backward FLOPs", "flops_backward", fmt.count), (f"backward / {baseline}", "flops_backward_ratio", _three),
        ("weight gradients", "flops_backward_weight_gradient", fmt.count),
        ("input gradients", "flops_backward_input_gradient", fmt.count),
        ("in the backbone", "flops_backward_backbone", fmt.count),
    )  # fmt: skip
    return _plain_table("Counted: exact on any machine", rows, shown)


def _memory(rows: Rows, peak: str) -> Table | None:
    held = {"weights": "weights", "gradients": "gradients", "optimizer state": "optimizer_state",
            "saved activations": "saved_activations", "predicted peak": "predicted_step"}  # fmt: skip
    shown = [(name, f"{key}_bytes", fmt.size) for name, key in held.items()]
    shown += [(f"{peak}: {phase}", f"peak_{phase}_bytes", fmt.size) for phase in compare.PHASES]
    return _plain_table("Memory of one training step", rows, shown)


def _plain_table(caption: str, rows: Rows, shown: Sequence[tuple[str, str, Show]]) -> Table | None:
    head = ("method", *(name for name, _, _ in shown))
    body = [[_word(label), *(_figure(show, row[key]) for _, key, show in shown)] for label, row in rows]
    return _made(caption, head, body)


def _timed(where: str, rows: Rows, baseline: str) -> Table | None:
    head = ["method", *(name for phase in compare.PHASES for name in (phase, f"{phase} / {baseline}, 95 %"))]
    body = []
    for label, row in rows:
        cells = [_word(label)]
        for phase in compare.PHASES:
            cells += [_figure(fmt.seconds, row[f"{phase}_seconds"]), _interval(row, phase)]
        cells += [_figure(lambda value: fmt.exact(value), row[f"step_{leaf}"]) for leaf in ("blocks", "samples")]
        body.append([*cells, _figure(fmt.seconds, row["switch_seconds"])])
    return _made(f"Timed: {where}", [*head, "blocks", "samples", "switch"], body)


def _inference(rows: Rows, length: int | None) -> Table | None:
    counted = [row for _, row in rows if _number(row["inference_base_operations"]) is not None]
    if not counted:
        return None
    base = {name: float(counted[0][f"inference_base_{name}"]) for name in compare.INFERENCE}
    head = ("method", "operations as is", "operations merged", "critical path as is", "critical path merged",
            "FLOPs as is", "as is / base", "FLOPs merged", "merged / base")  # fmt: skip
    body = []
    for label, row in rows:
        cells = [_word(label)]
        for name in ("operations", "depth"):
            cells += [_figure(fmt.exact, row[f"inference_{mode}_{name}"]) for mode in compare.MODES]
        if row["merged_is_base"] is True:
            cells[2] = Cell(f"{cells[2].text} =", cells[2].key)
        for mode in compare.MODES:
            flops = float(row[f"inference_{mode}_flops"])
            cells += [_figure(fmt.count, flops), _figure(_three, flops / base["flops"])]
        body.append(cells)
    note = (
        f"The base model: {fmt.exact(base['operations'])} operations, critical path {fmt.exact(base['depth'])}, "
        f"{fmt.count(base['flops'])} FLOPs. {SAME}"
    )
    return _made(f"Counted: one inference of one row{fmt.of_tokens(length)}", head, body, note)


def _latency(rows: Rows, batches: Sequence[str], length: int | None) -> Table | None:
    head, body = ["method"], []
    for batch in batches:
        size = batch.removeprefix("batch_")
        head += [f"as is, batch {size}", "/ base, 95 %", f"merged, batch {size}", "/ base, 95 %"]
    for label, row in rows:
        cells = [_word(label)]
        for batch in batches:
            for mode in compare.MODES:
                name, same = f"{mode}_{batch}", mode == "merged" and row["merged_is_base"] is True
                ratio = _interval(row, name)
                shown = f"{ratio.text} =" if same and ratio.key is not None else ratio.text
                cells += [_figure(fmt.seconds, row[f"{name}_seconds"]), Cell(shown, ratio.key)]
        errors = [_figure(lambda value: fmt.MISSING if value is None else f"{value:.1e}", row[f"merge_error_{dtype}"])
                  for dtype in compare.MERGE_TYPES]  # fmt: skip
        body.append([*cells, *errors])
    caption = f"Latency on rows{fmt.of_tokens(length)} against the base model" if batches else "Error of merging"
    head += [f"merge error, {t}" for t in compare.MERGE_TYPES]
    return _made(caption, head, body, SAME if batches else "")


def largest(run: Run, shape: Shape) -> Table | None:
    """The three largest tensors that each method keeps for backward; None where no record holds any."""
    found = {r.method.label: r for r in compare.cost_records(run.records) if r.shape == shape and r.bytes}
    head = ("method", "module", "owner", "shape", "type", "bytes", "of all saved")
    rows = [
        (_word(label), _word(kept.module or "the model itself"), _word(kept.owner),
         _word(" x ".join(map(str, kept.shape))), _word(kept.dtype), _figure(fmt.size, kept.bytes),
         Cell(f"{100 * kept.bytes / held:.1f} %", kept.bytes / held))
        for label in facts.labels(run) if label in found for kept in found[label].largest_saved[:3]
        if (held := found[label].bytes.saved_activations)  # type: ignore[union-attr]
    ]  # fmt: skip
    if not rows:
        return None
    return Table("Largest tensors kept for backward, three a method", head, tuple(rows), words=frozenset({1, 2, 3, 4}))


def scores(run: Run) -> list[Table]:
    """Scores over all tasks, then by task; empty without scores."""
    if not facts.score_records(run):
        return []
    baseline, labels = run.suite.baseline, facts.labels(run)
    mark, over = " (SYNTHETIC data)" if facts.is_synthetic(run) else "", f"- {fmt.plain(baseline)}, 95 %"
    whole = [
        (_word(label), Cell(fmt.points_interval(r["mean"], r["mean_low"], r["mean_high"]), _number(r["mean"])),
         Cell(str(r["n"]), r["n"]), Cell(str(r["failed"]), r["failed"]),
         Cell("baseline", 0.0) if label == baseline else _difference(r, "difference", ""),
         Cell(fmt.MISSING) if label == baseline else Cell(str(r["n_pairs"]), r["n_pairs"]),
         Cell(str(r["dropped"]), r["dropped"]),
         _word("; ".join(r["why"]) if r["n"] and label != baseline else ""))
        for label, r in compare.score_table(run.records, baseline, labels).iterrows()
    ]  # fmt: skip
    head = ("method", "mean score", "cells ok", "failed", over, "pairs", "left out", "no verdict because")
    single = [
        (_word(label), _word(task), Cell(fmt.points_interval(r["mean"], r["low"], r["high"]), _number(r["mean"])),
         Cell(f"{r['n']:.0f}", r["n"]), _difference(r, "difference", "difference_"), _figure(fmt.points, r["floor"]),
         _word(", ".join(flag.replace("_", " ") for flag in r["flags"])))
        for (label, task), r in compare.per_task(run.records, baseline, labels).iterrows()
    ]  # fmt: skip
    names = ("method", "task", "score ± 95 %", "seeds", over, "bag of words", "marks")
    return [
        Table(f"Scores over all tasks{mark}", head, tuple(whole), words=frozenset({7})),
        Table(f"Scores by task{mark}", names, tuple(single), words=frozenset({1, 6})),
    ]


def growth(run: Run) -> list[Table]:
    """The tables of the run's sweeps."""
    return [
        Table(f"{found.title}: {found.head[0]}", ("method", *found.head[1:]),
              tuple(tuple(Cell(fmt.plain(text)) for text in row) for row in found.rows), False)
        for found in scaling.tables(run)
    ]  # fmt: skip


def failures(run: Run) -> Table | None:
    """Every record that is not ok, with its reason; None where all are."""
    failed = compare.failures(run.records)
    rows = [
        (_word(r["method"]), _word(r["status"]), _word("cost" if fmt.missing(r["task"]) else r["task"]),
         Cell(fmt.MISSING) if fmt.missing(r["seed"]) else Cell(str(r["seed"]), float(r["seed"])),
         _word(r["reason"] or "no reason was recorded"))
        for _, r in failed.iterrows()
    ]  # fmt: skip
    head = ("method", "status", "task", "seed", "reason")
    return Table("Records that are not ok", head, tuple(rows), words=frozenset({1, 2, 4})) if rows else None

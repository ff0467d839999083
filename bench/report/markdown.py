"""Writes report.md: what was asked, on what, every table, what failed and what must be doubted; draws no figure."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from bench import compare
from bench.errors import BenchError
from bench.picks import picks
from bench.record import Shape
from bench.report import facts, fronts, scaling, verdicts
from bench.report import format as fmt
from bench.report.format import markdown as text
from bench.report.plots import PLOTS
from bench.store import Run

HOW = (
    ("trained", "parameters", "unique tensors that need a gradient; the task head is counted apart"),
    ("stored per task", "bytes", "what inference needs beside the backbone and the head"),
    ("FLOPs", "floating point operations", "matrix products and attention of one step, counted; exact on any machine"),
    ("saved activations", "bytes", "tensors that autograd keeps for backward, by storage, parameters left out; exact"),
    ("predicted peak", "bytes", "largest sum of live tensors in the second step of the model on tensors without data"),
    ("peak memory (counted)", "bytes", "largest sum of live tensors in the second training step; exact"),
    ("peak GPU memory", "bytes", "`max_memory_allocated` of each phase of a training step"),
    ("grows as", "polynomial", "least squares in x, the swept quantity; ≈: it misses a counted point by over 0.1 %"),
    ("exponent", "power", "d log(figure) / d log(x) of that polynomial at the largest x"),
    ("times", "seconds", "median over interleaved blocks; ratios are paired with the baseline round by round"),
    ("ratio interval", "ratio", "95 %: hull of the block bootstrap of the median and Student's t over block medians"),
    ("latency", "seconds", "inference of one batch, against the bare backbone with the same head, interleaved"),
    ("switch", "seconds", "median time to load another task's delta into the running model"),
    ("A/A control", "ratio", "the baseline against itself in the same rounds; beyond 3 % only wide margins hold"),
    ("score", "points of 100", "main metric of the task on rows that training never saw; ± is 95 % over seeds"),
    ("difference", "points of 100", "paired by task and seed, pairs that both have; 95 % Student t"),
    (
        "on the front",
        "probability",
        "share of bootstrap draws: no method is cheaper and as good, or as cheap and better",
    ),
    ("average rank", "1 the best", "by score in each (task, seed) that all compared methods have; 95 % Student t"),
    ("bag of words", "points of 100", "logistic regression on word counts, same rows: what needs no language model"),
)
"""Figure, unit, how it is measured."""
REMEDY = {
    "still_improving": "train longer (`steps` in the suite) before comparing these scores",
    "did_not_learn": "tune the learning rate or train longer; the score says nothing about the method",
}


def write(run: Run) -> Path:
    """Write ``report.md`` into the run's folder; figures that stand in ``plots/`` are shown.

    Raises:
        BenchError: The folder cannot be written, or the records cannot be compared.
    """
    parts = [
        _head(run), _claims(run), _picks(run), _warnings(run), _provenance(run), _costs(run), _scaling(run),
        _scores(run), _fronts(run), _failures(run), _figures(run), _how(),
    ]  # fmt: skip
    path = run.folder / "report.md"
    try:
        path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: cannot be written ({error.strerror}); free space or mend permissions") from error
    return path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; cells must be escaped already, the first column is text, the others are figures."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))


def _head(run: Run) -> str:
    lines = [f"# {text(run.suite['name'])}", f"**{text(run.suite.get('question', 'No question was asked.'))}**"]
    lines.append(text(facts.header(run)))
    lines += [f"- {name}: {text(line)}" for name, line in facts.progress(run).items()]
    for name, line in (
        ("data", facts.data(run)),
        ("noise", facts.control(run)),
        ("without a language model", facts.floor(run)),
    ):
        lines += [f"- {name}: {text(line)}"] if line else []
    if (sentence := facts.no_verdict(run)) is not None:
        lines.append(f"- scores: **{text(sentence)}**")
    return "\n\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])


def _claims(run: Run) -> str:
    rows = [(f"**{verdict}**" if verdict == "fail" else verdict, text(line)) for verdict, line in verdicts.lines(run)]
    if not rows:
        return ""
    how = (
        "Counted figures decide at once. Times and scores are tested at 5 % after Holm's correction over all of them: "
        "a time must stand with its interval widened by what the A/A control shows. `inconclusive` where it then "
        "straddles the bound, `invalid` where the control was not quiet as well."
    )
    return "## Claims\n\n" + table(("verdict", "claim"), rows).replace("---:", "---") + "\n\n" + how


def _picks(run: Run) -> str:
    rows = [
        (found.need, text(", ".join(found.methods)) or fmt.MISSING, text(found.why), text(found.rule))
        for found in picks(run)
    ]
    if not rows:
        return ""
    return "## I need\n\n" + table(("need", "pick", "figures and doubts", "rule"), rows).replace("---:", "---")


def _warnings(run: Run) -> str:
    found = [*_doubts_about_scores(run), *_doubts_about_costs(run)]
    if any(record.environment.get("dirty") for record in run.records):
        found.append("The commit had uncommitted changes: commit them and repeat to make the figures traceable.")
    return "## What to doubt\n\n" + "\n".join(f"- {line}" for line in found) if found else ""


def _doubts_about_scores(run: Run) -> list[str]:
    found, records = [], [record for record in facts.score_records(run) if record.status == "ok"]
    if records and facts.is_synthetic(run):
        found.append("Scores are on SYNTHETIC data: give `--data DIR` or a network for real GLUE.")
    if records and len(facts.seeds(run)) < compare.MIN_SEEDS:
        found.append(f"Fewer than {compare.MIN_SEEDS} seeds: scores carry no verdict; add `--seeds`.")
    if any(record.backbone and record.backbone.weights == "random" for record in records):
        found.append("The backbone has random weights: its costs are honest, its scores conclude nothing.")
    for flag, remedy in REMEDY.items():
        labels = dict.fromkeys(text(record.method.label) for record in records if flag in record.flags)
        if labels:
            found.append(f"{flag.replace('_', ' ').capitalize()}: {', '.join(labels)}; {remedy}.")
    for record in {record.task_name: record for record in records}.values():
        if record.task and record.task.overlap:
            texts = fmt.plural(record.task.overlap, "test text")
            found.append(f"{text(record.task_name)}: {texts} also found in training; read that score with care.")
        found += [f"{text(record.task_name)}: {text(note)}." for note in (record.task.notes if record.task else ())]
    notes = dict.fromkeys(note for record in run.records if record.backbone for note in record.backbone.notes)
    return found + [f"Backbone: {text(note)}." for note in notes]


def _doubts_about_costs(run: Run) -> list[str]:
    controls = compare.controls(run.records)
    found = []
    if not controls.empty and not controls["quiet"].all():
        found.append("The machine was NOT quiet: end other programs and measure again with `--fresh`.")
    for record in compare.cost_records(run.records):
        found += [f"{text(record.method.label)}: {text(warning)}." for warning in record.warnings]
    return found


def _provenance(run: Run) -> str:
    rows = [("suite", text(run.suite["name"])), ("run folder", text(run.folder.name))]
    backbone = next((record.backbone for record in run.records if record.backbone), None)
    if backbone:
        revision = f" at {text(backbone.revision)}" if backbone.revision else ""
        rows.append(("backbone", f"{text(backbone.name)}{revision}, {fmt.exact(backbone.parameters)} parameters"))
        rows.append(("weights", f"sha256 {text(backbone.sha256)}" if backbone.sha256 else backbone.weights))
    rows += [("machine", text(facts.this_machine(run)))]
    environments = {str(r.environment.get("fingerprint")): r.environment for r in run.records}
    for name, environment in environments.items():
        versions = ", ".join(f"{key} {value}" for key, value in (environment.get("versions") or {}).items() if value)
        processor = (environment.get("hardware") or {}).get("cpu", "unknown processor")
        dirty = " with uncommitted changes" if environment.get("dirty") else ""
        commit = f"commit {environment.get('commit') or 'unknown'}{dirty}"
        rows.append((f"environment {text(name)}", text(f"{processor}; {versions}; {commit}")))
    for record in {record.task_name: record for record in facts.score_records(run)}.values():
        if record.task:
            task = record.task
            sizes = f"{task.train_rows:,} training and {task.test_rows:,} test rows"
            rows.append(
                (f"data of {text(task.name)}", text(f"{task.source}, {sizes}, content {task.content_sha256[:12]}"))
            )
    if facts.seeds(run):
        rows.append(("seeds", ", ".join(map(str, facts.seeds(run)))))
    recipe = run.suite.get("recipe") or {}
    if recipe:
        rows.append(("recipe", text(", ".join(f"{key} {value}" for key, value in recipe.items() if value != {}))))
    started = [record.started for record in run.records]
    if started:
        rows.append(("measured", text(f"{min(started)} to {max(record.ended for record in run.records)}")))
    return "## Where the figures come from\n\n" + table(("what", "value"), rows).replace("---:", "---")


def _costs(run: Run) -> str:
    parts = []
    for shape in compare.cost_shapes(run.records):
        costs = compare.cost_table(run.records, facts.labels(run), shape)
        rows = [(text(label), row) for label, row in costs.iterrows()]
        baseline = text(run.suite["baseline"])
        source = next((s for s in costs["peak_memory_source"] if isinstance(s, str)), None)
        parts.append(f"## Costs: {text(facts.shape_line(shape))}")
        parts.append("Counted: exact on any machine.\n\n" + _counted(rows, baseline))
        parts.append(_memory(rows, facts.peak_name(source)))
        parts.append(_largest(run, shape))
        timed = f"Timed: {text(facts.this_machine(run))}. n = blocks, samples in all; interval 95 %."
        parts.append(f"{timed}\n\n{_timed(rows, baseline)}")
        latency = "Latency / base, interval 95 %. `=`: operations identical to the base, exactly."
        parts.append(f"{latency}\n\n{_latency(rows)}")
    return "\n\n".join(part for part in parts if part)


Rows = list[tuple[str, "pd.Series"]]


def _counted(rows: Rows, baseline: str) -> str:
    head = ("method", "trained - head", "head", "stored per task", "forward FLOPs", "backward FLOPs",
            f"backward / {baseline}", "weight gradients", "input gradients", "in the backbone")  # fmt: skip
    flops = ("flops_backward_weight_gradient", "flops_backward_input_gradient", "flops_backward_backbone")
    return table(head, [
        (label, fmt.exact(r["trainable_method"]), fmt.exact(r["trainable_head"]), fmt.size(r["delta_bytes"]),
         fmt.count(r["flops_forward"]), fmt.count(r["flops_backward"]), fmt.ratio(r["flops_backward_ratio"], 3),
         *(fmt.count(r[name]) for name in flops))
        for label, r in rows
    ])  # fmt: skip


def _memory(rows: Rows, peak: str) -> str:
    head = ("method", "weights", "gradients", "optimizer state", "saved activations",
            "predicted peak", f"{peak}: forward", "backward", "optimizer", "step")  # fmt: skip
    held = ("weights", "gradients", "optimizer_state", "saved_activations", "predicted_step")
    names = (*held, *(f"peak_{p}" for p in compare.PHASES))
    return table(head, [(label, *(fmt.size(r[f"{name}_bytes"]) for name in names)) for label, r in rows])


def _largest(run: Run, shape: Shape) -> str:
    found = [r for r in compare.cost_records(run.records) if r.shape == shape]
    costs = {r.method.label: (r.largest_saved, r.bytes.saved_activations) for r in found if r.bytes}
    head = ("method", "module", "owner", "shape", "type", "bytes", "of all saved")
    rows = [
        (text(label), text(kept.module or "the model itself"), kept.owner, " x ".join(map(str, kept.shape)),
         text(kept.dtype), fmt.size(kept.bytes), f"{100 * kept.bytes / costs[label][1]:.1f} %")
        for label in facts.labels(run) if label in costs for kept in costs[label][0][:3]
    ]  # fmt: skip
    if not rows:
        return ""
    return f"Largest tensors kept for backward, three a method (ten in `records.jsonl`).\n\n{table(head, rows)}"


def _timed(rows: Rows, baseline: str) -> str:
    head = ["method"]
    for phase in compare.PHASES:
        head += [phase, f"/ {baseline}"]
    body = []
    for label, r in rows:
        cells = [label]
        for phase in compare.PHASES:
            ratio = fmt.ratio_interval(r[f"{phase}_ratio"], r[f"{phase}_low"], r[f"{phase}_high"])
            cells += [fmt.seconds(r[f"{phase}_seconds"]), ratio]
        blocks, samples = r["step_blocks"], r["step_samples"]
        taken = fmt.MISSING if fmt.missing(blocks) else f"{blocks:.0f}, {samples:.0f}"
        body.append([*cells, taken, fmt.seconds(r["switch_seconds"])])
    return table([*head, "n", "switch"], body)


def _latency(rows: Rows) -> str:
    head = ["method"]
    for batch in compare.BATCHES:
        size = batch.removeprefix("batch_")
        head += [f"as is, batch {size}", "/ base", f"merged, batch {size}", "/ base"]
    body = []
    for label, r in rows:
        cells = [label]
        for batch in compare.BATCHES:
            for mode in compare.MODES:
                name = f"{mode}_{batch}"
                ratio = fmt.ratio_interval(r[f"{name}_ratio"], r[f"{name}_low"], r[f"{name}_high"])
                same = " =" if mode == "merged" and r["merged_is_base"] is True else ""
                cells += [fmt.seconds(r[f"{name}_seconds"]), ratio + same]
        errors = [r[f"merge_error_{dtype}"] for dtype in compare.MERGE_TYPES]
        body.append([*cells, *(fmt.MISSING if fmt.missing(error) else f"{error:.1e}" for error in errors)])
    return table([*head, *(f"merge error, {dtype}" for dtype in compare.MERGE_TYPES)], body)


def _scaling(run: Run) -> str:
    sentences = "\n".join(f"- {text(line)}" for line in scaling.sentences(run))
    parts = ["## Where curves cross", sentences] if sentences else []
    for heading, group in itertools.groupby(scaling.tables(run), key=lambda found: found.title):
        parts.append(f"## Growth: {text(heading)}")
        parts += [
            table([text(name) for name in t.head], [[text(cell) for cell in row] for row in t.rows]) for t in group
        ]
    return "\n\n".join(parts)


def _scores(run: Run) -> str:
    if not facts.score_records(run):
        return ""
    baseline, order = run.suite["baseline"], facts.labels(run)
    scores = compare.score_table(run.records, baseline, order)
    mark = " (SYNTHETIC data)" if facts.is_synthetic(run) else ""
    over = f"- {text(baseline)}, 95 %"
    head = ("method", "mean score", "cells ok", "failed", over, "pairs", "left out", "no verdict because")
    whole = [
        (text(label), fmt.points_interval(r["mean"], r["mean_low"], r["mean_high"]), str(r["n"]), str(r["failed"]),
         "baseline" if label == baseline else fmt.difference(r["difference"], r["low"], r["high"]),
         fmt.MISSING if label == baseline else str(r["n_pairs"]), str(r["dropped"]),
         text("; ".join(r["why"])) if r["n"] and label != baseline else fmt.MISSING)
        for label, r in scores.iterrows()
    ]  # fmt: skip
    return f"## Scores{mark}\n\n{table(head, whole)}\n\n{_per_task(run, mark)}"


def _per_task(run: Run, mark: str) -> str:
    baseline = run.suite["baseline"]
    single = compare.per_task(run.records, baseline, facts.labels(run))
    head = ("method", "task", "score ± 95 %", "n seeds", f"- {text(baseline)}, 95 %", "bag of words", "flags")
    rows = [
        (text(label), text(task), fmt.points_interval(r["mean"], r["low"], r["high"]), f"{r['n']:.0f}",
         fmt.difference(r["difference"], r["difference_low"], r["difference_high"]), fmt.points(r["floor"]),
         text(", ".join(r["flags"])) or fmt.MISSING)
        for (label, task), r in single.iterrows()
    ]  # fmt: skip
    return f"### Per task{mark}\n\n{table(head, rows)}"


def _fronts(run: Run) -> str:
    sentences, head, rows = fronts.table(run)
    if not sentences:
        return ""
    mark = " (SYNTHETIC data)" if facts.is_synthetic(run) else ""
    parts = [f"## Who is on the front{mark}", " ".join(map(text, sentences))]
    return "\n\n".join([*parts, table(head, [[text(cell) for cell in row] for row in rows])] if rows else parts)


def _failures(run: Run) -> str:
    failed = compare.failures(run.records)
    older = compare.latest(run.records)[1]
    parts = []
    if not failed.empty:
        rows = [
            (text(r["status"]), text(r["method"]), text("cost" if fmt.missing(r["task"]) else r["task"]),
             fmt.MISSING if fmt.missing(r["seed"]) else str(r["seed"]), text(r["reason"] or "no reason was recorded"))
            for _, r in failed.iterrows()
        ]  # fmt: skip
        parts.append(table(("status", "method", "task", "seed", "reason"), rows).replace("---:", "---"))
        parts.append("The same command tries nothing again that has a record; `--fresh` repeats all.")
    if older:
        parts.append(f"{fmt.plural(older, 'older record')} of the same cells left out.")
    return "## What failed\n\n" + "\n\n".join(parts) if parts else ""


def _figures(run: Run) -> str:
    shown = [
        f"![{plot.alt}](plots/{plot.name}.png)\n\n{plot.alt} [SVG](plots/{plot.name}.svg)"
        for plot in PLOTS
        if (run.folder / "plots" / f"{plot.name}.png").exists()
    ]
    return "## Figures\n\n" + "\n\n".join(shown) if shown else ""


def _how() -> str:
    rows = [(figure, unit, how) for figure, unit, how in HOW]
    return "## How each figure is measured\n\n" + table(("figure", "unit", "how"), rows).replace("---:", "---")

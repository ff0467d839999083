"""Writes report.md: what was asked, on what, every table, what failed and what must be doubted; draws no figure."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench import analysis as compare
from bench.analysis.tuned import RateChange
from bench.errors import unwritable
from bench.report import format as fmt
from bench.report.charts.catalogue import PLOTS
from bench.report.format import markdown as text
from bench.report.render import markdown_scores
from bench.report.render.markdown_table import table
from bench.report.sections import overview as facts
from bench.report.sections import scaling, verdicts
from bench.report.sections.how import HOW
from bench.report.sections.picks import picks
from bench.schema.record import Shape
from bench.store.store import Run

REMEDY = {
    "still_improving": "train longer (`steps` in the suite) before comparing these scores",
    "did_not_learn": "tune the learning rate or train longer; the score says nothing about the method",
}


def write(run: Run, change: RateChange | None = None) -> Path:
    """Write ``report.md`` into the run's folder; figures that stand in ``plots/`` are shown.

    Args:
        run: Finished or not.
        change: What a search for learning rates changed, where the reader gave one.

    Raises:
        BenchError: The folder cannot be written, or the records cannot be compared.
    """
    parts = [
        _head(run), _claims(run), _picks(run), _warnings(run), _provenance(run), _costs(run), _scaling(run),
        *markdown_scores.sections(run, change), _failures(run), _figures(run), _how(),
    ]  # fmt: skip
    path = run.folder / "report.md"
    try:
        path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def _head(run: Run) -> str:
    lines = [f"# {text(run.suite.name)}", f"**{text(run.suite.question or 'No question was asked.')}**"]
    lines.append(text(facts.header(run)))
    lines += [f"- {name}: {text(line)}" for name, line in facts.progress(run).items()]
    for name, line in (
        ("data", facts.data(run)),
        ("learning rates", facts.rates(run)),
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
    rows = [(found.need, text(found.named) or fmt.MISSING, text(found.why), text(found.rule)) for found in picks(run)]
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
    if facts.unequal_search(run):
        rates = text(facts.rates(run) or "")
        found.append(f"{rates}: give every method the same search (`bench tune`) before comparing these scores.")
    return found + [f"{text(line)}; read such scores with care." for line in facts.contamination(run)]


def _doubts_about_costs(run: Run) -> list[str]:
    controls = compare.controls(run.records)
    found = []
    if not controls.empty and not controls["quiet"].all():
        noisy = ", ".join(dict.fromkeys(controls.loc[~controls["quiet"], "name"]))
        found.append(f"The machine was NOT quiet ({text(noisy)}): end other programs and measure again with `--fresh`.")
    for record in compare.cost_records(run.records):
        found += [f"{text(record.method.label)}: {text(warning)}." for warning in record.warnings]
    return list(dict.fromkeys(found))  # several shapes warn alike


def _provenance(run: Run) -> str:
    rows = [("suite", text(run.suite.name)), ("run folder", text(run.folder.name))]
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
    if (libraries := facts.libraries(run)) is not None:
        rows.append(("methods of", text(libraries)))
    for record in {record.task_name: record for record in facts.score_records(run)}.values():
        if record.task:
            task = record.task
            sizes = f"{task.train_rows:,} training and {task.test_rows:,} test rows"
            seen = f"{facts.shared_rows(task)}, content {task.content_sha256[:12]}"
            rows.append((f"data of {text(task.name)}", text(f"{task.source}, {sizes}, {seen}")))
    if (rates := facts.rates(run)) is not None:
        rows.append(("learning rates", text(rates)))
    if facts.seeds(run):
        rows.append(("seeds", ", ".join(map(str, facts.seeds(run)))))
    recipe = run.suite.recipe
    if recipe:
        rows.append(("recipe", text(", ".join(f"{key} {value}" for key, value in recipe.items() if value != {}))))
    started = [record.started for record in run.records]
    if started:
        rows.append(("measured", text(f"{min(started)} to {max(record.ended for record in run.records)}")))
    return "## Where the figures come from\n\n" + table(("what", "value"), rows).replace("---:", "---")


def _costs(run: Run) -> str:
    parts = []
    for shape in compare.cost_shapes(run.records):
        costs = compare.cost_table(run.records, facts.labels(run, shape), shape)
        rows = [(text(label), row) for label, row in costs.iterrows()]
        baseline = text(run.suite.baseline)
        source = next((s for s in costs["peak_memory_source"] if isinstance(s, str)), None)
        parts.append(f"## Costs: {text(facts.shape_line(shape))}")
        parts.append("Counted: exact on any machine.\n\n" + _counted(rows, baseline))
        parts.append(_memory(rows, facts.peak_name(source)))
        parts.append(_largest(run, shape))
        timed = f"Timed: {text(facts.timed_on(run, shape))}. n = blocks, samples in all; interval 95 %."
        parts.append(f"{timed}\n\n{_timed(rows, baseline)}")
        length = facts.inference_length(run, shape)
        parts.append(_inference(rows, length))
        parts.append(_latency(rows, compare.measured_batches(costs), length))
    return "\n\n".join(part for part in parts if part)


Rows = list[tuple[str, "pd.Series"]]
SAME = "`=`: operations identical to the base, exactly."


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


def _inference(rows: Rows, length: int | None) -> str:
    counted = [r for _, r in rows if not fmt.missing(r["inference_base_operations"])]
    if not counted:
        return ""
    base = {name: counted[0][f"inference_base_{name}"] for name in compare.INFERENCE}
    said = (
        f"Counted: one inference of one row{fmt.of_tokens(length)}. The base model: {fmt.exact(base['operations'])} "
        f"operations, critical path {fmt.exact(base['depth'])}, {fmt.count(base['flops'])} FLOPs. {SAME}"
    )
    head = ("method", "operations as is", "merged", "critical path as is", "merged", "FLOPs as is", "/ base",
            "merged", "/ base")  # fmt: skip
    body = []
    for label, r in rows:
        cells = [label]
        for name in ("operations", "depth"):
            cells += [fmt.exact(r[f"inference_{mode}_{name}"]) for mode in compare.MODES]
        cells[2] += " =" if r["merged_is_base"] is True else ""
        for mode in compare.MODES:
            flops = r[f"inference_{mode}_flops"]
            cells += [fmt.count(flops), fmt.ratio(flops / base["flops"], 3)]
        body.append(cells)
    return f"{said}\n\n{table(head, body)}"


def _latency(rows: Rows, batches: Sequence[str], length: int | None) -> str:
    said = f"Latency on rows{fmt.of_tokens(length)} / base, interval 95 %. {SAME}" if batches else "Error of merging."
    head = ["method"]
    for batch in batches:
        size = batch.removeprefix("batch_")
        head += [f"as is, batch {size}", "/ base", f"merged, batch {size}", "/ base"]
    body = []
    for label, r in rows:
        cells = [label]
        for batch in batches:
            for mode in compare.MODES:
                name = f"{mode}_{batch}"
                ratio = fmt.ratio_interval(r[f"{name}_ratio"], r[f"{name}_low"], r[f"{name}_high"])
                same = " =" if mode == "merged" and r["merged_is_base"] is True else ""
                cells += [fmt.seconds(r[f"{name}_seconds"]), ratio + same]
        errors = [r[f"merge_error_{dtype}"] for dtype in compare.MERGE_TYPES]
        body.append([*cells, *(fmt.MISSING if fmt.missing(error) else f"{error:.1e}" for error in errors)])
    shown = table([*head, *(f"merge error, {dtype}" for dtype in compare.MERGE_TYPES)], body)
    return f"{said}\n\n{shown}"


def _scaling(run: Run) -> str:
    sentences = "\n".join(f"- {text(line)}" for line in scaling.sentences(run))
    parts = ["## Where curves cross", sentences] if sentences else []
    for heading, group in itertools.groupby(scaling.tables(run), key=lambda found: found.title):
        parts.append(f"## Growth: {text(heading)}")
        parts += [
            table([text(name) for name in t.head], [[text(cell) for cell in row] for row in t.rows]) for t in group
        ]
    return "\n\n".join(parts)


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

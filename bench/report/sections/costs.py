"""What each method costs: the table of all methods, then each shape's counts, memory, times and inference."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from bench.analysis.costs import BASE, INFERENCE, MERGE_TYPES, MODES, THROUGHPUT, measured_batches
from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Section, Table, Text
from bench.report.sections import (
    NOTHING,
    Show,
    columns,
    difference_cell,
    figure,
    number,
    ratio_cell,
    table,
    three,
    word,
)
from bench.report.sections import overview as facts
from bench.report.sections.caveats import FLAG_MARKS, FLAG_MEANING
from bench.schema.figures import BATCH, GENERATION, SERVED, of_group
from bench.schema.record import ServingTimes, Shape

Rows = Sequence[tuple[str, "pd.Series"]]
SAME = "= : operations identical to the base model's, exactly."
BRIEF = 6
"""Characters of a baseline's name that a column of a screen has room for."""


def methods(results: Results) -> Table | None:
    """Every method with its costs on the first shape and its scores; None where a run has neither."""
    if not results.cost_records and not results.score_records:
        return None
    costs, scores = results.cost_table(), results.score_table
    rows = [_method(results, label, costs.loc[label], scores.loc[label]) for label in results.labels]
    return table("Costs and scores of each method", _heads(results), rows, _notes(results), of_methods=True)


def _heads(results: Results) -> list[Column]:
    name = fmt.plain(results.baseline)
    over = name if len(name) <= BRIEF else "base"
    on_gpu = "cuda_allocated" in set(results.cost_table()["peak_memory_source"])
    score = "score (synthetic)" if results.is_synthetic else "score"
    backward, latency = f"backward / {over}", "latency b=1"
    return [
        Column("method"),
        Column("trainable params (excl. head)", ("", "trainable", "ex. head")),
        Column("stored per task", ("", "stored", "a task")),
        Column(f"backward FLOPs / {name}", (backward, "FLOPs", "")),
        Column(f"backward time / {name}, 95 %", (backward, "time", "95 %")),
        Column(f"step time / {name}", ("", "step", f"/{over}")),
        Column(facts.peak_name("cuda_allocated" if on_gpu else None),
               ("", "peak GPU" if on_gpu else "peak mem", "memory" if on_gpu else "(counted)")),
        Column("predicted peak", ("", "peak mem", "(predicted)")),
        Column("saved for backward", ("", "saved for", "backward")),
        Column("latency / base, batch 1, unmerged", (latency, "unmerged", "")),
        Column("latency / base, batch 1, merged", (latency, "merged", "")),
        Column("merged is base", ("", "merged", "is base")),
        Column(f"mean {score}", (score, "mean", "")),
        Column(f"score - {name}, 95 %", (score, f"- {over}", "95 %"), ends_line=True),
        Column("failed"),
    ]  # fmt: skip


def _method(results: Results, label: str, cost: "pd.Series", score: "pd.Series") -> list[Cell]:
    trained, stored = (
        cost[name] if not fmt.missing(cost[name]) else float(score[name])
        for name in ("trainable_method", "delta_bytes")
    )
    timed = not results.cost_table()[["step_ratio", "unmerged_batch_1_ratio"]].isna().all(axis=None)
    measured, baseline = number(cost["peak_step_bytes"]), label == results.baseline
    is_base = {True: "=", False: "differs"}.get(cost["merged_is_base"], fmt.MISSING)
    failed = int(score["failed"]) + (cost["status"] not in ("ok", None) and not fmt.missing(cost["status"]))
    return [
        word(label), figure(fmt.count, trained), figure(fmt.size, stored),
        figure(three, cost["flops_backward_ratio"], fmt.ratio), _own(cost, "backward", baseline, 2),
        figure(fmt.ratio, cost["step_ratio"]),
        figure(fmt.size, measured),
        figure(fmt.size, cost["predicted_step_bytes"] if measured is None else None),
        figure(fmt.size, None if timed else cost["saved_activations_bytes"]),
        _latency_cell(cost, "unmerged", "batch_1", baseline, 2),
        _brief(_latency_cell(cost, "merged", "batch_1", baseline)),
        NOTHING if timed else word(is_base),
        _marked(score), _difference(score, baseline), Cell(str(failed), failed) if failed else NOTHING,
    ]  # fmt: skip


def _brief(cell: Cell) -> Cell:
    """The figure alone, as a screen shows it."""
    return Cell(cell.screen.strip(), cell.value, cell.screen)


def _own(row: "pd.Series", name: str, baseline: bool, digits: int = 3) -> Cell:
    """A ratio to the baseline; that of the baseline itself is 1 by definition."""
    cell = ratio_cell(row, name, digits)
    return Cell(fmt.ratio(1.0, digits), 1.0, fmt.ratio(1.0)) if baseline and cell.value is not None else cell


def _latency_cell(row: "pd.Series", mode: str, batch: str, baseline: bool, digits: int = 3) -> Cell:
    """Latency against the base model; a baseline that is the base model is 1 by definition."""
    cell = ratio_cell(row, f"{mode}_{batch}", digits)
    if cell.value is None:
        return Cell(cell.text, None, cell.text + "  " * (mode == "merged"))
    same = row["merged_is_base"] is True and (mode == "merged" or _unmerged_is_base(row))
    if baseline and same:
        cell = Cell(fmt.ratio(1.0, digits), 1.0, fmt.ratio(1.0))
    brief = fmt.ratio(number(cell.value)) if cell.text != fmt.TOO_FEW else cell.text
    sign = " =" if same and mode == "merged" else ""
    return Cell(cell.text + sign, cell.value, brief + (sign or "  " * (mode == "merged")))


def _unmerged_is_base(row: "pd.Series") -> bool:
    """Whether what runs unmerged is, count by count, what runs merged."""
    return all(row[f"inference_unmerged_{name}"] == row[f"inference_{BASE}_{name}"] for name in INFERENCE)


def _marked(score: "pd.Series") -> Cell:
    """A mean score with the signs of its flags."""
    mean = figure(fmt.points, score["mean"])
    return Cell(f"{mean.text} {_signs(score)}".rstrip(), mean.value, f"{mean.text}{_signs(score) or ' '}")


def _difference(score: "pd.Series", baseline: bool) -> Cell:
    return Cell("baseline", 0.0) if baseline and score["n"] else difference_cell(score)


def _signs(score: "pd.Series") -> str:
    return "".join(sign for flag, sign in FLAG_MARKS.items() if flag in score["flags"])


def _notes(results: Results) -> list[str]:
    """Lines below the table that say what its signs mean."""
    costs, scores = results.cost_table(), results.score_table
    notes = []
    if (costs["merged_is_base"] == True).any():  # noqa: E712 - a column of None, True and False
        notes.append("= operations identical to the base model: no added latency, exactly")
    flags = {flag for held in scores["flags"] for flag in held}
    notes += [f"{mark} {FLAG_MEANING[flag]}" for flag, mark in FLAG_MARKS.items() if flag in flags]
    short = scores[(scores["n"] > 0) & (scores["dropped"] > 0)]
    notes += [f"{fmt.plain(label)}: compared on {row['n_pairs']} pairs, {row['dropped']} without a partner left out"
              for label, row in short.iterrows()]  # fmt: skip
    if results.cost_records:
        on_gpu = "cuda_allocated" in set(costs["peak_memory_source"])
        counted = "FLOPs" if on_gpu else "FLOPs and memory"
        notes.append(
            f"- not measured, or the method cannot do it; {counted}: counted, exact on any machine; times: this machine"
        )
    notes += [alike(labels) for labels in twins(costs)]
    notes += facts.method_notes(results)
    notes += [left] if (left := facts.unscored(results)) is not None else []
    notes += [floor] if (floor := facts.floor(results)) is not None else []
    return notes + facts.contamination(results)


def alike(labels: Sequence[str]) -> str:
    """That methods cost the same, in words."""
    names = ", ".join(map(fmt.plain, labels))
    return f"{names}: every counted cost is the same; they differ in start, scale or learning rate alone"


def twins(costs: pd.DataFrame) -> list[tuple[str, ...]]:
    """Methods of a table of costs that no counted figure tells apart, in groups of two and more."""
    on_gpu = "cuda_allocated" in set(costs["peak_memory_source"])
    counted = [
        name for name in costs.columns
        if name.startswith(("trainable_", "flops_", "inference_")) or name in ("delta_bytes", "merged_is_base")
        or (name.endswith("_bytes") and not (on_gpu and name.startswith("peak_")))
    ]  # fmt: skip
    groups: dict[str, list[str]] = {}
    for label, row in costs[costs["flops_backward"].notna()].iterrows():
        groups.setdefault(repr([row[name] for name in counted]), []).append(str(label))
    return [tuple(labels) for labels in groups.values() if len(labels) > 1]


def section(results: Results) -> Section | None:
    """Counted figures, memory, times and inference on every shape; None where nothing was probed."""
    blocks: list[Block] = []
    for shape in results.shapes:
        said = facts.shape_line(shape)
        on = facts.shape_among(results.shapes, shape)
        made = of_shape(results, shape)
        if len(results.shapes) > 1:
            made = [replace(made_table, caption=f"{made_table.caption} · {on}") for made_table in made]
        blocks += [Text((said,), "heading"), *made] if made else []
    return Section("costs", "Costs", tuple(blocks)) if blocks else None


def of_shape(results: Results, shape: Shape) -> list[Table]:
    """The tables of one shape; one without a figure is left out."""
    costs = results.cost_table(shape).loc[results.labels_on(shape)]
    rows = [(str(label), row) for label, row in costs.iterrows()]
    groups = twins(costs)
    once = _once(rows, groups)
    source = next((s for s in costs["peak_memory_source"] if isinstance(s, str)), None)
    length = facts.inference_length(results, shape)
    made = (
        _counted(once, fmt.plain(results.baseline), [alike(labels) for labels in groups]),
        _memory(once, facts.peak_name(source)),
        _timed(rows, results, shape),
        _energy(results, shape, rows),
        _inference(once, length),
        _latency(rows, measured_batches(costs), length, results.baseline),
        *_generation(results, shape),
        _serving(results, shape),
        _largest(results, shape, once),
    )
    return [made_table for made_table in made if made_table is not None]


def _once(rows: Rows, groups: Sequence[tuple[str, ...]]) -> Rows:
    """One row for methods of the same counts, under the names of all."""
    first = {labels[0]: ", ".join(labels) for labels in groups}
    others = {label for labels in groups for label in labels[1:]}
    return [(first.get(label, label), row) for label, row in rows if label not in others]


SHOWN_AS: dict[str, Show] = {"B": fmt.size, "FLOPs": fmt.count}
"""How a counted figure is written, by its unit; whole numbers where it is none of these."""


def _counted(rows: Rows, baseline: str, notes: Sequence[str]) -> Table | None:
    shown = [(f.label, f.name, SHOWN_AS.get(f.unit, fmt.exact)) for f in of_group("counted")]
    after = [name for _, name, _ in shown].index("flops_backward") + 1
    shown.insert(after, (f"backward / {baseline}", "flops_backward_ratio", three))
    return _of_columns("Counted: exact on any machine", rows, shown, notes)


def _memory(rows: Rows, peak: str) -> Table | None:
    shown = [
        (f.label.replace("peak memory", peak), f.name, SHOWN_AS.get(f.unit, fmt.exact)) for f in of_group("memory")
    ]
    return _of_columns("Memory of one training step", rows, shown)


def _of_columns(
    caption: str, rows: Rows, shown: Sequence[tuple[str, str, Show]], notes: Sequence[str] = ()
) -> Table | None:
    head = columns("method", *(name for name, _, _ in shown))
    body = [[word(label), *(figure(show, row[key]) for _, key, show in shown)] for label, row in rows]
    return table(caption, head, body, notes)


def _timed(rows: Rows, results: Results, shape: Shape) -> Table | None:
    baseline = fmt.plain(results.baseline)
    times = {f.name: f.label for f in of_group("timed") if BATCH not in f.path}
    head = ["method", *(name for said in times.values() for name in (said, f"{said} / {baseline}, 95 %"))]
    rates = {name: said for name, said in TOKENS.items() if any(number(row[name]) is not None for _, row in rows)}
    body = []
    for label, row in rows:
        cells = [word(label)]
        for name in times:
            cells += [figure(fmt.seconds, row[f"{name}_seconds"]), _own(row, name, label == results.baseline)]
        cells += [figure(fmt.count, row[name]) for name in rates]
        cells += [figure(fmt.exact, row[f"step_{leaf}"]) for leaf in ("blocks", "samples")]
        body.append([*cells, figure(fmt.seconds, row["switch_seconds"])])
    caption = f"Timed: {facts.timed_on(results, shape)}"
    return table(caption, columns(*head, *rates.values(), "blocks", "samples", "switch"), body)


TOKENS = dict(zip(THROUGHPUT, ("tokens / s", "target tokens / s"), strict=True))


def _energy(results: Results, shape: Shape, rows: Rows) -> Table | None:
    """Joules of a step with the counter that they are from; None where there was none."""
    shown = [(f.label, f.name, fmt.seconds if f.unit == "s" else fmt.joules) for f in of_group("energy")]
    counters = {(one.source.upper(), fmt.plain(one.covers)) for record in results.measured(shape).values()
                if (one := record.step_energy)}  # fmt: skip
    notes = [f"Counter: {source} of {covers}; all that it counts while steps run, idling included, none subtracted."
             for source, covers in sorted(counters)]  # fmt: skip
    return _of_columns("Energy of one training step", rows, shown, notes) if counters else None


def _inference(rows: Rows, length: int | None) -> Table | None:
    counted = [row for _, row in rows if number(row["inference_base_operations"]) is not None]
    if not counted:
        return None
    base = {name: float(counted[0][f"inference_base_{name}"]) for name in INFERENCE}
    shown = {f.name: f for f in of_group("inference")}
    names = [name for name in INFERENCE if name != "flops"]  # these stand beside their ratio
    head = ["method", *(shown[f"inference_{mode}_{name}"].label for name in names for mode in MODES)]
    head += [name for mode in MODES for name in (f"FLOPs, {mode}", f"{mode} / base")]
    body = []
    for label, row in rows:
        cells = [word(label)]
        for name in names:
            columns_of = [shown[f"inference_{mode}_{name}"] for mode in MODES]
            cells += [figure(SHOWN_AS.get(f.unit, fmt.exact), row[f.name]) for f in columns_of]
        if row["merged_is_base"] is True:
            cells[2] = Cell(f"{cells[2].text} =", cells[2].value)
        for mode in MODES:
            flops = float(row[f"inference_{mode}_flops"])
            cells += [figure(fmt.count, flops), figure(three, flops / base["flops"])]
        body.append(cells)
    note = (
        f"The base model: {fmt.exact(base['operations'])} operations, critical path {fmt.exact(base['depth'])}, "
        f"{fmt.count(base['flops'])} FLOPs. {SAME}"
    )
    return table(f"Counted: one inference of one row{fmt.of_tokens(length)}", columns(*head), body, [note])


def _latency(rows: Rows, batches: Sequence[str], length: int | None, baseline: str) -> Table | None:
    head, body = ["method"], []
    for batch in batches:
        size = batch.removeprefix("batch_")
        head += [name for mode in MODES for name in (f"{mode}, batch {size}", f"{mode} / base, 95 %")]
    for label, row in rows:
        cells = [word(label)]
        for batch in batches:
            for mode in MODES:
                seconds = figure(fmt.seconds, row[f"{mode}_{batch}_seconds"])
                cells += [seconds, _latency_cell(row, mode, batch, label == baseline)]
        body.append([*cells, *(figure(_error, row[f"merge_error_{dtype}"]) for dtype in MERGE_TYPES)])
    caption = f"Latency on rows{fmt.of_tokens(length)} against the base model" if batches else "Error of merging"
    head += [f"merge error, {dtype}" for dtype in MERGE_TYPES]
    return table(caption, columns(*head), body, [SAME] if batches else [])


def _error(value: float | None) -> str:
    return fmt.MISSING if value is None else f"{value:.1e}"


def _generation(results: Results, shape: Shape) -> list[Table | None]:
    """What writing takes: a token counted behind each context, and prefill and decode timed at each batch."""
    written = results.generation_table(shape)
    if written.empty:
        return []
    counted, timed = [], []
    for (label, context), of_context in written.groupby(["method", "context"], sort=False):
        place = [word(label), Cell(fmt.exact(float(context)), context)]
        first = of_context.drop_duplicates("mode").set_index("mode").reindex([BASE, *MODES])
        same = _equal(first)
        counted.append([*place, *_one_token(first, same)])
        for batch, rows in of_context.dropna(subset="batch").groupby("batch"):
            modes = rows.set_index("mode").reindex(MODES)
            timed.append([*place, Cell(fmt.exact(float(batch)), batch), *_writing(modes, same)])
    base = written[written["mode"] == BASE].drop_duplicates("context")
    notes = [
        f"The base model behind {fmt.exact(row['context'])} tokens: {fmt.exact(row['decode_operations'])} operations, "
        f"critical path {fmt.exact(row['decode_depth'])}, {fmt.count(row['decode_flops'])} FLOPs a token, "
        f"KV cache {fmt.size(row['cache_bytes'])}, {fmt.size(row['cache_bytes_per_token'])} more a token."
        for _, row in base.iterrows()
    ]
    heads = [f"{name}, {mode}" for mode in MODES for name in ("operations", "critical path", "FLOPs / base")]
    heads += ["prefill FLOPs / base, unmerged", "KV cache, unmerged", "more a token"]
    times = [f"{name}, {mode}" for mode in MODES for name in ("prefill", "/ base, 95 %", "decode", "/ base, 95 %",
                                                              "tokens / s")]  # fmt: skip
    return [
        table("Counted: decoding one token of one row behind a KV cache", columns("method", "context", *heads),
              counted, [*notes, SAME]),
        table("Timed: prefill (time to first token) and decode (time per output token)",
              columns("method", "context", "batch", *times), timed, [SAME]),
    ]  # fmt: skip


def _equal(modes: pd.DataFrame) -> bool:
    """Whether what runs merged is, count by count, the base; ``modes`` has a row for each."""
    return all(modes.loc["merged", name] == modes.loc[BASE, name] for name in _OF_WRITING)


_OF_WRITING = [f"{phase}_{name}" for phase in GENERATION for name in INFERENCE]


def _one_token(modes: pd.DataFrame, same: bool) -> list[Cell]:
    """Counts of a decode step, by mode; ``same``: merged they are those of the base."""
    cells = []
    for mode in MODES:
        row = modes.loc[mode]
        operations = figure(fmt.exact, row["decode_operations"])
        sign = " =" if same and mode == "merged" else ""
        cells += [Cell(operations.text + sign, operations.value), figure(fmt.exact, row["decode_depth"]),
                  figure(three, row["decode_flops"] / modes.loc[BASE, "decode_flops"])]  # fmt: skip
    own = modes.loc["unmerged"]
    return [*cells, figure(three, own["prefill_flops"] / modes.loc[BASE, "prefill_flops"]),
            *(figure(fmt.size, own[name]) for name in ("cache_bytes", "cache_bytes_per_token"))]  # fmt: skip


def _writing(modes: pd.DataFrame, same: bool) -> list[Cell]:
    """Prefill, decode and tokens a second, by mode; ``same``: merged they are those of the base."""
    cells = []
    for mode, row in modes.iterrows():
        for phase in GENERATION:
            ratio, sign = ratio_cell(row, phase), " =" if same and mode == "merged" else ""
            cells += [figure(fmt.seconds, row[f"{phase}_seconds"]), Cell(ratio.text + sign, ratio.value)]
        cells.append(figure(fmt.count, row["tokens_per_second"]))
    return cells


def _serving(results: Results, shape: Shape) -> Table | None:
    """What several tasks on one backbone take, and how long a batch of theirs; None where none were served."""
    found = [r for r in results.cost_records if r.shape == shape and r.serving_bytes]
    head = columns("method", "tasks", "deltas", "copies of the backbone", "base model",
                   *(f"{said} / base, 95 %" for said in SERVED.values()))  # fmt: skip
    body = []
    for record in found:
        times = record.serving_seconds
        for key, taken in (record.serving_bytes or {}).items():
            cells = [word(record.method.label), figure(fmt.exact, int(key.removeprefix("tasks_"))),
                     figure(fmt.size, taken.deltas), figure(fmt.size, taken.copies),
                     figure(fmt.seconds, times and times.base.median)]  # fmt: skip
            body.append([*cells, *(_against_base(times, way, key) for way in SERVED)])
    rows = next((r.serving_rows for r in found if r.serving_rows), None)
    on = f": a batch of {rows} rows{fmt.of_tokens(found[0].latency_length)}, which take them in turn" if rows else ""
    return table(f"Several tasks on one backbone{on}", head, body)


def _against_base(times: ServingTimes | None, way: str, key: str) -> Cell:
    timing = (getattr(times, way, None) or {}).get(key)
    if timing is None:
        return figure(three, None)
    text = fmt.ratio_interval(timing.ratio_to_baseline, *timing.ratio_interval)
    return Cell(text, timing.ratio_to_baseline)


def _largest(results: Results, shape: Shape, shown: Rows) -> Table | None:
    """The three largest tensors that each method keeps for backward; None where no record holds any."""
    held = {r.method.label: r for r in results.cost_records if r.shape == shape and r.bytes}
    rows = [
        (word(heading), word(kept.module or "the model itself"), word(kept.owner),
         word(" x ".join(map(str, kept.shape))), word(kept.dtype), figure(fmt.size, kept.bytes),
         Cell(f"{100 * kept.bytes / whole:.1f} %", kept.bytes / whole))
        for heading, row in shown
        if (record := held.get(str(row.name)))
        for kept in record.largest_saved[:3]
        if (whole := record.bytes.saved_activations)  # type: ignore[union-attr]
    ]  # fmt: skip
    names = ("method", "module", "owner", "shape", "type", "bytes", "of all saved")
    head = [Column(name, words=at in {1, 2, 3, 4}) for at, name in enumerate(names)]
    note = "Ten a method stand in records.jsonl."
    return table("Largest tensors kept for backward, three a method", head, rows, [note]) if rows else None

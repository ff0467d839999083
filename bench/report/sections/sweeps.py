"""Costs that are counted without a run: how they grow, where two curves cross, and predictions of one step."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.analysis import sweeps
from bench.analysis.results import Results
from bench.analysis.sweeps import Crossing, Crossover, Figure, Growth
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Document, Fact, Facts, Section, Table, Text
from bench.report.sections import overview as facts
from bench.report.sections import plain_table, word
from bench.schema.record import Change, Prediction, RowLengths
from bench.schema.resolved import ResolvedSweep

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


def title(results: Results, name: str) -> str:
    """``batch: bert-base, 128 tokens, float32, sdpa, adamw_fused``; only what the suite says."""
    asked = _asked(results, name)
    parts = [still(asked), *facts.objective_words(asked), asked.dtype, asked.optimizer]
    parts += [f"{asked.adapter_dtype} adapters"] if asked.adapter_dtype else []
    parts += [] if asked.weights == "native" else [f"{asked.weights} weights"]
    parts += [f"dropout {asked.dropout:g}"] if asked.dropout else []
    parts += [name for name in ("checkpointing", "clipping") if getattr(asked, name)]
    parts += ["CUDA's forms"] if asked.device == "cuda" else []
    return fmt.plain(f"{name}: {', '.join(part for part in parts if part)}")


def still(asked: ResolvedSweep) -> str:
    """What stands still in a sweep: ``bert-base, batch 16, eager``."""
    parts = [asked.backbone, _rows(asked), asked.attention]
    return ", ".join(part for part in parts if part)


def _asked(results: Results, name: str) -> ResolvedSweep:
    return results.swept[name]


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


def section(results: Results) -> Section | None:
    """Where curves cross, and a table for each sweep and figure; None where nothing was swept."""
    crossings = sentences(results)
    blocks: list[Block] = [Text(tuple(crossings), "list")] if crossings else []
    for name, tables in itertools.groupby(_tables(results), key=lambda pair: pair[0]):
        blocks += [Text((name,), "heading"), *(shown for _, shown in tables)]
    screen: list[Block] = [*_screen(results), *([Text(tuple(crossings), "note")] if crossings else [])]
    if blocks and not (results.cost_records or results.score_records):  # else they stand below the table of methods
        noted = [Text(tuple(notes), "note")] if (notes := facts.method_notes(results)) else []
        blocks, screen = [*blocks, *noted], [*screen, *noted]
    return Section("growth", "Growth", tuple(blocks), tuple(screen)) if blocks else None


def _screen(results: Results) -> list[Table]:
    """Peak memory over each sweep that compares methods, at a few values."""
    guests, shown = sweeps.guests(results.suite), []
    for name, asked in results.swept.items():
        peaks = results.sweep_table(name, "peak_memory")
        if peaks.empty or name in guests:
            continue
        values, head = list(peaks.columns), fmt.plain(asked.vary)
        places = np.unique(np.linspace(0, len(values) - 1, SHOWN_VALUES).round().astype(int))
        columns = [Column("method"), *(Column(f"{values[at]}", (head, f"{values[at]}", "")) for at in places)]
        columns.append(Column("grows as", (" ", f"grows with x = {head} as", ""), words=True, ends_line=True))
        rows = [
            (word(label), *(Cell(fmt.size(row[values[at]])) for at in places),
             Cell(formula("peak_memory", sweeps.growth(row, asked.vary))))
            for label, row in peaks.iterrows()
        ]  # fmt: skip
        caption = f"{title(results, name)} · peak memory of one training step, counted"
        shown.append(Table(caption, tuple(columns), tuple(rows)))
    return shown


def sentences(results: Results) -> list[str]:
    """One for each crossover that the suite asks for."""
    return [_sentence(results, found) for found in results.crossovers]


def _sentence(results: Results, found: Crossover) -> str:
    asked, figure = found.asked, found.asked.figure
    first, second = _asked(results, asked.sweep), _asked(results, asked.than_sweep or asked.sweep)
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


def _tables(results: Results) -> list[tuple[str, Table]]:
    """For each sweep one table of each figure: all values, and the polynomial with how well it holds."""
    swept, shown = results.swept, []
    for (name, asked), figure in itertools.product(swept.items(), sweeps.FIGURES):
        counted = results.sweep_table(name, figure)
        if counted.empty:
            continue
        rows = [
            [str(label), *(unit(figure, value) for value in row), *_fit(figure, sweeps.growth(row, asked.vary))]
            for label, row in counted.iterrows()
        ]
        fitted = ["grows as", "largest miss", "R²", f"exponent at {counted.columns[-1]}"]
        caption = f"{NAMES[figure]} at {asked.vary}" + f" · {fmt.plain(name)}" * (len(swept) > 1)
        head = ["method", *map(str, counted.columns), *fitted]
        shown.append((title(results, name), plain_table(caption, head, rows)))
    return shown


def _fit(figure: Figure, grown: Growth | None) -> Sequence[str]:
    if grown is None:
        return [fmt.MISSING] * 4
    miss = "exact" if grown.residual < EXACT else fmt.percent(grown.residual)
    return [formula(figure, grown), miss, f"{grown.r_squared:.6f}", f"{grown.exponent:.2f}"]


PREDICTED_BASELINE = "full"
"""Method that backward is compared with, where it is among those asked for."""


# Predictions: counts of one step, without a run.


def prediction(rows: Sequence[Prediction]) -> Document:
    """What was predicted, for a screen.

    Args:
        rows: As `bench.count.predict.predictions` gives them.
    """
    why = [
        f"{fmt.plain(row.method)} {kind}: {fmt.plain(reason).removeprefix(f'{fmt.plain(row.method)}: ')}"
        for row in rows
        for kind, reason in (("refused", row.refused), ("not counted", row.not_counted))
        if reason
    ]
    columns, cells = zip(*_predicted(rows), strict=True)
    body = tuple((word(row.method), *(Cell(column[at]) for column in cells)) for at, row in enumerate(rows))
    table = Table("", (Column("method"), *columns), body)
    said = [Fact("step", facts.shape_line(rows[0].shape))]
    said += [Fact("lengths", _lengths(rows[0].lengths, rows[0].shape.batch))] if rows[0].lengths else []
    screen: list[Block] = [Facts(tuple(said)), table, *([_by_batch(rows)] if rows[0].lengths else [])]
    screen += [Text(tuple(why), tone="warn")] if why else []
    screen.append(Text(tuple(_legend(rows)), "note"))
    screen += [block for row in rows if row.changes is not None for block in _changes(row)]
    head = f"{backbone_line(rows)}: counted, exact on any machine"
    return Document("prediction", "", head, (Section("prediction", "", (), tuple(screen)),))


def backbone_line(rows: Sequence[Prediction]) -> str:
    """``llama-3.2-3b 3.2 G``; of a path its last two parts."""
    name = "/".join(Path(fmt.plain(rows[0].backbone)).parts[-2:])
    return f"{name} {fmt.count(rows[0].backbone_parameters)}"


def _predicted(rows: Sequence[Prediction]) -> list[tuple[Column, list[str]]]:
    whole = next((row.flops.backward for row in rows if row.method == PREDICTED_BASELINE and row.flops), None)
    flops = [row.flops for row in rows]
    trained = [row.trainable_parameters for row in rows]
    state = [
        "refused" if row.refused else fmt.count(t.method if t else None) for row, t in zip(rows, trained, strict=True)
    ]
    columns = [
        _column("", "params", "ex.head", state),
        _column("", "stored", "per task", [fmt.size(row.delta_bytes) for row in rows]),
        _column("FLOPs", "fwd", "", [fmt.count(f.forward if f else None) for f in flops]),
        _column("FLOPs", "bwd", "", [fmt.count(f.backward if f else None) for f in flops]),
    ]
    if whole:
        columns.append(_column("FLOPs", "bwd", f"/{PREDICTED_BASELINE}",
                              [fmt.ratio(f.backward / whole if f else None) for f in flops]))  # fmt: skip
    if _says_traffic(rows):
        moved = [fmt.size(row.traffic_bytes.step if row.traffic_bytes else None) for row in rows]
        columns.append(_column("", "bytes", "moved", moved))
    if any(row.communication_bytes for row in rows):
        columns.append(_column("", "sent", "a step", [_sent(row) for row in rows]))
    peaks = [row.predicted_peak_memory_bytes for row in rows]
    memory = "memory: predicted peak and its parts"
    columns += [
        _column(memory, "peak", "", [fmt.size(peak.step if peak else None) for peak in peaks]),
        _column(memory, "weights", "", _held(rows, "weights")),
        _column(memory, "gradients", "", _held(rows, "gradients")),
        _column(memory, "optimizer", "state", _held(rows, "optimizer_state")),
        _column(memory, "saved", "activ.", _held(rows, "saved_activations")),
    ]
    if any(row.estimated_step_seconds for row in rows):
        columns.append(_column("estimate", "step", "", [fmt.seconds(row.estimated_step_seconds) for row in rows]))
        columns.append(
            _column("estimate", "tokens", "/ s", [fmt.count(row.estimated_tokens_per_second) for row in rows])
        )
    if any(row.fits is not None for row in rows):
        columns.append(_column("", "fits,", "largest", [_fits(row) for row in rows]))
    return columns


def _column(title: str, first: str, second: str, cells: list[str]) -> tuple[Column, list[str]]:
    return Column(f"{title} {first} {second}".strip(), (title, first, second)), cells


def _says_traffic(rows: Sequence[Prediction]) -> bool:
    """Whether there is a column of bytes moved: beside what fits there is room for it where times are asked for."""
    asked = any(row.estimated_step_seconds for row in rows) or all(row.fits is None for row in rows)
    return asked and any(row.traffic_bytes for row in rows)


def _sent(row: Prediction) -> str:
    return fmt.size(row.communication_bytes.sent if row.communication_bytes else None)


def _held(rows: Sequence[Prediction], part: str) -> list[str]:
    return [fmt.size(getattr(row.bytes, part) if row.bytes else None) for row in rows]


def _fits(row: Prediction) -> str:
    return fmt.MISSING if row.fits is None else f"{'yes' if row.fits else 'NO'} {row.largest_batch}"


def _lengths(held: RowLengths, batch: int) -> str:
    """What rows there are and what a batch of random ones is padded to."""
    return (
        f"{fmt.plural(held.rows, 'row')} of {held.shortest:,} to {held.longest:,} tokens, mean {held.mean:,.1f}; the "
        f"step above is as long as the longest. A batch of {batch} random rows is {held.mean_longest:,.1f} long in the "
        f"mean, {fmt.percent(held.padding_share)} of it padding"
    )


def _by_batch(rows: Sequence[Prediction]) -> Table:
    """The worst batch, which holds the longest row, beside the mean one."""
    length = next((row.mean_batch.length for row in rows if row.mean_batch), None)
    worst, mean = f"worst batch, {rows[0].shape.length} tokens", f"mean batch, {length or fmt.MISSING} tokens"
    columns = [Column("method")]
    for batch, figure in itertools.product((worst, mean), ("peak", "FLOPs")):
        columns.append(Column(f"{batch}: {figure}", (batch, "", figure)))
    body = []
    for row in rows:
        peak, flops, mean_batch = row.predicted_peak_memory_bytes, row.flops, row.mean_batch
        cells = (
            fmt.size(peak.step if peak else None), fmt.count(flops.forward + flops.backward if flops else None),
            fmt.size(mean_batch.predicted_peak_memory_bytes if mean_batch else None),
            fmt.count(mean_batch.flops if mean_batch else None),
        )  # fmt: skip
        body.append((word(row.method), *map(Cell, cells)))
    return Table("", tuple(columns), tuple(body))


def _changes(row: Prediction) -> list[Block]:
    """What to change so that a step fits: a table, cheapest first, and a sentence of what it comes to."""
    changes, label = row.changes or (), fmt.plain(row.method)
    chosen = next((at for at, change in enumerate(changes) if change.fits), None)
    columns = (
        Column("peak", ("", "", "peak")), Column("FLOPs", ("", "FLOPs", "/ asked")),
        Column("fits", ("", "", "fits"), words=True), Column("same gradient", ("", "same", "gradient"), words=True),
        Column("change", ("", "", "change"), words=True, ends_line=True),
    )  # fmt: skip
    body = tuple(
        (Cell(fmt.size(change.predicted_peak_memory_bytes)), Cell(fmt.ratio(change.flops_ratio)),
         word(("YES" if at == chosen else "yes") if change.fits else "no"),
         word("yes" if change.same_gradients else "rounded"), word(_asked_for(change)))
        for at, change in enumerate(changes)
    )  # fmt: skip
    memory = (row.device_memory_bytes or 0) - (row.reserve_bytes or 0)
    peak = row.predicted_peak_memory_bytes.step if row.predicted_peak_memory_bytes else 0
    head = f"{label} takes {fmt.size(peak)} and may take {fmt.size(memory)}"
    if not changes:
        return [Text((f"{head}: no change of the step lowers its peak.",), tone="warn")]
    if chosen is None:
        least = min(change.predicted_peak_memory_bytes for change in changes)
        head += f": nothing below fits; the least peak is {fmt.size(least)}"
    return [Table(f"{head}. What to change, cheapest first, each counted:", columns, body), Text(CHANGES, "note")]


CHANGES = (
    "FLOPs: forward and backward of as many rows, against the step as asked. They are not all that costs time: smaller "
    "batches read the weights more often, 4-bit weights are unpacked. YES: the first that fits.",
    "same gradient: as asked, to rounding; or of numbers that are stored in fewer bits. x 2: gradients of two batches "
    "added up.",
)


def _asked_for(change: Change) -> str:
    return change.options + (f" (x {change.batches})" if change.batches > 1 else "")


def _legend(rows: Sequence[Prediction]) -> list[str]:
    """Lines below the table that say what its columns mean."""
    lines = [
        "peak: the largest of forward, backward and optimizer step. It is no sum of its parts: they do not peak "
        "together, and temporaries come on top.",
        "saved activ.: what autograd keeps for backward; trainable params and storage leave the task head out.",
    ]
    if _says_traffic(rows):
        lines.insert(0, "bytes moved: what the operations of the step read and write, the update among them.")
    if any(row.communication_bytes for row in rows):
        lines.insert(
            0,
            "sent a step: by each of N devices around a ring, 2 (N - 1) / N of gradients that are all-reduced, "
            "(N - 1) / N of what is gathered or scattered.",
        )
    held = next((row for row in rows if row.device_memory_bytes is not None), None)
    if held is not None:
        lines.append(
            f"fits, largest: whether the peak fits into {room_line(held)}, and the most rows of that length that do."
        )
    if any(row.fits is False and row.changes is None for row in rows):
        lines.append("What to change so that a step fits is counted for methods that are named with --method.")
    return [*lines, *notes_on(rows)]


def room_line(row: Prediction) -> str:
    """``25.8 GB (24 GiB) less a reserve of 5 % (1.3 GB) ...: 24.5 GB``: what a step may take of a device's memory."""
    memory, reserve = row.device_memory_bytes or 0, row.reserve_bytes or 0
    whole = f"{fmt.size(memory)} ({memory / 2**30:.4g} GiB)"
    share = fmt.percent(reserve / memory)
    kept = f"a reserve of {share} ({fmt.size(reserve)}) for the allocator and the CUDA context"
    return f"{whole} less {kept}: {fmt.size(memory - reserve)}"


def notes_on(rows: Sequence[Prediction]) -> list[str]:
    """Every note once, with the methods that it is about where it is not about all."""
    held = {note: [row.method for row in rows if note in row.notes] for row in rows for note in row.notes}
    return [
        fmt.plain(note) if len(labels) == len(rows) else f"{', '.join(map(fmt.plain, labels))}: {fmt.plain(note)}"
        for note, labels in held.items()
    ]

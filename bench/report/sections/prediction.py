"""Predictions as a table and as figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Document, Fact, Facts, Section, Table, Text
from bench.report.sections import word
from bench.schema.record import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "full"
"""Method that backward is compared with, where it is among those asked for."""


def document(rows: Sequence[Prediction]) -> Document:
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
    columns, cells = zip(*_columns(rows), strict=True)
    body = tuple((word(row.method), *(Cell(column[at]) for column in cells)) for at, row in enumerate(rows))
    table = Table("", (Column("method"), *columns), body)
    screen: list[Block] = [Facts((Fact("step", setting_line(rows)),)), table]
    screen += [Text(tuple(why), tone="warn")] if why else []
    screen.append(Text(tuple(_legend(rows)), "note"))
    head = f"{backbone_line(rows)}: counted, exact on any machine"
    return Document("prediction", "", head, (Section("prediction", "", (), tuple(screen)),))


def draw(rows: Sequence[Prediction], folder: Path) -> list[Path]:
    """Write the figures that ``rows`` allow into ``folder`` as PNG and SVG.

    Raises:
        BenchError: The folder cannot be written.
    """
    from bench.report.charts.backward import backward_by_depth
    from bench.report.charts.canvas import Words, save, styled
    from bench.report.charts.looks import looks
    from bench.report.charts.memory import memory_breakdown

    flops = {row.method: row.flops for row in rows if row.flops}
    names = list(flops)
    baseline = BASELINE if BASELINE in names else ""
    style, where = looks(names, baseline), f"{setting_line(rows)}; {'; '.join(_notes(rows))}."
    with styled():
        figures: dict[str, Figure | None] = {
            "memory": memory_breakdown(
                [row.model_dump() for row in rows if row.flops],
                Words(f"{backbone_line(rows)}: memory of one training step", "", where), style,
            ),
            "backward-depth": backward_by_depth(
                flops, baseline, Words(f"{backbone_line(rows)}: backward work by depth", "", setting_line(rows)), style,
            ),
        }  # fmt: skip
        return [path for name, figure in figures.items() for path in save(figure, folder, name)]


def backbone_line(rows: Sequence[Prediction]) -> str:
    """``llama-3.2-3b 3.2 G``; of a path its last two parts."""
    name = "/".join(Path(fmt.plain(rows[0].backbone)).parts[-2:])
    return f"{name} {fmt.count(rows[0].backbone_parameters)}"


def setting_line(rows: Sequence[Prediction]) -> str:
    """What a step is, in words."""
    shape = rows[0].shape
    parts = [
        f"{shape.batch} x {shape.length} tokens", shape.dtype, shape.attention, shape.optimizer,
        f"dropout {shape.dropout:g}", *(["checkpointing"] if shape.checkpointing else []),
        *([f"{shape.weights} weights"] if shape.weights != "native" else []), shape.device,
    ]  # fmt: skip
    return ", ".join(parts)


def _columns(rows: Sequence[Prediction]) -> list[tuple[Column, list[str]]]:
    whole = next((row.flops.backward for row in rows if row.method == BASELINE and row.flops), None)
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
        columns.append(_column("FLOPs", "bwd", f"/{BASELINE}",
                              [fmt.ratio(f.backward / whole if f else None) for f in flops]))  # fmt: skip
    peaks = [row.predicted_peak_memory_bytes for row in rows]
    memory = "memory: predicted peak and its parts"
    columns += [
        _column(memory, "peak", "", [fmt.size(peak.step if peak else None) for peak in peaks]),
        _column(memory, "weights", "", _held(rows, "weights")),
        _column(memory, "gradients", "", _held(rows, "gradients")),
        _column(memory, "optimizer", "state", _held(rows, "optimizer_state")),
        _column(memory, "saved", "activ.", _held(rows, "saved_activations")),
    ]
    if any(row.fits is not None for row in rows):
        columns.append(_column("", "fits,", "largest", [_fit(row) for row in rows]))
    return columns


def _column(title: str, first: str, second: str, cells: list[str]) -> tuple[Column, list[str]]:
    return Column(f"{title} {first} {second}".strip(), (title, first, second)), cells


def _held(rows: Sequence[Prediction], part: str) -> list[str]:
    return [fmt.size(getattr(row.bytes, part) if row.bytes else None) for row in rows]


def _fit(row: Prediction) -> str:
    return fmt.MISSING if row.fits is None else f"{'yes' if row.fits else 'NO'} {row.largest_batch}"


def _legend(rows: Sequence[Prediction]) -> list[str]:
    """Lines below the table that say what its columns mean."""
    lines = [
        "peak: the largest of forward, backward and optimizer step. It is no sum of its parts: they do not peak "
        "together, and temporaries come on top.",
        "saved activ.: what autograd keeps for backward; trainable params and storage leave the task head out.",
    ]
    memory = next((row.device_memory_bytes for row in rows if row.device_memory_bytes is not None), None)
    if memory is not None:
        lines.append(
            f"fits, largest: whether the peak fits into {fmt.size(memory)} ({memory / 2**30:.4g} GiB), and the most "
            "rows of that length that do."
        )
    return [*lines, *_notes(rows)]


def _notes(rows: Sequence[Prediction]) -> list[str]:
    """Every note once, with the methods that it is about where it is not about all."""
    held = {note: [row.method for row in rows if note in row.notes] for row in rows for note in row.notes}
    return [
        fmt.plain(note) if len(labels) == len(rows) else f"{', '.join(map(fmt.plain, labels))}: {fmt.plain(note)}"
        for note, labels in held.items()
    ]

"""The ``predict`` command: what a training step costs, counted without running it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import (
    AdapterDtype,
    Attention,
    Commands,
    Device,
    Dtype,
    JsonOption,
    Loss,
    Objective,
    Optimizer,
    Weights,
    parse_reserve,
    parse_size,
    split_specs,
)
from bench.execute.run import MEASURE, quiet_libraries

if TYPE_CHECKING:
    from bench.schema.record import Prediction

counting = Commands()
SEQ = 128
"""Tokens of a row where nobody says."""
RESERVE = "5%"
"""Of a device's memory, what is left to the allocator and the CUDA context (METHODOLOGY.md, What fits)."""


@counting.command(rich_help_panel=MEASURE)
def predict(
    backbone: Annotated[str, typer.Option(help="Named shape, hub id, ./folder or path of a config.json (no weights).")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods: name, name(key=value, ...) or all built-in ones (all), separated by commas; repeatable."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows per training step.")] = 8,
    seq: Annotated[int | None, typer.Option(min=1, help="Tokens per row, excluding prompts; 128 if omitted.")] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(help="File with the tokens of each of your rows, one whole number a line; in place of --seq."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Data type of the computation.")] = "float32",
    adapter_dtype: Annotated[
        AdapterDtype | None,
        typer.Option(help="Type of what a method adds beside bfloat16: float32 if omitted (as peft), or the model's."),
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimizer and its implementation.")] = "adamw_fused",
    attention: Annotated[Attention, typer.Option(help="Attention implementation.")] = "sdpa",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Use activation checkpointing in every layer.")
    ] = False,
    clipping: Annotated[bool, typer.Option("--clipping", help="Clip the gradients before the update.")] = False,
    dropout: Annotated[float, typer.Option(help="Dropout probability, in place of the model's own.")] = 0.0,
    objective: Annotated[
        Objective | None,
        typer.Option(help="What is trained on top; text for decoders, classes for encoders if omitted."),
    ] = None,
    loss: Annotated[
        Loss | None,
        typer.Option(help="Logits of text: of all positions (full, as transformers), of targets, or in chunks."),
    ] = None,
    target_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a row with a next-token target, the last ones; all if omitted.")
    ] = None,
    padded: Annotated[
        bool, typer.Option("--padded", help="Rows of unequal length, --seq the longest: attention gets a mask.")
    ] = False,
    weights: Annotated[
        Weights, typer.Option(help="Storage of frozen linear weights: as --dtype, or in 4 bits.")
    ] = "native",
    bitsandbytes: Annotated[
        str | None,
        typer.Option(help="Version that packs them; before 0.43.2 each product keeps its input. Newest if omitted."),
    ] = None,
    device: Annotated[Device, typer.Option(help="Device whose kernels are counted; it need not be present.")] = "cuda",
    devices: Annotated[
        int, typer.Option(min=1, max=1024, help="Devices that share --batch; figures are those of each.")
    ] = 1,
    shard: Annotated[
        bool, typer.Option("--shard", help="Of several devices each keeps a share of the weights (FSDP2, not DDP).")
    ] = False,
    device_memory: Annotated[
        str | None, typer.Option(help="Also say what fits in this much memory, such as 24GiB or 80GB.")
    ] = None,
    reserve: Annotated[
        str | None,
        typer.Option(help="Of --device-memory, left to allocator and CUDA context: a share or a size; 5% if omitted."),
    ] = None,
    roofline: Annotated[
        str | None,
        typer.Option(help="Also estimate a step's time on a device: its FLOP/s,bytes/s, or a name such as l40s."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for two plots: memory, and backward pass by depth.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count memory, FLOPs and parameters of a training step, without weights, without a GPU, without running it.

    Counts eager mode; torch.compile is not covered.
    """
    quiet_libraries()
    from bench.count.lengths import read_lengths
    from bench.count.predict import predictions, setting_for
    from bench.count.roofline import rates
    from bench.errors import BenchError

    if not 0 <= dropout < 1:
        raise BenchError(f"--dropout {dropout:g}: must be at least 0 and below 1")
    if lengths is not None and seq is not None:
        raise BenchError("--lengths takes the place of --seq: the longest row of the file decides; give one of them")
    rows_of = read_lengths("--lengths", lengths) if lengths is not None else None
    length = rows_of.tokens[-1] if rows_of is not None else (SEQ if seq is None else seq)
    memory = parse_size("--device-memory", device_memory) if device_memory is not None else None
    if reserve is not None and memory is None:
        raise BenchError("--reserve is a part of --device-memory; give that too, or omit --reserve")
    kept = parse_reserve("--reserve", RESERVE if reserve is None else reserve, memory) if memory is not None else 0
    speed = rates(roofline) if roofline is not None else None
    specs = None if method is None else [spec for text in method for spec in split_specs(text)]
    from bench.cli.progress import waiting
    from bench.schema.shape import StepShape

    form = StepShape(
        batch=batch, length=length, dtype=dtype, adapter_dtype=adapter_dtype, attention=attention, optimizer=optimizer,
        dropout=dropout, checkpointing=checkpointing, clipping=clipping, objective=objective, loss=loss,
        target_tokens=target_tokens,
    )  # fmt: skip
    setting = setting_for(
        backbone, form, weights=weights, device=device, padded=padded, bitsandbytes=bitsandbytes, devices=devices,
        shard=shard,
    )  # fmt: skip
    with waiting() as say:
        rows = predictions(backbone, specs, setting, memory, say, reserve=kept, rates=speed, lengths=rows_of)
    _show_predictions(rows, plot, as_json)
    raise typer.Exit(0 if any(row.flops for row in rows) else 1)


def _show_predictions(rows: "list[Prediction]", plot: Path | None, as_json: bool) -> None:
    from bench.cli.progress import wide_console
    from bench.report.render import terminal
    from bench.report.sections.sweeps import prediction

    drawn = []
    if plot is not None:
        from bench.report.charts.catalogue import draw_predictions

        drawn = draw_predictions(rows, plot)
    if as_json:
        typer.echo(json.dumps([row.plain() for row in rows], indent=2))
        return
    console = wide_console()
    terminal.render(prediction(rows), console)
    for path in drawn:
        console.print(f"plot    {path}", soft_wrap=True, markup=False)

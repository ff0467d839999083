"""Commands that take what a run has kept: ``export`` writes it as a folder of its own, ``use`` predicts with it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import Commands, RunArgument
from bench.execute.run import quiet_libraries

giving = Commands()
PANEL = "Use"
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="Name or folder of the backbone, if it is not where it was; its weights must be the same."
    ),
]


@giving.command(rich_help_panel=PANEL)
def export(
    run: RunArgument,
    method: Annotated[str, typer.Option(help="Method whose delta is kept, such as lora or lora(rank=8).")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write; it must not hold anything yet.")],
    form: Annotated[
        Literal["native", "peft", "merged"],
        typer.Option(
            "--format",
            help="native: as the method stores it; peft: an adapter that peft loads; merged: the whole model, for "
            "transformers.",
        ),
    ] = "native",
    task: Annotated[str | None, typer.Option(help="Task, where several are kept.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, where several are kept; the best one if omitted.")] = None,
    backbone: BaseOption = None,
) -> None:
    """Write what run --keep has stored as a folder of its own, with a model card."""
    quiet_libraries()
    from bench.analysis.results import Results
    from bench.export.choose import choose
    from bench.export.folder import export as write
    from bench.report.card import card
    from bench.report.format import three

    kept = choose(run, method, task, seed)
    results = Results(run)
    made = write(kept, form, out, lambda made: card(results, made, out.name), backbone)
    about, score = made.about, made.about.score
    typer.echo(f"{out}: {about.title}, {score.metric} {100 * score.test:.1f} on the test rows, format {form}")
    if made.apart is not None:
        typer.echo(f"loaded again, its hidden states differ by at most {three(made.apart)} of the largest")
    typer.echo(f"python -m bench use {out} --data FILE predicts with it; {out / 'README.md'} says what it is")


@giving.command(rich_help_panel=PANEL)
def use(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of export, or of kept/ in a run folder.")],
    data: Annotated[Path, typer.Option(help="Rows to predict: csv, tsv, jsonl, json or parquet.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, .csv or .jsonl (default: CSV on the screen).")
    ] = None,
    backbone: BaseOption = None,
) -> None:
    """Predict a label or a score for every row of a file."""
    quiet_libraries()
    from bench.export.answer import answer

    answer(folder, data, out, backbone)

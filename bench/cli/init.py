"""``init``: proposes a suite for a file of the user's own."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.options import JsonOption


def init(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="File with rows (csv, tsv, jsonl, json, parquet), or a folder with train.csv.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Suite to write; a file that is there is kept.")] = Path(
        "suite.toml"
    ),
    label: Annotated[str | None, typer.Option(help="Column of the class, the score or the text to write.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text, or two separated by commas.")] = None,
    kind: Annotated[Literal["classes", "score", "text"] | None, typer.Option(help="What is predicted.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="File to score on (default: one beside train.csv, else a share of DATA).")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Folder of save_pretrained, a hub id, smollm2-135m, or another named shape (random weights)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a file of rows and write a commented suite that runs on it."""
    from bench.errors import BenchError, unwritable
    from bench.plan.propose import look, propose

    if out.suffix != ".toml":
        raise BenchError(f"{out}: a suite is a .toml file; name one with -o")
    if out.exists():
        raise BenchError(f"{out} is there already and is kept; name another file with -o")
    columns = tuple(column.strip() for column in text.split(",")) if text else ()
    proposed = propose(look(data, label=label, text=columns, kind=kind, test=test), backbone, out)
    try:
        out.write_text(proposed.text, encoding="utf-8")
    except OSError as error:
        raise unwritable(str(out), error, "nothing was written") from error
    if as_json:
        typer.echo(json.dumps(proposed.lines, indent=2))
    else:
        for name, line in proposed.lines.items():
            typer.echo(f"{name:<11}{line}")

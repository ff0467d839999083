"""Commands for continuous integration: ``reference`` and ``gate``."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import Commands, InconclusiveOption, JsonOption, RunArgument
from bench.errors import shortened

ci = Commands()
PANEL = "CI"


@ci.command(rich_help_panel=PANEL)
def reference(
    folder: RunArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="Reference file to write and commit.")],
) -> None:
    """Write the exact figures and scores of a run to a reference file for the gate."""
    from bench.analysis.results import Results
    from bench.verdicts.reference import reference_of, write_reference

    made = reference_of(Results(folder))
    write_reference(made, out)
    figures = sum(len(found) for costs in made.costs for found in costs.methods.values())
    typer.echo(f"{out}: {figures} exact figures, scores of {len(made.scores)} tasks")


@ci.command(rich_help_panel=PANEL)
def gate(
    folder: RunArgument,
    reference: Annotated[Path, typer.Option(help="File written by the reference command.")],
    inconclusive: InconclusiveOption = None,
    margin: Annotated[float, typer.Option(min=0, help="Points by which a score may fall below the reference.")] = 1.0,
    junit: Annotated[Path | None, typer.Option(help="Also write the checks to this file as JUnit XML.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a run with its reference and judge its claims.

    Exit codes: 0 pass, 1 regression, 2 usage, 3 inconclusive or invalid, 4 reference missing or stale.
    """
    from bench.analysis.results import Results
    from bench.report import export
    from bench.report.format import plain
    from bench.verdicts.gate import check, stale, verdict
    from bench.verdicts.reference import figures_of, read_reference

    results, expected = Results(folder), read_reference(reference)
    ours = figures_of(results)
    reason = "no such file" if expected is None else stale(ours, expected)
    if expected is None or reason:
        again = f"make it with: python -m bench reference {folder} -o {reference}"
        typer.echo(f"{reference}: {shortened(plain(reason))}; {again}", err=True)
        raise typer.Exit(4)
    checks = check(results, ours, expected, margin=margin)
    title = f"{results.suite.name} against {reference}"
    export.write_gate(title, checks, junit)
    typer.echo(export.gate_json(checks) if as_json else "\n".join(export.gate_screen(title, checks)))
    open_code = {None: 3, "ok": 0, "fail": 1}[inconclusive]
    raise typer.Exit({"pass": 0, "fail": 1}.get(verdict(checks), open_code))

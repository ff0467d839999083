"""Commands for other schedulers: ``cell`` runs one job of ``plan --specs``, ``collect`` gathers what jobs have left."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Commands, JsonOption
from bench.execute.run import MEASURE, quiet_libraries

if TYPE_CHECKING:
    from bench.schema.jobs import Plan

elsewhere = Commands()
SHOWN = 10
"""Files that are named on the screen; ``--json`` has all."""


def show_specs(folder: Path, plan: "Plan", as_json: bool) -> None:
    """Write the jobs of ``plan`` to files and say what they are.

    Raises:
        BenchError: The folder holds something else, or cannot be written.
    """
    from bench.plan.here import specs_of
    from bench.report.format import plural
    from bench.store.specs import write_specs

    specs = specs_of(plan)
    write_specs(folder, plan.suite, specs)
    if as_json:
        jobs = [{"file": str(folder / spec.name), "kind": spec.about.kind, "name": spec.job.name} for spec in specs]
        typer.echo(json.dumps({"suite": plan.suite.name, "jobs": jobs}, indent=2))
        return
    typer.echo(plan.name)
    for name, source in plan.sources.items():
        typer.echo(f"data   {name}: {source.place}")
    kinds = Counter(spec.about.kind for spec in specs)
    parts = ", ".join(plural(number, kind) for kind, number in kinds.items())
    typer.echo(f"specs  {plural(len(specs), 'job')} ({parts}) -> {folder}")


@elsewhere.command(rich_help_panel=MEASURE)
def cell(
    spec: Annotated[Path, typer.Option(help="Job to run, a file that plan --specs has written.")],
    out: Annotated[Path, typer.Option(help="File to write, .jsonl; predictions of a cell go into a folder beside it.")],
) -> None:
    """Run one job of a plan, for a scheduler of your own; the same command again finds it done.

    Exit codes: 0 every record is ok, 1 one is not, 2 a mistake or a node that lacks something: nothing is written.
    """
    quiet_libraries()
    from bench.cli.progress import waiting
    from bench.execute.alone import carry_out_alone
    from bench.report.format import plain

    with waiting() as say:
        done = carry_out_alone(spec, out, say)
    if not done.ran:
        typer.echo(f"{out}: done before; remove the file to run the job again")
    for record in done.records:
        reason = f": {plain(record.reason)}" if record.reason else ""
        typer.echo(f"{record.kind:<6} {record.method.label}  {record.status}{reason}")
    raise typer.Exit(1 if any(record.status != "ok" for record in done.records) else 0)


@elsewhere.command(rich_help_panel=MEASURE)
def collect(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of plan --specs, with what its jobs have left.")
    ],
    out: Annotated[Path, typer.Option(help="Run folder to write or to add to.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Archive existing records and gather anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Gather what jobs have left into a run folder; again while jobs finish.

    Exit codes: 0 every job is there and ok, 1 one is missing or failed, 2 a mistake or a damaged file.
    """
    from bench.report.format import plain, plural
    from bench.store.outcomes import gather

    found = gather(folder, out, fresh=fresh)
    if as_json:
        typer.echo(json.dumps(found._asdict(), indent=2))
    else:
        there = found.jobs - len(found.missing)
        typer.echo(f"{there} of {plural(found.jobs, 'job')}: {found.new} new of {found.records} records -> {out}")
        for name, lines in (("missing", found.missing), ("failed", found.failed)):
            for line in lines[:SHOWN]:
                typer.echo(f"{name:<8} {plain(line)}")
            if more := lines[SHOWN:]:
                typer.echo(f"{name:<8} and {len(more)} more, {len(lines)} in all")
        typer.echo(f"python -m bench report {out}")
    raise typer.Exit(1 if found.missing or found.failed else 0)

"""The ``tune`` command: a search for learning rates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import (
    AddressOption,
    Commands,
    DataOption,
    ExecutorOption,
    JsonOption,
    MethodsOption,
    RetryOption,
    SuiteOption,
    TasksOption,
    repeated,
    selection_of,
)
from bench.execute.run import MEASURE, carry_out, interruptible, place, planned, selected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.analysis.tuning import Outcome, Search

search = Commands()


@search.command(rich_help_panel=MEASURE)
def tune(
    suite: SuiteOption,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the search (default: results/runs/tune-<suite>-<hash>).")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Archive existing trials and start over.")] = False,
    retry: RetryOption = None,
    data: DataOption = None,
    methods: MethodsOption = None,
    tasks: TasksOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of parallel workers; it changes no figure (default: what the cores carry)."),
    ] = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for learning rates over the grid of the suite's tuning table, the same for every method.

    Rates are chosen on rows held out of train, never on the test split. Writes tuning.md and tuned.toml, the suite with
    the chosen rates. The same command resumes. Exit codes: 0 all trials scored or diverged, 1 some failed, 2 usage.
    """
    from bench.cli.progress import Display
    from bench.plan.load import suite_path
    from bench.schema.suite import search_table

    again = repeated(retry, fresh)
    display = Display(quiet=as_json)
    narrowed = selected(suite, selection_of(data, methods, tasks, None, None, False))
    search_table(narrowed.tuning, str(suite_path(suite)))  # before the fork server starts and data is read
    with place(executor, address, narrowed) as context:
        from bench.plan.planner import plan_search

        plan = planned(narrowed, display.note, plan_search)
        folder = out or Path("results/runs") / f"tune-{plan.name}"
        records = carry_out(plan, folder, fresh, workers, context, display, retry=again)
    with interruptible(lambda: f"all {len(records)} trials are kept; the same command writes the report"):
        show_search(folder, display.console, as_json, suite_path(suite))
    raise typer.Exit(1 if any(record.status not in ("ok", "nan") for record in records) else 0)


def show_search(folder: Path, console: "Console", as_json: bool, suite_file: Path | None = None) -> None:
    """Print the tables of a search and write tuning.md and its plot; where its suite's file is given, also tuned.toml.

    Raises:
        BenchError: ``folder`` holds no search, or cannot be written.
    """
    from bench.analysis.tuning import outcomes, read_search
    from bench.report import pages
    from bench.report.charts import sweeps
    from bench.report.render import markdown, terminal
    from bench.report.sections import tuning as report

    made = read_search(folder)
    found = outcomes(made)
    drawn = sweeps.draw_search(made, found)
    shown = report.document(made, found, drawn)
    page = made.folder / "tuning.md"
    pages.write_text(page, markdown.render(shown))
    tuned, left = (None, []) if suite_file is None else _write_tuned(made, found, suite_file)
    if as_json:
        typer.echo(report.as_json(made, found, tuned, drawn))
        return
    terminal.render(shown, console)
    for label in left:
        console.print(f"rates   {label}: unchanged (none chosen, or not in the suite's file)", markup=False)
    if tuned is not None:
        console.print(f"suite   {tuned}", soft_wrap=True, markup=False)
    console.print(f"report  {page}", soft_wrap=True, markup=False)


def _write_tuned(made: "Search", found: "Sequence[Outcome]", suite_file: Path) -> tuple[Path, list[str]]:
    """The suite with the chosen rates, and the methods that keep theirs."""
    from bench.plan.load import as_spelled, write_tuned

    tuned, in_file = made.folder / "tuned.toml", as_spelled(found, made.suite)
    changed = write_tuned(suite_file, in_file, made.table, tuned)
    return tuned, [label for label in dict.fromkeys(row.method for row in in_file) if label not in changed]

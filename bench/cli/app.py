"""The commands; each imports what it needs when it is called."""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bench.cli.cell import elsewhere, show_specs
from bench.cli.ci import ci
from bench.cli.export import giving
from bench.cli.init import init
from bench.cli.options import (
    AddressOption,
    BackboneOption,
    Commands,
    CountsOption,
    DataOption,
    ExecutorOption,
    InconclusiveOption,
    JsonOption,
    MethodsOption,
    OutOption,
    RetryOption,
    RunArgument,
    SeedsOption,
    SuiteOption,
    TasksOption,
    TuningOption,
    check_output,
    repeated,
    selection_of,
    split_specs,
)
from bench.cli.predict import counting
from bench.cli.tune import search
from bench.execute.run import MEASURE, carry_out, interruptible, place, planned, quiet_libraries, selected, warm_up

app = Commands(
    name="peft-ledger",
    help="What does each way of fine-tuning a transformer cost, and what does it buy?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
READ = "Read"


def _print_version(wanted: bool) -> None:
    if wanted:
        from bench.store.environment import version_line

        typer.echo(version_line())
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=MEASURE)
def run(
    suite: SuiteOption,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: results/runs/<suite>-<hash>).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Archive existing records and start over.")] = False,
    retry: RetryOption = None,
    data: DataOption = None,
    methods: MethodsOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    backbone: BackboneOption = None,
    counts: CountsOption = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Number of parallel workers; it changes no figure (default: what the cores carry)."),
    ] = None,
    keep: Annotated[
        Literal["best", "all"] | None,
        typer.Option(help="Store what cells train: of all seeds, or of the best seed of each method and task."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Send scores, losses and costs of every record to tensorboard, wandb or trackio; several with "
            "commas between, or repeated."
        ),
    ] = None,
    executor: ExecutorOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a suite: costs first, then scores. The same command resumes an interrupted run."""
    from bench.cli.progress import Display
    from bench.execute.tracking import checked

    trackers, again = checked(track or ()), repeated(retry, fresh)
    display = Display(quiet=as_json)
    narrowed = selected(suite, selection_of(data, methods, tasks, seeds, backbone, counts))
    with place(executor, address, narrowed) as context:
        plan = planned(narrowed, display.note)
        folder = out or Path("results/runs") / plan.name
        records = carry_out(plan, folder, fresh, workers, context, display, keep, trackers, again)
    with interruptible(lambda: f"all {len(records)} records are kept; the same command writes the report"):
        _report(folder, display.console, as_json)
    raise typer.Exit(1 if any(record.status != "ok" for record in records) else 0)


def _report(folder: Path, console: Any, as_json: bool, tuning: Path | None = None) -> None:
    from bench.analysis.tuning import change_in
    from bench.report import pages
    from bench.report.charts import catalogue as plots
    from bench.verdicts.claims import JudgedResults

    done = JudgedResults(folder)
    gc.freeze()  # records stay until the end: the collector would go through ten thousand of them for nothing
    change = change_in(tuning, done) if tuning is not None else None
    drawn = plots.draw(done.run, change)
    report = pages.document(done, drawn, change)
    text, page = pages.write(report, folder)
    if as_json:
        records = done.run.records
        failed = [r.id for r in records if r.status != "ok"]
        summary = {
            "folder": str(folder), "suite": done.suite.name, "records": len(records), "failed": failed,
            "plots": [str(path) for path in drawn], "report": str(text), "page": str(page),
        }  # fmt: skip
        if change is not None:
            summary["tuning"] = {"kendall_tau": change.tau if change.tau == change.tau else None,
                                 "pairs_swapped": change.swapped, "pairs": change.pairs}  # fmt: skip
        print(json.dumps(summary, indent=2))
    else:
        pages.show(report, folder, console)


@app.command(rich_help_panel=MEASURE)
def ab(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Git revision, or a folder that contains methods/.")],
    head: Annotated[
        str, typer.Argument(metavar="HEAD", help="The same for the changed version; . is the working tree.")
    ],
    suite: SuiteOption,
    methods: MethodsOption = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Total measuring time in seconds, divided among the methods.")
    ] = 40.0,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Relative slowdown that is too small to matter.")] = 0.01,
    inconclusive: InconclusiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether a change makes a training step slower: times methods/ of two revisions in turns, with A/A control.

    Measures the suite's first cost shape, for the methods whose source differs or those given by --methods.
    Exit codes: 0 not slower, 1 slower, 2 usage, 3 inconclusive.
    """
    quiet_libraries()
    import tempfile

    from bench.ab.experiment import unpack
    from bench.plan.load import load_suite

    with tempfile.TemporaryDirectory() as folder:
        old, new = unpack(base, Path(folder) / "base"), unpack(head, Path(folder) / "head")
        loaded = load_suite(suite)
        context = warm_up(loaded.model_copy(update={"tasks": ()}))
        import torch

        from bench.ab.experiment import compare, probe_of, verdict
        from bench.cli.progress import waiting, wide_console
        from bench.report.render import terminal
        from bench.report.sections import comparison

        specs = None if methods is None else [spec for text in methods for spec in split_specs(text)]
        probe, labels = probe_of(loaded, specs, "cuda" if torch.cuda.is_available() else "cpu")
        with waiting() as say:
            found = list(compare(old, new, probe, labels, context, seconds=seconds, margin=margin, say=say))
    console = wide_console(stderr=as_json)
    if as_json:
        about = {"base": old.name, "head": new.name, "suite": loaded.name, "margin": margin}
        about |= probe.model_dump(include={"batch", "length", "objective", "loss", "target_tokens"})
        print(json.dumps(comparison.versions_json(found, about), indent=2))
    elif found:
        title = f"{new.name} against {old.name}: {probe.backbone.name}, {probe.size}, {seconds:g} s"
        terminal.render(comparison.versions(found, title, margin), console)
    else:
        console.print(f"no method of {loaded.name} differs in source (use --methods to time some anyway)", markup=False)
    open_code = {None: 3, "ok": 0, "fail": 1}[inconclusive]
    raise typer.Exit({"not slower": 0, "slower": 1}.get(verdict(found), open_code))


@app.command(rich_help_panel=READ)
def report(
    folder: RunArgument,
    form: Annotated[
        Literal["tables", "markdown", "csv", "parquet", "pytest-benchmark"],
        typer.Option(
            "--format",
            help="markdown, csv, parquet: every figure, one row per method and shape or task; pytest-benchmark: times.",
        ),
    ] = "tables",
    tuning: TuningOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the tables of a run again and rewrite report.html, report.md and plots/.

    Of a search for learning rates it writes tuning.md and its plot.
    """
    check_output(form, out, as_json, shown="tables")
    from bench.errors import BenchError
    from bench.store.store import read_run, read_suite

    if tuning is not None and form != "tables":
        raise BenchError(f"--tuning applies to the tables of a report; omit --tuning or --format {form}")
    if form == "tables" and tuning is None and read_suite(folder).tuning is not None:
        from bench.cli.progress import wide_console
        from bench.cli.tune import show_search

        show_search(folder, wide_console(), as_json)
    elif form == "tables":
        from bench.cli.progress import wide_console

        _report(folder, wide_console(), as_json, tuning)
    elif form == "pytest-benchmark":
        from bench.report.export import emit, pytest_benchmark_json

        emit((json.dumps(pytest_benchmark_json(read_run(folder)), indent=2) + "\n").encode(), out)
    else:
        from bench.analysis.results import Results
        from bench.report.export import emit, encoded

        emit(encoded(Results(folder).figures, form), out)


@app.command(rich_help_panel=READ)
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first is the baseline.")],
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="[METHOD=]FILE",
            help="Results of peft's method comparison, optimum-benchmark or lm-eval to read beside the first run; "
            "METHOD: what the file measured, where it does not say. Repeatable.",
        ),
    ] = None,
    form: Annotated[
        Literal["table", "markdown", "csv", "parquet"],
        typer.Option("--format", help="markdown: a report; csv, parquet: one row per run, method and figure."),
    ] = "table",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what differs between runs: settings, exact figures, ratios of times and paired scores with intervals.

    Absolute times are not compared: runs are measured at different moments, often on different machines. Of results
    that others measured it shows which figures mean what ours do, and why the rest do not.
    """
    check_output(form, out, as_json, shown="table")
    from bench.analysis.beside import beside, named
    from bench.analysis.results import Results
    from bench.analysis.runs import compare_runs
    from bench.errors import BenchError
    from bench.report import export
    from bench.report.render import markdown, terminal
    from bench.report.sections import comparison, foreign

    if others and form in ("csv", "parquet"):
        raise BenchError(f"--format {form} holds what differs between runs; of --with take markdown or --json")
    runs = [Results(folder) for folder in folders]
    readings = beside(runs[0], [measured for text in others or () for measured in named(text)])
    found = compare_runs(runs) if len(runs) > 1 or not others else None
    if as_json:
        typer.echo(json.dumps((comparison.plain(found) if found else {}) | foreign.plain(readings), indent=1))
    elif form in ("table", "markdown"):
        document = foreign.added(comparison.document(found) if found else None, readings, str(runs[0].folder))
        if form == "markdown":
            export.emit(markdown.render(document).encode(), out)
        else:
            from bench.cli.progress import wide_console

            terminal.render(document, wide_console())
    elif found is not None:
        export.emit(export.encoded(found.changes, form), out)


@app.command("plan", rich_help_panel=READ)
def show_plan(
    suite: SuiteOption,
    data: DataOption = None,
    methods: MethodsOption = None,
    tasks: TasksOption = None,
    seeds: SeedsOption = None,
    backbone: BackboneOption = None,
    counts: CountsOption = False,
    specs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each job to a file of this folder instead, for cell.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a run would do, in order, and about how long it takes on this machine, without running it."""
    from bench.cli.progress import spoken, waiting
    from bench.plan.duration import estimate
    from bench.schema.resolved import match_lines

    plan = planned(selected(suite, selection_of(data, methods, tasks, seeds, backbone, counts)))
    if specs is not None:  # how long this machine would take is no question then
        show_specs(specs, plan, as_json)
        return
    with waiting() as say:
        time = estimate(plan, progress=say)
    if as_json:
        estimated = {"estimate": asdict(time) | {"total": time.total}}
        places = {name: {"kind": source.kind, "place": source.place} for name, source in plan.sources.items()}
        print(json.dumps(json.loads(plan.model_dump_json()) | {"data": places} | estimated, indent=2))
        return
    print(plan.name)
    for line in match_lines(plan.suite):
        print(f"match  {line}")
    for name, source in plan.sources.items():
        print(f"data   {name}: {source.place}")
    for sweep in plan.sweeps:
        size = f"{len(sweep.methods)} methods at {len(sweep.values)} values"
        print(f"sweep  {sweep.id[:12]}  {sweep.name} · {size} · about {spoken(time.seconds[sweep.id])}")
    for probe in plan.probes:
        size = f"{len(probe.methods)} methods"
        print(f"probe  {probe.id[:12]}  {probe.name} · {size} · about {spoken(time.seconds[probe.id])}")
    for cell in plan.cells:
        print(f"cell   {cell.id[:12]}  {cell.name} · {cell.recipe['steps']} steps, lr {cell.recipe['learning_rate']:g}")
    parts = {"sweeps": time.sweeps, "probes": time.probes, f"cells, {time.workers} at a time": time.cells}
    shown = "; ".join(f"{name}: {spoken(seconds)}" for name, seconds in parts.items() if seconds)
    print(f"time   about {spoken(time.total)} on this machine ({shown or 'nothing to do'})")


@app.command("list", rich_help_panel=READ)
def list_names(
    what: Annotated[Literal["methods", "suites", "tasks", "backbones"], typer.Argument(help="What to list.")],
    as_json: JsonOption = False,
) -> None:
    """List methods, suites, tasks or backbones by name."""
    from bench.plan.load import listing

    rows = listing(what)
    if as_json:
        print(json.dumps([{"name": name, "description": text} for name, text in rows], indent=2))
        return
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")


app.command(rich_help_panel=MEASURE)(init)
app.add_typer(counting)
app.add_typer(search)
app.add_typer(elsewhere)
app.add_typer(giving)
app.add_typer(ci)

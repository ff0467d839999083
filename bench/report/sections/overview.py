"""Sentences about a run that every reader shows alike: what was asked, on what, how sure; draws and prints nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench import analysis as compare
from bench.report.format import count, plain, plural, points, ratio_interval
from bench.schema.record import Record, ScoreRecord, Shape, TaskUsed, Tuning
from bench.schema.resolved import ResolvedCost, ResolvedData
from bench.store.store import Run

if TYPE_CHECKING:
    import pandas as pd

FLAG_MARKS = {"still_improving": "*", "did_not_learn": "!"}
"""Marks beside a score in the terminal's table."""
FLAG_MEANING = {
    "still_improving": "still improving: the loss still fell in the last quarter; more steps would change this score",
    "did_not_learn": "did not learn: no better than a constant answer, or below counting words",
}


def labels(run: Run, shape: Shape | None = None) -> list[str]:
    """Method labels in the order of the suite, then any that only records know; of ``shape`` those that it measures."""
    found = list(dict.fromkeys([*run.suite.methods, *(record.method.label for record in run.records)]))
    chosen = () if shape is None else run.suite.asked_of(shape).methods
    return [label for label in found if not chosen or label in chosen]


def score_records(run: Run) -> list[ScoreRecord]:
    """The newest score records of the run."""
    return compare.score_records(run.records)


def is_synthetic(run: Run) -> bool:
    """Whether any score was taken on synthetic data; before the first score, whether any will be."""
    sources: set[str | None] = {record.task.source for record in score_records(run) if record.task}
    return "synthetic" in (sources or {run.suite.data.kind if run.suite.data else None})


def tasks(run: Run) -> list[str]:
    """Tasks of the suite; those of the records where it names none."""
    return list(run.suite.tasks or dict.fromkeys(record.task_name for record in score_records(run)))


def backbone(run: Run) -> str:
    """``all-MiniLM-L6-v2 22.6 M``, with ``random weights`` where so."""
    asked = run.suite.backbone
    used = next((record.backbone for record in run.records if record.backbone), None)
    parts = [plain(used.name if used else asked.get("name", "backbone")).rpartition("/")[2]]
    if used:
        parts.append(count(used.parameters))
    if (used.weights if used else asked.get("weights")) == "random":
        parts.append("(random weights)")
    return " ".join(parts)


def machine(record: Record | None) -> str:
    """``CPU, 2 cores, no GPU`` or the name of the GPU."""
    if record is None:
        return "unknown"
    hardware = record.environment.get("hardware") or {}
    gpus, cores = hardware.get("gpus") or [], hardware.get("cores")
    device = getattr(getattr(record, "shape", None), "device", None)
    if gpus and device != "cpu":
        return plain(device or gpus[0])
    parts = ["CPU", plural(cores, "core") if isinstance(cores, int) else "", "no GPU" if not gpus else "GPU idle"]
    return ", ".join(part for part in parts if part)


def libraries(run: Run) -> str | None:
    """Versions of the libraries whose methods ran, as configurations hold them (``peft 0.21.2``); None: of none."""
    named = {
        f"{key.removesuffix('_version')} {value}"
        for record in run.records
        for key, value in record.method.config.items()
        if key.endswith("_version") and isinstance(value, str)
    }
    return ", ".join(sorted(named)) or None


def this_machine(run: Run) -> str:
    """Where the times were taken; where the scores were, when nothing was timed."""
    candidates: list[Record] = [*compare.cost_records(run.records), *score_records(run), *run.records]
    return machine(candidates[0] if candidates else None)


def header(run: Run) -> str:
    """One line: suite, methods, their budget, backbone, tasks x seeds, machine."""
    parts = [plain(run.suite.name), plural(len(labels(run)), "method"), *matched(run), backbone(run)]
    if tasks(run):
        parts.append(f"{plural(len(tasks(run)), 'task')} x {plural(len(seeds(run)), 'seed')}")
    return " · ".join([*parts, f"this machine: {this_machine(run)}"])


def matched(run: Run) -> list[str]:
    """``matched at 300,000 trainable parameters``; nothing where no budget chose the methods' sizes."""
    match = run.suite.match
    return [f"matched at {match}"] if match else []


def seeds(run: Run) -> list[int]:
    """Seeds of the suite; those of the records where it names none."""
    return list(run.suite.seeds or sorted({record.seed for record in score_records(run)}))


def data(run: Run) -> str | None:
    """Where the rows came from, SYNTHETIC in capitals; None where no task is scored."""
    if not tasks(run):
        return None
    names = ", ".join(map(plain, tasks(run)))
    asked = run.suite.data or ResolvedData()
    if is_synthetic(run):
        reason = plain(asked.reason)
        if reason.startswith("SYNTHETIC"):
            return reason
        why = f" ({reason})" if reason else ""
        return f"SYNTHETIC stand-ins for {names}{why}. Real GLUE: --data DIR or a network"
    used: set[str] = {record.task.source for record in score_records(run) if record.task}
    sources = sorted(used or {plain(asked.kind)})
    place = f" {plain(asked.path)}" if asked.path and sources == ["folder"] else ""
    return f"{names} from {', '.join(sources)}{place}"


def control(run: Run) -> str | None:
    """Whether the machine was quiet enough for the times, by the A/A control; None without one."""
    table = compare.controls(run.records)
    if table.empty:
        return None
    low, high = compare.QUIET
    worst = table.loc[(table["high"].clip(lower=1) / table["low"].clip(upper=1)).idxmax()]
    figure = f"A/A control {ratio_interval(worst['ratio'], worst['low'], worst['high'])} ({worst['name']}, the widest)"
    if table["quiet"].all():
        return f"{figure}: quiet enough, inside {low} - {high}"
    noisy = ", ".join(dict.fromkeys(table.loc[~table["quiet"], "name"]))
    return f"{figure}: NOT quiet, {noisy} beyond {low} - {high}; verdicts on times allow for it"


def progress(run: Run) -> dict[str, str]:
    """``counts``, ``costs`` and ``scores`` lines: done of asked; a part that was not asked for is absent.

    ``missing`` says how a folder without a record is filled.
    """
    lines = {}
    counts = compare.count_records(run.records)
    if counts or run.suite.sweep:
        asked = sum(len(sweep.values) * len(sweep.methods) for sweep in run.suite.sweep)
        lines["counts"] = f"{sum(r.status == 'ok' for r in counts)}/{max(asked, len(counts))} counted, none run"
    costs, scores = compare.cost_records(run.records), score_records(run)
    if costs or run.suite.cost:
        shapes = run.suite.cost or [ResolvedCost()] * max(1, len(compare.cost_shapes(costs)))
        asked = sum(len(shape.methods or labels(run)) for shape in shapes)
        done = [record for record in costs if record.status == "ok"]
        how = "measured" if not done or any(record.step_seconds for record in done) else "counted, none run"
        lines["costs"] = f"{len(done)}/{asked} {how}"
    if scores or tasks(run):
        asked = len(labels(run)) * len(tasks(run)) * len(seeds(run))
        lines["scores"] = f"{sum(r.status == 'ok' for r in scores)}/{max(asked, len(scores))} ok"
        if asked > len(scores):
            lines["scores"] += f", {asked - len(scores)} not run yet"
    for noun, found in (("counts", counts), ("costs", costs), ("scores", scores)):
        failed = sum(r.status != "ok" for r in found)
        if noun in lines and failed:
            lines[noun] += f", {failed} FAILED"
    if not run.records:
        lines["missing"] = (
            "all records, nothing was measured here yet; with the options that the run began with, this fills the "
            f"folder: {plain(run.command)}"
        )
    return lines


def no_verdict(run: Run) -> str | None:
    """Why scores carry no verdict: ``3 seeds on synthetic data carry no verdict``; None where they may."""
    scores = compare.score_table(run.records, run.suite.baseline, run.suite.methods)
    if scores.empty or not scores["n"].sum():
        return None
    others = scores[scores["n"] > 0].drop(index=run.suite.baseline, errors="ignore")
    shared = set.intersection(*map(set, others["why"])) if len(others) else set()
    few = next((reason for reason in shared if "seed" in reason), plural(len(seeds(run)), "seed"))
    on = [reason for reason in ("synthetic data", "random weights") if reason in shared]
    if "seed" not in " ".join(shared) and not on:
        return None
    return f"{few}{' on ' + ' and '.join(on) if on else ''} carry no verdict"


def searches(run: Run) -> dict[Tuning | None, list[str]]:
    """Methods by the search that gave their learning rates; None: nothing was searched. Empty without scores."""
    found: dict[Tuning | None, dict[str, None]] = {}
    for record in score_records(run):
        found.setdefault(record.tuning, {})[record.method.label] = None
    return {search: list(names) for search, names in found.items()}


def rates(run: Run) -> str | None:
    """How the learning rates were found: ``12 trials each ...``, ``not searched for``; None without scores."""
    found = searches(run)
    if not found:
        return None
    if len(found) == 1:
        (search,) = found
        return _search(search, "each ") if search else "not searched for, as the suite has them"
    parts = [f"{_search(search)} for {', '.join(map(plain, names))}" for search, names in found.items() if search]
    parts += [f"not searched for {', '.join(map(plain, found[None]))}"] if None in found else []
    return f"UNEQUAL SEARCH: {'; '.join(parts)}"


def unequal_search(run: Run) -> bool:
    """Whether methods of one run were given different searches for their learning rates: an unfair comparison."""
    return len(searches(run)) > 1


def _search(search: Tuning, each: str = "") -> str:
    parts = (plural(search.seeds, "seed"), plural(search.steps, "step"), plural(search.selection_rows, "selection row"))
    where = f" on {plain(search.task)}, for all tasks" if search.task else ""
    return f"{plural(search.trials, 'trial')} {each}({', '.join(parts)}){where}"


def chosen_ranks(run: Run) -> list[str]:
    """What ranks training chose for the adapted maps, a phrase a method and task; empty where none did."""
    found: dict[tuple[str, str], list[Mapping[str, int]]] = {}
    for record in score_records(run):
        if record.status == "ok" and record.ranks:
            found.setdefault((record.method.label, record.task_name), []).append(record.ranks)
    lines = []
    for (label, task), cells in found.items():
        every = [rank for ranks in cells for rank in ranks.values()]
        lines.append(
            f"{plain(label)} on {plain(task)}: rank {sum(every) / len(every):.1f} a map at the end, {min(every)} to "
            f"{max(every)} over {plural(len(cells[0]), 'map')} and {plural(len(cells), 'cell')}"
        )
    return lines


def contamination(run: Run) -> list[str]:
    """What may have been seen before it was asked: test rows in training data, pretraining near a task."""
    done = [record for record in score_records(run) if record.status == "ok"]
    found = []
    for task in {record.task_name: record.task for record in done}.values():
        if task is not None:
            found += [f"{plain(task.name)}: {plain(line)}" for line in (*shared_texts(task), *task.notes)]
    notes = dict.fromkeys(note for record in done if record.backbone for note in record.backbone.notes)
    return found + [f"backbone: {plain(note)}" for note in notes]


def shared_texts(task: TaskUsed) -> list[str]:
    """What test rows share with training, a phrase each; empty where they share nothing that was counted."""
    rows = f"{task.overlap:,} of {task.test_rows:,} test texts"
    found = [f"{rows} also found in training"] if task.overlap else []
    if task.overlap_ngrams:
        rows = f"{task.overlap_ngrams:,} of {task.test_rows:,} test rows"
        found.append(f"{rows} share 8 words in a row with a training text")
    return found


def shared_rows(task: TaskUsed) -> str:
    """How many test rows training had seen, for the line about the data: ``0 found in training, 12 share 8 words``."""
    near = "8-word overlap not counted" if task.overlap_ngrams is None else f"{task.overlap_ngrams:,} share 8 words"
    return f"{task.overlap:,} found in training, {near}"


def floor(run: Run) -> str | None:
    """The bag-of-words line; None without scores."""
    found = compare.floors(run.records)
    if not found:
        return None
    mean = sum(found.values()) / len(found)
    parts = ", ".join(f"{plain(task)} {points(value)}" for task, value in found.items()) if len(found) > 1 else ""
    return f"bag of words scores {points(mean)}" + (f" ({parts})" if parts else "")


def peak_name(source: str | None) -> str:
    """``peak GPU memory`` only where CUDA measured it."""
    return "peak GPU memory" if source == "cuda_allocated" else "peak memory (counted)"


def memory_name(costs: "pd.DataFrame") -> str:
    """What the peaks of a table of `bench.analysis.cost_table` are, where no step ran the predicted ones."""
    sources = [source for source in costs["peak_memory_source"] if isinstance(source, str)]
    predicted = not sources and costs["predicted_step_bytes"].notna().any()
    return "predicted peak memory" if predicted else peak_name(next(iter(sources), None))


def inference_length(run: Run, shape: Shape | None) -> int | None:
    """Tokens of each row of inference beside the probe of ``shape``; of older records as the suite asked for it."""
    told = (r.latency_length for r in compare.cost_records(run.records) if r.shape == shape)
    asked = (c.latency_length for c in run.suite.cost if shape and c.length == shape.length)
    return next((length for length in (*told, *asked) if length is not None), None)


def timed_on(run: Run, shape: Shape) -> str:
    """The machine, and how a probe of ``shape`` timed there beyond what every probe does."""
    rebuilt = run.suite.asked_of(shape).rebuild
    return this_machine(run) + ("; all modules built anew for every block" if rebuilt else "")


def shape_line(shape: Shape) -> str:
    """What a probe measured on, in words."""
    rare = [name for name in ("checkpointing", "compiled") if getattr(shape, name)]
    rare += [] if shape.weights == "native" else [f"{shape.weights} weights"]
    parts = (
        f"{shape.batch} x {shape.length} tokens", plain(shape.dtype), plain(shape.attention), plain(shape.optimizer),
        f"dropout {shape.dropout:g}", *rare, plural(shape.threads, "thread"), plain(shape.device),
    )  # fmt: skip
    return ", ".join(parts)

"""What every reader of a run must know: what was asked, on what machine, data and versions, and how sure it is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS
from bench.report import format as fmt
from bench.report.document import Fact, Facts
from bench.schema.record import Record, Shape, TaskUsed, Tuning
from bench.schema.resolved import ResolvedCost, ResolvedData, ResolvedSweep
from bench.schema.shape import Setting
from bench.schema.shape import objective_words as in_words
from bench.stats.intervals import QUIET

SHARE = re.compile(r"\b\d+\.\d+(?:e[+-]?\d+)?\b|\b\d+e[+-]?\d+\b")
"""A measured share in a sentence."""

if TYPE_CHECKING:
    import pandas as pd


def backbone(results: Results) -> str:
    """``all-MiniLM-L6-v2 22.6 M``, with ``random weights`` where so."""
    asked = results.suite.backbone
    used = next((record.backbone for record in results.run.records if record.backbone), None)
    parts = [fmt.plain(used.name if used else asked.get("name", "backbone")).rpartition("/")[2]]
    if used:
        parts.append(fmt.count(used.parameters))
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
        return fmt.plain(device or gpus[0])
    parts = ["CPU", fmt.plural(cores, "core") if isinstance(cores, int) else "", "no GPU" if not gpus else "GPU idle"]
    return ", ".join(part for part in parts if part)


def libraries(results: Results) -> str | None:
    """Versions of the libraries whose methods ran, as configurations hold them (``peft 0.21.2``); None: of none."""
    named = {
        f"{key.removesuffix('_version')} {value}"
        for record in results.run.records
        for key, value in record.method.config.items()
        if key.endswith("_version") and isinstance(value, str)
    }
    return ", ".join(sorted(named)) or None


def this_machine(results: Results) -> str:
    """Where the times were taken; where the scores were, when nothing was timed."""
    candidates: list[Record] = [*results.cost_records, *results.score_records, *results.run.records]
    return machine(candidates[0] if candidates else None)


def header(results: Results) -> str:
    """One line: suite, methods, their budget, backbone, tasks x seeds, machine."""
    parts = [
        fmt.plain(results.suite.name),
        fmt.plural(len(results.labels), "method"),
        *matched(results),
        backbone(results),
    ]
    if results.tasks:
        scored = f"{len(results.scored)} of them on " if len(results.scored) < len(results.labels) else ""
        parts.append(f"{scored}{fmt.plural(len(results.tasks), 'task')} x {fmt.plural(len(results.seeds), 'seed')}")
    return " · ".join([*parts, f"this machine: {this_machine(results)}"])


def matched(results: Results) -> list[str]:
    """``matched at 300,000 trainable parameters``; nothing where no budget chose the methods' sizes."""
    match = results.suite.match
    return [f"matched at {match}"] if match else []


def data(results: Results) -> str | None:
    """Where the rows came from, SYNTHETIC in capitals; None where no task is scored."""
    if not results.tasks:
        return None
    names = ", ".join(map(fmt.plain, results.tasks))
    asked = results.suite.data or ResolvedData()
    if results.is_synthetic:
        reason = fmt.plain(asked.reason)
        if reason.startswith("SYNTHETIC"):
            return reason
        why = f" ({reason})" if reason else ""
        return f"SYNTHETIC stand-ins for {names}{why}. Real GLUE: --data DIR or a network"
    if asked.reason and asked.kind in {"files", "generated", "index", "mixed"}:
        return fmt.plain(asked.reason)
    used: set[str] = {record.task.source for record in results.score_records if record.task}
    sources = sorted(used or {fmt.plain(asked.kind)})
    place = f" {fmt.plain(asked.path)}" if asked.path and sources == ["folder"] else ""
    return f"{names} from {', '.join(sources)}{place}"


def control(results: Results) -> str | None:
    """Whether the machine was quiet enough for the times, by the A/A control; None without one."""
    table = results.controls()
    if table.empty:
        return None
    low, high = QUIET
    worst = table.loc[(table["high"].clip(lower=1) / table["low"].clip(upper=1)).idxmax()]
    shown = fmt.ratio_interval(worst["ratio"], worst["low"], worst["high"])
    figure = f"A/A control {'has ' if shown == fmt.TOO_FEW else ''}{shown} ({worst['name']}, the widest)"
    if table["quiet"].all():
        return f"{figure}: quiet enough, inside {low} - {high}"
    noisy = ", ".join(dict.fromkeys(table.loc[~table["quiet"], "name"]))
    return f"{figure}: NOT quiet, {noisy} beyond {low} - {high}; verdicts on times allow for it"


def progress(results: Results) -> dict[str, str]:
    """``counts``, ``costs`` and ``scores`` lines: done of asked; a part that was not asked for is absent.

    ``missing`` says how a folder without a record is filled.
    """
    lines = {}
    counts = results.count_records
    if counts or results.suite.sweep:
        asked = sum(len(sweep.values) * len(sweep.methods) for sweep in results.suite.sweep)
        lines["counts"] = f"{sum(r.status == 'ok' for r in counts)}/{max(asked, len(counts))} counted, none run"
    costs, scores = results.cost_records, results.score_records
    if costs or results.suite.cost:
        shapes = results.suite.cost or [ResolvedCost()] * max(1, len(results.shapes))
        asked = sum(len(shape.methods or results.labels) for shape in shapes)
        done = [record for record in costs if record.status == "ok"]
        how = "measured" if not done or any(record.step_seconds for record in done) else "counted, none run"
        lines["costs"] = f"{len(done)}/{asked} {how}"
    if scores or results.tasks:
        asked = len(results.scored) * len(results.tasks) * len(results.seeds)
        lines["scores"] = f"{sum(r.status == 'ok' for r in scores)}/{max(asked, len(scores))} ok"
        if asked > len(scores):
            lines["scores"] += f", {asked - len(scores)} not run yet"
    for noun, found in (("counts", counts), ("costs", costs), ("scores", scores)):
        failed = sum(r.status != "ok" for r in found)
        if noun in lines and failed:
            lines[noun] += f", {failed} FAILED"
    if not results.run.records:
        lines["missing"] = (
            "all records, nothing was measured here yet; with the options that the run began with, this fills the "
            f"folder: {fmt.plain(results.run.command)}"
        )
    return lines


def undecided(results: Results) -> str | None:
    """Why no score decides anything: ``inconclusive: 3 seeds (5 needed), synthetic data``; None where some may."""
    scores = results.score_table
    if scores.empty or not scores["n"].sum():
        return None
    others = scores[scores["n"] > 0].drop(index=results.baseline, errors="ignore")
    shared = set.intersection(*map(set, others["why"])) if len(others) else set()
    grave = [reason for reason in shared if reason in _GRAVE or "seed" in reason]
    why = needed(sorted(grave, key=lambda reason: _GRAVE.index(reason) if reason in _GRAVE else -1))
    return f"inconclusive: {', '.join(why)}" if why else None


_GRAVE = ("synthetic data", "random weights")


def needed(reasons: Iterable[str]) -> list[str]:
    """Reasons in words: of too few seeds also how many are needed."""
    return [f"{reason} ({MIN_SEEDS} needed)" if re.fullmatch(r"\d+ seeds?", reason) else reason for reason in reasons]


def unscored(results: Results) -> str | None:
    """``not scored, as the suite asks: bitfit and ia3``; None where every method is."""
    left = [label for label in results.labels if label not in results.scored]
    return f"not scored, as the suite asks: {', '.join(map(fmt.plain, left))}" if left and results.tasks else None


def searches(results: Results) -> dict[Tuning | None, list[str]]:
    """Methods by the search that gave their learning rates; None: nothing was searched. Empty without scores."""
    found: dict[Tuning | None, dict[str, None]] = {}
    for record in results.score_records:
        found.setdefault(record.tuning, {})[record.method.label] = None
    return {search: list(names) for search, names in found.items()}


def rates(results: Results) -> str | None:
    """How the learning rates were found: ``12 trials each ...``, ``not searched for``; None without scores."""
    found = searches(results)
    if not found:
        return None
    if len(found) == 1:
        (search,) = found
        return _search(search, "each ") if search else "not searched for, as the suite has them"
    parts = [f"{_search(search)} for {', '.join(map(fmt.plain, names))}" for search, names in found.items() if search]
    parts += [f"not searched for {', '.join(map(fmt.plain, found[None]))}"] if None in found else []
    return f"UNEQUAL SEARCH: {'; '.join(parts)}"


def unequal_search(results: Results) -> bool:
    """Whether methods of one run were given different searches for their learning rates: an unfair comparison."""
    return len(searches(results)) > 1


def _search(search: Tuning, each: str = "") -> str:
    parts = (
        fmt.plural(search.seeds, "seed"),
        fmt.plural(search.steps, "step"),
        fmt.plural(search.selection_rows, "selection row"),
    )
    where = f" on {fmt.plain(search.task)}, for all tasks" if search.task else ""
    return f"{fmt.plural(search.trials, 'trial')} {each}({', '.join(parts)}){where}"


def chosen_ranks(results: Results) -> list[str]:
    """What ranks training chose for the adapted maps, a phrase a method and task; empty where none did."""
    found: dict[tuple[str, str], list[Mapping[str, int]]] = {}
    for record in results.score_records:
        if record.status == "ok" and record.ranks:
            found.setdefault((record.method.label, record.task_name), []).append(record.ranks)
    lines = []
    for (label, task), cells in found.items():
        every = [rank for ranks in cells for rank in ranks.values()]
        lines.append(
            f"{fmt.plain(label)} on {fmt.plain(task)}: rank {sum(every) / len(every):.1f} a map at the end, "
            f"{min(every)} to "
            f"{max(every)} over {fmt.plural(len(cells[0]), 'map')} and {fmt.plural(len(cells), 'cell')}"
        )
    return lines


def method_notes(results: Results) -> list[str]:
    """What must be known of the methods as they ran, each sentence once, with those that it is about.

    Of sentences of a method that differ in a measured share alone, which seeds and types move, the largest stands.
    """
    largest: dict[tuple[str, str], str] = {}
    for record in results.records:
        for note in record.notes:
            alike = record.method.label, SHARE.sub("#", note)
            largest[alike] = max(largest.get(alike, note), note, key=lambda one: [*map(float, SHARE.findall(one))])
    held: dict[str, dict[str, None]] = {}
    for (label, _), note in largest.items():
        held.setdefault(note, {})[label] = None
    return [f"{', '.join(map(fmt.plain, labels))}: {fmt.plain(note)}" for note, labels in held.items()]


def contamination(results: Results) -> list[str]:
    """What may have been seen before it was asked: test rows in training data, pretraining near a task."""
    done = [record for record in results.score_records if record.status == "ok"]
    found = []
    for task in {record.task_name: record.task for record in done}.values():
        if task is not None:
            found += [f"{fmt.plain(task.name)}: {fmt.plain(line)}" for line in (*shared_texts(task), *task.notes)]
    notes = dict.fromkeys(note for record in done if record.backbone for note in record.backbone.notes)
    return found + [f"backbone: {fmt.plain(note)}" for note in notes]


def shared_texts(task: TaskUsed) -> list[str]:
    """What test rows share with training, a phrase each; empty where they share nothing that was counted."""
    rows = f"{task.overlap:,} of {task.test_rows:,} test texts"
    found = [f"{rows} also found in training"] if task.overlap else []
    if task.overlap_ngrams:
        rows = f"{task.overlap_ngrams:,} of {task.test_rows:,} test rows"
        found.append(f"{rows} share 8 words in a row with a training text")
    return found


def rows_counted(task: TaskUsed) -> list[str]:
    """What was counted of the rows of a task, a phrase each; empty in records from before."""
    rows = task.rows
    if rows is None:
        return []
    found = []
    if rows.labels:
        shown = list(rows.labels.items())[:_SHOWN_CLASSES]
        more = f" and {len(rows.labels) - len(shown)} more classes" if len(rows.labels) > len(shown) else ""
        found.append(", ".join(f"{fmt.plain(name)} {count:,}" for name, count in shown) + more)
    quantiles = ", ".join(f"{count:,} at {share} %" for share, count in rows.tokens.items() if share != "100")
    longest = rows.tokens.get("100")
    found.append(f"tokens of a row {quantiles}" + (f", {longest:,} at most" if longest else ""))
    found.append(f"{100 * rows.truncated:.1f} % of rows cut off")
    if rows.duplicates:
        found.append(f"{rows.duplicates:,} of {task.train_rows:,} training rows repeat the texts of another")
    return found


def doubtful_rows(task: TaskUsed) -> list[str]:
    """What of those counts bears on the scores: much cut off, a class that hardly occurs, one that is nearly all."""
    rows = task.rows
    if rows is None:
        return []
    found = []
    if rows.truncated > _MUCH_CUT:
        found.append(f"{100 * rows.truncated:.0f} % of rows are cut off at max_length")
    if rows.labels and task.train_rows:
        largest = max(rows.labels, key=rows.labels.__getitem__)
        share = rows.labels[largest] / task.train_rows
        if share > _MOST_OF_ROWS:
            found.append(
                f"class {fmt.plain(largest)} is {100 * share:.0f} % of the training rows: accuracy hides the rest"
            )
        few = [fmt.plain(name) for name, count in rows.labels.items() if count < _FEW_ROWS]
        if few:
            found.append(f"classes with fewer than {_FEW_ROWS} training rows: {fmt.some(few)}")
    return found


_SHOWN_CLASSES, _FEW_ROWS, _MUCH_CUT, _MOST_OF_ROWS = 10, 8, 0.05, 0.8


def shared_rows(task: TaskUsed) -> str:
    """How many test rows training had seen, for the line about the data: ``0 found in training, 12 share 8 words``."""
    near = "8-word overlap not counted" if task.overlap_ngrams is None else f"{task.overlap_ngrams:,} share 8 words"
    return f"{task.overlap:,} found in training, {near}"


def floor(results: Results) -> str | None:
    """The bag-of-words line; None without scores."""
    found = results.floors
    if not found:
        return None
    mean = sum(found.values()) / len(found)
    parts = (
        ", ".join(f"{fmt.plain(task)} {fmt.points(value)}" for task, value in found.items()) if len(found) > 1 else ""
    )
    return f"bag-of-words baseline: {fmt.points(mean)}" + (f" ({parts})" if parts else "")


def peak_name(source: str | None) -> str:
    """``peak GPU memory`` only where CUDA measured it."""
    return "peak GPU memory" if source == "cuda_allocated" else "peak memory (counted)"


def memory_name(costs: "pd.DataFrame") -> str:
    """What the peaks of a table of `bench.analysis.costs.cost_table` are, where no step ran the predicted ones."""
    sources = [source for source in costs["peak_memory_source"] if isinstance(source, str)]
    predicted = not sources and costs["predicted_step_bytes"].notna().any()
    return "predicted peak memory" if predicted else peak_name(next(iter(sources), None))


def inference_length(results: Results, shape: Shape | None) -> int | None:
    """Tokens of each row of inference beside the probe of ``shape``; of older records as the suite asked for it."""
    told = (r.latency_length for r in results.cost_records if r.shape == shape)
    asked = (c.latency_length for c in results.suite.cost if shape and c.length == shape.length)
    return next((length for length in (*told, *asked) if length is not None), None)


def timed_on(results: Results, shape: Shape) -> str:
    """The machine, and how a probe of ``shape`` timed there beyond what every probe does."""
    rebuilt = results.suite.asked_of(shape).rebuild
    return this_machine(results) + ("; all modules built anew for every block" if rebuilt else "")


def shape_line(shape: Shape | Setting) -> str:
    """What a step was measured or counted on, in words, with the objective and its loss."""
    rare = [name for name in ("checkpointing", "clipping", "padded", "compiled") if getattr(shape, name, False)]
    rare += [f"{shape.adapter_dtype} adapters"] if shape.adapter_dtype == "float32" else []
    rare += [] if shape.weights == "native" else [f"{shape.weights} weights"]
    rare += _sharing(shape) if isinstance(shape, Setting) and shape.devices > 1 else []
    rare += [f"bitsandbytes {version}"] if (version := getattr(shape, "bitsandbytes", None)) else []
    rare += [fmt.plural(shape.threads, "thread")] if isinstance(shape, Shape) else []
    parts = (
        f"{shape.batch} x {shape.length} tokens", *objective_words(shape),
        *map(fmt.plain, (shape.dtype, shape.attention, shape.optimizer)),
        f"dropout {shape.dropout:g}", *rare, fmt.plain(shape.device),
    )  # fmt: skip
    return ", ".join(parts)


def _sharing(shape: Setting) -> list[str]:
    return [f"on each of {shape.devices} devices ({'FSDP2' if shape.shard else 'DDP'}), {shape.rows} rows in all"]


def shape_among(shapes: Sequence[Shape], shape: Shape) -> str:
    """``32 x 64 tokens``; the whole of ``shape_line`` where another of ``shapes`` has that size."""
    alike = sum((one.batch, one.length) == (shape.batch, shape.length) for one in shapes)
    return shape_line(shape) if alike > 1 else f"{shape.batch} x {shape.length} tokens"


def objective_words(shape: Shape | Setting | ResolvedSweep) -> list[str]:
    """What was trained on top: ``classes``, or ``text``, its targets and the form of its loss."""
    return in_words(shape.objective, shape.loss, shape.target_tokens)


def preamble(results: Results) -> Facts:
    """What a screen says above the table: where rows and rates come from, what is done, how quiet the machine was."""
    rows = []
    if (text := data(results)) is not None:
        rows.append(Fact("data", text, "warn" if results.is_synthetic else "plain"))
    if (text := rates(results)) is not None:
        rows.append(Fact("rates", text, "warn" if unequal_search(results) else "plain"))
    rows += [Fact(name, line, "bad" if "FAILED" in line else "plain") for name, line in progress(results).items()]
    if (text := control(results)) is not None:
        rows.append(Fact("noise", text, "warn" if "NOT quiet" in text else "plain"))
    rows += [Fact("shape", shape_line(shape)) for shape in results.shapes[:1]]
    return Facts(tuple(rows))

"""What a reader of a run must doubt, each with its remedy, and which records failed."""

from collections.abc import Iterator

from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS
from bench.report import format as fmt
from bench.report.document import Caveat, Caveats, Cell, Column, Section, Table, Text
from bench.report.sections import overview as facts

REMEDIES = {
    "nothing measured": "Run the suite into this folder: where the figures come from, the command stands.",
    "failed records": "Read the reason below, mend it and repeat with --fresh: what has a record is not tried again.",
    "unfinished": "The same command that began this run resumes it.",
    "noisy machine": "End other programs and measure again with --fresh; counted figures hold as they are.",
    "synthetic data": "Give --data DIR or a network: only real data says anything about real tasks.",
    "few seeds": f"Give {MIN_SEEDS} seeds or more with --seeds: fewer are inconclusive.",
    "random weights": "Fetch the pretrained weights; costs are honest without them, scores conclude nothing.",
    "still improving": "Train longer (steps in the suite) before comparing these scores.",
    "did not learn": "Tune the learning rate or train longer; such a score says nothing about the method.",
    "unequal search": "Give every method the same search for its rates (bench tune), or none, before comparing scores.",
    "overlap": "Read this task's score with care: part of its test texts was seen in training.",
    "task note": "Keep it in mind when reading this task's score.",
    "backbone note": "Keep it in mind when reading scores of related tasks.",
    "measurement note": "Figures that it touches are missing or hold as described; mend the cause and measure again.",
    "uncommitted changes": "Commit them and repeat, to make the figures traceable.",
    "older records": "Nothing to do: the newest record of each cell counts; --fresh archives old ones.",
}
"""Every kind of caveat, and what to do about it; the gravest first."""
SHOWN = 12
"""Failed records that a screen lists."""
FLAG_MARKS = {"still_improving": "*", "did_not_learn": "!"}
"""Marks beside a score."""
FLAG_MEANING = {
    "still_improving": "still improving: the loss still fell in the last quarter; more steps would change this score",
    "did_not_learn": "did not learn: no better than a constant answer, or below the bag-of-words baseline",
}


def section(results: Results) -> Section | None:
    """Everything to doubt; None where nothing is."""
    rows = caveats(results)
    return Section("caveats", "Caveats", (Caveats(tuple(rows)),)) if rows else None


def caveats(results: Results) -> list[Caveat]:
    """What must be doubted in a run, the gravest first; empty where nothing must."""
    every = dict.fromkeys([*_of_the_run(results), *_of_costs(results), *_of_scores(results)])
    order = list(REMEDIES)
    return sorted(every, key=lambda caveat: order.index(caveat.kind))


def _caveat(kind: str, says: str) -> Caveat:
    return Caveat(kind, fmt.plain(says), REMEDIES[kind])


def _of_the_run(results: Results) -> Iterator[Caveat]:
    progress, records = facts.progress(results), results.run.records
    if "missing" in progress:
        yield _caveat("nothing measured", "No record is in this folder yet")
    if not results.failures.empty:
        yield _caveat("failed records", f"{fmt.plural(len(results.failures), 'record')} not ok")
    if "not run yet" in progress.get("scores", ""):
        yield _caveat("unfinished", f"Scores: {progress['scores']}")
    if results.older:
        yield _caveat("older records", f"{fmt.plural(results.older, 'older record')} of the same cells left out")
    if any(record.environment.get("dirty") for record in records):
        yield _caveat("uncommitted changes", "The commit had uncommitted changes")
    for note in dict.fromkeys(note for record in records if record.backbone for note in record.backbone.notes):
        yield _caveat("backbone note", f"backbone: {note}")


def _of_costs(results: Results) -> Iterator[Caveat]:
    controls = results.controls()
    if not controls.empty and not controls["quiet"].all():
        yield _caveat("noisy machine", facts.control(results) or "")
    notes = (f"{r.method.label}: {warning}" for r in results.cost_records for warning in r.warnings)
    for note in dict.fromkeys(notes):  # several shapes warn alike
        yield _caveat("measurement note", note)


def _of_scores(results: Results) -> Iterator[Caveat]:
    records = [record for record in results.score_records if record.status == "ok"]
    if not records:
        return
    if results.is_synthetic:
        yield _caveat("synthetic data", facts.data(results) or "")
    if len(results.seeds) < MIN_SEEDS:
        yield _caveat("few seeds", f"Scores of {fmt.plural(len(results.seeds), 'seed')}")
    if any(record.backbone and record.backbone.weights == "random" for record in records):
        yield _caveat("random weights", "The backbone has random weights")
    for flag, meaning in FLAG_MEANING.items():
        labels = dict.fromkeys(record.method.label for record in records if flag in record.flags)
        if labels:
            yield _caveat(flag.replace("_", " "), f"{meaning.capitalize()}: {', '.join(labels)}")
    if facts.unequal_search(results):
        yield _caveat("unequal search", f"Learning rates: {facts.rates(results)}")
    for record in {record.task_name: record for record in records}.values():
        for line in facts.shared_texts(record.task) if record.task else ():
            yield _caveat("overlap", f"{record.task_name}: {line}")
        for note in record.task.notes if record.task else ():
            yield _caveat("task note", f"{record.task_name}: {note}")


def failures(results: Results) -> Section | None:
    """Every record that is not ok, with its reason; None where all are."""
    failed = results.failures
    if failed.empty:
        return None
    rows = tuple(
        (_word(r["method"]), _word(r["status"]), _word("cost" if fmt.missing(r["task"]) else r["task"]),
         Cell(fmt.MISSING) if fmt.missing(r["seed"]) else Cell(str(r["seed"]), float(r["seed"])),
         _word(r["reason"] or "no reason was recorded"))
        for _, r in failed.iterrows()
    )  # fmt: skip
    columns = (
        Column("method"), Column("status", words=True), Column("task", words=True), Column("seed"),
        Column("reason", words=True),
    )  # fmt: skip
    lines = [
        f"{status.text}: {method.text}, {task.text}{f', seed {seed.text}' if seed.value is not None else ''}: "
        f"{reason.text}"
        for method, status, task, seed, reason in rows[:SHOWN]
    ]
    lines += [f"{len(rows) - SHOWN} more in the report"] if len(rows) > SHOWN else []
    said = Text(("The same command tries nothing again that has a record; --fresh repeats all.",), "note")
    return Section(
        "failures", "What failed", (Table("Records that are not ok", columns, rows), said),
        (Text((f"{fmt.plural(len(rows), 'record')} not ok",), tone="bad"), Text(tuple(lines))),
    )  # fmt: skip


def _word(text: object) -> Cell:
    shown = fmt.plain(text)
    return Cell(shown or fmt.MISSING, shown or None)

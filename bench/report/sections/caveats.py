"""Where the figures of a run come from, what to doubt about them with its remedy, and which records failed."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS
from bench.report import format as fmt
from bench.report.document import (
    Caveat,
    Caveats,
    Cell,
    Column,
    Fact,
    Facts,
    Glossary,
    Section,
    Source,
    Table,
    Term,
    Text,
)
from bench.report.sections import overview as facts
from bench.report.sections import word
from bench.schema.figures import TERMS
from bench.schema.record import Record

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
    "rows": "Raise max_length, take macro_f1 as main_metric, or set class_weights, where it matters for the task.",
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
        for line in facts.doubtful_rows(record.task) if record.task else ():
            yield _caveat("rows", f"{record.task_name}: {line}")
        for note in record.task.notes if record.task else ():
            yield _caveat("task note", f"{record.task_name}: {note}")


def failures(results: Results) -> Section | None:
    """Every record that is not ok, with its reason; None where all are."""
    failed = results.failures
    if failed.empty:
        return None
    rows = tuple(
        (word(r["method"]), word(r["status"]), word("cost" if fmt.missing(r["task"]) else r["task"]),
         Cell(fmt.MISSING) if fmt.missing(r["seed"]) else Cell(str(r["seed"]), float(r["seed"])),
         word(r["reason"] or "no reason was recorded"))
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


ROOT = Path(__file__).resolve().parents[3]
SHORT_COMMIT = 10
MAIN_VERSIONS = ("python", "torch", "transformers")


def origin_line(results: Results) -> str:
    """Where the figures come from, in one line."""
    records = results.run.records
    if not records:
        return facts.backbone(results)
    environment = records[0].environment
    processor = (environment.get("hardware") or {}).get("cpu")
    versions = environment.get("versions") or {}
    parts = [facts.backbone(results), f"{facts.this_machine(results)}{f' ({processor})' if processor else ''}"]
    parts.append(", ".join(f"{name} {versions[name]}" for name in MAIN_VERSIONS if versions.get(name)))
    parts.append(_commit(records[0], SHORT_COMMIT))
    parts += [f"data: {text}"] if (text := facts.data(results)) is not None else []
    parts += [f"learning rates: {text}"] if (text := facts.rates(results)) is not None else []
    parts += [f"seeds {', '.join(map(str, results.seeds))}"] if results.seeds else []
    return " · ".join(fmt.plain(part) for part in parts if part)


def _commit(record: Record, digits: int | None = None) -> str:
    commit = str(record.environment.get("commit") or "unknown")[:digits]
    return f"commit {commit} {'with uncommitted changes' if record.environment.get('dirty') else '(clean)'}"


def origin(results: Results) -> Section:
    """Everything about where the figures come from."""
    lines = dict(facts.progress(results))
    told = (
        ("data", facts.data), ("noise", facts.control), ("scores decide", facts.undecided), ("floor", facts.floor),
    )  # fmt: skip
    lines |= {name: text for name, tell in told if (text := tell(results)) is not None}
    rows = [Fact(fmt.plain(name), fmt.plain(value)) for name, value in (*lines.items(), *_provenance(results))]
    return Section("origin", "Where the figures come from", (Facts(tuple(rows)),))


def _provenance(results: Results) -> list[tuple[str, str]]:
    records, suite = results.run.records, results.suite
    # What measures the same suite anew, without the folder's place on this machine.
    command = f"python -m bench run --suite {shlex.quote(suite.name)}"
    rows = [("suite", suite.name), ("run folder", results.folder.name), ("command", command)]
    used = next((record.backbone for record in records if record.backbone), None)
    if used:
        revision = f" at {used.revision}" if used.revision else ""
        rows.append(("backbone", f"{used.name}{revision}, {fmt.exact(used.parameters)} parameters"))
        rows.append(("weights", f"sha256 {used.sha256}" if used.sha256 else used.weights))
    rows.append(("machine", facts.this_machine(results)))
    for record in {str(record.environment.get("fingerprint")): record for record in records}.values():
        environment = record.environment
        versions = ", ".join(f"{key} {value}" for key, value in (environment.get("versions") or {}).items() if value)
        processor = (environment.get("hardware") or {}).get("cpu", "unknown processor")
        threads = f"{environment.get('threads', '?')} threads"
        name = f"environment {environment.get('fingerprint')}"
        rows.append((name, f"{processor}; {threads}; {versions}; {_commit(record)}"))
    rows += [("methods of", text)] if (text := facts.libraries(results)) is not None else []
    for scored in {record.task_name: record for record in results.score_records}.values():
        if task := scored.task:
            sizes = f"{task.train_rows:,} training and {task.test_rows:,} test rows"
            counted = "; ".join(facts.rows_counted(task))
            said = f"{task.source}, {sizes}, {facts.shared_rows(task)}, content {task.content_sha256[:12]}"
            said += f"; {counted}" if counted else ""
            said += f"; {task.origin}" if task.origin else ""
            said += f"; cite {task.citation}" if task.citation else ""
            rows.append((f"data of {task.name}", said))
    rows += [("learning rates", text)] if (text := facts.rates(results)) is not None else []
    rows += [("seeds", ", ".join(map(str, results.seeds)))] if results.seeds else []
    recipe = {key: value for key, value in suite.recipe.items() if value != {}}
    told = (f"{key} {value['text'] if key == 'mix' else value}" for key, value in recipe.items())
    rows += [("recipe", ", ".join(told))] if recipe else []
    if records:
        rows.append(("measured", f"{min(r.started for r in records)} to {max(r.ended for r in records)}"))
    return rows


def suite(results: Results) -> Section:
    """The resolved suite as TOML, line by line, without characters that do not print."""
    import tomli_w

    text = tomli_w.dumps(results.suite.plain())
    shown = "".join(character if character.isprintable() or character == "\n" else " " for character in text)
    said = Text(("Everything that was asked, as suite.toml in the run folder holds it.",))
    return Section("suite", "Suite", (said, Source("suite.toml", shown)))


def how(results: Results) -> Section:
    """Every term with its unit and how it is measured; METHODOLOGY.md explains each."""
    folder, document = results.folder.resolve(), ROOT / "METHODOLOGY.md"
    near = folder.is_relative_to(ROOT) and document.exists()
    place = Path(os.path.relpath(document, folder)).as_posix() if near else ""
    rows = tuple(
        Term(name, term.unit, term.how.replace("`", ""), term.chapter,
             f"{place}#{term.chapter.lower().replace(' ', '-')}" if near else "")
        for name, term in TERMS.items()
    )  # fmt: skip
    return Section("how", "How each figure is measured", (Glossary(rows),))

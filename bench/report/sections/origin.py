"""Where the figures of a run come from: machine, versions, commit, data, seeds, the suite; how each is measured."""

import os
import shlex
from pathlib import Path

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.document import Fact, Facts, Glossary, Section, Source, Term, Text
from bench.report.sections.overview import (
    backbone,
    control,
    data,
    floor,
    libraries,
    progress,
    rates,
    shared_rows,
    this_machine,
    undecided,
)
from bench.schema.figures import TERMS
from bench.schema.record import Record

ROOT = Path(__file__).resolve().parents[3]
SHORT_COMMIT = 10
MAIN_VERSIONS = ("python", "torch", "transformers")


def origin_line(results: Results) -> str:
    """Where the figures come from, in one line."""
    records = results.run.records
    if not records:
        return backbone(results)
    environment = records[0].environment
    processor = (environment.get("hardware") or {}).get("cpu")
    versions = environment.get("versions") or {}
    parts = [backbone(results), f"{this_machine(results)}{f' ({processor})' if processor else ''}"]
    parts.append(", ".join(f"{name} {versions[name]}" for name in MAIN_VERSIONS if versions.get(name)))
    parts.append(_commit(records[0], SHORT_COMMIT))
    parts += [f"data: {text}"] if (text := data(results)) is not None else []
    parts += [f"learning rates: {text}"] if (text := rates(results)) is not None else []
    parts += [f"seeds {', '.join(map(str, results.seeds))}"] if results.seeds else []
    return " · ".join(fmt.plain(part) for part in parts if part)


def _commit(record: Record, digits: int | None = None) -> str:
    commit = str(record.environment.get("commit") or "unknown")[:digits]
    return f"commit {commit} {'with uncommitted changes' if record.environment.get('dirty') else '(clean)'}"


def origin(results: Results) -> Section:
    """Everything about where the figures come from."""
    lines = dict(progress(results))
    told = (("data", data), ("noise", control), ("scores decide", undecided), ("floor", floor))
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
    rows.append(("machine", this_machine(results)))
    for record in {str(record.environment.get("fingerprint")): record for record in records}.values():
        environment = record.environment
        versions = ", ".join(f"{key} {value}" for key, value in (environment.get("versions") or {}).items() if value)
        processor = (environment.get("hardware") or {}).get("cpu", "unknown processor")
        threads = f"{environment.get('threads', '?')} threads"
        name = f"environment {environment.get('fingerprint')}"
        rows.append((name, f"{processor}; {threads}; {versions}; {_commit(record)}"))
    rows += [("methods of", text)] if (text := libraries(results)) is not None else []
    for scored in {record.task_name: record for record in results.score_records}.values():
        if task := scored.task:
            sizes = f"{task.train_rows:,} training and {task.test_rows:,} test rows"
            said = f"{task.source}, {sizes}, {shared_rows(task)}, content {task.content_sha256[:12]}"
            rows.append((f"data of {task.name}", said))
    rows += [("learning rates", text)] if (text := rates(results)) is not None else []
    rows += [("seeds", ", ".join(map(str, results.seeds)))] if results.seeds else []
    recipe = {key: value for key, value in suite.recipe.items() if value != {}}
    rows += [("recipe", ", ".join(f"{key} {value}" for key, value in recipe.items()))] if recipe else []
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

"""Says where the figures of a run come from: machine, versions, commit, data, seeds; measures nothing."""

import shlex

from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.schema.record import Record
from bench.store.store import Run

SHORT_COMMIT = 10
MAIN_VERSIONS = ("python", "torch", "transformers")


def line(run: Run) -> list[str]:
    """The parts of the one-line provenance."""
    if not run.records:
        return [facts.backbone(run)]
    environment = run.records[0].environment
    processor = (environment.get("hardware") or {}).get("cpu")
    versions = environment.get("versions") or {}
    parts = [facts.backbone(run), f"{facts.this_machine(run)}{f' ({processor})' if processor else ''}"]
    parts.append(", ".join(f"{name} {versions[name]}" for name in MAIN_VERSIONS if versions.get(name)))
    parts.append(_commit(run.records[0], SHORT_COMMIT))
    if (data := facts.data(run)) is not None:
        parts.append(f"data: {data}")
    if (rates := facts.rates(run)) is not None:
        parts.append(f"learning rates: {rates}")
    if facts.seeds(run):
        parts.append(f"seeds {', '.join(map(str, facts.seeds(run)))}")
    return [fmt.plain(part) for part in parts if part]


def _commit(record: Record, digits: int | None = None) -> str:
    commit = str(record.environment.get("commit") or "unknown")[:digits]
    return f"commit {commit} {'with uncommitted changes' if record.environment.get('dirty') else '(clean)'}"


def rows(run: Run) -> list[tuple[str, str]]:
    """The whole provenance: what and value."""
    found = [("suite", run.suite.name), ("run folder", run.folder.name), ("command", _command(run))]
    backbone = next((record.backbone for record in run.records if record.backbone), None)
    if backbone:
        revision = f" at {backbone.revision}" if backbone.revision else ""
        found.append(("backbone", f"{backbone.name}{revision}, {fmt.exact(backbone.parameters)} parameters"))
        found.append(("weights", f"sha256 {backbone.sha256}" if backbone.sha256 else backbone.weights))
    found.append(("machine", facts.this_machine(run)))
    for record in {str(record.environment.get("fingerprint")): record for record in run.records}.values():
        environment = record.environment
        versions = ", ".join(f"{key} {value}" for key, value in (environment.get("versions") or {}).items() if value)
        processor = (environment.get("hardware") or {}).get("cpu", "unknown processor")
        name = f"environment {environment.get('fingerprint')}"
        found.append((name, f"{processor}; {environment.get('threads', '?')} threads; {versions}; {_commit(record)}"))
    if (libraries := facts.libraries(run)) is not None:
        found.append(("methods of", libraries))
    for scored in {record.task_name: record for record in facts.score_records(run)}.values():
        if task := scored.task:
            sizes = f"{task.train_rows:,} training and {task.test_rows:,} test rows"
            seen = f"{facts.shared_rows(task)}, content {task.content_sha256[:12]}"
            found.append((f"data of {task.name}", f"{task.source}, {sizes}, {seen}"))
    if (rates := facts.rates(run)) is not None:
        found.append(("learning rates", rates))
    if facts.seeds(run):
        found.append(("seeds", ", ".join(map(str, facts.seeds(run)))))
    if run.records:
        ended = max(record.ended for record in run.records)
        found.append(("measured", f"{min(record.started for record in run.records)} to {ended}"))
    return [(fmt.plain(name), fmt.plain(value)) for name, value in found]


def _command(run: Run) -> str:
    """What measures the same suite anew, without the folder's place on this machine."""
    return f"python -m bench run --suite {shlex.quote(run.suite.name)}"

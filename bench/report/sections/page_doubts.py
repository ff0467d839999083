"""Lists what a reader of a run must doubt, each with its remedy; the kinds are a closed list. Judges no figure."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench import analysis as compare
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.store.store import Run

REMEDIES = {
    "nothing measured": "Run the suite into this folder; the line below the title gives the command.",
    "failed records": "Read the reason below, mend it and repeat with --fresh: what has a record is not tried again.",
    "unfinished": "The same command that began this run resumes it.",
    "noisy machine": "End other programs and measure again with --fresh; counted figures stand as they are.",
    "synthetic data": "Give --data DIR or a network: only real data says anything about real tasks.",
    "few seeds": f"Give {compare.MIN_SEEDS} seeds or more with --seeds: fewer carry no verdict.",
    "random weights": "Fetch the pretrained weights; costs are honest without them, scores conclude nothing.",
    "still improving": "Train longer (steps in the suite) before comparing these scores.",
    "did not learn": "Tune the learning rate or train longer; such a score says nothing about the method.",
    "unequal search": "Give every method the same search for its rates (bench tune), or none, before comparing scores.",
    "overlap": "Read this task's score with care: part of its test texts was seen in training.",
    "task note": "Keep it in mind when reading this task's score.",
    "backbone note": "Keep it in mind when reading scores of related tasks.",
    "measurement note": "Figures that it touches are missing or stand as described; mend the cause and measure again.",
    "uncommitted changes": "Commit them and repeat, to make the figures traceable.",
    "older records": "Nothing to do: the newest record of each cell counts; --fresh sets old ones aside.",
}
"""Every kind of doubt, and what to do about it."""


@dataclass(frozen=True)
class Doubt:
    """One thing to doubt."""

    kind: str
    """A key of `REMEDIES`."""
    says: str

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.kind]


def doubts(run: Run) -> list[Doubt]:
    """What must be doubted in a run, the gravest first; empty where nothing must."""
    found = dict.fromkeys([*_of_the_run(run), *_of_costs(run), *_of_scores(run)])
    order = list(REMEDIES)
    return sorted(found, key=lambda doubt: order.index(doubt.kind))


def _of_the_run(run: Run) -> Iterator[Doubt]:
    progress = facts.progress(run)
    if "missing" in progress:
        yield Doubt("nothing measured", "No record is in this folder yet")
    if not (failed := compare.failures(run.records)).empty:
        yield Doubt("failed records", f"{fmt.plural(len(failed), 'record')} not ok")
    if "not run yet" in progress.get("scores", ""):
        yield Doubt("unfinished", f"Scores: {progress['scores']}")
    if older := compare.latest(run.records)[1]:
        yield Doubt("older records", f"{fmt.plural(older, 'older record')} of the same cells left out")
    if any(record.environment.get("dirty") for record in run.records):
        yield Doubt("uncommitted changes", "The commit had uncommitted changes")
    for note in dict.fromkeys(note for record in run.records if record.backbone for note in record.backbone.notes):
        yield Doubt("backbone note", f"Backbone: {note}")


def _of_costs(run: Run) -> Iterator[Doubt]:
    controls = compare.controls(run.records)
    if not controls.empty and not controls["quiet"].all():
        yield Doubt("noisy machine", facts.control(run) or "")
    notes = (f"{r.method.label}: {warning}" for r in compare.cost_records(run.records) for warning in r.warnings)
    for note in dict.fromkeys(notes):  # several shapes warn alike
        yield Doubt("measurement note", note)


def _of_scores(run: Run) -> Iterator[Doubt]:
    records = [record for record in facts.score_records(run) if record.status == "ok"]
    if not records:
        return
    if facts.is_synthetic(run):
        yield Doubt("synthetic data", facts.data(run) or "")
    if len(facts.seeds(run)) < compare.MIN_SEEDS:
        yield Doubt("few seeds", f"Scores of {fmt.plural(len(facts.seeds(run)), 'seed')}")
    if any(record.backbone and record.backbone.weights == "random" for record in records):
        yield Doubt("random weights", "The backbone has random weights")
    for flag in facts.FLAG_MEANING:
        labels = dict.fromkeys(record.method.label for record in records if flag in record.flags)
        if labels:
            yield Doubt(flag.replace("_", " "), f"{facts.FLAG_MEANING[flag].capitalize()}: {', '.join(labels)}")
    if facts.unequal_search(run):
        yield Doubt("unequal search", f"Learning rates: {facts.rates(run)}")
    for record in {record.task_name: record for record in records}.values():
        for line in facts.shared_texts(record.task) if record.task else ():
            yield Doubt("overlap", f"{record.task_name}: {line}")
        for note in record.task.notes if record.task else ():
            yield Doubt("task note", f"{record.task_name}: {note}")

"""Names and one-line descriptions of methods, suites, tasks and backbones, without importing torch."""

from bench.models.backbone import PRETRAINED, SHAPES
from bench.plan.load import load_suite, suite_names
from bench.registry import summaries
from bench.tasks.glue import TASKS


def listing(what: str) -> list[tuple[str, str]]:
    """Rows of (name, description)."""
    return {"methods": summaries, "suites": _suites, "tasks": _tasks, "backbones": _backbones}[what]()


def _suites() -> list[tuple[str, str]]:
    return [(name, " ".join(load_suite(name).question.split())) for name in suite_names()]


def _tasks() -> list[tuple[str, str]]:
    return [
        (
            name,
            f"{' + '.join(spec.text)}; {' | '.join(spec.labels) or 'regression'}; {spec.main_metric}",
        )
        for name, spec in TASKS.items()
    ]


def _backbones() -> list[tuple[str, str]]:
    pretrained = [(name, f"pretrained, revision {pinned.revision[:8]}") for name, pinned in PRETRAINED.items()]
    return [*pretrained, *((name, f"shape of {family}, random weights") for name, (family, _) in SHAPES.items())]

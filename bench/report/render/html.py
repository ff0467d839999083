"""Writes report.html: one file that shows a run, without a request to any host; computes and draws nothing."""

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import analysis as compare
from bench.analysis.tuned import RateChange
from bench.errors import unwritable
from bench.report import format as fmt
from bench.report.render import page_figures
from bench.report.sections import overview as facts
from bench.report.sections import page_answers, page_doubts, page_origin, page_scores, page_tables, scaling, verdicts
from bench.report.sections.how import HOW
from bench.report.sections.picks import Pick, picks
from bench.store.store import Run

NAME = "report.html"
ROOT = Path(__file__).resolve().parents[3]
SECTIONS = {
    "trained": "Parameters and storage", "stored per task": "Parameters and storage", "FLOPs": "FLOPs",
    "saved activations": "Memory", "peak memory (counted)": "Memory", "peak GPU memory": "Memory",
    "predicted peak": "Counts and predictions", "grows as": "Counts and predictions",
    "exponent": "Counts and predictions", "times": "Times", "ratio interval": "Times", "latency": "Times",
    "switch": "Times", "A/A control": "Times", "training FLOPs": "Scores",
}  # fmt: skip
"""Figure -> heading of METHODOLOGY.md that explains it; other figures are scores."""
LEAD = 2
"""Figures on the first screen."""


def write(run: Run, drawn: Iterable[Path], change: RateChange | None = None) -> Path:
    """Write ``report.html`` into the run's folder.

    Args:
        run: Finished or not.
        drawn: Figures of this run, from `bench.report.charts.catalogue.draw`.
        change: What a search for learning rates changed, where the reader gave one.

    Raises:
        BenchError: The folder cannot be written, or the records cannot be compared.
    """
    page = render(run, drawn, change)
    path = run.folder / NAME
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def render(run: Run, drawn: Iterable[Path], change: RateChange | None = None) -> str:
    """The page; every text from records is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def one_line(value: Any) -> Any:
        return fmt.plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("bench.report.render"), autoescape=True, undefined=StrictUndefined, finalize=one_line,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    source = environment.loader.get_source  # type: ignore[union-attr]
    style, script = (source(environment, name)[0] for name in ("page.css", "page.js"))
    shown = page_figures.figures(drawn)
    return environment.get_template("page.html").render(
        _content(run, change),
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        lead=[(figure, Markup(figure.svg)) for figure in shown[:LEAD]],
        figures=[(figure, Markup(figure.svg)) for figure in shown[LEAD:]],
        suite_text=Markup("{}").format(_suite_text(run)),
    )


def _content(run: Run, change: RateChange | None) -> dict[str, Any]:
    """Everything that the page says, as plain text and figures."""
    told, chosen = verdicts.tell(run), picks(run)
    shapes = compare.cost_shapes(run.records)
    return {
        "name": run.suite.name,
        "question": run.suite.question or "No question was asked.",
        "header": facts.header(run),
        "answers": page_answers.answers(run, told),
        "claims": [(claim, page_answers.claimed(run, claim)) for claim in told],
        "origin": page_origin.line(run),
        "origin_rows": page_origin.rows(run),
        "progress": facts.progress(run),
        "picks": chosen,
        "needs": _needs(chosen),
        "doubts": page_doubts.doubts(run),
        "main": page_tables.main(run),
        "shapes": [(facts.shape_line(shape), _of_shape(run, shape)) for shape in shapes],
        "scores": page_tables.scores(run),
        "scores_said": page_scores.said(run),
        "more_scores": page_scores.sections(run, change),
        "growth": page_tables.growth(run),
        "crossings": scaling.sentences(run),
        "failures": page_tables.failures(run),
        "how": [(page_answers.anchor(name), name, unit, text, *_section(run, name)) for name, unit, text in HOW],
    }


def _of_shape(run: Run, shape: Any) -> list[page_tables.Table]:
    largest = page_tables.largest(run, shape)
    return [*page_tables.costs(run, shape), *([largest] if largest is not None else [])]


def _needs(chosen: Sequence[Pick]) -> dict[str, str]:
    """By method label the numbers of the picks that it is among."""
    labels = dict.fromkeys(label for pick in chosen for label in pick.methods)
    return {
        fmt.plain(label): " ".join(str(at) for at, pick in enumerate(chosen) if label in pick.methods)
        for label in labels
    }


def _section(run: Run, figure: str) -> tuple[str, str]:
    """Heading in METHODOLOGY.md and its address; no address where that file does not lie above the run folder."""
    heading, folder = SECTIONS.get(figure, "Scores"), run.folder.resolve()
    document = ROOT / "METHODOLOGY.md"
    if not folder.is_relative_to(ROOT) or not document.exists():
        return heading, ""
    place = Path(os.path.relpath(document, folder)).as_posix()
    return heading, f"{place}#{heading.lower().replace(' ', '-')}"


def _suite_text(run: Run) -> str:
    """The resolved suite as TOML, line by line, without characters that do not print."""
    import tomli_w

    text = tomli_w.dumps(run.suite.plain())
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)

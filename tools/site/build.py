"""Builds the pages of the site from run folders, one process a run."""

import base64
import hashlib
import multiprocessing
import re
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.analysis.tuning import change_in, outcomes, read_search
from bench.errors import BenchError
from bench.report import pages
from bench.report.charts import catalogue, sweeps
from bench.report.render import html, markdown
from bench.report.sections import claims, overview, tuning
from bench.verdicts.claims import JudgedResults
from tools import ab_summary
from tools.site import prose

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published"
METHODOLOGY, REPORT = "methodology.html", "report.html"
SEARCHES, SELF_TEST = "tuning", "ab-self-test"
"""Folders that hold no run: searches for learning rates, trials of ``ab``."""


@dataclass(frozen=True)
class Page:
    """One line of the index."""

    address: str
    name: str
    question: str
    methods: int = 0
    backbone: str = ""
    machine: str = ""
    measured: str = ""
    """Day of the last record."""
    finding: str = ""
    """The first answer of the report."""
    reach: str = ""
    """How far it holds."""
    kind: str = ""
    """``exact``, ``bound`` to machine or data, or ``open``."""
    verdicts: str = ""
    """``10 pass, 3 inconclusive``; empty where the suite claims nothing."""


def build(published: Path, out: Path, workers: int = 1) -> list[Page]:
    """Build the site.

    Args:
        published: Holds run folders, and may hold searches below ``tuning`` and the trials of ``ab``.
        out: Must not exist, or be empty.
        workers: Processes; with one, nothing is started.

    Returns:
        The lines of the index: runs, then what is none.

    Raises:
        BenchError: ``out`` holds files, there is no run, or one is damaged.
    """
    runs = sorted(path.parent for path in published.glob("*/suite.toml"))
    if not runs:
        raise BenchError(f"{published}: holds no run folder; give the folder that holds published runs")
    if out.exists() and any(out.iterdir()):
        raise BenchError(f"{out}: is not empty; remove it first, so that no page of an earlier build is left in it")
    out.mkdir(parents=True, exist_ok=True)
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            pages = list(pool.map(_run, runs, repeat(out)))
    else:
        pages = [_run(folder, out) for folder in runs]
    others = [_search(path.parent, out) for path in sorted((published / SEARCHES).glob("*/suite.toml"))]
    if (published / SELF_TEST).exists():
        others.append(_self_test(published / SELF_TEST, out))
    known = {page.address.removesuffix(f"/{REPORT}") for page in (*pages, *others)}
    _write(out / METHODOLOGY, "How each figure is measured", _methodology(known))
    _write(out / "index.html", "Published runs", "", runs=pages, others=others)
    return [*pages, *others]


def _run(folder: Path, out: Path) -> Page:
    """The report of one run, with what a search of the same name changed."""
    results = JudgedResults(folder)
    search = folder.parent / SEARCHES / folder.name
    change = change_in(search, results) if search.exists() else None
    with tempfile.TemporaryDirectory() as scratch:
        drawn = catalogue.draw(results.run, change, Path(scratch))
        text = html.render(pages.document(results, drawn, change))
    path = out / folder.name / REPORT
    path.parent.mkdir()
    path.write_text(re.sub(r'href="[^"#]*METHODOLOGY\.md#', f'href="../{METHODOLOGY}#', text), encoding="utf-8")
    told = claims.tell(results)
    answer = claims.answers(results, told)[0]
    verdicts = Counter(claim.verdict for claim in told)
    return Page(
        address=f"{folder.name}/{REPORT}", name=folder.name, question=" ".join(results.suite.question.split()),
        methods=len(results.labels), backbone=overview.backbone(results), machine=overview.this_machine(results),
        measured=max((record.ended[:10] for record in results.run.records), default=""),
        finding=answer.says, reach=answer.tag, kind=answer.reach,
        verdicts=", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()),
    )  # fmt: skip


def _search(folder: Path, out: Path) -> Page:
    address, search = f"{SEARCHES}/{folder.name}", read_search(folder)
    with tempfile.TemporaryDirectory() as scratch:
        search = replace(search, folder=Path(scratch))
        found = outcomes(search)
        written = markdown.render(tuning.document(search, found, sweeps.draw_search(search, found)))
        _prose_page(out, address, address, written, Path(scratch))
    return Page(f"{address}/{REPORT}", address, tuning.header(search))


def _self_test(folder: Path, out: Path) -> Page:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "trials.jsonl").symlink_to((folder / "trials.jsonl").resolve())
        ab_summary.write(Path(scratch))
        written = (Path(scratch) / "summary.md").read_text(encoding="utf-8")
        _prose_page(out, SELF_TEST, SELF_TEST, written, Path(scratch))
    return Page(f"{SELF_TEST}/{REPORT}", SELF_TEST, written.partition("\n")[0].lstrip("# ").replace("`", ""))


def _prose_page(out: Path, address: str, title: str, text: str, pictures: Path) -> None:
    up = "../" * (address.count("/") + 1)
    body = prose.html(text, pictures, lambda link: link if link.startswith("#") else None)
    _write(out / address / REPORT, title, body, up)


def _methodology(known: set[str]) -> str:
    def leads_to(link: str) -> str | None:
        run = link.removeprefix("results/published/").rstrip("/")
        return f"{run}/{REPORT}" if run in known else link if link.startswith(("#", "https://")) else None

    return prose.html((ROOT / "METHODOLOGY.md").read_text(encoding="utf-8"), ROOT, leads_to)


def _write(path: Path, title: str, body: str, up: str = "", **content: Any) -> None:
    """One page of the site in the look of a report."""
    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=ChoiceLoader([here, PackageLoader("bench.report.render")]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    page = environment.get_template("site.html").render(
        {"runs": (), "others": ()} | content, title=title, body=Markup(body), up=up, style=Markup(style),
        script=Markup(script), methodology=METHODOLOGY,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")

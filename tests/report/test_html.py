"""report.html: one file that says what a run showed, whatever the run holds, and asks no host for anything."""

import base64
import html.parser
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.report import pages
from bench.report.charts import catalogue as plots
from bench.report.document import Figure
from bench.report.render import html as page
from bench.report.sections import caveats, claims
from bench.schema.figures import TERMS
from bench.schema.record import RowFigures, Tuning
from bench.store.store import Run, read_run
from bench.verdicts.claims import JudgedResults, judge
from tests.factories import reports
from tests.factories.command import bench
from tests.factories.records import LABELS, cost, failed, glue_small, score, suite

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "results/published").glob("*/suite.toml"))
DRAWN = {"cost-minilm", "glue-small", "scaling"}
"""Pages that are shown with their figures; `tests.tools.test_site` builds all of them."""
HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; {{ 7*7 }} \x1b[31m\x00‮ ]]>-->"
VOID = {"meta", "link", "input", "br", "img", "hr"}
LIMIT = 3_000_000


class Document(html.parser.HTMLParser):
    """Elements of a page in order, each with its attributes and own text; refuses what is not well nested."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def said(self):
        return " ".join(" ".join(self.text).split())

    @property
    def headings(self):
        return [a["id"] for name, a in self.elements if name == "section" and "id" in a]


def rendered(run, figures=()):
    return Document(reports.page(run, figures))


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    run = glue_small(tmp_path_factory.mktemp("glue"))
    return run, reports.page(run)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_every_published_run_is_a_page_that_is_whole_and_asks_no_host(folder, drawn):
    run = read_run(folder)
    text = reports.page(run, drawn(folder.name) if folder.name in DRAWN else [])
    assert len(text.encode()) < LIMIT
    document = Document(text)
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in document.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            place = attributes.get(name, "#")
            assert not re.match(r"[a-z]+:(?!image/svg\+xml;base64,|,$)|//", place), (tag, place)
            assert not place.startswith("#") or place == "#" or place[1:] in ids, place
    assert not re.search(r"@import|@font-face|url\((?!#)", text)
    (policy,) = [meta["content"] for meta in document.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("glue-small", {"methods", "claims", "caveats", "scores", "standing", "figures", "costs"}),
        ("cost-minilm", {"methods", "claims", "costs", "figures"}),
        ("cost-bert-base", {"methods", "costs", "figures"}),
        ("scaling", {"growth"}),
    ],
)
def test_a_page_has_the_sections_that_its_records_allow_and_links_to_each(name, sections, drawn):
    folder = ROOT / "results/published" / name
    document = rendered(read_run(folder), drawn("cost-minilm"))
    every = {"methods", "claims", "scores", "standing", "costs", "growth"}
    assert sections | {"origin", "suite", "how"} <= set(document.headings)
    assert set(document.headings) & every == sections & every
    below = [section for section in document.headings if section not in ("answers", "recommendations", "lead")]
    linked = {attributes.get("href", "")[1:] for attributes in document.all("a")}
    assert set(below) <= linked


def test_the_first_screen_answers_with_how_far_each_sentence_holds():
    run = read_run(ROOT / "results/published/glue-small")
    told = claims.tell(JudgedResults(run))
    exact, timed, scored = claims.answers(JudgedResults(run), told)
    assert (exact.reach, exact.tag) == ("exact", "exact, any machine")
    assert "0.027 x" in exact.says and "0.503 x" in exact.says
    assert (timed.reach, timed.tag) == ("bound", "this machine: CPU, 2 cores, no GPU")
    backward = next(claim for claim in told if claim.metric == "backward_seconds").figures
    assert (
        re.fullmatch(r"0\.\d+ x \[0\.\d+, 0\.\d+\]", backward)
        and f"full's time: {backward}; paid: step time 0." in timed.says
    )
    assert scored.reach == "bound"
    assert re.fullmatch(r"LoRA scores better than training the head alone: \+\d\.\d points \[.*\]\.", scored.says)
    assert scored.tag == "this data: 5 seeds"
    document = rendered(run)
    for answer in (exact, timed, scored):
        assert answer.says in document.said and answer.tag in document.said
        assert page.anchor(answer.how) in [attributes.get("id") for _, attributes in document.elements]


def test_a_claim_that_fails_is_answered_as_such(tmp_path):
    claim = {"name": "c", "says": "LST's backward costs next to nothing", "metric": "flops.backward",
             "method": ["lst(reduction=8)"], "versus": "full", "ratio": {"max": 0.001}}  # fmt: skip
    run = glue_small(tmp_path)
    run = replace(run, suite=run.suite.changed(claims=[claim]))
    assert [judged.verdict for judged in judge(Results(run))] == ["fail"]
    assert claims.answers(JudgedResults(run))[0].says.startswith("Does not hold: LST's backward costs")


def test_without_claims_the_tables_answer_and_noise_takes_the_verdict_away(tmp_path):
    run = glue_small(tmp_path, seeds=(0, 1, 2, 3, 4), source="hub")
    quiet = claims.answers(JudgedResults(run), [])
    assert quiet[0].says == "Backward takes from <0.01 x (head) to 0.67 x (p_tuning) the FLOPs of full's."
    assert [answer.reach for answer in quiet] == ["exact", "bound", "open"]  # prefix_tuning is still improving
    noisy = replace(run, records=tuple(cost(label, noise=0.02) for label in LABELS))
    assert claims.answers(JudgedResults(noisy), [])[1].tag == "not decided: the A/A control was not quiet"


def test_a_sweep_is_answered_by_where_its_curves_cross():
    run = read_run(ROOT / "results/published/scaling")
    found = claims.answers(JudgedResults(run), [])
    assert len(found) == 3
    assert all(answer.reach == "exact" and " than full on " in answer.says for answer in found)


def test_recommendations_stand_in_the_page_as_data_with_their_rules(glue):
    run, text = glue
    document = Document(text)
    buttons = [attributes for attributes in document.all("button") if "data-need" in attributes]
    (choices,) = reports.document(run).section("recommendations").blocks
    assert len(buttons) == len(choices.rows) == 6
    for number, row in enumerate(choices.rows):
        assert row.rule in document.said and row.says in document.said
        marked = [tr for tr in document.all("tr") if str(number) in tr.get("data-needs", "").split()]
        assert len(marked) == len(row.methods)


def test_the_main_table_sorts_by_figures_and_not_by_their_text(glue):
    _, text = glue
    row = text.partition('<th scope="row" data-key="lst(reduction=8)">')[2].partition("</tr>")[0]
    assert '<td data-key="318000.0">318 k</td>' in row
    assert '<td data-key="0.027">0.027</td>' in row
    assert "<td>-</td>" in row  # cannot be merged: no key, and sorted last


def test_missing_figures_failures_and_what_was_not_run_are_said(tmp_path):
    run = glue_small(tmp_path)
    records = list(run.records)
    records[3] = failed(records[3])
    at = next(i for i, r in enumerate(records) if r.id == "score-head-sst2-1")
    records[at] = failed(records[at], "nan", "loss became NaN at step 7")
    document = rendered(replace(run, records=tuple(records[:-1])))
    assert "failures" in document.headings
    assert "loss became NaN at step 7" in document.said
    assert "2 records not ok" in document.said
    assert "1 not run yet" in document.said


@pytest.mark.parametrize("part", ["costs", "scores", "counts", "nothing"])
def test_a_part_of_a_run_is_a_page_too(tmp_path, part):
    run = glue_small(tmp_path, costs=part in ("costs", "counts"), scores=part == "scores")
    if part == "nothing":
        run = Run.of(tmp_path, suite(), ())
    if part == "counts":
        timed = dict.fromkeys(f"{phase}_seconds" for phase in ("forward", "backward", "optimizer", "step", "latency"))
        run = replace(run, records=tuple(r.model_copy(update=timed | {"aa_control": {}}) for r in run.records))
    document = rendered(run)
    assert ("scores" in document.headings) == (part == "scores")
    assert ("costs" in document.headings) == (part in ("costs", "counts"))
    assert ("backward time" in document.said) == (part == "costs")
    if part == "nothing":
        assert "Nothing was measured here yet." in document.said


def test_all_failed_is_a_page_too(tmp_path):
    run = glue_small(tmp_path, labels=["full", "lora(rank=8)"])
    document = rendered(replace(run, records=tuple(failed(record) for record in run.records)))
    assert "No record holds a figure." in document.said


def hostile(folder):
    run = glue_small(folder, labels=["full", "lora(rank=8)"])
    claim = {"name": "c", "says": HOSTILE, "metric": "flops.backward", "method": [HOSTILE], "versus": "full",
             "ratio": {"max": 1}}  # fmt: skip
    asked = {"name": HOSTILE, "question": HOSTILE, "methods": ["full", HOSTILE], "claims": [claim]}
    asked["data"] = {"kind": "synthetic", "reason": HOSTILE}
    records = [
        record.model_copy(update={"method": record.method.model_copy(update={"label": HOSTILE, "name": HOSTILE})})
        if record.method.label != "full" else record
        for record in run.records
    ]  # fmt: skip
    environment = records[0].environment | {"commit": HOSTILE, "hardware": {"cpu": HOSTILE}}
    records = [record.model_copy(update={"environment": environment}) for record in records]
    records[0] = records[0].model_copy(update={"warnings": (HOSTILE,)})
    records[-1] = failed(records[-1], "failed", HOSTILE)
    return Run.of(folder, run.suite.changed(**asked), tuple(records))


@pytest.mark.usefixtures("svg_alone")
def test_hostile_names_stay_text(tmp_path):
    run = hostile(tmp_path)
    text = reports.page(run, plots.draw(run))
    document = Document(text)
    assert len(document.all("script")) == 1
    assert not [a for _, a in document.elements if any(name.startswith("on") for name in a)]
    assert document.said.count("<script>alert(1)</script>") > 10
    assert "{{ 7*7 }}" in document.said
    assert not re.search("[\x00\x1b‮]", text)
    assert "</script>" not in text.partition("<script>")[2].partition("</script>\n</body>")[0]


def test_figures_are_images_that_the_page_holds_each_with_its_text(tmp_path, drawn):
    (figure,) = [path for path in drawn("cost-minilm") if path.stem == "backward-depth"]
    twin = tmp_path / "another-depth.svg"
    twin.write_bytes(figure.read_bytes())
    document = rendered(glue_small(tmp_path), [figure, twin])
    images = document.all("img")
    assert {image["alt"] for image in images} == {
        "Backward by depth. Backward FLOPs of each method at each depth, against the baseline.",
        "Another depth. Another depth.",
    }
    for image in images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(content).rstrip().endswith(b"</svg>")


def test_a_figure_that_is_none_is_named(tmp_path):
    broken = tmp_path / "latency.svg"
    for content in (b"<svg>", b"\xff\xfe"):
        broken.write_bytes(content)
        with pytest.raises(BenchError, match=r"latency\.svg: not a readable figure"):
            page.image(Figure("latency", "Latency", "Latency.", (), broken))


def test_every_caveat_has_a_remedy(tmp_path):
    run = hostile(tmp_path)
    dirty = run.records[0].environment | {"dirty": True}
    noisy = [cost(label, noise=0.02, environment=dirty) for label in ("full", "lora(rank=8)")]
    random = score("lora(rank=8)", "sst2", 0).model_copy(update={"flags": ("did_not_learn",)})
    random = random.model_copy(update={"backbone": random.backbone.model_copy(update={"weights": "random"})})
    searched = Tuning(trials=4, seeds=1, steps=60, selection_rows=256)
    random = random.model_copy(update={"tuning": searched})
    rows = RowFigures(labels={"a": 31, "b": 1}, duplicates=0, tokens={"100": 90}, truncated=0.4)
    seen = random.task.model_copy(update={"overlap": 3, "notes": ("near the pretraining objective",), "rows": rows})
    records = (*noisy, run.records[0], run.records[-1], random.model_copy(update={"task": seen}))
    twice = replace(run, records=(*records, random.model_copy(update={"id": "again", "seed": 1, "task_name": "mrpc"})))
    old = random.model_copy(update={"id": "old", "ended": "2020-01-01T00:00:00Z"})
    found = caveats.caveats(Results(replace(twice, records=(*twice.records, old))))
    found += caveats.caveats(Results(Run.of(tmp_path, suite(), ())))
    found += caveats.caveats(Results(glue_small(tmp_path)))
    assert {caveat.kind for caveat in found} == set(caveats.REMEDIES)
    assert all(caveat.says and caveat.remedy.endswith(".") for caveat in found)


def test_every_figure_says_where_the_methodology_explains_it():
    headings = re.findall(r"^## (.+)$", (ROOT / "METHODOLOGY.md").read_text(), flags=re.MULTILINE)
    assert {term.chapter for term in TERMS.values()} <= set(headings)
    metrics = ("flops.backward", "step_seconds", "latency_seconds.merged.batch_4", "merged_equals_base", "score")
    assert {claims.how_of(metric) for metric in metrics} <= set(TERMS)
    run = read_run(ROOT / "results/published/cost-minilm")
    addresses = [a["href"] for a in rendered(run).all("a") if "METHODOLOGY" in a.get("href", "")]
    assert "../../../METHODOLOGY.md#parameters-and-storage" in addresses


def test_away_from_the_sources_the_page_names_no_folder_of_this_machine(tmp_path):
    assert str(tmp_path) not in reports.page(glue_small(tmp_path))
    assert "METHODOLOGY.md#" not in reports.page(glue_small(tmp_path))


def write_folder(folder, run):
    folder.mkdir(exist_ok=True)
    (folder / "suite.toml").write_text(tomli_w.dumps(run.suite.plain()))
    lines = (record.model_dump_json(by_alias=True) + "\n" for record in run.records)
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def test_the_report_command_writes_the_page_and_names_it_last(tmp_path):
    folder = write_folder(tmp_path / "run", Run.of(tmp_path, suite(), ()))
    assert bench("report", folder).stdout.splitlines()[-1] == f"report  {folder / 'report.html'}"
    assert "<title>glue-small · peft-ledger</title>" in (folder / "report.html").read_text()
    assert json.loads(bench("report", folder, "--json").stdout)["page"] == str(folder / "report.html")


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(BenchError, match=r"report\.html: cannot be written"):
        pages.write(reports.document(glue_small(tmp_path)), tmp_path)

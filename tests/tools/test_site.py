"""The site of published reports: whole, relative, and silent towards every host."""

import re

import pytest
import yaml

from bench.errors import BenchError
from bench.store.store import open_store
from tests.factories.records import glue_small
from tests.factories.trials import search
from tests.report.test_html import Document
from tools.site import prose
from tools.site.build import PUBLISHED, ROOT, build


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two small runs, one of them without scores, and a search for learning rates."""
    folder = tmp_path_factory.mktemp("repository")
    published, out = folder / "published", folder / "site"
    labels = ["full", "lora(rank=8)"]
    for name, made in {
        "scored": glue_small(folder, labels=labels),
        "costs": glue_small(folder, labels=labels, scores=False),
        "tuning/rates": search(folder, lambda *_: 0.5),
    }.items():
        with open_store(published / name, made.suite) as store:
            for record in made.records:
                store.append(record)
    return build(published, out), out


def check_links(out):
    """Every link of every page leads to an element of the site, none to another host or a place of this machine."""
    documents = {path: Document(path.read_text()) for path in out.rglob("*.html")}
    ids = {path: {a["id"] for _, a in page.elements if "id" in a} for path, page in documents.items()}
    count = 0
    for path, page in documents.items():
        for tag, attributes in page.elements:
            for name in ("href", "src", "srcset", "action", "data"):
                address = attributes.get(name)
                if address is None or address.startswith("data:") or (tag == "a" and address.startswith("https://")):
                    continue
                assert not re.match(r"[a-z]+:|/", address), (path, address)
                target, _, place = address.partition("#")
                leads_to = (path.parent / target).resolve() if target else path
                assert leads_to in documents, (path, address)
                assert not place or place in ids[leads_to], (path, address)
                count += 1
        text = path.read_text()
        assert not re.search(r"@import|@font-face|url\((?!#|data:)", text), path
        assert not re.search(r"/(home|root|work|tmp|Users)/", text), path
        (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
        assert policy.startswith("default-src 'none';"), path
    return count


def test_all_links_lead_somewhere_on_the_site_and_no_page_asks_a_host(site):
    pages, out = site
    assert check_links(out) > 20
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {"index.html", "methodology.html", *(page.address for page in pages)}


def test_the_index_says_of_each_run_what_it_asks_finds_and_on_what(site):
    pages, out = site
    assert [page.name for page in pages] == ["costs", "scored", "tuning/rates"]
    index = Document((out / "index.html").read_text())
    assert [a["href"] for a in index.all("a")] == ["methodology.html", *(page.address for page in pages)]
    run = pages[1]
    assert (run.methods, run.machine, run.measured) == (2, "CPU, 2 cores, no GPU", "2026-01-01")
    assert (run.kind, run.reach) == ("exact", "exact, any machine")
    for said in (run.question, run.finding, run.reach, run.backbone, run.machine, run.measured):
        assert said and said in index.said


def test_a_search_is_a_page_with_its_table_and_figure(site):
    document = Document((site[1] / "tuning" / "rates" / "report.html").read_text())
    assert "search for learning rates" in document.said
    assert document.all("table")
    (picture,) = document.all("img")
    assert picture["src"].startswith("data:image/png;base64,")
    assert document.all("a")[0]["href"] == "../../index.html"


def test_a_folder_that_holds_files_and_one_without_runs_are_refused(site, tmp_path):
    with pytest.raises(BenchError, match="is not empty; remove it first"):
        build(site[1].parent / "published", site[1])
    with pytest.raises(BenchError, match="holds no run folder"):
        build(tmp_path, tmp_path / "out")


def test_prose_keeps_links_that_lead_on_and_the_words_of_others_and_obeys_no_markup(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    text = "# Peak memory (counted)\n\n[on](x.md), [off](y.md) <b>&\n\n![Seen](a.svg)\n\n| a |\n|---|\n| 1 |\n"
    body = prose.html(text, tmp_path, {"x.md": "x.html"}.get)
    assert '<h1 id="peak-memory-counted">' in body
    assert '<a href="x.html">on</a>, off &lt;b&gt;&amp;' in body
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+" alt="Seen"' in body
    assert body.count("<table>") == body.count("</table></div>") == 1


def test_prose_leaves_out_the_word_for_a_file_of_a_picture_that_the_page_holds(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.svg").write_text("<svg/>")
    text = "![A](a.png)\n\nSeen. [SVG](a.svg)\n\nAnother [drawing](b.svg) and [that one](https://host/a.svg).\n"
    body = prose.html(text, tmp_path, lambda link: link if link.startswith("https://") else None)
    assert "<p>Seen. </p>" in body
    assert '<p>Another drawing and <a href="https://host/a.svg">that one</a>.</p>' in body


def test_the_workflow_publishes_what_the_documented_command_builds():
    jobs = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())["jobs"]
    steps = jobs["build"]["steps"]
    (command,) = [step["run"] for step in steps if "tools.site" in step.get("run", "")]
    assert f"    {command}\n" in (ROOT / "tools/site/__main__.py").read_text()
    (upload,) = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == command.split()[-1]
    assert jobs["deploy"]["needs"] == "build"
    assert jobs["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}


@pytest.mark.slow
def test_the_site_of_the_committed_runs_is_whole(tmp_path):
    pages = build(PUBLISHED, tmp_path / "site", workers=2)
    assert check_links(tmp_path / "site") > 1000
    names = [str(path.parent.relative_to(PUBLISHED)) for path in PUBLISHED.rglob("suite.toml")]
    assert sorted(page.name for page in pages) == sorted([*names, "ab-self-test"])
    page = (tmp_path / "site" / "glue-small" / "report.html").read_text()
    assert "../methodology.html#times" in page
    assert "Ranking at default and at searched rates" in page  # the search of the same name takes part

"""The pages under docs/methods are what the source and the committed records say."""

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.method import Method, MethodConfig
from bench.registry import load_method
from methods import BUILTIN
from tests.factories.command import module
from tests.methods.adapted import adapt, bert_base, count
from tools import method_pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"


PUBLISHED = frozenset(method_pages.quoted()[method_pages.RUNS[0]])
"""Methods with published counts: their pages are committed. That of a newer one may be, and is checked where it is."""
SOURCE = r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/|https://\S+|\b[A-Z][A-Za-z&]+ (19|20)\d\d\b"
"""Where a paper is found: arXiv, a DOI, an address, or where it appeared, such as ``ACL 2022``."""


def rows_of_published(text):
    """The index without the lines of methods whose counts are not published yet."""
    newer = tuple(f"| [{name}]" for name in BUILTIN if name not in PUBLISHED)
    return [line for line in text.splitlines() if not newer or not line.startswith(newer)]


def test_the_documented_command_writes_exactly_the_committed_pages(tmp_path):
    (line,) = re.findall(r"^python -m .*$", (PAGES / "README.md").read_text(), flags=re.MULTILINE)
    module(*shlex.split(line.replace("docs/methods", shlex.quote(str(tmp_path)))))
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in PAGES.iterdir()}
    newer = {f"{name}.md" for name in BUILTIN if name not in PUBLISHED}
    assert committed.keys() | newer == written.keys(), f"write them again: {line}"
    stale = [name for name, text in committed.items() if name != "README.md" and written[name] != text]
    assert not stale, f"write them again: {line}"
    assert rows_of_published(written["README.md"]) == rows_of_published(committed["README.md"])


def test_a_method_without_published_counts_has_a_page_and_a_row_that_say_so(monkeypatch):
    monkeypatch.setitem(BUILTIN, "newer", BUILTIN["ia3"])
    runs = method_pages.quoted()
    text, rows = method_pages.page("newer", runs), method_pages.index(runs)
    assert "Not yet in the published counts" in text
    (command,) = re.findall(r"^python -m bench (.*)$", text, flags=re.MULTILINE)
    assert shlex.split(command) == ["predict", "--backbone", "bert-base", "--method", "full,newer"]
    assert any(row.startswith("| [newer](newer.md) |") and row.endswith("| yes |") for row in rows.splitlines())
    assert not any("[newer]" in row for row in rows_of_published(rows))


class Bare(Method):
    """``y = x``.

    Paper: ACL 2022.
    Trains: 0 parameters.
    """

    def apply(self, backbone, config):
        return backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unexplained(MethodConfig):
    first: int = 1
    second: int = 2
    """Of the two."""


def test_what_a_page_needs_and_a_method_lacks_is_one_sentence():
    with pytest.raises(BenchError, match=r"docstring of Bare has no line 'Backward: ...'; state Paper, Trains, "):
        method_pages.described(Bare)
    with pytest.raises(BenchError, match=r"Unexplained.first has no docstring; write below it"):
        method_pages.options(Unexplained)


@pytest.mark.parametrize(
    "text", ["Liu et al., NeurIPS 2022.", "arXiv:2205.05638.", "doi:10.1000/182.", "https://a.b/c."]
)
def test_a_paper_is_found_by_venue_doi_or_address_too(text):
    assert re.search(SOURCE, text)
    assert not re.search(SOURCE, "A. Author, some years ago.")


@pytest.mark.parametrize("name", BUILTIN)
def test_every_method_states_paper_parameters_backward_merging_and_use(name):
    text = method_pages.described(load_method(name))
    assert list(text.labelled) == ["Paper", "Trains", "Backward", "Merging", "Use"]
    assert [label for label, part in text.labelled.items() if not re.fullmatch(r".*\w.*\.", part)] == []
    assert re.search(SOURCE, text.labelled["Paper"]), "say where: arXiv:, doi:, an address, or venue and year"


@pytest.mark.parametrize("name", BUILTIN)
def test_the_count_that_a_docstring_states_for_bert_base_is_that_of_its_defaults(name):
    _, module = adapt(name, bert_base())
    stated = re.findall(r"\d[\d,]*\d|\d", method_pages.described(load_method(name)).labelled["Trains"])
    assert f"{count(module):,}" in stated


@pytest.mark.parametrize("name", BUILTIN)
def test_every_option_is_on_the_page_with_its_default(name):
    config = load_method(name).Config
    page = method_pages.page(name, method_pages.quoted())
    for field in inspect.signature(config).parameters.values():
        (row,) = re.findall(rf"^\| `{field.name}` \|.*$", page, flags=re.MULTILINE)
        assert f"`{field.default!r}`" in row


def test_every_link_of_the_pages_leads_somewhere():
    for page in PAGES.iterdir():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (PAGES / target).exists(), f"{page.name}: {target}"

"""The pages under docs/methods are what the source and the committed records say."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from bench.registry import load_method
from methods import BUILTIN
from tests.factories.command import module
from tools import method_pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "methods"


def test_the_documented_command_writes_exactly_the_committed_pages(tmp_path):
    (line,) = re.findall(r"^python -m .*$", (PAGES / "README.md").read_text(), flags=re.MULTILINE)
    module(*shlex.split(line.replace("docs/methods", shlex.quote(str(tmp_path)))))
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in PAGES.iterdir()}
    assert written.keys() == committed.keys()
    stale = [name for name, text in written.items() if committed[name] != text]
    assert not stale, f"write them again: {line}"


@pytest.mark.parametrize("name", BUILTIN)
def test_every_method_states_paper_parameters_backward_merging_and_use(name):
    text = method_pages.described(load_method(name))
    assert list(text.labelled) == ["Paper", "Trains", "Backward", "Merging", "Use"]
    assert all(len(part) >= len("as LoRA.") and part.endswith(".") for part in text.labelled.values())
    assert "arXiv:" in text.labelled["Paper"]


@pytest.mark.parametrize("name", BUILTIN)
def test_the_count_that_a_docstring_states_for_bert_base_is_the_counted_one(name):
    counted = method_pages.quoted()["counts-bert-base"][name].trainable_parameters.method
    assert f"{counted:,}" in re.findall(r"\d[\d,]*\d|\d", method_pages.described(load_method(name)).labelled["Trains"])


@pytest.mark.parametrize("name", BUILTIN)
def test_every_option_is_on_the_page_with_its_default(name):
    config = load_method(name).Config
    page = (PAGES / f"{name}.md").read_text()
    for field in inspect.signature(config).parameters.values():
        (row,) = re.findall(rf"^\| `{field.name}` \|.*$", page, flags=re.MULTILINE)
        assert f"`{field.default!r}`" in row


def test_every_link_of_the_pages_leads_somewhere():
    for page in PAGES.iterdir():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (PAGES / target).exists(), f"{page.name}: {target}"

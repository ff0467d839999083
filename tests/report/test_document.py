"""What a report says stands in each of its forms: a figure that one of them shows, all of them show."""

import html
import re
from pathlib import Path

import pytest

from bench.report.document import (
    Answers,
    Caveats,
    Choices,
    Document,
    Facts,
    Figure,
    Glossary,
    Section,
    Source,
    Table,
    Text,
    Verdicts,
)
from bench.report.format import markdown as escaped
from bench.report.format import plain
from bench.report.render import html as page
from bench.report.render import markdown, terminal
from tests.factories import reports

PUBLISHED = sorted(path.parent.name for path in reports.PUBLISHED.glob("*/suite.toml"))


def texts(block):
    """Every text of a block that a reader must find."""
    match block:
        case Text():
            yield from block.lines
        case Facts():
            yield from (text for fact in block.rows for text in (fact.name, fact.says))
        case Table():
            yield from (block.caption, *block.notes, *(column.name for column in block.columns))
            yield from (cell.text for row in block.rows for cell in row)
        case Answers():
            yield from (text for row in block.rows for text in (row.says, row.tag))
        case Verdicts():
            for row in block.rows:
                yield from (row.says, row.figures, row.reach, row.metric, *row.methods)
                yield from (note.partition(" ")[2] for note in row.notes)  # a page begins it with a capital
        case Choices():
            yield from (text for row in block.rows for text in (row.need, row.pick, row.says, row.rule))
        case Caveats():
            yield from (text for row in block.rows for text in (row.kind, row.says, row.remedy))
        case Glossary():
            yield from (text for row in block.rows for text in (row.name, row.unit, row.says))
        case Figure():
            yield from (block.alt, *block.tags)
        case Source():
            yield block.name


def said_on_a_screen(block):
    """What a screen says in a line; cells of tables stand apart."""
    match block:
        case Table():
            yield from block.notes
        case Text():
            yield from block.lines
        case Facts():
            yield from (fact.says for fact in block.rows)
        case Verdicts():
            yield from (row.line for row in block.rows)


def numbers(text):
    return set(re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?:e-?\d+)?", text))


@pytest.mark.parametrize("name", PUBLISHED)
def test_page_markdown_and_terminal_of_every_published_run_show_the_same_figures(name):
    document = reports.published(name)
    shown = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.render(document))).split())
    text = markdown.render(document)
    every = {plain(said) for block in document.blocks() for said in texts(block)}
    assert len(every) > 100
    assert not [said for said in every if said not in shown]
    assert not [said for said in every if escaped(said) not in text]
    screen = " ".join(reports.on_screen(document, width=400).split())
    on_screen = [block for section in document.sections for block in section.screen]
    tables = [block for block in on_screen if isinstance(block, Table)]
    cells = {
        " ".join(row[at].screen.split())
        for table in tables for row in table.rows
        for at, column in enumerate(table.columns) if column.screen
    }  # fmt: skip
    cells |= {row[0].text.partition("(")[0] for table in tables for row in table.rows}  # the rest of it goes on below
    assert tables and not [cell for cell in cells if cell not in screen]
    lines = [
        plain(said) for section in document.sections for block in section.screen for said in said_on_a_screen(block)
    ]
    assert not [line for line in lines if line not in screen]
    known = numbers(" ".join((document.header, *every)))
    assert not [line for line in lines if numbers(line) - known]


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_two_headings_or_captions_of_a_published_run_are_the_same(name):
    document = reports.published(name)
    heads = [section.title for section in document.sections if section.title]
    heads += [" ".join(b.lines) for b in document.blocks() if isinstance(b, Text) and b.form == "heading"]
    heads += [block.caption for block in document.blocks() if isinstance(block, Table)]
    assert [head for head in dict.fromkeys(heads) if heads.count(head) > 1] == []


@pytest.mark.parametrize(("name", "scored"), [("glue-small", {"scored"}), ("cost-minilm", set())])
def test_page_and_markdown_say_of_every_figure_the_badges_that_it_wears(name, scored, drawn):
    document = reports.document(reports.PUBLISHED / name, drawn(name))
    figures = [block for block in document.blocks() if isinstance(block, Figure)]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.render(document), re.DOTALL)
    text = markdown.render(document)
    for figure, caption in zip(figures, captions, strict=True):
        words = set(re.findall(r"<text[^>]*>([^<]*)</text>", figure.file.read_text()))
        worn = {word for word in words if re.match(r"(counted|timed|measured|scored)( ·|$)", word)}
        assert worn and worn == set(figure.tags), figure.name
        on_scores = any("score (" in word or word.startswith("score") for word in words - worn)
        assert on_scores <= bool(scored & worn), (figure.name, worn)
        assert [tag for tag in figure.tags if tag in html.unescape(caption)] == list(figure.tags)
        assert f"`{', '.join(figure.tags)}`" in text
    assert scored <= {tag for figure in figures for tag in figure.tags}


def test_what_a_screen_shows_of_a_table_stands_in_the_table_of_the_files():
    """The short form of a figure is the figure with fewer digits, not another one."""
    for name in ("glue-small", "cost-bert-base"):
        (table,) = [block for block in reports.published(name).section("methods").screen if isinstance(block, Table)]
        for row in table.rows:
            for cell in row:
                full, short = ([float(n) for n in re.findall(r"\d+\.?\d*", t)[:1]] for t in (cell.text, cell.screen))
                assert full == pytest.approx(short, abs=0.01), cell


def test_a_screen_is_told_what_it_cannot_show():
    document = Document("x", "", "", (Section("s", "", (), (Caveats(()),)),))
    with pytest.raises(TypeError, match="a screen shows no Caveats"):
        reports.on_screen(document)


def test_sections_know_no_renderer_and_renderers_no_section():
    root = Path(terminal.__file__).parents[1]
    for folder, other in (("sections", "render"), ("render", "sections")):
        for path in (root / folder).glob("*.py"):
            assert f"bench.report.{other}" not in path.read_text(), path

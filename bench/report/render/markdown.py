"""Writes a document as Markdown; every text of it stays text."""

from collections.abc import Iterable, Sequence

from bench.report.document import (
    Answers,
    Block,
    Caveats,
    Choices,
    Document,
    Facts,
    Figure,
    Glossary,
    Source,
    Table,
    Text,
    Verdicts,
)
from bench.report.format import MISSING
from bench.report.format import markdown as text


def render(document: Document) -> str:
    """The whole document."""
    parts = [f"# {text(document.title)}"]
    parts += [f"**{text(document.question)}**"] if document.question else []
    parts += [text(document.header)] if document.header else []
    for section in document.sections:
        shown = [part for part in map(_block, section.blocks) if part]
        parts += [f"## {text(section.title)}", *shown] if section.title and shown else shown
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Iterable[int] | None = None) -> str:
    """A table of cells that are escaped already.

    Args:
        head: Headings.
        rows: Cells of each row.
        words: Columns aligned to the left, beside the first; None: all.
    """
    left = range(len(head)) if words is None else {0, *words}
    align = ["---" if at in left else "---:" for at in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))


def _block(block: Block) -> str:
    match block:
        case Text():
            return _text(block)
        case Facts():
            return table(("what", "value"), [(text(fact.name), text(fact.says)) for fact in block.rows])
        case Table():
            return _table(block)
        case Figure():
            tags = f" `{', '.join(block.tags)}`" if block.tags else ""
            place = f"plots/{block.name}"
            return f"![{text(block.alt)}]({place}.png)\n\n{text(block.alt)}{tags} [SVG]({place}.svg)"
        case Answers():
            return "\n".join(f"{at}. {text(row.says)} *({text(row.tag)})*" for at, row in enumerate(block.rows, 1))
        case Verdicts():
            rows = [
                (f"**{row.word}**" if row.word == "fail" else row.word, text(row.line),
                 text(f"{', '.join(row.methods)}: {row.metric}"))
                for row in block.rows
            ]  # fmt: skip
            return table(("verdict", "claim", "about"), rows)
        case Choices():
            picked = [(text(row.need), text(row.pick) or MISSING, text(row.says), text(row.rule)) for row in block.rows]
            return table(("need", "pick", "figures and doubts", "rule"), picked)
        case Caveats():
            return "\n".join(f"- {text(row.kind)}: {text(row.says)}. {text(row.remedy)}" for row in block.rows)
        case Glossary():
            return table(("figure", "unit", "how"), [tuple(map(text, (r.name, r.unit, r.says))) for r in block.rows])
        case Source():
            return f"[{text(block.name)}]({block.name})"


def _text(block: Text) -> str:
    if block.form == "heading":
        return "\n\n".join(f"### {text(line)}" for line in block.lines)
    if block.form == "list":
        return "\n".join(f"- {text(line)}" for line in block.lines)
    return " ".join(map(text, block.lines))


def _table(block: Table) -> str:
    words = [at for at, column in enumerate(block.columns) if column.words]
    rows = [[text(cell.text) for cell in row] for row in block.rows]
    shown = table([text(column.name) for column in block.columns], rows, words)
    notes = "\n".join(f"- {text(note)}" for note in block.notes)
    return "\n\n".join(part for part in (f"**{text(block.caption)}**" if block.caption else "", shown, notes) if part)

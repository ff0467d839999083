"""What the pages share: the language, the layout, tables and the verdicts of a run's claims; it knows no question."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench.analysis.results import Results
from bench.analysis.scores import MIN_SEEDS
from bench.report import format as fmt
from bench.report.sections import claims as told
from bench.schema.record import CostRecord, Flops
from bench.store.store import Run, read_run
from bench.verdicts.claims import JudgedResults

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED, PICTURES = "../../results/published", "../images/answers"
"""Where the runs and the figures lie, seen from the pages."""
AGAIN = "python -m tools.answers docs/answers"
Say = Callable[[str, str], str]
"""Takes a sentence in English and in Chinese and gives that of the page's language."""


def english(en: str, zh: str) -> str:
    """The English of the two."""
    return en


def chinese(en: str, zh: str) -> str:
    """The Chinese of the two."""
    return zh


@dataclasses.dataclass(frozen=True)
class Answer:
    """One page; every text is in the page's language."""

    question: str
    sentence: str
    """The answer, with its figures."""
    tag: str
    """How far it holds: ``exact, any machine``, ``this machine``, or why it carries no verdict."""
    run: str
    """Name of the suite and of the published run that the figures come from."""
    command: str
    parts: tuple[tuple[str, str], ...]
    """Heading and text of each section."""
    not_concluded: tuple[str, ...]
    """What a reader may not take from it."""
    beside: str = ""
    """Another published run whose figures are drawn."""
    source: str = ""
    """Where the figures come from; the run's folder where left out."""


def published(name: str) -> Run:
    """The committed run ``name``.

    Raises:
        BenchError: It is not there, or damaged.
    """
    return read_run(ROOT / "results" / "published" / name)


def costs(run: Run, length: int | None = None, loss: str | None = None) -> dict[str, CostRecord]:
    """Cost records that are ok, by label in the suite's order, of the first shape with ``length`` tokens and ``loss``.

    Each may be left out.
    """
    shape = next(s for s in Results(run).shapes if length in (None, s.length) and loss in (None, s.loss))
    found = {r.method.label: r for r in Results(run).cost_records if r.shape == shape and r.status == "ok"}
    return {label: found[label] for label in run.suite.methods if label in found}


def counts(record: CostRecord) -> Flops:
    """FLOPs of a training step."""
    assert record.flops is not None
    return record.flops


def scores_tag(say: Say, run: Run) -> str:
    """How far the scores of ``run`` hold."""
    results = Results(run)
    seeds = len(results.seeds)
    if results.is_synthetic:
        return say("scores: synthetic data, no verdict", "得分：合成数据，不下结论")
    if seeds < MIN_SEEDS:
        return say(f"scores: {seeds} seeds, no verdict", f"得分：{seeds} 个种子，不下结论")
    return say(f"scores: {seeds} seeds", f"得分：{seeds} 个种子")


def lengths(run: Run) -> list[int]:
    """Tokens per row of the shapes that were measured, rising."""
    return sorted({shape.length for shape in Results(run).shapes})


def page(say: Say, answer: Answer, name: str) -> str:
    """The whole page as Markdown; ``name`` is its file's stem without the language."""
    other = f"[中文]({name}.zh.md)" if say is english else f"[English]({name}.md)"
    source = answer.source or f"{PUBLISHED}/{answer.run}"
    doubt = say(
        f"The figures stand in [{answer.run}]({source}), with hardware, versions and every sample; the same on your "
        "machine:",
        f"数据来自 [{answer.run}]({source})，其中有硬件、版本与每个样本；在你的机器上重做：",
    )
    parts = [
        f"# {answer.question}",
        f"<!-- {say('Generated', '自动生成')}: {AGAIN} -->",
        other,
        f"**{answer.sentence}** `{answer.tag}`",
        f"{doubt}\n\n```\n{answer.command}\n```",
    ]
    for heading, text in answer.parts:
        parts += [f"## {heading}", text]
    parts += [f"## {say('What may not be concluded', '不能由此得出什么')}"]
    parts.append("\n".join(f"- {line}" for line in answer.not_concluded))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table whose first ``texts`` columns are text, the others figures."""
    align = [*["---"] * texts, *["---:"] * (len(head) - texts)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))


def claims(say: Say, run: Run) -> str:
    """Every claim of the run with its verdict, as its report has them."""
    rows = [(claim.verdict, fmt.markdown(claim.row.line)) for claim in told.tell(JudgedResults(run))]
    return table([say("verdict", "结论"), say("claim (as in the report)", "论断（原文见报告）")], rows, 2)


def figure(run: str, name: str, says: str) -> str:
    """A figure of the published run, which `tools.answers.__main__.draw` draws."""
    return f"![{says}]({PICTURES}/{run}-{name}.svg)"


def span(values: Iterable[float], digits: int = 2) -> str:
    """``0.46`` or ``0.46 - 0.53``: the range of ``values``."""
    found = sorted(values)
    ends = [fmt.ratio(value, digits) for value in (found[0], found[-1])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} - {ends[1]}"


def most(values: Iterable[float], digits: int = 2) -> str:
    """The largest of ``values``."""
    return fmt.ratio(max(values), digits)

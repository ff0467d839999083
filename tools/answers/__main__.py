"""Write the pages under docs/answers, and their figures beside them: python -m tools.answers docs/answers."""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from bench.report.charts import catalogue
from tools.answers import efficiency, embedding, forgetting, latency, rank, serving, start, svd
from tools.answers.words import AGAIN, PICTURES, Answer, chinese, english, page, published

PAGES = (efficiency, rank, svd, start, latency, serving, forgetting, embedding)
"""In reading order."""


def write(folder: Path) -> None:
    """Write every page and the index, in both languages, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for say, ending in ((english, ".md"), (chinese, ".zh.md")):
        answers: dict[str, Answer] = {}
        for module in PAGES:
            answers[module.NAME] = module.answer(say)
            (folder / f"{module.NAME}{ending}").write_text(
                page(say, answers[module.NAME], module.NAME), encoding="utf-8"
            )
        lines = [f"- [{a.question}]({name}{ending}) {a.sentence} `{a.tag}`" for name, a in answers.items()]
        intro = say(
            "Each opens with the answer, its figures and how far they hold; under it the command that repeats them.",
            "每页先给出回答、数字和它们的适用范围，接着是重做它们的命令。",
        )
        again = say(
            "Written from committed records; a test holds that they are up to date. To write them again:",
            "各页由已提交的记录生成，测试保证它们没有过时。重新生成：",
        )
        parts = [f"# {say('Answers', '问答')}", intro, "\n".join(lines), f"{again}\n\n```\n{AGAIN}\n```"]
        (folder / f"README{ending}").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def draw(folder: Path) -> None:
    """Draw the figures that the pages of ``folder`` show, where they look for them; older ones go."""
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md")))
    shown = set(re.findall(rf"\({re.escape(PICTURES)}/([^)]+)\)", pages))
    pictures = folder / PICTURES
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    answers = [module.answer(english) for module in PAGES]
    for run in sorted({run for answer in answers for run in (answer.run, answer.beside) if run}):
        with tempfile.TemporaryDirectory() as drawn:
            for path in catalogue.draw(published(run), into=Path(drawn)):
                if (name := f"{run}-{path.name}") in shown:
                    shutil.copyfile(path, pictures / name)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    draw(Path(sys.argv[1]))

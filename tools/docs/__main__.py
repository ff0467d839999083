"""Write the generated parts of the documentation again: python -m tools.docs."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.answers.words import Say, chinese, english
from tools.docs import fields, figures, folders, gate, robustness

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(<!-- begin ([^>]+?) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
"""A generated part: its name, and what stands between the two marks."""
PARTS: dict[str, Callable[[Say], str]] = {
    "costs of glue-small": figures.costs,
    "scores of movie-reviews": figures.trained_to_the_end,
    "figures of lm-small": figures.language_model,
    "keys of a suite": lambda _: fields.suite_keys(),
    "fields of a record": lambda _: fields.record_fields(),
    "fields of a delta": lambda _: fields.delta_fields(),
    "published runs": figures.runs,
    "folders": lambda _: folders.folders(),
    "inputs of the action": lambda _: gate.inputs(),
    "failing gate": lambda _: gate.failing(),
    "robustness": lambda _: robustness.robustness(),
    **{f"cost of {name}": (lambda say, name=name: figures.sentence(say, name)) for name in figures.DESCRIBED},  # type: ignore[misc]
}


def documents(root: Path = ROOT) -> Iterator[Path]:
    """Files with generated parts."""
    for path in sorted([*root.glob("*.md"), *root.glob("docs/*.md")]):
        if MARKED.search(path.read_text(encoding="utf-8")):
            yield path


def written(path: Path) -> str:
    """The text of a document with its generated parts as they should be."""
    say = chinese if path.name.endswith(".zh.md") else english
    return MARKED.sub(lambda found: f"{found[1]}{PARTS[found[2]](say)}\n{found[4]}", path.read_text(encoding="utf-8"))


def main() -> None:
    """Write every document again and name those that changed."""
    for path in documents():
        text = written(path)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()

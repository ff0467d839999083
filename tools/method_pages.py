"""Write a page for each method of this project from its docstring, its configuration and committed cost records.

python -m tools.method_pages docs/methods
"""

import argparse
import ast
import dataclasses
import functools
import inspect
import re
from pathlib import Path

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.method import Method, MethodConfig
from bench.registry import load_method, merges
from bench.report import format as fmt
from bench.schema.record import CostRecord, Shape
from methods import BUILTIN

ROOT = Path(__file__).resolve().parents[1]
RUNS = ("counts-bert-base", "glue-small")
"""Published runs whose first shape the pages quote, the one with every method first."""
SECTIONS = {
    "Trains": "What trains",
    "Backward": "What backward does",
    "Merging": "Merging",
    "Use": "When to use it",
}
"""Label in a docstring -> heading on the page; ``Paper`` stands on a line of its own."""
GENERATED = "<!-- Generated from the source: python -m tools.method_pages docs/methods -->"


@dataclasses.dataclass(frozen=True)
class Described:
    """A method's docstring in its parts, each paragraph on one line."""

    equation: str
    notes: tuple[str, ...]
    labelled: dict[str, str]


def described(cls: type[Method]) -> Described:
    """Split the docstring of ``cls``.

    Raises:
        BenchError: A label is missing.
    """
    text = inspect.getdoc(cls) or ""
    parts = re.split(rf"\n\n|\n(?=(?:{'|'.join(SECTIONS)}): )", text.strip())
    joined = [" ".join(part.split()) for part in parts]
    labels = ("Paper", *SECTIONS)
    labelled = {
        part.partition(": ")[0]: part.partition(": ")[2] for part in joined if part.partition(": ")[0] in labels
    }
    if missing := [label for label in labels if label not in labelled]:
        raise BenchError(
            f"{cls.__module__}: the docstring of {cls.__name__} has no line '{missing[0]}: ...'; state "
            f"{', '.join(labels)} as methods/lora.py does"
        )
    notes = tuple(part for part in joined[1:] if part.partition(": ")[0] not in labels)
    return Described(joined[0], notes, labelled)


def options(config: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and docstring of each field of a configuration, those of its bases first.

    Raises:
        BenchError: A field has no docstring.
    """
    if config is MethodConfig:
        return []
    rows = [row for base in config.__bases__ for row in options(base)]
    tree = ast.parse(inspect.getsource(config))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
                raise BenchError(
                    f"{config.__module__}: {config.__name__}.{ast.unparse(field.target)} has no docstring; write below "
                    "it what it sets"
                )
            default = ast.unparse(field.value) if field.value else "required"
            meaning = inspect.cleandoc(str(ast.literal_eval(after.value)))
            rows.append((ast.unparse(field.target), ast.unparse(field.annotation), default, " ".join(meaning.split())))
    return rows


@functools.cache
def quoted() -> dict[str, dict[str, CostRecord]]:
    """Cost records by run and method name, of the first shape of each run."""
    found = {}
    for name in RUNS:
        results = Results(ROOT / "results" / "published" / name)
        found[name] = {record.method.name: record for record in results.measured().values()}
    return found


def figures(record: CostRecord) -> dict[str, tuple[float, str]]:
    """Counted figures of a record: name on the page -> number and how it is written."""
    assert record.flops and record.bytes and record.trainable_parameters and record.predicted_peak_memory_bytes
    flops, held, peak = record.flops, record.bytes, record.predicted_peak_memory_bytes
    numbers = {
        "trainable params (excl. head)": (record.trainable_parameters.method, fmt.exact),
        "stored per task": (record.delta_bytes or 0, fmt.size),
        "forward FLOPs": (flops.forward, fmt.count),
        "backward FLOPs": (flops.backward, fmt.count),
        "- weight gradients": (flops.backward_weight_gradient, fmt.count),
        "- input gradients": (flops.backward_input_gradient, fmt.count),
        "- attention": (flops.backward_attention, fmt.count),
        "- in the backbone": (flops.backbone.backward, fmt.count),
        "saved activations": (held.saved_activations, fmt.size),
        "optimizer state": (held.optimizer_state, fmt.size),
        "peak memory of a step": (peak.step, fmt.size),
    }
    return {name: (number, write(number)) for name, (number, write) in numbers.items()}


def table(head: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """A markdown table whose first ``texts`` columns are text, the others figures."""
    align = [*["---"] * texts, *["---:"] * (len(head) - texts)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *rows))


def cost(name: str, runs: dict[str, dict[str, CostRecord]]) -> str:
    """The counted figures of a method, beside what they are of full fine-tuning's."""
    head, columns = ["counted"], []
    for by_name in runs.values():
        if name not in by_name:
            continue
        mine, full = by_name[name], figures(by_name["full"])
        assert mine.backbone is not None
        where = f"{mine.backbone.name.rpartition('/')[2]}, {mine.shape.batch} x {mine.shape.length}"
        head += [f"`{mine.method.label}` on {where}", "/ full"]
        own = figures(mine)
        columns.append([text for _, text in own.values()])
        columns.append([fmt.ratio(number / full[row][0], 3) for row, (number, _) in own.items()])
    names = list(figures(next(iter(runs.values()))["full"]))
    return table(head, [list(row) for row in zip(names, *columns, strict=True)])


def structure(name: str, runs: dict[str, dict[str, CostRecord]]) -> str:
    """One sentence on what the probe found of merging, or on how to find it."""
    records = [run[name] for run in runs.values() if name in run]
    if not records and merges(name):
        return "Not yet in the published counts: `python -m bench run --suite smoke` checks it."
    merged: set[bool | None] = {r.merged_equals_base.all if r.merged_equals_base else None for r in records}
    (found,) = merged or {None}
    if found is None:
        return "There is nothing to compare: the method cannot be merged."
    same = "are those" if found else "are NOT those"
    return f"Checked in every run: the merged module's classes, shapes, operations and FLOPs {same} of the backbone."


def page(name: str, runs: dict[str, dict[str, CostRecord]]) -> str:
    """The page of one method."""
    cls = load_method(name)
    text = described(cls)
    parts = [f"# {name}", GENERATED, text.equation, f"Paper: {text.labelled['Paper']}", *text.notes]
    for label, heading in SECTIONS.items():
        parts += [f"## {heading}", _sentence(text.labelled[label])]
        if label == "Merging":
            parts.append(structure(name, runs))
    parts += ["## Counted cost", *_counted(name, runs)]
    rows = [[f"`{field}`", f"`{kind}`".replace("|", "\\|"), f"`{default}`", meaning]
            for field, kind, default, meaning in options(cls.Config)]  # fmt: skip
    head = ["option", "type", "default", "meaning"]
    parts += ["## Options", table(head, rows, len(head)) if rows else "None."]
    return "\n\n".join(parts) + "\n"


def _counted(name: str, runs: dict[str, dict[str, CostRecord]]) -> list[str]:
    """The counted figures and where they come from, or how to count them."""
    sources = ", ".join(f"[{run}](../../results/published/{run})" for run in runs if name in runs[run])
    if not sources:
        return [
            "Not yet in the published counts. Exact on any machine:",
            f"```\npython -m bench predict --backbone bert-base --method full,{name}\n```",
        ]
    shape = next(iter(runs[RUNS[0]].values())).shape
    return [cost(name, runs), f"Exact on any machine. {_form(shape)}; from {sources}."]


def index(runs: dict[str, dict[str, CostRecord]]) -> str:
    """The page that leads to the others."""
    rows = []
    for name in BUILTIN:
        paper = described(load_method(name)).labelled["Paper"].rstrip(".")
        if (record := runs[RUNS[0]].get(name)) is None:
            cells = ["not yet published", fmt.MISSING, fmt.MISSING, "yes" if merges(name) else "no"]
        else:
            own, full = figures(record), figures(runs[RUNS[0]]["full"])
            ratios = [fmt.ratio(own[row][0] / full[row][0], 3) for row in ("backward FLOPs", "peak memory of a step")]
            merged = record.merged_equals_base and record.merged_equals_base.all
            cells = [own["trainable params (excl. head)"][1], *ratios, "yes" if merged else "no"]
        rows.append([f"[{name}]({name}.md)", paper, *cells])
    head = ["method", "paper", "trainable params (excl. head)", "backward / full", "peak / full", "merges"]
    first = runs[RUNS[0]]["full"]
    assert first.backbone is not None
    where = f"{first.backbone.name}, {first.shape.batch} x {first.shape.length}"
    source = f"[{RUNS[0]}](../../results/published/{RUNS[0]})"
    again = "```\npython -m tools.method_pages docs/methods\n```"
    return "\n\n".join(
        [
            "# Methods",
            "Equation, parameters, what backward does, when to use it, counted cost and options of each method.",
            table(head, rows, 2),
            "Every other method of the `peft` library: [peft](../peft.md).",
            f"Counted on {where} tokens ({source}); exact on any machine.",
            "These pages are generated from the methods' docstrings and configurations and from committed records, and "
            "a test holds that they are up to date. To write them again:",
            again,
        ]
    ) + "\n"  # fmt: skip


def _form(shape: Shape) -> str:
    return f"Rows x tokens, {shape.dtype}, {shape.attention}, {shape.optimizer}, dropout {shape.dropout:g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def write(folder: Path) -> None:
    """Write every page and the index into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = quoted()
    for name in BUILTIN:
        (folder / f"{name}.md").write_text(page(name, runs), encoding="utf-8")
    (folder / "README.md").write_text(index(runs), encoding="utf-8")


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the pages, made where it is missing")
    given = parser.parse_args()
    try:
        write(given.folder)
    except BenchError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

"""Is LoRA's low-rank decomposition an SVD? Directions of what training adds, against those of the weight itself.

Trains full fine-tuning, LoRA and PiSSA with one recipe and compares the leading singular directions of every update
with those of the pretrained weight W_0, with those that full fine-tuning's update has, and with another seed's:

    python -m tests.evidence.update_directions results/published/update-directions --data DIR
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench import backbone, registry
from bench.anatomy import anatomy
from bench.cell import now
from bench.environment import environment
from bench.head import TaskModel, generator, make_head
from bench.jobs import Cell
from bench.method import Method
from bench.plan import make_plan
from bench.report.canvas import FAINT, INK, Sheet, Words, mark, new_figure, room_for, save, styled
from bench.report.canvas import rows as canvas_rows
from bench.report.looks import looks
from bench.score import Encoded
from bench.suite import parse_suite
from bench.tasks.sources import load_task
from bench.tokens import load_tokenizer
from bench.train import Recipe, train
from methods.linear import oriented

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEADING = 8
"""Directions that are compared: LoRA's rank."""
SUITE: dict[str, Any] = {
    "name": "update-directions",
    "question": "Does LoRA learn the singular directions of the weight, or those of full fine-tuning's update?",
    "backbone": {"name": "sentence-transformers/all-MiniLM-L6-v2",
                 "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"},
    "tasks": ["sst2"],
    "seeds": [0, 1, 2],
    "recipe": {"steps": 200, "batch_size": 8, "max_length": 64, "train_rows": 1600, "warmup": 0.1,
               "weight_decay": 0.01, "gradient_clip": 1.0},
    "method": [  # at the rates of the search of glue-real-minilm
        {"name": "full", "learning_rate": 2e-4, "head_learning_rate": 1e-2},
        {"name": "lora", "config": {"rank": 8}, "learning_rate": 1e-3, "head_learning_rate": 1e-2},
        {"name": "lora", "config": {"rank": 64}, "learning_rate": 1e-3, "head_learning_rate": 1e-2},
        {"name": "pissa", "config": {"rank": 8}, "learning_rate": 5e-3, "head_learning_rate": 1e-3},
    ],
}  # fmt: skip
ROLES = ("query", "value")
"""LoRA's targets: what full fine-tuning does to the other maps is not compared."""


@dataclasses.dataclass(frozen=True)
class Directions:
    """Leading singular directions of a matrix ``[out, in]``."""

    left: Tensor
    """``[out, LEADING]``, orthonormal columns."""
    right: Tensor
    """``[in, LEADING]``."""
    values: Tensor
    """All singular values, falling."""


def directions(matrix: Tensor, leading: int = LEADING) -> Directions:
    """Singular value decomposition of ``matrix``, in float64."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Directions(left[:, :leading], right[:leading].t(), values)


def overlap(first: Tensor, second: Tensor, leading: int = LEADING) -> float:
    """Share of one subspace that lies in the other: mean squared cosine of the principal angles.

    ``|U_1^T U_2|_F^2 / k`` of two matrices with k orthonormal columns, in [0, 1]: the similarity of Hu et al., 2022,
    section 7.2. Of two random subspaces of R^d it is k / d on average.
    """
    return float((first[:, :leading].t() @ second[:, :leading]).square().sum() / leading)


def smallest_angle(first: Tensor, second: Tensor) -> float:
    """The smallest principal angle between two subspaces, in degrees."""
    cosine = torch.linalg.svdvals(first.t() @ second)[0].clamp(max=1)
    return float(torch.rad2deg(torch.arccos(cosine)))


def maps(module: nn.Module) -> dict[str, Tensor]:
    """Copy of each compared weight ``[out, in]`` of a bare backbone by ``layer.role``."""
    return {
        f"{layer}.{projection.role}": oriented(base)[projection.rows(oriented(base).shape[0])].detach().clone()
        for layer, projection in anatomy(module).projections(ROLES)
        for base in [module.get_submodule(projection.path)]
    }


def update(cell: Cell) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train ``cell``; the pretrained weights and what training added to each, by map."""
    recipe = cell.recipe
    data = load_task(cell.task.name, cell.source, recipe["train_rows"], 32, None)
    method, config = registry.make(cell.method.name, cell.method.config)
    bare = backbone.load(cell.backbone, seed=cell.seed)
    before = maps(bare)
    head = make_head(bare, 2, pooling=recipe["pooling"], dropout=recipe["head_dropout"], dense=False, seed=cell.seed)
    torch.manual_seed(generator(cell.seed, "method").initial_seed())
    model = TaskModel(method.apply(bare, config), head)
    tokenizer = load_tokenizer(cell.backbone.folder, bare.config.vocab_size)  # type: ignore[union-attr]
    rows = Encoded(data.train, tokenizer, recipe["max_length"], regression=False, device="cpu")
    torch.manual_seed(generator(cell.seed, "dropout").initial_seed())
    values = {field: recipe[field] for field in Recipe.__dataclass_fields__ if field in recipe}
    train(model, method, model.body, rows.shuffled(recipe["batch_size"], cell.seed), Recipe(**values))
    after = maps(merged(method, model.body))
    return before, {name: after[name] - weight for name, weight in before.items()}


def merged(method: Method, body: nn.Module) -> nn.Module:
    """The trained backbone in its own structure."""
    folded = method.merge(method.finalize(body))
    assert folded is not None, "every method of the suite merges"
    return folded


def compared(
    found: dict[tuple[str, int], dict[str, Directions]], start: dict[str, Directions], norms: dict[Any, float]
) -> Iterator[dict[str, Any]]:
    """One row a method, seed and map."""
    seeds = sorted({seed for _, seed in found})
    for (label, seed), by_map in found.items():
        other = seeds[(seeds.index(seed) + 1) % len(seeds)]
        for name, mine in by_map.items():
            energy = mine.values.square()
            full, again = found["full", seed][name], found[label, other][name]
            yield {
                "method": label, "seed": seed, "map": name,
                "relative_norm": norms[label, seed, name],
                "stable_rank": float(energy.sum() / energy[0]),
                "share_of_leading": float(energy[:LEADING].sum() / energy.sum()),
                "with_weight": overlap(mine.left, start[name].left),
                "with_weight_first": overlap(mine.left, start[name].left, 1),
                "angle_to_weight": smallest_angle(mine.left, start[name].left),
                "with_full": overlap(mine.left, full.left),
                "with_full_first": overlap(mine.left, full.left, 1),
                "angle_to_full": smallest_angle(mine.left, full.left),
                "with_other_seed": overlap(mine.left, again.left),
            }  # fmt: skip


def measure(data: str) -> dict[str, Any]:
    """Train every cell and compare the directions of what it learned."""
    plan = make_plan(parse_suite(SUITE | {"data": data}, __file__), __file__, "cpu", print)
    found: dict[tuple[str, int], dict[str, Directions]] = {}
    norms, start, started = {}, {}, now()
    for number, cell in enumerate(plan.cells, start=1):
        before, added = update(cell)
        place = (cell.method.label, cell.seed)
        start = start or {name: directions(weight) for name, weight in before.items()}
        found[place] = {name: directions(matrix) for name, matrix in added.items()}
        norms |= {(*place, name): float(added[name].norm() / weight.norm()) for name, weight in before.items()}
        print(f"{number}/{len(plan.cells)} {cell.name}", flush=True)
    task = plan.cells[0].task
    width = next(iter(start.values())).left.shape[0]
    return {
        "suite": SUITE, "source": task.source, "content_sha256": task.content_sha256,
        "started": started, "ended": now(),
        "environment": environment(), "leading": LEADING, "width": width, "by_chance": LEADING / width,
        "rows": list(compared(found, start, norms)),
    }  # fmt: skip


def drawn(result: dict[str, Any]) -> "Figure":
    """Overlap of each method's update with the weight, with full fine-tuning's update and with another seed's."""
    import pandas as pd

    rows = pd.DataFrame(result["rows"])
    labels = list(dict.fromkeys(rows["method"]))
    chosen, panels = looks(labels, "full"), {
        "with_weight": "with W_0", "with_full": "with full's update", "with_other_seed": "with another seed's",
    }  # fmt: skip
    sheet = Sheet(0.34 * len(labels) + 0.2, left=room_for(chosen, labels), widths=(1.0,) * 3, above=0.32)
    leading, maps_, seeds = result["leading"], rows["map"].nunique(), rows["seed"].nunique()
    words = Words(
        "Directions of what training adds to a weight",
        f"Share of the {leading} leading left singular directions of each update that lies in those of the other "
        f"matrix. A dot is one of {maps_} weights and {seeds} seeds, the mark their mean; dashed: two random "
        f"subspaces ({result['by_chance']:.3f}).",
        f"update-directions · all-MiniLM-L6-v2 · query and value · sst2 ({result['source']})",
        ("measured · this machine",),
    )
    figure, axes = new_figure(words, sheet)
    for at, (column, title) in zip(axes, panels.items(), strict=True):
        heights = canvas_rows(at, chosen, labels, named=at is axes[0])
        for y, label in zip(heights, labels, strict=True):
            values = rows.loc[rows["method"] == label, column]
            at.plot(values, [y] * len(values), "o", color=chosen[label].colour, markersize=3, alpha=0.25)
            mark(at, values.mean(), y, chosen[label])
        at.axvline(result["by_chance"], color=FAINT, linestyle="--", linewidth=1)
        at.set_xlim(-0.04, 1.04)
        at.set_title(title, fontsize=8.5, color=INK)
    return figure


def main() -> None:
    """Measure and write ``directions.json`` and its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="auto", help="auto, hub, synthetic or a folder")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    result = measure(given.data)
    (given.folder / "directions.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with styled():
        save(drawn(result), given.folder / "plots", "overlap")


if __name__ == "__main__":
    main()

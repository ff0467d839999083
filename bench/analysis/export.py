"""Builds one wide table of a run for other programs: a row per method and shape, point of a sweep, task, reading."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.analysis.costs import counted_row
from bench.errors import BenchError
from bench.schema.figures import GENERATION, exported
from bench.schema.record import Shape, Tuning

if TYPE_CHECKING:
    from bench.analysis.results import Results

SHAPE = (
    *("batch", "length", "dtype", "device", "attention", "optimizer", "dropout", "threads"),
    *("checkpointing", "compiled", "weights", "clipping", "objective", "loss", "target_tokens", "adapter_dtype"),
)
"""Fields of a shape in the order of the columns, which other programs may count on."""


def figure_table(results: "Results") -> pd.DataFrame:
    """All figures of a run in SI base units, scores in points of 100; the unit stands in the column's name.

    Returns:
        One row per method and shape (``kind`` cost), its form, context and batch of writing (generation), point of a
        sweep (count), task (score, reach), reading on the way (curve), part and first step (gradient) or alone
        (standing). ``suite kind method status``, the shape, ``sweep
        vary value``, ``task``, then the figures. A figure that a row lacks is missing, never 0; a column that no row
        fills is left out.

    Raises:
        BenchError: The run holds no record, or its records cannot stand in one table.
    """
    run = results.run
    if not run.records:
        raise BenchError(f"{run.folder}: holds no record; finish the run first: {run.command}")
    table = _joined(
        cost_figures(results), _written(results), _counts(results), score_figures(results), _standing(results),
        _curves(results), _reach(results), _gradients(results),
    )  # fmt: skip
    table.insert(0, "suite", run.suite.name)
    return table


def cost_figures(results: "Results") -> pd.DataFrame:
    """The rows of `figure_table` whose kind is cost, one per method and shape; whole numbers stay whole."""
    return _joined(*(_costs(results, shape) for shape in results.shapes))


def score_figures(results: "Results") -> pd.DataFrame:
    """The rows of `figure_table` whose kind is score, one per method and task; whole numbers stay whole."""
    return _joined(_scores(results))


def _joined(*parts: pd.DataFrame) -> pd.DataFrame:
    """The rows of all parts, first what they are of; a column that no row fills is left out."""
    filled = [part.dropna(axis="columns", how="all") for part in parts if not part.empty]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=["kind", "method", "status"])
    first = ["kind", "method", "status", *SHAPE, "sweep", "vary", "value", "task"]
    return table[[name for name in first if name in table] + [name for name in table if name not in first]]


def _costs(results: "Results", shape: Shape) -> pd.DataFrame:
    table = results.cost_table(shape)
    table = table[table["status"].notna()].rename(columns=exported)
    return table.assign(kind="cost", **shape.model_dump()).reset_index()


def _written(results: "Results") -> pd.DataFrame:
    """What writing takes; ``batch`` and ``length`` are of the training step, ``generation_rows`` are written."""
    names = {"context": "context_tokens", "batch": "generation_rows"}
    names |= {f"{phase}_depth": f"{phase}_depth_operations" for phase in GENERATION}
    names |= {f"{phase}_{end}": f"{phase}_ratio_{end}" for phase in GENERATION for end in ("low", "high")}
    tables = (
        results.generation_table(shape)
        .rename(columns=names)
        .assign(kind="generation", status="ok", **shape.model_dump())
        for shape in results.shapes
    )
    return _joined(*tables)


def _counts(results: "Results") -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for record in results.count_records:
        row: dict[str, Any] = {
            "kind": "count",
            "method": record.method.label,
            "status": record.status,
            "sweep": record.sweep,
        }
        row |= {"vary": record.vary, "value": record.value, "delta_bytes": record.delta_bytes}
        row |= record.shape.model_dump()
        row |= {exported(name): value for name, value in counted_row(record).items() if value is not None}
        rows.append(row)
    return pd.DataFrame(rows)


def _scores(results: "Results") -> pd.DataFrame:
    single = results.task_table
    if single.empty:
        return pd.DataFrame()
    by_row = results.paired_rows.table[["rows", "low", "high", "only_baseline", "only_method", "p"]]
    by_row.columns = pd.Index(OVER_ROWS)
    points = ("mean", "low", "high", "difference", "difference_low", "difference_high")
    names = {name: f"score_{name}_points" for name in points} | {"n": "seeds", "floor": "bag_of_words_points"}
    table = single.rename(columns=names).join(by_row).reset_index()
    table["flags"] = table["flags"].map(" ".join)
    failed: dict[tuple[str, str], int] = {}
    searched: dict[str, dict[str, int | str | None]] = {}
    for record in results.score_records:
        if record.status != "ok":
            failed[record.method.label, record.task_name] = failed.get((record.method.label, record.task_name), 0) + 1
        elif record.tuning is not None:
            searched[record.method.label] = record.tuning.model_dump()
    table["failed_cells"] = [failed.get(key, 0) for key in zip(table["method"], table["task"], strict=True)]
    for field in Tuning.model_fields:
        table[f"search_{field}"] = [searched.get(label, {}).get(field) for label in table["method"]]
    numbers = [field for field in Tuning.model_fields if field != "task"]
    return table.assign(kind="score", status="ok").astype({f"search_{field}": float for field in numbers})


OVER_ROWS = (
    *("test_rows", "difference_over_rows_low_points", "difference_over_rows_high_points"),
    *("only_baseline_right_rows", "only_method_right_rows", "mcnemar_p"),
)


def _standing(results: "Results") -> pd.DataFrame:
    """Each method among all: mean score, rank, chance to be the best, and why it carries no verdict."""
    found = results.fronts([])
    if not found.seeds:
        return pd.DataFrame()
    table = found.table[found.table["compared"]].drop(columns=["compared", "why"])
    whole = results.score_table
    table = table.rename(columns={"best": "best_probability", "rank": "average_rank"})
    table = table.join(whole[["mean", "mean_low", "mean_high"]].add_prefix("score_").add_suffix("_points"))
    table["no_verdict_because"] = whole["why"].map("; ".join)
    return table.rename_axis("method").reset_index().assign(kind="standing", status="ok")


def _curves(results: "Results") -> pd.DataFrame:
    names = {"n": "seeds", "step": "training_steps", "seconds": "training_seconds", "flops": "training_flops",
             "loss": "training_loss", "score": "score_mean_points", "low": "score_low_points",
             "high": "score_high_points"}  # fmt: skip
    table = results.curve_table.reset_index().rename(columns=names)
    return table.assign(kind="curve", status="ok")


def _reach(results: "Results") -> pd.DataFrame:
    names = {"target": "target_points", "reached": "reached_seeds", "step": "training_steps",
             "seconds": "training_seconds", "flops": "training_flops", "peak_bytes": "peak_step_bytes",
             "why": "no_verdict_because"}  # fmt: skip
    table = results.reached.table.reset_index().rename(columns=names)
    table["no_verdict_because"] = table["no_verdict_because"].map("; ".join)
    return table.assign(kind="reach", status="ok")


def _gradients(results: "Results") -> pd.DataFrame:
    names = {"n": "seeds", "step": "training_steps", "mean": "gradient_norm_mean", "low": "gradient_norm_smallest",
             "high": "gradient_norm_largest", "loss": "loss_at_step_0"}  # fmt: skip
    starts = results.start_table["loss"]
    table = results.gradient_table.join(starts).reset_index().rename(columns=names)
    return table.assign(kind="gradient", status="ok")

"""Turns a suite into the plan of its search for learning rates: the same trials for every method."""

import itertools
from collections.abc import Callable
from typing import Any

from bench.errors import BenchError
from bench.plan.identity import identity
from bench.plan.planner import make_plan
from bench.schema.jobs import Cell, Plan
from bench.schema.suite import RecipeValues, Suite
from bench.schema.tuning import TuningTable, required


def plan_search(suite: Suite, where: str, device: str, progress: Callable[[str], None] = lambda line: None) -> Plan:
    """Plan every trial: each rate and head rate of the grid for each method, task and seed, and nothing else.

    All methods come to a pair of rates before the next pair begins, so that a search that is cut short has given them
    alike. The rates that the suite has now decide nothing: a search stands when its result is written into the suite.

    Args:
        suite: A checked suite.
        where: Its file, for error messages.
        device: ``cpu`` or ``cuda``.
        progress: Called with one line a stage.

    Raises:
        BenchError: The suite has no grid, or what it names does not exist or does not fit.
    """
    table = required(suite.tuning, where)
    if table.task is not None and table.task not in suite.tasks:
        raise BenchError(f"{where} searches for rates on {table.task} alone; omit --tasks, or include it there")
    plan = make_plan(_bare(suite, table), where, device, progress, trials=True)
    cells = tuple(_at(cell, *rates) for rates, cell in itertools.product(table.grid, plan.cells))
    return Plan(
        suite=plan.suite.changed(tuning=table.model_dump(mode="json", exclude_none=True)),
        probes=(),
        cells=cells,
    )


def _bare(suite: Suite, table: TuningTable) -> Suite:
    """The suite with nothing to do but the trials, at no rates yet; a budget of memory still needs its cost shape."""
    assert suite.recipe is not None, "a suite with a [tuning] table has tasks, one with tasks has a recipe"
    decided: dict[str, Any] = dict.fromkeys(
        ("learning_rate", "head_learning_rate", "test_rows", "curve_points", "gradient_norms", "directions")
    )
    if table.steps is not None:
        decided |= {"steps": None, "epochs": None}
    cut = {"selection_rows": table.selection_rows} | ({"steps": table.steps} if table.steps is not None else {})
    by_task: dict[str, RecipeValues] = {
        name: values.model_copy(update=decided | {"selection_rows": None}) for name, values in suite.recipe.task.items()
    }
    bare = {"learning_rate": None, "head_learning_rate": None, "tuning": None}
    return suite.model_copy(
        update={
            "tasks": suite.tasks if table.task is None else (table.task,),
            "seeds": table.seeds, "sweep": (), "crossover": (), "claim": (),
            "method": tuple(method.model_copy(update=bare) for method in suite.method),
            "recipe": suite.recipe.model_copy(update=decided | cut | {"task": by_task}),
        }
    )  # fmt: skip


def _at(cell: Cell, learning_rate: float, head_learning_rate: float) -> Cell:
    """The trial of ``cell`` at these rates."""
    rates = {"learning_rate": learning_rate, "head_learning_rate": head_learning_rate}
    draft = cell.model_copy(update={"id": "", "recipe": cell.recipe | rates})
    return draft.model_copy(update={"id": identity(draft)})

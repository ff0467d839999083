"""Synthetic stand-ins for five GLUE tasks, drawn from grammars with a fixed seed."""

import functools
import random

from bench.errors import BenchError
from bench.tasks.grammars import GRAMMARS, Split
from bench.tasks.rows import Rows

SYNTHETIC_TASKS = tuple(GRAMMARS)
"""Tasks that have a grammar."""

TRAIN_ROWS = 4000
"""Rows of every training pool."""
TEST_ROWS = 800
"""Rows of every test pool."""


def require_synthetic(names: tuple[str, ...], why: str = "") -> None:
    """Refuse tasks that have no synthetic stand-in; ``why`` says what made the data synthetic.

    Raises:
        BenchError: Names the tasks without one and the ``--tasks`` line that works.
    """
    missing = [name for name in names if name not in SYNTHETIC_TASKS]
    if missing:
        ready = [name for name in names if name in SYNTHETIC_TASKS] or list(SYNTHETIC_TASKS)
        raise BenchError(
            f"data is synthetic{f' ({why})' if why else ''} and {', '.join(missing)} has no synthetic stand-in; "
            f"use --tasks {','.join(ready)}, or real data with --data DIR"
        )


@functools.lru_cache(maxsize=2 * len(SYNTHETIC_TASKS))
def rows(name: str, split: Split) -> Rows:
    """All rows of one split of synthetic task ``name``: balanced over labels, no row twice, the same on every machine.

    Raises:
        BenchError: The task has no synthetic stand-in.
    """
    require_synthetic((name,))
    grammar = GRAMMARS[name]
    rng = random.Random(f"peft-ledger {name} {split}")  # a text seed is hashed with sha512: equal on every platform
    lexicon, wanted = grammar.lexicon(split), TRAIN_ROWS if split == "train" else TEST_ROWS
    found: dict[tuple[str, ...], int | float] = {}
    while len(found) < wanted:
        label = grammar.labels[len(found) % len(grammar.labels)]
        found.setdefault(grammar.draw(rng, lexicon, label), label)
    return Rows(tuple(found), tuple(found.values()))

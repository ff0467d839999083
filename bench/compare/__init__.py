"""Lifts records into tables that people and checks read; measures nothing, formats nothing, decides no verdict."""

from bench.compare.costs import BATCHES, MERGE_TYPES, MODES, PHASES, QUIET, controls, cost_shapes, cost_table
from bench.compare.records import cost_records, count_records, failures, latest, score_records
from bench.compare.scores import MIN_SEEDS, cells, floors, per_task, score_table
from bench.compare.standing import FEWEST_SEEDS, RESAMPLES, Fronts, fronts, method_cost

__all__ = [
    "BATCHES",
    "FEWEST_SEEDS",
    "MERGE_TYPES",
    "MIN_SEEDS",
    "MODES",
    "PHASES",
    "QUIET",
    "RESAMPLES",
    "Fronts",
    "cells",
    "controls",
    "cost_records",
    "cost_shapes",
    "cost_table",
    "count_records",
    "failures",
    "floors",
    "fronts",
    "latest",
    "method_cost",
    "per_task",
    "score_records",
    "score_table",
]

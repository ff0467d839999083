"""Lifts records into tables that people and checks read; measures nothing, formats nothing, decides no verdict."""

from bench.compare.costs import BATCHES, MERGE_TYPES, MODES, PHASES, QUIET, controls, cost_shapes, cost_table
from bench.compare.records import cost_records, count_records, failures, latest, score_records
from bench.compare.scores import MIN_SEEDS, cells, floors, per_task, score_table

__all__ = [
    "BATCHES",
    "MERGE_TYPES",
    "MIN_SEEDS",
    "MODES",
    "PHASES",
    "QUIET",
    "cells",
    "controls",
    "cost_records",
    "cost_shapes",
    "cost_table",
    "count_records",
    "failures",
    "floors",
    "latest",
    "per_task",
    "score_records",
    "score_table",
]

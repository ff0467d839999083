"""Lifts records into tables that people and checks read; measures nothing, formats nothing, decides no verdict."""

from bench.analysis.costs import (
    BATCHES,
    INFERENCE,
    MERGE_TYPES,
    MODES,
    PHASES,
    QUIET,
    controls,
    cost_shapes,
    cost_table,
    measured_batches,
    peak_column,
)
from bench.analysis.curves import NEAR, SPENT, Reached, curve_table, reached
from bench.analysis.directions import direction_table
from bench.analysis.gradients import gradient_table, start_table
from bench.analysis.inference import latency_table
from bench.analysis.over_rows import PairedRows, paired_rows
from bench.analysis.ranking import FEWEST_SEEDS, RESAMPLES, Fronts, fronts, method_cost
from bench.analysis.records import cost_records, count_records, failures, latest, score_records
from bench.analysis.scores import MIN_SEEDS, cells, floors, per_task, score_table, training_doubts_of
from bench.analysis.work import training_flops

__all__ = [
    "BATCHES",
    "FEWEST_SEEDS",
    "INFERENCE",
    "MERGE_TYPES",
    "MIN_SEEDS",
    "MODES",
    "NEAR",
    "PHASES",
    "QUIET",
    "RESAMPLES",
    "SPENT",
    "Fronts",
    "PairedRows",
    "Reached",
    "cells",
    "controls",
    "cost_records",
    "cost_shapes",
    "cost_table",
    "count_records",
    "curve_table",
    "direction_table",
    "failures",
    "floors",
    "fronts",
    "gradient_table",
    "latency_table",
    "latest",
    "measured_batches",
    "method_cost",
    "paired_rows",
    "peak_column",
    "per_task",
    "reached",
    "score_records",
    "score_table",
    "start_table",
    "training_doubts_of",
    "training_flops",
]

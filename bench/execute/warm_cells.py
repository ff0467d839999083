"""Preloaded by the fork server of a plan with cells: data, tokenizers and metrics."""

import gc

import datasets  # noqa: F401
import evaluate  # noqa: F401
import sklearn.metrics  # noqa: F401
from transformers import AutoTokenizer  # noqa: F401

import bench.tasks.metrics
import bench.training.cell
import bench.training.evaluate
import bench.training.loop  # noqa: F401

gc.freeze()

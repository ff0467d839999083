"""Imported once by the fork server, so that each worker starts with every heavy import already done."""

import os

import datasets  # noqa: F401
import evaluate  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
import transformers.models.auto.modeling_auto as auto
from transformers import AutoConfig, AutoTokenizer  # noqa: F401

import bench.cell
import bench.probe
import bench.score
import bench.tasks.metrics
import bench.train  # noqa: F401

# Threads that live in the server would be lost by the fork: the server itself must never start an OpenMP pool.
torch.set_num_threads(1)

if model_type := os.environ.get("BENCH_WARM_MODEL_TYPE"):
    config = type(AutoConfig.for_model(model_type))
    table = auto.MODEL_FOR_TEXT_ENCODING_MAPPING if model_type == "t5" else auto.MODEL_MAPPING
    table[config]  # imports the backbone's modelling file

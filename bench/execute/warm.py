"""Preloaded by the fork server for every worker."""

import gc
import os

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask whether there is CUDA must not begin it: we fork

import torch
import transformers.models.auto.modeling_auto as auto
from transformers import AutoConfig

from bench.execute.fork_server import outlive_the_run  # also what every worker imports as it starts

outlive_the_run()

# Threads that live in the server would be lost by the fork: the server itself must never start an OpenMP pool.
torch.set_num_threads(1)

if model_type := os.environ.get("BENCH_WARM_MODEL_TYPE"):
    config = type(AutoConfig.for_model(model_type))
    table = auto.MODEL_FOR_TEXT_ENCODING_MAPPING if model_type in ("t5", "mt5") else auto.MODEL_MAPPING
    table[config]  # imports the backbone's modelling file

if os.environ.get("BENCH_WARM_CELLS"):  # data, tokenizers and metrics, which no probe needs
    import datasets  # noqa: F401
    import evaluate  # noqa: F401
    import sklearn.metrics  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401

    import bench.training.cell
    import bench.training.evaluate
    import bench.training.loop  # noqa: F401

gc.freeze()  # workers share these pages for as long as no collection of theirs goes through them

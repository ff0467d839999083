"""Settings that every test shares: offline, quiet, two threads at most."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)  # a time limit per example would only measure the neighbours
settings.load_profile("shared-machine")


def pytest_collection_finish():
    """What is loaded now stays to the end: no collection of garbage, of which timings make many, goes through it."""
    gc.collect()
    gc.freeze()

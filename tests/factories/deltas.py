"""Made-up descriptions of kept deltas, right in shape and invented in value; runs that have kept what they trained."""

from transformers import AutoModelForMaskedLM

from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.delta import Delta
from bench.schema.jobs import sha256_of
from bench.store import kept
from bench.store.kept import Keep
from bench.store.store import open_store
from bench.training.cell import run_cell
from tests.models.test_weights import TINY, save, words

SUITE = """
question = "What is exported?"
baseline = "full"
tasks = ["sst2", "stsb"]
seeds = [0, 1]
data = "synthetic"
[backbone]
name = "./mine"
weights = "pretrained"
[recipe]
steps = 2
batch_size = 4
max_length = 12
train_rows = 32
test_rows = 16
"""


def delta(label="lora(rank=8)", task="sst2", seed=0, score=0.7, **changes):
    """The description of one delta."""
    values = {
        "cell": f"{seed:064x}", "suite": "smoke", "suite_sha256": "b" * 64,
        "method": {"label": label, "name": label.partition("(")[0], "config": {"rank": 8}, "class": "methods.lora:LoRA",
                   "distribution": "peft-ledger", "version": "0"},
        "base": {"name": "tiny", "weights": "random", "seed": seed},
        "head": {"pooling": "mean", "dense": False, "outputs": 2},
        "task": task, "text": ("sentence",), "labels": ("negative", "positive"), "max_length": 24, "seed": seed,
        "recipe": {"steps": 5},
        "score": {"metric": "accuracy", "value": score, "rows": "test", "test": score},
    }  # fmt: skip
    return Delta.model_validate(values | changes)


def kept_run(place, methods=("full", "lora(rank=2)"), **narrowed):
    """The folder of a run of ``methods`` on ``place / "mine"``, laid there if missing, with all that it trained."""
    if not (place / "mine").exists():
        save(place / "mine", "bert", TINY, AutoModelForMaskedLM)
        words(place / "mine", 60)
    tables = "".join(f'[[method]]\nname = "{name.partition("(")[0]}"\nconfig = {_config(name)}\n' for name in methods)
    (place / "suite.toml").write_text(SUITE + tables)
    asked = Selection(**({"tasks": ("sst2",), "seeds": (0,)} | narrowed))
    plan = make_plan(select(load_suite(str(place / "suite.toml")), asked), "suite.toml", "cpu")
    keep = Keep(place / "run", "all", sha256_of(plan.suite.plain()))
    with open_store(keep.folder, plan.suite) as store:
        for cell in plan.cells:
            record, sidecars = run_cell(cell, keep=keep)
            kept.land(keep.folder, cell.id)
            store.append(record, sidecars)
    return keep.folder


def _config(name):
    inner = name.partition("(")[2].removesuffix(")")
    return f"{{ {inner.replace('=', ' = ')} }}" if inner else "{ }"

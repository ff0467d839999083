"""Made-up descriptions of kept deltas: right in shape, invented in value."""

from bench.schema.delta import Delta


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

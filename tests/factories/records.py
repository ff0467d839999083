"""Deterministic records of a plausible run, for tests of readers: right in shape, invented in value."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bench.analysis.results import Results
from bench.schema.figures import FIGURES
from bench.schema.record import CostRecord, CountRecord, Record, ScoreRecord
from bench.schema.resolved import ResolvedSuite
from bench.stats.intervals import block_bootstrap_ratio
from bench.store.store import Run

LABELS = {
    # label: trained, backward / full, time / full, peak MB, points below full, latency, merges
    "full": (22_565_376, 1.0, 1.0, 512, 0.0, 1.0, True),
    "head": (0, 0.00001, 0.002, 95, -6.1, 1.0, True),
    "bitfit": (25_728, 0.50, 0.56, 290, -1.5, 1.0, True),
    "houlsby_adapter": (598_272, 0.55, 0.62, 330, -0.7, 1.12, False),
    "pfeiffer_adapter": (224_000, 0.52, 0.58, 310, -0.8, 1.07, False),
    "parallel_adapter": (224_000, 0.52, 0.59, 312, -0.9, 1.06, False),
    "prefix_tuning": (92_160, 0.50, 0.57, 322, -3.0, 1.05, False),
    "p_tuning_v2": (92_160, 0.50, 0.57, 323, -2.6, 1.05, False),
    "prompt_tuning": (7_680, 0.66, 0.73, 400, -4.9, 1.3, False),
    "p_tuning": (900_000, 0.67, 0.75, 405, -4.5, 1.3, False),
    "lora(rank=8)": (73_728, 0.51, 0.57, 301, -0.6, 1.02, True),
    "ia3": (13_824, 0.50, 0.56, 300, -2.2, 1.04, True),
    "lst(reduction=8)": (318_000, 0.027, 0.07, 118, -2.9, 1.25, False),
}
ENVIRONMENT = {
    "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
    "hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_bytes": 8_000_000_000, "gpus": []},
    "threads": 2,
    "fingerprint": "aaaabbbbcccc",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}
FULL_BACKWARD = 34_000_000_000


def common(label: str, *, weights: str = "pretrained", environment: dict | None = None) -> dict:
    """Fields that every record has."""
    pretrained = weights == "pretrained"
    return {
        "suite": "glue-small",
        "status": "ok",
        "backbone": {
            "name": "sentence-transformers/all-MiniLM-L6-v2", "revision": "1110a243" if pretrained else None,
            "sha256": "53aa" if pretrained else None, "parameters": 22_565_376, "weights": weights,
            "notes": ["trained on SNLI, MultiNLI and QQP"] if pretrained else [],
        },
        "method": {"label": label, "name": label.partition("(")[0], "config": {"rank": 8}, "class": "methods.x:X",
                   "distribution": "peft-ledger", "version": "0.1.0"},
        "environment": environment or ENVIRONMENT,
        "started": "2026-01-01T00:00:00Z",
        "ended": "2026-01-01T00:01:00Z",
        "flags": [] if pretrained else ["random_weights"],
    }  # fmt: skip


def timing(rng: np.random.Generator, base: float, ratio: float, blocks: int = 6) -> dict:
    """A timed quantity with block noise, its ratio computed by the project's own statistics."""
    luck = np.random.default_rng(blocks).normal(0, 0.1, (blocks, 4))  # of the rounds: the same for every method
    shared = base * np.exp(luck)
    noise = rng.normal(0, 0.006, (blocks, 1)) + rng.normal(0, 0.01, (blocks, 4))
    samples = shared * ratio * np.exp(noise)
    value, interval = block_bootstrap_ratio(samples, shared, resamples=200)
    median = float(np.median(samples))
    return {"median": median, "p95": float(np.quantile(samples, 0.95)), "samples": samples.tolist(),
            "cpu_median": median, "ratio_to_baseline": value, "ratio_interval": interval}  # fmt: skip


def flops(backward: float, label: str) -> dict:
    """FLOPs by owner and by layer; a side network has none in the backbone's layers."""

    def owners(back: float) -> dict:
        back = int(back)
        return {"forward": 17_000_000_000, "backward": back, "backward_weight_gradient": back // 2,
                "backward_input_gradient": back - back // 2, "backward_attention": 0}  # fmt: skip

    whole = owners(backward * FULL_BACKWARD)
    depth = ["embeddings", *(f"layer_{i}" for i in range(1, 7)), "head"]
    share = {name: owners(0 if name == "embeddings" else backward * FULL_BACKWARD / 6) for name in depth}
    if label == "head":
        share = {name: owners(8192 if name == "head" else 0) for name in depth}
    else:
        share["head"] = owners(8192)
    return whole | {"backbone": owners(0), "method": whole, "head": owners(8192), "by_layer": share}


def traffic(trained: int) -> dict:
    """Bytes moved, by phase and by owner; fused AdamW reads four numbers of each that trains and writes three."""
    none, all_of_it = {"forward": 0, "backward": 0}, {"forward": 900_000_000, "backward": 1_400_000_000}
    step = sum(all_of_it.values()) + 28 * trained
    return {**all_of_it, "optimizer": 28 * trained, "step": step, "backbone": none, "method": all_of_it, "head": none}


def inference(latency: float, merges: bool) -> dict:
    """What one inference takes; a method that is slower than the base takes more operations, one after the other."""
    base = {"operations": 87, "depth": 69, "flops": 680_000_000}
    unmerged = {name: round(value * latency) for name, value in base.items()}
    return {"base": base, "unmerged": unmerged, "merged": base if merges else None}


def writing(latency: float, merges: bool, contexts: tuple = (32, 512), batches: tuple = (1, 8)) -> dict:
    """Fields of a cost record that a probe with generation fills; a token takes 3 ms behind 32, 4 ms behind 512."""
    rng = np.random.default_rng(round(1e3 * latency))

    def modes(make) -> dict:
        of = {mode: {f"context_{at}": make(at, share) for at in contexts}
              for mode, share in (("base", 1.0), ("unmerged", latency))}  # fmt: skip
        return of | {"merged": of["base"] if merges else None}

    def counts(tokens: int, share: float) -> dict:
        return {"operations": round(161 * share), "depth": round(112 * share), "flops": round(1e6 * tokens * share)}

    def size(at: int, share: float) -> dict:
        return {"bytes": round(1024 * at * share), "bytes_per_token": round(1024 * share)}

    def times(seconds: float) -> dict:
        def one(at: int, share: float) -> dict:
            return {f"batch_{rows}": timing(rng, seconds * (1 + at / 1536) * rows**0.5, share) for rows in batches}

        return modes(one)

    places = [f"context_{at}_batch_{rows}" for at in contexts for rows in batches]
    return {
        "prefill": modes(counts), "decode": modes(lambda at, share: counts(1, share)), "kv_cache": modes(size),
        "prefill_seconds": times(0.04), "decode_seconds": times(0.003), "new_tokens": 16,
        "aa_control": {f"{phase}_{place}": {"ratio": 1.001, "interval": (0.99, 1.01)}
                       for phase in ("prefill", "decode") for place in places},
    }  # fmt: skip


_COSTS: dict[str, CostRecord] = {}


def cost(label: str, *, seed: int = 0, noise: float = 0.002, shape: dict | None = None, **changes) -> CostRecord:
    """The cost of one method; the same one is made once."""
    key = repr((label, seed, noise, shape, changes))
    if key not in _COSTS:
        _COSTS[key] = _cost(label, seed, noise, shape, changes)
    return _COSTS[key]


def _cost(label: str, seed: int, noise: float, shape: dict | None, changes: dict) -> CostRecord:
    trained, counted, timed, peak, _, latency, merges = LABELS.get(label, LABELS["lora(rank=8)"])
    rng = np.random.default_rng([seed, sum(label.encode())])
    base = {name: timing(rng, seconds, 1.0) for name, seconds in (("batch_1", 0.009), ("batch_32", 0.19))}
    unmerged = {name: timing(rng, seconds, latency) for name, seconds in (("batch_1", 0.009), ("batch_32", 0.19))}
    same = {"modules": True, "parameters": True, "op_trace": True, "flops": True}
    controlled = ("forward", "backward", "optimizer", "step", "latency_batch_1", "latency_batch_32")
    interval = (1.002 - 3 * noise, 1.002 + 3.5 * noise)
    control = {name: {"ratio": 1.002, "interval": interval} for name in controlled}
    peak *= 1_000_000
    values = common(label) | {
        "id": f"cost-{label}-{shape}",
        "kind": "cost",
        "baseline": "full",
        "shape": {"batch": 32, "length": 64, "dtype": "float32", "device": "cpu", "attention": "sdpa",
                  "optimizer": "adamw_fused", "dropout": 0.0, "threads": 2} | (shape or {}),
        "trainable_parameters": {"method": trained, "head": 770},
        "delta_bytes": 4 * trained,
        "flops": flops(counted, label),
        "traffic_bytes": traffic(trained),
        "bytes": {"weights": 90_261_504, "gradients": 4 * trained, "optimizer_state": 8 * trained,
                  "saved_activations": peak // 2},
        "peak_memory_bytes": {"forward": peak - 9, "backward": peak, "optimizer": peak // 2, "step": peak},
        "peak_memory_source": "tracker",
        "forward_seconds": timing(rng, 0.269, latency),
        "backward_seconds": timing(rng, 0.51, timed),
        "optimizer_seconds": timing(rng, 0.011, max(0.01, trained / 22_565_376)),
        "step_seconds": timing(rng, 0.79, 0.34 + 0.65 * timed),
        "latency_seconds": {"base": base, "unmerged": unmerged, "merged": base if merges else None},
        "latency_length": 32,
        "inference": inference(latency, merges),
        "aa_control": control,
        "merged_equals_base": same if merges else None,
        "merge_error": {"float32": 2.6e-8} if merges else None,
        "switch_seconds": 0.0021,
    }  # fmt: skip
    others = {figure.path for figure in FIGURES if figure.kind == "counted" and figure.group and "." not in figure.path}
    values = dict.fromkeys(others, 1) | values | changes
    peaks = [values.get(name) for name in ("peak_memory_bytes", "predicted_peak_memory_bytes")]
    if values["bytes"] is not None:  # a test's invented peak holds the weights too
        least = min(dict(peak)["step"] for peak in [*peaks, {"step": 90_261_504}] if peak is not None)
        values["bytes"] = dict(values["bytes"]) | {"weights": min(dict(values["bytes"])["weights"], least)}
    return CostRecord.model_validate(values)


def score(label: str, task: str, seed: int, *, source: str = "synthetic", content: str = "", **changes) -> ScoreRecord:
    """The score of one cell."""
    below = LABELS.get(label, LABELS["lora(rank=8)"])[4]
    rng = np.random.default_rng([seed, *label.encode(), *task.encode()])
    top = {"sst2": 82.0, "mrpc": 78.0}.get(task, 70.0) + 0.8 * (seed % 10)
    trained = LABELS.get(label, LABELS["lora(rank=8)"])[0]
    values = common(label) | {
        "id": f"score-{label}-{task}-{seed}",
        "kind": "score",
        "task": {"name": task, "version": 1, "source": source, "content_sha256": content or f"{source}{task}",
                 "train_rows": 2000, "test_rows": 500, "overlap": 0, "floor": 0.58},
        "task_name": task,
        "recipe": {"steps": 60, "batch_size": 16, "learning_rate": 0.001},
        "seed": seed,
        "score": float((top + below + rng.normal(0, 0.5)) / 100),
        "metrics": {"accuracy" if (changes.get("score") or 0) >= 0 else "pearson": float((top + below) / 100)},
        "trainable_parameters": {"method": trained, "head": 770},
        "delta_bytes": 4 * trained,
        "losses": [0.7, 0.5],
        "train_seconds": 4.0,
        "flags": (["synthetic"] if source == "synthetic" else []) + (["still_improving"] if "prefix" in label else []),
    } | changes  # fmt: skip
    return ScoreRecord.model_validate(values)


def curve(*scores: float, steps: int = 60, seconds: float = 6.0, batch: int = 16, length: int = 24) -> list[dict]:
    """Readings at equal shares of the steps, ``scores`` in points; every batch is ``batch x length``."""
    points = []
    for at, value in enumerate(scores, start=1):
        done = steps * at // len(scores)
        rows = done * batch
        points.append({"step": done, "seconds": seconds * at / len(scores), "score": value / 100, "loss": 0.7 / at,
                       "rows": rows, "tokens": rows * length, "token_squares": rows * length**2})  # fmt: skip
    return points


def count(label: str, batch: int, length: int, value: int, *, vary: str = "length", **changes) -> CountRecord:
    """What a training step of ``batch x length`` takes: ``value`` FLOPs, a third of them forward."""
    forward = value // 3
    whole = {"forward": forward, "backward": value - forward, "backward_weight_gradient": value - forward}
    shape = {"batch": batch, "length": length, "dtype": "float32", "device": "cpu", "attention": "sdpa",
             "optimizer": "adamw_fused", "dropout": 0.0, "threads": 2}  # fmt: skip
    values = common(label) | {
        "id": f"count-{label}-{vary}-{batch}-{length}", "kind": "count", "sweep": vary, "vary": vary,
        "value": length if vary == "length" else batch, "shape": shape,
        "flops": whole | {"backbone": whole, "method": {}, "head": {}, "by_layer": {}},
    }  # fmt: skip
    return CountRecord.model_validate(values | changes)


def failed(
    record: CostRecord | ScoreRecord, status: str = "oom", reason: str = "out of memory"
) -> CostRecord | ScoreRecord:
    """``record`` as it looks when its cell or probe failed."""
    figures = {"score", "metrics", "losses", "flops", "bytes", "peak_memory_bytes", "peak_memory_source",
               "forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "latency_seconds",
               "merged_equals_base", "merge_error", "switch_seconds", "aa_control", "delta_bytes",
               "inference", "latency_length",
               "trainable_parameters", "flags"}  # fmt: skip
    kept = {key: value for key, value in record.model_dump(by_alias=True).items() if key not in figures}
    return type(record).model_validate(kept | {"status": status, "reason": reason})


def suite(**changes) -> ResolvedSuite:
    """A resolved suite."""
    values = {
        "name": "glue-small",
        "question": "Which method, at what cost?",
        "backbone": {"name": "sentence-transformers/all-MiniLM-L6-v2", "weights": "pretrained"},
        "tasks": ["sst2", "mrpc"],
        "methods": list(LABELS),
        "baseline": "full",
        "seeds": [0, 1, 2],
        "recipe": {"steps": 60, "batch_size": 16, "max_length": 24},
        "data": {"kind": "synthetic", "reason": "hub not reached"},
        "cost": [{"batch": 32, "length": 64}],
    }
    return ResolvedSuite.model_validate(values | changes)


def results(records: Iterable[Record], order: Sequence[str] = (), **asked) -> Results:
    """Records as read, of a suite whose methods are ``order``."""
    return Results(Run.of(Path("run"), suite(methods=list(order), **asked), tuple(records)))


def glue_small(
    folder: Path, *, source="synthetic", seeds=(0, 1, 2), costs=True, scores=True, labels=LABELS, noise=0.002
) -> Run:
    """A finished run of 13 methods, 2 tasks and 3 seeds, or a part of one."""
    asked = {"seeds": list(seeds), "methods": list(labels), "data": {"kind": source, "reason": "hub not reached"}}
    records: list[CostRecord | ScoreRecord] = []
    if costs:
        records += [cost(label, noise=noise) for label in labels]
    else:
        asked["cost"] = []
    if scores:
        records += [
            score(label, task, seed, source=source) for label in labels for task in ("sst2", "mrpc") for seed in seeds
        ]
    else:
        asked |= {"tasks": [], "seeds": []}
    return Run(folder, suite(**asked), tuple(records))

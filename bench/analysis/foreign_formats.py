"""Reads results of peft's method comparison and of the LM evaluation harness, and knows the reader of each form.

What each figure means is taken from the code that writes it: ``run.py`` and ``utils.py`` of
``method_comparison/MetaMathQA`` and ``image-gen`` of huggingface/peft, and ``evaluator.py`` of
EleutherAI/lm-evaluation-harness.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from bench.analysis.foreign import (
    ALL_TRAINS,
    RESERVED,
    Adapted,
    Foreign,
    Lenient,
    Number,
    Signed,
    Theirs,
    Whole,
    computed,
    parsed,
    table,
)
from bench.analysis.foreign_optimum import OPTIMUM, TARGETS, optimum
from bench.errors import BenchError

UNTOUCHED = "the backbone as it is"


# peft's method comparison: bytes and seconds, no prefix of units.


class _TrainConfig(Lenient):
    model_id: str
    dtype: str
    batch_size: Whole
    max_steps: Whole
    use_gc: bool = False
    compile: bool = False
    grad_norm_clip: Number = 0.0
    use_amp: bool = False
    autocast_adapter_dtype: bool = True
    attn_implementation: str | None = None
    optimizer_type: str | None = None
    optimizer_kwargs: dict[str, Any] = Field(default={})
    resolution: Whole | None = None
    """Side of the images in pixels; None: the model is one of text."""


class _RunInfo(Lenient):
    experiment_name: str
    train_config: _TrainConfig
    peft_config: dict[str, Any] | None


class _Metrics(Lenient):
    step: Whole
    train_time: Number | None = Field(default=None, alias="train time")
    allocated: Number | None = Field(default=None, alias="mem allocated avg")
    accuracy: Signed | None = Field(default=None, alias="test accuracy")
    forgetting: Signed | None = None
    similarity: Signed | None = Field(default=None, alias="test dino_similarity")
    drift: Signed | None = None


def _memory(name: str) -> Any:
    """In earlier files these fields are named for CUDA."""
    return Field(validation_alias=AliasChoices(f"accelerator_memory_{name}", f"cuda_memory_{name}"))


class _TrainInfo(Lenient):
    accelerator_memory_max: Number = _memory("max")
    accelerator_memory_reserved_avg: Number = _memory("reserved_avg")
    accelerator_memory_reserved_99th: Number = _memory("reserved_99th")
    train_time: Number
    file_size: Number
    num_trainable_params: Whole | None = None
    num_total_params: Whole | None = None
    status: str
    metrics: tuple[_Metrics, ...] = ()


class _SystemInfo(Lenient):
    accelerator: str | None = Field(default=None, validation_alias=AliasChoices("accelerator", "gpu"))


class _MetaInfo(Lenient):
    system_info: _SystemInfo = _SystemInfo()


class _Comparison(Lenient):
    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo = _MetaInfo()


COMPARISON = "peft's method comparison"
OPTIMIZERS = ("lora+", "lora-fa", "riemannian")
"""Optimizers of theirs that make another method of LoRA."""
UNSAVED = 99_999_999
"""Bytes; what ``get_file_size`` gives where the adapter could not be saved."""


def _comparison(values: dict[str, Any], path: Path) -> Iterator[Foreign]:
    if "generation_info" in values and "train_info" not in values:
        raise BenchError(
            f"{path}: of peft's benchmark of generation, which trains nothing; give an experiment of {COMPARISON}"
        )
    found = parsed(_Comparison, values, path, COMPARISON)
    asked, config = found.run_info.train_config, found.run_info.peft_config
    if found.train_info.status != "success":
        raise BenchError(
            f"{path}: train_info.status = {found.train_info.status[:40]!r}: not ended; give an experiment that was"
        )
    widened = asked.dtype == "float32" or asked.autocast_adapter_dtype
    image = asked.resolution is not None
    setting = {
        "batch": asked.batch_size, "length": None if image else "varies",
        "dtype": computed(asked.dtype, "float16" if asked.use_amp else None, config is not None),
        "adapter_dtype": "float32" if widened else asked.dtype, "attention": asked.attn_implementation or "sdpa",
        "clipping": asked.grad_norm_clip > 0, "checkpointing": asked.use_gc, "compiled": asked.compile,
        "objective": "images" if image else "text", "device": found.meta_info.system_info.accelerator,
    }  # fmt: skip
    method = Adapted(ALL_TRAINS) if config is None else _adapted(config, asked)
    named = "cuda" if "cuda_memory_max" in values["train_info"] else "accelerator"
    figures = (*_of_size(found.train_info, method), *_of_run(found.train_info, image, named))
    yield Foreign(str(path), COMPARISON, found.run_info.experiment_name, method, asked.model_id, setting, figures)


def _adapted(config: Mapping[str, Any], asked: _TrainConfig) -> Adapted:
    """What was asked for: the ranks that AdaLoRA kept are its outcome, and an optimizer of theirs is of the method."""
    kind, given = str(config.get("peft_type")), dict(config)
    if kind == "ADALORA":
        given.pop("rank_pattern", None)
    if kind == "LORA":
        given["optimizer_type"] = asked.optimizer_type if asked.optimizer_type in OPTIMIZERS else None
        given["loraplus_lr_ratio"] = asked.optimizer_kwargs.get("loraplus_lr_ratio")
    return Adapted(kind, given)


def _of_size(info: _TrainInfo, method: Adapted) -> Iterator[Theirs]:
    if info.num_trainable_params is not None:
        yield Theirs("train_info.num_trainable_params", info.num_trainable_params, "parameters",
                     ("trainable_parameters.method",),
                     why="both count parameters that require a gradient; theirs names no task head")  # fmt: skip
    if why := _no_file(info, method):
        yield Theirs("train_info.file_size", info.file_size, "bytes", why=why)
    else:
        stored = "theirs is the size of the safetensors file, whose header of names and shapes ours leaves out"
        yield Theirs(
            "train_info.file_size", info.file_size, "bytes", ("delta_bytes",), ("adapter_dtype",), False, stored
        )
    if info.num_total_params is not None:
        yield Theirs("train_info.num_total_params", info.num_total_params, "parameters",
                     why="the model, its head and what the method adds; ours is the bare backbone")  # fmt: skip


def _no_file(info: _TrainInfo, method: Adapted) -> str:
    """Why the size is none of what is stored, where it is none."""
    if method.kind == ALL_TRAINS:
        return "estimated as all parameters times the size of the first; nothing was stored"
    if info.file_size == UNSAVED:
        return "what is written where the adapter could not be saved, and no size"
    if method.kind == "ADALORA":
        return (
            "cut to the ranks that their training kept; ours is counted with target_r of each map, before any training"
        )
    return ""


def _of_run(info: _TrainInfo, image: bool, named: str) -> Iterator[Theirs]:
    """Memory and times, which cover more than the step that ours is."""
    work = "generate images" if image else "generate in larger batches"
    for name, more in (("max", f" over the whole run, whose evaluations {work}"), ("reserved_avg", ", mean over steps"),
                       ("reserved_99th", ", of 99 % of steps")):  # fmt: skip
        size = getattr(info, f"accelerator_memory_{name}")
        yield Theirs(f"train_info.{named}_memory_{name}", size, "bytes", why=RESERVED.format(more))
    yield Theirs("train_info.train_time", info.train_time, "seconds",
                 why="the run less its validations: data, steps and the test at the end; ours is one step")  # fmt: skip
    timed = [m for m in info.metrics if m.train_time is not None]
    if timed and timed[-1].step:
        mean = sum(m.train_time or 0.0 for m in timed) / timed[-1].step
        rows = "steps of a model of images" if image else "rows of unequal length, padding"
        yield Theirs("train_info.metrics.train time / steps", mean, "seconds",
                     why=f"{rows} and copying among it; ours is one shape")  # fmt: skip
    if allocated := [m.allocated for m in info.metrics if m.allocated is not None]:
        yield Theirs("train_info.metrics.mem allocated avg", statistics.fmean(allocated), "bytes",
                     why="taken after the step, when most is freed; ours is the peak within it")  # fmt: skip
    yield from _of_tests(info.metrics)


TESTS = {
    "accuracy": ("test accuracy", "answers to GSM8K that are generated and parsed; no task of ours is scored so"),
    "forgetting": ("forgetting", "nats a token on Wikipedia that training added; no task of ours is scored so"),
    "similarity": ("test dino_similarity", "of images that are generated; ours generates none"),
    "drift": ("drift", "of images that are generated; ours generates none"),
}
"""By attribute: their name, and why no figure of ours is it."""


def _of_tests(metrics: tuple[_Metrics, ...]) -> Iterator[Theirs]:
    for attribute, (name, why) in TESTS.items():
        if values := [value for m in metrics if (value := getattr(m, attribute)) is not None]:
            yield Theirs(f"train_info.metrics.{name}", values[-1], "", why=why)


# The LM evaluation harness: shares.

HARNESS = "lm-eval"
METRICS = {"acc": "accuracy", "f1": "f1", "mcc": "matthews_correlation"}
"""Their name, before the comma and the filter, and ours."""
FILTER = "none"


class _Samples(Lenient):
    effective: Whole | None = None


class _TaskConfig(Lenient):
    num_fewshot: Whole | None = None


class _Model(Lenient):
    model_args: str | dict[str, Any] | None = None


class _Arguments(Lenient):
    pretrained: str | None = None
    peft: str | None = None


class _Harness(Lenient):
    results: dict[str, dict[str, Any]]
    configs: dict[str, _TaskConfig] = Field(default={})
    config: _Model = _Model()
    model_name: str | None = None
    samples: dict[str, _Samples] = Field(default={}, alias="n-samples")
    shots: dict[str, Whole | None] = Field(default={}, alias="n-shot")
    subtasks: dict[str, tuple[str, ...]] = Field(default={}, alias="group_subtasks")
    """Tasks by group; an empty list stands with what is no group."""


def _harness(values: dict[str, Any], path: Path) -> Iterator[Foreign]:
    found = parsed(_Harness, values, path, HARNESS)
    given = found.config.model_args
    words = dict(part.partition("=")[::2] for part in given.split(",")) if isinstance(given, str) else given or {}
    model = parsed(_Arguments, words, path, HARNESS, "config.model_args")
    method = Adapted(UNTOUCHED if model.peft is None and model.pretrained else None)
    if not any("," in name for held in found.results.values() for name in held):
        raise BenchError(
            f"{path}: results holds no figure by a name such as 'acc,{FILTER}', as {HARNESS} writes it from 0.4 on"
        )
    for task, held in found.results.items():
        if figures := tuple(_of_task(task, held, path, bool(found.subtasks.get(task)))):
            shots = found.shots.get(task, found.configs.get(task, _TaskConfig()).num_fewshot)
            setting = {"task": task, "rows": found.samples.get(task, _Samples()).effective, "fewshot": shots}
            yield Foreign(
                str(path), HARNESS, task, method, model.pretrained or found.model_name or None, setting, figures
            )


def _of_task(task: str, held: Mapping[str, Any], path: Path, group: bool) -> Iterator[Theirs]:
    for name, value in held.items():
        metric, _, chosen = name.partition(",")
        if metric.endswith("_stderr") or isinstance(value, str | bool) or value is None or not chosen:
            continue
        at = f"results.{task}.{name}"
        if not isinstance(value, int | float) or not abs(value) <= 1e18:
            raise BenchError(f"{path}: {at} = {str(value)[:40]!r} is no number; results of {HARNESS} have one")
        if why := _no_metric(metric, chosen, group):
            yield Theirs(at, float(value), "", why=why)
        else:
            why = "the same formula; theirs takes the likeliest label's text, ours what a trained head says"
            yield Theirs(at, float(value), "", (f"metrics.{METRICS[metric]}",), ("task", "rows", "fewshot"), why=why)


def _no_metric(metric: str, chosen: str, group: bool) -> str:
    """Why it is no metric of ours, where it is none."""
    if metric not in METRICS:
        return "no metric of ours is it"
    if chosen != FILTER:
        return f"the answers went through the filter {chosen!r}"
    return "a mean over the tasks of a group; ours is of one task" if group else ""


FORMS: Mapping[str, tuple[tuple[str, ...], Callable[[dict[str, Any], Path], Iterator[Foreign]]]] = {
    COMPARISON: (("run_info", "train_info"), _comparison),
    HARNESS: (("results",), _harness),
    OPTIMUM: (("report", *TARGETS), optimum),
}
"""By name: the keys of which a file has at least one, and its reader."""


def read(path: Path) -> list[Foreign]:
    """What a file of another program's results measured.

    Raises:
        BenchError: It cannot be read, is of no known form, or lacks a field.
    """
    values = table(path)
    for keys, reader in FORMS.values():
        if any(key in values for key in keys):
            if found := list(reader(values, path)):
                return found
            raise BenchError(f"{path}: nothing in it was measured; give a file that holds a figure")
    known = "; ".join(f"{name} ({', '.join(keys[:2])})" for name, (keys, _) in FORMS.items())
    raise BenchError(f"{path}: results of no known program; known, by the keys of their files: {known}")

"""Reads results of peft's method comparison, of optimum-benchmark and of the LM evaluation harness.

What each figure means is taken from the code that writes it: ``method_comparison/MetaMathQA/run.py`` and ``utils.py``
of huggingface/peft, ``trackers`` and ``scenarios`` of huggingface/optimum-benchmark, and ``evaluator.py`` of
EleutherAI/lm-evaluation-harness.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.analysis.foreign import Adapted, Foreign, Lenient, Number, Theirs, Whole, parsed, table
from bench.errors import BenchError
from bench.schema.figures import BASE

ALL_TRAINS = "full fine-tuning"
"""How these programs say that everything trains: by naming no adapter."""
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


class _RunInfo(Lenient):
    experiment_name: str
    train_config: _TrainConfig
    peft_config: dict[str, Any] | None


class _Metrics(Lenient):
    step: Whole
    test_accuracy: Number | None = Field(default=None, alias="test accuracy")
    train_time: Number | None = Field(default=None, alias="train time")
    allocated: Number | None = Field(default=None, alias="mem allocated avg")


class _TrainInfo(Lenient):
    accelerator_memory_max: Number
    accelerator_memory_reserved_avg: Number
    accelerator_memory_reserved_99th: Number
    train_time: Number
    file_size: Number
    num_trainable_params: Whole
    num_total_params: Whole
    status: str
    metrics: tuple[_Metrics, ...] = ()


class _SystemInfo(Lenient):
    accelerator: str | None = None


class _MetaInfo(Lenient):
    system_info: _SystemInfo = _SystemInfo()


class _Comparison(Lenient):
    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo = _MetaInfo()


COMPARISON = "peft's method comparison"


def _comparison(values: dict[str, Any], path: Path) -> Iterator[Foreign]:
    found = parsed(_Comparison, values, path, COMPARISON)
    asked, config = found.run_info.train_config, found.run_info.peft_config
    if found.train_info.status != "success":
        raise BenchError(f"{path}: train_info.status = {found.train_info.status[:40]!r}: this experiment was not ended")
    widened = asked.dtype == "float32" or asked.autocast_adapter_dtype
    setting = {
        "batch": asked.batch_size, "length": "varies", "dtype": _computed(asked.dtype, asked.use_amp),
        "adapter_dtype": "float32" if widened else asked.dtype, "attention": asked.attn_implementation or "sdpa",
        "clipping": asked.grad_norm_clip > 0, "checkpointing": asked.use_gc, "compiled": asked.compile,
        "objective": "text", "device": found.meta_info.system_info.accelerator,
    }  # fmt: skip
    method = Adapted(ALL_TRAINS) if config is None else Adapted(str(config.get("peft_type")), config)
    figures = tuple(_of_comparison(found.train_info, config is None))
    yield Foreign(str(path), COMPARISON, found.run_info.experiment_name, method, asked.model_id, setting, figures)


def _computed(dtype: str, autocast: bool) -> str:
    return f"{dtype}_autocast" if autocast else dtype


RESERVED = "reserved by the allocator{}, free blocks among it; ours is what tensors take at the peak of a step"


def _of_comparison(info: _TrainInfo, full: bool) -> Iterator[Theirs]:
    trained = "both count parameters that require a gradient; theirs names no task head"
    yield Theirs("train_info.num_trainable_params", info.num_trainable_params, "parameters",
                 ("trainable_parameters.method",), why=trained)  # fmt: skip
    if full:
        yield Theirs("train_info.file_size", info.file_size, "bytes",
                     why="estimated as all parameters times the size of the first; nothing was stored")  # fmt: skip
    else:
        stored = "theirs is the size of the safetensors file, whose header of names and shapes ours leaves out"
        yield Theirs(
            "train_info.file_size", info.file_size, "bytes", ("delta_bytes",), ("adapter_dtype",), False, stored
        )
    yield Theirs("train_info.num_total_params", info.num_total_params, "parameters",
                 why="holds the language model's head and what the method adds; ours is the bare backbone")  # fmt: skip
    whole = " over the whole run, whose evaluations generate in larger batches"
    for name, more in (("max", whole), ("reserved_avg", ", mean over steps"), ("reserved_99th", ", of 99 % of steps")):
        field = f"accelerator_memory_{name}"
        yield Theirs(f"train_info.{field}", getattr(info, field), "bytes", why=RESERVED.format(more))
    yield Theirs("train_info.train_time", info.train_time, "seconds",
                 why="all steps with batching, and the evaluation at the end; ours is one step")  # fmt: skip
    yield from _of_metrics(info.metrics)


def _of_metrics(metrics: tuple[_Metrics, ...]) -> Iterator[Theirs]:
    timed = [m for m in metrics if m.train_time is not None]
    if timed and timed[-1].step:
        mean = sum(m.train_time or 0.0 for m in timed) / timed[-1].step
        yield Theirs("train_info.metrics.train time / steps", mean, "seconds",
                     why="rows of unequal length, padding and copying among it; ours is one shape")  # fmt: skip
    if allocated := [m.allocated for m in metrics if m.allocated is not None]:
        yield Theirs("train_info.metrics.mem allocated avg", statistics.fmean(allocated), "bytes",
                     why="taken after the step, when most is freed; ours is the peak within it")  # fmt: skip
    if tested := [m.test_accuracy for m in metrics if m.test_accuracy is not None]:
        yield Theirs("train_info.metrics.test accuracy", tested[-1], "",
                     why="answers to GSM8K that are generated and parsed; no task of ours is scored so")  # fmt: skip


# optimum-benchmark: seconds, and MB of 10^6 bytes.

MEGABYTE = 10**6
"""``trackers/memory.py`` divides by 1e6."""
OPTIMUM = "optimum-benchmark"
TARGETS = ("load", "load_model", "first_forward", "forward", "first_generate", "generate", "prefill", "decode",
           "per_token", "overall", "warmup", "train")  # fmt: skip


class _Latency(Lenient):
    unit: str
    values: tuple[Number, ...] = Field(min_length=1)


class _Memory(Lenient):
    unit: str
    max_ram: Number | None = None
    max_global_vram: Number | None = None
    max_process_vram: Number | None = None
    max_reserved: Number | None = None
    max_allocated: Number | None = None


class _Target(Lenient):
    latency: _Latency | None = None
    memory: _Memory | None = None


class _Backend(Lenient):
    name: str | None = None
    model: str | None = None
    task: str | None = None
    device: str | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    attn_implementation: str | None = None
    autocast_enabled: bool = False
    torch_compile: bool = False
    quantization_scheme: str | None = None
    peft_type: str | None = None
    peft_config: dict[str, Any] | None = None


class _Scenario(Lenient):
    name: str | None = None
    input_shapes: dict[str, Any] = Field(default={})
    dataset_shapes: dict[str, Any] = Field(default={})
    training_arguments: dict[str, Any] = Field(default={})


class _Environment(Lenient):
    cpu: str | None = None
    gpu: tuple[str, ...] | None = None


class _Config(Lenient):
    name: str | None = None
    backend: _Backend = _Backend()
    scenario: _Scenario = _Scenario()
    environment: _Environment = _Environment()


OBJECTIVES = {"text-generation": "text", "text2text-generation": "text", "text-classification": "classes"}
NOT_OURS = {
    "prefill": "one call of generate for one token, which also builds a cache and picks the token; ours is a forward",
    "decode": "tokens after the first; ours generates none", "per_token": "one token of generate; ours generates none",
    "generate": "all tokens of generate; ours generates none", "load": "loading the model; ours does not time it",
    "load_model": "loading the model; ours does not time it", "warmup": "steps before the measured ones",
    "overall": "warm-up steps among them", "first_forward": "the first call, not a warm one",
    "first_generate": "the first call, not a warm one",
}  # fmt: skip
NOT_TENSORS = {
    "max_ram": "memory of the whole process, Python and libraries among it; ours is what tensors take",
    "max_global_vram": "all of the device, other processes among it; ours is what tensors take",
    "max_process_vram": "of the process with the CUDA context; ours is what tensors take",
    "max_reserved": RESERVED.format(""),
}  # fmt: skip


def _optimum(values: dict[str, Any], path: Path) -> Iterator[Foreign]:
    report = values.get("report", values)
    if not isinstance(report, dict):
        raise BenchError(f"{path}: report is no table; results of {OPTIMUM} have one")
    beside = path.with_name("benchmark_config.json")
    given = values.get("config") if "report" in values else table(beside) if beside.is_file() else {}
    config = parsed(_Config, given, path, OPTIMUM, "config")
    targets = {
        name: parsed(_Target, held, path, OPTIMUM, f"report.{name}")
        for name, held in report.items()
        if name in TARGETS and held is not None
    }
    if not targets:
        raise BenchError(f"{path}: report is missing what was measured; results of {OPTIMUM} have some of {TARGETS}")
    form = config.backend
    method = Adapted(form.peft_type, form.peft_config or {}) if form.peft_type else Adapted(
        None if form.model is None else ALL_TRAINS if "train" in targets else BASE
    )  # fmt: skip
    setting = _of_training(config) if "train" in targets else _of_inference(config)
    figures = tuple(
        figure for name, target in targets.items() for figure in _of_target(name, target, method, setting, path)
    )
    yield Foreign(str(path), OPTIMUM, config.name or path.name, method, form.model, setting, figures)


def _of_backend(config: _Config) -> dict[str, Any]:
    form, gpus = config.backend, config.environment.gpu
    dtype = form.torch_dtype or form.dtype
    device = gpus[0] if form.device == "cuda" and gpus else form.device
    return {
        "program": form.name, "dtype": None if dtype is None else _computed(dtype, form.autocast_enabled),
        "attention": form.attn_implementation or "sdpa", "compiled": form.torch_compile, "device": device,
        "objective": OBJECTIVES.get(form.task or "", form.task), "weights": form.quantization_scheme or "native",
    }  # fmt: skip


def _of_inference(config: _Config) -> dict[str, Any]:
    shapes = config.scenario.input_shapes
    return _of_backend(config) | {
        "latency_batch": shapes.get("batch_size"), "latency_length": shapes.get("sequence_length")
    }  # fmt: skip


def _of_training(config: _Config) -> dict[str, Any]:
    """The Trainer's own defaults where an argument is left out: it clips to 1, and checkpoints nothing."""
    asked = config.scenario.training_arguments
    names = {"adamw_torch_fused": "adamw_fused", "adamw_bnb_8bit": "adamw_8bit"}
    names["adamw_torch"] = "adamw_foreach" if config.backend.device == "cuda" else "adamw_loop"
    optim, found = asked.get("optim"), _of_backend(config)
    if asked.get("bf16") and found["dtype"] == "float32":
        found["dtype"] = "bfloat16_autocast"
    return found | {
        "batch": asked.get("per_device_train_batch_size"), "accumulation": asked.get("gradient_accumulation_steps", 1),
        "length": config.scenario.dataset_shapes.get("sequence_length"),
        "optimizer": names.get(optim, optim) if isinstance(optim, str) else None,
        "clipping": asked.get("max_grad_norm", 1.0) not in (0, None),
        "checkpointing": bool(asked.get("gradient_checkpointing", False)),
    }  # fmt: skip


COMPUTES = ("program", "dtype", "attention", "compiled", "device", "objective", "weights")
OF_STEP = (*COMPUTES, "batch", "accumulation", "length", "optimizer", "clipping", "checkpointing")


def _of_target(
    name: str, target: _Target, method: Adapted, setting: Mapping[str, Any], path: Path
) -> Iterator[Theirs]:  # fmt: skip
    if target.latency is not None:
        _check_unit(target.latency.unit, "s", f"report.{name}.latency.unit", path)
        median, at = statistics.median(target.latency.values), f"report.{name}.latency.values, median"
        if name == "train":
            yield Theirs(at, median, "seconds", ("step_seconds",), OF_STEP,
                         why="a step of the Trainer, which also sets the rate; its batch is there before")  # fmt: skip
        elif name == "forward":
            mode = BASE if method.kind == BASE else "unmerged"
            yield Theirs(at, median, "seconds", (f"latency_seconds.{mode}.batch_{setting.get('latency_batch')}",),
                         (*COMPUTES, "latency_batch", "latency_length"), why="one inference of one batch")  # fmt: skip
        else:
            yield Theirs(at, median, "seconds", why=NOT_OURS[name])
    if target.memory is not None:
        _check_unit(target.memory.unit, "MB", f"report.{name}.memory.unit", path)
        yield from _of_memory(name, target.memory)


def _check_unit(unit: str, due: str, at: str, path: Path) -> None:
    if unit != due:
        raise BenchError(f"{path}: {at} = {unit[:20]!r}; {OPTIMUM} writes {due!r}, and no other is known")


def _of_memory(name: str, memory: _Memory) -> Iterator[Theirs]:
    for field in (*NOT_TENSORS, "max_allocated"):
        megabytes, at = getattr(memory, field), f"report.{name}.memory.{field}"
        if megabytes is None:
            continue
        size = megabytes * MEGABYTE
        if field in NOT_TENSORS:
            yield Theirs(at, size, "bytes", why=NOT_TENSORS[field])
        elif name == "train":
            yield Theirs(at, size, "bytes", ("peak_memory_bytes.step", "predicted_peak_memory_bytes.step"), OF_STEP,
                         why="largest sum of allocated bytes; theirs over all steps, ours of the second")  # fmt: skip
        else:
            yield Theirs(at, size, "bytes", why=NOT_OURS.get(name, "of an inference; ours is of a training step"))


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
        if figures := tuple(_of_task(task, held, path)):
            shots = found.shots.get(task, found.configs.get(task, _TaskConfig()).num_fewshot)
            setting = {
                "task": task, "rows": found.samples.get(task, _Samples()).effective, "fewshot": shots,
                "program": "pytorch",
            }  # fmt: skip
            yield Foreign(
                str(path), HARNESS, task, method, model.pretrained or found.model_name or None, setting, figures
            )


def _of_task(task: str, held: Mapping[str, Any], path: Path) -> Iterator[Theirs]:
    for name, value in held.items():
        metric, _, chosen = name.partition(",")
        if metric.endswith("_stderr") or isinstance(value, str | bool) or value is None or not chosen:
            continue
        at = f"results.{task}.{name}"
        if not isinstance(value, int | float) or not abs(value) <= 1e18:
            raise BenchError(f"{path}: {at} = {str(value)[:40]!r} is no number; results of {HARNESS} have one")
        ours = METRICS.get(metric) if chosen == FILTER else None
        if ours is None:
            why = f"the answers went through the filter {chosen!r}" if metric in METRICS else "no metric of ours is it"
            yield Theirs(at, float(value), "", why=why)
        else:
            why = "the same share of rows; theirs takes the likeliest label's text, ours what a trained head says"
            yield Theirs(at, float(value), "", (f"metrics.{ours}",), ("task", "rows", "fewshot"), why=why)


FORMS: Mapping[str, tuple[tuple[str, ...], Callable[[dict[str, Any], Path], Iterator[Foreign]]]] = {
    COMPARISON: (("run_info", "train_info"), _comparison),
    HARNESS: (("results",), _harness),
    OPTIMUM: (("report", *TARGETS), _optimum),
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

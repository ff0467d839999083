"""Reads reports of optimum-benchmark: seconds, and MB of 10^6 bytes.

What each figure means is taken from the code that writes it: ``trackers`` and ``scenarios`` of
huggingface/optimum-benchmark.
"""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from bench.analysis.foreign import (
    ALL_TRAINS,
    RESERVED,
    Adapted,
    Foreign,
    Lenient,
    Number,
    Theirs,
    Whole,
    computed,
    parsed,
    table,
)
from bench.errors import BenchError
from bench.schema.figures import BASE

MEGABYTE = 10**6
"""Bytes; ``trackers/memory.py`` divides by 1e6."""
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
    autocast_dtype: str | None = None
    device_ids: str | int | tuple[int, ...] | None = None
    torch_compile: bool = False
    quantization_scheme: str | None = None
    peft_type: str | None = None
    peft_config: dict[str, Any] | None = None


class _Scenario(Lenient):
    name: str | None = None
    input_shapes: dict[str, Any] = Field(default={})
    dataset_shapes: dict[str, Any] = Field(default={})
    training_arguments: dict[str, Any] = Field(default={})


class _Launcher(Lenient):
    nproc_per_node: Whole = 1
    max_nodes: Whole = 1


class _Environment(Lenient):
    cpu: str | None = None
    gpu: tuple[str, ...] | None = None


class _Config(Lenient):
    name: str | None = None
    backend: _Backend = _Backend()
    scenario: _Scenario = _Scenario()
    launcher: _Launcher = _Launcher()
    environment: _Environment = _Environment()


OBJECTIVES = {"text-generation": "text", "text2text-generation": "text", "text-classification": "classes"}
NOT_OURS = {
    "prefill": "one call of generate for one token, which also builds a cache and picks the token; ours is a forward",
    "decode": "generate less the mean of prefill: tokens after the first; ours generates none",
    "per_token": "one token of generate; ours generates none",
    "generate": "all tokens of generate; ours generates none", "load": "loading the model; ours does not time it",
    "load_model": "loading the model; ours does not time it", "warmup": "steps before the measured ones",
    "overall": "warm-up steps among them", "first_forward": "the first call, not a warm one",
    "first_generate": "the second call of generate: one runs untimed before it; ours generates none",
}  # fmt: skip
"""Of times."""
NOT_A_STEP = {
    "decode": "of all of generate, prefill among it; ours is of a training step",
    "overall": "the same number as that of train", "warmup": "the same number as that of train",
    "load": "of loading the model; ours is of a training step",
    "load_model": "of loading the model; ours is of a training step",
}  # fmt: skip
"""Of memory."""
UNKNOWN = "of {}, which no figure of ours is"
NOT_TENSORS = {
    "max_ram": "memory of the whole process, Python and libraries among it; ours is what tensors take",
    "max_global_vram": "all of the device, other processes among it; ours is what tensors take",
    "max_process_vram": "of the process with the CUDA context; ours is what tensors take",
    "max_reserved": RESERVED.format(""),
}  # fmt: skip


def optimum(values: dict[str, Any], path: Path) -> Iterator[Foreign]:
    """The measurement of one report, with the configuration that it holds or that lies beside it.

    Raises:
        BenchError: It holds nothing that was measured, a field is missing, or a unit is none that the program writes.
    """
    report = values.get("report", values)
    if not isinstance(report, dict):
        raise BenchError(f"{path}: report is no table; results of {OPTIMUM} have one")
    beside = path.with_name("benchmark_config.json")
    given = values.get("config") if "report" in values else table(beside) if beside.is_file() else {}
    config = parsed(_Config, given, path, OPTIMUM, "config")
    targets = {
        name: parsed(_Target, held, path, OPTIMUM, f"report.{name}")
        for name, held in report.items()
        if name in TARGETS or (isinstance(held, dict) and {"latency", "memory"} <= set(held))
        if held is not None
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


def _of_backend(config: _Config, autocast: str | None) -> dict[str, Any]:
    """Without an adapter all is of the backbone's type; peft makes adapters float32."""
    form, gpus = config.backend, config.environment.gpu
    dtype, cuda = form.torch_dtype or form.dtype, form.device == "cuda"
    if autocast is None and form.autocast_enabled:
        autocast = form.autocast_dtype or ("float16" if cuda else "bfloat16")
    return {
        "program": form.name, "dtype": None if dtype is None else computed(dtype, autocast, form.peft_type is not None),
        "adapter_dtype": "float32" if form.peft_type else dtype,
        "attention": form.attn_implementation or "sdpa", "compiled": form.torch_compile,
        "device": gpus[0] if cuda and gpus else form.device, "devices": _devices(config),
        "objective": OBJECTIVES.get(form.task or "", form.task), "weights": form.quantization_scheme or "native",
    }  # fmt: skip


def _devices(config: _Config) -> int:
    """Processes, whose memory is summed, or GPUs of one process, whose memory is summed as well."""
    asked = config.backend.device_ids
    listed = len(str(asked).split(",")) if isinstance(asked, str | int) else len(asked or ())
    return max(config.launcher.nproc_per_node * config.launcher.max_nodes, listed)


def _of_inference(config: _Config) -> dict[str, Any]:
    shapes = config.scenario.input_shapes
    return _of_backend(config, None) | {
        "latency_batch": shapes.get("batch_size"), "latency_length": shapes.get("sequence_length")
    }  # fmt: skip


def _of_training(config: _Config) -> dict[str, Any]:
    """The Trainer's own defaults where an argument is left out: it clips to 1, and checkpoints nothing."""
    asked = config.scenario.training_arguments
    names = {"adamw_torch_fused": "adamw_fused", "adamw_bnb_8bit": "adamw_8bit"}
    names["adamw_torch"] = "adamw_foreach" if config.backend.device == "cuda" else "adamw_loop"
    optim = asked.get("optim")
    found = _of_backend(config, "bfloat16" if asked.get("bf16") else "float16" if asked.get("fp16") else None)
    return found | {
        "batch": asked.get("per_device_train_batch_size"), "accumulation": asked.get("gradient_accumulation_steps", 1),
        "length": config.scenario.dataset_shapes.get("sequence_length"),
        "optimizer": names.get(optim, optim) if isinstance(optim, str) else None,
        "clipping": asked.get("max_grad_norm", 1.0) not in (0, None),
        "checkpointing": bool(asked.get("gradient_checkpointing", False)),
        "compiled": config.backend.torch_compile or bool(asked.get("torch_compile", False)),
    }  # fmt: skip


COMPUTES = ("program", "dtype", "attention", "compiled", "device", "devices", "objective", "weights")
OF_STEP = (*COMPUTES, "adapter_dtype", "batch", "accumulation", "length", "optimizer", "clipping", "checkpointing")


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
            mode, more = (BASE, ()) if method.kind == BASE else ("unmerged", ("adapter_dtype",))
            yield Theirs(at, median, "seconds", (f"latency_seconds.{mode}.batch_{setting.get('latency_batch')}",),
                         (*COMPUTES, *more, "latency_batch", "latency_length"),
                         why="one inference of one batch")  # fmt: skip
        else:
            yield Theirs(at, median, "seconds", why=NOT_OURS.get(name, UNKNOWN.format(name)))
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
            yield Theirs(at, size, "bytes", why=NOT_A_STEP.get(name, "of an inference; ours is of a training step"))

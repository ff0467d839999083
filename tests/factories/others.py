"""Results in the forms that other programs write, with invented figures."""

import json


def comparison(**train_info):
    """An experiment of peft's method comparison."""
    return {
        "run_info": {
            "experiment_name": "lora/small-rank8",
            "train_config": {
                "model_id": "sentence-transformers/all-MiniLM-L6-v2", "dtype": "float32", "batch_size": 4,
                "max_seq_length": 768, "max_steps": 20, "use_gc": False, "compile": False, "grad_norm_clip": 1.0,
                "use_amp": False, "autocast_adapter_dtype": True, "attn_implementation": None,
            },
            "peft_config": {"peft_type": "LORA", "r": 8, "use_dora": False, "init_lora_weights": True},
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 5_000_000_000, "accelerator_memory_max": 9_000_000_000,
            "accelerator_memory_reserved_99th": 8_000_000_000, "train_time": 40.5, "file_size": 296_112,
            "num_trainable_params": 73_728, "num_total_params": 22_700_000, "status": "success",
            "metrics": [
                {"step": 10, "valid accuracy": 0.2, "train time": 2.0, "mem allocated avg": 3e9},
                {"step": 20, "valid accuracy": 0.3, "train time": 3.0, "mem allocated avg": 5e9},
                {"step": 20, "test accuracy": 0.4},
            ],
        } | train_info,
        "meta_info": {"system_info": {"accelerator": "NVIDIA L40S"}},
    }  # fmt: skip


def latency(*seconds):
    """A measured time of optimum-benchmark."""
    return {"unit": "s", "values": list(seconds), "count": len(seconds), "mean": sum(seconds) / len(seconds)}


def memory(**megabytes):
    """Measured memory of optimum-benchmark."""
    return {"unit": "MB", "max_ram": 900.5, "max_global_vram": None, "max_process_vram": None, "max_reserved": None,
            "max_allocated": None} | megabytes  # fmt: skip


def inference(backend=(), shapes=()):
    """An inference that optimum-benchmark timed."""
    return {
        "config": {
            "name": "minilm",
            "backend": {
                "name": "pytorch", "model": "sentence-transformers/all-MiniLM-L6-v2", "task": "text-classification",
                "device": "cpu", "torch_dtype": "float32", "attn_implementation": "sdpa", "torch_compile": False,
            } | dict(backend),
            "scenario": {"name": "inference", "input_shapes": {"batch_size": 32, "sequence_length": 32} | dict(shapes)},
            "environment": {"cpu": "AMD EPYC", "gpu": None},
        },
        "report": {
            "load_model": {"latency": latency(1.5), "memory": None},
            "forward": {"latency": latency(0.3, 0.1, 0.2), "memory": memory(max_ram=512.0)},
        },
    }  # fmt: skip


def training(arguments=(), **backend):
    """A training that optimum-benchmark measured on a GPU."""
    values = inference({"device": "cuda", "peft_type": "LORA", "peft_config": {"r": 8}} | backend)
    values["config"]["scenario"] = {
        "name": "training", "dataset_shapes": {"sequence_length": 64},
        "training_arguments": {
            "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "optim": "adamw_torch_fused"
        } | dict(arguments),
    }  # fmt: skip
    values["config"]["environment"]["gpu"] = ["NVIDIA L40S"]
    figures = {"latency": latency(0.5, 0.5, 0.7), "memory": memory(max_allocated=301.0, max_reserved=400.0)}
    values["report"] = {"overall": figures, "warmup": figures, "train": figures}
    return values


def harness(task="sst2", **values):
    """Scores of the LM evaluation harness."""
    return {
        "results": {task: {"alias": task, "acc,none": 0.75, "acc_stderr,none": 0.01, "acc_norm,none": 0.7}},
        "configs": {task: {"task": task, "num_fewshot": 0}},
        "n-shot": {task: 0},
        "n-samples": {task: {"original": 872, "effective": 872}},
        "config": {"model": "hf", "model_args": "pretrained=sentence-transformers/all-MiniLM-L6-v2,peft=./adapter"},
    } | values


def write(folder, values, name="theirs.json"):
    """The values as a file, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(values))
    return path

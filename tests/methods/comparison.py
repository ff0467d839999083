"""The experiments of peft's public method comparison as files, and what this harness makes of each.

Facts of huggingface/peft, method_comparison/MetaMathQA: ``experiments/`` says each configuration, of which
``comparison.toml`` holds what differs from peft's defaults, and ``results/`` prints the parameters that train.
"""

import dataclasses
import functools
import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from bench import backbone
from bench.backbone import BackboneSpec
from bench.cost.counting import count
from bench.cost.setting import Setting
from bench.errors import BenchError
from bench.registry import make

BACKBONE = BackboneSpec(name="llama-3.2-3b", weights="random")
"""Its shape: the comparison's own backbone."""
LENGTH = 256
"""Tokens of the row that a step is counted on: more than the longest prompt has positions."""
CALL = {"task_type": "CAUSAL_LM", "inference_mode": False, "base_model_name_or_path": None, "auto_mapping": None,
        "revision": None, "peft_version": "0.15.2.dev0"}  # fmt: skip
"""What every file of the comparison says beside a method."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One folder of the comparison."""

    name: str
    adapter: dict[str, Any]
    """Of ``adapter_config.json``, defaults left out."""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of ``training_params.json``: the optimizer, where it is one of LoRA's own."""
    trainable: int | None = None
    """Published; None where no result was to be had."""

    def write(self, folder: Path) -> Path:
        """Its files in ``folder``, as they lie in the comparison; returns the folder of the experiment."""
        place = folder / self.name
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text(json.dumps(CALL | self.adapter))
        if self.training:
            (place / "training_params.json").write_text(json.dumps(self.training))
        return place


@functools.cache
def experiments() -> dict[str, Experiment]:
    """All experiments by name."""
    found = tomllib.loads(Path(__file__).with_name("comparison.toml").read_text(encoding="utf-8"))["experiment"]
    return {values["name"]: Experiment(**values) for values in found}


def method_of(experiment: Experiment, folder: Path) -> tuple[Any, Any]:
    """Method and checked configuration that ``peft(adapter_config=...)`` makes of the experiment's folder."""
    return make("peft", {"adapter_config": str(experiment.write(folder))})


def trainable(experiment: Experiment, folder: Path) -> int:
    """Parameters that train on the comparison's backbone, which is built without weights."""
    method, config = method_of(experiment, folder)
    module = method.apply(backbone.load(BACKBONE, device="meta"), config)
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def outcome(experiment: Experiment, folder: Path) -> tuple[int | None, str]:
    """Trainable parameters, and what becomes of a training step of one row of ``LENGTH`` tokens without weights.

    A type that starts from the values of the weights is built, and its step counted, on one layer with random ones.
    """
    try:
        method, config = method_of(experiment, folder)
    except BenchError as refusal:
        return None, str(refusal).removeprefix("peft: ")
    setting = Setting(batch=1, length=LENGTH)
    try:
        return count(BACKBONE, method, config, setting).trainable.method, "a step is counted"
    except NotImplementedError:
        one = dataclasses.replace(BACKBONE, layers=1)
    except BenchError as refusal:
        return None, str(refusal).removeprefix("peft: ")
    torch.manual_seed(0)
    module = method.apply(backbone.load(one), config)
    hidden = module(input_ids=torch.arange(5, 13)[None]).last_hidden_state
    hidden.mean().backward()
    layers = int(backbone.load(BACKBONE, device="meta").config.num_hidden_layers)
    held = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return layers * held, f"needs weights: a step runs on one layer, whose parameters count {layers} times"

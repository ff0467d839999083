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

from bench.count.count import count
from bench.errors import BenchError
from bench.models import backbone
from bench.registry import make
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting

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
    """Parameters that train on the comparison's backbone, which is built without weights.

    Raises:
        NotImplementedError: The type starts from the values of the weights.
    """
    return _held(*method_of(experiment, folder), backbone.load(BACKBONE, device="meta"))


def outcome(experiment: Experiment, folder: Path) -> tuple[int | None, str]:
    """Trainable parameters, and what becomes of a training step of one row of ``LENGTH`` tokens without weights.

    Where it asks for values, the step runs on one layer with random weights.
    """
    try:
        method, config = method_of(experiment, folder)
    except BenchError as refusal:
        return None, str(refusal).removeprefix("peft: ")
    try:
        counted = count(BACKBONE, method, config, Setting(batch=1, length=LENGTH))
        return counted.trainable.method, "a step is counted"
    except BenchError as refusal:
        return None, str(refusal).removeprefix("peft: ")
    except Exception:  # whatever a type does with values that are not there
        alone = _stepped(method, config, layers=1)
    bare = backbone.load(BACKBONE, device="meta")
    try:
        return _held(method, config, bare), "a step asks for values; it runs on one layer"
    except NotImplementedError:
        layers = int(bare.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        each = _stepped(method, config, layers=2) - alone
        return alone + (layers - 1) * each, "starts from values; a step runs on one layer and on two, counted on to all"


def _stepped(method: Any, config: Any, layers: int) -> int:
    """Parameters that train on the first ``layers`` layers with random weights, on which a step is taken."""
    torch.manual_seed(0)
    module = method.apply(backbone.load(dataclasses.replace(BACKBONE, layers=layers)), config)
    module(input_ids=torch.arange(5, 13)[None]).last_hidden_state.mean().backward()
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _held(method: Any, config: Any, bare: Any) -> int:
    return sum(p.numel() for p in method.apply(bare, config).parameters() if p.requires_grad)

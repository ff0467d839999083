#!/bin/sh
# SHiRA of peft 0.21.2 trains a few entries of each weight matrix, as many as LoRA of the same rank. One would guess that
# backward computes these entries alone, that forward adds them in place, and that an adapter file holds a float for each,
# since the mask comes from a seed. None of it holds: forward copies the whole matrix, backward multiplies out the whole
# gradient of the matrix and then picks entries of it, as full fine-tuning would have to, and the file holds two indices
# of four bytes beside each float, three times LoRA's bytes for as many trained values.
#
# Output seen with torch 2.13.0 (CPU) and peft 0.21.2, the versions that are installed below, for one map of 64 x 64:
#
#   lora: trains 512 values, stores 2048 bytes, backward makes 0 whole gradients, forward 0 copies of the weight
#   shira: trains 512 values, stores 6144 bytes, backward makes 1 whole gradients, forward 1 copies of the weight
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import torch
from peft import LoraConfig, ShiraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

warnings.simplefilter("ignore")
SIDE = 64


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(SIDE, SIDE)

    def forward(self, x):
        return self.map(x)


class Whole(TorchDispatchMode):
    """Counts results of one operation that are as large as the weight."""

    def __init__(self, name):
        super().__init__()
        self.name, self.count = name, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        dense = isinstance(made, torch.Tensor) and made.layout == torch.strided and made.shape == (SIDE, SIDE)
        self.count += dense and str(function).startswith(f"aten.{self.name}.")
        return made


expected = {"lora": (512, 2048, 0, 0), "shira": (512, 6144, 1, 1)}
for name, config in (("lora", LoraConfig(r=4, target_modules=["map"])),
                     ("shira", ShiraConfig(r=4, target_modules=["map"], random_seed=7))):
    model = get_peft_model(Net(), config)
    values = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(t.numel() * t.element_size() for t in get_peft_model_state_dict(model).values())
    with Whole("clone") as copies:
        loss = model(torch.randn(3, SIDE)).sum()
    with Whole("mm") as gradients:
        loss.backward()
    print(f"{name}: trains {values} values, stores {stored} bytes, backward makes {gradients.count} whole gradients, "
          f"forward {copies.count} copies of the weight")
    if (values, stored, gradients.count, copies.count) != expected[name]:
        sys.exit(1)
PYTHON

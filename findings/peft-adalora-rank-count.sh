#!/bin/sh
# AdaLoRA of peft 0.21.2 keeps the rank by which its product is divided in a parameter `ranknum` that is made without a
# gradient. On a base in float32 it stays so. On a base in bfloat16, where peft moves its adapters to the type of the
# base, a new tensor takes its place, and that one asks for a gradient: the optimizer then moves the divisor of every
# layer, and one more parameter a layer counts as trainable. `autocast_adapter_dtype=False` changes nothing of it.
#
# Output seen with torch 2.13.0 (CPU), transformers 5.23.0 and peft 0.21.2, the versions that are installed below:
#
#   torch.float32 cast=True: ranknum trains: False, 4.0 -> 4.0 in one step
#   torch.bfloat16 cast=True: ranknum trains: True, 4.0 -> 3.9 in one step
#   torch.bfloat16 cast=False: ranknum trains: True, 4.0 -> 3.9 in one step
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
from peft import AdaLoraConfig, get_peft_model
from torch import nn

warnings.simplefilter("ignore")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(32, 32)

    def forward(self, x):
        return self.a(x)


def seen(dtype, cast):
    torch.manual_seed(0)
    config = AdaLoraConfig(target_modules=["a"], init_r=4, target_r=2, total_step=100, tinit=10, tfinal=10)
    model = get_peft_model(Net().to(dtype), config, autocast_adapter_dtype=cast).train()
    ((name, count),) = [(n, p) for n, p in model.named_parameters() if "ranknum" in n]
    trains, before = count.requires_grad, round(count.item(), 1)
    # E starts at zero, so that the first gradient of the count is zero: a plain value makes it visible
    with torch.no_grad():
        for other, parameter in model.named_parameters():
            if "lora_E" in other:
                parameter.fill_(1.0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 32, dtype=dtype)).float().square().mean().backward()
    optimizer.step()
    after = round(count.item(), 1)
    print(f"{dtype} cast={cast}: ranknum trains: {trains}, {before} -> {after} in one step")
    return trains, before != after


found = [seen(torch.float32, True), seen(torch.bfloat16, True), seen(torch.bfloat16, False)]
sys.exit(found != [(False, False), (True, True), (True, True)])
PYTHON

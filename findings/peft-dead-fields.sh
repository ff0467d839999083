#!/bin/sh
# peft 0.21.2 takes two documented fields and does nothing with them:
#
#   OFTConfig(module_dropout=p)   "the multiplicative dropout probability": the layer makes the dropout module, but no
#                                 forward calls it, so that a training step is bit for bit the same with p = 0 and 0.9.
#   HiraConfig(rank_pattern=...)  "the mapping from layer names to ranks that differ from r": read when the layer is
#                                 made, dropped on the way, so that every layer has rank r.
#
# LoRA, for one, honours both kinds of field (lora_dropout, rank_pattern). Output seen with torch 2.13.0 (CPU),
# transformers 5.23.0 and peft 0.21.2, the versions that are installed below:
#
#   OFT: losses with module_dropout 0 and 0.9 are equal: True
#   HiRA: asked for rank 2 on 'a', built with rank(s) [8]
#   LoRA: asked for rank 2 on 'a', built with rank(s) [2]
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
from peft import HiraConfig, LoraConfig, OFTConfig, get_peft_model
from torch import nn

warnings.simplefilter("ignore")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(32, 32)

    def forward(self, x):
        return self.a(x)


def loss_of(dropout):
    torch.manual_seed(0)
    model = get_peft_model(Net(), OFTConfig(target_modules=["a"], oft_block_size=4, module_dropout=dropout)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    torch.manual_seed(1)
    return model(torch.randn(4, 32)).square().mean().item()


def ranks_of(config):
    model = get_peft_model(Net(), config)
    return sorted({min(p.shape) for p in model.parameters() if p.requires_grad and p.ndim == 2})


same = loss_of(0.0) == loss_of(0.9)
print("OFT: losses with module_dropout 0 and 0.9 are equal:", same)
hira = ranks_of(HiraConfig(target_modules=["a"], r=8, rank_pattern={"a": 2}))
print("HiRA: asked for rank 2 on 'a', built with rank(s)", hira)
lora = ranks_of(LoraConfig(target_modules=["a"], r=8, rank_pattern={"a": 2}))
print("LoRA: asked for rank 2 on 'a', built with rank(s)", lora)
sys.exit(0 if same and hira == [8] and lora == [2] else 1)
PYTHON

#!/bin/sh
# A guess: an adapter file of peft holds each tensor once, so that a method that shares tensors between layers stores
# little: safetensors has no shared tensors, and save_pretrained of transformers writes one of several names. In peft
# 0.21.2 it depends on where the method keeps them. VeRA keeps its projections beside the layers, and they are stored
# once. RandLora, built likewise, hangs its pair into each layer, and Lily its matrices, which are trained: they are
# copied for each name, so that a file is several times what the adapter holds, and the more layers share, the more.
#
# Output seen with torch 2.13.0 (CPU), transformers 5.23.0 and peft 0.21.2, the versions that are installed below, on 28
# maps of 64 x 64; a tensor is counted once in what is held, whatever its names:
#
#   LoRA: 56 tensors of 57,344 bytes held, 56 of 57,344 in the file
#   VeRA: 58 tensors of 17,152 bytes held, 58 of 17,152 in the file
#   RandLora: 58 tensors of 139,264 bytes held, 114 of 626,688 in the file
#   Lily: 43 tensors of 34,560 bytes held, 84 of 173,824 in the file
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import tempfile
import warnings

from peft import LilyConfig, LoraConfig, RandLoraConfig, VeraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

warnings.simplefilter("ignore")
LAYERS, WIDTH = 28, 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.proj(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def seen(name, config):
    model = get_peft_model(Net(), config)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in get_peft_model_state_dict(model).values()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = [tensor.nbytes for tensor in load_file(f"{folder}/adapter_model.safetensors").values()]
    print(
        f"{name}: {len(held)} tensors of {sum(held.values()):,} bytes held, {len(stored)} of {sum(stored):,} in the file"
    )
    return len(held), sum(held.values()), len(stored), sum(stored)


found = [
    seen("LoRA", LoraConfig(target_modules=["proj"], r=4)),
    seen("VeRA", VeraConfig(target_modules=["proj"], r=16)),
    seen("RandLora", RandLoraConfig(target_modules=["proj"], r=4)),
    seen("Lily", LilyConfig(target_modules=["proj"], r=8, stride_A=2, num_B=2)),
]
due = [(56, 57_344, 56, 57_344), (58, 17_152, 58, 17_152), (58, 139_264, 114, 626_688), (43, 34_560, 84, 173_824)]
sys.exit(found != due)
PYTHON

#!/bin/sh
# A guess: torch's FLOP counter sees the matrix products of attention wherever it runs, for it has formulas for fused
# attention, forward and backward. It has them for the kernels of CUDA alone. On the CPU fused attention counts 0 both
# ways, and so do an LSTM and, in eval, a whole encoder layer of torch, whose fused path is one operation. On the device
# `meta` the same modules count in full, since there they fall apart into products. What a profile on the CPU says of the
# share of attention, or of an encoder of torch's own, is wrong by all of it; dropout on attention brings the products
# back.
#
# Output seen with torch 2.13.0 (CPU), the version that is installed below; FLOPs, cpu and meta:
#
#   attention, forward: 0 and 262144
#   attention, forward and backward: 0 and 786432
#   LSTM: 0 and 1310720
#   encoder layer, training: 1361920 and 1361920
#   encoder layer, eval: 0 and 1361920
#   a linear layer: 163840 and 163840
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def on(device):
    q = torch.ones(2, 4, 16, 32, device=device, requires_grad=True)
    x = torch.ones(2, 10, 64, device=device)
    lstm = nn.LSTM(64, 64, batch_first=True, device=device)
    encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, device=device)
    linear = nn.Linear(64, 64, device=device)
    attention = nn.functional.scaled_dot_product_attention
    found = {
        "attention, forward": flops(lambda: attention(q, q, q)),
        "attention, forward and backward": flops(lambda: attention(q, q, q).sum().backward()),
        "LSTM": flops(lambda: lstm(x)),
        "encoder layer, training": flops(lambda: encoder.train()(x)),
    }
    with torch.no_grad():
        found["encoder layer, eval"] = flops(lambda: encoder.eval()(x))
    return found | {"a linear layer": flops(lambda: linear(x))}


cpu, meta = on("cpu"), on("meta")
for name in cpu:
    print(f"{name}: {cpu[name]} and {meta[name]}")
seen = [(cpu[name], meta[name]) for name in cpu]
expected = [(0, 262144), (0, 786432), (0, 1310720), (1361920, 1361920), (0, 1361920), (163840, 163840)]
sys.exit(seen != expected)
PYTHON

#!/bin/sh
# A guess: the chunked form of torch's linear_cross_entropy sums in float32, so that its loss has float32's digits, as the
# cross-entropy of float32 logits has. It sums so, and then rounds the loss itself to the type of the states: in bfloat16
# a training curve moves in steps of 1/32 at a loss of 6. The gradients are unharmed. Nor does the FLOP counter see it: the
# operation counts 0, in forward, where it takes all its gradients, and in backward.
#
# Output seen with torch 2.13.0 (CPU), the version that is installed below:
#
#   logits in float32: torch.float32, 3 losses that differ by less than 1/32 stay apart: True
#   chunked: torch.bfloat16, they stay apart: False
#   FLOPs that torch's counter sees of the chunked form: 0
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
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import cross_entropy, linear_cross_entropy
from torch.utils.flop_counter import FlopCounterMode

stream = torch.Generator().manual_seed(0)
weight = (torch.randn(512, 64, generator=stream) * 0.1).bfloat16()
targets = torch.randint(0, 512, (256,), generator=stream)
base = torch.randn(256, 64, generator=stream)
states = [(base * (1 + step / 300)).bfloat16().requires_grad_(True) for step in range(3)]

plain = [cross_entropy((one @ weight.T).float(), targets).detach() for one in states]
chunked = [linear_cross_entropy(one, weight, targets, options=LinearCrossEntropyOptions()).detach() for one in states]
with FlopCounterMode(display=False) as counter:
    linear_cross_entropy(states[0], weight, targets, options=LinearCrossEntropyOptions()).backward()


def apart(losses):
    return len({float(loss) for loss in losses}) == len(losses)


print(f"logits in float32: {plain[0].dtype}, 3 losses that differ by less than 1/32 stay apart: {apart(plain)}")
print(f"chunked: {chunked[0].dtype}, they stay apart: {apart(chunked)}")
print(f"FLOPs that torch's counter sees of the chunked form: {counter.get_total_flops()}")
close = max(map(float, plain)) - min(map(float, plain)) < 1 / 32
seen = (plain[0].dtype, apart(plain), chunked[0].dtype, apart(chunked), counter.get_total_flops(), close)
sys.exit(seen != (torch.float32, True, torch.bfloat16, False, 0, True))
PYTHON

#!/bin/sh
# A guess: AdaLoRA masks directions and may unmask them later, so that a file of save_pretrained holds them all until the
# schedule is over; and its size is that of what trains, as LoRA's is. In peft 0.21.2 save_pretrained cuts to the ranks
# of the moment, in the middle of the schedule as well. A model that is loaded from such a file gives the same output,
# and is smaller for good: what was masked by chance when it was saved cannot come back, where the model itself brings it
# back a step later. (In peft's own comparison, adalora/llama-3.2-3B-rank32 trains 18,353,664 parameters in float32,
# and the size of its file, 35,131,056 bytes, is about half of that.)
#
# Output seen with torch 2.13.0 (CPU), transformers 5.23.0 and peft 0.21.2, the versions that are installed below:
#
#   step 3 of 40: 14 of 16 directions are not masked, 1,040 parameters train
#   loaded from the file of that step: 14 directions, 910 parameters train, same output: True
#   step 4 of the model itself: 1 of the masked directions is back
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

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch import nn

warnings.simplefilter("ignore")
torch.set_num_threads(1)
RANK, STEPS, SAVED = 8, 40, 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(32, 32)
        self.b = nn.Linear(32, 32)

    def forward(self, x):
        return self.b(self.a(x).relu())


def ranks(model):
    """Directions whose weight is not masked to zero."""
    kept = [(name, p) for name, p in model.named_parameters() if "lora_E" in name]
    return {(name, rank) for name, p in kept for rank in range(len(p)) if p[rank].item() != 0}


def trained(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


config = AdaLoraConfig(target_modules=["a", "b"], init_r=RANK, target_r=2, tinit=2, tfinal=4, total_step=STEPS)
model = get_peft_model(Net(), config)
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
rows = torch.Generator().manual_seed(1)
for step in range(1, SAVED + 2):
    optimizer.zero_grad()
    ((model(torch.randn(16, 32, generator=rows)) - torch.randn(16, 32, generator=rows)) ** 2).mean().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    if step == SAVED:
        then = ranks(model)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = PeftModel.from_pretrained(Net(), folder, is_trainable=True)
        x = torch.randn(4, 32)
        same = torch.allclose(model(x), again(x), atol=1e-6)
back = len(ranks(model) - then)
kept = sum(len(p) for name, p in again.named_parameters() if "lora_E" in name)
print(f"step {SAVED} of {STEPS}: {len(then)} of {2 * RANK} directions are not masked, {trained(model):,} parameters train")
print(f"loaded from the file of that step: {kept} directions, {trained(again):,} parameters train, same output: {same}")
print(f"step {SAVED + 1} of the model itself: {back} of the masked directions is back")
sys.exit((len(then), trained(model), kept, trained(again), same, back) != (14, 1_040, 14, 910, True, 1))
PYTHON

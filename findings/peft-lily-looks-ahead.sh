#!/bin/sh
# A guess: an adapter on a linear map works token by token, so that a causal language model stays causal under any of
# them. Of thirteen types of peft 0.21.2 twelve do: where the last token of a row changes, no logit before it moves.
# Lily's do: its router takes the mean over all tokens of a row to weigh its experts, so that in training every position
# sees a little of the tokens that it is to predict, and a model that writes token by token, or with a KV cache, computes
# something else than the one that was trained and scored in one forward.
#
# Output seen with torch 2.13.0 (CPU), transformers 5.23.0 and peft 0.21.2, the versions that are installed below, on a
# random Llama of two layers with random adapters:
#
#   LORA DORA ADALORA IA3 OFT VERA MISS HIRA ROAD LOHA LOKR RANDLORA: no logit before a changed token moves
#   LILY: logits before a changed token move; with a KV cache it tells others than in one forward
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

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
MAPS = {"target_modules": ["q_proj", "v_proj"]}
TYPES = {
    "LORA": peft.LoraConfig(**MAPS, r=4),
    "DORA": peft.LoraConfig(**MAPS, r=4, use_dora=True),
    "ADALORA": peft.AdaLoraConfig(**MAPS, init_r=4, target_r=2, total_step=10),
    "IA3": peft.IA3Config(**MAPS, feedforward_modules=[]),
    "OFT": peft.OFTConfig(**MAPS, r=0, oft_block_size=4),
    "VERA": peft.VeraConfig(**MAPS, r=4),
    "MISS": peft.MissConfig(**MAPS, r=4),
    "HIRA": peft.HiraConfig(**MAPS, r=4),
    "ROAD": peft.RoadConfig(**MAPS, group_size=8),
    "LOHA": peft.LoHaConfig(**MAPS, r=4),
    "LOKR": peft.LoKrConfig(**MAPS, r=4),
    "RANDLORA": peft.RandLoraConfig(**MAPS, r=4),
    "LILY": peft.LilyConfig(**MAPS, r=4, stride_A=1, num_B=2),
}
IDS = torch.arange(5, 13)[None]
OTHER = torch.cat([IDS[:, :-1], IDS[:, -1:] + 20], dim=1)


def model(config):
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64,
    )
    adapted = peft.get_peft_model(LlamaForCausalLM(shape), config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return adapted


@torch.no_grad()
def apart(config):
    """How far logits before the changed token move, and the last ones with a cache, over the largest."""
    adapted = model(config)
    whole = adapted(input_ids=IDS).logits
    before = (whole - adapted(input_ids=OTHER).logits)[:, :-1].abs().max() / whole.abs().max()
    read = adapted(input_ids=IDS[:, :-1], use_cache=True)
    last = adapted(input_ids=IDS[:, -1:], past_key_values=read.past_key_values, use_cache=True).logits[:, -1]
    return float(before), float((last - whole[:, -1]).abs().max() / whole.abs().max())


found = {name: apart(config) for name, config in TYPES.items()}
causal = [name for name, moved in found.items() if max(moved) < 1e-5]
ahead = [name for name, moved in found.items() if min(moved) > 1e-3]
print(f"{' '.join(causal)}: no logit before a changed token moves")
print(f"{' '.join(ahead)}: logits before a changed token move; with a KV cache it tells others than in one forward")
sys.exit(ahead != ["LILY"] or len(causal) != 12)
PYTHON

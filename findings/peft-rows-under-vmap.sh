#!/bin/sh
# A guess: adapters are plain PyTorch, so that torch.func.vmap over functional_call serves a batch in which every row has
# an adapter of its own, whatever the type. Of sixteen types of peft 0.21.2 ten do, and give what each row gives alone;
# six do not, for three reasons. OFT and FourierFT write their parameters into a fresh matrix in place, which no row owns;
# LoHa, C3A and RandLora multiply in an autograd.Function of the old form, without setup_context, which functorch refuses
# also where no gradient is asked for; SHiRA's delta is a sparse tensor. On the way there: transformers 5.23.0 asks a mask
# of ones whether it masks anything, which vmap cannot answer for all rows at once, and runs where none is given; and the
# fused attention of a CPU has no batching rule in torch 2.13.0, so that it runs row by row, with a warning, unless the
# math kernel is asked for.
#
# Output seen with torch 2.13.0 (CPU), transformers 5.23.0 and peft 0.21.2, the versions that are installed below, on a
# random BERT of two layers:
#
#   LORA IA3 BOFT HRA VERA LOKR MISS ROAD LN_TUNING DORA: as each row alone
#   OFT FOURIERFT: index_put_ in place
#   LOHA C3A RANDLORA: autograd.Function without setup_context
#   SHIRA: sparse
#   with a mask of ones: data-dependent control flow
#   attention as it is chosen on a CPU: warns that it has no batching rule
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "peft==0.21.2"
"$folder/venv/bin/python" - <<'PYTHON'
import collections
import contextlib
import sys
import warnings

import peft
import torch
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, BertModel

warnings.simplefilter("ignore")
IDS = torch.arange(5, 33).reshape(4, 7)
MAPS = {"target_modules": ["query", "value"]}
TYPES = {
    "LORA": peft.LoraConfig(**MAPS, r=4),
    "IA3": peft.IA3Config(**MAPS, feedforward_modules=[]),
    "BOFT": peft.BOFTConfig(**MAPS, boft_block_size=4),
    "HRA": peft.HRAConfig(**MAPS, r=4),
    "VERA": peft.VeraConfig(**MAPS, r=4),
    "LOKR": peft.LoKrConfig(**MAPS, r=4),
    "MISS": peft.MissConfig(**MAPS, r=4),
    "ROAD": peft.RoadConfig(**MAPS, group_size=8),
    "LN_TUNING": peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "DORA": peft.LoraConfig(**MAPS, r=4, use_dora=True),
    "OFT": peft.OFTConfig(**MAPS, r=0, oft_block_size=4),
    "FOURIERFT": peft.FourierFTConfig(**MAPS, n_frequency=20),
    "LOHA": peft.LoHaConfig(**MAPS, r=4),
    "C3A": peft.C3AConfig(**MAPS, block_size=8),
    "RANDLORA": peft.RandLoraConfig(**MAPS, r=4),
    "SHIRA": peft.ShiraConfig(**MAPS, r=4),
}
REASONS = {
    "index_put_": "index_put_ in place",
    "setup_context": "autograd.Function without setup_context",
    "SparseCPU": "sparse",
    "data-dependent control flow": "data-dependent control flow",
}


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    return BertModel(config, add_pooling_layer=False)


def rows_of(config, *, masked=False, chosen=False):
    model = peft.get_peft_model(bert(), config).eval()
    torch.manual_seed(1)
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    rows = {name: torch.stack([p + 0.05 * torch.randn_like(p) for _ in IDS]) for name, p in own.items()}

    def one(delta, ids):
        given = {"input_ids": ids[None]} | ({"attention_mask": torch.ones_like(ids[None])} if masked else {})
        return functional_call(model, delta, kwargs=given).last_hidden_state[0]

    with torch.no_grad(), contextlib.nullcontext() if chosen else sdpa_kernel(SDPBackend.MATH):
        try:
            found = vmap(one)(rows, IDS)
        except (RuntimeError, NotImplementedError) as error:
            return next((said for part, said in REASONS.items() if part in str(error)), str(error))
        alone = torch.stack([one({name: t[row] for name, t in rows.items()}, ids) for row, ids in enumerate(IDS)])
    return "as each row alone" if torch.allclose(found, alone, atol=1e-5) else "something else"


found = collections.defaultdict(list)
for name, config in TYPES.items():
    found[rows_of(config)].append(name)
for outcome, names in found.items():
    print(f"{' '.join(names)}: {outcome}")
masked = rows_of(TYPES["LORA"], masked=True)
print(f"with a mask of ones: {masked}")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    rows_of(TYPES["LORA"], chosen=True)
slow = any("batching rule" in str(one.message) for one in said)
print(f"attention as it is chosen on a CPU: {'warns that it has no batching rule' if slow else 'no warning'}")
due = {
    "as each row alone": ["LORA", "IA3", "BOFT", "HRA", "VERA", "LOKR", "MISS", "ROAD", "LN_TUNING", "DORA"],
    "index_put_ in place": ["OFT", "FOURIERFT"],
    "autograd.Function without setup_context": ["LOHA", "C3A", "RANDLORA"],
    "sparse": ["SHIRA"],
}
sys.exit(found != due or masked != "data-dependent control flow" or not slow)
PYTHON
